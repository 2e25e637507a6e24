"""Mixtures of Gaussians in every state under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.gaussian import Gaussian, GaussianPrior
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.estimators.arguments import require_number, require_whole
from dbn_vae.estimators.classical import ClassicalHMM, as_array, checked, prior
from dbn_vae.estimators.gaussian_hmm import COVARIANCES
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep
from dbn_vae.training.initialise import cluster


@dataclass(eq=False, repr=False)
class GMMHMM(ClassicalHMM):
    """n_mix Gaussians a state; hmmlearn's GMMHMM with missing data, restarts and an enforced floor.

    Args:
        n_mix: components of each state.
        min_covar: no component's variance falls under this share of the feature's variance in the data.
        weights_prior: Dirichlet concentration.
        means_prior, means_weight: N(means_prior, Σ / means_weight) for each mean.
        covars_prior, covars_weight: hmmlearn's, None being no prior: "full" and "tied", an inverse Wishart of that
            scale and degrees of freedom; "diag" and "spherical", an inverse gamma of that shape and scale.
        covariance_type: "diag", "spherical", "full", or "tied": one matrix for the components of a state.

    Attributes:
        startprob_ (K,), transmat_ (K, K), weights_ (K, M), means_ (K, M, D), monitor_, restart_scores_, and covars_:
        (K, M) spherical, (K, M, D) diag, (K, M, D, D) full, (K, D, D) tied.
    """

    letters: ClassVar = {"m": "means_", "c": "covars_", "w": "weights_"}
    parts: ClassVar = {"m": "mean", "c": "covariance", "w": "weights"}

    n_components: int = 1
    n_mix: int = 1
    min_covar: float = 1e-3
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    weights_prior: Any = 1.0
    means_prior: Any = 0.0
    means_weight: Any = 0.0
    covars_prior: Any = None
    covars_weight: Any = None
    algorithm: str = "viterbi"
    covariance_type: str = "diag"
    random_state: Any = None
    n_iter: int = 10
    tol: float = 1e-2
    verbose: bool = False
    params: str = "stmcw"
    init_params: str = "stmcw"
    implementation: str = "log"
    _: KW_ONLY
    n_init: int = 4
    device: str = "cpu"

    def emission(self) -> Mixture:
        K, M = self.n_components, self.n_mix
        weights = checked("weights_", self.weights_, (K, M))
        means = np.asarray(self.means_, dtype=np.float64)
        if means.ndim != 3 or means.shape[:2] != (K, M):
            raise ValueError(f"means_ has shape {means.shape}; it must be ({K}, {M}, D)")
        shape = self.compact(means.shape[2])
        covars = np.asarray(self.covars_, dtype=np.float64)
        if covars.shape != shape:
            raise ValueError(
                f"covars_ has shape {covars.shape}; with covariance_type={self.covariance_type!r} it is {shape}"
            )
        matrices = self.covariance_type in ("full", "tied")
        if not ((np.linalg.eigvalsh(covars) if matrices else covars) > 0).all():
            raise ValueError("covars_ must be positive definite: a variance or an eigenvalue is not positive")
        mean, compact = torch.as_tensor(means), torch.as_tensor(covars)
        return self.mixture(mean.flatten(0, 1), compact if self.tied else compact.flatten(0, 1), weights)

    @property
    def tied(self) -> bool:
        return self.covariance_type == "tied"

    def compact(self, D: int) -> tuple[int, ...]:
        """The shape of covars_."""
        K, M = self.n_components, self.n_mix
        shapes = {"spherical": (K, M), "diag": (K, M, D), "full": (K, M, D, D), "tied": (K, D, D)}
        if self.covariance_type not in shapes:
            raise ValueError(f"covariance_type={self.covariance_type!r}; it is one of {sorted(shapes)}")
        return shapes[self.covariance_type]

    def mixture(self, mean: torch.Tensor, compact: torch.Tensor, weights: torch.Tensor) -> Mixture:
        component = COVARIANCES[self.covariance_type](mean, compact)  # type: ignore[call-arg]
        return Mixture(component, weights)

    def component(self, emission: Emission) -> Gaussian:
        assert isinstance(emission, Mixture)
        assert isinstance(emission.component, Gaussian)
        return emission.component

    def require_arguments(self) -> None:
        super().require_arguments()
        require_whole(1, n_mix=self.n_mix)
        require_number(0, min_covar=self.min_covar)

    def first_emission(self, data: Sequences) -> Mixture:
        """Every component at the mean and the covariance of all the data."""
        K, M = self.n_components, self.n_mix
        mean, variance = data.moments
        variance = variance.clamp_min(1e-12)
        shape = self.compact(len(mean))
        one = {
            "diag": variance,
            "spherical": variance.mean(),
            "full": variance.diag(),
            "tied": variance.diag(),
        }[self.covariance_type]
        compact = one.expand(shape)
        weights = torch.full((K, M), 1 / M, dtype=self.dtype)
        emission = self.mixture(
            mean.expand(K * M, -1), compact if self.tied else compact.flatten(0, 1), weights
        )
        self.component(emission).floor = self.min_covar * variance
        return emission

    def begin(self, model: HMM, data: Sequences, generator: torch.Generator, restart: int) -> None:
        """As all, and then k-means inside every state: equal components would stay equal for ever."""
        super().begin(model, data, generator, restart)
        K, M = self.n_components, self.n_mix
        emission, frames = model.emission, data.frames()
        assert isinstance(emission, Mixture)
        with torch.no_grad():
            state = emission.log_prob(data.x, data.observed).argmax(1)
            own = data.x.new_zeros(data.n_frames, K, M)
            counts = (frames.frame_weights > 0) & data.observed.any(1)
            for k in range(K):
                rows = ((state == k) & counts).nonzero().flatten()
                if len(rows):
                    own[rows, k] = cluster(frames.subset(rows), M, generator)
            own *= frames.frame_weights[:, None, None]
            component = self.component(emission)
            component.maximize(*component.statistics(data.x, data.observed, own.flatten(1)))
            emission.maximize_own(own.sum(0) + 1 / M)

    def prepare(self, model: HMM, data: Sequences) -> None:
        super().prepare(model, data)
        emission, component = model.emission, self.component(model.emission)
        assert isinstance(emission, Mixture)
        K, M, D = self.n_components, self.n_mix, emission.n_features
        _, variance = data.moments
        component.floor = self.min_covar * variance
        emission.concentration = prior("weights_prior", self.weights_prior, (K, M))
        means = prior("means_prior", self.means_prior, (K, M, D), negative=True)
        strength = prior("means_weight", self.means_weight, (K, M))
        component.prior = GaussianPrior(
            means.expand(K, M, D).flatten(0, 1),
            strength.expand(K, M).reshape(-1, 1),
            self.prior_scale(D),
            self.prior_dof(D),
        )

    def freeze(self, model: HMM) -> None:
        super().freeze(model)
        self.component(model.emission).frozen = model.emission.frozen
        self.n_free_ = model.transition.n_free() + model.emission.n_free()

    def prior_scale(self, D: int) -> torch.Tensor | float:
        """What the prior adds to the scatter: Ψ, or 2 β."""
        K, M = self.n_components, self.n_mix
        if self.covariance_type in ("diag", "spherical"):
            per_entry = (
                1 if self.covariance_type == "diag" else D
            )  # of a sphere, β is of all its entries together
            return 2 * number("covars_weight", self.covars_weight, 0.0) / per_entry
        if self.covars_prior is None or np.ndim(self.covars_prior) == 0:
            return float(self.covars_prior or 0)  # a number is that multiple of the identity
        shape = self.compact(D)
        scale = prior("covars_prior", self.covars_prior, shape, negative=True).expand(shape)
        return scale.repeat_interleave(M, 0) if self.tied else scale.reshape(K * M, D, D)

    def prior_dof(self, D: int) -> float:
        """What the prior adds to the number of frames: ν + D + 2, ν + M + D + 1 tied, or from α."""
        if self.covariance_type in ("full", "tied"):
            own = D + 2 if self.covariance_type == "full" else self.n_mix + D + 1
            dof = number("covars_weight", self.covars_weight, -own) + own
        else:
            per_entry = 1 if self.covariance_type == "diag" else D
            none = -1 - per_entry / 2
            dof = 1 + 2 * (number("covars_prior", self.covars_prior, none) + 1) / per_entry
        if dof < 0:
            raise ValueError(
                f"covars_prior={self.covars_prior} and covars_weight={self.covars_weight} stand for {dof:g} "
                "frames; a prior cannot take frames away"
            )
        return dof

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        found = super().troubles(model, last)
        if model.emission.floored:
            found.append(
                f"a component's variance in states {model.emission.floored} would collapse and is held at "
                f"min_covar={self.min_covar:g} of the data's; use fewer components (n_mix), or a prior"
            )
        return found

    @property
    def width(self) -> int:
        return int(np.shape(self.means_)[2])

    @property
    def n_features(self) -> int:
        """Columns of X, hmmlearn's name for it."""
        return self.width

    def check(self, data: Sequences) -> None:
        """Every real number is in the support."""

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, Mixture)
        K, M = self.n_components, self.n_mix
        component = self.component(emission)
        if "m" in letters:
            self.means_ = as_array(component.mean.unflatten(0, (K, M)))
        if "w" in letters:
            self.weights_ = as_array(emission.weights())
        if "c" in letters:
            full = component.covariance().unflatten(0, (K, M))
            diagonal = full.diagonal(dim1=-2, dim2=-1)
            shapes = {"diag": diagonal, "spherical": diagonal[..., 0], "full": full, "tied": full[:, 0]}
            self.covars_ = as_array(shapes[self.covariance_type])


def number(name: str, value: Any, default: float) -> float:
    """A prior's number, which hmmlearn writes out as an array of equal ones."""
    distinct = np.unique(default if value is None else np.asarray(value, dtype=np.float64))
    if len(distinct) != 1 or not np.isfinite(distinct[0]):
        raise ValueError(f"{name}={value} must be one finite number for all components")
    return float(distinct[0])
