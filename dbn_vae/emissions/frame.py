"""log p(x_t | s_t = k) of one frame at a time, in NumPy, for streams.

A stream asks for one frame and waits: what counts is the time of a call, which torch spends on its own bookkeeping.
The commonest families are written out here; the others, and frames seen in part of a full Gaussian, go through
log_prob, the definition.
"""

import math
from collections.abc import Callable
from functools import singledispatch

import numpy as np
import torch

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.dense_gaussian import DenseGaussian
from dbn_vae.emissions.gaussian import DiagonalGaussian
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.poisson import Poisson
from dbn_vae.emissions.predictive import plain

FrameLogProb = Callable[[np.ndarray], np.ndarray]  # a frame (D,), NaN where missing, to (K,) in nats
Inputs = np.ndarray | None  # of a frame: (U,)
Past = tuple[tuple[np.ndarray, Inputs], ...]  # frames seen before, the latest last, each with its inputs
OnlineLogProb = Callable[
    [np.ndarray, Inputs, Past], np.ndarray
]  # a frame under its inputs, after others: (K,)


def online_log_prob(emission: Emission) -> OnlineLogProb:
    """The function of a frame, its inputs and emission.order frames before it, fewer where a sequence begins."""
    if not emission.n_context:
        alone = frame_log_prob(emission)
        return lambda x, u, past: alone(x)

    def log_prob(x: np.ndarray, u: Inputs, past: Past) -> np.ndarray:
        frames = torch.from_numpy(np.stack([*(frame for frame, _ in past), x]))[None]
        observed = ~frames.isnan()
        frames = torch.where(observed, frames, 0.0)
        emission.check(frames[:, -1], observed[:, -1])
        inputs = None
        if u is not None:
            earlier = [v for _, v in past if v is not None]
            inputs = torch.from_numpy(np.stack([*earlier, u]))[None]
        with torch.no_grad():
            wide, known = emission.with_context(frames, observed, inputs)
            return plain(emission.log_prob(wide[:, -1], known[:, -1])[0])

    return log_prob


@singledispatch
def frame_log_prob(emission: Emission) -> FrameLogProb:
    """The function of one frame under the parameters as they are now.  It raises ValueError outside the support."""

    def log_prob(x: np.ndarray) -> np.ndarray:
        frame = torch.from_numpy(x)[None]
        observed = ~frame.isnan()
        frame = torch.where(observed, frame, 0.0)
        emission.check(frame, observed)
        with torch.no_grad():
            return plain(emission.log_prob(frame, observed)[0])

    return log_prob


@frame_log_prob.register
def _(emission: DiagonalGaussian) -> FrameLogProb:
    mean, precision = plain(emission.mean), plain(1 / emission.variance())
    constant = -0.5 * np.log(2 * math.pi / precision)

    def log_prob(x: np.ndarray) -> np.ndarray:
        deviation = x - mean
        entry = constant - 0.5 * precision * deviation * deviation
        total = entry.sum(1)
        return total if total[0] == total[0] else np.nansum(entry, 1)

    return log_prob


@frame_log_prob.register
def _(emission: DenseGaussian) -> FrameLogProb:
    mean, factor = plain(emission.mean), emission.scale_tril()
    whiten = np.linalg.inv(plain(factor))
    constant = np.log(whiten.diagonal(axis1=1, axis2=2)).sum(1) - 0.5 * mean.shape[1] * math.log(2 * math.pi)
    in_part = frame_log_prob.dispatch(Emission)(emission)

    def log_prob(x: np.ndarray) -> np.ndarray:
        whitened = (whiten @ (x - mean)[..., None])[..., 0]
        total = constant - 0.5 * (whitened * whitened).sum(1)
        return total if total[0] == total[0] else in_part(x)

    return log_prob


@frame_log_prob.register
def _(emission: Mixture) -> FrameLogProb:
    component = frame_log_prob(emission.component)
    with np.errstate(divide="ignore"):
        logs = np.log(plain(emission.weights()))

    def log_prob(x: np.ndarray) -> np.ndarray:
        if np.isnan(x).all():
            return np.zeros(len(logs))
        return np.logaddexp.reduce(component(x).reshape(logs.shape) + logs, 1)

    return log_prob


@frame_log_prob.register
def _(emission: Categorical) -> FrameLogProb:
    with np.errstate(divide="ignore"):
        table = np.log(plain(emission.probs())).T
    otherwise = frame_log_prob.dispatch(Emission)(emission)

    def log_prob(x: np.ndarray) -> np.ndarray:
        symbol = x[0]
        if len(x) == 1 and 0 <= symbol < len(table) and symbol % 1 == 0:
            return table[int(symbol)]
        return otherwise(x)  # missing, or no symbol

    return log_prob


@frame_log_prob.register
def _(emission: Poisson) -> FrameLogProb:
    rates = plain(emission.rates())
    with np.errstate(divide="ignore"):
        logs = np.log(rates)
    total = -rates.sum(1)
    otherwise = frame_log_prob.dispatch(Emission)(emission)
    positive = bool((rates > 0).all())

    def log_prob(x: np.ndarray) -> np.ndarray:
        counts = x.tolist()
        if not positive or not all(c >= 0 and c % 1 == 0 for c in counts):
            return otherwise(x)  # missing, no counts, or 0 · log 0
        return total + logs @ x - sum(map(math.lgamma, [c + 1 for c in counts]))

    return log_prob
