"""Forecasts, filled-in entries and scores of frames of a chain that z drives, A(z_{t-1}), by sums over a fine grid.

With one latent, (s_t, z_t) on a grid is a plain chain of many states, whose tables say everything.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import linear_gaussian_core
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm

from dbn_vae import SwitchingDMM

C, OFFSET, SCALE = np.array([1.0, -0.5]), np.array([0.2, 0.1]), np.array([0.6, 0.8])
NAN, H, K = np.nan, 3, 2
X = np.random.default_rng(4).normal(size=(6, 2)) * [1.2, 0.8]
X[1] = X[3, 0] = X[4, 1] = NAN
U, FUTURE = np.random.default_rng(5).normal(size=(6, 1)), np.random.default_rng(6).normal(size=(H, 1))
GRID = np.linspace(-8, 8, 401)
both = pytest.mark.parametrize("driven", [False, True], ids=["z alone", "z and inputs"])


@cache
def fitted(driven: bool) -> Any:
    model = SwitchingDMM(
        K, 1, recurrent=True, hidden=(), n_updates=1, n_pretrain=1, validation=0, standardize=False, random_state=0,
        device="cpu",
    ).fit(X, inputs=U if driven else None)  # fmt: skip
    module = model.module_
    tables = (torch.tensor(v) for v in (C[:, None], OFFSET, SCALE))
    module.core.load_state_dict(linear_gaussian_core(*tables).state_dict())
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for move, (w, b) in zip(module.moves, [(0.9, 0.8), (0.5, -1.0)], strict=True):
            move.weight.fill_(w)
            move.bias.fill_(b)
            move.raw_variance.fill_(-1.0)
        module.initial_mean.copy_(torch.tensor([[0.5], [-0.5]]))
        chain = module.transition
        chain.transition_logits.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        chain.transition_slope.copy_(3 * torch.randn(chain.transition_slope.shape, generator=g))
        chain.initial_slope.copy_(torch.randn(chain.initial_slope.shape, generator=g))
    return model


def on_a_grid(
    model: Any, x: np.ndarray, u: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Given what is seen of x (T, 2): p(s_t) (T, K), E z_t, E z_t² (T,); and log p(x_{1:t}) (T,)."""
    parameters = {k: v.detach().double().numpy() for k, v in model.module_.state_dict().items()}
    slope, logits = parameters["transition.transition_slope"], parameters["transition.transition_logits"]
    begin = parameters["transition.initial_logits"]
    T, step = len(x), GRID[1] - GRID[0]
    if u is not None:
        begin = begin + u[0] @ parameters["transition.initial_slope"][:, 1:].T
    first = norm.logpdf(GRID, parameters["initial_mean"], np.exp(parameters["initial_log_scale"]))  # (K, G)
    moved = np.stack([
        norm.logpdf(
            GRID,
            parameters[f"moves.{k}.weight"].item() * GRID[:, None] + parameters[f"moves.{k}.bias"].item(),
            np.sqrt(np.logaddexp(0, parameters[f"moves.{k}.raw_variance"].item())),
        )
        for k in range(K)
    ])  # (K, G, G'), into state k from z to z'  # fmt: skip
    seen = norm.logpdf(x[:, None], GRID[:, None] * C + OFFSET, SCALE)  # (T, G, 2)
    emission = np.where(np.isnan(x)[:, None], 0.0, seen).sum(-1)

    def table(t: int) -> np.ndarray:
        """log p(s_t = j, z' | s_{t-1} = i, z): (i, z, j, z')."""
        read = GRID[:, None] if u is None else np.c_[GRID, np.full(len(GRID), u[t, 0])]
        A = log_softmax(logits[:, None] + np.einsum("gu,iju->igj", read, slope), -1)
        return A[..., None] + moved.transpose(1, 0, 2) + np.log(step)

    alpha = [log_softmax(begin)[:, None] + first + np.log(step) + emission[0]]
    for t in range(1, T):
        alpha.append(logsumexp(alpha[-1][..., None, None] + table(t), (0, 1)) + emission[t])
    beta = [np.zeros((K, len(GRID)))]
    for t in range(T - 1, 0, -1):
        beta.insert(0, logsumexp(table(t) + emission[t] + beta[0], (2, 3)))
    joint = np.stack(alpha) + np.stack(beta)
    p = np.exp(joint - logsumexp(joint, (1, 2), keepdims=True))
    z = p.sum(1)
    return p.sum(2), z @ GRID, z @ GRID**2, logsumexp(np.stack(alpha), (1, 2))


@both
def test_a_forecast_follows_the_chain_that_z_drives(driven: bool) -> None:
    model, n = fitted(driven), 8000
    options = {"inputs": U, "future_inputs": FUTURE} if driven else {}
    f = model.forecast(X, horizon=H, n_samples=n, random_state=0, **options)
    longer = np.r_[X, np.full((H, 2), NAN)]
    states, z, square, _ = on_a_grid(model, longer, np.r_[U, FUTURE] if driven else None)
    mean = z[-H:, None] * C + OFFSET
    variance = (square - z**2)[-H:, None] * C**2 + SCALE**2
    assert (abs(f.mean[0] - mean) < 5 * np.sqrt(2 * variance / n)).all()
    assert_allclose(f.variance[0], variance, rtol=5 * np.sqrt(2 * 2 / n))
    assert_allclose(f.state_probs[0], states[-H:], atol=5 * 0.5 * np.sqrt(2 / n))
    assert abs(states[-H:] - 0.5).max() > 0.1, "this would show nothing"


@pytest.mark.some(2)
@both
def test_what_is_missing_is_filled_in_by_all_frames(driven: bool) -> None:
    model, S = fitted(driven), 1500
    options = {"inputs": U} if driven else {}
    filled = model.impute(X, n_samples=S, random_state=0, **options)
    _, z, square, upto = on_a_grid(model, X, U if driven else None)
    missing = np.isnan(X)
    spread = np.sqrt((square - z**2) / S)[:, None] * abs(C)
    assert (abs(filled - (z[:, None] * C + OFFSET)) < 5 * np.sqrt(2) * spread)[missing].all()
    scores = model.anomaly_scores(X, n_samples=S, **options)
    assert_allclose(scores, -np.diff(upto, prepend=0.0), atol=0.1)


def test_a_chain_that_hears_nothing_of_z_forecasts_as_a_plain_one() -> None:
    """The same numbers, drawn in the same order."""
    options = {
        "hidden": (3,),
        "n_updates": 2,
        "n_pretrain": 2,
        "validation": 0,
        "random_state": 0,
        "device": "cpu",
    }
    plain = SwitchingDMM(K, 2, **options).fit(X)
    deaf = SwitchingDMM(K, 2, recurrent=True, **options).fit(X)
    held = plain.module_.state_dict()
    slopes = {k: torch.zeros_like(v) for k, v in deaf.module_.state_dict().items() if "slope" in k}
    deaf.module_.load_state_dict(held | slopes)
    assert_allclose(*(m.impute(X, n_samples=9, random_state=1) for m in (plain, deaf)), atol=1e-5)
    assert_allclose(*(m.anomaly_scores(X, n_samples=9) for m in (plain, deaf)), atol=1e-5)
    a, b = (m.forecast(X, horizon=H, n_samples=5, random_state=1) for m in (plain, deaf))
    assert_allclose(a.samples, b.samples, atol=1e-5)
    assert_allclose(a.state_probs, b.state_probs, atol=0.06)  # along 1,000 paths, and without any
