"""The best paths and the entropy of all of them, against every path written out."""

import itertools
import math

import pytest
import torch
from oracles import log_joint, random_chain

from dbn_vae.inference import Chain, entropy, k_best, log_partition, path_score, smooth, using, viterbi
from dbn_vae.inference.backends import available
from dbn_vae.inference.potentials import Table

EXACT = {"rtol": 1e-10, "atol": 1e-10}
NEVER = -math.inf
close = torch.testing.assert_close
VARIES = ["stationary", "batch", "time"]
CASES = [
    pytest.param(random_chain(3, T, K, seed=10 * T + K, varies=varies, zeros=zeros), id=f"{varies}-T{T}-K{K}-{zeros}")
    for varies, T, K, zeros in itertools.product(VARIES, (1, 2, 5), (1, 3), (0.0, 0.5))
]  # fmt: skip
every_chain = pytest.mark.parametrize("chain", CASES)


ON_CPU = sorted({*available} - {"cuda"})  # the chains here are on the CPU


@pytest.fixture(params=ON_CPU, autouse=True)
def engine(request):
    with using(request.param):
        yield


@every_chain
@pytest.mark.parametrize("n", [1, 4, 300])
def test_the_best_paths_are_those_of_the_sorted_list_of_all(chain: Chain, n: int) -> None:
    """n = 300 is more than there are."""
    states, score = k_best(chain, n)
    assert states.shape == (n, *chain.log_emission.shape[:2])
    for b, T in enumerate(chain.lengths.tolist()):
        every, log_p = log_joint(chain, b)
        order = log_p.argsort(descending=True)
        order = order[log_p[order] > NEVER][:n]
        found = len(order)
        close(score[:found, b], log_p[order], **EXACT)
        assert torch.equal(states[:found, b, :T], every[order])
        assert (states[:found, b, T:] == -1).all()
        assert (states[found:, b] == -1).all() and (score[found:, b] == NEVER).all()


@every_chain
def test_the_best_path_is_viterbis_and_scores_are_those_of_the_paths(chain: Chain) -> None:
    states, score = k_best(chain, 3)
    best = viterbi(chain)
    assert torch.equal(states[0], best.states)
    close(score[0], best.score, **EXACT)
    for path, value in zip(states, score, strict=True):
        possible = value > NEVER
        close(path_score(chain, path.clamp_min(0))[possible], value[possible], **EXACT)


def test_equal_paths_come_in_order_of_their_states_from_the_end() -> None:
    nought = torch.zeros(2, 3, 2)
    states, score = k_best(Chain(nought[0, 0], torch.zeros(2, 2), nought, torch.tensor([3, 2])), 8)
    assert [path[::-1] for path in states[:, 0].tolist()] == [
        list(p) for p in itertools.product((0, 1), repeat=3)
    ]
    assert states[:4, 1].tolist() == [[0, 0, -1], [1, 0, -1], [0, 1, -1], [1, 1, -1]]
    assert (score[:, 0] == 0).all() and score[:, 1].tolist() == [0.0] * 4 + [NEVER] * 4


def test_many_equal_paths_keep_that_order() -> None:
    """Enough of them that an unstable sort would mix them."""
    nought = torch.zeros(1, 3, 6)
    states = k_best(Chain(nought[0, 0], torch.zeros(6, 6), nought), 6**3).states
    assert states[:, 0].flip(1).tolist() == [list(p) for p in itertools.product(range(6), repeat=3)]


def test_impossible_sequences_have_no_path_and_no_entropy() -> None:
    chain = random_chain(3, 4, 2, seed=1, ragged=False)
    emission = chain.log_emission.clone()
    emission[1, 2] = NEVER
    states, score = k_best(chain._replace(log_emission=emission), 2)
    plain = k_best(chain, 2)
    assert (states[:, 1] == -1).all() and (score[:, 1] == NEVER).all()
    assert torch.equal(states[:, [0, 2]], plain.states[:, [0, 2]])
    h = entropy(chain._replace(log_emission=emission))
    assert h[1] == 0
    close(h[[0, 2]], entropy(chain)[[0, 2]], **EXACT)


def test_nothing_on_padding_is_read() -> None:
    for varies in VARIES:
        chain = random_chain(3, 4, 2, seed=2, varies=varies)._replace(lengths=torch.tensor([4, 1, 2]))
        mask = chain.mask()
        spoilt = chain._replace(log_emission=torch.where(mask[..., None], chain.log_emission, math.nan))
        if varies == "time":
            moves = torch.where(mask[:, 1:, None, None], chain.log_transition, math.nan)
            spoilt = spoilt._replace(log_transition=moves)
        for got, want in zip(k_best(spoilt, 3), k_best(chain, 3), strict=True):
            assert torch.equal(got, want)
        assert torch.equal(entropy(spoilt), entropy(chain))


def test_long_float32_sequences_keep_their_digits_and_order() -> None:
    double = random_chain(2, 2000, 3, seed=3, ragged=False)
    emission = (double.log_emission * 8).round() / 8 - 50  # exact in both types, as are their differences
    moves = torch.tensor([[0.0, -3.0, -9.0], [-6.0, 0.0, -2.5], [-4.0, -1.25, 0.0]])
    rough, exact = (
        k_best(Chain(torch.zeros(3).to(t), moves.to(t), emission.to(t)), 5)
        for t in (torch.float32, torch.float64)
    )
    assert torch.equal(rough.states, exact.states)
    close(rough.score, exact.score.float(), rtol=1e-7, atol=0)
    assert (exact.score[:-1] >= exact.score[1:]).all()


def test_fused_emissions_have_the_same_paths_and_entropy() -> None:
    g = torch.Generator().manual_seed(0)
    log_probs = torch.randn(2, 4, generator=g, dtype=torch.float64).log_softmax(-1)
    table = Table(torch.randint(4, (2, 5), generator=g), torch.ones(2, 5, dtype=torch.bool), log_probs)
    start, moves = torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    fused, dense = Chain(start, moves, table), Chain(start, moves, table.dense())
    assert torch.equal(k_best(fused, 3).states, k_best(dense, 3).states)
    close(entropy(fused), entropy(dense), **EXACT)


@pytest.mark.parametrize("n", [0, -3])
def test_no_paths_cannot_be_asked_for(n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}"):
        k_best(random_chain(1, 2, 2, seed=0), n)


# Entropy


@every_chain
def test_entropy_is_that_of_the_list_of_all_paths(chain: Chain) -> None:
    for b, h in enumerate(entropy(chain)):
        _, log_p = log_joint(chain, b)
        close(h, torch.distributions.Categorical(logits=log_p[log_p > NEVER]).entropy(), **EXACT)


def test_entropy_counts_paths_and_adds_up_over_independent_steps() -> None:
    nought = torch.zeros(1, 7, 3, dtype=torch.float64)
    apart = Chain(nought[0, 0], nought.new_zeros(3, 3), nought)
    assert entropy(apart).item() == pytest.approx(7 * math.log(3), rel=1e-14)
    chain = apart._replace(log_emission=random_chain(1, 7, 3, seed=4, ragged=False).log_emission)
    gamma = smooth(chain).gamma
    close(entropy(chain), torch.special.entr(gamma).sum((1, 2)), **EXACT)


@pytest.mark.parametrize("varies", VARIES)
def test_entropy_has_the_gradient_of_finite_differences(varies: str) -> None:
    chain = random_chain(2, 3, 2, seed=5, varies=varies, scale=1.0)
    leaves = [x.clone().requires_grad_() for x in chain[:3]]
    assert torch.autograd.gradcheck(lambda *p: entropy(Chain(*p, chain.lengths)), leaves)


def test_entropy_has_finite_gradients_with_forbidden_moves() -> None:
    chain = random_chain(3, 4, 3, seed=6, zeros=0.5)
    leaves = [x.clone().requires_grad_() for x in chain[:3]]
    for grad in torch.autograd.grad(entropy(Chain(*leaves, chain.lengths)).sum(), leaves):
        assert grad.isfinite().all()


def test_entropy_in_float32_survives_large_potentials() -> None:
    """Shifts of 1e5 nats a step change no posterior; the difference of two sums of them would."""
    chain = random_chain(3, 50, 3, seed=7, dtype=torch.float32)
    shift = 65536.0 * torch.randint(-2, 3, (3, 50, 1), generator=torch.Generator().manual_seed(0))
    emission = (chain.log_emission * 64).round() / 64
    plain, far = (chain._replace(log_emission=e) for e in (emission, emission + shift))
    assert log_partition(far).abs().max() > 1e5
    close(entropy(far), entropy(plain), rtol=1e-6, atol=1e-6)
