"""Estimators: scikit-learn's and hmmlearn's verbs over the models."""

from dbn_vae.estimators.base import SequenceEstimator
from dbn_vae.estimators.bernoulli_hmm import BernoulliHMM
from dbn_vae.estimators.categorical_hmm import CategoricalHMM
from dbn_vae.estimators.dmm import DeepMarkovModel
from dbn_vae.estimators.emission_hmm import EmissionHMM
from dbn_vae.estimators.gaussian_hmm import GaussianHMM
from dbn_vae.estimators.gmm_hmm import GMMHMM
from dbn_vae.estimators.hsmm import HSMM
from dbn_vae.estimators.multinomial_hmm import MultinomialHMM
from dbn_vae.estimators.poisson_hmm import PoissonHMM
from dbn_vae.estimators.switching_dmm import SwitchingDMM
from dbn_vae.estimators.vae import VAE
from dbn_vae.estimators.vae_hmm import VAEHMM
from dbn_vae.estimators.variational_categorical_hmm import VariationalCategoricalHMM
from dbn_vae.estimators.variational_gaussian_hmm import VariationalGaussianHMM

__all__ = [
    "GMMHMM",
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
    "SequenceEstimator",
    "SwitchingDMM",
    "VariationalCategoricalHMM",
    "VariationalGaussianHMM",
]
