"""Discrete states carried by particles of z as exact probabilities (Rao-Blackwellised)."""

from collections.abc import Callable

import torch
from torch import Tensor

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
