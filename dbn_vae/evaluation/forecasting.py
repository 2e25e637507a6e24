"""How good predictions are: p(x_t | x_{1:t-h}), h = 1 or `horizon` steps ahead, against the x_t that came.

    log score          log p(x_t | x_{1:t-h}), all entries of a frame together; for h = 1 they sum to the log-likelihood
    CRPS               ∫ (F(x) − [x ≥ x_td])² dx, in the units of x, smaller is better
    PIT                F(x_td), uniform under the true model; between F(x_td −) and F(x_td) at random where x is whole
    pseudo-residuals   Φ⁻¹ of the PIT, standard normal under the true model; "ordinary" ones condition on all other
                       frames, later ones too, "forecast" ones on the frames before
    coverage           the share of entries inside the central interval of a level

What is said of entries is (n, D), each by its own marginal F, NaN where nothing was observed; rows are those of X.

Sources: Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation; Grimit, Gneiting,
Berrocal and Johnson (2006), QJRMS 132, eq. 5, for the CRPS of Gaussian mixtures; Ferro (2014) for the fair estimator;
Zucchini, MacDonald and Langrock (2016), Hidden Markov models for time series, ch. 6.
"""

from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import norm

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.predictive import cdf, discrete, gaussian_parts, moments, plain
from dbn_vae.models.base import StateModel
from dbn_vae.models.hmm import HMM, require_no_inputs
from dbn_vae.sequences import Sequences


class Predictions(Protocol):
    """What the scores ask of a posterior."""

    data: Sequences

    @property
    def log_scores(self) -> Any: ...
    @property
    def log_emission(self) -> Any: ...
    @property
    def leave_one_out(self) -> Any: ...
    def ahead(self, h: int) -> Any: ...


class Predictor(Protocol):
    """What the scores ask of a model; the classical HMMs answer it."""

    def posterior(self, X: Any, lengths: Any = None) -> Predictions: ...
    def state_model(self) -> StateModel: ...
    def generator(self, random_state: Any = None) -> torch.Generator: ...


def log_score(model: Predictor, X: Any, lengths: Any = None, *, horizon: int = 1) -> np.ndarray:
    """log p(x_t | x_{1:t-h}) of every frame, h = horizon, in nats: (n,); 0 where nothing was observed.

    The first h frames of a sequence are predicted from nothing, by every score.
    """
    posterior = model.posterior(X, lengths)
    if horizon == 1:
        return np.asarray(posterior.log_scores)
    with np.errstate(divide="ignore"):
        joint = np.log(np.asarray(posterior.ahead(horizon))) + np.asarray(posterior.log_emission)
    seen = posterior.data.observed.flatten(1).any(1).numpy()
    return np.where(seen, np.logaddexp.reduce(joint, 1), 0.0)


def crps(
    model: Predictor,
    X: Any,
    lengths: Any = None,
    *,
    horizon: int = 1,
    n_samples: int = 1000,
    random_state: Any = None,
) -> np.ndarray:
    """The continuous ranked probability score of every entry: (n, D).

    Exact for Gaussians and their mixtures; for other families the fair estimate from n_samples draws a frame.
    """
    x, weights, emission = predicted(model, X, lengths, horizon)
    with torch.no_grad():
        parts = gaussian_parts(emission)
        if parts is not None:
            mixing, mean, scale = (plain(p) for p in parts)
            w = (weights[..., None] * mixing).reshape(len(x), 1, -1)
            shape = (1, x.shape[1], -1)
            return crps_gaussian_mixture(
                x, w, mean.transpose(2, 0, 1).reshape(shape), scale.transpose(2, 0, 1).reshape(shape)
            )
        if n_samples < 2:
            raise ValueError(f"n_samples={n_samples}; the fair estimate needs at least 2")
        if bool(moments(emission)[0].isnan().any()):
            raise ValueError("crps measures distances, which symbols and angles do not have; use log_score")
        generator = model.generator(random_state)
        out = np.empty(x.shape)
        for t, row in enumerate(weights):  # a frame at a time: S draws of all frames would fill memory
            states = torch.multinomial(
                torch.from_numpy(row), n_samples, replacement=True, generator=generator
            )
            out[t] = crps_sample(x[t], plain(emission.sample(states, generator)))
        return out


def crps_gaussian_mixture(
    x: np.ndarray, weights: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Σ w_m A(x − μ_m, σ_m²) − ½ Σ w_m w_n A(μ_m − μ_n, σ_m² + σ_n²): x (...), the others (..., M) to (...).

    A(d, v) = E |d + √v ε| with ε ~ N(0, 1).
    """
    near = (weights * absolute(x[..., None] - mean, scale)).sum(-1)
    spread = np.hypot(scale[..., None], scale[..., None, :])
    pairs = absolute(mean[..., None] - mean[..., None, :], spread)
    return near - 0.5 * ((weights[..., None] * weights[..., None, :]) * pairs).sum((-2, -1))


def absolute(distance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """E |distance + scale · ε|."""
    z = distance / scale
    return distance * (2 * norm.cdf(z) - 1) + 2 * scale * norm.pdf(z)


def crps_sample(x: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """(1/S) Σ |x_i − x| − 1 / (2 S (S − 1)) Σ_ij |x_i − x_j|, unbiased: x (...), samples (S, ...), S ≥ 2."""
    S = len(samples)
    near = abs(samples - x).mean(0)
    rank = np.arange(1 - S, S, 2).reshape(-1, *[1] * x.ndim)  # Σ_ij |x_i − x_j| = 2 Σ_r (2r − S + 1) x_(r)
    return near - (rank * np.sort(samples, 0)).sum(0) / (S * (S - 1))


def pit(
    model: Predictor, X: Any, lengths: Any = None, *, horizon: int = 1, random_state: Any = None
) -> np.ndarray:
    """The probability integral transform of every entry: (n, D), between 0 and 1.

    random_state: for whole numbers, where the value is drawn between the two ends of a step of F.
    """
    x, weights, emission = predicted(model, X, lengths, horizon)
    return transformed(emission, weights, x, model.generator(random_state))[0]


def pseudo_residuals(
    model: Predictor,
    X: Any,
    lengths: Any = None,
    *,
    kind: str = "ordinary",
    horizon: int = 1,
    random_state: Any = None,
) -> np.ndarray:
    """Normal pseudo-residuals of every entry: (n, D).

    Args:
        kind: "ordinary", of x_t given all other frames, for outliers; "forecast", given those before.
    """
    if kind not in ("ordinary", "forecast"):
        raise ValueError(f"kind={kind!r}; it is 'ordinary' or 'forecast'")
    if kind == "ordinary" and horizon != 1:
        raise ValueError(f"horizon={horizon}: ordinary residuals know all other frames; use kind='forecast'")
    x, weights, emission = predicted(model, X, lengths, horizon, others=kind == "ordinary")
    below, above = transformed(emission, weights, x, model.generator(random_state))
    # from the smaller tail: 1 − 1e-20 is 1, and its residual would be ∞ instead of 9.3
    return np.where(below < 0.5, ndtri(below), -ndtri(above))


def coverage(
    model: Predictor, X: Any, lengths: Any = None, *, level: float = 0.9, horizon: int = 1
) -> np.ndarray:
    """The share of observed entries inside the central predictive interval of the level, column by column: (D,).

    Under the true model it is the level, for whole numbers at least the level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}; it is a probability between 0 and 1, such as 0.9")
    x, weights, emission = predicted(model, X, lengths, horizon)
    with torch.no_grad():
        upto = mixed(emission, weights, x)
        under = np.where(discrete(emission), mixed(emission, weights, x - 1), upto)
    inside = (upto >= (1 - level) / 2) & (under < (1 + level) / 2)
    return np.nanmean(np.where(np.isnan(x), np.nan, inside), 0)


def predicted(
    model: Predictor, X: Any, lengths: Any, horizon: int, others: bool = False
) -> tuple[np.ndarray, np.ndarray, Emission]:
    """Frames (n, D), NaN where missing, the weights (n, K) of the states before x_t is seen, and the emission."""
    posterior = model.posterior(X, lengths)
    module = model.state_model()
    if not isinstance(module, HMM):
        raise TypeError(
            f"{type(model).__name__} has no predictive density in closed form; use a classical HMM"
        )
    require_no_inputs(module, "a score of predictions")
    weights = posterior.leave_one_out if others else posterior.ahead(horizon)
    return posterior.data.stacked()[0], np.asarray(weights), module.emission


def transformed(
    emission: Emission, weights: np.ndarray, x: np.ndarray, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """F(x) and 1 − F(x), for whole numbers at random within the step of F at x: (n, D) each."""
    with torch.no_grad():
        below, above = mixed(emission, weights, x), mixed(emission, weights, x, upper=True)
        whole = discrete(emission)
        if not whole.any():
            return below, above
        u = torch.rand(x.shape, generator=generator, dtype=torch.float64).numpy()
        below_step = mixed(emission, weights, x - 1)
        above_step = mixed(emission, weights, x - 1, upper=True)
    return (
        np.where(whole, (1 - u) * below_step + u * below, below),
        np.where(whole, (1 - u) * above_step + u * above, above),
    )


def mixed(emission: Emission, weights: np.ndarray, x: np.ndarray, upper: bool = False) -> np.ndarray:
    """Σ_k w_k F_k(x), or of the upper tails: (n, D), NaN where x is."""
    total = (weights[..., None] * cdf(emission, x, upper)).sum(-2)
    return np.where(np.isnan(x), np.nan, total)
