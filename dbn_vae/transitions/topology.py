"""Which moves are possible at all: a pattern of structural zeros.

    left-to-right   i → i, i + 1, …, i + max_jump: the Bakis model, which never goes back; it starts in state 0
    cyclic          i → i, i + 1, …, i + max_jump modulo K: the same on a circle; it starts anywhere

EM keeps an exact zero at zero, so that a chain which starts with these zeros has them for good.

Source: Rabiner (1989), section IV.B, eqs. 45 to 48.
"""

import numpy as np
import torch
from torch import Tensor

NAMES = ("ergodic", "left-to-right", "cyclic")


def possible(topology: object, n_components: int) -> tuple[Tensor, Tensor]:
    """Which first states (K,) and moves (K, K) a topology allows, as Booleans.

    topology: one of NAMES, or a (K, K) array of True where a move is possible.
    Raises ValueError for another name, a wrong shape, and a state without any move.
    """
    K = n_components
    anywhere = torch.ones(K, dtype=torch.bool)
    if isinstance(topology, str):
        if topology == "ergodic":
            return anywhere, anywhere.expand(K, K)
        if topology == "left-to-right":
            return torch.arange(K) == 0, upwards(K, max_jump=1)
        if topology == "cyclic":
            return anywhere, around(K, max_jump=1)
        raise ValueError(f"topology={topology!r}; it is one of {NAMES}, or a ({K}, {K}) array of Booleans")
    array = np.asarray(topology)
    zero_or_one = array.dtype.kind in "biuf" and bool(((array == 0) | (array == 1)).all())
    if array.shape != (K, K) or not zero_or_one:
        raise ValueError(
            f"topology has shape {array.shape} and type {array.dtype}; with n_components={K} it is a ({K}, {K}) "
            f"array of Booleans, True where a move is possible, or one of {NAMES}"
        )
    moves = torch.as_tensor(array.astype(bool))
    require_moves(moves)
    return anywhere, moves


def require_moves(moves: Tensor) -> None:
    """Raise ValueError for a state that can go nowhere."""
    stuck = (~moves.any(1)).nonzero().flatten().tolist()
    if stuck:
        raise ValueError(f"topology leaves states {stuck} without a move; allow at least that of staying")


def upwards(n_components: int, max_jump: int) -> Tensor:
    """j − i from 0 to max_jump: (K, K) bool."""
    step = torch.arange(n_components)
    ahead = step - step[:, None]
    return (ahead >= 0) & (ahead <= require_jump(max_jump))


def around(n_components: int, max_jump: int) -> Tensor:
    """(j − i) mod K from 0 to max_jump: (K, K) bool."""
    step = torch.arange(n_components)
    return (step - step[:, None]) % n_components <= require_jump(max_jump)


def require_jump(max_jump: int) -> int:
    if max_jump < 1:
        raise ValueError(f"max_jump={max_jump}; a chain that moves at all needs at least 1")
    return max_jump


def persistent(moves: Tensor, stay: float, dtype: torch.dtype) -> Tensor:
    """Rows that stay with the given probability where they can, and share the rest among their other moves: (K, K)."""
    if not 0 < stay < 1:
        raise ValueError(f"stay={stay}; it is a probability between 0 and 1")
    identity = torch.eye(len(moves), dtype=torch.bool)
    others = (moves & ~identity).to(dtype)
    rest = (1 - stay) * others / others.sum(1, keepdim=True).clamp_min(1)
    table = torch.where(moves & identity, stay, rest)
    return table / table.sum(1, keepdim=True)
