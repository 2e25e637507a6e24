"""Sequences with hidden state: hidden Markov models and their deep relatives under one face."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbn_vae.estimators import (
        GMMHMM,
        HSMM,
        VAE,
        VAEHMM,
        BernoulliHMM,
        CategoricalHMM,
        DeepMarkovModel,
        EmissionHMM,
        GaussianHMM,
        MultinomialHMM,
        PoissonHMM,
        SwitchingDMM,
        VariationalCategoricalHMM,
        VariationalGaussianHMM,
    )
    from dbn_vae.estimators.peers import from_hmmlearn, to_hmmlearn
    from dbn_vae.estimators.selection import select
    from dbn_vae.estimators.uncertainty import uncertainty
    from dbn_vae.evaluation.comparison import compare
    from dbn_vae.io import load
    from dbn_vae.models.hmm import HMM
    from dbn_vae.sequences import Sequences

__version__ = "0.1.0"

# Torch takes seconds to import; a name is fetched when it is first asked for.
_HOMES = {
    "GMMHMM": "estimators",
    "HSMM": "estimators",
    "BernoulliHMM": "estimators",
    "CategoricalHMM": "estimators",
    "DeepMarkovModel": "estimators",
    "EmissionHMM": "estimators",
    "GaussianHMM": "estimators",
    "HMM": "models.hmm",
    "MultinomialHMM": "estimators",
    "PoissonHMM": "estimators",
    "Sequences": "sequences",
    "SwitchingDMM": "estimators",
    "VAE": "estimators",
    "VAEHMM": "estimators",
    "VariationalCategoricalHMM": "estimators",
    "VariationalGaussianHMM": "estimators",
    "compare": "evaluation.comparison",
    "from_hmmlearn": "estimators.peers",
    "load": "io",
    "select": "estimators.selection",
    "to_hmmlearn": "estimators.peers",
    "uncertainty": "estimators.uncertainty",
}

__all__ = [
    "GMMHMM",
    "HMM",
    "HSMM",
    "VAE",
    "VAEHMM",
    "BernoulliHMM",
    "CategoricalHMM",
    "DeepMarkovModel",
    "EmissionHMM",
    "GaussianHMM",
    "MultinomialHMM",
    "PoissonHMM",
    "Sequences",
    "SwitchingDMM",
    "VariationalCategoricalHMM",
    "VariationalGaussianHMM",
    "compare",
    "from_hmmlearn",
    "load",
    "select",
    "to_hmmlearn",
    "uncertainty",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dbn_vae' has no attribute {name!r}")
    value = getattr(import_module(f"dbn_vae.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
