"""Gaussian emissions: p(x_t | s_t = k) = N(x_t; μ_k, Σ_k).

Σ_k is diagonal or spherical (one variance a state) here; matrices are in dense_gaussian.py.  Unobserved entries are
integrated out.  Sums are centred at the current means, so that a large offset of the data costs no digits.

The prior is hmmlearn's, written as a density whose maximum is its M-step (Huang, Acero and Hon 2001, p. 443):

    log p(μ, Σ) = −½ dof log |Σ| − ½ tr Σ⁻¹ (diag(scale) + weight (μ − mean)(μ − mean)ᵀ) + const.
"""

from abc import abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dbn_vae.distributions import log, normal
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.inference.potentials import Quadratic


class GaussianPrior(NamedTuple):
    """Prior on (μ_k, Σ_k); all zero is maximum likelihood.

    mean and scale broadcast to (K, D); a scale of three dimensions holds matrices, (K, D, D) or (1, D, D), for full
    and tied covariances.  A tied covariance has no states, so its scale is that of the first.
    """

    mean: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    scale: Tensor | float = 0.0
    dof: float = 0.0


class Gaussian(Emission, ClosedForm):
    """What the four covariance types share.

    Args:
        mean: (K, D).
        prior: see GaussianPrior.
        floor: (D,) smallest variance allowed in each direction; the M-step maximises under that constraint.
    """

    def __init__(self, mean: Tensor, prior: GaussianPrior, floor: Tensor | None) -> None:
        super().__init__()
        self.n_components, self.n_features = mean.shape
        self.mean = nn.Parameter(mean.clone())
        self.prior = prior
        self.floor: Tensor
        self.register_buffer("floor", torch.zeros_like(mean[0]) if floor is None else floor)

    @abstractmethod
    def covariance(self) -> Tensor:
        """Σ_k written out: (K, D, D)."""

    def prior_deviation(self) -> Tensor:
        return self.mean - self.prior.mean

    def updated_mean(self, count: Tensor, first: Tensor) -> Tensor:
        """argmax over μ, given Σ_n w_n (K, 1 or D) and Σ_n w_n (x_n − μ_old) (K, D)."""
        if "mean" in self.frozen:
            return self.mean
        weight = self.prior.weight + count
        shift = (first - self.prior.weight * self.prior_deviation()) / weight
        return self.mean + torch.where(weight > 0, shift, 0.0)  # a state nobody visits stays

    def recentred(self, statistics: tuple[Tensor, ...], before: Self) -> tuple[Tensor, ...]:
        """From Σ w, Σ w (x − m), Σ w (x − m)² or (x − m)(x − m)ᵀ about other means m."""
        count, first, second = statistics
        shift = (self.mean - before.mean).detach()
        return count, first - count * shift, moved(second, first, count, shift)


class DiagonalGaussian(Gaussian):
    """Σ_k = diag(variance_k)."""

    def __init__(
        self,
        mean: Tensor,
        variance: Tensor,
        prior: GaussianPrior = GaussianPrior(),
        floor: Tensor | None = None,
    ) -> None:
        super().__init__(mean, prior, floor)
        self.log_scale = nn.Parameter(0.5 * log(variance))

    def variance(self) -> Tensor:
        """(K, D)."""
        return (2 * self.log_scale).exp().expand_as(self.mean)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.variance())

    def distribution(self) -> Distribution:
        return normal(self.mean, self.variance().sqrt())

    def potential(self, x: Tensor, observed: Tensor) -> Quadratic:
        return Quadratic(x, observed, self.mean, self.log_scale.expand_as(self.mean))

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        return self.potential(x, observed).dense()

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w, Σ w (x − μ), Σ w (x − μ)² over observed entries: (K, D) each."""
        return self.potential(x, observed).statistics(weights)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, first, second = statistics
        mean = self.updated_mean(count, first)
        shift = mean - self.mean
        self.mean.copy_(mean)
        if "covariance" in self.frozen:
            return
        prior = self.prior
        scatter = moved(second, first, count, shift)
        scatter = scatter + prior.scale + prior.weight * self.prior_deviation().square()
        weight = count + prior.dof
        variance = self.ratio(scatter, weight)
        floor = self.lowest(self.floor)
        self.held = variance < floor
        tiny = torch.finfo(variance.dtype).tiny
        self.log_scale.copy_(0.5 * variance.clamp_min(floor).clamp_min(tiny).log())

    def ratio(self, scatter: Tensor, weight: Tensor) -> Tensor:
        """The variance, in the shape of log_scale, maximising −½ Σ_d (weight log v + scatter / v)."""
        return torch.where(weight > 0, scatter / weight, self.variance())

    def lowest(self, floor: Tensor) -> Tensor:
        """The floor of each entry of log_scale."""
        return floor

    def log_prior(self) -> Tensor:
        prior, variance = self.prior, self.variance()
        scatter = prior.scale + prior.weight * self.prior_deviation().square()
        return -0.5 * (prior.dof * variance.log() + scatter / variance).sum()

    def n_free(self) -> int:
        means = 0 if "mean" in self.frozen else self.mean.numel()
        return means + (0 if "covariance" in self.frozen else self.log_scale.numel())


class SphericalGaussian(DiagonalGaussian):
    """Σ_k = variance_k · I, with variance (K,)."""

    def __init__(
        self,
        mean: Tensor,
        variance: Tensor,
        prior: GaussianPrior = GaussianPrior(),
        floor: Tensor | None = None,
    ) -> None:
        super().__init__(mean, variance[:, None], prior, floor)

    def ratio(self, scatter: Tensor, weight: Tensor) -> Tensor:
        scatter, weight = scatter.sum(1, keepdim=True), weight.sum(1, keepdim=True)
        return torch.where(weight > 0, scatter / weight, self.variance()[:, :1])

    def lowest(self, floor: Tensor) -> Tensor:
        return floor.amax()  # Σ ⪰ diag(floor): the one variance must clear every entry


def moved(second: Tensor, first: Tensor, count: Tensor, shift: Tensor) -> Tensor:
    """Σ w (x − m − δ)(x − m − δ)ᵀ from the sums about m, or its diagonal where the second moments are (K, D)."""
    if second.dim() == 2:
        return second - 2 * shift * first + count * shift.square()
    outer = shift[:, :, None] * first[:, None, :]
    return second - outer - outer.mT + count[..., None] * shift[:, :, None] * shift[:, None, :]
