"""Looking a little ahead, leaving one frame out, two slices and hybrid paths, against every path written out."""

import itertools
import math

import pytest
import torch
from oracles import enumerate_filter, enumerate_posterior, log_joint, random_chain
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference import Chain
from dbn_vae.inference.backends import available

EXACT = {"rtol": 1e-10, "atol": 1e-10}
close = torch.testing.assert_close
CASES = [
    pytest.param(random_chain(3, T, K, seed=10 * T + K, varies=varies, zeros=zeros), id=f"{varies}-T{T}-K{K}-{zeros}")
    for varies, T, K, zeros in itertools.product(["stationary", "batch", "time"], (1, 4), (2, 3), (0.0, 0.5))
    if (varies, K) != ("batch", 2)
]  # fmt: skip
every_chain = pytest.mark.parametrize("chain", CASES)


@pytest.fixture(params=sorted({*available} - {"cuda"}), autouse=True)
def engine(request):
    with inference.using(request.param):
        yield


def without(chain: Chain, frames: list[int]) -> Chain:
    """The chain with nothing seen at these frames."""
    emission = chain.log_emission.clone()
    emission[:, frames] = 0
    return chain._replace(log_emission=emission)


@every_chain
def test_the_prediction_is_the_posterior_of_a_sequence_cut_before_the_frame(chain: Chain) -> None:
    T = chain.log_emission.shape[1]
    for h in (1, 2, 3, T + 1):
        found = inference.predicted(chain, h)
        for t in range(T):
            unseen = enumerate_posterior(without(chain, list(range(max(0, t - h + 1), T))))[1][:, t]
            close(found[:, t], unseen * chain.mask()[:, t, None], **EXACT)


@every_chain
@pytest.mark.parametrize("lag", [0, 1, 2, 9])
def test_a_fixed_lag_is_smoothing_of_a_sequence_cut_after_the_lag(chain: Chain, lag: int) -> None:
    found = inference.fixed_lag(chain, lag)
    for t in range(chain.log_emission.shape[1]):
        cut = chain._replace(lengths=chain.lengths.clamp_max(t + lag + 1))
        close(found[:, t], enumerate_posterior(cut)[1][:, t] * chain.mask()[:, t, None], **EXACT)
    if lag == 0:
        close(found, enumerate_filter(chain), **EXACT)


def test_blocks_of_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = random_chain(3, 40, 3, seed=0)
    whole = inference.fixed_lag(chain, 5)
    monkeypatch.setattr("dbn_vae.inference.decoding.BLOCK", 7 * 27)
    close(inference.fixed_lag(chain, 5), whole, rtol=0, atol=0)


def test_a_state_lost_by_the_filter_is_found_by_what_comes() -> None:
    """Two stories that never meet; the second is 1,000 nats behind until the last frame gives it 2,000."""
    forbidden = torch.eye(2, dtype=torch.float64).log()
    emission = torch.tensor([[[0.0, -1000.0], [0.0, 0.0], [-2000.0, 0.0]]], dtype=torch.float64)
    chain = Chain(torch.tensor([0.5, 0.5], dtype=torch.float64).log(), forbidden, emission)
    close(inference.fixed_lag(chain, 1)[0, :, 1], torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64), **EXACT)


@every_chain
def test_one_frame_left_out_is_a_frame_of_which_nothing_was_seen(chain: Chain) -> None:
    found = inference.leave_one_out(chain)
    for t in range(chain.log_emission.shape[1]):
        rest = enumerate_posterior(without(chain, [t]))[1][:, t]
        close(found[:, t], rest * chain.mask()[:, t, None], **EXACT)


def test_an_outlier_left_out_leaves_no_trace() -> None:
    """gamma / emission would be 0 / 0."""
    chain = random_chain(1, 6, 2, seed=3, zeros=0.0)
    far = chain.log_emission.clone()
    far[:, 3] += torch.tensor([-3000.0, 0.0], dtype=torch.float64)
    moved = inference.leave_one_out(chain._replace(log_emission=far))
    close(moved[:, 3], inference.leave_one_out(chain)[:, 3], **EXACT)


@every_chain
def test_two_slices_are_those_of_all_paths(chain: Chain) -> None:
    log_z, found = inference.two_slice(chain)
    B, T, K = chain.log_emission.shape
    full = chain.log_transition
    full = full if full.dim() == 4 else full.expand(B, K, K)[:, None].expand(B, T - 1, K, K)
    expected_z, _, expected = enumerate_posterior(chain._replace(log_transition=full))
    close(log_z, expected_z, **EXACT)
    close(found, expected, **EXACT)


def objective(chain: Chain, b: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Every path of sequence b, and α log p(s | x) + (1 − α) Σ_t log p(s_t | x)."""
    every, score = log_joint(chain, b)
    log_z, gamma, _ = inference.smooth(chain)
    marginals = gamma[b, torch.arange(every.shape[1]), every].log().sum(-1)
    whole = torch.zeros_like(score) if alpha == 0 else alpha * (score - log_z[b])
    return every, whole + (torch.zeros_like(score) if alpha == 1 else (1 - alpha) * marginals)


@every_chain
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_hybrid_path_is_the_best_of_all_paths(chain: Chain, alpha: float) -> None:
    states, score = inference.hybrid(chain, alpha)
    for b, T in enumerate(chain.lengths.tolist()):
        every, value = objective(chain, b, alpha)
        best = int(value.argmax())
        assert torch.equal(states[b, :T], every[best]) and (states[b, T:] == -1).all()
        close(score[b], log_joint(chain, b)[1][best], **EXACT)


def test_hybrid_paths_run_from_viterbi_to_the_most_probable_steps() -> None:
    chain = random_chain(2, 60, 4, seed=1, scale=0.7)
    gamma = inference.smooth(chain).gamma
    best = inference.viterbi(chain)
    assert torch.equal(inference.hybrid(chain, 1.0).states, best.states)
    steps = torch.where(chain.mask(), gamma.argmax(-1), -1)
    assert torch.equal(inference.hybrid(chain, 0.0).states, steps)
    scores = torch.stack([inference.hybrid(chain, a).score for a in (0.0, 0.2, 0.5, 0.8, 1.0)])
    assert (scores.diff(dim=0) >= -1e-9).all() and (scores[0] < scores[-1]).all()


def test_what_cannot_be_asked() -> None:
    chain = random_chain(1, 3, 2, seed=0)
    with pytest.raises(ValueError, match=r"lag=-1; it is a number of steps"):
        inference.fixed_lag(chain, -1)
    for alpha in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"alpha=.*from 0 to 1"):
            inference.hybrid(chain, alpha)


def test_an_impossible_sequence_has_no_posterior() -> None:
    chain = random_chain(2, 4, 2, seed=0)
    chain.log_emission[1, 2] = -math.inf
    chain = chain._replace(lengths=torch.tensor([4, 4]))
    for probs in (inference.fixed_lag(chain, 4), inference.two_slice(chain)[1]):
        assert probs.isfinite().all() and (probs[1] == 0).all() and (probs[0] > 0).any()
    # the other frames are possible: leaving the impossible one out, they say where it stood
    close(inference.leave_one_out(chain)[1].sum(-1), torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64))
