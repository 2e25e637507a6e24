"""Gaussian emissions: p(x_t | s_t = k) = N(x_t; μ_k, Σ_k).

Σ_k is diagonal, spherical (one variance a state), full, or full and tied (one matrix for all states).  Unobserved
entries are integrated out: in the density by leaving them out, in the M-step by their conditional moments.
Sums are centred at the current means, so that a large offset of the data costs no digits.

The prior is hmmlearn's, written as a density whose maximum is its M-step (Huang, Acero and Hon 2001, p. 443):

    log p(μ, Σ) = −½ dof log |Σ| − ½ tr Σ⁻¹ (diag(scale) + weight (μ − mean)(μ − mean)ᵀ) + const.
"""

import math
from abc import abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from dbn_vae.distributions import cholesky, log, normal
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.inference.potentials import Potential, Quadratic, Whitened


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


class DenseGaussian(Gaussian):
    """Σ_k any matrix: unobserved entries depend on the observed ones."""

    @abstractmethod
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of Σ_k: (K, D, D) lower triangular."""

    def deviation(self, frames: Tensor) -> Tensor:
        """x − E[x | s = k] of frames (n, D + n_context): (K, n, D)."""
        return frames - self.mean[:, None]

    def distribution(self) -> Distribution:
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril(), validate_args=False)

    def potential(self, x: Tensor, observed: Tensor) -> Potential:
        """Whitened where every frame was observed as a whole or not at all."""
        whole = observed[..., 0]
        if not bool(observed.all()) and bool((whole[..., None] != observed).any()):
            return self.log_prob(x, observed)
        return Whitened(x, whole, self.mean, self.scale_tril())

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        frames, seen = x.reshape(-1, x.shape[-1]), observed.reshape(-1, observed.shape[-1])
        covariance = self.covariance()
        out = frames.new_zeros(len(frames), self.n_components)
        for rows, o in patterns(seen):
            L = self.scale_tril() if o.all() else torch.linalg.cholesky(covariance[:, o][:, :, o])
            deviation = self.deviation(frames[rows])[..., o].mT  # (K, D_o, n)
            whitened = torch.linalg.solve_triangular(L, deviation, upper=False)
            log_det = L.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
            constant = 0.5 * int(o.sum()) * math.log(2 * math.pi)
            value = -0.5 * whitened.square().sum(1) - (log_det + constant)[:, None]
            out = out.index_put((rows,), value.T)
        return out.reshape(*x.shape[:-1], self.n_components)

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w (K, 1), Σ w E[x − μ] (K, D), Σ w E[(x − μ)(x − μ)ᵀ] (K, D, D), given what was observed.

        Frames of which nothing was observed are left out: they say nothing.
        """
        K, D = self.mean.shape
        covariance = self.covariance()
        first, second = x.new_zeros(K, D), x.new_zeros(K, D, D)
        for rows, o in patterns(observed):
            for k in range(K):
                w, Sigma = weights[rows, k], covariance[k]
                deviation = (x[rows] - self.mean[k])[:, o]
                if not o.all():
                    # E[x_m − μ_m | x_o] = Σ_mo Σ_oo⁻¹ (x_o − μ_o); written for all entries at once
                    gain = torch.linalg.solve(Sigma[o][:, o], Sigma[o]).T  # (D, D_o)
                    second[k] += w.sum() * (Sigma - gain @ Sigma[o])
                    deviation = deviation @ gain.T
                first[k] += w @ deviation
                second[k] += (w[:, None] * deviation).T @ deviation
        return weights[observed.any(1)].sum(0)[:, None], first, second


class FullGaussian(DenseGaussian):
    """Σ_k a matrix a state, kept as its Cholesky factor."""

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        prior: GaussianPrior = GaussianPrior(),
        floor: Tensor | None = None,
    ) -> None:
        super().__init__(mean, prior, floor)
        self.factor = nn.Parameter(cholesky(covariance))

    def scale_tril(self) -> Tensor:
        K, D = self.mean.shape
        return triangle(self.factor).expand(K, D, D)

    def covariance(self) -> Tensor:
        L = self.scale_tril()
        return L @ L.mT

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, first, second = statistics
        mean = self.updated_mean(count, first)
        shift = mean - self.mean
        self.mean.copy_(mean)
        if "covariance" in self.frozen:
            return
        scatter = moved(second, first, count, shift) + self.prior_pull()
        # a difference of sums is only known to the rounding of its terms
        rounding = 8 * torch.finfo(scatter.dtype).eps * self.ratio(second, count).diagonal(dim1=-2, dim2=-1)
        self.factor.copy_(cholesky(self.floored_at(self.ratio(scatter, count), rounding)))

    def prior_pull(self) -> Tensor:
        """weight (μ − mean)(μ − mean)ᵀ: (K, D, D)."""
        deviation = self.prior_deviation()
        return (self.prior.weight * deviation)[:, :, None] * deviation[:, None, :]

    def prior_scale(self) -> Tensor:
        """The scale as matrices (K, D, D) or (1, D, D)."""
        scale = torch.as_tensor(self.prior.scale, dtype=self.mean.dtype, device=self.mean.device)
        return scale if scale.dim() > 2 else torch.diag_embed(scale.expand_as(self.mean))

    def ratio(self, scatter: Tensor, count: Tensor) -> Tensor:
        """Σ maximising −½ (count + dof) log |Σ| − ½ tr Σ⁻¹ scatter."""
        weight = (count + self.prior.dof)[..., None]
        fresh = (scatter + self.prior_scale()) / weight
        return torch.where(weight > 0, fresh, self.covariance())

    def floored_at(self, covariance: Tensor, rounding: Tensor) -> Tensor:
        """The maximum under Σ ⪰ diag(floor): eigenvalues of the whitened matrix held at 1.

        The floor is never under what rounding leaves of a variance of 0, so that a factor always exists.
        """
        scale = self.floor.maximum(rounding).clamp_min(1e-300).sqrt()
        whitened = covariance / (scale[..., :, None] * scale[..., None, :])
        values, vectors = torch.linalg.eigh(whitened)
        low = values[..., 0] < 1
        self.held = low.reshape(-1, 1)
        held = (vectors * values.clamp_min(1)[..., None, :]) @ vectors.mT
        held = held * (scale[..., :, None] * scale[..., None, :])
        return torch.where(low[..., None, None], held, covariance)

    def log_prior(self) -> Tensor:
        L = self.scale_tril()
        log_det = 2 * L.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        spread = (torch.cholesky_inverse(L) * self.prior_pull()).sum()
        scale = (torch.cholesky_inverse(L) * self.prior_scale()).sum((-2, -1))
        return -0.5 * (self.per_matrix(self.prior.dof * log_det + scale) + spread)

    def per_matrix(self, values: Tensor) -> Tensor:
        """Σ over the distinct matrices of a term that the K states each carry: (K,) to ()."""
        return values.sum()

    def n_free(self) -> int:
        D = self.n_features
        matrices = self.factor.numel() // D**2
        means = 0 if "mean" in self.frozen else self.mean.numel()
        return means + (0 if "covariance" in self.frozen else matrices * D * (D + 1) // 2)


class TiedGaussian(FullGaussian):
    """One Σ for all states, or given G matrices (G, D, D), one for each G-th part of the states in their order."""

    @property
    def n_sharing(self) -> int:
        """States that share a matrix."""
        return self.n_components * self.n_features**2 // self.factor.numel()

    def scale_tril(self) -> Tensor:
        L, size = triangle(self.factor), self.n_sharing
        return L.expand(size, *L.shape) if L.dim() == 2 else L.repeat_interleave(size, 0)

    def ratio(self, scatter: Tensor, count: Tensor) -> Tensor:
        size = self.n_sharing
        weight = count.unflatten(0, (-1, size)).sum(1)[..., None] + self.prior.dof
        total = scatter.unflatten(0, (-1, size)).sum(1)
        scale = self.prior_scale().expand_as(scatter)[::size]
        old = self.covariance()[::size]
        return torch.where(weight > 0, (total + scale) / weight, old).view_as(self.factor)

    def per_matrix(self, values: Tensor) -> Tensor:
        return values[:: self.n_sharing].sum()


def moved(second: Tensor, first: Tensor, count: Tensor, shift: Tensor) -> Tensor:
    """Σ w (x − m − δ)(x − m − δ)ᵀ from the sums about m, or its diagonal where the second moments are (K, D)."""
    if second.dim() == 2:
        return second - 2 * shift * first + count * shift.square()
    outer = shift[:, :, None] * first[:, None, :]
    return second - outer - outer.mT + count[..., None] * shift[:, :, None] * shift[:, None, :]


def triangle(factor: Tensor) -> Tensor:
    """The lower triangle; without gradients a factor is one as it stands, and tril would wake every thread."""
    return factor.tril() if torch.is_grad_enabled() else factor


def patterns(observed: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The rows of each pattern of observed entries, and the pattern; rows with nothing observed are left out.

    Complete and empty rows, which padding makes the commonest, are told apart without sorting.
    """
    complete = observed.all(1)
    if len(observed) == 0:
        return []
    if bool(complete.all()):
        return [(torch.arange(len(observed), device=observed.device), observed[0])]
    partial = (observed.any(1) & ~complete).nonzero().flatten()
    unique, inverse = observed[partial].unique(dim=0, return_inverse=True)
    found = [(partial[inverse == i], o) for i, o in enumerate(unique)]
    if bool(complete.any()):
        found.append((complete.nonzero().flatten(), torch.ones_like(observed[0])))
    return found
