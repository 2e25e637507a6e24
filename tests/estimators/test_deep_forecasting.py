"""Forecasts, filled-in entries and scores of frames of the deep models, where everything is linear and Gaussian.

The truth is that of linear_models.py.  The encoders are wrong on purpose, and know nothing of which entries are
missing: particles have to make up for both.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from linear_models import (
    D_OFFSET,
    FUTURE,
    LENGTHS,
    MAKE,
    NAN,
    OPTIONS,
    SCALE,
    C,
    H,
    U,
    X,
    dense,
    exact,
    fitted,
    given,
    parts,
    to_come,
)
from numpy.testing import assert_allclose, assert_array_equal
from oracles import linear_gaussian_core
from scipy.stats import multivariate_normal

from dbn_vae import VAE, VAEHMM, DeepMarkovModel, GaussianHMM, SwitchingDMM

every = pytest.mark.parametrize("name", MAKE)
# those whose proposals are near enough for a few hundred particles to settle all frames of a path together
willing = pytest.mark.parametrize("name", [name for name in MAKE if name != "dmm-st"])
timely = pytest.mark.parametrize("name", [name for name in MAKE if name != "vae"])


@pytest.mark.some(4)
@timely
def test_a_forecast_is_the_conditional_of_frames_to_come(name: str) -> None:
    model, n = fitted(name), 6000
    options = {"horizon": H, "n_samples": n, "quantiles": (0.25, 0.75), "random_state": 0}
    f = model.forecast(X, LENGTHS, **given(name), **to_come(name), **options)
    assert f.samples.shape == (n, 3, H, 3)
    assert_allclose(f.mean, f.samples.mean(0))
    for b, (x, u) in enumerate(zip(parts(X), parts(U), strict=True)):
        whole = exact(
            model, np.r_[x, np.full((H, 3), NAN)], np.r_[u, FUTURE[b]] if model.n_inputs else None, H
        )
        mean, variance, probs = (v[-H:] for v in whole[:3])
        assert (abs(f.mean[b] - mean) < 5 * np.sqrt(2 * variance / n)).all(), b
        assert_allclose(f.variance[b], variance, rtol=5 * np.sqrt(2 * 2 / n))
        between = ((f.samples[:, b] > f.quantiles[b, 0]) & (f.samples[:, b] < f.quantiles[b, 1])).mean(0)
        assert_allclose(between, 0.5, atol=1e-3)
        if f.state_probs is not None:
            assert_allclose(f.state_probs[b], probs, atol=0.03)
    assert (f.state_probs is None) == ("dmm" in name)


@timely
def test_frames_of_a_path_belong_together(name: str) -> None:
    """The covariance of consecutive frames to come, which no marginal shows."""
    model, n = fitted(name), 6000
    options = given(name, slice(1)) | to_come(name, 0)
    f = model.forecast(X[:1], horizon=H, n_samples=n, random_state=0, **options)
    drawn = f.samples[:, 0].reshape(n, -1)
    means, second = np.zeros(6), np.zeros((6, 6))
    x = X[:1].ravel()
    branches = dense(model, np.ones((1 + H, 3)), np.r_[U[:1], FUTURE[0]] if model.n_inputs else None)
    log_w = [p + multivariate_normal(m[:3], S[:3, :3]).logpdf(x) for p, _, m, S in branches]
    for w, (_, _, m, S) in zip(np.exp(log_w - np.logaddexp.reduce(log_w)), branches, strict=True):
        gain = np.linalg.solve(S[:3, :3], S[:3, 3:]).T
        mean = m[3:] + gain @ (x - m[:3])
        means += w * mean
        second += w * (S[3:, 3:] - gain @ S[:3, 3:] + np.outer(mean, mean))
    cov = second - np.outer(means, means)
    spread = np.sqrt(np.diag(cov))
    assert abs(np.cov(drawn.T) - cov).max() < 5 * 2 / np.sqrt(n) * (spread[:, None] * spread).max()
    if "vae-hmm" not in name:
        assert abs(cov[:3, 3:] / spread[:3, None] / spread[3:]).max() > 0.2, "this would show nothing"


def exact_parts(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """E and Var of every entry of the sequences of X; of single frames where these are independent."""
    if name == "vae":
        return [exact(fitted(name), row[None])[:2] for row in X]
    return [
        exact(fitted(name), x, u if "inputs" in name else None)[:2]
        for x, u in zip(parts(X), parts(U), strict=True)
    ]


@pytest.mark.some(4)
@willing
def test_what_is_filled_in_is_the_conditional_expectation(name: str) -> None:
    model, S = fitted(name), 1000
    filled = model.impute(X, LENGTHS, n_samples=S, random_state=0, **given(name))
    missing = np.isnan(X)
    assert filled.dtype == np.float64
    assert_array_equal(filled[~missing], X[~missing])
    mean, variance = (np.concatenate(v) for v in zip(*exact_parts(name), strict=True))
    spread = variance - (model.scale_.numpy() * SCALE.numpy()) ** 2  # of E p(x | z), not of x
    assert (abs(filled - mean)[missing] < 5 * np.sqrt(2 * spread[missing] / S)).all()
    # the encoder alone, which takes a missing entry for a mean one, would not do; the states of a VAE-HMM read
    # the observed entries alone, so there what would not do is to leave the rest of the frame unread
    partly = missing & ~missing.all(1, keepdims=True)
    read = np.where(partly.any(1, keepdims=True), np.nan, X) if "vae-hmm" in name else X
    alone = abs(model.reconstruct(read, LENGTHS, **given(name)) - mean)[partly]
    assert abs(filled - mean)[partly].mean() < 0.5 * alone.mean()


@pytest.mark.some(4)
@willing
def test_drawn_entries_have_the_conditional_mean_and_variance(name: str) -> None:
    model, n = fitted(name), 3000
    x = X[:4]
    inputs = {k: [u] * n for k, u in given(name, slice(4)).items()}
    drawn = model.impute([x] * n, how="sample", n_samples=60, random_state=0, **inputs).reshape(n, 4, 3)
    missing = np.isnan(x)
    assert (drawn[:, ~missing] == x[~missing]).all()
    found = exact_parts(name)[: 4 if name == "vae" else 1]
    mean, variance = (np.concatenate(v)[missing] for v in zip(*found, strict=True))
    values = drawn[:, missing]
    assert (abs(values.mean(0) - mean) < 5 * np.sqrt(variance / n) + 0.03 * np.sqrt(variance)).all()
    assert_allclose(values.var(0), variance, rtol=5 * np.sqrt(2 / n) + 0.03)


@pytest.mark.parametrize("kind", [VAEHMM, SwitchingDMM])
def test_what_comes_late_is_known_early(kind: Any) -> None:
    """A state that hardly ever moves, eight frames that tell of it little by little, and before them three unseen ones.

    Of a path from t + 1 on not only z_{t+1} speaks of s_t.  With moves that forget z_{t-1} both are Gaussian HMMs.
    """
    rng = np.random.default_rng(2)
    x = np.r_[
        np.full((3, 3), NAN),
        rng.normal(size=(8, 3)) + (D_OFFSET + C @ torch.tensor([0.7, 0.7]).double()).numpy(),
    ]
    model = kind(2, 2, **OPTIONS | {"standardize": False}).fit(x)
    module, means = model.module_, torch.tensor([[0.7, 0.7], [-0.7, -0.7]])
    module.core.load_state_dict(linear_gaussian_core(C, D_OFFSET, SCALE).state_dict())
    with torch.no_grad():
        module.transition.initial_logits.copy_(torch.tensor([0.5, 0.5]).log())
        module.transition.transition_logits.copy_(torch.tensor([[0.999, 0.001], [0.001, 0.999]]).log())
        (module.mean if kind is VAEHMM else module.initial_mean).copy_(means)
        (module.log_scale if kind is VAEHMM else module.initial_log_scale).fill_(0)
        for move, mean in zip(getattr(module, "moves", []), means, strict=False):
            move.weight.fill_(0)
            move.bias.copy_(mean)
            move.raw_variance.fill_(np.log(np.expm1(1.0)))
    twin = GaussianHMM(2, "full")
    twin.startprob_, twin.transmat_ = np.full(2, 0.5), np.array([[0.999, 0.001], [0.001, 0.999]])
    twin.means_ = (means.double() @ C.T + D_OFFSET).numpy()
    twin.covars_ = np.tile((C @ C.T + SCALE.square().diag()).numpy(), (2, 1, 1))
    wanted, S = twin.impute(x), 500
    spread = np.sqrt((C @ C.T).diagonal().numpy() / S)
    assert (abs(model.impute(x, n_samples=S, random_state=0) - wanted)[:3] < 4 * spread).all()
    assert (abs(D_OFFSET.numpy() - wanted[0]) / spread).max() > 8, "nothing to know early"


@pytest.mark.some(4)
@every
def test_scores_of_frames_are_the_growth_of_log_p(name: str) -> None:
    model = fitted(name)
    scores = model.anomaly_scores(X, LENGTHS, n_samples=2000, **given(name))
    assert scores.shape == (7,) and scores[2] == pytest.approx(0, abs=0.05 if "dmm-st" not in name else 0.3)
    if name == "vae":
        truth = [exact(model, row[None])[3] for row in X]
    else:
        growth = [
            [
                exact(model, x[:t], u[:t] if model.n_inputs else None)[3] if t else 0.0
                for t in range(len(x) + 1)
            ]
            for x, u in zip(parts(X), parts(U), strict=True)
        ]
        truth = [np.diff(g) for g in growth]
        bound = model.evaluate(X, LENGTHS, method="smc", n_samples=2000, **given(name)).per_sequence
        assert_allclose([s.sum() for s in parts(scores)], -bound, rtol=1e-5)
    assert_allclose(scores, -np.concatenate([np.atleast_1d(t) for t in truth]), atol=0.25)
    few = [model.anomaly_scores(X, LENGTHS, n_samples=20, **given(name)) for _ in range(2)]
    assert_array_equal(*few)


# -- the same promises as the classical verbs


def test_rows_columns_and_sequences_keep_their_names() -> None:
    index = pd.MultiIndex.from_arrays([list("aaaabcc"), range(7)])
    frame = pd.DataFrame(X, index, ["x", "y", "w"])
    for name in ("dmm", "vae"):
        model = MAKE[name]().fit(frame)
        filled = model.impute(frame, random_state=0)
        assert filled.index.equals(index) and filled.columns.equals(frame.columns)
        assert_array_equal(filled, model.impute(X, LENGTHS, random_state=0))
        assert model.anomaly_scores(frame).index.equals(index)
    f = MAKE["dmm"]().fit(frame).forecast(frame, horizon=2)
    assert f.to_frame().index.tolist() == [(s, h) for s in "abc" for h in (1, 2)]
    assert f.names == ("x", "y", "w") and f.samples is None


def test_what_cannot_be_asked() -> None:
    model = fitted("dmm")
    for wrong, message in (
        ({"horizon": 0}, "horizon=0; it must be a whole number from 1"),
        ({"n_samples": -1}, "n_samples=-1"),
        ({"quantiles": (0.5, 1.0)}, r"quantiles=\(0.5, 1.0\); they are levels between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.forecast(X, LENGTHS, **wrong)
    with pytest.raises(ValueError, match="how='viterbi'; it is 'mean' or 'sample'"):
        model.impute(X, LENGTHS, how="viterbi")
    for ask in (model.impute, model.anomaly_scores):
        with pytest.raises(ValueError, match="n_samples=0; it must be a whole number from 1"):
            ask(X, LENGTHS, n_samples=0)
    with pytest.raises(ValueError, match="X has 2 features"):
        model.impute(X[:, :2], LENGTHS)
    assert not hasattr(VAE, "forecast")


@pytest.mark.some(4)
@pytest.mark.parametrize("kind", [VAE, VAEHMM, DeepMarkovModel, SwitchingDMM])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "made", "poisson", "student-t"])
def test_every_likelihood_is_filled_in_with_what_it_can_give(kind: Any, likelihood: str) -> None:
    whole = np.random.default_rng(0).integers(0, 2, (7, 3)).astype(float)
    holes = np.where(np.isnan(X), NAN, whole)
    model = kind(n_latent=2, likelihood=likelihood, **OPTIONS | {"n_samples": 5}).fit(holes, lengths=LENGTHS)
    drawn = model.impute(holes, LENGTHS, how="sample", random_state=0)
    assert_array_equal(drawn[~np.isnan(X)], whole[~np.isnan(X)])
    if likelihood == "student-t":
        assert np.isfinite(drawn).all()
    else:
        assert np.isin(drawn, range(20) if likelihood == "poisson" else (0, 1)).all()
    assert_array_equal(model.impute(whole, LENGTHS), whole)
    if likelihood == "categorical":
        with pytest.raises(ValueError, match="symbols, which have no mean; use 'sample'"):
            model.impute(holes, LENGTHS)
    else:
        assert np.isfinite(model.impute(holes, LENGTHS, random_state=0)).all()
    assert np.isfinite(model.anomaly_scores(holes, LENGTHS)).all()
    if kind is not VAE:
        f = model.forecast(holes, LENGTHS, n_samples=3, random_state=0)
        assert np.isnan(f.mean).all() == (likelihood == "categorical") and np.isfinite(f.samples).all()


def test_classical_scores_of_frames_are_the_growth_of_log_p() -> None:
    model = GaussianHMM(2, random_state=0, n_iter=3, min_covar=0.1).fit(X, lengths=LENGTHS)
    scores = model.anomaly_scores(X, LENGTHS)
    growth = [np.diff([model.score(x[:t]) if t else 0.0 for t in range(len(x) + 1)]) for x in parts(X)]
    assert_allclose(scores, -np.concatenate(growth), atol=1e-9)
    assert scores[2] == pytest.approx(0, abs=1e-12)


# -- frames that nobody saw, while learning


def test_frames_that_nobody_saw_do_not_draw_a_vae_hmms_states_to_the_origin() -> None:
    """Its first HMM is fitted to latents, and a frame that was not seen has none."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(80, 3)) + np.repeat(rng.choice([-6, 6], 20), 4)[:, None]
    options = OPTIONS | {"n_pretrain": 0, "n_updates": 0}
    alone = VAEHMM(2, 2, **options).fit([seen]).module_.mean.detach()
    beside = VAEHMM(2, 2, **options).fit([seen, np.full((300, 3), NAN)]).module_.mean.detach()
    order = [v[v[:, 0].argsort()] for v in (alone, beside)]
    torch.testing.assert_close(order[1], order[0], rtol=0, atol=0.02)
