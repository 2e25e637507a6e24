"""Forecasts and filling in under inputs: all paths written out, each frame with what its inputs make of it."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from driven_chains import two_states
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal, norm

from dbn_vae import HSMM, EmissionHMM, GaussianHMM, emissions
from dbn_vae.emissions.context import of_inputs, over_contexts, under
from dbn_vae.models import HMM

K, D, U, T, H = 2, 2, 1, 4, 3
RNG = np.random.default_rng(1)
X, INPUTS, FUTURE = RNG.normal(size=(T, D)), RNG.normal(size=(T, U)), RNG.normal(size=(H, U))
X[1, 0] = np.nan


def tensor(*shape: int) -> torch.Tensor:
    return torch.as_tensor(RNG.normal(size=shape))


def chain(driven: bool) -> Any:
    return two_states(RNG, U, driven)


def regression(n: int = K, width: int = D) -> emissions.LinearRegression:
    root = tensor(n, width, width)
    return emissions.LinearRegression(
        tensor(n, width), 2 * tensor(n, width, U), root @ root.mT + 0.3 * torch.eye(width)
    )


def known(emission: Any, driven: bool) -> EmissionHMM:
    model = EmissionHMM(emission, chain(driven), random_state=0)
    model.model_ = HMM(model.transition, model.emission)
    return model


MODELS = {
    "regression": known(regression(), False),
    "driven": known(emissions.FullGaussian(tensor(K, D), regression().covariance().detach()), True),
    "both": known(regression(), True),
}
every = pytest.mark.parametrize("name", MODELS)


def joint(model: EmissionHMM, u: np.ndarray) -> list[tuple[float, list[int], np.ndarray, np.ndarray]]:
    """log p(path), path, means (n, D) and covariances (n, D, D) of all paths under inputs (n, U)."""
    t, emission = model.model_.transition, model.model_.emission
    w = torch.as_tensor(u)[None]
    with torch.no_grad():
        start, A = t.log_initial(w).numpy().reshape(K), t.log_transition(w).numpy()
        A = np.broadcast_to(A.reshape(-1, K, K), (len(u) - 1, K, K))
        slope = getattr(emission, "slope", torch.zeros(K, D, U)).double().numpy()
        mean, covariance = emission.mean.numpy(), emission.covariance().numpy()
    found = []
    for path in product(range(K), repeat=len(u)):
        log_p = start[path[0]] + sum(A[i, path[i], path[i + 1]] for i in range(len(u) - 1))
        means = np.stack([mean[k] + slope[k] @ u[i] for i, k in enumerate(path)])
        found.append((log_p, list(path), means, covariance[list(path)]))
    return found


def told(model: EmissionHMM, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Weights of all paths given what was observed of x, E[x | observed, path], the means and the covariances."""
    every, log_w, filled = joint(model, u), [], []
    for log_p, _, means, covariances in every:
        whole = means.copy()
        for i, row in enumerate(x):
            o = ~np.isnan(row)
            if o.any():
                S = covariances[i]
                log_p += multivariate_normal(means[i][o], S[o][:, o]).logpdf(row[o])
                whole[i] += S[:, o] @ np.linalg.solve(S[o][:, o], row[o] - means[i][o])
        log_w.append(log_p)
        filled.append(whole)
    w = np.exp(np.array(log_w) - np.logaddexp.reduce(log_w))
    return w, np.stack(filled), np.stack([e[2] for e in every]), every


@every
def test_a_forecast_is_the_sum_over_all_paths(name: str) -> None:
    model = MODELS[name]
    f = model.forecast(X, horizon=H, inputs=INPUTS, future_inputs=FUTURE, n_samples=4000, random_state=0)
    u = np.r_[INPUTS, FUTURE]
    w, _, means, every = told(model, np.r_[X, np.full((H, D), np.nan)], u)
    paths, covariances = np.array([e[1] for e in every]), np.stack([e[3] for e in every])
    for h in range(H):
        assert_allclose(f.state_probs[0, h], [w[paths[:, T + h] == k].sum() for k in range(K)], atol=1e-12)
        mean = w @ means[:, T + h]
        spread = covariances[:, T + h].diagonal(axis1=1, axis2=2)
        assert_allclose(f.mean[0, h], mean, rtol=1e-10)
        assert_allclose(f.variance[0, h], w @ (spread + (means[:, T + h] - mean) ** 2), rtol=1e-10)
        upto = norm.cdf((f.quantiles[0, :, h] - means[:, None, T + h]) / np.sqrt(spread)[:, None])
        assert_allclose((w[:, None, None] * upto).sum(0), np.tile(np.array(f.levels)[:, None], D), atol=1e-10)
    error = f.samples.std(0) / np.sqrt(4000)
    assert (abs(f.samples.mean(0) - f.mean) < 4.5 * error).all()


@every
def test_filling_in_and_surprise_know_the_inputs(name: str) -> None:
    model = MODELS[name]
    x = X.copy()
    x[2] = np.nan
    w, filled, *_ = told(model, x, INPUTS)
    found = model.impute(x, inputs=INPUTS)
    assert_allclose(found, np.where(np.isnan(x), np.tensordot(w, filled, 1), x), rtol=1e-9)
    drawn = model.impute([x] * 400, inputs=[INPUTS] * 400, how="sample", random_state=0).reshape(
        400, *x.shape
    )
    assert (abs(drawn.mean(0) - found) < 4.5 * drawn.std(0) / 20 + 1e-12).all()
    path = model.predict(x, inputs=INPUTS).tolist()
    best = [e[1] for e in joint(model, INPUTS)].index(path)
    wanted = np.where(np.isnan(x), filled[best], x)
    assert_allclose(model.impute(x, inputs=INPUTS, how="viterbi"), wanted, rtol=1e-9)
    surprise = model.anomaly_scores(x, inputs=INPUTS)
    assert surprise.sum() == pytest.approx(-model.score(x, inputs=INPUTS), rel=1e-10)


def test_sequences_share_future_inputs_or_have_their_own() -> None:
    model, many, u = MODELS["both"], [X, X[:2], X[1:]], [INPUTS, INPUTS[:2], INPUTS[1:]]
    one = model.forecast(many, horizon=H, inputs=u, future_inputs=FUTURE)
    own = np.stack([FUTURE, FUTURE[::-1], 2 * FUTURE])
    f = model.forecast(many, horizon=H, inputs=u, future_inputs=own)
    for b, (x, v) in enumerate(zip(many, u, strict=True)):
        for found, future in ((one, FUTURE), (f, own[b])):
            alone = model.forecast(x, horizon=H, inputs=v, future_inputs=future)
            for part in ("mean", "variance", "quantiles", "state_probs"):
                assert_allclose(getattr(found, part)[b], getattr(alone, part)[0], rtol=1e-10)


FAMILIES = {
    "linear": lambda: regression(),
    "logistic": lambda: emissions.LogisticRegression(tensor(K, D), 9 * tensor(K, D, U)),
    "mixture": lambda: emissions.Mixture(regression(2 * K), torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()),
    "product": lambda: emissions.Product(
        [regression(K, 1), emissions.Poisson(1 + tensor(K, 1) ** 2)], [[1], [0]]
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_under_an_input_is_the_family_with_it(family: str) -> None:
    emission, n = FAMILIES[family](), 7
    x = torch.randint(0, 2, (n, D), generator=torch.Generator().manual_seed(0)).double()
    observed, u = torch.ones(n, D).bool(), tensor(n, U)
    observed[2, 0] = False
    u[4] = u[1]
    with torch.no_grad():
        want = emission.log_prob(*(v[0] for v in emission.with_context(x[None], observed[None], u[None])))
        contexts = of_inputs(emission, u)
        found = over_contexts(emission, contexts, lambda plain, rows: plain.log_prob(x[rows], observed[rows]))
        assert under(emission, contexts[0]).n_context == 0
    assert_allclose(found, want, rtol=1e-10)


def test_stays_and_regression_together() -> None:
    model = HSMM(regression(), "poisson", max_duration=6, random_state=0, n_init=1, n_iter=2)
    x, u = RNG.normal(size=(40, D)), RNG.normal(size=(40, U))
    f = model.fit(x, inputs=u).forecast(x, horizon=H, inputs=u, future_inputs=FUTURE)
    longer = np.r_[x, np.full((H, D), np.nan)]
    assert_allclose(f.mean[0], model.impute(longer, inputs=np.r_[u, FUTURE])[-H:], rtol=1e-9)


def test_what_cannot_be_asked() -> None:
    model = MODELS["both"]
    for future, words in (
        (None, r"future_inputs are not given, but this EmissionHMM reads 1 a frame.*shape \(3, 1\)"),
        (FUTURE[:2], r"future_inputs have shape \(2, 1\)"),
        (np.c_[FUTURE, FUTURE], r"future_inputs have shape \(3, 2\)"),
        (np.full((H, U), np.nan), "future_inputs hold NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            model.forecast(X, horizon=H, inputs=INPUTS, future_inputs=future)
    with pytest.raises(ValueError, match="inputs are not given, but this EmissionHMM reads 1 a frame"):
        model.forecast(X, horizon=H, future_inputs=FUTURE)
    gaussian = GaussianHMM(1).fit(np.ones((9, 1)) * np.arange(9)[:, None])
    with pytest.raises(ValueError, match="future_inputs are given, but this GaussianHMM reads none"):
        gaussian.forecast(np.ones((3, 1)), future_inputs=FUTURE[:1])
    assert_array_equal(model.impute(X, inputs=INPUTS)[2:], X[2:])
