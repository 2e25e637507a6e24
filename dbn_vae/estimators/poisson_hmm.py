"""Poisson emissions under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import Tags

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.poisson import Poisson
from dbn_vae.estimators.classical import ClassicalHMM, as_array, prior
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep


@dataclass(eq=False, repr=False)
class PoissonHMM(ClassicalHMM):
    """Counts, one rate a state and feature; hmmlearn's PoissonHMM.

    Args:
        lambdas_prior, lambdas_weight: pseudo-counts and pseudo-exposure added to every rate's own,
            λ = (lambdas_prior + Σ γ x) / (lambdas_weight + Σ γ).

    Attributes: startprob_ (K,), transmat_ (K, K), lambdas_ (K, D), monitor_, restart_scores_.
    """

    letters: ClassVar = {"l": "lambdas_"}
    parts: ClassVar = {"l": "rates"}

    n_components: int = 1
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    lambdas_prior: Any = 0.0
    lambdas_weight: Any = 0.0
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 10
    tol: float = 1e-2
    verbose: bool = False
    params: str = "stl"
    init_params: str = "stl"
    implementation: str = "log"
    _: KW_ONLY
    n_init: int = 4
    device: str = "cpu"

    def emission(self) -> Poisson:
        rates = np.asarray(self.lambdas_, dtype=np.float64)
        if rates.ndim != 2 or len(rates) != self.n_components or (rates < 0).any():
            raise ValueError(f"lambdas_ of shape {rates.shape} must be ({self.n_components}, D), all ≥ 0")
        return Poisson(torch.as_tensor(rates))

    def first_emission(self, data: Sequences) -> Poisson:
        mean = data.x.sum(0) / data.observed.sum(0).clamp_min(1)
        return Poisson(mean.expand(self.n_components, -1))

    def prepare(self, model: HMM, data: Sequences) -> None:
        super().prepare(model, data)
        assert isinstance(model.emission, Poisson)
        shape = self.n_components, model.emission.n_features
        model.emission.shape = prior("lambdas_prior", self.lambdas_prior, shape) + 1
        model.emission.rate = prior("lambdas_weight", self.lambdas_weight, shape)

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        found = super().troubles(model, last)
        assert isinstance(model.emission, Poisson)
        never = (model.emission.rates() == 0).all(0).nonzero().flatten().tolist()
        if never:
            found.append(
                f"columns {never} have rate 0 in every state, so new data that count anything there would be "
                "impossible; leave them out, or use a prior (lambdas_prior above 0)"
            )
        return found

    @property
    def n_features(self) -> int:
        """Columns of X, hmmlearn's name for it."""
        return self.width

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, Poisson)
        if "l" in letters:
            self.lambdas_ = as_array(emission.rates())
