"""The posterior object, the stream, forecasts and imputation: against enumeration, each other, and missing frames."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import log_joint
from scipy.stats import multivariate_normal, norm, poisson

from dbn_vae import (
    GMMHMM,
    VAEHMM,
    BernoulliHMM,
    CategoricalHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    SwitchingDMM,
    VariationalGaussianHMM,
)
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.models.hmm import HMM

RNG = np.random.default_rng(0)
LENGTHS = [25, 1, 34]
GROUP = np.repeat(RNG.integers(0, 3, 20), 3)
REAL = RNG.normal(size=(60, 2)) + np.array([[0, 0], [2, 1], [0, 3]])[GROUP]
COUNTS = RNG.poisson(np.array([1, 4, 9])[GROUP][:, None], (60, 2)).astype(float)
SYMBOLS = np.where(RNG.random(60) < 0.6, GROUP, RNG.integers(0, 3, 60))[:, None].astype(float)
FITS: dict[str, tuple[Any, np.ndarray]] = {
    **{c: (GaussianHMM(3, c, random_state=0), REAL) for c in ("diag", "spherical", "full", "tied")},
    "gmm": (GMMHMM(2, 2, covariance_type="full", random_state=0), REAL),
    "variational": (VariationalGaussianHMM(3, random_state=0), REAL),
    "poisson": (PoissonHMM(3, random_state=0), COUNTS),
    "bernoulli": (BernoulliHMM(2, random_state=0), (COUNTS > 3).astype(float)),
    "categorical": (CategoricalHMM(3, random_state=0), SYMBOLS),
    "multinomial": (
        MultinomialHMM(2, n_trials=4, random_state=0),
        RNG.multinomial(4, [0.2, 0.3, 0.5], 60).astype(float),
    ),
}
every = pytest.mark.parametrize("name", FITS)


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[Any, np.ndarray]]:
    return {
        name: (model.set_params(n_iter=5).fit(X, lengths=LENGTHS), X) for name, (model, X) in FITS.items()
    }


def holed(X: np.ndarray) -> np.ndarray:
    """A few frames missing as a whole, and but for counts with a fixed sum some entries."""
    X = X.copy()
    X[[3, 4, 25, 59]] = np.nan
    X[[10, 30, 31], -1] = np.nan
    return X


# -- posterior


@every
def test_the_posterior_is_what_the_verbs_say(name: str, fitted: Any) -> None:
    model, X = fitted[name]
    X = holed(X)
    p = model.posterior(X, LENGTHS)
    assert_allclose(p.smoothed, model.predict_proba(X, LENGTHS), atol=1e-12)
    assert_allclose(p.filtered, model.filter(X, LENGTHS), atol=1e-12)
    assert_allclose(p.log_likelihood, model.evaluate(X, LENGTHS).per_sequence, rtol=1e-12)
    sums = [part.sum() for part in np.split(p.log_scores, np.cumsum(LENGTHS)[:-1])]
    assert_allclose(sums, p.log_likelihood, rtol=1e-10, atol=1e-12)
    for algorithm, paths in (("viterbi", p.viterbi()), ("map", p.mpm())):
        score, states = model.decode(X, LENGTHS, algorithm)
        assert paths.log_prob.sum() == pytest.approx(score, rel=1e-10)
        assert_array_equal(paths.states, states)
    assert_allclose(p.fixed_lag(0), p.filtered, atol=1e-12)
    assert_allclose(p.fixed_lag(60), p.smoothed, atol=1e-9)
    first = np.cumsum(LENGTHS) - LENGTHS
    assert_allclose(p.predicted[first], np.tile(model.startprob_, (3, 1)), atol=1e-12)
    assert_allclose(p.predicted[1:25], p.filtered[:24] @ model.transmat_, atol=1e-12)
    # moves: from where the sequence was to where it is
    moves = p.xi_steps()
    assert_allclose(moves[1:25].sum(2), p.smoothed[:24], atol=1e-9)
    assert (moves[first] == 0).all()
    assert_allclose([part.sum(0) for part in np.split(moves, first[1:])], p.xi, atol=1e-9)
    best = p.k_best(2)
    assert best.states.shape == (2, 60) and best.log_prob.shape == (2, 3)
    assert_array_equal(best.states[0], p.viterbi().states)
    assert (best.log_prob[1] <= best.log_prob[0]).all()


def test_paths_and_their_entropy_are_those_of_all_paths(fitted: Any) -> None:
    model, X = fitted["full"]
    X = [X[:4], X[4:10], X[10:11]]
    p = model.posterior(X)
    drawn = p.sample(4000, random_state=0)
    rows = np.split(np.arange(11), [4, 10])
    for b, (x, part) in enumerate(zip(X, rows, strict=True)):
        chain = model.state_model().chain(model.sequences(x).batch())
        every, score = (v.detach().numpy() for v in log_joint(chain, 0))
        probs = np.exp(score - np.logaddexp.reduce(score))
        assert p.entropy[b] == pytest.approx(-(probs * np.log(probs)).sum(), rel=1e-9)
        gamma = np.stack([[probs[every[:, t] == k].sum() for k in range(3)] for t in range(len(x))])
        seen = np.stack([(drawn[:, part] == k).mean(0) for k in range(3)], 1)
        assert_allclose(seen, gamma, atol=4.5 * 0.5 / np.sqrt(4000))
        objective = 0.4 * np.log(probs) + 0.6 * np.log(gamma)[np.arange(len(x)), every].sum(1)
        assert_array_equal(p.hybrid_risk(0.4).states[part], every[objective.argmax()])
    assert_array_equal(drawn, p.sample(4000, random_state=0))


def test_each_question_is_answered_once(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, X = fitted["diag"]
    p = model.posterior(X, LENGTHS)
    assert p.smoothed is p.smoothed and p.fixed_lag(2) is p.fixed_lag(2) and p.viterbi() is p.viterbi()
    before = p.filtered.copy()
    means = model.means_.copy()
    try:
        model.means_ += 1.0
        q = model.posterior(X, LENGTHS)
        assert_array_equal(
            p.fixed_lag(0).round(9), before.round(9)
        )  # a snapshot of the model it was asked of
        assert abs(q.filtered - before).max() > 0.01
    finally:
        model.means_ = means


def test_rows_of_a_frame_keep_their_index(fitted: Any) -> None:
    model, X = fitted["diag"]
    index = pd.MultiIndex.from_arrays([["a"] * 25 + ["b"] + ["c"] * 34, range(60)])
    frame = pd.DataFrame(X, index, ["x", "y"])
    p = model.posterior(frame)
    for rows in (p.smoothed, p.filtered, p.predicted, p.fixed_lag(1), p.log_scores, p.viterbi().states):
        assert rows.index.equals(index)
    assert_array_equal(p.smoothed, model.posterior(X, LENGTHS).smoothed)
    filled = model.impute(frame.mask(frame > 3))
    assert filled.index.equals(index) and filled.columns.equals(frame.columns)
    table = model.forecast(frame, horizon=2).to_frame()
    assert table.index.tolist() == [(s, h) for s in "abc" for h in (1, 2)]
    assert ("x", "mean") in table and ("y", "95 %") in table


# -- stream


@every
def test_a_stream_knows_what_filter_says(name: str, fitted: Any) -> None:
    model, X = fitted[name]
    X = holed(X)[:25]
    state = model.filter_state()
    assert_allclose(state.probs, model.startprob_, atol=1e-15)
    assert_allclose(state.predict(1), model.startprob_, atol=1e-15)
    seen = [state.update(x) for x in X]
    assert_allclose(seen, model.filter(X), rtol=0, atol=1e-12)
    assert state.log_likelihood == pytest.approx(model.score(X), rel=1e-12)
    assert state.n_frames == 25
    ahead = model.posterior(np.r_[X, np.full((7, X.shape[1]), np.nan)]).smoothed[-7:]
    assert_allclose([state.predict(h) for h in range(1, 8)], ahead, atol=1e-12)
    other, before = state.copy(), state.probs
    other.update(X[0])
    assert_array_equal(state.probs, before)
    assert state.n_frames == 25 and other.n_frames == 26


def test_a_stream_loses_nothing_between_states_thousands_of_nats_apart() -> None:
    """Two stories that never meet: only the logarithm of the second one's probability survives the middle."""
    model = GaussianHMM(2)
    model.startprob_, model.transmat_ = np.array([0.5, 0.5]), np.eye(2)
    model.means_, model.covars_ = np.array([[0.0], [100.0]]), np.ones((2, 1))
    state = model.filter_state()
    for x in (0.0, 100.0, 100.0):
        state.update([x])
    assert_allclose(state.probs, [0, 1], atol=1e-12)


def test_a_refused_frame_leaves_the_stream_as_it_was(fitted: Any) -> None:
    model, X = fitted["categorical"]
    state = model.filter_state()
    state.update(X[0])
    before = state.probs, state.log_likelihood
    for wrong, message in (([0.0, 1.0], "shape"), ([7.0], "categorical"), ([np.inf], "categorical")):
        with pytest.raises(ValueError, match=message):
            state.update(wrong)
    with pytest.raises(ValueError, match="h=0; it must be a whole number from 1"):
        state.predict(0)
    never = CategoricalHMM(1)
    never.startprob_, never.transmat_, never.emissionprob_ = (
        np.ones(1),
        np.ones((1, 1)),
        np.array([[1.0, 0.0]]),
    )
    with pytest.raises(ValueError, match="impossible after the 0 frames before it"):
        never.filter_state().update([1.0])
    gaussian = fitted["diag"][0].filter_state()
    with pytest.raises(ValueError, match="infinite"):
        gaussian.update([np.inf, 0])
    assert_array_equal(state.probs, before[0])
    assert (state.log_likelihood, state.n_frames) == (before[1], 1)


# -- forecasts


@every
def test_a_forecast_is_smoothing_of_frames_that_nobody_saw(name: str, fitted: Any) -> None:
    model, X = fitted[name]
    H, parts = 4, np.split(holed(X), np.cumsum(LENGTHS)[:-1])
    forecast = model.forecast(holed(X), LENGTHS, horizon=H)
    nothing = np.full((H, X.shape[1]), np.nan)
    for b, part in enumerate(parts):
        gamma = model.predict_proba(np.r_[part, nothing])[-H:]
        assert_allclose(forecast.state_probs[b], gamma, atol=1e-10)
    if name != "categorical":
        filled = model.impute([np.r_[part, nothing] for part in parts])
        ends = np.cumsum(np.array(LENGTHS) + H)
        assert_allclose(forecast.mean, np.stack([filled[e - H : e] for e in ends]), atol=1e-9)


@every
def test_a_forecast_is_what_its_samples_say(name: str, fitted: Any) -> None:
    model, X = fitted[name]
    S, levels = 6000, (0.1, 0.5, 0.9)
    f = model.forecast(X, LENGTHS, horizon=3, n_samples=S, quantiles=levels, random_state=0)
    assert f.samples.shape == (S, 3, 3, X.shape[1])
    if name == "categorical":
        assert np.isnan(f.mean).all() and np.isnan(f.variance).all() and np.isnan(f.quantiles).all()
        seen = np.stack([(f.samples[..., 0] == v).mean(0) for v in range(3)], -1)
        assert_allclose(seen, f.state_probs @ model.emissionprob_, atol=4.5 * 0.5 / np.sqrt(S))
        return
    spread = f.samples.std(0) / np.sqrt(S) + 1e-9
    assert (abs(f.samples.mean(0) - f.mean) < 4.5 * spread).all()
    assert_allclose(f.samples.var(0), f.variance, rtol=0.15, atol=0.01)
    for q, level in enumerate(levels):
        point = f.quantiles[:, q]
        upto, under = (f.samples <= point).mean(0), (f.samples < point).mean(0)
        tolerance = 4.5 * 0.5 / np.sqrt(S)
        assert (upto > level - tolerance).all() and (under < level + tolerance).all()


def test_samples_are_drawn_jointly_through_time(fitted: Any) -> None:
    """Frames of one state follow each other: paths of a chain that never moves keep their state."""
    model = GaussianHMM(2)
    model.startprob_, model.transmat_ = np.array([0.5, 0.5]), np.eye(2)
    model.means_, model.covars_ = np.array([[-50.0], [50.0]]), np.ones((2, 1))
    f = model.forecast(np.full((1, 1), np.nan), horizon=5, n_samples=200, random_state=1)
    side = f.samples[:, 0, :, 0] > 0
    assert (side == side[:, :1]).all() and 60 < side[:, 0].sum() < 140
    other = model.forecast(np.full((1, 1), np.nan), horizon=5, n_samples=200, random_state=1)
    assert_array_equal(f.samples, other.samples)


def test_quantiles_of_gaussians_and_counts_are_exact() -> None:
    model = GaussianHMM(1)
    model.startprob_, model.transmat_ = np.ones(1), np.ones((1, 1))
    model.means_, model.covars_ = np.array([[1e6, -3e-5]]), np.array([[4.0, 1e-10]])
    f = model.forecast(np.zeros((1, 2)), quantiles=(0.01, 0.5, 0.975))
    z = norm.ppf([0.01, 0.5, 0.975])[:, None]
    assert_allclose(f.quantiles[0, :, 0], [1e6, -3e-5] + z * [2.0, 1e-5], rtol=1e-9)
    counts = PoissonHMM(2)
    counts.startprob_, counts.transmat_ = np.array([0.5, 0.5]), np.full((2, 2), 0.5)
    counts.lambdas_ = np.array([[2.0], [300.0]])
    f = counts.forecast(np.zeros((1, 1)), quantiles=(0.05, 0.4, 0.6, 0.95))
    grid = np.arange(500)
    cdf = 0.5 * poisson.cdf(grid, 2) + 0.5 * poisson.cdf(grid, 300)
    assert_array_equal(f.quantiles[0, :, 0, 0], [grid[cdf >= q][0] for q in (0.05, 0.4, 0.6, 0.95)])


# -- imputation


def brute_force(model: Any, X: np.ndarray) -> np.ndarray:
    """E[x | observed], all paths and a joint Gaussian of all frames for each."""
    T, D = X.shape
    seen = ~np.isnan(X).ravel()
    log_weight, means = [], []
    for path in np.ndindex(*[model.n_components] * T):
        log_p = np.log(model.startprob_[path[0]])
        log_p += sum(np.log(model.transmat_[i, j]) for i, j in pairwise(path))
        mean = np.concatenate([model.means_[k] for k in path])
        Sigma = np.zeros((T * D, T * D))
        for t, k in enumerate(path):
            Sigma[t * D : (t + 1) * D, t * D : (t + 1) * D] = model.covars_[k]
        o = X.ravel()[seen]
        log_p += multivariate_normal(mean[seen], Sigma[seen][:, seen]).logpdf(o)
        moved = Sigma[:, seen] @ np.linalg.solve(Sigma[seen][:, seen], o - mean[seen])
        log_weight.append(log_p)
        means.append(mean + moved)
    w = np.exp(np.array(log_weight) - np.logaddexp.reduce(log_weight))
    return (w @ np.stack(means)).reshape(T, D)


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["diag", "spherical", "full", "tied"])
def test_the_imputed_mean_is_the_conditional_expectation_over_all_paths(name: str, fitted: Any) -> None:
    model, X = fitted[name]
    X = X[:6].copy()
    X[1, 0] = X[2] = X[4, 1] = np.nan
    filled = model.impute(X)
    assert_allclose(filled, brute_force(model, X), rtol=1e-9)
    assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])


@every
@pytest.mark.parametrize("how", ["mean", "sample", "viterbi"])
def test_observed_entries_are_returned_as_they_are(name: str, how: str, fitted: Any) -> None:
    model, X = fitted[name]
    X = holed(X)
    if name == "categorical" and how == "mean":
        with pytest.raises(ValueError, match="which have no mean; use 'sample' or 'viterbi'"):
            model.impute(X, LENGTHS)
        return
    filled = model.impute(X, LENGTHS, how=how, random_state=0)
    assert np.isfinite(filled).all()
    assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    if how == "sample":  # what is drawn lies in the support, and nothing is missing any more
        assert_array_equal(model.impute(filled, LENGTHS), filled)
        assert_array_equal(filled, model.impute(X, LENGTHS, how=how, random_state=0))


def test_many_samples_average_to_the_mean_and_viterbi_takes_one_state(fitted: Any) -> None:
    model, X = fitted["full"]
    X = holed(X)[:12]
    drawn = model.impute([X] * 300, how="sample", random_state=0).reshape(300, *X.shape)
    error = drawn.std(0) / np.sqrt(300) + 1e-12
    assert (abs(drawn.mean(0) - model.impute(X)) < 4.5 * error).all()
    states = model.predict(X)
    assert_allclose(model.impute(X, how="viterbi")[3], model.means_[states[3]], rtol=1e-12)


# -- deep models, and what cannot be asked


def test_a_vae_hmm_answers_of_its_states() -> None:
    model = VAEHMM(2, 2, n_updates=2, n_pretrain=2, random_state=0, device="cpu").fit(REAL, lengths=LENGTHS)
    p = model.posterior(REAL, LENGTHS)
    assert_allclose(p.smoothed, model.predict_proba(REAL, LENGTHS), atol=1e-6)
    assert_allclose(p.fixed_lag(0), model.filter(REAL, LENGTHS), atol=1e-5)
    assert p.viterbi().log_prob.sum() == pytest.approx(model.decode(REAL, LENGTHS)[0], abs=1e-4)
    state = model.filter_state()
    assert_allclose([state.update(x) for x in REAL[:9]], model.filter(REAL[:9]), atol=1e-5)
    for ask in (
        lambda: p.log_likelihood,
        lambda: p.log_scores,
        lambda: p.leave_one_out,
        lambda: state.log_likelihood,
    ):
        with pytest.raises(ValueError, match="p\\(x\\) of a deep model is not known"):
            ask()


def test_a_switching_model_answers_of_its_states() -> None:
    options = {"n_updates": 2, "n_pretrain": 2, "n_hidden": 4, "random_state": 0, "device": "cpu"}
    model = SwitchingDMM(2, 2, inference="product-filter", **options).fit(REAL, lengths=LENGTHS)
    p = model.posterior(REAL, LENGTHS)
    assert_allclose(p.smoothed, model.predict_proba(REAL, LENGTHS), atol=1e-6)
    assert_allclose(p.fixed_lag(0), model.filter(REAL, LENGTHS), atol=1e-5)
    with pytest.raises(NotImplementedError, match="SwitchingDMM has no filter_state"):
        model.filter_state()
    ahead = SwitchingDMM(2, 2, inference="product", **options).fit(REAL, lengths=LENGTHS)
    with pytest.raises(ValueError, match="fit with inference='product-filter'"):
        ahead.posterior(REAL, LENGTHS).filtered  # noqa: B018


def test_what_cannot_be_asked(fitted: Any) -> None:
    model, X = fitted["diag"]
    for wrong, message in (
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 1.5}, "horizon=1.5; it must be a whole number from 1"),
        ({"n_samples": -1}, "n_samples=-1"),
        ({"quantiles": (0.5, 1.0)}, r"quantiles=\(0.5, 1.0\); they are levels between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.forecast(X, **wrong)
    with pytest.raises(ValueError, match="how='median'; it is 'mean', 'sample' or 'viterbi'"):
        model.impute(X, how="median")
    with pytest.raises(ValueError, match="n=0; it must be a whole number from 1"):
        model.posterior(X).sample(0)
    with pytest.raises(ValueError, match=r"alpha=2"):
        model.posterior(X).hybrid_risk(2)
    never = CategoricalHMM(1)
    never.startprob_, never.transmat_, never.emissionprob_ = (
        np.ones(1),
        np.ones((1, 1)),
        np.array([[1.0, 0.0]]),
    )
    p = never.posterior([[[0.0]], [[1.0]]])
    assert_array_equal(p.log_likelihood, [0, -np.inf])
    for ask in (
        lambda: p.filtered,
        lambda: p.smoothed,
        lambda: p.viterbi(),
        lambda: p.mpm(),
        lambda: p.sample(),
    ):
        with pytest.raises(ValueError, match="sequence 1 is impossible under the model"):
            ask()


def test_a_family_of_a_user_who_says_only_how_to_draw_is_forecast_from_draws(fitted: Any) -> None:
    """No distribution, no moments, no distribution function: all of it from paths."""
    model, X = fitted["diag"]
    module = model.build()

    class OnlyDraws(DiagonalGaussian):
        def distribution(self) -> Any:
            raise NotImplementedError

        def sample(self, states: Any, generator: Any = None, inputs: Any = None) -> Any:
            eps = torch.randn(*states.shape, self.n_features, generator=generator, dtype=torch.float64)
            return self.mean[states] + eps * self.variance().sqrt()[states]

    own = OnlyDraws(module.emission.mean, module.emission.variance())
    exact = model.forecast(X, horizon=2)

    class Own(GaussianHMM):
        def state_model(self) -> HMM:
            return HMM(module.transition, own)

    drawn = Own(3)
    for attribute in ("startprob_", "transmat_", "means_", "_covars_"):
        setattr(drawn, attribute, getattr(model, attribute))
    found = drawn.forecast(X, horizon=2, random_state=0)
    assert found.samples is None
    assert_allclose(found.mean, exact.mean, atol=4.5 * np.sqrt(exact.variance.max() / 1000))
    assert_allclose(found.quantiles, exact.quantiles, atol=0.6)
