"""Families for p(x_t | s_t)."""

from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.gaussian import (
    DiagonalGaussian,
    FullGaussian,
    GaussianPrior,
    SphericalGaussian,
    TiedGaussian,
)
from dbn_vae.emissions.poisson import Poisson

__all__ = [
    "Bernoulli",
    "Categorical",
    "ClosedForm",
    "DiagonalGaussian",
    "Emission",
    "FullGaussian",
    "GaussianPrior",
    "Poisson",
    "SphericalGaussian",
    "TiedGaussian",
]
