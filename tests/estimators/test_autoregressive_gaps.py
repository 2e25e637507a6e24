"""What is missing of an autoregression: all frames after the first as one Gaussian for every path of states."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from driven_chains import two_states
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from dbn_vae import HSMM, EmissionHMM, emissions
from dbn_vae.models import HMM
from dbn_vae.transitions import Stationary

K, D, U, T = 2, 2, 1, 8
RNG = np.random.default_rng(8)
X, INPUTS = RNG.normal(size=(T, D)), RNG.normal(size=(T, U))


def f64(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tensor(*shape: int) -> torch.Tensor:
    return torch.as_tensor(RNG.normal(size=shape))


def chain(driven: bool) -> Any:
    return two_states(RNG, U, driven)


def known(order: int, driven: bool = False, n: int = K) -> EmissionHMM:
    root = tensor(n, D, D)
    emission = emissions.Autoregressive(
        2 * tensor(n, D), 0.5 * tensor(n, order, D, D), root @ root.mT + 0.3 * torch.eye(D)
    )
    transition = chain(driven) if n > 1 else Stationary(f64([1.0]), f64([[1.0]]))
    model = EmissionHMM(emission, transition, random_state=0)
    model.model_ = HMM(transition, emission)
    return model


def told(
    model: EmissionHMM, x: np.ndarray, u: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every path: its weight given what was seen, and mean (m,) and covariance (m, m) of what was not.

    The frames after the first p, which are known, are m + L ε; the missing ones follow from the others by conditioning.
    """
    e, t = model.model_.emission, model.model_.transition
    v = None if u is None else torch.as_tensor(u)[None]
    n, k_all, p = len(x), e.n_components, e.order
    with torch.no_grad():
        start = t.log_initial(v).numpy().reshape(-1)
        A = np.broadcast_to(t.log_transition(v).numpy().reshape(-1, k_all, k_all), (n - 1, k_all, k_all))
        b, W, S = e.mean.numpy(), e.coefficients().numpy(), e.covariance().numpy()
    root, o = np.linalg.cholesky(S), ~np.isnan(x[p:]).ravel()
    log_w, means, spreads = [], [], []
    for path in product(range(k_all), repeat=n):
        log_p = start[path[0]] + sum(A[i, path[i], path[i + 1]] for i in range(n - 1))
        centres, maps = list(x[:p]), [np.zeros((D, (n - p) * D))] * p
        for i in range(p, n):
            k = path[i]
            new = np.zeros((D, (n - p) * D))
            new[:, (i - p) * D : (i - p + 1) * D] = root[k]
            maps.append(new + sum(W[k, lag] @ maps[i - 1 - lag] for lag in range(p)))
            centres.append(b[k] + sum(W[k, lag] @ centres[i - 1 - lag] for lag in range(p)))
        m, L = np.concatenate(centres[p:]), np.concatenate(maps[p:])
        V = L @ L.T
        gain = V[~o][:, o] @ np.linalg.inv(V[o][:, o])
        seen = x[p:].ravel()[o]
        log_w.append(log_p + multivariate_normal(m[o], V[o][:, o]).logpdf(seen))
        means.append(m[~o] + gain @ (seen - m[o]))
        spreads.append(V[~o][:, ~o] - gain @ V[o][:, ~o])
    w = np.exp(np.array(log_w) - np.logaddexp.reduce(log_w))
    return w, np.stack(means), np.stack(spreads)


HOLES: dict[str, list[tuple[int, int]]] = {
    "an entry": [(4, 1)],
    "a frame": [(4, 0), (4, 1)],
    "two gaps apart": [(2, 0), (6, 1)],
    "two gaps that touch": [(3, 0), (3, 1), (5, 1)],
    "the end": [(6, 0), (7, 0), (7, 1)],
}
CASES = [(order, driven, where) for order in (1, 2) for driven in (False, True) for where in HOLES]


def holed(where: str) -> np.ndarray:
    x = X.copy()
    for t, d in HOLES[where]:
        x[t, d] = np.nan
    return x


@pytest.mark.some(4)
@pytest.mark.parametrize(("order", "driven", "where"), CASES)
def test_what_is_filled_in_is_the_sum_over_all_paths(order: int, driven: bool, where: str) -> None:
    model, x, u = known(order, driven), holed(where), INPUTS if driven else None
    w, means, _ = told(model, x, u)
    missing = np.isnan(x)
    filled = model.impute(x, inputs=u)
    assert_allclose(filled[missing], w @ means, rtol=1e-8)
    assert_array_equal(filled[~missing], X[~missing])
    best = model.impute(x, inputs=u, how="viterbi")
    assert_allclose(best[missing], means[w.argmax()], rtol=1e-8)


def test_draws_have_the_joint_moments_of_the_sum_over_all_paths() -> None:
    """Across gaps too.  Frames of 0 tell nothing of states at −3 and 3 that last: what one gap got, the next gets."""
    emission = emissions.Autoregressive(
        f64([[0.0, -3.0], [0.0, 3.0]]),
        torch.zeros(2, 1, 2, 2).double(),
        torch.eye(2).double().repeat(2, 1, 1),
    )
    model = EmissionHMM(
        emission, Stationary(f64([0.5, 0.5]), f64([[0.97, 0.03], [0.03, 0.97]])), random_state=0
    )
    model.model_ = HMM(model.transition, emission)
    x, n = np.zeros((7, 2)), 250
    x[[2, 5], 1] = np.nan
    w, means, spreads = told(model, x, None)
    mean = w @ means
    apart = means - mean
    total = np.tensordot(w, spreads + apart[:, :, None] * apart[:, None], 1)
    assert total[0, 1] > 6
    found = np.stack([model.impute(x, how="sample", random_state=i)[np.isnan(x)] for i in range(n)])
    assert (abs(found.mean(0) - mean) < 4.5 * np.sqrt(total.diagonal() / n)).all()
    products = (found - mean)[:, :, None] * (found - mean)[:, None]
    assert (abs(products.mean(0) - total) < 4.5 * products.std(0) / np.sqrt(n)).all()


def test_frames_missing_at_the_end_are_a_forecast_and_sequences_stand_alone() -> None:
    model = known(2)
    nothing = np.full((3, D), np.nan)
    parts = [np.r_[X, nothing], X, np.r_[X[3:], nothing], holed("a frame")]
    filled = np.split(model.impute(parts), np.cumsum([len(part) for part in parts])[:-1])
    f = model.forecast([X, X[3:]], horizon=3)
    assert_allclose(filled[0][-3:], f.mean[0], rtol=1e-9)
    assert_allclose(filled[2][-3:], f.mean[1], rtol=1e-9)
    assert_array_equal(filled[1], X)
    assert_allclose(filled[3], model.impute(holed("a frame")), rtol=1e-12)
    frame = pd.DataFrame(holed("the end"), pd.RangeIndex(5, 13), ["a", "b"])
    assert model.impute(frame).index.equals(frame.index)


def test_first_frames_follow_from_later_ones_where_they_can() -> None:
    """One state, A invertible: x_1 is the generalised least squares of x_2 = b + A x_1 + ε; without A, nothing."""
    model = known(1, n=1)
    e, x = model.model_.emission, X.copy()
    x[0] = np.nan
    b, A = e.mean.detach().numpy()[0], e.coefficients().detach().numpy()[0, 0]
    assert_allclose(model.impute(x)[0], np.linalg.solve(A, X[1] - b), rtol=1e-8)
    with torch.no_grad():
        e.slope.zero_()
    with pytest.raises(ValueError, match=r"frames 0 to 0 of sequence 0 does not follow from what was seen"):
        model.impute(x)
    with pytest.raises(ValueError, match="does not follow from what was seen"):
        known(2).impute(np.full((2, D), np.nan))


def test_what_cannot_be_filled_in() -> None:
    long = np.r_[X, np.full((12, D), np.nan), X]
    with pytest.raises(NotImplementedError, match=r"frames 8 to 19 of sequence 1 are missing.*2\^13 paths"):
        known(1).impute([X, long])
    blocks = emissions.Product([known(1).model_.emission])
    model = EmissionHMM(blocks, chain(False))
    model.model_ = HMM(model.transition, blocks)
    with pytest.raises(NotImplementedError, match=r"impute of Product, which conditions on earlier frames"):
        model.impute(holed("a frame"))
    stays = HSMM(known(1).model_.emission, "poisson", max_duration=4, n_init=1, n_iter=1, random_state=0)
    with pytest.raises(NotImplementedError, match="in a chain without durations"):
        stays.fit(np.tile(X, (3, 1))).impute(holed("a frame"))
