"""Scores of one-step predictions: uniform under the true model, and the integrals that define them."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats

from dbn_vae import GMMHMM, BernoulliHMM, CategoricalHMM, GaussianHMM, MultinomialHMM, PoissonHMM
from dbn_vae.emissions.predictive import cdf
from dbn_vae.evaluation import coverage, crps, log_score, pit, pseudo_residuals
from dbn_vae.evaluation.forecasting import crps_gaussian_mixture, crps_sample

N = 1500
ALARM = 1e-3  # some 30 tests of true hypotheses: a false alarm among all of them in 3 % of all seeds
A = np.array([[0.9, 0.1], [0.2, 0.8]])


def true(model: Any, **attributes: Any) -> Any:
    model.startprob_, model.transmat_ = np.array([0.5, 0.5]), A
    for name, value in attributes.items():
        setattr(model, name, np.array(value))
    return model


MODELS: dict[str, Any] = {
    "gaussian": true(GaussianHMM(2, "full"), means_=[[0.0, 1], [3, -1]],
                     covars_=[[[1, 0.6], [0.6, 1]], [[2, 0], [0, 0.5]]]),
    "mixture": true(GMMHMM(2, 2, covariance_type="diag"), weights_=[[0.5, 0.5], [0.2, 0.8]],
                    means_=[[[0.0], [2]], [[5], [9]]], covars_=[[[1.0], [0.5]], [[2], [1]]]),
    "poisson": true(PoissonHMM(2), lambdas_=[[1.0, 4], [6, 2]]),
    "bernoulli": true(BernoulliHMM(2), emissionprob_=[[0.2], [0.7]]),
    "multinomial": true(MultinomialHMM(2, n_trials=6), emissionprob_=[[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]),
}  # fmt: skip
every = pytest.mark.parametrize("name", MODELS)


def drawn(name: str) -> tuple[Any, np.ndarray]:
    model = MODELS[name]
    X = model.sample(N, random_state=0)[0]
    X[[10, 11, 500]] = np.nan
    if name == "gaussian":
        X[20, 1] = np.nan
    return model, X


@every
def test_under_the_true_model_the_transform_is_uniform_and_independent(name: str) -> None:
    model, X = drawn(name)
    u = pit(model, X, random_state=1)
    assert_array_equal(np.isnan(u), np.isnan(X))
    for column in u.T:
        values = column[~np.isnan(column)]
        assert stats.kstest(values, "uniform").pvalue > ALARM
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(N)
    assert_array_equal(u, pit(model, X, random_state=1))
    # and a model that is wrong is found out
    wrong = (
        pit(model, np.where(np.isnan(X), X, np.minimum(X, 1)), random_state=1)
        if name == "bernoulli"
        else u**1.2
    )
    assert name == "bernoulli" or stats.kstest(wrong[~np.isnan(wrong)], "uniform").pvalue < 1e-3


@every
def test_log_scores_sum_to_the_log_likelihood(name: str) -> None:
    model, X = drawn(name)
    scores = log_score(model, X, [600, N - 600])
    assert scores.shape == (N,)
    assert_allclose(scores[[10, 11, 500]], 0, atol=1e-14)
    assert scores.sum() == pytest.approx(model.score(X, lengths=[600, N - 600]), rel=1e-12)


@every
def test_coverage_is_the_level(name: str) -> None:
    model, X = drawn(name)
    for level in (0.5, 0.9):
        found = coverage(model, X, level=level)
        assert found.shape == (X.shape[1],)
        assert (found > level - 4 * np.sqrt(level * (1 - level) / N)).all()
        if name in ("gaussian", "mixture"):
            assert_allclose(found, level, atol=4 * np.sqrt(level * (1 - level) / N))


def test_coverage_counts_what_lies_between_the_quantiles() -> None:
    model, X = drawn("poisson")
    X = X[:40].copy()
    X[0] = np.nan
    bounds = np.stack(
        [model.forecast(X[:t], quantiles=(0.05, 0.95)).quantiles[0, :, 0] for t in range(1, 40)]
    )
    x = X[1:]
    inside = ((x >= bounds[:, 0]) & (x <= bounds[:, 1]))[~np.isnan(x).any(1)].mean(0)
    assert_allclose(coverage(model, X, level=0.9), inside, rtol=1e-12)


def gaussian_mixture(F: Any, y: float) -> float:
    below = integrate.quad(lambda x: F(x) ** 2, -40, y, limit=200, epsabs=1e-11)[0]
    return below + integrate.quad(lambda x: (1 - F(x)) ** 2, y, 40, limit=200, epsabs=1e-11)[0]


def test_the_closed_form_of_the_crps_is_its_integral() -> None:
    w, m, s = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.5, 4]), np.array([0.5, 2, 1])
    for y in (-3.0, 0.4, 9.0):
        wanted = gaussian_mixture(lambda x: float(w @ stats.norm.cdf((x - m) / s)), y)
        assert crps_gaussian_mixture(np.array(y), w, m, s) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_the_crps_of_a_model_is_that_of_its_prediction(name: str) -> None:
    """Against the distribution function that the transform uses: PIT is F at x."""
    model, X = drawn(name)
    X = X[:25]
    found = crps(model, X)
    assert_array_equal(np.isnan(found), np.isnan(X))
    emission, weights = model.state_model().emission, model.posterior(X).predicted
    for t, d in ((0, 0), (7, X.shape[1] - 1), (24, 0)):
        F = lambda x, t=t, d=d: float(weights[t] @ cdf(emission, np.full(X.shape[1], x))[:, d])  # noqa: E731
        assert found[t, d] == pytest.approx(gaussian_mixture(F, X[t, d]), rel=1e-6)


def test_the_fair_estimate_is_unbiased_and_its_definition() -> None:
    rng = np.random.default_rng(0)
    samples, y = rng.normal(size=(9, 3)), rng.normal(size=3)
    pairs = abs(samples[:, None] - samples[None]).sum((0, 1)) / (2 * 9 * 8)
    assert_allclose(crps_sample(y, samples), abs(samples - y).mean(0) - pairs, rtol=1e-12)
    exact = crps_gaussian_mixture(np.array(0.3), np.ones(1), np.zeros(1), np.ones(1))
    pairs_of_two = crps_sample(np.full(40000, 0.3), rng.normal(size=(2, 40000)))
    assert abs(pairs_of_two.mean() - exact) < 4 * pairs_of_two.std() / 200


def test_the_sampled_crps_of_counts_is_near_the_sum_over_counts() -> None:
    model, X = drawn("poisson")
    X = X[:12]
    weights, grid = model.posterior(X).predicted, np.arange(60)
    F = np.einsum("nk,xkd->nxd", weights, stats.poisson.cdf(grid[:, None, None], model.lambdas_))
    wanted = ((F - (grid[None, :, None] >= X[:, None])) ** 2).sum(1)
    seen = ~np.isnan(X)
    assert_allclose(crps(model, X, n_samples=20000, random_state=0)[seen], wanted[seen], atol=0.06)


@pytest.mark.some(4)
@every
@pytest.mark.parametrize("kind", ["ordinary", "forecast"])
def test_pseudo_residuals_are_standard_normal_under_the_true_model(name: str, kind: str) -> None:
    model, X = drawn(name)
    z = pseudo_residuals(model, X, kind=kind, random_state=2)
    assert_array_equal(np.isnan(z), np.isnan(X))
    for column in z.T:
        assert stats.kstest(column[~np.isnan(column)], "norm").pvalue > ALARM
    if kind == "forecast":
        assert_allclose(z, stats.norm.ppf(pit(model, X, random_state=2)), atol=1e-6)


def test_an_ordinary_residual_is_blind_to_its_own_frame_and_keeps_its_size() -> None:
    model, X = drawn("gaussian")
    X = X[:30].copy()
    weights = model.posterior(X).leave_one_out[6]
    X[6, 0] = 25.0
    z = pseudo_residuals(model, X)[6, 0]
    tail = weights @ stats.norm.sf((25 - model.means_[:, 0]) / np.sqrt(model.covars_[:, 0, 0]))
    assert z == pytest.approx(-stats.norm.ppf(tail), rel=1e-9) and z > 9  # 1 − F is 1e-54 at most: not ∞


def test_an_ordinary_residual_knows_the_future_that_a_forecast_residual_does_not() -> None:
    model, X = drawn("gaussian")
    ordinary, forecast = (pseudo_residuals(model, X[:50], kind=kind) for kind in ("ordinary", "forecast"))
    assert_allclose(ordinary[-1], forecast[-1], rtol=1e-9)
    assert abs(ordinary[0] - forecast[0]).max() > 1e-3


def test_a_wrong_model_is_found_out() -> None:
    model, X = drawn("poisson")
    wrong = true(PoissonHMM(2), lambdas_=[[1.5, 5], [7, 3]])
    u = pit(wrong, X, random_state=0)[:, 0]
    assert stats.kstest(u[~np.isnan(u)], "uniform").pvalue < 1e-4
    assert log_score(wrong, X).sum() < log_score(model, X).sum() - 20


def test_what_cannot_be_asked() -> None:
    model, X = drawn("gaussian")
    with pytest.raises(ValueError, match="kind='both'; it is 'ordinary' or 'forecast'"):
        pseudo_residuals(model, X, kind="both")
    with pytest.raises(ValueError, match="level=90; it is a probability"):
        coverage(model, X, level=90)
    with pytest.raises(ValueError, match="n_samples=1; the fair estimate needs at least 2"):
        crps(MODELS["poisson"], drawn("poisson")[1], n_samples=1)
    symbols = true(CategoricalHMM(2), emissionprob_=[[0.5, 0.5], [0.1, 0.9]])
    with pytest.raises(ValueError, match="crps measures distances, which symbols and angles do not have"):
        crps(symbols, np.zeros((3, 1)))
    with pytest.raises(NotImplementedError, match="Categorical has no distribution function"):
        pit(symbols, np.zeros((3, 1)))


@pytest.mark.parametrize("h", [1, 2, 3])
def test_scores_at_a_horizon_sum_out_the_frames_between(h: int) -> None:
    """Every path of states to t, of weight p(path, x_{1:t-h}): one-step scores where h = 1."""
    model, X = drawn("gaussian")
    X = X[:6]
    X[2, 0] = np.nan
    found, u, residuals = (f(model, X, horizon=h) for f in (log_score, pit, crps))
    density = np.asarray(model.posterior(X).log_emission)
    for t in range(6):
        w = np.zeros(2)
        for path in product(range(2), repeat=t + 1):
            p = 0.5 * np.prod([A[i, j] for i, j in pairwise(path)])
            w[path[-1]] += p * np.exp(sum(density[s, path[s]] for s in range(t - h + 1)))
        w /= w.sum()
        assert found[t] == pytest.approx(np.log(w @ np.exp(density[t])), rel=1e-10)
        scale = np.sqrt(model.covars_.diagonal(axis1=1, axis2=2))
        seen = ~np.isnan(X[t])
        assert_allclose(u[t], w @ stats.norm.cdf((X[t] - model.means_) / scale), rtol=1e-10)
        wanted = [crps_gaussian_mixture(X[t, d], w, model.means_[:, d], scale[:, d]) for d in range(2)]
        assert_allclose(residuals[t], np.where(seen, wanted, np.nan), rtol=1e-10)
    if h == 1:
        assert_array_equal(found, log_score(model, X))
    with pytest.raises(ValueError, match="h=0; it must be a whole number from 1"):
        pit(model, X, horizon=0)
    with pytest.raises(ValueError, match="horizon=2: ordinary residuals know all other frames"):
        pseudo_residuals(model, X, horizon=2)
