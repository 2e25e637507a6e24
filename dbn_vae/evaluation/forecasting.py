"""How good predictions are: p(x_t | x_{1:t-h}), h = 1 or `horizon` steps ahead, against the x_t that came.

    log score          log p(x_t | x_{1:t-h}), all entries of a frame together; for h = 1 they sum to the log-likelihood
    CRPS               ∫ (F(x) − [x ≥ x_td])² dx, in the units of x, smaller is better
    PIT                F(x_td), uniform under the true model; between F(x_td −) and F(x_td) at random where x is whole
    pseudo-residuals   Φ⁻¹ of the PIT, standard normal under the true model; "ordinary" ones condition on all other
                       frames, later ones too, "forecast" ones on the frames before
    coverage           the share of entries inside the central interval of a level

What is said of entries is (n, D), each by its own marginal F, NaN where nothing was observed; rows are those of X.
Models that read inputs (N, U) take them as inputs=: those of frame t are known when it is predicted.

Sources: Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation; Grimit, Gneiting,
Berrocal and Johnson (2006), QJRMS 132, eq. 5, for the CRPS of Gaussian mixtures; Ferro (2014) for the fair estimator;
Zucchini, MacDonald and Langrock (2016), Hidden Markov models for time series, ch. 6.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from dbn_vae.emissions.ahead import MOST, after_paths
from dbn_vae.emissions.autoregressive import Autoregressive
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.context import Rows, counted, over_contexts
from dbn_vae.emissions.predictive import cdf, discrete, gaussian_parts, moments, plain
from dbn_vae.models.base import StateModel
from dbn_vae.models.hmm import HMM, frames
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

    def posterior(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> Predictions: ...
    def state_model(self) -> StateModel: ...
    def generator(self, random_state: Any = None) -> torch.Generator: ...


class Predicted(NamedTuple):
    """What is known of every frame before it is seen, and the frame."""

    x: np.ndarray  # (n, D), NaN where missing or without a density
    weights: np.ndarray  # (n, K) of the states
    emission: Emission
    context: Tensor | None  # (n, C), where the emission reads some
    generator: torch.Generator

    def ask(self, question: Callable[[Emission, Rows], np.ndarray]) -> np.ndarray:
        """question(family, rows) under the context of every row, together in the order of the rows."""
        with torch.no_grad():
            found = over_contexts(
                self.emission, self.context, lambda family, rows: torch.as_tensor(question(family, rows))
            )
        return found.numpy()


def log_score(
    model: Predictor, X: Any, lengths: Any = None, *, horizon: int = 1, inputs: Any = None
) -> np.ndarray:
    """log p(x_t | x_{1:t-h}) of every frame, h = horizon, in nats: (n,); 0 where nothing was observed.

    The first h frames of a sequence are predicted from nothing, by every score.
    """
    posterior = model.posterior(X, lengths, inputs=inputs)
    if horizon == 1:
        return np.asarray(posterior.log_scores)
    module = model.state_model()
    if isinstance(module, HMM) and module.emission.order:
        module = near_numpy(module)
        family, weights, x, observed = after_some(module, posterior, horizon)
        with torch.no_grad():
            log_emission = plain(family.log_prob(x, observed))
        seen = counted(family, observed).any(1).cpu().numpy()
    else:
        weights, log_emission = np.asarray(posterior.ahead(horizon)), np.asarray(posterior.log_emission)
        seen = posterior.data.observed.flatten(1).any(1).numpy()
    with np.errstate(divide="ignore"):
        joint = np.log(weights) + log_emission
    return np.where(seen, np.logaddexp.reduce(joint, 1), 0.0)


def crps(
    model: Predictor,
    X: Any,
    lengths: Any = None,
    *,
    horizon: int = 1,
    n_samples: int = 1000,
    random_state: Any = None,
    inputs: Any = None,
) -> np.ndarray:
    """The continuous ranked probability score of every entry: (n, D).

    Exact for Gaussians and their mixtures; for other families the fair estimate from n_samples draws a frame.
    """
    p = predicted(model, X, lengths, horizon, inputs, random_state)

    def scored(family: Emission, rows: Rows) -> np.ndarray:
        x, weights, parts = p.x[rows], p.weights[rows], gaussian_parts(family)
        if parts is not None:
            mixing, mean, scale = (plain(part) for part in parts)
            w = (weights[..., None] * mixing).reshape(len(x), 1, -1)
            shape = (1, x.shape[1], -1)
            return crps_gaussian_mixture(
                x, w, mean.transpose(2, 0, 1).reshape(shape), scale.transpose(2, 0, 1).reshape(shape)
            )
        if n_samples < 2:
            raise ValueError(f"n_samples={n_samples}; the fair estimate needs at least 2")
        if bool(moments(family)[0].isnan().any()):
            raise ValueError("crps measures distances, which symbols and angles do not have; use log_score")
        out = np.empty(x.shape)
        for t, row in enumerate(weights):  # a frame at a time: S draws of all frames would fill memory
            states = torch.multinomial(
                torch.from_numpy(row), n_samples, replacement=True, generator=p.generator
            )
            out[t] = crps_sample(x[t], plain(family.sample(states, p.generator)))
        return out

    return p.ask(scored)


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
    model: Predictor,
    X: Any,
    lengths: Any = None,
    *,
    horizon: int = 1,
    random_state: Any = None,
    inputs: Any = None,
) -> np.ndarray:
    """The probability integral transform of every entry: (n, D), between 0 and 1.

    random_state: for whole numbers, where the value is drawn between the two ends of a step of F.
    """
    return transformed(predicted(model, X, lengths, horizon, inputs, random_state))[0]


def pseudo_residuals(
    model: Predictor,
    X: Any,
    lengths: Any = None,
    *,
    kind: str = "ordinary",
    horizon: int = 1,
    random_state: Any = None,
    inputs: Any = None,
) -> np.ndarray:
    """Normal pseudo-residuals of every entry: (n, D).

    Args:
        kind: "ordinary", of x_t given all other frames, for outliers; "forecast", given those before.

    Raises NotImplementedError for ordinary ones of families that read earlier frames: x_t has a say in later ones.
    """
    if kind not in ("ordinary", "forecast"):
        raise ValueError(f"kind={kind!r}; it is 'ordinary' or 'forecast'")
    if kind == "ordinary" and horizon != 1:
        raise ValueError(f"horizon={horizon}: ordinary residuals know all other frames; use kind='forecast'")
    others = kind == "ordinary"
    below, above = transformed(predicted(model, X, lengths, horizon, inputs, random_state, others))
    # from the smaller tail: 1 − 1e-20 is 1, and its residual would be ∞ instead of 9.3
    return np.where(below < 0.5, ndtri(below), -ndtri(above))


def coverage(
    model: Predictor,
    X: Any,
    lengths: Any = None,
    *,
    level: float = 0.9,
    horizon: int = 1,
    inputs: Any = None,
) -> np.ndarray:
    """The share of observed entries inside the central predictive interval of the level, column by column: (D,).

    Under the true model it is the level, for whole numbers at least the level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}; it is a probability between 0 and 1, such as 0.9")
    p = predicted(model, X, lengths, horizon, inputs)

    def within(family: Emission, rows: Rows) -> np.ndarray:
        x, weights = p.x[rows], p.weights[rows]
        upto = mixed(family, weights, x)
        under = np.where(discrete(family), mixed(family, weights, x - 1), upto)
        return np.where(np.isnan(x), np.nan, (upto >= (1 - level) / 2) & (under < (1 + level) / 2))

    return np.nanmean(p.ask(within), 0)


def predicted(
    model: Predictor,
    X: Any,
    lengths: Any,
    horizon: int,
    inputs: Any,
    random_state: Any = None,
    others: bool = False,
) -> Predicted:
    """Every frame as predicted from those `horizon` and more before it, or from all others."""
    posterior = model.posterior(X, lengths, inputs=inputs)
    module = model.state_model()
    if not isinstance(module, HMM):
        raise TypeError(
            f"{type(model).__name__} has no predictive density in closed form; use a classical HMM"
        )
    module = near_numpy(module)
    if module.emission.order and others:
        raise NotImplementedError(
            f"ordinary residuals are not offered for {type(module.emission).__name__}: later frames condition on x_t; "
            "use kind='forecast'"
        )
    if module.emission.order and horizon > 1:
        emission, weights, x, observed = after_some(module, posterior, horizon)
    else:
        emission, (x, observed) = module.emission, frames(module, posterior.data)
        weights = np.asarray(posterior.leave_one_out if others else posterior.ahead(horizon))
    D = emission.n_features
    return Predicted(
        np.where(counted(emission, observed).cpu().numpy(), plain(x[:, :D]), np.nan),
        weights,
        emission,
        x[:, D:] if emission.n_context else None,
        model.generator(random_state),
    )


def near_numpy(module: HMM) -> HMM:
    """The module, or a copy of one on a GPU, where the data and the weights are."""
    some = next(module.parameters(), None)
    return module if some is None or some.device.type == "cpu" else copy.deepcopy(module).cpu()


def after_some(module: HMM, posterior: Predictions, h: int) -> tuple[Emission, np.ndarray, Tensor, Tensor]:
    """Frames after h − 1 that nobody saw: x_t as a regression on the p frames up to t − h in every path of h states.

    Returns that family of K^h components, the weights (n, K^h) of the paths given the frames up to t − h, and what the
    family reads, as HMM.frames has it.

    Raises NotImplementedError for more than 2¹² paths, stays with durations, autoregressions inside other families.
    """
    emission, data, K, D = module.emission, posterior.data, module.n_components, module.emission.n_features
    if not isinstance(emission, Autoregressive) or module.n_ages > 1 or K**h > MOST:
        raise NotImplementedError(
            f"horizon={h} of {type(emission).__name__}, which conditions on the frames just before, is offered for "
            f"Autoregressive itself, in a chain without durations, while its {K}^{h} paths of states are at most {MOST}"
        )
    x, observed = frames(module, data)
    wide, known = torch.zeros_like(x), torch.zeros_like(observed)
    wide[:, :D], known[:, :D] = x[:, :D], observed[:, :D]
    weights = np.full((data.n_frames, K**h), 1 / K**h)
    before = torch.as_tensor(np.asarray(posterior.ahead(1)))
    for start, length in zip(data.starts.tolist(), data.lengths.tolist(), strict=True):
        if length <= h:
            continue
        rows, first = slice(start + h, start + length), slice(start + 1, start + length - h + 1)
        wide[rows, D:], known[rows, D:] = x[first, D:], observed[first, D:]
        u = None if data.inputs is None else data.inputs[None, start : start + length]
        with torch.no_grad():
            A = module.tables(u)[1].exp()
        A = A[0] if A.dim() == 4 else A.expand(length - 1, K, K)
        w = before[first]
        for step in range(1, h):
            w = (w.view(len(w), -1, K, 1) * A[step : step + length - h][:, None]).flatten(1)
        weights[rows] = w.numpy()
    return after_paths(emission, h), weights, wide, known


def transformed(p: Predicted) -> tuple[np.ndarray, np.ndarray]:
    """F(x) and 1 − F(x), for whole numbers at random within the step of F at x: (n, D) each."""

    def tails(family: Emission, rows: Rows) -> np.ndarray:
        x, weights = p.x[rows], p.weights[rows]
        below, above = mixed(family, weights, x), mixed(family, weights, x, upper=True)
        whole = discrete(family)
        if not whole.any():
            return np.stack([below, above], 1)
        u = torch.rand(x.shape, generator=p.generator, dtype=torch.float64).numpy()
        below_step = mixed(family, weights, x - 1)
        above_step = mixed(family, weights, x - 1, upper=True)
        below = np.where(whole, (1 - u) * below_step + u * below, below)
        return np.stack([below, np.where(whole, (1 - u) * above_step + u * above, above)], 1)

    below, above = np.moveaxis(p.ask(tails), 1, 0)
    return below, above


def mixed(emission: Emission, weights: np.ndarray, x: np.ndarray, upper: bool = False) -> np.ndarray:
    """Σ_k w_k F_k(x), or of the upper tails: (n, D), NaN where x is."""
    total = (weights[..., None] * cdf(emission, x, upper)).sum(-2)
    return np.where(np.isnan(x), np.nan, total)
