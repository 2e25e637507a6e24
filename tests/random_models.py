"""Random HMMs of every emission family, and random data that such a model gave: the matter of many tests.

A family added to FAMILIES is put to every test that runs over it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dbn_vae import emissions
from dbn_vae.emissions import Emission, GaussianPrior
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions import Stationary


def uniform(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def simplex(g: torch.Generator, *shape: int) -> Tensor:
    rows = 0.1 + uniform(g, *shape)
    return rows / rows.sum(-1, keepdim=True)


def covariances(g: torch.Generator, *shape: int) -> Tensor:
    """Positive definite matrices; the last number is their size D."""
    D = shape[-1]
    root = torch.randn(*shape, 2 * D, generator=g, dtype=torch.float64)
    return root @ root.mT / D + 0.2 * torch.eye(D, dtype=torch.float64)


def prior(strength: float) -> GaussianPrior:
    return GaussianPrior(mean=0.3, weight=strength, scale=strength, dof=strength)


def low(D: int) -> Tensor:
    return torch.full((D,), 0.05, dtype=torch.float64)


# One line a family: an emission of K states and D entries (symbols: 4 of them) with random parameters and a prior of a
# strength (0: none).
Make = Callable[[torch.Generator, float, int, int], Emission]
FAMILIES: dict[str, Make] = {
    "diagonal": lambda g, s, K, D: emissions.DiagonalGaussian(
        2 * simplex(g, K, D), 0.5 + uniform(g, K, D), prior(s)
    ),
    "spherical": lambda g, s, K, D: emissions.SphericalGaussian(
        2 * simplex(g, K, D), 0.5 + uniform(g, K), prior(s)
    ),
    "full": lambda g, s, K, D: emissions.FullGaussian(2 * simplex(g, K, D), covariances(g, K, D), prior(s)),
    "tied": lambda g, s, K, D: emissions.TiedGaussian(2 * simplex(g, K, D), covariances(g, D), prior(s)),
    "categorical": lambda g, s, K, D: emissions.Categorical(simplex(g, K, 4), 1 + s),
    "bernoulli": lambda g, s, K, D: emissions.Bernoulli(0.1 + 0.8 * uniform(g, K, D), 1 + s, 1 + s),
    "poisson": lambda g, s, K, D: emissions.Poisson(1 + 4 * uniform(g, K, D), 1 + s, s),
    "exponential": lambda g, s, K, D: emissions.Exponential(0.2 + 2 * uniform(g, K, D), 1 + s, s),
    "gamma": lambda g, s, K, D: emissions.Gamma(0.5 + 2 * uniform(g, K, D), 0.5 + uniform(g, K, D)),
    "log-normal": lambda g, s, K, D: emissions.LogNormal(
        emissions.FullGaussian(2 * simplex(g, K, D), covariances(g, K, D), prior(s + 0.1))
    ),
    "von-mises": lambda g, s, K, D: emissions.VonMises(6 * uniform(g, K, D), 0.2 + 3 * uniform(g, K, D)),
    "student-t": lambda g, s, K, D: emissions.StudentT(
        2 * simplex(g, K, D), 0.5 + uniform(g, K, D), 1 + 9 * uniform(g, K, D)
    ),
    "negative-binomial": lambda g, s, K, D: emissions.NegativeBinomial(
        1 + 4 * uniform(g, K, D), 0.3 + 3 * uniform(g, K, D)
    ),
    "multinomial": lambda g, s, K, D: emissions.Multinomial(simplex(g, K, 4), 6, 1 + s),
    "zero-inflated": lambda g, s, K, D: emissions.ZeroInflated(
        emissions.Poisson(1 + 4 * uniform(g, K, D), 1 + s, s), 0.1 + 0.7 * uniform(g, K, D)
    ),
    "mixture": lambda g, s, K, D: emissions.Mixture(
        emissions.FullGaussian(3 * uniform(g, 2 * K, D), covariances(g, 2 * K, D), prior(s + 0.1)),
        simplex(g, K, 2),
        1 + s,
    ),
    "product": lambda g, s, K, D: emissions.Product(
        [
            emissions.DiagonalGaussian(2 * simplex(g, K, 1), 0.5 + uniform(g, K, 1), prior(s + 0.1)),
            emissions.Poisson(1 + 4 * uniform(g, K, 1), 1 + s, s),
        ],
        [[1], [0]],
    ),
    "low-rank": lambda g, s, K, D: emissions.LowRankGaussian(
        2 * simplex(g, K, D), uniform(g, K, D, 1), 0.5 + uniform(g, K, D), low(D)
    ),
    "linear-regression": lambda g, s, K, D: emissions.LinearRegression(
        2 * simplex(g, K, D), 2 * simplex(g, K, D, 2), covariances(g, K, D), low(D)
    ),
    "autoregressive": lambda g, s, K, D: emissions.Autoregressive(
        2 * simplex(g, K, D), 0.3 * uniform(g, K, 2, D, D), covariances(g, K, D), low(D)
    ),
    "logistic-regression": lambda g, s, K, D: emissions.LogisticRegression(
        2 * simplex(g, K, D) - 1, 2 * simplex(g, K, D, 2), 0.1 + s
    ),
}
ON_INPUTS = ("linear-regression", "logistic-regression")  # they read two inputs a frame


def random_chain(g: torch.Generator, K: int, strength: float = 0.0, zeros: float = 0.0) -> Stationary:
    """Random π and A, a share of their entries exactly 0, but never a whole row."""

    def sparse(rows: Tensor) -> Tensor:
        kept = (uniform(g, *rows.shape) >= zeros).double() if zeros else torch.ones_like(rows)
        kept[..., -1] = 1
        return rows * kept / (rows * kept).sum(-1, keepdim=True)

    start, moves = sparse(simplex(g, K)), sparse(simplex(g, K, K))
    return Stationary(start, moves, 1 + strength, 1 + strength * torch.eye(K))


def random_model(
    family: str, g: torch.Generator, strength: float = 0.0, K: int = 3, D: int = 2, zeros: float = 0.0
) -> HMM:
    return HMM(random_chain(g, K, strength, zeros), FAMILIES[family](g, strength, K, D))


def random_data(
    family: str, g: torch.Generator, n: int = 4, missing: float = 0.0, weights: bool = False, T: int = 14,
    K: int = 3, D: int = 2, truth: HMM | None = None, labelled: float = 0.0,
) -> Sequences:  # fmt: skip
    """n ragged sequences of a random model; NaN at random, never weight 0 throughout; some true states as labels."""
    truth = random_model(family, g, K=K, D=D) if truth is None else truth
    xs, us, labels = [], [], []
    for _ in range(n):
        length = int(torch.randint(1, T + 1, (1,), generator=g))
        us.append(torch.randn(length, 2, generator=g, dtype=torch.float64))
        x, states = truth.sample(length, g, us[-1])
        x = x.double()
        xs.append(torch.where(uniform(g, *x.shape) < missing, math.nan, x).numpy())
        if labelled:
            labels.append(torch.where(uniform(g, length) < labelled, states, -1).numpy())
    return Sequences.from_any(
        xs,
        weights=(0.2 + 2 * uniform(g, n)).numpy() if weights else None,
        inputs=[u.numpy() for u in us] if family in ON_INPUTS else None,
        labels=labels or None,
    )
