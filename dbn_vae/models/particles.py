"""Discrete states carried by particles of z as exact probabilities (Rao-Blackwellised)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from dbn_vae.distributions import draw, log_normal, normal, sample
from dbn_vae.inference import logsumexp
from dbn_vae.models.base import Generator, Later, Particles
from dbn_vae.models.hmm import labelled
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition


def known_states(batch: Batch, n_components: int) -> Tensor:
    """0 for the states a step's label allows, −inf for others: (B, T, K)."""
    return labelled(batch.x.new_zeros(*batch.x.shape[:2], n_components), batch)


def moves(transition: Transition, batch: Batch) -> Callable[[int], Tensor]:
    """log p(s_t | s_{t-1}) of step t: (K, K), or (B, K, K) where inputs drive the chain."""
    A = transition.log_transition(batch.inputs)
    return lambda t: A[:, t - 1] if A.dim() == 4 else A


def update(joint: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z_t, s_t = k | z_{1:t-1}) (..., K) to log p(z_t | z_{1:t-1}) (...) and log p(s_t = k | z_{1:t}).

    Where no state is possible the latter stays −inf: weights are 0 from there on, and no NaN.
    """
    total = torch.logsumexp(joint, -1)
    return total, joint - torch.where(total == -torch.inf, 0.0, total)[..., None]


def drawn_ahead(transition: Transition, belief: Tensor, each: Normal, generator: Generator) -> Particles:
    """A step of the prior: s_{t+1}, then z_{t+1} from each p(z_{t+1} | z_t, s_{t+1} = k) (..., K, Z).

    The state drawn is known from there on: its log-probability is 0, that of the others −inf.
    """
    states = sample(
        Categorical(logits=logsumexp(belief[..., :, None] + transition.log_transition(), -2)), generator
    ).long()
    shape = (*belief.shape, each.mean.shape[-1])
    pick = states[..., None, None].expand(*states.shape, 1, shape[-1])
    mean, scale = (v.expand(shape).gather(-2, pick)[..., 0, :] for v in (each.mean, each.scale))
    chosen = torch.arange(belief.shape[-1], device=belief.device) == states[..., None]
    known = torch.where(chosen, belief.new_zeros(()), -torch.inf)
    return draw(normal(mean, scale), generator), known


def later_with_states(transition: Transition, batch: Batch, each: Callable[[Tensor], Normal]) -> Later:
    """log Σ_k A(j, k) p(z_{t+1} | z_t, s_{t+1} = k) p(z_{t+2:T} | z_{t+1}, s_{t+1} = k) of every j, see LatentModel.

    each: p(z_{t+1} | z_t, s_{t+1} = k) of z_t, (..., Z) to (..., K, Z).
    """
    move, known = moves(transition, batch), known_states(batch, transition.n_components)

    def later(t: int, z: Tensor, then: Tensor, more: Tensor) -> Tensor:
        joint = log_normal(then[..., None, :], each(z)) + more + known[:, t + 1]
        return logsumexp(joint[..., None, :] + move(t + 1), -1)

    return later
