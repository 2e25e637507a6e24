"""HSMM asked for everything: as the HMM that geometric stays are, and as smoothing of frames that nobody saw."""

from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from dbn_vae import HSMM, GaussianHMM, emissions
from dbn_vae.evaluation import coverage, crps, log_score, pit, pseudo_residuals
from dbn_vae.models import HSMM as Module
from dbn_vae.transitions import CategoricalDuration, NegativeBinomialDuration, SemiMarkov, Stationary

RNG = np.random.default_rng(0)
LENGTHS = [20, 1, 14]
START, STAY = np.array([0.5, 0.2, 0.3]), np.array([0.3, 0.6, 0.5])
MOVES = np.array([[0.0, 0.4, 0.6], [0.9, 0.0, 0.1], [0.5, 0.5, 0.0]])
MEANS, COVARS = RNG.normal(0, 2, (3, 2)), np.stack([np.eye(2), [[1, 0.5], [0.5, 2]], [[2, -0.7], [-0.7, 1]]])
X = RNG.normal(size=(35, 2)) + MEANS[np.repeat(RNG.integers(0, 3, 7), 5)]
X[[3, 4, 20, 34]] = np.nan
X[[8, 30], 1] = np.nan


def known(durations: Any, means: np.ndarray = MEANS) -> HSMM:
    """A model whose parameters were set, not learnt."""
    emission = emissions.FullGaussian(torch.as_tensor(means), torch.as_tensor(COVARS))
    model = HSMM(emission, max_duration=durations.max_duration, random_state=0)
    model.model_ = Module(
        SemiMarkov(Stationary(torch.as_tensor(START), torch.as_tensor(MOVES)), durations), emission
    )
    return model


@pytest.fixture(scope="module")
def uneven() -> HSMM:
    return known(CategoricalDuration(torch.as_tensor(RNG.dirichlet(np.ones(6), 3))))


@pytest.fixture(scope="module")
def pair() -> tuple[HSMM, GaussianHMM]:
    """Geometric stays, cut off where 1e-22 of them are left, and the HMM with these stays."""
    stay = torch.as_tensor(STAY)
    geometric = NegativeBinomialDuration(stay / (1 - stay), torch.ones(3).double(), 100, geometric=True)
    hmm = GaussianHMM(3, "full", random_state=0)
    hmm.startprob_, hmm.transmat_ = START, np.diag(STAY) + (1 - STAY)[:, None] * MOVES
    hmm.means_, hmm.covars_ = MEANS, COVARS
    return known(geometric), hmm


def test_with_geometric_stays_everything_is_that_of_the_hmm(pair: tuple[HSMM, GaussianHMM]) -> None:
    semi, hmm = (model.posterior(X, LENGTHS) for model in pair)
    for name in ("log_likelihood", "log_scores", "filtered", "predicted", "smoothed", "xi", "entropy",
                 "leave_one_out", "log_emission"):  # fmt: skip
        assert_allclose(getattr(semi, name), getattr(hmm, name), rtol=1e-9, atol=1e-10, err_msg=name)
    for name, argument in (("fixed_lag", 3), ("ahead", 1), ("ahead", 4)):
        assert_allclose(getattr(semi, name)(argument), getattr(hmm, name)(argument), atol=1e-10, err_msg=name)
    assert_allclose(semi.xi_steps(), hmm.xi_steps(), atol=1e-10)
    assert_allclose(semi.belief.reshape(3, 3, 100).sum(2), hmm.belief, atol=1e-10)
    for ask in ("viterbi", "mpm", "hybrid_risk", "k_best"):
        arguments = {"hybrid_risk": (0.4,), "k_best": (3,)}.get(ask, ())
        found, want = (getattr(p, ask)(*arguments) for p in (semi, hmm))
        assert_array_equal(found.states, want.states, err_msg=ask)
        assert_allclose(found.log_prob, want.log_prob, rtol=1e-10, err_msg=ask)
    seen = np.stack([(semi.sample(3000, random_state=1) == k).mean(0) for k in range(3)], 1)
    assert_allclose(seen, hmm.smoothed, atol=4.5 * 0.5 / np.sqrt(3000))


def test_forecasts_scores_and_what_is_filled_in_too(pair: tuple[HSMM, GaussianHMM]) -> None:
    semi, hmm = pair
    found, want = (m.forecast(X, LENGTHS, horizon=6, quantiles=(0.1, 0.5, 0.95)) for m in pair)
    for name in ("state_probs", "mean", "variance", "quantiles"):
        assert_allclose(getattr(found, name), getattr(want, name), rtol=1e-9, atol=1e-10, err_msg=name)
    assert_allclose(semi.anomaly_scores(X, LENGTHS), hmm.anomaly_scores(X, LENGTHS), rtol=1e-9, atol=1e-10)
    for how in ("mean", "viterbi"):
        assert_allclose(semi.impute(X, LENGTHS, how=how), hmm.impute(X, LENGTHS, how=how), atol=1e-9)
    for score in (log_score, crps, pit, pseudo_residuals, coverage):
        assert_allclose(score(semi, X, LENGTHS), score(hmm, X, LENGTHS), rtol=1e-8, atol=1e-9)
    streams = semi.filter_state(), hmm.filter_state()
    for x in X[:20]:
        assert_allclose(*(stream.update(x) for stream in streams), atol=1e-10)
    for h in (1, 2, 9):
        assert_allclose(*(stream.predict(h) for stream in streams), atol=1e-10)


def test_the_posterior_is_what_the_verbs_say(uneven: HSMM) -> None:
    p = uneven.posterior(X, LENGTHS)
    assert_allclose(p.smoothed, uneven.predict_proba(X, LENGTHS), atol=1e-12)
    assert_allclose(p.filtered, uneven.filter(X, LENGTHS), atol=1e-12)
    assert p.log_likelihood.sum() == pytest.approx(uneven.score(X, lengths=LENGTHS), rel=1e-12)
    assert p.log_scores.sum() == pytest.approx(uneven.score(X, lengths=LENGTHS), rel=1e-10)
    for algorithm, paths in (("viterbi", p.viterbi()), ("map", p.mpm())):
        score, states = uneven.decode(X, LENGTHS, algorithm)
        assert paths.log_prob.sum() == pytest.approx(score, rel=1e-10)
        assert_array_equal(paths.states, states)
    assert_allclose(p.fixed_lag(0), p.filtered, atol=1e-12)
    assert_allclose(p.fixed_lag(40), p.smoothed, atol=1e-10)
    moves = p.xi_steps()
    assert_allclose(moves[1:20].sum(2), p.smoothed[:19], atol=1e-10)
    assert_allclose(moves[1:20].sum(0), p.xi[0], atol=1e-10)
    assert_array_equal(p.k_best(2).states[0], p.viterbi().states)
    frame = pd.DataFrame(X, pd.RangeIndex(7, 42), ["a", "b"])
    assert uneven.posterior(frame, LENGTHS).ahead(2).index[0] == 7
    filled = uneven.impute(frame, LENGTHS, how="sample", random_state=0)
    assert np.isfinite(filled.to_numpy()).all() and list(filled.columns) == ["a", "b"]


def test_a_forecast_is_smoothing_of_frames_that_nobody_saw(uneven: HSMM) -> None:
    """And the moments of its paths; the stream knows as much."""
    H, parts = 9, np.split(X, np.cumsum(LENGTHS)[:-1])
    f = uneven.forecast(X, LENGTHS, horizon=H, n_samples=5000, random_state=0)
    nothing = np.full((H, 2), np.nan)
    for b, part in enumerate(parts):
        ahead = uneven.predict_proba(np.r_[part, nothing])[-H:]
        assert_allclose(f.state_probs[b], ahead, atol=1e-12)
        assert_allclose(f.mean[b], uneven.impute(np.r_[part, nothing])[-H:], atol=1e-12)
        state = uneven.filter_state()
        assert_allclose(state.probs, START, atol=1e-14)
        assert_allclose([state.update(x) for x in part], uneven.filter(part), atol=1e-12)
        assert state.log_likelihood == pytest.approx(uneven.score(part), rel=1e-12)
        assert_allclose([state.predict(h) for h in range(1, H + 1)], ahead, atol=1e-12)
    assert (abs(f.samples.mean(0) - f.mean) < 4.5 * f.samples.std(0) / np.sqrt(5000)).all()


def test_paths_of_a_forecast_keep_the_lengths_of_stays() -> None:
    """Stays of 3 or 5 steps, one of which has lasted 2: the first may go on for 1 or 3, no other length is possible."""
    probs = torch.zeros(3, 5).double()
    probs[:, [2, 4]] = 0.5
    model = known(CategoricalDuration(probs), means=np.array([[-50.0, 0], [0, 0], [50, 0]]))
    past = np.array([[0.0, 0], [0, 0], [0, 0], [50, 0], [50, 0]])
    f = model.forecast(past, horizon=25, n_samples=300, random_state=0)
    firsts, others = set(), set()
    for path in (f.samples[:, 0, :, 0] / 50).round().astype(int):
        runs = [(k, len(list(run))) for k, run in groupby(path)]
        assert runs[0][0] == 1
        firsts.add(runs[0][1])
        others |= {n for _, n in runs[1:-1]}
    assert firsts == {1, 3} and others == {3, 5}
