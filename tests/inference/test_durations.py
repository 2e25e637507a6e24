"""Explicit durations against all segmentations written out, and against the chain that geometric stays are."""

import math

import pytest
import torch
from oracles import random_chain
from oracles_of_stays import NEVER, enumerated, every_case, geometric, random_stays
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference import Chain, durations, using
from dbn_vae.inference.backends import available
from dbn_vae.inference.durations import Stays

close = torch.testing.assert_close


@every_case
def test_enumeration(case: tuple) -> None:
    B, T, K, D, zeros, varies = case
    stays = random_stays(B, T, K, D, seed=5, zeros=zeros, varies=varies)
    want, paths = enumerated(stays)
    for got, expected in zip(durations.smooth(stays), want, strict=True):
        close(got, expected, rtol=0, atol=1e-12)
    close(durations.log_partition(stays), want[0], rtol=1e-13, atol=0)
    best = durations.viterbi(stays)
    for b, (states, score) in enumerate(paths):
        L = states.shape[1]
        top = int(score.argmax())
        close(best.score[b], score[top], rtol=1e-13, atol=0)
        if score[top] > NEVER:
            assert torch.equal(best.states[b, :L], states[top])
        assert (best.states[b, L:] == -1).all()
        every = torch.stack([states[i] for i in range(0, len(states), 7)])
        pi, A, emission, _ = stays.chain.canonical()
        A = A[b, None, : L - 1] if varies == "time" else A[b, None] if varies == "batch" else A
        n = len(every)
        one = Chain(pi[b], A.expand(n, *A.shape[1:]) if A.dim() > 2 else A, emission[b, :L].expand(n, L, K))
        close(durations.path_score(stays._replace(chain=one), every), score[::7], rtol=1e-13, atol=1e-12)


@every_case
def test_the_posterior_is_the_gradient(case: tuple) -> None:
    B, T, K, D, zeros, varies = case
    stays = random_stays(B, T, K, D, seed=6, zeros=zeros, varies=varies)
    chain = stays.chain
    leaves = [x.clone().requires_grad_() for x in (chain.log_initial, chain.log_transition, chain.log_emission,
                                                   stays.log_duration, stays.log_survival)]  # fmt: skip
    moved = Stays(Chain(*leaves[:3], chain.lengths), *leaves[3:])
    log_z = durations.log_partition(moved)
    possible = log_z > NEVER
    grads = torch.autograd.grad(log_z[possible].sum(), leaves)
    posterior = durations.smooth(stays)
    first = posterior.gamma[:, 0]
    close(grads[0], first, rtol=0, atol=1e-12)
    if varies != "time":
        close(grads[1], posterior.xi if varies == "batch" else posterior.xi.sum(0), rtol=0, atol=1e-12)
    close(grads[2], posterior.gamma, rtol=0, atol=1e-12)
    close(grads[3], posterior.ended.sum(0), rtol=0, atol=1e-12)
    close(grads[4], posterior.censored.sum(0), rtol=0, atol=1e-12)


def test_gradcheck_twice() -> None:
    stays = random_stays(2, 4, 2, 3, seed=1, scale=1.0)
    A = stays.chain.log_transition.nan_to_num(neginf=-1.0)  # finite differences need room
    tables = (stays.chain.log_initial, A, stays.chain.log_emission, stays.log_duration, stays.log_survival)
    leaves = [x.clone().requires_grad_() for x in tables]

    def log_z(pi: Tensor, A: Tensor, emission: Tensor, *lasting: Tensor) -> Tensor:
        return durations.log_partition(Stays(Chain(pi, A, emission, stays.chain.lengths), *lasting))

    assert torch.autograd.gradcheck(log_z, leaves)
    assert torch.autograd.gradgradcheck(log_z, leaves)


@pytest.mark.parametrize("seed", range(4))
def test_geometric_stays_are_the_chain(seed: int) -> None:
    """log Z, filter, gamma, Viterbi, and the expected moves: with D at least T nothing is cut off."""
    chain = random_chain(5, 12, 3, seed=seed)
    stays = geometric(chain, 12)
    hmm, semi = inference.smooth(chain), durations.smooth(stays)
    close(semi.log_z, hmm.log_z, rtol=1e-12, atol=0)
    close(semi.gamma, hmm.gamma, rtol=0, atol=1e-12)
    eye = torch.eye(3, dtype=torch.bool)
    close(semi.xi, hmm.xi.masked_fill(eye, 0.0), rtol=0, atol=1e-12)
    stayed = ((semi.ended + semi.censored) * torch.arange(12).double()).sum(-1)
    close(stayed, hmm.xi.diagonal(dim1=1, dim2=2), rtol=0, atol=1e-11)
    for got, want in zip(durations.filter(stays), inference.filter(chain), strict=True):
        close(got, want, rtol=1e-12, atol=1e-12)
    paths = durations.viterbi(stays), inference.viterbi(chain)
    assert torch.equal(paths[0].states, paths[1].states)
    close(paths[0].score, paths[1].score, rtol=1e-12, atol=0)
    close(durations.path_score(stays, paths[1].states), paths[1].score, rtol=1e-12, atol=0)


def test_the_filter_is_the_smoother_of_what_has_been_seen() -> None:
    stays = random_stays(3, 6, 3, 3, seed=8)
    lengths = stays.chain.lengths
    filtered = durations.filter(stays)
    for t in range(6):
        cut = durations.smooth(stays._replace(chain=stays.chain._replace(lengths=lengths.clamp(max=t + 1))))
        for b in range(3):
            if t < lengths[b]:
                close(filtered.probs[b, t], cut.gamma[b, t], rtol=0, atol=1e-12)
                close(filtered.log_normalizer[b, : t + 1].sum(), cut.log_z[b], rtol=1e-12, atol=1e-12)


def test_samples_come_from_the_posterior() -> None:
    """Frequencies of all paths, by the largest z-score under the multinomial."""
    stays = random_stays(2, 4, 2, 3, seed=2, scale=0.7)
    n = 20_000
    drawn = durations.sample(stays, n, torch.Generator().manual_seed(0))
    _, paths = enumerated(stays)
    for b, (states, score) in enumerate(paths):
        L = states.shape[1]
        p = (score - torch.logsumexp(score, 0)).exp()
        count = torch.stack([(drawn[:, b, :L] == path).all(1).sum() for path in states]).double()
        assert count.sum() == n, "every path drawn is a possible one"
        z = (count - n * p) / (n * p * (1 - p)).sqrt()
        assert z.abs().max() < 4.5
        assert (drawn[:, b, L:] == -1).all()


def test_padding_batching_and_far_apart_states_change_nothing() -> None:
    stays = random_stays(4, 7, 3, 4, seed=3)
    chain, lengths = stays.chain, stays.chain.lengths
    posterior = durations.smooth(stays)
    for noise in (math.nan, 1e5, NEVER):
        dirty = chain.log_emission.masked_fill(~chain.mask()[..., None], noise)
        for got, want in zip(
            durations.smooth(stays._replace(chain=chain._replace(log_emission=dirty))), posterior, strict=True
        ):
            assert torch.equal(got, want)
    for b in range(4):
        L = int(lengths[b])
        alone = Chain(chain.log_initial[b : b + 1], chain.log_transition, chain.log_emission[b : b + 1, :L])
        one = durations.smooth(stays._replace(chain=alone))
        close(one.log_z[0], posterior.log_z[b], rtol=1e-13, atol=0)
        close(one.ended[0], posterior.ended[b], rtol=0, atol=1e-13)
    shift = torch.tensor([0.0, 5e3, -5e3]).double()
    far = chain._replace(log_emission=chain.log_emission + shift)
    want, _ = enumerated(stays._replace(chain=far))
    for got, expected in zip(durations.smooth(stays._replace(chain=far)), want, strict=True):
        close(got, expected, rtol=1e-13, atol=1e-9)


def test_an_impossible_sequence_has_no_posterior_and_spoils_no_other() -> None:
    stays = random_stays(2, 5, 2, 2, seed=4)  # no stay longer than 2
    forced = stays.chain.log_emission.clone()
    forced[1, :, 1] = NEVER  # five steps in state 0
    lengths = torch.tensor([5, 5])
    posterior = durations.smooth(
        stays._replace(chain=stays.chain._replace(log_emission=forced, lengths=lengths))
    )
    assert posterior.log_z[1] == NEVER and posterior.log_z[0] > NEVER
    assert all((part[1] == 0).all() and not part.isnan().any() for part in posterior[1:])


def test_tables_must_fit() -> None:
    stays = random_stays(2, 4, 2, 3, seed=0)
    with pytest.raises(ValueError, match=r"log_survival has shape \(2, 2\); with 2 states"):
        durations.log_partition(stays._replace(log_survival=stays.log_survival[:, :2]))


# -- the compiled recursion against the one above


def answers(stays: Stays) -> list[Tensor]:
    found = [*durations.smooth(stays), *durations.filter(stays), *durations.viterbi(stays)]
    return [*found, durations.log_partition(stays)]


@pytest.mark.some(4)
@pytest.mark.skipif("cpu" not in available, reason="installed without the compiled engine")
@pytest.mark.parametrize("varies", ["stationary", "batch", "time"])
@pytest.mark.parametrize(
    ("seed", "zeros", "scale"), [(0, 0.0, 2.0), (1, 0.5, 2.0), (2, 0.3, 900.0), (3, 0.9, 2.0)]
)
def test_the_kernel_is_the_recursion(varies: str, seed: int, zeros: float, scale: float) -> None:
    """Ragged, with zeros and NaN on padding, states far apart, sequences that are impossible, one state, one step."""
    for B, T, K, D in ((5, 17, 3, 6), (2, 9, 1, 12), (3, 1, 2, 4), (2, 12, 4, 1)):
        stays = random_stays(B, T, K, D, seed=seed, zeros=zeros, varies=varies, scale=scale)
        lengths = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(seed))
        chain = stays.chain._replace(lengths=lengths)
        hidden = ~chain.mask()[..., None]
        stays = stays._replace(
            chain=chain._replace(log_emission=chain.log_emission.masked_fill(hidden, math.nan))
        )
        for kind, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
            tables = [x.to(kind) for x in (*stays.chain[:3], *stays[1:])]
            same = Stays(Chain(*tables[:3], lengths), *tables[3:])
            with using("reference"):
                expected = answers(same)
            with using("cpu"):
                found = answers(same)
            for one, other in zip(found, expected, strict=True):
                close(one, other, rtol=tolerance, atol=tolerance * (1 if scale < 100 else 100))


@pytest.mark.skipif("cpu" not in available, reason="installed without the compiled engine")
def test_the_kernels_first_and_second_derivatives_are_the_recursions() -> None:
    stays = random_stays(3, 7, 3, 4, seed=5)
    chain = stays.chain._replace(lengths=torch.tensor([7, 2, 5]))
    weights = torch.tensor([1.0, -0.5, 2.0]).double()
    found = []
    for engine in ("reference", "cpu"):
        tables = [x.clone().requires_grad_() for x in (*chain[:3], *stays[1:])]
        with using(engine):
            log_z = durations.log_partition(Stays(Chain(*tables[:3], chain.lengths), *tables[3:]))
            first = torch.autograd.grad(weights @ log_z, tables, create_graph=True)
            total = sum(g.nan_to_num().square().sum() for g in first)
            second = torch.autograd.grad(total, tables)
        found.append([log_z.detach(), *(g.detach() for g in first), *second])
    for one, other in zip(*found, strict=True):
        close(one, other, rtol=1e-9, atol=1e-9)
