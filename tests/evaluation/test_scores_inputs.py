"""Scores of predictions under inputs: all paths written out, and uniform transforms where a driven chain is true."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from driven_chains import two_states
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from dbn_vae import EmissionHMM, GaussianHMM, emissions
from dbn_vae.evaluation import coverage, crps, log_score, pit, pseudo_residuals
from dbn_vae.evaluation.forecasting import crps_gaussian_mixture
from dbn_vae.models import HMM

K, D, U = 2, 2, 1
RNG = np.random.default_rng(7)
ALARM = 1e-3


def tensor(*shape: int) -> torch.Tensor:
    return torch.as_tensor(RNG.normal(size=shape))


def chain(driven: bool) -> Any:
    return two_states(RNG, U, driven, 2.0)


def known(emission: Any, driven: bool) -> EmissionHMM:
    model = EmissionHMM(emission, chain(driven), random_state=0)
    model.model_ = HMM(model.transition, model.emission)
    return model


def covariance(n: int, width: int) -> torch.Tensor:
    root = tensor(n, width, width)
    return root @ root.mT + 0.3 * torch.eye(width)


MODELS = {
    "chain": known(emissions.FullGaussian(2 * tensor(K, D), covariance(K, D)), True),
    "emission": known(emissions.LinearRegression(tensor(K, D), 2 * tensor(K, D, U), covariance(K, D)), False),
    "both": known(emissions.LinearRegression(tensor(K, D), 2 * tensor(K, D, U), covariance(K, D)), True),
}
COUNTS = known(
    emissions.Product(
        [
            emissions.Poisson(torch.tensor([[1.0], [6.0]]).double()),
            emissions.LogisticRegression(tensor(K, 1), 2 * tensor(K, 1, U)),
        ]
    ),
    True,
)
every = pytest.mark.parametrize("name", MODELS)


def weights_before(model: EmissionHMM, X: np.ndarray, u: np.ndarray, seen: list[int], t: int) -> np.ndarray:
    """p(s_t | the frames seen): (K,), by the sum over all paths of all frames."""
    chain, emission = model.model_.transition, model.model_.emission
    v = torch.as_tensor(u)[None]
    with torch.no_grad():
        start = chain.log_initial(v).numpy().reshape(K)
        A = np.broadcast_to(chain.log_transition(v).numpy().reshape(-1, K, K), (len(u) - 1, K, K))
    S, density = emission.covariance().detach().numpy(), np.zeros((len(X), K))
    for i, k in product(seen, range(K)):
        o = ~np.isnan(X[i])
        if o.any():
            density[i, k] = stats.multivariate_normal(means(emission, u[i])[k][o], S[k][o][:, o]).logpdf(
                X[i, o]
            )
    total = np.zeros(K)
    for path in product(range(K), repeat=len(X)):
        log_p = start[path[0]] + sum(A[i, path[i], path[i + 1]] for i in range(len(X) - 1))
        total[path[t]] += np.exp(log_p + sum(density[i, path[i]] for i in seen))
    return total / total.sum()


def means(emission: Any, u: np.ndarray) -> np.ndarray:
    slope = getattr(emission, "slope", torch.zeros(K, D, U)).detach().double().numpy()
    return emission.mean.detach().numpy() + slope @ u


@every
@pytest.mark.parametrize("h", [1, 2, 4])
def test_scores_under_inputs_are_sums_over_all_paths(name: str, h: int) -> None:
    model, X, u = MODELS[name], RNG.normal(size=(6, D)), RNG.normal(size=(6, U))
    X[2, 0], X[4] = np.nan, np.nan
    found = {f: f(model, X, horizon=h, inputs=u) for f in (log_score, pit, crps)}
    emission = model.model_.emission
    S = emission.covariance().detach().numpy()
    scale = np.sqrt(S.diagonal(axis1=1, axis2=2))
    ordinary = pseudo_residuals(model, X, inputs=u) if h == 1 else None
    for t in range(6):
        o, m = ~np.isnan(X[t]), means(emission, u[t])
        w = weights_before(model, X, u, list(range(max(0, t - h + 1))), t)
        density = [
            stats.multivariate_normal(m[k][o], S[k][o][:, o]).pdf(X[t, o]) if o.any() else 1.0
            for k in range(K)
        ]
        assert found[log_score][t] == pytest.approx(np.log(w @ density), rel=1e-9, abs=1e-12)
        assert_allclose(found[pit][t], w @ stats.norm.cdf((X[t] - m) / scale), rtol=1e-9)
        wanted = [crps_gaussian_mixture(X[t, d], w, m[:, d], scale[:, d]) for d in range(D)]
        assert_allclose(found[crps][t], wanted, rtol=1e-9)
        if ordinary is not None:
            w = weights_before(model, X, u, [i for i in range(6) if i != t], t)
            assert_allclose(stats.norm.cdf(ordinary[t]), w @ stats.norm.cdf((X[t] - m) / scale), rtol=1e-8)


@pytest.mark.parametrize("name", [*MODELS, "counts"])
def test_with_a_driven_chain_that_is_true_the_transform_is_uniform(name: str) -> None:
    model = COUNTS if name == "counts" else MODELS[name]
    u = np.random.default_rng(1).integers(-2, 3, (1200, U)) / 2.0
    X = model.sample(len(u), random_state=3, inputs=u)[0]
    X[5] = np.nan
    for h in (1, 3):
        for column in pit(model, X, horizon=h, inputs=u, random_state=1).T:
            assert np.isnan(column[5])
            assert stats.kstest(np.delete(column, 5), "uniform").pvalue > ALARM
    z = pseudo_residuals(model, X, inputs=u, random_state=2)
    assert all(stats.kstest(np.delete(column, 5), "norm").pvalue > ALARM for column in z.T)
    if name != "counts":
        inside = coverage(model, X, inputs=u, level=0.8)
        assert_allclose(inside, 0.8, atol=4 * np.sqrt(0.16 / len(X)))
    # inputs of other frames are found out
    wrong = log_score(model, X, inputs=u[::-1].copy()).sum()
    assert wrong < log_score(model, X, inputs=u).sum() - 20


def test_sequences_and_sampled_scores_have_their_own_inputs() -> None:
    """Each sequence scored alone; draws of counts near the sum over counts."""
    rng = np.random.default_rng(4)
    u = rng.normal(size=(12, U))
    X = COUNTS.sample(12, random_state=0, inputs=u)[0]
    for f in (log_score, coverage):
        with pytest.raises(ValueError, match="inputs are not given, but this EmissionHMM reads 1 a frame"):
            f(COUNTS, X)
    both = log_score(COUNTS, X, [7, 5], inputs=u)
    assert_allclose(
        both, np.r_[log_score(COUNTS, X[:7], inputs=u[:7]), log_score(COUNTS, X[7:], inputs=u[7:])]
    )
    found = crps(COUNTS, X, n_samples=20000, random_state=0, inputs=u)
    w = COUNTS.posterior(X, inputs=u).predicted
    grid = np.arange(60)
    F = w @ stats.poisson.cdf(grid, np.array([[1.0], [6.0]]))
    assert_allclose(found[:, 0], ((F - (grid >= X[:, :1])) ** 2).sum(1), atol=0.06)
    logit = COUNTS.model_.emission.blocks[1]
    with torch.no_grad():
        p = (w * logit.logits(torch.as_tensor(u)).sigmoid()[..., 0].numpy()).sum(1)
    assert_allclose(found[:, 1], (p - X[:, 1]) ** 2, atol=0.02)
    plain = GaussianHMM(1).fit(np.arange(9.0)[:, None])
    with pytest.raises(ValueError, match="inputs are given, but this GaussianHMM reads none"):
        pit(plain, np.ones((3, 1)), inputs=np.ones((3, 1)))


# -- autoregressions: the frames before are known when a frame is predicted


def test_a_step_ahead_an_autoregression_is_a_regression_on_the_frames_before() -> None:
    """The lags handed over as inputs, as one would by hand; frames whose predecessors are not known have no density."""
    p, n = 2, 40
    coefficients, mean, S = 0.4 * tensor(K, p, D, D), tensor(K, D), covariance(K, D)
    past = known(emissions.Autoregressive(mean, coefficients, S), False)
    slope = coefficients.transpose(1, 2).reshape(K, D, p * D)
    by_hand = known(emissions.LinearRegression(mean, slope, S), False)
    X = past.sample(n, random_state=0)[0]
    X[20, 1] = np.nan
    lags = np.nan_to_num(np.hstack([np.roll(X, lag, 0) for lag in (1, 2)]))
    without = np.zeros(n, bool)
    without[[0, 1, 21, 22]] = True
    masked = np.where(without[:, None], np.nan, X)
    for f in (log_score, pit, crps):
        assert_allclose(f(past, X), f(by_hand, masked, inputs=lags), rtol=1e-10, err_msg=f.__name__)
    assert_allclose(coverage(past, X), coverage(by_hand, masked, inputs=lags), rtol=1e-12)
    assert_allclose(past.anomaly_scores(X), -log_score(past, X), rtol=1e-12)
    assert_array_equal(np.isnan(pit(past, X)), np.isnan(masked))
    long = past.sample(1500, random_state=1)[0]
    for column in pit(past, long).T:
        assert stats.kstest(column[2:], "uniform").pvalue > ALARM
    with pytest.raises(NotImplementedError, match="ordinary residuals are not offered for Autoregressive"):
        pseudo_residuals(past, X)
    assert_allclose(stats.norm.cdf(pseudo_residuals(past, X, kind="forecast")), pit(past, X), rtol=1e-8)


def test_further_ahead_an_autoregression_is_smoothing_of_frames_that_nobody_saw() -> None:
    """Frame by frame against forecasts from the frames up to t − h; and uniform where the model is true."""
    h, p = 3, 2
    emission = emissions.Autoregressive(2 * tensor(K, D), 0.4 * tensor(K, p, D, D), covariance(K, D))
    for driven in (False, True):
        model, u = known(emission, driven), np.random.default_rng(2).integers(-2, 3, (600, U)) / 2.0
        given = {"inputs": u} if driven else {}
        X = model.sample(len(u), random_state=0, **given)[0]
        few, few_u = X[:16].copy(), {"inputs": u[:16]} if driven else {}
        few[8, 1] = np.nan
        lengths, starts = [11, 5], [0, 11]
        scores, transforms, crpss = (
            f(model, few, lengths, horizon=h, **few_u) for f in (log_score, pit, crps)
        )
        for start, length in zip(starts, lengths, strict=True):
            for t in range(start, start + length):
                last = t - h + 1
                held = few[start:last]
                if last - start < p or np.isnan(held[-p:]).any():
                    assert np.isnan(transforms[t]).all() and np.isnan(crpss[t]).all() and scores[t] == 0
                    continue
                coming = {"inputs": u[start:last], "future_inputs": u[last : t + 1]} if driven else {}
                f = model.forecast(held, horizon=h, quantiles=(0.5,), **coming)
                w, m, S = mixture(model, held, u[start : t + 1] if driven else None, h)
                assert_allclose(f.mean[0, -1], w @ m, rtol=1e-9)
                o, scale = ~np.isnan(few[t]), np.sqrt(S.diagonal(axis1=1, axis2=2))
                density = [
                    stats.multivariate_normal(a[o], B[o][:, o]).pdf(few[t, o])
                    for a, B in zip(m, S, strict=True)
                ]
                assert scores[t] == pytest.approx(np.log(w @ density), rel=1e-9)
                assert_allclose(transforms[t], w @ stats.norm.cdf((few[t] - m) / scale), rtol=1e-9)
                wanted = [crps_gaussian_mixture(few[t, d], w, m[:, d], scale[:, d]) for d in range(D)]
                assert_allclose(crpss[t], wanted, rtol=1e-9)
        for column in pit(model, X, horizon=h, **given).T:
            assert np.isnan(column[: p + h - 1]).all() and np.isfinite(column[p + h - 1 :]).all()
            # values h apart: those nearer share what nobody saw
            assert stats.kstest(column[p + h - 1 :: h], "uniform").pvalue > ALARM
    with pytest.raises(NotImplementedError, match=r"horizon=13 of Autoregressive.*2\^13 paths of states"):
        pit(model, X, horizon=13, **given)


def mixture(model: EmissionHMM, x: np.ndarray, u: Any, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_{T+h} after x in every path of h states: weights, means (n, D) and covariances, step by step."""
    e, chain = model.model_.emission, model.model_.transition
    v = None if u is None else torch.as_tensor(u)[None]
    with torch.no_grad():
        A = np.broadcast_to(chain.log_transition(v).exp().numpy().reshape(-1, K, K), (len(x) + h - 1, K, K))
        b, W, S = e.mean.numpy(), e.coefficients().numpy(), e.covariance().numpy()
    belief = model.filter(x, **({} if u is None else {"inputs": u[: len(x)]}))[-1]
    weights, means, spreads = [], [], []
    for path in product(range(K), repeat=h):
        w = belief @ A[len(x) - 1][:, path[0]]
        frames, maps = list(x), [np.zeros((D, h * D))] * len(x)
        for i, k in enumerate(path):
            w = w * (A[len(x) - 1 + i][path[i - 1], k] if i else 1.0)
            new = np.zeros((D, h * D))
            new[:, i * D : (i + 1) * D] = np.linalg.cholesky(S[k])
            maps.append(new + sum(W[k, lag] @ maps[-1 - lag] for lag in range(2)))
            frames.append(b[k] + sum(W[k, lag] @ frames[-1 - lag] for lag in range(2)))
        weights.append(w)
        means.append(frames[-1])
        spreads.append(maps[-1] @ maps[-1].T)
    return np.array(weights), np.stack(means), np.stack(spreads)
