"""Forecasts of autoregressions: the closed form of one state, and all paths of states written out for more."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from driven_chains import two_states
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from dbn_vae import HSMM, EmissionHMM, emissions
from dbn_vae.models import HMM
from dbn_vae.models import HSMM as Module
from dbn_vae.transitions import NegativeBinomialDuration, SemiMarkov, Stationary

K, D, P, U, T, H = 2, 2, 2, 1, 5, 4
RNG = np.random.default_rng(5)
X, INPUTS, FUTURE = RNG.normal(size=(T, D)), RNG.normal(size=(T, U)), RNG.normal(size=(H, U))


def f64(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tensor(*shape: int) -> torch.Tensor:
    return torch.as_tensor(RNG.normal(size=shape))


def covariance(n: int = K, width: int = D) -> torch.Tensor:
    root = tensor(n, width, width)
    return root @ root.mT + 0.3 * torch.eye(width)


def chain(driven: bool) -> Any:
    return two_states(RNG, U, driven)


def known(emission: Any, transition: Any) -> EmissionHMM:
    model = EmissionHMM(emission, transition, random_state=0)
    model.model_ = HMM(transition, emission)
    return model


def autoregression(n: int = K, width: int = D, order: int = P) -> emissions.Autoregressive:
    return emissions.Autoregressive(
        2 * tensor(n, width), 0.5 * tensor(n, order, width, width), covariance(n, width)
    )


def test_one_state_is_the_closed_form_of_an_autoregression() -> None:
    """E x_{T+h} by the recursion, Var = Σ_i Ψ_i Σ Ψ_iᵀ with Ψ_0 = I, Ψ_i = Σ_l A_l Ψ_{i−l} (Lütkepohl 2005, ch. 2)."""
    emission = autoregression(1)
    model = known(emission, Stationary(torch.ones(1).double(), torch.ones(1, 1).double()))
    b, A, S = (p.detach().numpy()[0] for p in (emission.mean, emission.coefficients(), emission.covariance()))
    f = model.forecast(X, horizon=7, n_samples=4000, random_state=0)
    path, psi, spread = list(X), [np.eye(D)], np.zeros((D, D))
    for h in range(7):
        path.append(b + sum(A[lag] @ path[-1 - lag] for lag in range(P)))
        spread = spread + psi[h] @ S @ psi[h].T
        psi.append(sum(A[lag] @ psi[h - lag] for lag in range(P) if h >= lag))
        assert_allclose(f.mean[0, h], path[-1], rtol=1e-10)
        assert_allclose(f.variance[0, h], spread.diagonal(), rtol=1e-10)
    error = np.sqrt(f.variance[0] / 4000)
    assert (abs(f.samples[:, 0].mean(0) - f.mean[0]) < 4.5 * error).all()
    assert (abs(f.samples[:, 0].var(0) / f.variance[0] - 1) < 4.5 * np.sqrt(2 / 4000)).all()
    z = (f.quantiles[0] - f.mean[0]) / np.sqrt(f.variance[0])
    assert_allclose(z, np.broadcast_to([[[-1.645]], [[0]], [[1.645]]], z.shape), atol=0.15)


def enumerated(model: EmissionHMM, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all paths through x and H frames more: weights, and moments (H, D), (H D, H D) of the latter given the path.

    Every frame to come is written as a linear map of noise: x_{T+h} = m_h + L_h ε.
    """
    e, t = model.model_.emission, model.model_.transition
    v = torch.as_tensor(u)[None]
    with torch.no_grad():
        start = t.log_initial(v).numpy().reshape(K)
        move = np.broadcast_to(t.log_transition(v).numpy().reshape(-1, K, K), (len(u) - 1, K, K))
        b, A, S = e.mean.numpy(), e.coefficients().numpy(), e.covariance().numpy()
    root, n = np.linalg.cholesky(S), len(x)
    log_w, means, spreads = [], [], []
    for path in product(range(K), repeat=n + H):
        log_p = start[path[0]] + sum(move[i, path[i], path[i + 1]] for i in range(n + H - 1))
        frames, maps = list(x), [np.zeros((D, H * D))] * n
        for i in range(P, n):
            k = path[i]
            log_p += multivariate_normal(b[k] + sum(A[k, j] @ x[i - 1 - j] for j in range(P)), S[k]).logpdf(
                x[i]
            )
        for h in range(H):
            k = path[n + h]
            frames.append(b[k] + sum(A[k, j] @ frames[-1 - j] for j in range(P)))
            new = np.zeros((D, H * D))
            new[:, h * D : (h + 1) * D] = root[k]
            maps.append(new + sum(A[k, j] @ maps[-1 - j] for j in range(P)))
        L = np.concatenate(maps[n:])
        log_w.append(log_p)
        means.append(np.stack(frames[n:]))
        spreads.append(L @ L.T)
    w = np.exp(np.array(log_w) - np.logaddexp.reduce(log_w))
    return w, np.stack(means), np.stack(spreads)


@pytest.mark.parametrize("driven", [False, True])
def test_more_states_are_the_sum_over_all_paths(driven: bool) -> None:
    model = known(autoregression(), chain(driven))
    given = {"inputs": INPUTS, "future_inputs": FUTURE} if driven else {}
    f = model.forecast(X, horizon=H, n_samples=6000, random_state=1, **given)
    w, means, spreads = enumerated(model, X, np.r_[INPUTS, FUTURE])
    flat = means.reshape(len(w), -1)
    mean = w @ flat
    total = np.tensordot(w, spreads + (flat - mean)[:, :, None] * (flat - mean)[:, None], 1)
    assert_allclose(f.mean[0].ravel(), mean, rtol=1e-9)
    assert_allclose(f.variance[0].ravel(), total.diagonal(), rtol=1e-9)
    drawn = f.samples[:, 0].reshape(6000, -1)
    apart = drawn - mean
    products = apart[:, :, None] * apart[:, None]
    assert (abs(drawn.mean(0) - mean) < 4.5 * drawn.std(0) / np.sqrt(6000)).all()
    # joint through time: the covariances of all pairs of entries
    assert (abs(products.mean(0) - total) < 4.5 * products.std(0) / np.sqrt(6000)).all()
    below = (drawn[:, None] <= f.quantiles[0].reshape(1, 3, -1)).mean(0)
    assert_allclose(below, np.broadcast_to([[0.05], [0.5], [0.95]], below.shape), atol=1e-3)


def test_sequences_stand_alone_and_stays_that_are_geometric_are_the_chain() -> None:
    emission, stay = autoregression(), f64([0.8, 0.6])
    hmm = known(emission, Stationary(f64([0.3, 0.7]), f64([[0.8, 0.2], [0.4, 0.6]])))
    durations = NegativeBinomialDuration(stay / (1 - stay), torch.ones(2).double(), 150, geometric=True)
    moves = Stationary(f64([0.3, 0.7]), f64([[0.0, 1], [1, 0]]))
    semi = HSMM(emission, max_duration=150, random_state=0)
    semi.model_ = Module(SemiMarkov(moves, durations), emission)
    parts = [X, X[1:], X[::-1].copy()]
    both, one = (m.forecast(parts, horizon=6) for m in (semi, hmm))
    for name in ("mean", "variance", "state_probs"):
        assert_allclose(getattr(both, name), getattr(one, name), rtol=1e-8, err_msg=name)
        for b, part in enumerate(parts):
            assert_allclose(
                getattr(hmm.forecast(part, horizon=6), name)[0], getattr(one, name)[b], rtol=1e-10
            )


def test_blocks_that_remember_are_one_autoregression() -> None:
    """Two columns of their own coefficients, out of order, are an autoregression with diagonal matrices."""
    a, b = autoregression(width=1, order=1), autoregression(width=1, order=1)
    mean, slope, S = (
        torch.cat([getattr(b, n).detach(), getattr(a, n).detach()], 1) for n in ("mean", "slope", "factor")
    )
    whole = emissions.Autoregressive(
        mean, slope[..., 0].diag_embed()[:, None], S[..., 0].square().diag_embed()
    )
    blocks = emissions.Product([a, b], [[1], [0]])
    f, g = (known(e, chain(False)).forecast(X, horizon=H) for e in (blocks, whole))
    assert_allclose(f.mean, g.mean, rtol=1e-10)
    assert_allclose(f.variance, g.variance, rtol=1e-10)


def test_an_autoregression_beside_a_regression_and_mixtures_of_them_are_drawn() -> None:
    """Means of draws: of a mixture, against the chain whose states are pairs of a state and a component."""
    beside = emissions.Product([autoregression(width=1), emissions.LinearRegression(
        tensor(K, 1), 2 * tensor(K, 1, U), covariance(K, 1))])  # fmt: skip
    f = known(beside, chain(True)).forecast(
        X, horizon=H, inputs=INPUTS, future_inputs=FUTURE, n_samples=4000, random_state=0
    )
    assert (abs(f.samples.mean(0) - f.mean) < 4.5 * np.sqrt(f.variance / 4000)).all()
    component, w = autoregression(2 * K), f64([[0.3, 0.7], [0.6, 0.4]])
    mixed = known(emissions.Mixture(component, w), chain(False))
    start, A = (t.exp().detach() for t in mixed.model_.tables())
    pairs = Stationary(
        (start[:, None] * w).flatten(), (A[:, None, :, None] * w).expand(2, 2, 2, 2).reshape(4, 4)
    )
    g = mixed.forecast(X, horizon=H, n_samples=4000, random_state=0)
    exact = known(component, pairs).forecast(X, horizon=H)
    assert (abs(g.mean - exact.mean) < 4.5 * np.sqrt(exact.variance / 4000)).all()
    assert_allclose(g.state_probs[..., 0], exact.state_probs[..., :2].sum(-1), rtol=1e-9)


def test_what_a_forecast_of_an_autoregression_needs() -> None:
    model, holes = known(autoregression(), chain(False)), X.copy()
    holes[2, 0] = np.nan
    model.forecast(holes)  # two whole frames follow
    holes[3, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"of sequences \[1\] the last 2 frames are not all known.*Autoregressive"
    ):
        model.forecast([X, holes])
    with pytest.raises(ValueError, match=r"of sequences \[0\] the last 2 frames are not all known"):
        model.forecast(X[:1])
    blocks = emissions.Product([autoregression(width=1), emissions.Poisson(torch.ones(K, 1).double())])
    counts = np.abs(X).round()
    counts[-1, 1] = np.nan  # which nothing conditions on
    assert np.isfinite(known(blocks, chain(False)).forecast(counts, horizon=2).mean).all()
    once = model.forecast(X, horizon=3, random_state=3)
    assert_array_equal(once.quantiles, model.forecast(X, horizon=3, random_state=3).quantiles)
