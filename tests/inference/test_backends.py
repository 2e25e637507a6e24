"""Every backend computes the same thing: the definition, by enumeration and by the reference."""

import functools
import itertools
import math
from collections.abc import Iterator

import oracles
import pytest
import torch
from oracles import enumerate_filter, enumerate_posterior, log_joint, random_chain

from dbn_vae.inference import Chain, filter, log_partition, sample, smooth, using, viterbi
from dbn_vae.inference.backends import available, backend

try:
    from dbn_vae.inference import _cpu

    SETS = [("cpu", name) for name in _cpu.instruction_sets()]
except ImportError:
    SETS = []

BACKENDS = [("reference", ""), *SETS]
NAMES = ["-".join(b).strip("-") for b in BACKENDS]
TOLERANCE = {torch.float64: (1e-12, 1e-10), torch.float32: (2e-6, 5e-5)}  # log_z relative, probabilities
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
NEVER = -math.inf


@pytest.fixture(params=BACKENDS, ids=NAMES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from forced(*request.param)


@pytest.fixture(params=SETS, ids=NAMES[1:])
def compiled(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from forced(*request.param)


def forced(name: str, instructions: str) -> Iterator[str]:
    if instructions:
        _cpu.select(instructions)
    with using(name):
        yield name
    if instructions:
        _cpu.select(_cpu.instruction_sets()[0])


def close(got: torch.Tensor, want: torch.Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    oracles.close(got.double(), want.double(), rtol=rtol, atol=atol)


def agree(chain: Chain) -> None:
    """Every compiled engine's verbs against the reference, at this chain's precision."""
    rtol, atol = TOLERANCE[chain.log_emission.dtype]
    with using("reference"):
        want_filtered, want, want_path = filter(chain), smooth(chain), viterbi(chain)
    for engine in SETS:
        for _ in forced(*engine):
            filtered, posterior, path = filter(chain), smooth(chain), viterbi(chain)
            close(filtered.log_z, want.log_z, rtol=rtol, atol=rtol)
            close(filtered.probs, want_filtered.probs, atol=atol)
            close(filtered.log_normalizer, want_filtered.log_normalizer, rtol=rtol, atol=atol)
            close(posterior.log_z, want.log_z, rtol=rtol, atol=rtol)
            close(posterior.gamma, want.gamma, atol=atol)
            close(posterior.xi, want.xi, rtol=rtol, atol=atol * 10)
            assert torch.equal(path.states, want_path.states)
            close(path.score, want_path.score, rtol=rtol, atol=rtol)


@dtypes
@pytest.mark.parametrize("varies", ["stationary", "batch", "time"])
@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_enumeration(engine: str, varies: str, zeros: float, dtype: torch.dtype) -> None:
    rtol, atol = TOLERANCE[dtype]
    for B in (2, 5):  # few sequences and many take different roads
        chain = random_chain(B, 5, 3, seed=3, varies=varies, zeros=zeros, dtype=dtype)
        log_z, gamma, xi = enumerate_posterior(Chain(*(x.double() for x in chain[:3]), chain.lengths))
        posterior, filtered, path = smooth(chain), filter(chain), viterbi(chain)
        close(posterior.log_z, log_z, rtol=rtol, atol=rtol)
        close(posterior.gamma, gamma, atol=atol)
        close(posterior.xi, xi, atol=atol)
        close(filtered.probs, enumerate_filter(chain), atol=atol)
        close(filtered.log_normalizer.double().sum(1), log_z, rtol=10 * rtol, atol=10 * rtol)
        for b in range(B):
            every, score = log_joint(chain, b)
            n = every.shape[1]
            close(path.score[b], score.max(), rtol=rtol, atol=rtol)
            assert torch.equal(path.states[b, :n], every[score.argmax()])
            assert (path.states[b, n:] == -1).all()


@pytest.mark.some(4)
@dtypes
@pytest.mark.parametrize(
    ("T", "K"),  # T decides how steps lie in tiles, K how states lie in vectors
    [
        *itertools.product([1, 2, 63, 64, 65, 300], [2, 16]),
        *itertools.product([2, 65], [1, 3, 5, 33, 128]),
    ],
)
def test_reference(T: int, K: int, dtype: torch.dtype) -> None:
    for varies, B in [("stationary", 1), ("stationary", 9), ("batch", 3), ("time", 3)]:
        if (5e6 if varies == "stationary" else 5e5) < B * T * K * K:
            continue
        if T == 300 and varies != "stationary":
            continue  # the reference takes its time
        agree(random_chain(B, T, K, seed=T + K, varies=varies, zeros=0.3, dtype=dtype))


def test_widest_state_space() -> None:
    agree(random_chain(5, 6, 300, seed=1))


# ---- Exactness where scaled arithmetic fails ----------------------------------------------------------


def two_states(A: list[list[float]], emission: list[list[float]], dtype: torch.dtype) -> Chain:
    return Chain(
        torch.tensor([0.5, 0.5], dtype=dtype).log(),
        torch.tensor(A, dtype=dtype),
        torch.tensor([emission], dtype=dtype),
    )


stay = [[0.0, NEVER], [NEVER, 0.0]]
rare = math.log(1e-10)
EXTREME = {
    "separated": (stay, [[0.0, -40.0], [-100.0, -60.0]]),
    "disconnected": (stay, [[0.0, -900.0]] * 3 + [[-4000.0, 0.0]] * 2),
    "overtaking": (stay, [[-1e5, 0.0], [0.0, -1e5], [0.0, -3.0], [-7.0, 0.0]]),
    "semi-log": ([[-200.0, NEVER], [NEVER, -0.5]], [[0.0, -200.0], [0.0, 0.0]]),
    "rare": ([[0.0, rare], [NEVER, 0.0]], [[0.0, NEVER], [NEVER, 0.0], [0.0, 0.0]]),
    "rarer": ([[0.0, -690.8], [NEVER, 0.0]], [[0.0, NEVER], [NEVER, 0.0], [0.0, 0.0]]),
    "rarest": ([[0.0, -2000.0], [NEVER, 0.0]], [[0.0, -5000.0], [-1e4, 0.0], [0.0, 0.0]]),
    "far": ([[-0.1, -2.0], [-3.0, -0.1]], [[-1e5, -1e5 - 2], [-99999.0, -1e5], [-1e5, -1e5]]),
    "unnormalised": ([[800.0, 799.0], [0.0, 801.0]], [[900.0, 0.0], [0.0, -900.0], [3.0, 4.0]]),
    "returning": (stay, [[0.0, -900.0]] + [[-100.0, 0.0]] * 20),
    "returning backward": (stay, [[-100.0, 0.0]] * 20 + [[0.0, -900.0]]),
    "late": (stay, [[0.0, -50.0]] * 20 + [[-200.0, 0.0]] * 20),
    # each state leads once, and the one that wins leads neither at the start nor at the end
    "middle": None,
}


def extreme(case: str, dtype: torch.dtype) -> Chain:
    table = EXTREME[case]
    if table is not None:
        return two_states(*table, dtype)
    stay = torch.full((3, 3), NEVER, dtype=dtype).fill_diagonal_(0.0)
    emission = torch.tensor(
        [[0.0, -2000.0, -1000.0], [-5000.0, -5000.0, 0.0], [-2000.0, 0.0, -1000.0]], dtype=dtype
    ).repeat_interleave(2, 0)
    return Chain(torch.zeros(3, dtype=dtype), stay, emission[None])


FIRST = {  # log-emissions in which a state that hardly ever comes first has a say, or none
    "no say": [[0.0, 0.0]] * 3,
    "heard at once": [[NEVER, 0.0], [0.0, 0.0]],
    "heard in the end": [[0.0, 0.0]] * 2 + [[NEVER, 0.0]],
    "overtakes": [[0.0, 0.0]] * 2 + [[-360.0, 0.0]],
}


@pytest.mark.some(4)
@dtypes
@pytest.mark.parametrize("copies", [1, 9])
@pytest.mark.parametrize(
    "log_first",
    [
        -240.0,
        pytest.param(-344.0, marks=pytest.mark.thorough),
        -400.0,
        pytest.param(-720.0, marks=pytest.mark.thorough),
        -2000.0,
    ],
)
@pytest.mark.parametrize("moves", ["stay", "mix", "leave"])
@pytest.mark.parametrize("case", FIRST)
def test_an_improbable_first_state(
    engine: str, case: str, moves: str, log_first: float, copies: int, dtype: torch.dtype
) -> None:
    """EM makes most first states of a single sequence that improbable: no reason for log space unless they decide."""
    A = {"stay": stay, "mix": [[-0.1, -1.0], [-1.0, -0.1]], "leave": [[0.0, NEVER], [-0.7, -0.7]]}[moves]
    chain = two_states(A, FIRST[case], dtype)._replace(
        log_initial=torch.tensor([0.0, log_first], dtype=dtype)
    )
    check_extreme(engine, chain, copies, dtype)


@pytest.mark.some(4)
@dtypes
@pytest.mark.parametrize("copies", [1, 9])
@pytest.mark.parametrize("case", EXTREME)
def test_extreme(engine: str, case: str, copies: int, dtype: torch.dtype) -> None:
    check_extreme(engine, extreme(case, dtype), copies, dtype)


def check_extreme(engine: str, chain: Chain, copies: int, dtype: torch.dtype) -> None:
    """Against enumeration in float64; in a bundle of sequences as well as alone."""
    T = chain.log_emission.shape[1]
    wide = Chain(*(x.double() for x in chain[:3]))
    if T <= 12:
        log_z, gamma, xi = enumerate_posterior(wide)
    else:  # disconnected states: two paths
        both = wide.log_initial + wide.log_emission[0].sum(0)
        log_z = both.logsumexp(0, keepdim=True)
        gamma = (both - log_z).exp().expand(1, T, 2)
        xi = (T - 1) * torch.diag(gamma[0, 0])[None]
    rtol, atol = TOLERANCE[dtype]
    if (engine, dtype) == ("reference", torch.float32):
        atol = 0.01  # messages 1e5 nats apart have two decimals; the compiled engine computes in double
    ordinary = torch.randn(copies - 1, *wide.log_emission.shape[1:], dtype=dtype)
    chain = chain._replace(log_emission=torch.cat([ordinary, chain.log_emission]))
    posterior = smooth(chain)
    close(posterior.log_z[-1:], log_z, rtol=rtol)
    close(filter(chain).log_z[-1:], log_z, rtol=rtol)
    close(posterior.gamma[-1:], gamma, atol=atol)
    close(posterior.xi[-1:], xi, atol=atol)
    leaves = [x.clone().requires_grad_() for x in chain[:3]]
    log_partition(Chain(*leaves)).sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    close(leaves[2].grad, posterior.gamma, atol=atol)


@dtypes
def test_rare_jump_is_counted(engine: str, dtype: torch.dtype) -> None:
    posterior = smooth(extreme("rare", dtype))
    close(posterior.xi[0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]), atol=1e-6)


@dtypes
@pytest.mark.parametrize("B", [1, 6])
def test_impossible(engine: str, B: int, dtype: torch.dtype) -> None:
    """No path: log Z is −∞ and there is no posterior; the other sequences do not notice."""
    chain = random_chain(B, 40, 3, seed=5, ragged=False, dtype=dtype)
    emission = chain.log_emission.clone()
    emission[0, 17] = NEVER
    posterior = smooth(chain._replace(log_emission=emission))
    filtered = filter(chain._replace(log_emission=emission))
    assert (
        posterior.log_z[0]
        == filtered.log_z[0]
        == viterbi(chain._replace(log_emission=emission)).score[0]
        == NEVER
    )
    assert (posterior.gamma[0] == 0).all() and (posterior.xi[0] == 0).all()
    assert (filtered.probs[0, 17:] == 0).all() and (filtered.probs[0, :17].sum(-1) > 0.99).all()
    assert torch.isfinite(posterior.log_z[1:]).all()
    close(posterior.gamma[1:], smooth(chain).gamma[1:], atol=1e-6)


@pytest.mark.parametrize("B", [1, 9])
def test_impossible_only_in_sequence(engine: str, B: int) -> None:
    """Every step is possible, every transition too, and no path is."""
    chain = two_states(stay, [[0.0, NEVER], [0.0, 0.0], [NEVER, 0.0], [0.0, 0.0]], torch.float64)
    chain = chain._replace(log_emission=chain.log_emission.expand(B, -1, -1))
    posterior, filtered = smooth(chain), filter(chain)
    assert (posterior.log_z == NEVER).all() and (filtered.log_z == NEVER).all()
    assert (posterior.gamma == 0).all() and (posterior.xi == 0).all()
    assert (filtered.log_normalizer[:, 2] == NEVER).all()


@dtypes
@pytest.mark.parametrize("B", [1, 9])
def test_forbidden_states_stay_exact_zeros(B: int, dtype: torch.dtype) -> None:
    """Left to right: what cannot be reached yet has probability 0, not a small number; long decays are exact."""
    K, T = 5, 200
    A = torch.full((K, K), NEVER, dtype=dtype)
    for i in range(K):
        A[i, i] = math.log(0.97) if i + 1 < K else 0.0
        if i + 1 < K:
            A[i, i + 1] = math.log(0.03)
    emission = 3 * torch.randn(B, T, K, dtype=dtype, generator=torch.Generator().manual_seed(2))
    start = torch.tensor([0.0] + [NEVER] * (K - 1), dtype=dtype)
    chain = Chain(start, A, emission)
    agree(chain)
    gamma, xi = smooth(chain)[1:]
    for t in range(K - 1):
        assert (gamma[:, t, t + 1 :] == 0).all()
    assert (xi[:, A == NEVER] == 0).all()


@pytest.mark.parametrize("scale", [50.0, 500.0, 30000.0])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_strong_evidence(scale: float, zeros: float) -> None:
    """Emissions as of images: hundreds to thousands of nats between states at every step."""
    for B in (1, 9):
        chain = random_chain(B, 70, 6, seed=8, zeros=zeros, scale=1.0, ragged=False)
        agree(chain._replace(log_emission=scale * chain.log_emission))


# ---- Long sequences, invariances ----------------------------------------------------------------------


def million() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(1, 1_000_000, 1, generator=g, dtype=torch.float64) - 3.0


def test_million_steps(compiled: str) -> None:
    """One state: log Z is the sum of its table.  And the digits of a long double sum over two states."""
    emission = million()
    zero = torch.zeros(1, dtype=torch.float64)
    want = math.fsum(emission.flatten().tolist())
    got = filter(Chain(zero, zero[None], emission)).log_z.item()
    assert abs(got - want) <= 1e-12 * abs(want)
    assert abs(viterbi(Chain(zero, zero[None], emission)).score.item() - want) <= 1e-12 * abs(want)
    A = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    two = torch.cat([emission, emission.flip(1)], -1)
    posterior = smooth(Chain(A[0].log(), A.log(), two))
    normalizers = filter(Chain(A[0].log(), A.log(), two)).log_normalizer
    want = long_sum(tuple(A.flatten().tolist()))
    assert abs(posterior.log_z.item() - want) <= 1e-12 * abs(want)
    assert abs(math.fsum(normalizers.flatten().tolist()) - want) <= 1e-12 * abs(want)
    close(posterior.gamma.sum(-1), torch.ones(1, 1_000_000), atol=1e-12)
    close(posterior.xi.sum(), torch.tensor(999_999.0), rtol=1e-12)


@functools.cache
def long_sum(A: tuple[float, ...]) -> float:
    """The forward algorithm over two states in plain Python, its normalisers added exactly."""
    a, b = aa, ab = A[:2]
    ba, bb = A[2:]
    logs = []
    emission = million()
    for x, y in torch.cat([emission, emission.flip(1)], -1)[0].tolist():
        a, b = a * math.exp(x), b * math.exp(y)
        total = a + b
        logs.append(math.log(total))
        a, b = (a * aa + b * ba) / total, (a * ab + b * bb) / total
    return math.fsum(logs)


def test_padding_is_ignored(engine: str) -> None:
    chain = random_chain(9, 45, 4, seed=11)
    assert chain.lengths is not None
    mask = torch.arange(60) < chain.lengths[:, None]
    longer = torch.full((9, 60, 4), math.nan, dtype=torch.float64)
    longer[:, :45] = torch.where(mask[:, :45, None], chain.log_emission, math.nan)
    if engine == "reference":  # it multiplies by the mask, which takes finite numbers
        longer = longer.nan_to_num(5.0)
    padded = chain._replace(log_emission=longer)
    for got, want in zip(smooth(padded), smooth(chain), strict=True):
        part = got[:, :45] if got.shape[1:2] == (60,) else got
        close(part, want, rtol=1e-13, atol=1e-13)
    assert torch.equal(viterbi(padded).states[:, :45], viterbi(chain).states)
    assert (smooth(padded).gamma[~mask] == 0).all() and (filter(padded).log_normalizer[~mask] == 0).all()


def test_order_and_threads_do_not_matter(compiled: str) -> None:
    chain = random_chain(40, 120, 6, seed=12)
    assert chain.lengths is not None
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = Chain(
        chain.log_initial[order], chain.log_transition, chain.log_emission[order], chain.lengths[order]
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = [*smooth(chain), *filter(chain), *viterbi(chain)]
        torch.set_num_threads(4)
        again = [*smooth(chain), *filter(chain), *viterbi(chain)]
    finally:
        torch.set_num_threads(threads)
    mixed = [*smooth(shuffled), *filter(shuffled), *viterbi(shuffled)]
    for a, b, c in zip(want, again, mixed, strict=True):
        assert torch.equal(a, b)
        close(c, a[order], rtol=1e-14, atol=1e-14)


def test_ties_go_to_the_smaller_state(engine: str) -> None:
    for B in (1, 9):
        zero = torch.zeros(6, dtype=torch.float64)
        path = viterbi(Chain(zero, zero.expand(6, 6), zero.expand(B, 20, 6)))
        assert (path.states == 0).all()
        chain = random_chain(B, 60, 6, seed=1, zeros=0.2)
        coarse = Chain(*(x.clamp_min(-3).round() for x in chain[:3]), chain.lengths)  # full of ties
        want = available["reference"].viterbi(coarse.canonical()).states
        assert torch.equal(viterbi(coarse).states, want)


# ---- Sampling -----------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("varies", ["stationary", "batch", "time"])
def test_same_uniforms_same_paths(compiled: str, varies: str, dtype: torch.dtype) -> None:
    for K in (2, 7):
        chain = random_chain(4, 50, K, seed=K, varies=varies, zeros=0.3, dtype=dtype).canonical()
        u = torch.rand(30, 4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        want = available["reference"].sample(chain, u)
        got = backend(chain).sample(chain, u)
        different = (got != want).any(-1).double().mean().item()
        assert different <= (0.0 if dtype == torch.float64 else 0.05)


def test_sample_frequencies(engine: str) -> None:
    chain = random_chain(2, 12, 3, seed=4, zeros=0.3)
    draws = sample(chain, 20_000, torch.Generator().manual_seed(0))
    gamma = smooth(chain).gamma
    for k in range(3):
        close((draws == k).double().mean(0), gamma[..., k], atol=0.015)


def test_sample_where_scaled_arithmetic_fails(engine: str) -> None:
    chain = extreme("late", torch.float64)
    assert (sample(chain, 50, torch.Generator().manual_seed(0)) == 1).all()
    draws = sample(extreme("rarer", torch.float64), 50, torch.Generator().manual_seed(0))
    assert (draws == torch.tensor([0, 1, 1])).all()
