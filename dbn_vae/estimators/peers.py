"""Models of hmmlearn and ours, turned into each other: constructor arguments and fitted attributes.

`min_covar` is left at each package's default: there an absolute variance, here a share of the data's.
"""

from typing import Any

import numpy as np

from dbn_vae.estimators.categorical_hmm import CategoricalHMM
from dbn_vae.estimators.classical import ClassicalHMM
from dbn_vae.estimators.gaussian_hmm import GaussianHMM
from dbn_vae.estimators.gmm_hmm import GMMHMM
from dbn_vae.estimators.multinomial_hmm import MultinomialHMM
from dbn_vae.estimators.poisson_hmm import PoissonHMM
from dbn_vae.estimators.variational_categorical_hmm import VariationalCategoricalHMM
from dbn_vae.estimators.variational_gaussian_hmm import VariationalGaussianHMM

# Classes that share hmmlearn's name, arguments and attributes; a family that gets there is added here.
SHARED: tuple[type[ClassicalHMM], ...] = (
    CategoricalHMM,
    GMMHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    VariationalCategoricalHMM,
    VariationalGaussianHMM,
)
NOT_SHARED = {"min_covar"}


def from_hmmlearn(model: Any) -> ClassicalHMM:
    """Our estimator with the arguments and the fitted attributes of hmmlearn's.

    Raises TypeError for a model that has no counterpart.
    """
    names = [base.__name__ for base in type(model).__mro__ if base.__module__.split(".")[0] == "hmmlearn"]
    found = [ours for ours in SHARED if ours.__name__ in names]
    if not found:
        raise TypeError(
            f"{type(model).__name__} has no counterpart; there are {[c.__name__ for c in SHARED]}"
        )
    ours = found[0](**shared_arguments(model, found[0]()))
    for name, value in fitted(model).items():
        setattr(ours, name, value)
    if isinstance(ours, VariationalGaussianHMM) and "means_posterior_" in vars(ours):
        ours.means_ = ours.means_posterior_.copy()  # a property in hmmlearn
    return ours


def to_hmmlearn(model: ClassicalHMM) -> Any:
    """hmmlearn's estimator with the arguments and the fitted attributes of ours.

    Raises TypeError for a model that has no counterpart.
    """
    import hmmlearn.hmm
    import hmmlearn.vhmm

    if type(model) not in SHARED:
        raise TypeError(
            f"{type(model).__name__} has no counterpart; there are {[c.__name__ for c in SHARED]}"
        )
    name = type(model).__name__
    peer = getattr(hmmlearn.vhmm if name.startswith("Variational") else hmmlearn.hmm, name)
    theirs = peer(**shared_arguments(model, peer()))
    values: dict[str, Any] = dict(fitted(model))
    if isinstance(model, VariationalGaussianHMM):
        values.pop("means_", None)
        for scalar in ("dof_prior_", "dof_posterior_"):  # hmmlearn wants a number where there is but one
            if scalar in values and values[scalar].ndim == 0:
                values[scalar] = float(values[scalar])
    for attribute, value in values.items():
        setattr(theirs, attribute, value)
    if "emissionprob_" in values:
        theirs.n_features = values["emissionprob_"].shape[1]
    elif model.is_fitted():
        theirs.n_features = model.width
    return theirs


def shared_arguments(source: Any, target: Any) -> dict[str, Any]:
    """The source's constructor arguments that the target knows by the same name and meaning."""
    known = target.get_params(deep=False)
    return {k: v for k, v in source.get_params(deep=False).items() if k in known and k not in NOT_SHARED}


def fitted(model: Any) -> dict[str, np.ndarray]:
    """The model's numbers by attribute, in compact shapes."""
    names = {
        "startprob_",
        "transmat_",
        "weights_",
        "means_",
        "covars_",
        "_covars_",
        "emissionprob_",
        "lambdas_",
    }
    found = {
        name: np.array(value, dtype=np.float64)
        for name, value in vars(model).items()
        if name in names or name.endswith(("_prior_", "_posterior_"))
    }
    covars = found.get("_covars_")
    if covars is not None and covars.ndim == 2 and model.covariance_type == "spherical":
        found["_covars_"] = covars[:, 0]  # once fitted, hmmlearn repeats it for every feature
    return found
