"""Families for p(x_t | z_t)."""

from dbn_vae.likelihoods.base import Likelihood
from dbn_vae.likelihoods.bernoulli import Bernoulli
from dbn_vae.likelihoods.categorical import Categorical
from dbn_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from dbn_vae.likelihoods.gaussian import Gaussian
from dbn_vae.likelihoods.made import MADE
from dbn_vae.likelihoods.negative_binomial import NegativeBinomial
from dbn_vae.likelihoods.poisson import Poisson
from dbn_vae.likelihoods.student_t import StudentT

FAMILIES = (MADE, Bernoulli, Categorical, ContinuousBernoulli, Gaussian, NegativeBinomial, Poisson, StudentT)


def named(name: str, **options: object) -> Likelihood:
    """The family of that name; raises ValueError for an unknown one."""
    families: dict[str, type[Likelihood]] = {family.name: family for family in FAMILIES}
    if name not in families:
        raise ValueError(f"likelihood={name!r}; it is one of {sorted(families)}")
    return families[name](**options)


__all__ = [
    "MADE",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "named",
]
