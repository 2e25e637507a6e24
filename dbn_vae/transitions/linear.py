"""p(z_t | z_{t-1}) = N(W z_{t-1} + b, diag σ²): the linear-Gaussian state-space model's transition.

Where inputs drive it, z_{t-1} stands for (z_{t-1}, u_t), u_t being the input of the step moved to, and W is (Z, Z + U).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.distributions import Conditional, normal


class Linear(Conditional):
    """Starts as a slow drift: W = I, b = 0, σ as given."""

    def __init__(self, n_latent: int, scale: float = 0.3, n_inputs: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(n_latent, n_latent + n_inputs))
        self.bias = nn.Parameter(torch.zeros(n_latent))
        self.raw_variance = nn.Parameter(torch.full((n_latent,), math.log(math.expm1(scale**2))))

    def forward(self, context: Tensor) -> Normal:
        variance = F.softplus(self.raw_variance) + 1e-8
        mean = context @ self.weight.T + self.bias
        return normal(mean, variance.sqrt().expand_as(mean))


def together(moves: Sequence[Linear]) -> Callable[[Tensor], Normal]:
    """K of them as one product: a function of z (..., Z) whose distributions are (..., K, Z)."""
    weight = torch.cat([move.weight for move in moves]).T  # (Z, K Z)
    bias = torch.stack([move.bias for move in moves])
    raw = torch.stack([move.raw_variance for move in moves])
    scale = (F.softplus(raw) + 1e-8).sqrt()

    def move(z: Tensor) -> Normal:
        mean = (z @ weight).unflatten(-1, bias.shape) + bias
        return normal(mean, scale.expand_as(mean))

    return move
