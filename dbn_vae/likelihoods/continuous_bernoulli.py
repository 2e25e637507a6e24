"""Continuous Bernoulli entries: grey levels between 0 and 1, with a density that integrates to 1.

    p(x) = exp(a x) a / (exp(a) − 1)  on [0, 1],    a = log λ / (1 − λ)

Bernoulli's cross-entropy a x − log(1 + exp a) of grey levels is no log-likelihood; with the right constant it is.
Source: Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in VAEs.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from dbn_vae.distributions import at, sample
from dbn_vae.likelihoods.base import Likelihood, require

SMALL = 1e-2  # |a| under which a series is used


class ContinuousBernoulli(Likelihood):
    """x ∈ [0, 1]; the decoder supplies a."""

    name = "continuous-bernoulli"

    def forward(self, parameters: Tensor) -> "TiltedUniform":
        return TiltedUniform(parameters)

    def check(self, x: Tensor, observed: Tensor) -> None:
        inside = (x >= 0) & (x <= 1)
        require(inside | ~observed, x, "continuous Bernoulli", "scale X to [0, 1]: X / 255 for bytes")


class TiltedUniform(Distribution):
    """p(x) ∝ exp(a x) on [0, 1].

    Not torch's ContinuousBernoulli, which keeps λ off 0 and 1 in the constant alone: where |a| is large its density
    does not integrate to 1.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own name and type)

    def __init__(self, tilt: Tensor) -> None:
        super().__init__(tilt.shape, validate_args=False)
        self.tilt = tilt
        s = tilt.abs()
        self.small = s < SMALL
        self.size = torch.where(self.small, 1.0, s)  # |a|, harmless where the series is used

    def log_prob(self, value: Tensor) -> Tensor:
        a, s = self.tilt, self.size
        # log (exp a − 1) / a = a / 2 + log (2 sinh(a / 2) / a)
        series = a.square() / 24 - a.pow(4) / 2880
        constant = torch.where(self.small, series, s / 2 + torch.log(-torch.expm1(-s) / s))
        return a * (value - 0.5) - constant

    @property
    def mean(self) -> Tensor:
        a, s = self.tilt, self.size
        above = -1 / torch.expm1(-s) - 0.5 - 1 / s  # E x − ½ for a tilt of |a|
        return 0.5 + torch.where(self.small, a / 12 - a.pow(3) / 720, a.sign() * above)

    def quantile(self, levels: Tensor) -> Tensor:
        """x below which a share of the probability lies; by symmetry from a tilt of −|a|."""
        s, up = self.tilt.abs().clamp_min(1e-6), self.tilt > 0
        u = torch.where(up, 1 - levels, levels)
        x = (-torch.log1p(u * torch.expm1(-s)) / s).clamp(0, 1)
        return torch.where(up, 1 - x, x)


@sample.register
def _(distribution: TiltedUniform, generator: torch.Generator | None) -> Tensor:
    like = at(distribution.tilt, generator)
    levels = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return distribution.quantile(levels.to(distribution.tilt.device))
