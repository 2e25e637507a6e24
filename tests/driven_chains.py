"""A chain of two states, with or without inputs that drive it."""

import numpy as np
import torch

from dbn_vae.transitions import InputDriven, Stationary


def two_states(
    rng: np.random.Generator, n_inputs: int, driven: bool, scale: float = 1.0
) -> Stationary | InputDriven:
    """π = (0.3, 0.7) and A = ((0.8, 0.2), (0.4, 0.6)), under inputs of 0 where slopes are drawn."""
    start = torch.tensor([0.3, 0.7], dtype=torch.float64)
    moves = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)
    if not driven:
        return Stationary(start, moves)
    transition = InputDriven(start, moves, n_inputs)
    with torch.no_grad():
        transition.initial_slope.copy_(torch.as_tensor(rng.normal(size=(2, n_inputs))))
        transition.transition_slope.copy_(scale * torch.as_tensor(rng.normal(size=(2, 2, n_inputs))))
    return transition
