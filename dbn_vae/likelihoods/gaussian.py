"""Gaussian entries with learned mean and scale (Kingma and Welling 2014, eq. 12)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.distributions import normal
from dbn_vae.likelihoods.base import Likelihood


class Gaussian(Likelihood):
    """Real x; both mean and scale are functions of z.

    With shared=True the scale is one learnt number for all entries, as pictures want it: pixels that hardly ever
    change would else earn most of the density.  min_scale, in units of the data, keeps a well-fitted entry from
    an infinite one.
    """

    name = "gaussian"
    n_parameters = 2

    def __init__(self, min_scale: float = 1e-2, shared: bool = False) -> None:
        super().__init__()
        self.min_scale, self.shared = min_scale, shared
        if shared:
            self.n_parameters = 1
            self.raw_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, parameters: Tensor) -> Normal:
        mean, raw = (parameters, self.raw_scale) if self.shared else parameters.chunk(2, -1)
        return normal(mean, (F.softplus(raw) + self.min_scale).expand_as(mean))

    def check(self, x: Tensor, observed: Tensor) -> None:
        """Every real number can be Gaussian."""
