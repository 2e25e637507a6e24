"""The short way to an answer: one complete sequence in a plain array, asked of a classical model.

To read frames into a data set, its batches and their chain costs some hundred microseconds however few they are; the
kernels need three for a hundred frames.  So a model writes its chain out once, and a question puts its frames into it.
It is the chain that the long way would make, asked of the same kernels; whatever else X may be goes the long way.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference.backends import Fusing, fusing, name
from dbn_vae.inference.chain import Chain
from dbn_vae.inference.potentials import Fused
from dbn_vae.models.hmm import HMM


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
    return torch.from_numpy(frames)[None] if complete else None


@torch.no_grad()
def template(model: HMM) -> Chain[Fused] | None:
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
    return chain._replace(log_initial=chain.log_initial.contiguous())


def asked(model: HMM, template: Chain[Fused], x: Tensor) -> tuple[Fusing, Chain[Fused]] | None:
    """The engine and the chain of frames x (1, T, D); None where another engine is to do the work, or an entry has no
    density, which the long way says."""
    engine, observed = fusing.get(name(template)), torch.ones(x.shape, dtype=torch.bool)
    if engine is None:
        return None
    try:
        model.emission.check(x, observed)
    except ValueError:
        return None
    potential = template.log_emission.of(x, observed)
    return engine, template._replace(log_emission=potential, lengths=torch.tensor([x.shape[1]]))
