"""The short way to an answer: one complete sequence in a plain array, asked of a classical model.

To read frames into a data set, its batches and their chain costs some hundred microseconds however few they are; the
kernels need three for a hundred frames.  So a model writes its chain out once, and a question puts its frames into it.
It is the chain that the long way would make, asked of the same kernels; whatever else X may be goes the long way.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference.backends import Fusing, choose, fusing, overridden
from dbn_vae.inference.chain import Chain
from dbn_vae.models.hmm import HMM

EVERYTHING = torch.ones((), dtype=torch.bool)  # was observed


class Short(NamedTuple):
    """An engine, and what its verbs take in a chain's place."""

    engine: Fusing
    chain: Any


def single(X: Any, lengths: Any, width: int) -> Tensor | None:
    """X as the frames of one sequence (1, T, width), float64; None where it is anything but that, and complete."""
    if type(X) is not np.ndarray or X.dtype.kind not in "fiu" or X.ndim != 2:
        return None
    T = len(X)
    if T == 0 or X.shape[1] != width:
        return None
    if lengths is not None and (np.shape(lengths) != (1,) or lengths[0] != T):
        return None
    frames = np.require(X, np.float64, ("C", "W"))
    complete = np.logical_and.reduce(np.isfinite(frames), axis=None)  # half of the time of all()
    return torch.from_numpy(frames[None]) if complete else None


@torch.no_grad()
def template(model: HMM) -> Short | None:
    """The chain of a sequence of one frame; None where the model reads more than frames, or no kernel its emissions."""
    emission = model.emission
    if emission.n_context or model.transition.n_inputs or model.verbs is not inference:
        return None
    initial, transition = model.tables()
    zeros = initial.new_zeros(1, 1, emission.n_features)
    potential = emission.potential(zeros, torch.ones_like(zeros, dtype=torch.bool))
    if isinstance(potential, Tensor) or initial.dtype != torch.float64 or not initial.is_cpu:
        return None
    chain = Chain(initial, transition, potential.detach(), torch.ones(1, dtype=torch.int64)).canonical()
    engine = fusing.get(choose(chain))
    return None if engine is None else Short(engine, engine.prepare(chain))


def asked(model: HMM, template: Short, x: Tensor) -> Short | None:
    """The same of frames x (1, T, D); None where another engine is to do the work, or an entry has no density."""
    if overridden():
        return None
    try:
        model.emission.check(x, EVERYTHING)
    except ValueError:
        return None
    return Short(template.engine, template.chain.of(x))
