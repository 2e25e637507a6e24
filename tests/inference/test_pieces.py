"""One long sequence, done in pieces on all lanes and cores, is the sequence done in one piece.

Given the same transitions once more for every sequence, (B, K, K) in place of (K, K), the engine works in one piece:
two roads to compare.  How many sequences went the first one, the engine counts.
"""

import math
from collections.abc import Iterator

import pytest
import torch

from dbn_vae import inference
from dbn_vae.inference import Chain, Quadratic, Table, Whitened, using

try:
    from dbn_vae.inference import _cpu
except ImportError:
    pytest.skip("no compiled engine", allow_module_level=True)

f64 = torch.float64
SETS = _cpu.instruction_sets()
T = 20_011


@pytest.fixture(params=SETS)
def compiled(request: pytest.FixtureRequest) -> Iterator[str]:
    _cpu.select(request.param)
    with using("cpu"):
        yield request.param
    _cpu.select(SETS[0])


def chain(
    K: int,
    T: int = T,
    *,
    B: int = 1,
    stay: float = 0.5,
    spread: float = 2.0,
    dtype: torch.dtype = f64,
    seed: int = 0,
) -> Chain:
    g = torch.Generator().manual_seed(seed)
    A = torch.rand(K, K, generator=g, dtype=f64) + 0.01
    A = (1 - stay) * A / A.sum(1, keepdim=True) + stay * torch.eye(K, dtype=f64)
    start = torch.rand(K, generator=g, dtype=f64)
    l = spread * torch.randn(B, T, K, generator=g, dtype=f64)
    return Chain((start / start.sum()).log().to(dtype), A.log().to(dtype), l.to(dtype))


def ring(K: int) -> torch.Tensor:
    """Transitions that stay or move on to the next state."""
    return (0.6 * torch.eye(K, dtype=f64) + 0.4 * torch.eye(K, dtype=f64).roll(1, 1)).log()


def whole(chain: Chain) -> Chain:
    K = chain.log_initial.shape[-1]
    return chain._replace(log_transition=chain.log_transition.expand(chain.log_emission.shape[0], K, K))


def agree(chain: Chain, *, pieces: int, atol: float = 1e-12, same_path: bool = True) -> None:
    """All verbs in pieces (so many times, over all verbs) and in one."""
    before = _cpu.cuts()
    got = inference.filter(chain), inference.smooth(chain), inference.viterbi(chain)
    log_z = inference.log_partition(chain)
    assert _cpu.cuts() - before == pieces
    want = inference.filter(whole(chain)), inference.smooth(whole(chain)), inference.viterbi(whole(chain))
    assert _cpu.cuts() - before == pieces
    torch.testing.assert_close(log_z, want[0].log_z, rtol=atol, atol=0)
    for one, other in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(one, other, rtol=atol, atol=atol)
    torch.testing.assert_close(got[2].score, want[2].score, rtol=atol, atol=0)
    if same_path:
        assert torch.equal(got[2].states, want[2].states)


@pytest.mark.parametrize("K", [1, 2, 3, 5, 8, 33])
def test_long_sequence(compiled: str, K: int) -> None:
    agree(chain(K, seed=K), pieces=4)


def test_every_length(compiled: str) -> None:
    """Cuts fall differently for every length; the first ones are just too short or long enough."""
    shortest = 4096 if compiled == "avx512" else 2048
    for n in range(shortest, shortest + 40, 7):
        c = chain(3, n, seed=n)
        agree(c, pieces=4)
        c.log_emission[:, n - 5 :] = math.nan  # padding holds anything
        agree(c._replace(lengths=torch.tensor([n - 5])), pieces=4 * (n - 5 >= shortest))


def test_several_sequences(compiled: str) -> None:
    """Few long ones and a short one beside them: each by itself, and no row of another."""
    c = chain(4, B=3)._replace(lengths=torch.tensor([T, 700, T - 3000]))
    c.log_emission[1, 700:] = math.nan
    agree(c, pieces=8)


def test_float32(compiled: str) -> None:
    agree(chain(4, dtype=torch.float32), pieces=4, atol=2e-5, same_path=False)


@pytest.mark.parametrize("stay", [0.95, 0.999])
def test_slow_forgetting(compiled: str, stay: float) -> None:
    """Windows grow; where the chain outlasts them the sequence is done in one piece."""
    agree(chain(3, 40_000, stay=stay, spread=0.3), pieces=4 if stay == 0.95 else 0)


def test_too_long_for_memory(compiled: str) -> None:
    """Messages of 100 MB and a chain that never forgets: piece after piece, going back by checkpoints."""
    c = chain(2, 3_000_000, spread=0.3)._replace(log_transition=torch.eye(2, dtype=f64).log())
    x = c.log_emission[..., :1].contiguous()
    mean = torch.tensor([[0.1], [0.1004]], dtype=f64)
    c = c._replace(
        log_emission=Quadratic(x, torch.ones_like(x, dtype=torch.bool), mean, torch.zeros_like(mean))
    )
    before = _cpu.cuts()
    weights = torch.tensor([2.0], dtype=f64)
    got, gamma = inference.expect(c, weights), inference.smooth(c).gamma
    assert _cpu.cuts() == before + 2
    # s_1 = s_t for all t: a mixture of two i.i.d. sequences
    log_z = c.log_initial + torch.distributions.Normal(mean[:, 0], 1.0).log_prob(x[0]).sum(0)
    posterior = log_z.softmax(0)
    torch.testing.assert_close(got.log_z[0], log_z.logsumexp(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(gamma[0, [0, 8191, 8192, -1]], posterior.expand(4, 2), rtol=0, atol=1e-9)
    torch.testing.assert_close(got.first, 2 * posterior, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.pairs.diagonal(), 2 * (x.shape[1] - 1) * posterior, rtol=1e-9, atol=0)
    deviations = (x[0].T - mean).sum(1)
    torch.testing.assert_close(got.statistics[1][:, 0], 2 * posterior * deviations, rtol=1e-8, atol=0)


@pytest.mark.parametrize("at", [10, T - 10])
def test_nothing_is_forgotten(compiled: str, at: int) -> None:
    """States that never mix.  All windows see the same flat evidence and agree; only a far step tells the states
    apart, which the pieces themselves find out: going forward if it comes early, backward if late."""
    c = chain(2)._replace(log_transition=torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]], dtype=f64))
    c.log_emission[:] = 0.0
    c.log_emission[:, at] = torch.tensor([0.0, -3.0])
    before = _cpu.cuts()
    gamma = inference.smooth(c).gamma
    assert _cpu.cuts() == before
    torch.testing.assert_close(gamma, inference.smooth(whole(c)).gamma, rtol=0, atol=1e-12)
    assert float(gamma[0, T - 1 - at, 0]) > 0.9


def test_guesses_are_proved(compiled: str) -> None:
    """A cycle of period 2 in which every window begins alike: its answers settle, and are wrong."""
    A = torch.tensor(
        [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]], dtype=f64
    )
    c = chain(4)._replace(
        log_transition=A.log(), log_initial=torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=f64).log()
    )
    c.log_emission[:] = 0.0
    agree(c, pieces=0, same_path=False)


FAR = torch.tensor([[0.0, -900.0, -1800.0], [-1800.0, -900.0, 0.0]], dtype=f64)


@pytest.mark.parametrize("at", [3, 5000, T - 2])
@pytest.mark.parametrize("trouble", [-math.inf, math.nan, FAR], ids=["impossible", "NaN", "far apart"])
def test_trouble_in_one_piece(compiled: str, at: int, trouble: torch.Tensor | float) -> None:
    c = chain(3)._replace(log_transition=ring(3))
    c.log_emission[:, at : at + 2] = trouble
    before = _cpu.cuts()
    one, other = inference.smooth(c), inference.smooth(whole(c))
    assert _cpu.cuts() == before
    torch.testing.assert_close(tuple(one), tuple(other), rtol=1e-12, atol=1e-12, equal_nan=True)


def test_structural_zeros(compiled: str) -> None:
    """A cycle of states that may stay or move on: some predictions are sums of few, none is impossible."""
    agree(chain(5)._replace(log_transition=ring(5)), pieces=4)


@pytest.mark.parametrize("form", ["quadratic", "whitened", "symbols"])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_expectations(compiled: str, form: str, missing: float) -> None:
    """Sums of an M-step, with weights, entries missing, first steps and pairs across the cuts counted once."""
    g = torch.Generator().manual_seed(1)
    c, B, K, D = chain(4, B=3), 3, 4, 3
    if form == "quadratic":
        x = torch.randn(B, T, D, generator=g, dtype=f64)
        observed = torch.rand(B, T, D, generator=g) >= missing
        emission: Quadratic | Whitened | Table = Quadratic(
            x, observed, torch.randn(K, D, generator=g, dtype=f64), torch.zeros(K, D, dtype=f64)
        )
    elif form == "whitened":
        x, mean = torch.randn(B, T, D, generator=g, dtype=f64), torch.randn(K, D, generator=g, dtype=f64)
        scale_tril = torch.eye(D, dtype=f64) + 0.4 * torch.randn(K, D, D, generator=g, dtype=f64).tril()
        emission = Whitened(x, torch.rand(B, T, generator=g) >= missing, mean, scale_tril)
    else:
        symbols = torch.randint(7, (B, T), generator=g)
        probs = torch.rand(K, 7, generator=g, dtype=f64)
        emission = Table(
            symbols, torch.rand(B, T, generator=g) >= missing, (probs / probs.sum(1, keepdim=True)).log()
        )
    c = c._replace(log_emission=emission, lengths=torch.tensor([T, T - 11, 9000]))
    weights = torch.tensor([1.0, 2.5, 0.0], dtype=f64)
    before = _cpu.cuts()
    got = inference.expect(c, weights)
    assert _cpu.cuts() == before + 3
    posterior = inference.smooth(whole(c.dense()))
    assert _cpu.cuts() == before + 3
    weighted = posterior.gamma * weights[:, None, None]
    pairs = torch.einsum("b,bij->ij", weights, posterior.xi)
    want = (posterior.log_z, weighted[:, 0].sum(0), pairs, *c.log_emission.statistics(weighted))
    for one, other in zip((*got[:3], *got.statistics), want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-9)


def test_threads_change_nothing(compiled: str) -> None:
    c, threads = chain(4, 60_000), torch.get_num_threads()
    try:
        answers = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            answers.append(inference.smooth(c))
    finally:
        torch.set_num_threads(threads)
    for other in answers[1:]:
        assert all(torch.equal(x, y) for x, y in zip(answers[0], other, strict=True))
