"""A stationary chain whose prior favours staying."""

import torch

from dbn_vae.transitions.stationary import Stationary


def sticky(n_components: int, stickiness: float = 10.0, dtype: torch.dtype = torch.float64) -> Stationary:
    """Uniform π and a mildly persistent A, with κ = stickiness pseudo-counts of staying in every state.

    The start stays with probability 0.9, the prior's own expectation being left to the data.
    """
    K = n_components
    identity = torch.eye(K, dtype=dtype)
    stay = 0.9 if K > 1 else 1.0
    uniform = torch.full((K,), 1 / K, dtype=dtype)
    others = (1 - identity) * (1 - stay) / max(K - 1, 1)
    return Stationary(uniform, stay * identity + others, transmat_prior=1 + stickiness * identity)
