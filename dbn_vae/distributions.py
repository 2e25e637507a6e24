"""Conditional distributions as modules, and Gaussian evidence.

The encoder does not return a posterior but *evidence* about z, a Gaussian factor without normalisation,

    psi(z) = exp(h·z − ½ zᵀ J z),    J ≥ 0 diagonal,

which any Gaussian prediction N(m, V) turns into a posterior: precision 1/V + J, mean (m/V + h) / (1/V + J).
J = 0 says nothing: a missing frame.  The same factor serves the static VAE (prediction N(0, I)), the deep
Markov model (prediction p(z_t | z_{t-1})) and every component of a VAE-HMM.
"""

import math
from abc import ABC, abstractmethod
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)


class Conditional(nn.Module, ABC):
    """p(· | context): a module whose forward returns a torch Distribution."""

    @abstractmethod
    def forward(self, context: Tensor) -> Distribution: ...


class Evidence(NamedTuple):
    """psi(z) = exp(h·z − ½ zᵀ J z)."""

    h: Tensor  # (..., Z)
    J: Tensor  # (..., Z), ≥ 0

    def log_psi(self, z: Tensor) -> Tensor:
        """log psi(z): (...)."""
        return (self.h * z - 0.5 * self.J * z.square()).sum(-1)

    def __mul__(self, other: object) -> "Evidence":
        """Two independent pieces of evidence about the same z."""
        if not isinstance(other, Evidence):
            return NotImplemented
        return Evidence(self.h + other.h, self.J + other.J)


def normal(mean: Tensor, scale: Tensor) -> Normal:
    return Normal(mean, scale, validate_args=False)


def standard_normal(like: Tensor) -> Normal:
    """N(0, I) in the shape of a tensor."""
    return normal(torch.zeros_like(like), torch.ones_like(like))


def posterior(prediction: Normal, evidence: Evidence) -> Normal:
    """N(m, V) · psi, normalised: precision 1/V + J, mean (m/V + h) / (1/V + J)."""
    V = prediction.variance
    shrink = 1 / (1 + V * evidence.J)  # in this form V → 0 and J → 0 are both harmless
    return normal(shrink * (prediction.mean + V * evidence.h), (shrink * V).sqrt())


def kl_normal(q: Normal, p: Normal) -> Tensor:
    """KL(q ‖ p) of diagonal Gaussians, summed over the last dimension (Kingma and Welling 2014, app. B)."""
    ratio = (q.scale / p.scale).square()
    distance = ((q.mean - p.mean) / p.scale).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


def log_normal(z: Tensor, p: Normal) -> Tensor:
    """log N(z; m, V) of a diagonal Gaussian, summed over the last dimension."""
    return -0.5 * (((z - p.mean) / p.scale).square() + 2 * p.scale.log() + math.log(2 * math.pi)).sum(-1)


def noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the type and on the device of a tensor, from a generator of any device."""
    source = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=source).to(like.device)


def draw(p: Normal, generator: torch.Generator | None, n: tuple[int, ...] = ()) -> Tensor:
    """z = m + σ ε with ε from the given generator: n + shape, differentiable in m and σ."""
    return p.mean + p.scale * noise(n + tuple(p.mean.shape), p.mean, generator)


@singledispatch
def sample(distribution: Distribution, generator: torch.Generator | None) -> Tensor:
    """One draw with an explicit generator, which torch's own Distribution.sample does not take."""
    raise TypeError(f"no sampler with a generator for {type(distribution).__name__}")


@sample.register
def _(distribution: Normal, generator: torch.Generator | None) -> Tensor:
    return draw(distribution, generator)


@sample.register
def _(distribution: MultivariateNormal, generator: torch.Generator | None) -> Tensor:
    mean, factor = distribution.mean, distribution.scale_tril
    return mean + (factor @ noise(tuple(mean.shape), mean, generator)[..., None]).squeeze(-1)


@sample.register
def _(distribution: Bernoulli, generator: torch.Generator | None) -> Tensor:
    probs = distribution.probs
    return torch.bernoulli(at(probs, generator), generator=generator).to(probs.device)


@sample.register
def _(distribution: Poisson, generator: torch.Generator | None) -> Tensor:
    rate = distribution.rate
    return torch.poisson(at(rate, generator), generator=generator).to(rate.device)


@sample.register
def _(distribution: Categorical, generator: torch.Generator | None) -> Tensor:
    probs = distribution.probs
    flat = at(probs.reshape(-1, probs.shape[-1]), generator)
    drawn = torch.multinomial(flat, 1, generator=generator)
    return drawn.reshape(probs.shape[:-1]).to(probs)


@sample.register
def _(distribution: StudentT, generator: torch.Generator | None) -> Tensor:
    half = at(distribution.df / 2, generator)
    precision = torch._standard_gamma(half, generator=generator).to(distribution.loc) / (distribution.df / 2)
    return (
        distribution.loc
        + distribution.scale * noise(tuple(precision.shape), precision, generator) / precision.sqrt()
    )


@sample.register
def _(distribution: NegativeBinomial, generator: torch.Generator | None) -> Tensor:
    size = at(distribution.total_count, generator)
    rate = torch._standard_gamma(size, generator=generator) * at(distribution.logits, generator).exp()
    return torch.poisson(rate, generator=generator).to(distribution.logits)


def at(value: Tensor, generator: torch.Generator | None) -> Tensor:
    """The tensor on the generator's device: torch draws only there."""
    return value if generator is None else value.to(generator.device)


def log(probs: Tensor) -> Tensor:
    """log p of a few parameters, without gradient.

    By NumPy: torch wakes every thread for it, which on a busy machine costs milliseconds.
    """
    if not probs.is_cpu:
        return probs.detach().log()
    with np.errstate(divide="ignore", invalid="ignore"):
        return torch.as_tensor(np.log(probs.detach().numpy()))


def log_normalized(logits: Tensor) -> Tensor:
    """log softmax over the last dimension; an exact −inf stays one.

    Not torch.log_softmax, which wakes every thread for a handful of numbers: milliseconds on a busy machine.
    """
    followed = torch.is_grad_enabled() or torch.compiler.is_compiling()
    followed = followed or torch._C._are_functorch_transforms_active()
    if followed or not logits.is_cpu or logits.numel() > 128:
        return logits - logits.logsumexp(-1, keepdim=True)
    numbers = logits.detach().numpy()  # half of torch's time, for so few
    with np.errstate(invalid="ignore"):  # a row of −inf alone gives NaN, as it does in torch
        return torch.from_numpy(numbers - np.logaddexp.reduce(numbers, -1, keepdims=True))


def n_choices(logits: Tensor) -> int:
    """Free parameters of distributions (..., K): in each, one less than it has possible values."""
    possible = logits.detach().cpu().numpy() > -np.inf
    return int(np.count_nonzero(possible)) - int(np.count_nonzero(possible.any(-1)))


def cholesky(covariance: Tensor) -> Tensor:
    """The factors L of L Lᵀ of a few matrices (..., D, D), without gradient.

    By NumPy where it can be: torch wakes every thread for it, as for log.
    """
    if not covariance.is_cpu:
        return torch.linalg.cholesky(covariance.detach())
    return torch.from_numpy(np.linalg.cholesky(covariance.detach().numpy()))


def log_dirichlet(logits: Tensor, concentration: Tensor | float) -> Tensor:
    """Σ (α − 1) log p with p = softmax logits, the log-density of Dirichlet priors up to a constant: ().

    An exact zero of p is structure, not a parameter, and carries no prior.
    """
    alpha = torch.as_tensor(concentration, dtype=logits.dtype, device=logits.device)
    if alpha.dim() == 0 and alpha == 1:
        return logits.new_zeros(())  # maximum likelihood: nothing to add up
    log_probs = log_normalized(logits)
    return ((alpha - 1) * torch.where(log_probs == -math.inf, 0.0, log_probs)).sum()


def dirichlet_mode(counts: Tensor, concentration: Tensor | float, logits: Tensor) -> Tensor:
    """log argmax_p Σ (counts + α − 1) log p in each row, exact zeros of the old softmax kept.

    A row with nothing to learn from keeps its old value: never a row of zeros.
    """
    weight = (counts + (concentration - 1)).clamp_min(0) * (logits > -math.inf)
    total = weight.sum(-1, keepdim=True)
    learnt, mode = total > 0, (weight / total).log()
    return mode if bool(learnt.all()) else torch.where(learnt, mode, log_normalized(logits))
