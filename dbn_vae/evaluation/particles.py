"""Particle filtering and smoothing of continuous latents, the same for every deep model.

    p(x_{1:t})       ≈ Π over stretches between resamplings of mean_i w_i, without bias
    p(z_t | x_{1:t}) ≈ Σ_i w_i δ(z_t^i)
    p(z_{1:T} | x)   by backward simulation: z_T^i with probability w_i, then z_t^i with one proportional to
                     w_i p(z_{t+1:T} | z_{1:t}^i), down to t = 1

q is the proposal and only that: whatever it is, all three are right as the number of particles S grows.  Discrete
states are summed out in each of them.  Where q knows the future, its particles pay at every step for having followed
it, and would be lost before it comes; so they are resampled by w_i χ_t(z_t^i) and go on with weights 1 / χ_t(z_t^i),
which is without bias for any χ.  Half of χ is what q expects of their future, over its mean, and half is 1, lest q be
wrong.

Sources: Godsill, Doucet and West (2004), Monte Carlo smoothing for nonlinear time series; Lindsten, Bunch, Särkkä,
Schön and Godsill (2016) for states summed out on the way back; Pitt and Shephard (1999) and Guarniero, Johansen and Lee
(2017) for χ.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical

from dbn_vae.aevb import log_mean_exp
from dbn_vae.distributions import sample
from dbn_vae.inference import logsumexp
from dbn_vae.models.base import LatentModel, Particles
from dbn_vae.sequences import Batch


class ParticleStep(NamedTuple):
    """What is known when frame t is seen; of sequences that ended before, log_p alone stays as it was."""

    state: Particles  # z_t (S, B, Z) and more, see models.base
    log_weights: Tensor  # (S, B), not normalised, float64
    log_p: Tensor  # (B,) log of the unbiased estimate of p(x_{1:t}), float64


@torch.no_grad()
def particle_steps(
    model: LatentModel, batch: Batch, n_samples: int, generator: torch.Generator | None = None
) -> Iterator[ParticleStep]:
    """A filter with S particles, step by step.

    A sequence is resampled, systematically and by w_i χ_t(z_t^i), when the effective number of these is under S / 2.
    """
    advance, promise = model.particles(batch, n_samples, generator)
    log_w = batch.x.new_zeros(n_samples, len(batch.x), dtype=torch.float64)  # sums of many frames
    log_z = log_w.new_zeros(len(batch.x))
    log_chi = torch.zeros_like(log_w)
    state: Particles = ()
    for t, running in enumerate(batch.mask.unbind(1)):
        w = (log_w + log_chi).softmax(0)
        poor = (
            w.square().sum(0) * n_samples > 2
        ) & running  # False, as it should be, for weights that are all 0
        if bool(poor.any()):
            log_z = torch.where(poor, log_z + log_mean_exp(log_w + log_chi), log_z)
            ancestors = torch.where(
                poor, systematic(w, generator), torch.arange(n_samples, device=poor.device)[:, None]
            )
            log_w = at_ancestors(torch.where(poor, -log_chi, log_w), ancestors)
            state = tuple(at_ancestors(part, ancestors) for part in state)
        state, weight = advance(t, state)
        log_w = log_w + torch.where(running, weight, 0.0)
        if promise is not None and t + 1 < batch.mask.shape[1]:
            promised = promise(t, state).to(log_w)
            usual = logsumexp((log_w.log_softmax(0) + promised).T, -1)
            trusted = torch.logaddexp(torch.zeros_like(promised), promised - usual)
            log_chi = torch.where(batch.lengths > t + 1, trusted, 0.0)
        yield ParticleStep(state, log_w, log_z + log_mean_exp(log_w))


def particle_filter(
    model: LatentModel, batch: Batch, n_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """log of an unbiased estimate of p(x): (B,)."""
    for step in particle_steps(model, batch, n_samples, generator):
        log_p = step.log_p
    return log_p


@torch.no_grad()
def last_particles(
    model: LatentModel, batch: Batch, n_samples: int, generator: torch.Generator | None = None
) -> tuple[Particles, Tensor]:
    """p(z_T, s_T | x_{1:T}), each sequence at its own end: particles and their log-weights (S, B)."""
    held: list[Tensor] = []
    for t, step in enumerate(particle_steps(model, batch, n_samples, generator)):
        now = [*step.state, step.log_weights]
        going = batch.lengths > t
        held = [torch.where(over(going, a), a, b) for a, b in zip(now, held, strict=True)] if held else now
    return tuple(held[:-1]), held[-1]


@torch.no_grad()
def smoothed_paths(
    model: LatentModel,
    batch: Batch,
    n_paths: int,
    n_samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n_paths draws from p(z_{1:T} | x_{1:T}) among the particles of a filter: (M, B, T, Z)."""
    steps = list(particle_steps(model, batch, n_samples, generator))
    end, back = model.later(batch)
    path: list[Tensor] = []
    more = end
    for t, (state, log_w, _) in reversed(list(enumerate(steps))):
        each = state[0]
        belief = state[1] if len(state) > 1 else each.new_zeros(*each.shape[:2], 1)
        future = end.expand(n_samples, n_paths, *belief.shape[1:])  # (S, M, B, K, ...)
        if path:
            going = (batch.lengths > t + 1).view(-1, *[1] * end.dim())
            future = torch.where(going, back(t, each[:, None], path[-1], more), future)
        log_p = log_w[:, None] + logsumexp((belief[:, None] + future).flatten(3), -1)
        index = pick(log_p, generator)
        path.append(at_ancestors(each, index))
        more = at_ancestors(future, index[None])[0]
        inner = tuple(range(-end.dim(), 0))
        more = more - more.amax(inner, keepdim=True)  # a constant, but over many frames a large one
    return torch.stack(path[::-1], 2)


def pick(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of S particles for each of the other places: (S, ...) to (...)."""
    return sample(Categorical(logits=log_weights.movedim(0, -1)), generator).long()


def over(condition: Tensor, values: Tensor) -> Tensor:
    """(B,) in the shape of values (S, B, ...)."""
    return condition.view(1, -1, *[1] * (values.dim() - 2))


def systematic(w: Tensor, generator: torch.Generator | None) -> Tensor:
    """Ancestors (S, B) for normalised weights (S, B), one uniform number a sequence (Carpenter et al. 1999)."""
    S, B = w.shape
    source = w.device if generator is None else generator.device
    u = torch.rand(B, generator=generator, dtype=w.dtype, device=source).to(w.device)
    points = (torch.arange(S, device=w.device)[:, None] + u) / S
    return torch.searchsorted(w.cumsum(0).T.contiguous(), points.T.contiguous()).T.clamp_max(S - 1)


def at_ancestors(values: Tensor, ancestors: Tensor) -> Tensor:
    """values (S, B, ...) of the particles named (M, B)."""
    shape = (*ancestors.shape, *values.shape[ancestors.dim() :])
    return values.gather(
        0, ancestors.view(*ancestors.shape, *[1] * (values.dim() - ancestors.dim())).expand(shape)
    )
