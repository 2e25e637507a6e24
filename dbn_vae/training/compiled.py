"""EM's updates in one call each, for the families whose M-step is compiled as well.

em.py and the modules' own `maximize` define what an update is; this does the same to the same tensors.  For a long
data set it saves nothing, since the recursion takes all the time; for a hundred frames it saves nearly all.
"""

import math
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.dense_gaussian import FullGaussian
from dbn_vae.emissions.gaussian import DiagonalGaussian, Gaussian
from dbn_vae.inference.backends import available, name
from dbn_vae.inference.chain import Chain
from dbn_vae.inference.potentials import Table
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Batch
from dbn_vae.transitions.stationary import Stationary

if "cpu" in available:
    from dbn_vae.inference import _cpu, cpu


class Compiled:
    """The updates of a model on one batch; see `compiled`."""

    def __init__(self, model: HMM, batch: Batch, chain: Chain) -> None:
        transition, emission = model.transition, model.emission
        assert isinstance(transition, Stationary) and isinstance(emission, Categorical | Gaussian)
        self.log_z = torch.empty(len(batch.lengths), dtype=torch.float64)
        ready, weights = cpu.prepare(chain.canonical()), batch.weights.double().contiguous()
        self.alive: list[Any] = [ready, weights]
        frozen = transition.frozen
        initial = self.rows(transition.initial_logits, transition.startprob_prior, "initial" in frozen)
        moves = self.rows(transition.transition_logits, transition.transmat_prior, "transition" in frozen)
        self.climb = _cpu.Climb(ready.tables, initial, moves, weights.data_ptr(), self.log_z.data_ptr())
        self.emission = emission
        if isinstance(emission, Categorical):
            self.climb.symbols(self.rows(emission.logits, emission.concentration, "probs" in emission.frozen))
        elif isinstance(emission, FullGaussian):
            self.full_gaussians(emission)
        elif isinstance(emission, DiagonalGaussian):
            self.gaussians(emission)

    def sums(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Of the last E-step: first states (K,), moves (K, K), and what the emission's maximize reads."""
        emission = self.emission
        K = emission.n_components
        if isinstance(emission, Categorical):
            shapes: list[tuple[int, ...]] = [(emission.n_symbols,)]
        else:
            D = emission.n_features
            shapes = [(1,), (D,), (D, D)] if isinstance(emission, FullGaussian) else [(D,)] * 3
        ends = list(accumulate((math.prod(shape) for shape in shapes), initial=1 + K))
        numbers = np.empty((ends[-1], K))  # NumPy: a cut of a few numbers costs a tenth of torch's
        self.climb.sums(numbers.ctypes.data)
        first, pairs, *statistics = (numbers[a:b] for a, b in pairwise([0, 1, *ends]))
        # the kernel has states innermost
        own = (part.T.reshape(K, *shape) for part, shape in zip(statistics, shapes, strict=True))
        return (
            torch.from_numpy(first[0]),
            torch.from_numpy(pairs),
            tuple(torch.from_numpy(part) for part in own),
        )

    def maximize(self) -> None:
        if self.climb.maximize():
            if isinstance(self.emission, FullGaussian):
                self.emission.held.zero_()
        else:
            self.emission.maximize(*self.sums()[2])

    def rows(self, logits: Tensor, concentration: Tensor | float, frozen: bool) -> "_cpu.Rows":
        """Logits, which are changed where they lie, and their prior."""
        alpha = self.written_out(concentration, logits)
        return _cpu.Rows(logits.data_ptr(), alpha.data_ptr(), frozen)

    def gaussians(self, emission: DiagonalGaussian) -> None:
        mean, prior = emission.mean.detach(), emission.prior
        held = torch.zeros(mean.shape, dtype=torch.bool)
        self.alive.append(held)
        if "covariance" not in emission.frozen:
            emission.held = held
        centre, pull, scale = (self.written_out(x, mean) for x in (prior.mean, prior.weight, prior.scale))
        floor = self.written_out(emission.floor, mean[0])
        self.climb.gaussians(
            mean.data_ptr(), emission.log_scale.data_ptr(), centre.data_ptr(), pull.data_ptr(), scale.data_ptr(),
            prior.dof, floor.data_ptr(), held.data_ptr(),
            "mean" in emission.frozen, "covariance" in emission.frozen,
        )  # fmt: skip

    def full_gaussians(self, emission: FullGaussian) -> None:
        mean, prior = emission.mean.detach(), emission.prior
        if "covariance" not in emission.frozen:
            emission.held = torch.zeros(len(mean), 1, dtype=torch.bool)
        centre, pull = self.written_out(prior.mean, mean), self.written_out(prior.weight, mean)
        scale, floor = (
            self.written_out(emission.prior_scale(), emission.factor),
            self.written_out(emission.floor, mean[0]),
        )
        self.climb.full_gaussians(
            mean.data_ptr(), emission.factor.data_ptr(), centre.data_ptr(), pull.data_ptr(), scale.data_ptr(),
            prior.dof, floor.data_ptr(), "mean" in emission.frozen, "covariance" in emission.frozen,
        )  # fmt: skip

    def written_out(self, value: Tensor | float, like: Tensor) -> Tensor:
        """A tensor of that shape, kept for as long as the kernel reads it."""
        full = torch.as_tensor(value, dtype=torch.float64).expand(like.shape).contiguous()
        self.alive.append(full)
        return full


def compiled(model: HMM, batches: list[Batch]) -> Compiled | None:
    """The compiled updates, where there are some.

    That is for one batch on the CPU in float64, a stationary chain, Gaussian (diagonal or full) or categorical
    emissions, and where nothing needs the emissions written out.
    """
    transition, emission = model.transition, model.emission
    if len(batches) > 1 or type(transition) is not Stationary:
        return None
    own: tuple[Tensor, ...]
    if type(emission) is DiagonalGaussian:
        own, whole = (emission.mean, emission.log_scale), emission.log_scale.shape == emission.mean.shape
    elif type(emission) is FullGaussian:
        own, whole = (emission.mean, emission.factor), len(emission.factor) == model.n_components
    elif type(emission) is Categorical:
        own, whole = (emission.logits,), True
    else:
        return None
    initial, moves = transition.initial_logits, transition.transition_logits
    readable = all(p.dtype == torch.float64 and p.is_contiguous() for p in (initial, moves, *own))
    if not whole or not readable:
        return None
    form = model.potential(batches[0])
    # the kernel reads the parameters themselves, which it changes
    if isinstance(form, Table):
        form = form._replace(log_probs=own[0])
    chain = Chain(initial, moves, form, batches[0].lengths)
    return Compiled(model, batches[0], chain) if chain.fused and name(chain) == "cpu" else None
