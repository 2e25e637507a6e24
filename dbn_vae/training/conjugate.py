"""Draws from conjugate posteriors, for Gibbs sampling.

A Gaussian's prior is emissions.gaussian.GaussianPrior read as a density of (μ, Σ),

    −2 log p(μ, Σ) = dof log |Σ| + tr Σ⁻¹ (Ψ + weight (μ − m)(μ − m)ᵀ),

which is normal-inverse-Wishart: μ | Σ ~ N(m, Σ / weight) and Σ ~ IW(ν, Ψ), with ν + P + 1 = dof − G, what is left of
the power of |Σ|^−½ when the G means that share Σ are integrated out.  P = D for matrices.  For diagonal and spherical
covariances P = 1, Σ a number, and IW(ν, ψ) an inverse gamma of shape ν/2 and scale ψ/2.

Source: Gelman et al. (2013), Bayesian data analysis, sections 3.3 and 3.6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbn_vae.distributions import log_normalized, noise
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.dense_gaussian import FullGaussian, TiedGaussian, patterns
from dbn_vae.emissions.gaussian import DiagonalGaussian, Gaussian, SphericalGaussian


def require_proper(name: str, value: Tensor | float) -> None:
    """Raise ValueError unless a prior's numbers are positive."""
    numbers = torch.as_tensor(value)
    if not bool((numbers > 0).all()):
        raise ValueError(f"{name} holds {float(numbers.min()):g}; to be drawn from, a prior needs it above 0")


def log_gamma_draw(shape: Tensor, generator: torch.Generator) -> Tensor:
    """log of Gamma(shape, 1), which itself would underflow where the shape is small: G(a) = G(a + 1) U^(1/a)."""
    uniform = torch.rand(shape.shape, generator=generator, dtype=shape.dtype).clamp_min(1e-300)
    return torch._standard_gamma(shape + 1, generator=generator).log() + uniform.log() / shape


def dirichlet(
    logits: nn.Parameter, count: Tensor, concentration: Tensor | float, name: str, generator: torch.Generator
) -> None:
    """Rows of probabilities given counts, in place; exact zeros are structure and stay."""
    require_proper(name, concentration)
    drawn = log_gamma_draw((count + concentration).to(logits.dtype), generator)
    logits.copy_(log_normalized(drawn.masked_fill(logits == -torch.inf, -torch.inf)))


def sums(emission: Emission, x: Tensor, observed: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    """The family's statistics with every frame wholly in its state."""
    assert isinstance(emission, ClosedForm)
    return emission.statistics(x, observed, F.one_hot(states, emission.n_components).to(x.dtype))


def draw_gaussian(
    emission: Gaussian, x: Tensor, observed: Tensor, states: Tensor, generator: torch.Generator
) -> None:
    """(μ, Σ) given frames and their states, in place; Σ first with the means integrated out, then μ given Σ.

    The floor of variances is EM's alone: a proper prior needs none.
    """
    if type(emission) not in (DiagonalGaussian, SphericalGaussian, FullGaussian, TiedGaussian):
        raise TypeError(f"{type(emission).__name__} has no conjugate prior here")
    if isinstance(emission, FullGaussian):
        x, observed = completed(emission, x, observed, states, generator)
    count, first, second = sums(emission, x, observed, states)  # about the present means
    mean, prior = emission.mean, emission.prior
    free = "mean" not in emission.frozen
    require_proper("the weight of the means' prior (means_weight)", prior.weight)
    weight = count + prior.weight
    away = mean - prior.mean
    shift = (first - prior.weight * away) / weight  # from the present means to the posterior's
    scatter = second + spread(prior.weight * torch.ones_like(away), away, second)
    if free:
        scatter = scatter - spread(weight.expand_as(mean), shift, second)
    if "covariance" not in emission.frozen:
        draw_covariance(emission, count, scatter, free, generator)
    if free:
        scale = (1 / weight).sqrt() * noise(tuple(mean.shape), mean, generator)
        if isinstance(emission, FullGaussian):
            scale = (emission.scale_tril() @ scale[..., None]).squeeze(-1)
        elif isinstance(emission, DiagonalGaussian):
            scale = emission.variance().sqrt() * scale
        mean.add_(shift + scale)


def spread(weight: Tensor, away: Tensor, like: Tensor) -> Tensor:
    """weight · away awayᵀ, or its diagonal where the second moments are kept so."""
    return weight * away.square() if like.dim() == 2 else (weight * away)[:, :, None] * away[:, None, :]


def draw_covariance(
    emission: Gaussian, count: Tensor, scatter: Tensor, free: bool, generator: torch.Generator
) -> None:
    """Σ given counts and scatters (K, ...), about means that are integrated out (free) or given."""
    K, D = emission.mean.shape
    dof, lost = torch.as_tensor(emission.prior.dof, dtype=scatter.dtype), float(free)
    if isinstance(emission, DiagonalGaussian):
        entries = D if isinstance(emission, SphericalGaussian) else 1
        base, scale = dof.expand(K, D), torch.as_tensor(emission.prior.scale).expand(K, D)
        if isinstance(emission, SphericalGaussian):
            base, scale, count, scatter = (v.sum(1, keepdim=True) for v in (base, scale, count, scatter))
        require_proper("the covariances' prior scale (covars_prior)", scale)
        require_proper("the covariances' prior degrees of freedom (from covars_weight)", base - entries - 2)
        nu = base + count - entries * lost - 2
        variance = (0.5 * (scale + scatter)).log() - log_gamma_draw(nu / 2, generator)
        emission.log_scale.copy_(0.5 * variance)
        return
    assert isinstance(emission, FullGaussian)
    G = emission.n_sharing if isinstance(emission, TiedGaussian) else 1
    prior = emission.prior_scale().expand(K, D, D)[::G]
    require_proper("the covariances' prior scale (covars_prior)", torch.linalg.eigvalsh(prior))
    require_proper(
        "the covariances' prior degrees of freedom (from covars_weight), less n_features − 1",
        dof - G - D - 1 - (D - 1),
    )
    total = prior + scatter.unflatten(0, (-1, G)).sum(1)
    nu = dof.expand(K, 1)[::G, 0] + count.expand(K, 1)[:, 0].unflatten(0, (-1, G)).sum(1) - G * lost - D - 1
    emission.factor.copy_(inverse_wishart_factor(nu, total, generator).view_as(emission.factor))


def inverse_wishart_factor(nu: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Lower Cholesky factors of Σ ~ IW(ν, Ψ), ν (G,) and Ψ (G, D, D), by Bartlett's decomposition of Σ⁻¹."""
    D = scale.shape[-1]
    L = torch.linalg.cholesky(scale)
    A = noise(tuple(scale.shape), scale, generator).tril(-1)
    chi_square = 2 * log_gamma_draw((nu[:, None] - torch.arange(D)) / 2, generator).exp()
    A = A + torch.diag_embed(chi_square.sqrt())
    # Σ⁻¹ = (L⁻ᵀ A)(L⁻ᵀ A)ᵀ, so Σ = B Bᵀ with B = L A⁻ᵀ
    B = torch.linalg.solve_triangular(A, L.mT, upper=False).mT
    return torch.linalg.cholesky(B @ B.mT)


def completed(
    emission: FullGaussian, x: Tensor, observed: Tensor, states: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Frames seen in part, their other entries drawn given those and the state; frames not seen stay out."""
    if bool(observed.all()):
        return x, observed
    x, whole = x.clone(), observed.any(1, keepdim=True).expand_as(observed)
    covariance = emission.covariance()
    for rows, o in patterns(observed):
        if bool(o.all()):
            continue
        for k in range(emission.n_components):
            chosen = rows[states[rows] == k]
            Sigma, mean = covariance[k], emission.mean[k]
            gain = torch.linalg.solve(Sigma[o][:, o], Sigma[o][:, ~o]).T  # (D_m, D_o)
            left = torch.linalg.cholesky(Sigma[~o][:, ~o] - gain @ Sigma[o][:, ~o])
            missing = mean[~o] + (x[chosen][:, o] - mean[o]) @ gain.T
            missing = missing + noise(tuple(missing.shape), x, generator) @ left.T
            x[chosen[:, None], (~o).nonzero()[:, 0]] = missing
    return x, whole
