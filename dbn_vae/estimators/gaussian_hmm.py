"""Gaussian emissions under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.dense_gaussian import FullGaussian, TiedGaussian
from dbn_vae.emissions.gaussian import DiagonalGaussian, Gaussian, GaussianPrior, SphericalGaussian
from dbn_vae.estimators.arguments import require_number
from dbn_vae.estimators.classical import ClassicalHMM, as_array, prior
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep

COVARIANCES: dict[str, type[Gaussian]] = {
    "diag": DiagonalGaussian,
    "spherical": SphericalGaussian,
    "full": FullGaussian,
    "tied": TiedGaussian,
}


class GaussianFace(ClassicalHMM):
    """Means and covariances as hmmlearn keeps them.

    covars_ is set in its compact shape, (K,), (K, D), (K, D, D) or (D, D), and read as (K, D, D).
    """

    letters: ClassVar = {"m": "means_", "c": "_covars_"}
    parts: ClassVar = {"m": "mean", "c": "covariance"}

    covariance_type: str
    means_: np.ndarray
    _covars_: np.ndarray

    def emission(self) -> Gaussian:
        mean = torch.as_tensor(np.asarray(self.means_), dtype=self.dtype)
        family = self.family()
        compact = torch.as_tensor(self._covars_, dtype=self.dtype)
        return family(mean, compact)  # type: ignore[call-arg]

    def family(self) -> type[Gaussian]:
        if self.covariance_type not in COVARIANCES:
            raise ValueError(f"covariance_type={self.covariance_type!r}; it is one of {sorted(COVARIANCES)}")
        return COVARIANCES[self.covariance_type]

    @property
    def width(self) -> int:
        return int(np.shape(self.means_)[1])

    def per_state(self, name: str) -> bool:
        tied = name.startswith(("_covars", "dof", "scale")) and self.covariance_type == "tied"
        return not tied

    def check(self, data: Sequences) -> None:
        """Every real number is in the support."""

    @property
    def n_features(self) -> int:
        """Columns of X, hmmlearn's name for it."""
        return self.width

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, Gaussian)
        if "m" in letters:
            self.means_ = as_array(emission.mean)
        if "c" in letters:
            self._covars_ = as_array(self.compact(emission))

    def compact(self, emission: Gaussian) -> torch.Tensor:
        """Its covariances in the shape of _covars_."""
        if isinstance(emission, DiagonalGaussian):
            variance = emission.variance()
            return variance[:, 0] if self.covariance_type == "spherical" else variance
        covariance = emission.covariance()
        return covariance[0] if self.covariance_type == "tied" else covariance

    @property
    def covars_(self) -> np.ndarray:
        """Covariance of each state, always (K, D, D)."""
        return as_array(self.emission().covariance())

    @covars_.setter
    def covars_(self, value: Any) -> None:
        K = self.n_components
        covars = np.asarray(value, dtype=np.float64)
        dims = {"spherical": 1, "diag": 2, "full": 3, "tied": 2}[self.covariance_type]
        if covars.ndim != dims or (self.covariance_type != "tied" and len(covars) != K):
            raise ValueError(
                f"covars_ of shape {covars.shape} does not fit covariance_type="
                f"{self.covariance_type!r} with {K} states"
            )
        positive = (
            covars > 0 if dims < 3 and self.covariance_type != "tied" else np.linalg.eigvalsh(covars) > 0
        )
        if not positive.all():
            raise ValueError("covars_ must be positive definite: a variance or an eigenvalue is not positive")
        self._covars_ = covars


@dataclass(eq=False, repr=False)
class GaussianHMM(GaussianFace):
    """Gaussian emissions; hmmlearn's GaussianHMM with missing data, restarts and an enforced floor.

    Args:
        covariance_type: "diag", "spherical", "full" or "tied".
        min_covar: no state's variance falls under this share of the feature's variance in the data.  (In
            hmmlearn an absolute number, used only at the start.)
        startprob_prior, transmat_prior: Dirichlet concentrations.
        means_prior, means_weight, covars_prior, covars_weight: see emissions.gaussian.GaussianPrior; a scalar
            covars_prior stands for that multiple of the identity.  (hmmlearn adds it to every entry.)
        n_iter, tol: at most so many updates; stop when the log-likelihood gains less than tol.
        params, init_params: letters s, t, m, c of what is learnt, and of what is started afresh.
        implementation: accepted for hmmlearn's sake; there is one, and it is exact.
        n_init: starts, of which the best is kept.
        device: where EM runs, "cpu", "cuda", or "auto": a GPU where there is one.

    Attributes:
        startprob_ (K,), transmat_ (K, K), means_ (K, D), covars_ (K, D, D), monitor_, restart_scores_.
        covars_ is set in its compact shape, (K,), (K, D), (K, D, D) or (D, D), and read as (K, D, D).

    >>> import numpy as np
    >>> model = GaussianHMM(2, random_state=0).fit(np.r_[np.zeros((20, 1)), 9 + np.zeros((20, 1))])
    >>> sorted(model.means_.ravel().round(1).tolist())
    [0.0, 9.0]
    """

    n_components: int = 1
    covariance_type: str = "diag"
    min_covar: float = 1e-3
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    means_prior: Any = 0
    means_weight: Any = 0
    covars_prior: Any = 1e-2
    covars_weight: float = 1
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 10
    tol: float = 1e-2
    verbose: bool = False
    params: str = "stmc"
    init_params: str = "stmc"
    implementation: str = "log"
    _: KW_ONLY
    n_init: int = 4
    device: str = "cpu"

    def require_arguments(self) -> None:
        super().require_arguments()
        require_number(0, min_covar=self.min_covar)
        require_number(covars_weight=self.covars_weight)

    def first_emission(self, data: Sequences) -> Gaussian:
        """Every state at the mean and the covariance of all the data."""
        mean, variance = data.moments
        variance = variance.clamp_min(1e-12)
        K, D = self.n_components, len(mean)
        compact = {
            "diag": variance.expand(K, D),
            "spherical": variance.mean().expand(K),
            "full": variance.diag().expand(K, D, D),
            "tied": variance.diag(),
        }
        family = self.family()
        return family(mean.expand(K, D), compact[self.covariance_type])  # type: ignore[call-arg]

    def prepare(self, model: HMM, data: Sequences) -> None:
        super().prepare(model, data)
        emission = model.emission
        assert isinstance(emission, Gaussian)
        _, variance = data.moments
        emission.floor = self.min_covar * variance
        rows = 1 if self.covariance_type in ("diag", "spherical") else emission.n_features
        emission.prior = GaussianPrior(
            prior("means_prior", self.means_prior, tuple(emission.mean.shape), negative=True),
            prior("means_weight", self.means_weight, (self.n_components, 1)),
            self.prior_scale(emission.n_features),
            max(self.covars_weight - rows, 0),
        )

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        found = super().troubles(model, last)
        assert isinstance(model.emission, Gaussian)
        if model.emission.floored:
            found.append(
                f"the variance of states {model.emission.floored} would collapse and is held at "
                f"min_covar={self.min_covar:g} of the data's; use fewer states, or a prior (covars_prior), or leave "
                "out columns that are constant"
            )
        return found

    def prior_scale(self, D: int) -> torch.Tensor:
        """covars_prior in GaussianPrior's shapes: a matrix for all states gets a state dimension."""
        K = self.n_components
        if self.covariance_type in ("full", "tied") and np.ndim(self.covars_prior) >= 2:
            shape = (K, D, D) if self.covariance_type == "full" else (D, D)
            scale = prior("covars_prior", self.covars_prior, shape, negative=True)
            if (torch.linalg.eigvalsh(scale) < 0).any():
                raise ValueError("covars_prior must be positive semi-definite: an eigenvalue is negative")
            return scale[None] if scale.dim() == 2 else scale
        return prior("covars_prior", self.covars_prior, (K, D))
