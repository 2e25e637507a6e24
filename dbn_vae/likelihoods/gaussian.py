"""Gaussian entries with learned mean and scale (Kingma and Welling 2014, eq. 12)."""

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from dbn_vae.distributions import normal
from dbn_vae.likelihoods.base import Likelihood


class Gaussian(Likelihood):
    """Real x; both mean and scale are functions of z.

    min_scale, in units of the data, keeps one well-fitted entry from an infinite density.
    """

    name = "gaussian"
    n_parameters = 2

    def __init__(self, min_scale: float = 1e-2) -> None:
        super().__init__()
        self.min_scale = min_scale

    def forward(self, parameters: Tensor) -> Normal:
        mean, raw = parameters.chunk(2, -1)
        return normal(mean, F.softplus(raw) + self.min_scale)

    def check(self, x: Tensor, observed: Tensor) -> None:
        """Every real number can be Gaussian."""
