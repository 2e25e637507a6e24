"""What else a chain of stays can be asked: against all segmentations, and against the chain over (state, age)."""

import itertools
import math

import pytest
import torch
from oracles import random_chain
from oracles_of_stays import NEVER, enumerated, every_case, geometric, random_stays
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference import durations, using
from dbn_vae.inference.backends import available
from dbn_vae.inference.durations import Stays
from dbn_vae.inference.durations import decoding as module

close = torch.testing.assert_close
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(params=sorted({*available} - {"cuda"}), autouse=True)
def engine(request):
    with using(request.param):
        yield


def proper(case: tuple, seed: int = 5) -> Stays:
    """Distributions of stays and their tails, which what is asked online needs; some lengths impossible."""
    B, T, K, D, zeros, varies = case
    stays = random_stays(B, T, K, D, seed=seed, zeros=zeros, varies=varies)
    probs = stays.log_duration.exp() + (stays.log_duration.exp().sum(1, keepdim=True) == 0)
    probs = probs / probs.sum(1, keepdim=True)
    A = stays.chain.log_transition
    A = A.log_softmax(-1).where(A > NEVER, NEVER) if K > 1 else A
    chain = stays.chain._replace(log_transition=A.nan_to_num(nan=NEVER, neginf=NEVER))
    return Stays(chain, probs.log(), probs.flip(1).cumsum(1).flip(1).log())


def unseen(stays: Stays, frames: list[int]) -> Stays:
    emission = stays.chain.log_emission.clone()
    emission[:, frames] = 0
    return stays._replace(chain=stays.chain._replace(log_emission=emission))


def cut(stays: Stays, length: int) -> Stays:
    return stays._replace(chain=stays.chain._replace(lengths=stays.chain.lengths.clamp_max(length)))


def states_at(stays: Stays, t: int) -> Tensor:
    """p(s_t | x), all segmentations summed: (B, K); 0 on padding and where there is none."""
    return enumerated(stays)[0][1][:, t]


def folded(stays: Stays, values: Tensor) -> Tensor:
    """(..., K · D) to (..., K)."""
    return values.unflatten(-1, stays.log_duration.shape).sum(-1)


@every_case
def test_before_a_frame_is_seen(case: tuple) -> None:
    stays = proper(case)
    T = case[1]
    for h in (1, 2, 3, T + 1):
        found = durations.predicted(stays, h)
        for t in range(T):
            # what comes after t must not be seen either: the sequence ends there, and its last stay may go on
            blind = unseen(cut(stays, t + 1), list(range(max(0, t - h + 1), t + 1)))
            close(found[:, t], states_at(blind, t) * stays.mask()[:, t, None], **EXACT)


@every_case
@pytest.mark.parametrize("lag", [0, 1, 2, 9])
def test_a_fixed_lag_is_smoothing_of_a_sequence_cut_after_the_lag(case: tuple, lag: int) -> None:
    stays = proper(case)
    found = durations.fixed_lag(stays, lag)
    for t in range(case[1]):
        close(found[:, t], states_at(cut(stays, t + lag + 1), t), **EXACT)


@every_case
def test_leaving_a_frame_out(case: tuple) -> None:
    stays = random_stays(*case[:4], seed=7, zeros=case[4], varies=case[5])
    found = durations.leave_one_out(stays)
    for t in range(case[1]):
        close(found[:, t], states_at(unseen(stays, [t]), t), **EXACT)


@every_case
def test_moves_entropy_and_hybrid_paths_are_those_of_all_paths(case: tuple) -> None:
    B, T, K, D, zeros, varies = case
    stays = random_stays(B, T, K, D, seed=5, zeros=zeros, varies=varies)
    (want_z, gamma, *_), paths = enumerated(stays)
    log_z, pairs = durations.two_slice(stays)
    close(log_z, want_z, rtol=1e-12, atol=0)
    close(durations.smooth(stays).pairs, pairs.sum(1), **EXACT)
    entropy = durations.entropy(stays)
    for b, (states, score) in enumerate(paths):
        L = states.shape[1]
        if want_z[b] == NEVER:
            assert entropy[b] == 0 and (pairs[b] == 0).all()
            continue
        p = (score - want_z[b]).exp()
        close(entropy[b], -torch.where(p > 0, p * p.log(), 0.0).sum(), rtol=1e-9, atol=1e-9)
        want = torch.zeros_like(pairs[b])
        for path, weight in zip(states.tolist(), p, strict=True):
            for t, (i, j) in enumerate(itertools.pairwise(path)):
                want[t, i, j] += weight
        close(pairs[b], want, **EXACT)
        steps = gamma[b, torch.arange(L), states].log().sum(1)
        for alpha in (0.2, 0.7, 1.0):
            found = durations.hybrid(stays, alpha)
            objective = torch.where(p > 0, alpha * p.log() + (1 - alpha) * steps, NEVER)
            assert torch.equal(found.states[b, :L], states[objective.argmax()])
            close(found.score[b], score[objective.argmax()], rtol=1e-12, atol=1e-12)
        assert torch.equal(durations.hybrid(stays, 0.0).states[b, :L], gamma[b, :L].argmax(-1))


@every_case
def test_the_best_paths_are_those_of_all_paths(case: tuple) -> None:
    B, T, K, D, zeros, varies = case
    stays = random_stays(B, T, K, D, seed=5, zeros=zeros, varies=varies)
    found = durations.k_best(stays, 4)
    for b, (states, score) in enumerate(enumerated(stays)[1]):
        L, order = states.shape[1], score.argsort(descending=True)
        for rank in range(4):
            if rank >= len(order) or score[order[rank]] == NEVER:
                assert found.score[rank, b] == NEVER and (found.states[rank, b] == -1).all()
                continue
            close(found.score[rank, b], score[order[rank]], rtol=1e-12, atol=0)
            assert torch.equal(found.states[rank, b, :L], states[order[rank]])
            assert (found.states[rank, b, L:] == -1).all()


@every_case
def test_the_chain_over_state_and_age_is_the_same_model(case: tuple) -> None:
    stays = proper(case)
    chain = durations.unrolled(stays)
    close(chain.log_initial.exp().sum(-1), torch.ones(case[0]).double(), rtol=1e-12, atol=0)
    rows = chain.log_transition.exp().sum(-1)  # 0: of ages that no stay reaches
    if case[3] > 1:
        assert ((rows - 1).abs() < 1e-12).logical_or(rows == 0).all()
    plain, semi = inference.smooth(chain), durations.smooth(stays)
    close(plain.log_z, semi.log_z, rtol=1e-12, atol=0)
    close(folded(stays, plain.gamma), semi.gamma, **EXACT)
    filtered, online = inference.filter(chain), durations.filter(stays)
    close(folded(stays, filtered.probs), online.probs, **EXACT)
    close(filtered.log_normalizer, online.log_normalizer, **EXACT)
    close(folded(stays, inference.predicted(chain, 2)), durations.predicted(stays, 2), **EXACT)
    close(folded(stays, inference.leave_one_out(chain)), durations.leave_one_out(stays), **EXACT)
    close(folded(stays, inference.fixed_lag(chain, 2)), durations.fixed_lag(stays, 2), **EXACT)
    close(inference.entropy(chain), durations.entropy(stays), **EXACT)
    close(durations.belief(stays), inference.belief(chain), **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_geometric_stays_answer_as_the_chain(seed: int) -> None:
    """With D at least T nothing is cut off."""
    chain = random_chain(4, 9, 3, seed=seed)
    stays = geometric(chain, 9)
    for h in (1, 3):
        close(durations.predicted(stays, h), inference.predicted(chain, h), **EXACT)
    for lag in (0, 2, 20):
        close(durations.fixed_lag(stays, lag), inference.fixed_lag(chain, lag), **EXACT)
    for verb in ("leave_one_out", "entropy"):
        close(getattr(durations, verb)(stays), getattr(inference, verb)(chain), **EXACT)
    close(durations.two_slice(stays)[1], inference.two_slice(chain)[1], **EXACT)
    for alpha in (0.0, 0.3):
        assert torch.equal(durations.hybrid(stays, alpha).states, inference.hybrid(chain, alpha).states)
    for found, want in zip(durations.k_best(stays, 3), inference.k_best(chain, 3), strict=True):
        close(found, want, **EXACT)
    close(folded(stays, durations.belief(stays)), inference.belief(chain), **EXACT)


def test_blocks_of_frames_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = random_stays(3, 30, 3, 4, seed=0, varies="time")
    whole = [durations.fixed_lag(stays, 5), durations.predicted(stays, 1), durations.predicted(stays, 4)]
    monkeypatch.setattr(module, "BLOCK", 3 * 12 * 7)
    parts = [durations.fixed_lag(stays, 5), durations.predicted(stays, 1), durations.predicted(stays, 4)]
    for one, other in zip(whole, parts, strict=True):
        close(one, other, rtol=0, atol=1e-14)


def test_padding_and_impossible_sequences_spoil_nothing() -> None:
    stays = random_stays(3, 5, 2, 2, seed=4)
    forced = stays.chain.log_emission.clone()
    forced[1, :, 1] = NEVER  # five steps in state 0, no stay longer than 2
    chain = stays.chain._replace(log_emission=forced, lengths=torch.tensor([5, 5, 3]))
    clean = stays._replace(chain=chain)
    dirty = chain._replace(log_emission=forced.masked_fill(~chain.mask()[..., None], math.nan))
    for verb, arguments in (("predicted", (2,)), ("fixed_lag", (1,)), ("leave_one_out", ()), ("entropy", ()),
                            ("belief", ())):  # fmt: skip
        found = getattr(durations, verb)(stays._replace(chain=dirty), *arguments)
        assert torch.equal(found, getattr(durations, verb)(clean, *arguments)), verb
    assert (durations.belief(clean)[1] == 0).all() and durations.entropy(clean)[1] == 0


def test_what_cannot_be_asked() -> None:
    stays = random_stays(2, 4, 2, 3, seed=0)
    for ask, message in (
        (lambda: durations.predicted(stays, 0), "h=0; it is a number of steps ahead"),
        (lambda: durations.fixed_lag(stays, -1), "lag=-1"),
        (lambda: durations.hybrid(stays, 1.5), r"alpha=1\.5"),
        (lambda: durations.k_best(stays, 0), "n is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
