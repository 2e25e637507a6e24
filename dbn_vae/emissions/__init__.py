"""Families for p(x_t | s_t)."""

from dbn_vae.emissions.autoregressive import Autoregressive
from dbn_vae.emissions.base import ClosedForm, Emission, closed_form
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.dense_gaussian import FullGaussian, TiedGaussian
from dbn_vae.emissions.exponential import Exponential
from dbn_vae.emissions.gamma import Gamma
from dbn_vae.emissions.gaussian import DiagonalGaussian, GaussianPrior, SphericalGaussian
from dbn_vae.emissions.linear_regression import LinearRegression
from dbn_vae.emissions.log_normal import LogNormal
from dbn_vae.emissions.logistic_regression import LogisticRegression
from dbn_vae.emissions.low_rank_gaussian import LowRankGaussian
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.multinomial import Multinomial
from dbn_vae.emissions.negative_binomial import NegativeBinomial
from dbn_vae.emissions.poisson import Poisson
from dbn_vae.emissions.product import Product
from dbn_vae.emissions.student_t import StudentT
from dbn_vae.emissions.von_mises import VonMises
from dbn_vae.emissions.zero_inflated import ZeroInflated

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Categorical",
    "ClosedForm",
    "DiagonalGaussian",
    "Emission",
    "Exponential",
    "FullGaussian",
    "Gamma",
    "GaussianPrior",
    "LinearRegression",
    "LogNormal",
    "LogisticRegression",
    "LowRankGaussian",
    "Mixture",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "Product",
    "SphericalGaussian",
    "StudentT",
    "TiedGaussian",
    "VonMises",
    "ZeroInflated",
    "closed_form",
]
