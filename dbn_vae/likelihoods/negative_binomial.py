"""Negative binomial entries: counts whose variance μ + μ² / r exceeds their mean μ."""

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import NegativeBinomial as TorchNegativeBinomial

from dbn_vae.likelihoods.base import Likelihood, require


class NegativeBinomial(Likelihood):
    """x ∈ {0, 1, 2, ...}; mean μ and size r are softplus of the decoder's outputs; r → ∞ is Poisson."""

    name = "negative-binomial"
    n_parameters = 2

    def forward(self, parameters: Tensor) -> TorchNegativeBinomial:
        mean, size = (F.softplus(raw) for raw in parameters.chunk(2, -1))
        mean, size = mean + 1e-6, size + 1e-3  # a size of 0 is a point mass at 0
        return TorchNegativeBinomial(size, logits=mean.log() - size.log(), validate_args=False)

    def check(self, x: Tensor, observed: Tensor) -> None:
        count = (x >= 0) & (x == x.round())
        require(count | ~observed, x, "negative binomial", "counts are the whole numbers from 0")

    def features(self, x: Tensor) -> Tensor:
        return x.log1p()  # see Poisson
