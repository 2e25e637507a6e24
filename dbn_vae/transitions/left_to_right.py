"""A chain that never goes back: stages of a process, phonemes of a word (the Bakis model)."""

import torch

from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.topology import persistent, upwards


def left_to_right(
    n_components: int,
    max_jump: int = 1,
    absorbing: bool = True,
    stay: float = 0.9,
    dtype: torch.dtype = torch.float64,
) -> Stationary:
    """State 0 first, then from i to i, i + 1, …, i + max_jump; every other move is a structural zero.

    Args:
        max_jump: 1 visits every state in turn; more lets the chain skip some.
        absorbing: the last state is never left.  Otherwise it may go back to state 0, and a new pass begins.
        stay: probability of staying at the start of learning.

    >>> left_to_right(3, stay=0.5).log_transition().exp().tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    moves = upwards(n_components, max_jump)
    if not absorbing:
        moves[-1, 0] = True
    startprob = torch.zeros(n_components, dtype=dtype)
    startprob[0] = 1
    return Stationary(startprob, persistent(moves, stay, dtype))
