"""Gaussian emissions of low rank: p(x_t | s_t = k) = N(x_t; μ_k, W_k W_kᵀ + diag ψ_k), factor analysis in every state.

D R + D numbers a covariance, of which R (R − 1) / 2 are a rotation of the factors, instead of D (D + 1) / 2; where they
are not fewer, that many are free.  The M-step raises −½ log |Σ| − ½ tr Σ⁻¹ S, S the expected scatter about the new
mean, by EM over the factors f ~ N(0, I), x = μ + W f + ε:

    β = Wᵀ Σ⁻¹,   W ← S βᵀ (I − β W + β S βᵀ)⁻¹,   ψ ← diag(S − W β S).

Sources: Rubin and Thayer (1982), EM algorithms for ML factor analysis; Drton, Sturmfels and Sullivant (2007), Algebraic
factor analysis, Theorem 2, for the number of free parameters.
"""

import torch
from torch import Tensor, nn

from dbn_vae.distributions import log
from dbn_vae.emissions.dense_gaussian import DenseGaussian
from dbn_vae.emissions.gaussian import GaussianPrior, moved


class LowRankGaussian(DenseGaussian):
    """R factors a state; frozen may name "mean" and "covariance".

    Args:
        mean: (K, D).
        loading: W, (K, D, R).
        noise: ψ, (K, D).
        floor: (D,) smallest ψ allowed.
    """

    n_updates = 25  # of the factors in one M-step: cheap beside the E-step, which sees the data

    def __init__(self, mean: Tensor, loading: Tensor, noise: Tensor, floor: Tensor | None = None) -> None:
        super().__init__(mean, GaussianPrior(), floor)
        self.loading = nn.Parameter(loading.clone())
        self.log_noise = nn.Parameter(log(noise))

    def noise(self) -> Tensor:
        return self.log_noise.exp()

    def covariance(self) -> Tensor:
        return self.loading @ self.loading.mT + torch.diag_embed(self.noise())

    def scale_tril(self) -> Tensor:
        return torch.linalg.cholesky(self.covariance())

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, first, second = statistics
        mean = self.updated_mean(count, first)
        shift = mean - self.mean
        self.mean.copy_(mean)
        if "covariance" in self.frozen:
            return
        scatter = moved(second, first, count, shift)
        seen = count[..., None] > 0
        S = torch.where(seen, scatter / count[..., None], self.covariance())
        W, psi = self.loading.detach(), self.noise()
        floor = self.floor.clamp_min(torch.finfo(psi.dtype).eps * S.diagonal(dim1=-2, dim2=-1).amax())
        identity = torch.eye(W.shape[-1]).to(W)
        for _ in range(self.n_updates):
            beta = torch.linalg.solve(W @ W.mT + torch.diag_embed(psi), W).mT  # (K, R, D)
            cross = S @ beta.mT
            W = torch.linalg.solve(identity - beta @ W + beta @ cross, cross.mT).mT
            psi = (S - W @ beta @ S).diagonal(dim1=-2, dim2=-1).maximum(floor)
        self.held = psi <= floor
        self.loading.copy_(torch.where(seen, W, self.loading))
        self.log_noise.copy_(torch.where(seen[..., 0], psi.log(), self.log_noise))

    def log_prior(self) -> Tensor:
        return self.mean.new_zeros(())

    @property
    def n_surplus(self) -> int:
        """Numbers of W, up to a rotation, and ψ beyond the D (D + 1) / 2 of a covariance; under 0 where it has more."""
        _, D, R = self.loading.shape
        R = min(R, D)  # W Wᵀ is any matrix by then
        return D * R - R * (R - 1) // 2 + D - D * (D + 1) // 2

    def n_free(self) -> int:
        """The dimension of what Σ can be, of every state, and of the means."""
        K, D, _ = self.loading.shape
        means = 0 if "mean" in self.frozen else K * D
        return means + (0 if "covariance" in self.frozen else K * (D * (D + 1) // 2 + min(self.n_surplus, 0)))
