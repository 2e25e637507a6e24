"""What a family says of frames not seen, entry by entry.

    moments         E[x_d | s = k] and Var[x_d | s = k]
    cdf             P(x_d ≤ x | s = k)
    discrete        whether x_d is a whole number
    gaussian_parts  the entries as mixtures of Gaussians, where they are

All follow from Emission.distribution; families made of others ask their parts.  A family that names no distribution
can be drawn from but registers its own to say more.
"""

from functools import singledispatch
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.special import ndtr
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, MultivariateNormal, Normal
from torch.distributions import Exponential as TorchExponential
from torch.distributions import Gamma as TorchGamma
from torch.distributions import Multinomial as TorchMultinomial
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions import Poisson as TorchPoisson
from torch.distributions import StudentT as TorchStudentT

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.gaussian import Gaussian
from dbn_vae.emissions.log_normal import LogNormal
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.product import Product
from dbn_vae.emissions.von_mises import VonMises
from dbn_vae.emissions.zero_inflated import ZeroInflated


def require_known_context(emission: Emission, verb: str) -> None:
    """Raise NotImplementedError for a family with context of which it does not say whence it comes, or such a part."""
    for part in emission.modules():
        if isinstance(part, Emission) and part.n_context and not (part.n_inputs or part.order):
            name = type(part).__name__
            raise NotImplementedError(
                f"{verb} is not offered for {name}, which conditions on more than the state and does not say on what: "
                f"set {name}.order, the number of earlier frames that with_context reads, or n_inputs"
            )


def require_no_past(emission: Emission, verb: str) -> None:
    """Raise NotImplementedError for a family that conditions on earlier frames, or has a part that does."""
    for part in emission.modules():
        if isinstance(part, Emission) and part.n_context and not part.n_inputs:
            raise NotImplementedError(
                f"{verb} is not offered for {type(part).__name__}, which conditions on earlier frames: frames that "
                "nobody saw would change what it conditions on"
            )


# -- moments


@singledispatch
def moments(emission: Emission) -> tuple[Tensor, Tensor]:
    """Mean and variance of every entry in every state, (K, D) each; NaN for symbols and angles, which have none."""
    distribution = emission.distribution()
    shape = emission.n_components, emission.n_features
    return distribution.mean.reshape(shape), distribution.variance.reshape(shape)


@moments.register(Categorical)
@moments.register(VonMises)
def _(emission: Emission) -> tuple[Tensor, Tensor]:
    nothing = torch.full((emission.n_components, emission.n_features), torch.nan, dtype=torch.float64)
    return nothing, nothing


@moments.register
def _(emission: Mixture) -> tuple[Tensor, Tensor]:
    size = emission.n_components, emission.n_mix
    mean, variance = (v.unflatten(0, size) for v in moments(emission.component))
    return blend(emission.weights(), mean, variance)


def blend(weights: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of Σ_m w_m p_m: (..., M) and (..., M, D) to (..., D)."""
    w = weights[..., None]
    total = (w * mean).sum(-2)
    return total, (w * (variance + (mean - total[..., None, :]).square())).sum(-2)


@moments.register
def _(emission: Product) -> tuple[Tensor, Tensor]:
    mean, variance = zip(*(moments(block) for block in emission.emissions()), strict=True)
    return in_order(emission, list(mean)), in_order(emission, list(variance))


def in_order(emission: Product, parts: list[Tensor]) -> Tensor:
    """What each block says of its columns, as whole frames: (..., D)."""
    return torch.cat(parts, -1)[..., torch.tensor([i for c in emission.columns for i in c]).argsort()]


@moments.register
def _(emission: ZeroInflated) -> tuple[Tensor, Tensor]:
    mean, variance = moments(emission.base)
    kept = 1 - emission.inflation()
    return kept * mean, kept * (variance + (1 - kept) * mean.square())


@moments.register
def _(emission: LogNormal) -> tuple[Tensor, Tensor]:
    mean, variance = moments(emission.gaussian)
    expected = (mean + variance / 2).exp()
    return expected, variance.expm1() * expected.square()


# -- distribution functions


@singledispatch
def frozen(distribution: Distribution) -> Any:
    """SciPy's counterpart of the K distributions, entry by entry: parameters (K, D).

    Raises NotImplementedError where there is none, as for angles, which have no order.
    """
    raise NotImplementedError(f"{type(distribution).__name__} has no distribution function here")


frozen.register(Normal, lambda d: stats.norm(plain(d.mean), plain(d.stddev)))
frozen.register(MultivariateNormal, lambda d: stats.norm(plain(d.mean), plain(d.variance) ** 0.5))
frozen.register(TorchExponential, lambda d: stats.expon(scale=1 / plain(d.rate)))
frozen.register(TorchGamma, lambda d: stats.gamma(plain(d.concentration), scale=1 / plain(d.rate)))
frozen.register(TorchStudentT, lambda d: stats.t(plain(d.df), plain(d.loc), plain(d.scale)))
frozen.register(TorchPoisson, lambda d: stats.poisson(plain(d.rate)))
frozen.register(
    TorchNegativeBinomial, lambda d: stats.nbinom(plain(d.total_count), plain(torch.sigmoid(-d.logits)))
)
frozen.register(TorchBernoulli, lambda d: stats.bernoulli(plain(d.probs)))
frozen.register(TorchMultinomial, lambda d: stats.binom(d.total_count, plain(d.probs)))


def plain(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()


@singledispatch
def cdf(emission: Emission, x: np.ndarray, upper: bool = False) -> np.ndarray:
    """P(x_d ≤ x | s = k), or with `upper` P(x_d > x | s = k): (..., D) to (..., K, D).

    Raises NotImplementedError for symbols and angles, which have no order.
    """
    d = frozen(emission.distribution())
    return np.asarray((d.sf if upper else d.cdf)(x[..., None, :]))


@cdf.register
def _(emission: Gaussian, x: np.ndarray, upper: bool = False) -> np.ndarray:
    """As frozen has it, without SciPy's making of a distribution: under inputs every frame has a family of its own."""
    scale = plain(emission.covariance().diagonal(dim1=-2, dim2=-1).sqrt())
    z = (x[..., None, :] - plain(emission.mean)) / scale
    return np.asarray(ndtr(-z if upper else z))


@cdf.register
def _(emission: Mixture, x: np.ndarray, upper: bool = False) -> np.ndarray:
    each = cdf(emission.component, x, upper)
    each = each.reshape(*x.shape[:-1], emission.n_components, emission.n_mix, x.shape[-1])
    return (plain(emission.weights())[..., None] * each).sum(-2)


@cdf.register
def _(emission: Product, x: np.ndarray, upper: bool = False) -> np.ndarray:
    blocks = zip(emission.emissions(), emission.columns, strict=True)
    parts = [torch.as_tensor(cdf(block, x[..., columns], upper)) for block, columns in blocks]
    return in_order(emission, parts).numpy()


@cdf.register
def _(emission: ZeroInflated, x: np.ndarray, upper: bool = False) -> np.ndarray:
    inflation = plain(emission.inflation())
    zeros = (x < 0 if upper else x >= 0)[..., None, :]
    return inflation * zeros + (1 - inflation) * cdf(emission.base, x, upper)


@cdf.register
def _(emission: LogNormal, x: np.ndarray, upper: bool = False) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return cdf(emission.gaussian, np.log(np.maximum(x, 0)), upper)


@singledispatch
def discrete(emission: Emission) -> np.ndarray:
    """Which entries are whole numbers: (D,) bool."""
    support = emission.distribution().support
    return np.full(emission.n_features, support is not None and support.is_discrete)


@discrete.register
def _(emission: Gaussian) -> np.ndarray:
    return np.zeros(emission.n_features, dtype=bool)


@discrete.register
def _(emission: Mixture) -> np.ndarray:
    return discrete(emission.component)


@discrete.register
def _(emission: Product) -> np.ndarray:
    out = np.zeros(emission.n_features, dtype=bool)
    for block, columns in zip(emission.emissions(), emission.columns, strict=True):
        out[columns] = discrete(block)
    return out


@discrete.register
def _(emission: ZeroInflated) -> np.ndarray:
    return discrete(emission.base)


@discrete.register
def _(emission: LogNormal) -> np.ndarray:
    return np.zeros(emission.n_features, dtype=bool)


# -- Gaussian mixtures, for which scores have closed forms


@singledispatch
def gaussian_parts(emission: Emission) -> tuple[Tensor, Tensor, Tensor] | None:
    """Weights (K, M), means and scales (K, M, D) where every entry is a mixture of Gaussians, else None."""
    return None


@gaussian_parts.register
def _(emission: Gaussian) -> tuple[Tensor, Tensor, Tensor] | None:
    scale = emission.covariance().diagonal(dim1=-2, dim2=-1).sqrt()
    return torch.ones_like(scale[:, :1]), emission.mean[:, None], scale[:, None]


@gaussian_parts.register
def _(emission: Mixture) -> tuple[Tensor, Tensor, Tensor] | None:
    parts = gaussian_parts(emission.component)
    if parts is None:
        return None
    size = emission.n_components, emission.n_mix
    weights, mean, scale = (p.unflatten(0, size).flatten(1, 2) for p in parts)
    return weights * emission.weights(), mean, scale
