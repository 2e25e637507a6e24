"""Gaussian emissions whose covariances are matrices, a matrix a state or one for all: exact with any entry missing.

The entries that a frame lacks are integrated out; in EM they enter by their conditional mean and covariance given the
others.  Frames with the same gaps share their matrices.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from dbn_vae.distributions import cholesky
from dbn_vae.emissions.gaussian import Gaussian, GaussianPrior, moved
from dbn_vae.inference.potentials import Potential, Whitened


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
