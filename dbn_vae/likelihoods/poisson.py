"""Poisson entries: counts."""

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Poisson as TorchPoisson

from dbn_vae.likelihoods.base import Likelihood, require


class Poisson(Likelihood):
    """x ∈ {0, 1, 2, ...}; the rate is softplus of the decoder's output, so that it cannot overflow."""

    name = "poisson"

    def forward(self, parameters: Tensor) -> TorchPoisson:
        return TorchPoisson(F.softplus(parameters) + 1e-6, validate_args=False)

    def check(self, x: Tensor, observed: Tensor) -> None:
        count = (x >= 0) & (x == x.round())
        require(count | ~observed, x, "Poisson", "counts are the whole numbers from 0")

    def features(self, x: Tensor) -> Tensor:
        return x.log1p()  # counts span decades; networks like them on a log scale
