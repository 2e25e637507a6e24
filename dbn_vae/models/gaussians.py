"""Gaussian predictions of z, diagonal or dense, and the diagonal evidence that meets them.

    N(z; μ, Σ) psi(z),   psi(z) = exp(h·z − ½ zᵀ J z),   Σ = L Lᵀ

With z = μ + L u the product is a Gaussian in u of precision M = I + Lᵀ J L, well conditioned however small Σ or J are.
Let M = Q Qᵀ with Q upper triangular; then W = L Q⁻ᵀ is lower triangular and

    posterior covariance S = W Wᵀ,   mean m = μ + S e,   e = h − J μ,
    log ∫ N(z; μ, Σ) psi(z) dz = log psi(μ) + ½ |Wᵀ e|² + Σ_i log (W_ii / L_ii).
"""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from dbn_vae.distributions import Evidence, kl_normal, log_normal, noise, normal, posterior

Gaussian = Normal | MultivariateNormal
N_POINTS = 32  # of the integral over z when states are decoded


def dense(mean: Tensor, scale_tril: Tensor) -> MultivariateNormal:
    return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)


def meet(p: Gaussian, evidence: Evidence) -> Gaussian:
    """N(μ, Σ) psi, normalised."""
    if isinstance(p, Normal):
        return posterior(p, evidence)
    W = posterior_factor(p, evidence)
    return dense(p.mean + product(W, product(W.mT, evidence.h - evidence.J * p.mean)), W)


def log_integral(p: Gaussian, evidence: Evidence) -> Tensor:
    """log ∫ N(z; μ, Σ) psi(z) dz: (...)."""
    h, J = evidence
    if isinstance(p, Normal):
        # ½ (S g² − μ²/V), g = μ/V + h, with the two large terms cancelled by hand; S ≤ 1/J, though V may be anything
        V, shrink = p.variance, 1 / (1 + p.variance * J)
        gain = shrink * V * h.square() + shrink * (2 * p.mean * h - J * p.mean.square())
        return 0.5 * (gain - torch.log1p(V * J)).sum(-1)
    W = posterior_factor(p, evidence)
    gain = 0.5 * product(W.mT, h - J * p.mean).square().sum(-1)
    return evidence.log_psi(p.mean) + gain + log_diagonal(W) - log_diagonal(p.scale_tril)


def posterior_factor(p: MultivariateNormal, evidence: Evidence) -> Tensor:
    """W: (..., Z, Z)."""
    L = p.scale_tril
    M = torch.eye(L.shape[-1]).to(L) + (L.mT * evidence.J[..., None, :]) @ L
    Q = torch.linalg.cholesky(M.flip(-2, -1)).flip(-2, -1)
    return torch.linalg.solve_triangular(Q, L.mT, upper=True).mT


def log_density(z: Tensor, p: Gaussian) -> Tensor:
    """log N(z; μ, Σ): (..., Z) to (...)."""
    return log_normal(z, p) if isinstance(p, Normal) else p.log_prob(z)


def kl(q: Normal, p: Gaussian) -> Tensor:
    """KL(q ‖ p) of a diagonal q: (...)."""
    if isinstance(p, Normal):
        return kl_normal(q, p)
    L = p.scale_tril
    root = torch.linalg.solve_triangular(L, torch.eye(L.shape[-1]).to(L), upper=False)  # Σ⁻¹ = rootᵀ root
    trace = (root.square().sum(-2) * q.variance).sum(-1)
    distance = product(root, q.mean - p.mean).square().sum(-1)
    return 0.5 * (trace + distance - L.shape[-1]) + log_diagonal(L) - q.scale.log().sum(-1)


def place(p: Gaussian, epsilon: Tensor) -> Tensor:
    """The point of p that standard normal noise stands for: (..., Z)."""
    return p.mean + (p.scale * epsilon if isinstance(p, Normal) else product(p.scale_tril, epsilon))


def draw(p: Gaussian, generator: torch.Generator | None, n: tuple[int, ...] = ()) -> Tensor:
    """z ~ p: n + shape, differentiable in the parameters."""
    return place(p, noise(n + tuple(p.mean.shape), p.mean, generator))


def fixed_points(like: Tensor) -> Tensor:
    """N_POINTS standard normal points in Z dimensions, in pairs z, −z, the same at every call: (N_POINTS, Z)."""
    always = torch.Generator().manual_seed(0)
    half = noise((N_POINTS // 2, like.shape[-1]), like, always)
    return torch.cat([half, -half])


def chosen(p: Gaussian, states: Tensor) -> Gaussian:
    """Of components (..., K, Z) those named by states (..., k): (..., k, Z)."""

    def at(values: Tensor, n: int) -> Tensor:
        tail = values.shape[-n:]
        index = states.view(*states.shape, *[1] * n).expand(*states.shape, *tail)
        return values.expand(*states.shape[:-1], *values.shape[-n - 1 :]).gather(states.dim() - 1, index)

    if isinstance(p, Normal):
        return normal(at(p.mean, 1), at(p.scale, 1))
    return dense(at(p.mean, 1), at(p.scale_tril, 2))


def at_step(p: Gaussian, t: int) -> Gaussian:
    """Of components (B, T, K, Z) those of one step: (B, K, Z)."""
    if isinstance(p, Normal):
        return normal(p.mean[:, t], p.scale[:, t])
    return dense(p.mean[:, t], p.scale_tril[:, t])


def packed(factor: Tensor) -> Tensor:
    """A lower triangle (..., Z, Z) as free numbers (..., Z (Z + 1) / 2), row by row, logarithms on the diagonal."""
    logs = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).log())
    i, j = torch.tril_indices(*factor.shape[-2:], device=factor.device)
    return logs[..., i, j]


def unpacked(numbers: Tensor) -> Tensor:
    """The reverse of packed."""
    Z = math.isqrt(2 * numbers.shape[-1])
    i, j = torch.tril_indices(Z, Z, device=numbers.device)
    logs = numbers.new_zeros(*numbers.shape[:-1], Z, Z)
    logs[..., i, j] = numbers
    return logs.tril(-1) + torch.diag_embed(logs.diagonal(dim1=-2, dim2=-1).exp())


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., Z, Z) times (..., Z)."""
    return (matrix @ vector[..., None]).squeeze(-1)


def log_diagonal(triangle: Tensor) -> Tensor:
    """½ log |T Tᵀ|: (...)."""
    return triangle.diagonal(dim1=-2, dim2=-1).log().sum(-1)
