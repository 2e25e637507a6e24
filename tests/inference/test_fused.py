"""Fused emissions are the written-out ones: the same chain, computed two ways."""

import itertools
import math
from collections.abc import Iterator

import hmmlearn.hmm
import numpy as np
import oracles
import pytest
import torch

from dbn_vae import GaussianHMM, inference
from dbn_vae.inference import Chain, Quadratic, Table, Whitened, smooth, using
from dbn_vae.inference.backends import fusing

try:
    from dbn_vae.inference import _cpu

    SETS = _cpu.instruction_sets()
except ImportError:
    SETS = []

f64 = torch.float64
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-5}
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
families = pytest.mark.parametrize("family", ["gaussian", "whitened", "table"])


@pytest.fixture(params=SETS)
def compiled(request: pytest.FixtureRequest) -> Iterator[str]:
    _cpu.select(request.param)
    with using("cpu"):
        yield request.param
    _cpu.select(SETS[0])


def make(
    family: str,
    B: int,
    T: int,
    K: int,
    size: int,
    seed: int = 0,
    *,
    missing: float = 0.0,
    zeros: float = 0.0,
    spread: float = 1.0,
    dtype: torch.dtype = f64,
) -> Chain:
    """A ragged chain over D entries or V symbols; what lies on padding is not a number or no symbol."""
    g = torch.Generator().manual_seed(seed)

    def simplex(*shape: int) -> torch.Tensor:
        p = torch.rand(shape, generator=g, dtype=f64) + 0.05
        forbidden = (torch.rand(shape, generator=g) < zeros) & ~torch.eye(
            shape[-2], shape[-1], dtype=torch.bool
        )
        p = p.masked_fill(forbidden, 0.0)
        return (p / p.sum(-1, keepdim=True)).log().to(dtype)

    lengths = torch.randint(1, T + 1, (B,), generator=g)
    lengths[0] = T
    padding = torch.arange(T) >= lengths[:, None]
    if family == "gaussian":
        x = torch.randn(B, T, size, generator=g, dtype=f64)
        observed = torch.rand(B, T, size, generator=g) >= missing
        x = torch.where(observed & ~padding[..., None], x, 0.0)
        mean = spread * torch.randn(K, size, generator=g, dtype=f64)
        log_scale = 0.3 * torch.randn(K, size, generator=g, dtype=f64)
        emission = Quadratic(x.to(dtype), observed, mean.to(dtype), log_scale.to(dtype))
    elif family == "whitened":
        observed = torch.rand(B, T, generator=g) >= missing
        x = torch.randn(B, T, size, generator=g, dtype=f64)
        x = torch.where((observed & ~padding)[..., None], x, 0.0)
        mean = spread * torch.randn(K, size, generator=g, dtype=f64)
        scale_tril = 0.4 * torch.randn(K, size, size, generator=g, dtype=f64).tril()
        scale_tril = scale_tril + torch.eye(size, dtype=f64)
        emission = Whitened(x.to(dtype), observed, mean.to(dtype), scale_tril.to(dtype))
    else:
        symbols = torch.randint(0, size, (B, T), generator=g)
        observed = torch.rand(B, T, generator=g) >= missing
        emission = Table(symbols, observed, simplex(K, size))
    return Chain(simplex(1, K)[0], simplex(K, K), emission, lengths)


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    got, want = got.double(), want.double()
    bounds = {
        "rtol": tolerance,
        "atol": tolerance * max(1.0, want.where(want.isfinite(), 0.0).abs().max().item()),
    }
    oracles.close(got, want, **bounds)


def agree(chain: Chain, tolerance: float) -> None:
    """Every verb on the fused chain against the same verb on the written-out one."""
    written = chain.dense()
    with torch.no_grad():
        close(inference.log_partition(chain), inference.log_partition(written), tolerance)
    for got, want in zip(inference.filter(chain), inference.filter(written), strict=True):
        close(got, want, tolerance)
    posterior = smooth(written)
    for got, want in zip(smooth(chain), posterior, strict=True):
        close(got, want, tolerance)
    path, want_path = inference.viterbi(chain), inference.viterbi(written)
    close(path.score, want_path.score, tolerance)
    if tolerance < 1e-9:
        assert torch.equal(path.states, want_path.states)
    draws = [inference.sample(c, 3, torch.Generator().manual_seed(0)) for c in (chain, written)]
    assert (draws[0] != draws[1]).double().mean() <= (0 if tolerance < 1e-9 else 0.01)
    w = torch.arange(1, len(posterior.log_z) + 1) % 3  # every third sequence weighs nothing
    w = w.to(posterior.log_z.dtype)
    weighted = posterior.gamma * w[:, None, None]
    got_all = inference.expect(chain, w)
    close(got_all.log_z, posterior.log_z, tolerance)
    close(got_all.first, weighted[:, 0].sum(0), tolerance)
    close(got_all.pairs, torch.einsum("b,bij->ij", w, posterior.xi), tolerance)
    wanted = chain.log_emission.statistics(weighted)
    for got, want in zip(got_all.statistics, wanted, strict=True):
        close(got, want, tolerance)


@pytest.mark.some(4)
@dtypes
@families
@pytest.mark.parametrize(
    ("K", "size"),
    [  # K decides how states lie in vectors, the size how entries do: every size at two K, and every K
        *itertools.product([3, 16], [1, 2, 8, 16]),
        (1, 2), (1, 8), (2, 1), (2, 16), (5, 1), (5, 8), (33, 2), (33, 16), (128, 2),
    ],
)  # fmt: skip
def test_fused_is_dense(family: str, K: int, size: int, dtype: torch.dtype) -> None:
    shapes = [(1, 1), (1, 75), (3, 40), (9, 1), (11, 70)] if K < 128 else [(1, 40), (9, 3)]
    for name in SETS:
        _cpu.select(name)
        for B, T in shapes:
            for missing in (0.0, 0.3):
                agree(make(family, B, T, K, size, K + T, missing=missing, dtype=dtype), TOLERANCE[dtype])
    _cpu.select(SETS[0])


@families
def test_structural_zeros(compiled: str, family: str) -> None:
    """Forbidden moves and symbols of probability 0: exact zeros, and the same digits elsewhere."""
    for B in (1, 9):
        chain = make(family, B, 60, 6, 8, 4, zeros=0.4, missing=0.1)
        agree(chain, 1e-11)
        expected = inference.expect(chain, torch.ones(B, dtype=f64))
        assert (expected.pairs[chain.log_transition == -math.inf] == 0).all()


@pytest.mark.parametrize("family", ["gaussian", "whitened"])
def test_offset(compiled: str, family: str) -> None:
    """Data and means moved by 1e8 give what they gave: differences are taken before anything is squared."""
    for B in (1, 9):
        chain = make(family, B, 50, 4, 3, 2)
        emission = chain.log_emission
        x, mean = ((v * 1024).round() / 1024 for v in (emission.x, emission.mean))  # 1e8 + x is then exact
        near = chain._replace(log_emission=emission._replace(x=x, mean=mean))
        want = inference.expect(near, torch.ones(B))
        moved = chain._replace(log_emission=emission._replace(x=x + 1e8, mean=mean + 1e8))
        got = inference.expect(moved, torch.ones(B))
        assert torch.equal(got.log_z, want.log_z)
        for a, b in zip(got.statistics, want.statistics, strict=True):
            assert torch.equal(a, b)
        agree(moved, 1e-12)


@pytest.mark.parametrize("family", ["gaussian", "whitened"])
@pytest.mark.parametrize("spread", [30.0, 1e3, 1e8])
def test_far_apart_states(compiled: str, spread: float, family: str) -> None:
    """Hundreds to 1e16 nats between states: the log-space path counts as the scaled one does."""
    for B in (1, 9):
        agree(make(family, B, 40, 5, 2, 3, spread=spread, missing=0.2), 1e-10)


@families
def test_log_space_counts_the_same(compiled: str, family: str) -> None:
    """Disconnected states whose lead changes underflow in scaled numbers, alone and beside ordinary ones."""
    stay = torch.full((2, 2), -math.inf, dtype=f64).fill_diagonal_(0.0)
    start = torch.tensor([0.5, 0.5], dtype=f64).log()
    lengths = torch.full((9,), 80)
    if family == "gaussian":
        x = torch.zeros(9, 80, 1, dtype=f64)
        x[3, :40], x[3, 40:] = 30.0, -30.5
        emission = Quadratic(x, torch.ones(9, 80, 1, dtype=torch.bool), torch.tensor([[-1.0], [1.0]], dtype=f64),
                             torch.zeros(2, 1, dtype=f64))  # fmt: skip
    elif family == "whitened":
        x = torch.zeros(9, 80, 2, dtype=f64)
        x[3, :40], x[3, 40:] = 30.0, -30.5
        mean = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=f64)
        scale_tril = torch.tensor([[1.0, 0.0], [0.5, 1.5]], dtype=f64).expand(2, 2, 2)
        emission = Whitened(x, torch.ones(9, 80, dtype=torch.bool), mean, scale_tril)
    else:
        symbols = torch.zeros(9, 80, dtype=torch.int64)
        symbols[3, :40], symbols[3, 40:] = 1, 2
        table = torch.tensor([[0.0, -60.0, -0.1], [0.0, -0.1, -62.0]], dtype=f64)
        emission = Table(symbols, torch.ones(9, 80, dtype=torch.bool), table)
    agree(Chain(start, stay, emission, lengths), 1e-11)


@families
def test_padding_holds_anything(compiled: str, family: str) -> None:
    chain = make(family, 9, 45, 4, 3, 6, missing=0.1)
    emission = chain.log_emission
    padding = torch.arange(45) >= chain.lengths[:, None]
    if family != "table":
        odd = emission._replace(x=emission.x.masked_fill(padding[..., None], math.nan))
    else:
        odd = emission._replace(symbols=emission.symbols.masked_fill(padding, -7))
    w = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=f64)
    got, want = (inference.expect(chain._replace(log_emission=e), w) for e in (odd, emission))
    for a, b in zip((*got[:3], *got.statistics), (*want[:3], *want.statistics), strict=True):
        assert torch.equal(a, b)


@families
def test_threads_do_not_matter(compiled: str, family: str) -> None:
    chain = make(family, 1500, 30, 4, 3, 8)
    results, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            e = inference.expect(chain, torch.ones(1500, dtype=f64))
            results.append([*e[:3], *e.statistics])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@families
def test_impossible_and_weightless(compiled: str, family: str) -> None:
    """A sequence that no path explains has log Z −∞ and adds nothing; nor does one of weight 0."""
    chain = make(family, 9, 20, 3, 4, 9)
    stuck = chain._replace(log_transition=torch.full((3, 3), -math.inf, dtype=f64))
    e = inference.expect(stuck, torch.ones(9, dtype=f64))
    assert ((e.log_z == -math.inf) == (chain.lengths > 1)).all()
    assert e.pairs.sum() == 0 and e.first.sum() == (chain.lengths == 1).sum()
    e = inference.expect(chain, torch.zeros(9, dtype=f64))
    assert all((part == 0).all() for part in (e.first, e.pairs, *e.statistics))
    assert e.log_z.isfinite().all()


def test_unknown_symbol(compiled: str) -> None:
    chain = make("table", 2, 9, 3, 4)
    chain.log_emission.symbols[0, 3] = 4
    with pytest.raises(IndexError, match="symbol 4"):
        smooth(chain)


def test_em_is_hmmlearns_and_the_written_out_one() -> None:
    """One history three ways: fused, by the reference, and hmmlearn's own."""
    rng = np.random.default_rng(0)
    lengths = [40, 1, 25, 60, 33, 7, 50, 12, 80]
    X = rng.normal(size=(sum(lengths), 3)) + 3 * rng.integers(0, 3, (sum(lengths), 1))
    start = {
        "startprob_": np.full(4, 0.25), "transmat_": rng.dirichlet(np.ones(4), 4),
        "means_": rng.normal(size=(4, 3)), "covars_": np.ones((4, 3)),
    }  # fmt: skip
    histories = []
    for engine in ("cpu", "reference", "hmmlearn"):
        make_model = hmmlearn.hmm.GaussianHMM if engine == "hmmlearn" else GaussianHMM
        model = make_model(4, "diag", n_iter=12, tol=-np.inf, init_params="")
        for name, value in start.items():
            setattr(model, name, value)
        if engine == "hmmlearn":
            model.fit(X, lengths)
        elif engine == "cpu" and engine not in fusing:
            continue
        else:
            with using(engine):
                model.fit(X, lengths)
        histories.append(np.array(list(model.monitor_.history)[:12]))
    for other in histories[1:]:
        np.testing.assert_allclose(other, histories[0], rtol=1e-8)
