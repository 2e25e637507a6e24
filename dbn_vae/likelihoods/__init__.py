"""Families for p(x_t | z_t)."""

from dbn_vae.likelihoods.base import Likelihood
from dbn_vae.likelihoods.bernoulli import Bernoulli
from dbn_vae.likelihoods.categorical import Categorical
from dbn_vae.likelihoods.gaussian import Gaussian
from dbn_vae.likelihoods.poisson import Poisson

__all__ = ["Bernoulli", "Categorical", "Gaussian", "Likelihood", "Poisson"]
