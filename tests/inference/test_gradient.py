"""log Z as an operator: its derivatives, and torch.compile, torch.func and autocast, which may change nothing."""

import math
from collections.abc import Callable

import pytest
import torch
from functorch.compile import make_boxed_func
from oracles import enumerate_posterior, random_chain
from torch import Tensor, library
from torch._dynamo.backends.common import aot_autograd

from dbn_vae.inference import Chain, filter, log_partition, reference, sample, smooth, using, viterbi
from dbn_vae.inference.backends import available
from dbn_vae.inference.gradient import _operator

EXACT = {"rtol": 1e-10, "atol": 1e-10}
NEVER = -math.inf
close = torch.testing.assert_close
ranks = pytest.mark.parametrize("varies", ["stationary", "batch", "time"])


ON_CPU = sorted({*available} - {"cuda"})  # the chains here are on the CPU


@pytest.fixture(params=ON_CPU, autouse=True)
def engine(request):
    with using(request.param):
        yield request.param


def leaves(chain: Chain) -> list[Tensor]:
    return [table.clone().requires_grad_() for table in chain[:3]]


def log_z(chain: Chain) -> Callable[..., Tensor]:
    return lambda *potentials: log_partition(Chain(*potentials, chain.lengths))


def value_and_grad(f: Callable[..., Tensor], chain: Chain) -> list[Tensor]:
    """A weighted sum, so that no sequence stands for another."""
    potentials = leaves(chain)
    value = f(*potentials)
    weight = torch.linspace(-1, 2, len(value), dtype=value.dtype)
    return [value.detach(), *torch.autograd.grad(weight @ value, potentials)]


def all_close(got, want, **tolerance) -> None:
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        close(a, b, **tolerance or EXACT, msg=lambda m, i=i: f"number {i}: {m}")


# Derivatives


@ranks
def test_the_gradient_is_the_posterior_of_the_reference_and_of_all_paths(varies):
    chain = random_chain(4, 5, 3, seed=1, varies=varies, zeros=0.3)
    value, initial, transition, emission = value_and_grad(log_z(chain), chain)
    weight = torch.linspace(-1, 2, 4, dtype=torch.float64)
    for total, gamma, xi in (enumerate_posterior(chain), reference.smooth(chain)):
        pairs = weight.view(-1, *[1] * (xi.dim() - 1)) * xi
        close(value, total, **EXACT)
        close(initial, weight[:, None] * gamma[:, 0], **EXACT)
        close(transition, pairs.sum(0) if varies == "stationary" else pairs, **EXACT)
        close(emission, weight[:, None, None] * gamma, **EXACT)


@pytest.mark.some(2)
@ranks
def test_derivatives_to_third_order_are_finite_differences(varies):
    chain = random_chain(2, 3, 2, seed=5, varies=varies, scale=1.0)

    def squared_gradient(*potentials: Tensor) -> Tensor:
        grads = torch.autograd.grad(log_z(chain)(*potentials).sum(), potentials, create_graph=True)
        return sum(g.square().sum() for g in grads)

    assert torch.autograd.gradcheck(log_z(chain), leaves(chain))
    assert torch.autograd.gradgradcheck(log_z(chain), leaves(chain))
    assert torch.autograd.gradgradcheck(squared_gradient, leaves(chain))


def test_one_run_of_the_kernel_gives_value_and_gradient(engine, monkeypatch):
    """And none of the reference: a second derivative costs nothing until it is asked for."""
    runs = counted(monkeypatch, engine)
    potentials = leaves(random_chain(3, 4, 2, seed=2))
    grads = torch.autograd.grad(log_partition(Chain(*potentials)).sum(), potentials, create_graph=True)
    assert runs == [engine]
    torch.autograd.grad(grads[2].square().sum(), potentials)
    assert runs == [engine, "reference"]


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The backends that smooth, one entry a run."""
    runs: list[str] = []
    for name in {"reference", *names}:

        def spy(chain, name=name, smooth=available[name].smooth):
            runs.append(name)
            return smooth(chain)

        monkeypatch.setattr(available[name], "smooth", spy)
    return runs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@ranks
def test_gradients_are_finite_whatever_stands_in_the_tables(varies, dtype):
    """An impossible sequence, forbidden moves, and NaN on padding."""
    chain = random_chain(4, 5, 3, seed=3, varies=varies, zeros=0.5, dtype=dtype)
    chain = chain._replace(lengths=torch.tensor([5, 3, 4, 1]))
    emission = torch.where(chain.mask()[..., None], chain.log_emission, math.nan)
    emission[2, 1] = NEVER
    transition = chain.log_transition
    if varies == "time":
        transition = torch.where(chain.mask()[:, 1:, None, None], transition, math.nan)
    rubbish = chain._replace(log_emission=emission, log_transition=transition)
    potentials = leaves(rubbish)
    total = log_z(chain)(*potentials)
    assert (total == NEVER).tolist() == [False, False, True, False]
    first = torch.autograd.grad(total.sum(), potentials, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), potentials)
    assert all(g.isfinite().all() for g in (*first, *second))
    assert (first[2][~chain.mask()] == 0).all() and (first[2][2] == 0).all()
    assert (first[1][chain.log_transition == NEVER] == 0).all()
    possible = torch.tensor([0, 1, 3])
    by_sequence = [x if x.dim() == 2 and i == 1 else x[possible] for i, x in enumerate(chain[:3])]
    clean = Chain(*by_sequence, chain.lengths[possible])
    potentials = leaves(clean)
    want = torch.autograd.grad(log_z(clean)(*potentials).sum(), potentials)
    got = [g if g.shape == w.shape else g[possible] for g, w in zip(first, want, strict=True)]
    all_close(got, want)


# torch.compile


@pytest.mark.some(2)
@ranks
def test_the_operator_keeps_the_promises_torch_asks_of_one(varies, engine):
    """Its fake twin's shapes, no aliases, its schema, and the same gradients when traced."""
    chain = random_chain(3, 3, 2, seed=4, varies=varies).canonical()
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if varies == "time" and engine == ON_CPU[0]:  # the slow one, which asks the same of every rank and engine
        tests.append("test_aot_dispatch_dynamic")
    library.opcheck(_operator, (*leaves(chain), chain.lengths), test_utils=tests)


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("varies", "ragged"), [("stationary", True), ("stationary", False), ("batch", True), ("time", True)]
)
def test_compiled_whole_is_eager(varies, ragged):
    chain = random_chain(3, 4, 2, seed=6, varies=varies, zeros=0.3, ragged=ragged)
    lengths = chain.lengths if ragged else None

    def loss(*potentials: Tensor) -> Tensor:
        return log_partition(Chain(*potentials, lengths)).exp() * 2.0

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    all_close(value_and_grad(compiled, chain), value_and_grad(loss, chain))


def test_a_compiled_graph_chooses_its_backend_when_it_runs(monkeypatch):
    runs = counted(monkeypatch, *ON_CPU)
    chain = random_chain(2, 3, 2, seed=7)
    torch.compiler.reset()
    compiled = torch.compile(log_z(chain), fullgraph=True, backend="aot_eager")
    for name in [*ON_CPU, *reversed(ON_CPU)]:
        with using(name):
            runs.clear()
            compiled(*chain[:3])
            assert runs[-1:] == [name]


def test_a_compiled_gradient_is_no_longer_than_its_formula():
    """The scan of the second derivative must not be unrolled into it."""
    sizes = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable:
        sizes.append(len(graph.graph.nodes))
        return make_boxed_func(graph.forward)

    for T in (3, 12):
        potentials = leaves(random_chain(2, T, 2, seed=8))
        torch.compiler.reset()
        compiled = torch.compile(
            lambda *p: log_partition(Chain(*p)).sum(), fullgraph=True, backend=aot_autograd(fw_compiler=count)
        )
        compiled(*potentials).backward()
    assert sizes[:2] == sizes[2:]
    assert len(sizes) == 4


# torch.func: R restarts are one batch of R·B


SUBSETS = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1) if a + b + c]


def restarts(chain: Chain, mapped: tuple[int, ...], R: int = 3) -> tuple[list[Tensor], list[int | None]]:
    """R versions of every table that is mapped, and where their dimension stands."""
    g = torch.Generator().manual_seed(0)
    tables, dims = [], []
    for table, some in zip(chain[:3], mapped, strict=True):
        noise = torch.randn(R, *table.shape, generator=g, dtype=table.dtype)
        tables.append((table + noise).movedim(0, -1) if some else table)
        dims.append(-1 if some else None)
    return tables, dims


def loop(f: Callable, tables: list[Tensor], dims: list[int | None], R: int = 3) -> list:
    return [
        f(*(x if d is None else x.select(d, r) for x, d in zip(tables, dims, strict=True))) for r in range(R)
    ]


@pytest.mark.parametrize("mapped", SUBSETS, ids=str)
@ranks
def test_vmap_is_a_loop(varies, mapped):
    chain = random_chain(4, 4, 3, seed=9, varies=varies, zeros=0.3)
    chain = chain._replace(lengths=torch.tensor([4, 3, 1, 2]))
    tables, dims = restarts(chain, mapped)
    tables = [x.requires_grad_() for x in tables]
    dims = tuple(dims)
    together = torch.func.vmap(log_z(chain), dims)(*tables)
    one_by_one = torch.stack(loop(log_z(chain), tables, dims))
    close(together, one_by_one, **EXACT)
    weight = torch.linspace(-1, 2, 12, dtype=torch.float64).view(3, 4)
    all_close(*(torch.autograd.grad((weight * z).sum(), tables) for z in (together, one_by_one)))
    with torch.no_grad():
        close(torch.func.vmap(log_z(chain), dims)(*tables), one_by_one, **EXACT)


@pytest.mark.parametrize("initial", ["shared", "batch"])
@ranks
def test_vmap_of_grad_is_a_loop(varies, initial):
    chain = random_chain(4, 4, 3, seed=10, varies=varies)._replace(lengths=torch.tensor([4, 3, 1, 2]))
    if initial == "shared":
        chain = chain._replace(log_initial=chain.log_initial[0])
    tables, dims = restarts(chain, (1, 1, 1))
    weight = torch.linspace(-1, 2, 4, dtype=torch.float64)
    gradient = torch.func.grad(lambda *p: weight @ log_z(chain)(*p), (0, 1, 2))
    together = torch.func.vmap(gradient, tuple(dims))(*tables)
    all_close(together, map(torch.stack, zip(*loop(gradient, tables, dims), strict=True)))

    def total(*tables: Tensor) -> Tensor:
        return (torch.func.vmap(log_z(chain), tuple(dims))(*tables) @ weight).sum()

    all_close(torch.func.grad(total, (0, 1, 2))(*tables), (x.movedim(0, -1) for x in together))


@ranks
def test_vmap_runs_the_kernel_once(varies, engine, monkeypatch):
    runs = counted(monkeypatch, engine)
    tables, dims = restarts(random_chain(4, 4, 3, seed=11, varies=varies, ragged=False), (0, 1, 0))
    torch.func.vmap(lambda *p: log_partition(Chain(*p)), tuple(dims))(*tables)
    assert runs == [engine]


def test_vmap_over_vmap_and_over_lengths():
    chain = random_chain(4, 5, 3, seed=12)
    shifts = torch.randn(2, 3, 1, 5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def f(shift: Tensor, lengths: Tensor) -> Tensor:
        return log_partition(chain._replace(log_emission=chain.log_emission + shift, lengths=lengths))

    lengths = torch.tensor([[5, 1, 3, 2], [4, 4, 5, 1]])
    twice = torch.func.vmap(torch.func.vmap(f, (0, None)))(shifts, lengths)
    close(
        twice,
        torch.stack([torch.stack([f(s, n) for s in row]) for row, n in zip(shifts, lengths, strict=True)]),
    )


@ranks
def test_the_hessian_by_torch_func_is_that_of_autograd(varies):
    chain = random_chain(2, 3, 2, seed=13, varies=varies)

    def f(*potentials: Tensor) -> Tensor:
        return log_z(chain)(*potentials).square().sum()

    every = (0, 1, 2)
    want = torch.autograd.functional.hessian(f, tuple(chain[:3]))
    for got, row in zip(torch.func.jacrev(torch.func.jacrev(f, every), every)(*chain[:3]), want, strict=True):
        all_close(got, row)


def test_vmap_compiles_whole():
    chain = random_chain(3, 4, 2, seed=14)
    tables, dims = restarts(chain, (0, 1, 1))
    f = torch.func.vmap(log_z(chain), tuple(dims))
    torch.compiler.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    got, want = (
        torch.autograd.grad(g(*leaves).square().sum(), leaves)
        for g in (compiled, f)
        for leaves in [[x.clone().requires_grad_() for x in tables]]
    )
    all_close(got, want)


# Types


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_autocast_changes_nothing(dtype):
    chain = random_chain(3, 5, 3, seed=15, dtype=dtype)
    plain = value_and_grad(log_z(chain), chain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        all_close(value_and_grad(log_z(chain), chain), plain, rtol=0, atol=0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_tables_are_computed_in_float32(half):
    chain = random_chain(3, 50, 3, seed=16, dtype=half)
    wide = Chain(*(x.float() for x in chain[:3]), chain.lengths)
    value, *grads = value_and_grad(log_z(chain), chain)
    wide_value, *wide_grads = value_and_grad(log_z(wide), wide)
    assert value.dtype == torch.float32
    close(value, wide_value, rtol=0, atol=0)
    all_close(grads, [g.to(half) for g in wide_grads], rtol=0, atol=0)
    all_close(smooth(chain), smooth(wide), rtol=0, atol=0)


@pytest.mark.parametrize("wide", [0, 1, 2])
def test_mixed_types_are_computed_in_the_widest(wide):
    chain = random_chain(3, 5, 3, seed=17, dtype=torch.float32)
    mixed = Chain(*(x.double() if i == wide else x for i, x in enumerate(chain[:3])), chain.lengths)
    double = Chain(*(x.double() for x in chain[:3]), chain.lengths)
    value, *grads = value_and_grad(log_z(mixed), mixed)
    want, *wanted = value_and_grad(log_z(double), double)
    close(value, want, rtol=0, atol=0)
    all_close(grads, [g.to(x.dtype) for g, x in zip(wanted, mixed, strict=False)], rtol=0, atol=0)
    for verb in (smooth, filter, viterbi):
        all_close(verb(mixed), verb(double), rtol=0, atol=0)
    draws = [sample(c, 9, torch.Generator().manual_seed(0)) for c in (mixed, double)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("field", ["log_initial", "log_transition", "log_emission"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_tables_that_are_no_real_numbers_are_refused_by_name(field, dtype):
    chain = random_chain(2, 3, 2, seed=18)
    wrong = chain._replace(**{field: torch.zeros(getattr(chain, field).shape, dtype=dtype)})
    for verb in (log_partition, smooth, viterbi):
        with pytest.raises(TypeError, match=f"{field} has type {dtype}"):
            verb(wrong)
