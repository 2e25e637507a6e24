"""A chain on a circle: phases of a cycle, such as a gait, a day or a heart beat."""

import torch

from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.topology import around, persistent


def cyclic(
    n_components: int, max_jump: int = 1, stay: float = 0.9, dtype: torch.dtype = torch.float64
) -> Stationary:
    """Any state first, then from i to i, i + 1, …, i + max_jump modulo K; every other move is a structural zero.

    Args:
        max_jump: 1 visits every state in turn; more lets the chain skip some.
        stay: probability of staying at the start of learning.

    >>> cyclic(3, stay=0.5).log_transition().exp().tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]
    """
    uniform = torch.full((n_components,), 1 / n_components, dtype=dtype)
    return Stationary(uniform, persistent(around(n_components, max_jump), stay, dtype))
