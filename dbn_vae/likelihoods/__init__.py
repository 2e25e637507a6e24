"""Families for p(x_t | z_t)."""

from dbn_vae.likelihoods.base import Likelihood
from dbn_vae.likelihoods.bernoulli import Bernoulli
from dbn_vae.likelihoods.categorical import Categorical
from dbn_vae.likelihoods.gaussian import Gaussian
from dbn_vae.likelihoods.poisson import Poisson


def named(name: str, **options: object) -> Likelihood:
    """The family of that name; raises ValueError for an unknown one."""
    families = {family.name: family for family in (Bernoulli, Categorical, Gaussian, Poisson)}
    if name not in families:
        raise ValueError(f"likelihood={name!r}; it is one of {sorted(families)}")
    return families[name](**options)  # type: ignore[arg-type]


__all__ = ["Bernoulli", "Categorical", "Gaussian", "Likelihood", "Poisson", "named"]
