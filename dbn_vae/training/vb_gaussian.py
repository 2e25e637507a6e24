"""q(μ, Λ) of Gaussian emissions: normal times Wishart.

    Λ ~ W(dof, scale⁻¹),   μ_k | Λ ~ N(mean_k, (beta_k Λ_k)⁻¹),   E Λ = dof · scale⁻¹

Λ is a matrix of order P = D a state ("full"), one for all states ("tied"), or numbers, a Wishart of order P = 1: one a
state and feature ("diag") or one a state that all D features share ("spherical").  In every case

    E_q log p(x | k) = log N(x; mean_k, (E Λ_k)⁻¹) + ½ (D/P) (ψ_P(dof/2) − P log(dof/2)) − D / (2 beta_k),

with ψ_P(a) = Σ_{i<P} ψ(a − i/2): the ordinary density at the expected parameters and a constant.  So the emission
families do the work.  Missing entries of a frame are latent too: integrating exp(E log p) over them leaves the
same constant, and their moments are the conditional ones.  A frame of which nothing was observed is left out.

Source: Bishop (2006), Pattern recognition and machine learning, sections 10.2 and B (Wishart); Beal (2003).
"""

from abc import abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.dense_gaussian import FullGaussian, TiedGaussian
from dbn_vae.emissions.gaussian import DiagonalGaussian, Gaussian, SphericalGaussian


class NormalWishart(NamedTuple):
    """One such distribution for every state; see the module for the shapes of each kind."""

    means: Tensor  # (K, D)
    beta: Tensor  # (K,)
    dof: Tensor  # (K,); tied: ()
    scale: Tensor  # full (K, D, D), tied (D, D), diag (K, D), spherical (K,)


class GaussianPosterior(Emission, ClosedForm):
    """What the four kinds share.

    Args:
        prior: p(μ, Λ); beta positive, dof above P − 1, scale positive definite.
        posterior: q(μ, Λ) to begin with.
    """

    def __init__(self, prior: NormalWishart, posterior: NormalWishart) -> None:
        super().__init__()
        self.n_components, self.n_features = prior.means.shape
        self.prior, self.posterior = prior, posterior

    @abstractmethod
    def expected(self) -> Gaussian:
        """The family at E μ and (E Λ)⁻¹."""

    @abstractmethod
    def blocks(self, q: NormalWishart) -> tuple[Tensor, Tensor]:
        """The independent Wisharts: dof (...) and scale (..., P, P)."""

    @abstractmethod
    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a bᵀ of (K, D) as the kind keeps scatters: (K, D, D), or its diagonal (K, D)."""

    @abstractmethod
    def gathered(self, scatter: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """What dof and scale gain from scatters and counts (K,) of each state."""

    def distribution(self) -> Distribution:
        return self.expected().distribution()

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        """E_q log p(x_t | s_t = k): (..., K)."""
        seen = observed.any(-1, keepdim=True)
        return self.expected().log_prob(x, observed) + self.constant() * seen

    def constant(self) -> Tensor:
        """What the spread of q(μ, Λ) takes off every frame: (K,), negative."""
        D, dof = self.n_features, self.posterior.dof
        P = self.blocks(self.posterior)[1].shape[-1]
        spread = 0.5 * D / P * (multidigamma(dof / 2, P) - P * (dof / 2).log())
        return spread - 0.5 * D / self.posterior.beta

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, first, second = statistics  # (K,), Σ w (x − m), Σ w (x − m)(x − m)ᵀ about the means m so far
        prior, old = self.prior, self.posterior
        means, beta, dof, scale = old
        if "mean" not in self.frozen:
            beta = prior.beta + count
            means = old.means + (first + prior.beta[:, None] * (prior.means - old.means)) / beta[:, None]
        if "covariance" not in self.frozen:
            shift, away = means - old.means, means - prior.means
            scatter = second - self.product(shift, first) - self.product(first, shift)
            n, weight = (v.view(-1, *[1] * (scatter.dim() - 1)) for v in (count, prior.beta))
            scatter = scatter + n * self.product(shift, shift) + weight * self.product(away, away)
            more_dof, more_scale = self.gathered(scatter, count)
            dof, scale = prior.dof + more_dof, prior.scale + more_scale
        self.posterior = NormalWishart(means, beta, dof, scale)

    def recentred(self, statistics: tuple[Tensor, ...], before: Self) -> tuple[Tensor, ...]:
        count, first, second = statistics
        shift = self.posterior.means - before.posterior.means
        scatter = second - self.product(shift, first) - self.product(first, shift)
        n = count.view(-1, *[1] * (scatter.dim() - 1))
        return count, first - count[:, None] * shift, scatter + n * self.product(shift, shift)

    def log_prior(self) -> Tensor:
        """−KL(q ‖ p) = −KL of the means, expected under q(Λ), − KL of the Wisharts."""
        prior, q, D = self.prior, self.posterior, self.n_features
        away = q.means - prior.means
        distance = (away * torch.linalg.solve(self.expected().covariance().detach(), away)).sum(-1)
        ratio = prior.beta / q.beta
        means = 0.5 * (D * (ratio - 1 - ratio.log()) + prior.beta * distance)
        return -means.sum() - kl_wishart(self.blocks(q), self.blocks(prior)).sum()

    def n_free(self) -> int:
        self_at_means = self.expected()
        self_at_means.frozen = self.frozen
        return self_at_means.n_free()


class FullPosterior(GaussianPosterior):
    """A matrix a state."""

    def expected(self) -> Gaussian:
        return FullGaussian(self.posterior.means, self.posterior.scale / self.posterior.dof[:, None, None])

    def blocks(self, q: NormalWishart) -> tuple[Tensor, Tensor]:
        return q.dof, q.scale

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return a[:, :, None] * b[:, None, :]

    def gathered(self, scatter: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        return count, scatter

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        seen = weights * observed.any(-1, keepdim=True)
        count, first, second = (s.detach() for s in self.expected().statistics(x, observed, seen))
        return count[:, 0], first, second


class TiedPosterior(FullPosterior):
    """One matrix for all states."""

    def expected(self) -> Gaussian:
        return TiedGaussian(self.posterior.means, self.posterior.scale / self.posterior.dof)

    def gathered(self, scatter: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        return count.sum(), scatter.sum(0)


class DiagonalPosterior(GaussianPosterior):
    """A number a state and feature."""

    def expected(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.posterior.means, self.posterior.scale / self.posterior.dof[:, None])

    def blocks(self, q: NormalWishart) -> tuple[Tensor, Tensor]:
        return q.dof[:, None], q.scale[..., None, None]

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def gathered(self, scatter: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        return count, scatter

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        seen = weights * observed.any(-1, keepdim=True)
        expected = self.expected()
        entries, first, second = (s.detach() for s in expected.statistics(x, observed, seen))
        count = seen.sum(0)
        # a missing entry of a frame that was seen has its expected square
        return count, first, second + (count[:, None] - entries) * expected.variance().detach()


class SphericalPosterior(DiagonalPosterior):
    """A number a state, which all features share: every frame counts D times."""

    def expected(self) -> DiagonalGaussian:
        return SphericalGaussian(self.posterior.means, self.posterior.scale / self.posterior.dof)

    def blocks(self, q: NormalWishart) -> tuple[Tensor, Tensor]:
        return q.dof, q.scale[..., None, None]

    def gathered(self, scatter: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        return self.n_features * count, scatter.sum(-1)


def multidigamma(a: Tensor, P: int) -> Tensor:
    """ψ_P(a) = Σ_{i<P} ψ(a − i/2), the derivative of log Γ_P."""
    return torch.digamma(a[..., None] - torch.arange(P, dtype=a.dtype, device=a.device) / 2).sum(-1)


def kl_wishart(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL(W(dof, scale⁻¹) ‖ W(dof₀, scale₀⁻¹)) of every block: (...)."""
    (dof, scale), (dof0, scale0) = q, p
    P = scale.shape[-1]
    log_ratio = torch.logdet(scale) - torch.logdet(scale0)
    trace = torch.linalg.solve(scale, scale0).diagonal(dim1=-2, dim2=-1).sum(-1)
    log_gamma = torch.mvlgamma(dof0 / 2, P) - torch.mvlgamma(dof / 2, P)
    energy = 0.5 * (dof - dof0) * multidigamma(dof / 2, P)
    return 0.5 * dof0 * log_ratio + log_gamma + energy + 0.5 * dof * (trace - P)
