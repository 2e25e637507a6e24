"""The Triton kernels against the reference: on a GPU where there is one, else under Triton's interpreter.

The interpreter runs the kernels' own code, one NumPy call an operation, so that the sizes here are small without a
GPU; what it cannot see, whether the code compiles for a GPU, has a test of its own.
"""

import dataclasses
import itertools
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import enumerate_posterior, random_chain
from test_backends import EXTREME, extreme

from dbn_vae import inference
from dbn_vae.inference import Chain, Table, cuda, filter, log_partition, smooth, using, viterbi
from dbn_vae.inference.backends import available, choose
from dbn_vae.inference.chain import Filtered, Path, Posterior

GPU = torch.cuda.is_available()
if not GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first imported
triton = pytest.importorskip(
    "triton", reason="the CUDA kernels are written in Triton, which is not installed"
)

DEVICE = "cuda" if GPU else "cpu"
NEVER = -math.inf
TOLERANCE = {torch.float64: (1e-12, 1e-10), torch.float32: (2e-6, 5e-5)}  # log_z relative, probabilities
PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
dtypes = pytest.mark.parametrize("dtype", PRECISIONS.values(), ids=PRECISIONS)
KINDS = ["stationary", "batch", "time"]
# T, K, transitions, precision: every value of each, and each kernel
FEW = [
    (1, 3, "stationary", "f64"), (1, 2, "time", "f32"), (2, 1, "batch", "f32"), (3, 5, "time", "f64"),
    (2, 128, "stationary", "f32"), (3, 128, "batch", "f64"), (3, 33, "stationary", "f64"), (2, 16, "time", "f32"),
    (3, 130, "stationary", "f64"), (2, 130, "batch", "f32"), (2, 130, "time", "f32"),
    # factors are put together every 32 steps, in float64 every 8: up to there and beyond
    (33, 5, "batch", "f32"), (34, 16, "stationary", "f32"), (9, 1, "stationary", "f64"), (18, 3, "batch", "f64"),
]  # fmt: skip
MANY = itertools.product([1, 2, 63, 64, 65, 1000], [1, 2, 3, 5, 16, 33, 128, 300], KINDS, PRECISIONS)
CASES = [c for c in MANY if c[2] != "time" or c[0] * c[1] ** 2 < 1e7] if GPU else FEW


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    """Triton patches its language anew for each call; once is enough, and takes a third off.

    Its sums of indices are also added up a second time for a check that it then makes in its debug mode alone.  Both
    are private to Triton: where a release has them no more, the tests only take longer.
    """
    if GPU:
        yield
        return
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_patch_lang") or not hasattr(interpreter, "_LangPatchScope"):
        yield
        return
    seen = SimpleNamespace(__globals__={"tl": triton.language, "core": triton.language.core})
    scope, builder = interpreter._patch_lang(seen), interpreter.interpreter_builder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", lambda fn: interpreter._LangPatchScope())
        patch.setattr(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))
        yield
    scope.restore()


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CUDA backend; under the interpreter log 0 is −inf without NumPy's warning, but a NaN is an error."""
    if not GPU:
        monkeypatch.setitem(available, "cuda", cuda)  # not offered where there is no GPU
    with using("cuda"), np.errstate(divide="ignore", invalid="raise"):
        yield


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many sequences in a program as a warp has room for."""
    monkeypatch.setattr(cuda, "FILLS", 1)


@pytest.fixture(params=["registers", "blocks"])
def road(request: pytest.FixtureRequest, together: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of few states, or those of many with blocks so small that a few states fill several."""
    if request.param == "blocks":
        monkeypatch.setattr(cuda, "IN_REGISTERS", 1)
        monkeypatch.setattr(cuda, "BLOCK", 2)


@pytest.fixture(params=[1, 10**9], ids=["together", "alone"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "FILLS", request.param)


def close(got: torch.Tensor, want: torch.Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    torch.testing.assert_close(got.cpu().double(), want.cpu().double(), rtol=rtol, atol=atol)


def there(chain: Chain) -> Chain:
    return Chain(*(x if x is None else x.to(DEVICE) for x in chain))


def truth(chain: Chain) -> Chain:
    """The same numbers in float64."""
    return Chain(*(x.double() for x in chain[:3]), chain.lengths)


def agree(chain: Chain, *, loss: float = 0.0) -> tuple[Filtered, Posterior, Path]:
    """Every verb against the reference: in float64, whatever the kernels compute in; paths in the same precision."""
    rtol, atol = TOLERANCE[chain.log_emission.dtype]
    atol += loss
    with using("reference"):
        want_filtered, want, want_path = filter(truth(chain)), smooth(truth(chain)), viterbi(chain)
    chain = there(chain)
    filtered, posterior, path = filter(chain), smooth(chain), viterbi(chain)
    with torch.no_grad():
        close(log_partition(chain), want.log_z, rtol=rtol, atol=rtol)
    close(filtered.log_z, want.log_z, rtol=rtol, atol=rtol)
    close(filtered.probs, want_filtered.probs, atol=atol)
    close(filtered.log_normalizer, want_filtered.log_normalizer, rtol=rtol, atol=atol)
    close(posterior.log_z, want.log_z, rtol=rtol, atol=rtol)
    close(posterior.gamma, want.gamma, atol=atol)
    close(posterior.xi, want.xi, rtol=10 * rtol, atol=atol * 10)
    assert torch.equal(path.states.cpu(), want_path.states)
    close(path.score, want_path.score, rtol=rtol, atol=rtol)
    return filtered, posterior, path


@pytest.mark.some(4)
@pytest.mark.parametrize(("T", "K", "varies", "precision"), CASES)
def test_reference(T: int, K: int, varies: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not GPU:
        monkeypatch.setattr(cuda, "FILLS", 1)  # programs run one after the other here
    agree(random_chain(2, T, K, seed=T + K, varies=varies, zeros=0.3, dtype=PRECISIONS[precision]))


@pytest.mark.parametrize(("B", "K", "varies"), [*((5, 3, kind) for kind in KINDS), (9, 1, "stationary")])
def test_sequences_share_a_program(
    B: int, K: int, varies: str, together: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged, the batch no multiple of the tile; long sums are passed on often."""
    monkeypatch.setattr(cuda, "FLUSH", 4)
    agree(random_chain(B, 7, K, seed=B, varies=varies, zeros=0.3))


# ---- Exactness where scaled arithmetic fails ----------------------------------------------------------


def extremes(dtype: torch.dtype) -> list[Chain]:
    """The two-state extremes of test_backends; the longest, 40 steps, cut where a trailing state still underflows."""
    chains = [extreme(name, dtype) for name, table in EXTREME.items() if table is not None]
    return [
        c._replace(log_emission=c.log_emission[:, 4:25]) if c.log_emission.shape[1] > 25 else c
        for c in chains
    ]


def gathered(chains: list[Chain]) -> Chain:
    """As one batch; what stands on padding is NaN."""
    lengths = torch.tensor([c.log_emission.shape[1] for c in chains])
    emission = chains[0].log_emission.new_full((len(chains), int(lengths.max()), 2), math.nan)
    for row, c in zip(emission, chains, strict=True):
        row[: c.log_emission.shape[1]] = c.log_emission[0]
    return Chain(
        torch.stack([c.log_initial for c in chains]),
        torch.stack([c.log_transition for c in chains]),
        emission,
        lengths,
    )


@pytest.mark.some(2)
@dtypes
def test_extreme(tiles: None, dtype: torch.dtype) -> None:
    """float32 logarithms 1e5 apart have two decimals; those of ordinary size lose nothing."""
    chains = extremes(dtype)
    short = [c for c in chains if c.log_emission.shape[1] < 6]
    if not GPU and cuda.FILLS > 1:  # programs run one after the other
        chains = short
    chain = there(gathered(chains))
    got, filtered = smooth(chain), filter(chain)
    rtol, atol = TOLERANCE[dtype]
    for b, alone in enumerate(chains):
        with using("reference"):
            want = smooth(truth(alone))
        close(got.log_z[b : b + 1], want.log_z, rtol=rtol)
        close(filtered.log_z[b : b + 1], want.log_z, rtol=rtol)
        allowed = atol + 4 * torch.finfo(dtype).eps * alone.log_emission.abs().max().item()
        close(got.gamma[b, : want.gamma.shape[1]], want.gamma[0], atol=allowed)
        close(got.xi[b], want.xi[0], atol=allowed * 10)
    chain = there(gathered(short))
    leaves = [x.clone().requires_grad_() for x in chain[:3]]
    log_partition(Chain(*leaves, chain.lengths)).sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves if leaf.grad is not None)
    kept = [b for b, c in enumerate(chains) if c.log_emission.shape[1] < 6]
    assert torch.equal(leaves[2].grad, got.gamma[kept, : chain.log_emission.shape[1]])
    assert torch.equal(leaves[1].grad, got.xi[kept])


@dtypes
def test_the_one_that_wins_never_led(dtype: torch.dtype) -> None:
    agree(extreme("middle", dtype), loss=2e-3 if dtype == torch.float32 else 0.0)


@pytest.mark.parametrize(
    ("varies", "dtype"), [("stationary", torch.float64), ("batch", torch.float32)], ids=["f64", "f32"]
)
def test_the_careful_road_is_the_fast_one(
    varies: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is lost the logarithms of every step give what the products give."""
    monkeypatch.setitem(cuda.LIMITS, dtype, {**cuda.LIMITS[dtype], "FAINT": 9.0, "SAFE": 9.0, "RARE": 9.0**9})
    agree(random_chain(2, 9, 4, seed=6, varies=varies, zeros=0.3, dtype=dtype))


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("road", "scale", "precision"),
    [
        *itertools.product(["registers"], [50.0, 3000.0], PRECISIONS),
        ("blocks", 50.0, "f64"),  # in logarithms at any scale
        ("blocks", 3000.0, "f32"),
    ],
    indirect=["road"],
)
def test_strong_evidence(scale: float, road: None, precision: str) -> None:
    """Emissions as of images: hundreds to thousands of nats between states at every step, and forbidden moves."""
    dtype, K = PRECISIONS[precision], 5 if cuda.BLOCK > 2 else 3
    chain = random_chain(2, 6, K, seed=8, zeros=0.5, scale=1.0, ragged=False, dtype=dtype)
    loss = 0.0 if dtype == torch.float64 else 40 * scale * torch.finfo(dtype).eps
    agree(chain._replace(log_emission=scale * chain.log_emission), loss=loss)


@pytest.mark.parametrize(
    ("road", "varies", "precision"),
    [
        ("registers", "stationary", "f32"), ("registers", "stationary", "f64"), ("registers", "time", "f32"),
        ("blocks", "stationary", "f64"), ("blocks", "time", "f32"),
    ],
    indirect=["road"],
)  # fmt: skip
def test_impossible(varies: str, road: None, precision: str) -> None:
    """No path: log Z is −inf and there is no posterior; the other sequences do not notice."""
    chain = random_chain(2, 4, 3, seed=5, varies=varies, ragged=False, dtype=PRECISIONS[precision])
    emission = chain.log_emission.clone()
    emission[1, 2] = NEVER
    blocked = chain._replace(log_emission=emission)
    filtered, posterior, path = agree(blocked)
    assert posterior.log_z[1] == filtered.log_z[1] == path.score[1] == NEVER
    assert (posterior.gamma[1] == 0).all() and (posterior.xi[1] == 0).all()
    assert (filtered.probs[1, 2:] == 0).all() and (filtered.probs[1, :2].sum(-1) > 0.99).all()
    assert (filtered.log_normalizer[1, 2:] == NEVER).all()


def test_impossible_only_in_sequence(road: None) -> None:
    """Every step is possible, every transition too, and no path is."""
    stay = torch.tensor([[0.0, NEVER], [NEVER, 0.0]], dtype=torch.float64)
    emission = torch.tensor([[[0.0, NEVER], [0.0, 0.0], [NEVER, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    chain = Chain(torch.zeros(2, dtype=torch.float64), stay, emission)
    _, posterior, _ = agree(chain)
    assert (posterior.log_z == NEVER).all() and (posterior.gamma == 0).all() and (posterior.xi == 0).all()


@dtypes
def test_forbidden_states_stay_exact_zeros(dtype: torch.dtype) -> None:
    """Left to right: what cannot be reached yet has probability 0, not a small number; long decays are exact."""
    K, T = 4, 12
    A = torch.full((K, K), NEVER, dtype=dtype)
    for i in range(K):
        A[i, i] = math.log(0.97) if i + 1 < K else 0.0
        if i + 1 < K:
            A[i, i + 1] = math.log(0.03)
    emission = 30 * torch.randn(1, T, K, dtype=dtype, generator=torch.Generator().manual_seed(2))
    chain = Chain(torch.tensor([0.0] + [NEVER] * (K - 1), dtype=dtype), A, emission)
    _, (_, gamma, xi), _ = agree(chain, loss=0.0 if dtype == torch.float64 else 2e-3)
    for t in range(K - 1):
        assert (gamma[:, t, t + 1 :] == 0).all()
    assert (xi.cpu()[:, A == NEVER] == 0).all()


@pytest.mark.some(2)
@pytest.mark.parametrize("varies", ["stationary", "time"])
def test_padding_is_ignored(varies: str, road: None) -> None:
    """Whatever stands on padding, also in transitions, is not read; what is given back there is 0 and −1."""
    chain = random_chain(3, 4, 3, seed=11, varies=varies)
    assert chain.lengths is not None
    off = ~chain.mask()
    dirty = chain._replace(log_emission=chain.log_emission.masked_fill(off[..., None], math.nan))
    if varies == "time":
        spoiled = chain.log_transition.masked_fill(off[:, 1:, None, None], math.nan)
        dirty = dirty._replace(log_transition=spoiled)
    posterior, filtered, path = smooth(there(dirty)), filter(there(dirty)), viterbi(there(dirty))
    for got, want in zip(posterior, smooth(there(chain)), strict=True):
        assert torch.equal(got, want)
    assert (posterior.gamma[off] == 0).all() and (filtered.probs[off] == 0).all()
    assert (filtered.log_normalizer[off] == 0).all() and (path.states[off] == -1).all()
    assert torch.equal(path.states, viterbi(there(chain)).states)


# ---- Gradients, long sums, ties, samples --------------------------------------------------------------


@pytest.mark.parametrize("varies", KINDS)
def test_gradients(varies: str) -> None:
    """First and second derivatives by differences; the first is the posterior, by enumeration."""
    chain = random_chain(1 if varies == "stationary" else 2, 3, 2, seed=1, varies=varies)
    lengths = there(chain).lengths
    leaves = [x.clone().to(DEVICE).requires_grad_() for x in chain[:3]]

    def value(*potentials: torch.Tensor) -> torch.Tensor:
        return log_partition(Chain(*potentials, lengths))

    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)
    log_z, gamma, xi = enumerate_posterior(chain)
    with_graph = value(*leaves)
    grads = torch.autograd.grad(with_graph.sum(), leaves, create_graph=True)
    close(with_graph, log_z, rtol=1e-12)
    close(grads[0], gamma[:, 0].sum(0) if chain.log_initial.dim() == 1 else gamma[:, 0], atol=1e-12)
    close(grads[2], gamma, atol=1e-12)
    close(grads[1], xi.sum(0) if varies == "stationary" else xi, atol=1e-12)
    if varies == "stationary":
        assert torch.autograd.gradgradcheck(value, leaves, fast_mode=True)


@dtypes
def test_many_factors(dtype: torch.dtype) -> None:
    """log Z multiplies before it takes logarithms: a hundred leaps of probability 2e-5 have a product below 2^-1500."""
    rare = 2e-5
    A = torch.tensor([[1 - rare, rare], [rare, 1 - rare]], dtype=dtype).log()
    emission = torch.tensor([[0.0, -90.0], [-90.0, 0.0]], dtype=dtype)[torch.arange(100) % 2][None]
    chain = Chain(torch.tensor([0.5, 0.5], dtype=dtype).log(), A, emission - 1000.0)
    want = math.log(0.5) + 99 * A[0, 1].item() - 100 * 1000.0
    with torch.no_grad():
        close(
            log_partition(there(chain)),
            torch.tensor([want], dtype=torch.float64),
            rtol=TOLERANCE[dtype][0] / 10,
        )


def test_ties_go_to_the_smaller_state(road: None) -> None:
    K = 6
    zero = torch.zeros(K, dtype=torch.float64)
    path = viterbi(there(Chain(zero, zero.expand(K, K), zero.expand(1, 3, K))))
    assert (path.states == 0).all()
    chain = random_chain(3, 9, K, seed=1, zeros=0.2)
    coarse = Chain(*(x.clamp_min(-3).round() for x in chain[:3]), chain.lengths)  # full of ties
    with using("reference"):
        want = viterbi(coarse).states
    assert torch.equal(viterbi(there(coarse)).states.cpu(), want)


def test_back_pointers_reach_the_last_state() -> None:
    """A path that leaps between states beyond one byte, and within it states beyond half of one."""
    for K in (256, 300):
        goal = [K - 1, 200, K - 2]
        emission = torch.zeros(1, 3, K, dtype=torch.float32)
        for t, k in enumerate(goal):
            emission[0, t, k] = 5.0
        zero = torch.zeros(K)
        assert viterbi(there(Chain(zero, zero.expand(K, K), emission))).states.tolist() == [goal]


@pytest.mark.parametrize(
    ("varies", "precision"), [("stationary", "f64"), ("stationary", "f32"), ("batch", "f64"), ("time", "f32")]
)
def test_same_uniforms_same_paths(varies: str, precision: str) -> None:
    dtype = PRECISIONS[precision]
    chain = random_chain(3, 7, 5, seed=7, varies=varies, zeros=0.3, dtype=dtype).canonical()
    chain.log_emission[:, ::3, 0] = NEVER
    u = torch.rand(9, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u[0], u[1] = 0.0, 1 - 2.0**-53  # the ends: still no state of probability 0
    want = available["reference"].sample(chain, u)
    got = available["cuda"].sample(there(chain), u.to(DEVICE)).cpu()
    assert (got != want).any(-1).double().mean() <= (0.0 if dtype == torch.float64 else 0.05)
    assert torch.isfinite(inference.path_score(chain, got.flatten(0, 1)[:3])).all()


def test_samples_where_scaled_arithmetic_fails() -> None:
    chain = extreme("rarer", torch.float64)
    draws = inference.sample(there(chain), 5, torch.Generator().manual_seed(0))
    assert (draws.cpu() == torch.tensor([0, 1, 1])).all()


def test_fused_emissions_are_written_out() -> None:
    """A form that the kernels cannot read: the statistics are the reference's."""
    chain = random_chain(2, 5, 3, seed=2)
    g = torch.Generator().manual_seed(0)
    log_probs = torch.randn(3, 4, generator=g, dtype=torch.float64).log_softmax(-1)
    symbols, seen = torch.randint(0, 4, (2, 5), generator=g), torch.ones(2, 5, dtype=torch.bool)
    seen[0, 2] = False
    table = Table(symbols, seen, log_probs)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def expected(place: str) -> list[torch.Tensor]:
        form = Table(*(x.to(place) for x in table))
        fused = Chain(*(x.to(place) for x in chain[:2]), form, chain.lengths.to(place))
        log_z, first, pairs, statistics = inference.expect(fused, weights.to(place))
        return [log_z, first, pairs, *statistics]

    got = expected(DEVICE)
    with using("reference"):
        want = expected("cpu")
    for a, b in zip(got, want, strict=True):
        close(a, b, rtol=1e-12, atol=1e-12)


# ---- Which backend, and what it reads ---------------------------------------------------------------


def pretended(*dtypes: torch.dtype, device: str = "cuda") -> Chain:
    """A chain whose tensors say where they are and hold nothing."""
    initial, transition, emission = dtypes
    return Chain(
        torch.empty(2, 3, dtype=initial, device=device),
        torch.empty(3, 3, dtype=transition, device=device),
        torch.empty(2, 4, 3, dtype=emission, device=device),
        torch.empty(2, dtype=torch.int64, device=device),
    )


def test_choice() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    f32, f64, half = torch.float32, torch.float64, torch.bfloat16
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert choose(pretended(f32, f32, f32)) == choose(pretended(f64, f64, f64)) == "cuda"
        assert choose(pretended(f64, f64, f32)) == "reference"  # one precision
        assert choose(pretended(f32, f32, half)) == "reference"  # halves are promoted before
        assert choose(pretended(half, half, half, device="cpu")) == "reference"
        assert choose(pretended(f32, f32, f32, device="cpu")) != "cuda"
        mixed = pretended(f32, f32, f32)._replace(log_transition=torch.empty(3, 3))
        assert choose(mixed) == "reference"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_promoted(dtype: torch.dtype) -> None:
    """No recursion runs in half precision: the kernels see the same numbers in float32."""
    chain = random_chain(2, 5, 3, seed=0, dtype=torch.float32)
    halves = chain._replace(log_emission=chain.log_emission.to(dtype))
    got, want = (
        smooth(there(halves)),
        smooth(there(halves._replace(log_emission=halves.log_emission.float()))),
    )
    assert got.gamma.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_cpu_tensor_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="CUDA tensors"):
        smooth(random_chain(1, 3, 2, seed=0))


COMPILE = """
import sys, warnings
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dbn_vae.inference import cuda
from dbn_vae.inference import _triton_blocked as blocked, _triton_paths as paths, _triton_scaled as scaled
import torch

warnings.simplefilter("ignore")
types = dict(lengths="*i64", order="*i64", states="*i64", came="*u8", uniform="*fp64")
sizes = ("B", "T", "K", "N", "to_row", "to_step")
for name, precision in (("fp32", torch.float32), ("fp64", torch.float64)):
    doubles = (scaled.smooth_kernel, paths.viterbi_kernel, paths.sample_kernel)  # f64 differs in these
    tile = dict(R=2, S=4)
    for kernel, constants in [
        (scaled.filter_kernel, dict(tile, LINEAR=True, **cuda.LIMITS[precision])),
        (scaled.filter_kernel, dict(tile, LINEAR=False, probs=None, normalizers=None, order=None, K=1, T=1, B=1,
                                    **cuda.LIMITS[precision])),
        (scaled.smooth_kernel, dict(tile, FLUSH=8, **cuda.LIMITS[precision])),
        (paths.viterbi_kernel, dict(tile, VARIES=False)),
        (paths.viterbi_kernel, dict(tile, VARIES=True, order=None)),
        (paths.blocked_viterbi_kernel, dict(S=4)),
        (paths.sample_kernel, dict(S=4, D=2)),
        (blocked.forward_kernel, dict(S=4)),
        (blocked.backward_kernel, dict(S=4)),
        (blocked.pairs_kernel, dict(S=4, SUMMED=True, FLUSH=8)),
        (blocked.pairs_kernel, dict(S=4, SUMMED=False, FLUSH=8)),
    ]:
        if name == "fp64" and kernel not in doubles:
            continue
        special = dict(types, xi="*fp64") if kernel is scaled.smooth_kernel else types
        signature = {
            a: "constexpr" if a in constants else "i32" if a in sizes else special.get(a, "*" + name)
            for a in kernel.arg_names
        }
        made = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32),
                       options=dict(num_warps=1, enable_fp_fusion=True))
        assert made.asm["cubin"], kernel
print("compiled")
"""


def test_kernels_compile_for_a_gpu() -> None:
    """The interpreter takes Python that the compiler does not: both must accept the kernels."""
    root = str(pathlib.Path(cuda.__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{COMPILE}"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert run.stdout.strip() == "compiled", run.stderr
