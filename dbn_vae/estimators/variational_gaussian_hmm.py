"""Gaussian emissions by variational Bayes, under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.classical import prior
from dbn_vae.estimators.gaussian_hmm import GaussianFace
from dbn_vae.estimators.variational import Pairs, VariationalHMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.vb_gaussian import (
    DiagonalPosterior,
    FullPosterior,
    GaussianPosterior,
    NormalWishart,
    SphericalPosterior,
    TiedPosterior,
)

POSTERIORS: dict[str, type[GaussianPosterior]] = {
    "full": FullPosterior,
    "tied": TiedPosterior,
    "diag": DiagonalPosterior,
    "spherical": SphericalPosterior,
}


@dataclass(eq=False, repr=False)
class VariationalGaussianHMM(VariationalHMM, GaussianFace):
    """Gaussian emissions with normal-Wishart posteriors; hmmlearn's VariationalGaussianHMM.

    Its bound is one: hmmlearn's leaves out log 2π and is right for no diagonal or spherical covariance.

    Args:
        covariance_type: "full", "tied", "diag" or "spherical".
        startprob_prior, transmat_prior: Dirichlet concentrations; 1 / n_components unless given.
        means_prior, beta_prior: where the means are expected, and how many frames that is worth; the mean of the
            data and 1 unless given.
        dof_prior, scale_prior: of the Wishart on precisions, which expects covariances of scale / dof;
            n_features and 1e-3, or that times the identity, unless given.

    Attributes: startprob_, transmat_, means_, covars_ (expected precisions, inverted); startprob, transmat, means,
        beta, dof and scale, each with its _prior_ and _posterior_; monitor_, whose history is the bound;
        restart_scores_.
    """

    n_components: int = 1
    covariance_type: str = "full"
    startprob_prior: Any = None
    transmat_prior: Any = None
    means_prior: Any = None
    beta_prior: Any = None
    dof_prior: Any = None
    scale_prior: Any = None
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 100
    tol: float = 1e-6
    verbose: bool = False
    params: str = "stmc"
    init_params: str = "stmc"
    implementation: str = "log"
    _: KW_ONLY
    n_init: int = 4
    device: str = "cpu"

    def first_emission(self, data: Sequences) -> GaussianPosterior:
        """q at the prior, but for a scale that expects the covariance of all the data."""
        self.family()  # refuses an unknown covariance_type
        mean, variance = data.moments
        K, D = self.n_components, len(mean)
        means = prior("means_prior", self.chosen("means", "m", mean), (K, D), negative=True)
        tied = self.covariance_type == "tied"
        dof = self.concentration("dof", "c", D, () if tied else (K,))
        if self.covariance_type in ("full", "tied") and not (dof > D - 1).all():
            raise ValueError(
                f"dof_prior={dof.tolist()}; for matrices of {D} features it must be above {D - 1}"
            )
        scale, first = self.scales(variance.clamp_min(1e-12))
        start = NormalWishart(
            means.expand(K, D).clone(), self.concentration("beta", "m", 1.0, (K,)), dof, scale
        )
        spread = dof.view(*dof.shape, *[1] * (first.dim() - dof.dim()))
        return POSTERIORS[self.covariance_type](start, start._replace(scale=spread * first))

    def scales(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's scale, and the data's covariance in the same shape."""
        K, D = self.n_components, len(variance)
        small = 1e-3 * torch.eye(D, dtype=self.dtype)
        default, covariance = {
            "full": (small.expand(K, D, D), variance.diag().expand(K, D, D)),
            "tied": (small, variance.diag()),
            "diag": (torch.full((K, D), 1e-3, dtype=self.dtype), variance.expand(K, D)),
            "spherical": (torch.full((K,), 1e-3, dtype=self.dtype), variance.mean().expand(K)),
        }[self.covariance_type]
        scale = prior("scale_prior", self.chosen("scale", "c", default), tuple(default.shape), negative=True)
        scale = scale.expand(default.shape).clone()
        matrices = self.covariance_type in ("full", "tied")
        if not ((torch.linalg.eigvalsh(scale) if matrices else scale) > 0).all():
            raise ValueError(
                "scale_prior must be positive definite: a number or an eigenvalue is not positive"
            )
        return scale, covariance

    def reuse(self, emission: Emission) -> None:
        assert isinstance(emission, GaussianPosterior)
        q = emission.posterior
        emission.posterior = NormalWishart(
            self.left("means", "m", q.means),
            self.left("beta", "m", q.beta),
            self.left("dof", "c", q.dof),
            self.left("scale", "c", q.scale),
        )

    def pairs(self, emission: Emission) -> Pairs:
        assert isinstance(emission, GaussianPosterior)
        both = zip(emission.prior, emission.posterior, strict=True)
        return dict(zip(NormalWishart._fields, both, strict=True))

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, GaussianPosterior)
        super().absorb(emission.expected(), letters)
