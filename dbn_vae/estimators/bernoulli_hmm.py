"""Bernoulli emissions: several yes-or-no features a step."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.estimators.arguments import require_number
from dbn_vae.estimators.classical import ClassicalHMM, as_array
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep


@dataclass(eq=False, repr=False)
class BernoulliHMM(ClassicalHMM):
    """Yes or no in every feature, independent given the state.

    Args:
        emissionprob_prior: Beta(a, a) concentration on every probability; 1 is maximum likelihood.

    Attributes: startprob_ (K,), transmat_ (K, K), emissionprob_ (K, D), monitor_, restart_scores_.
    """

    letters: ClassVar = {"e": "emissionprob_"}
    parts: ClassVar = {"e": "probs"}

    n_components: int = 1
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    emissionprob_prior: float = 1.0
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 10
    tol: float = 1e-2
    verbose: bool = False
    params: str = "ste"
    init_params: str = "ste"
    implementation: str = "log"
    _: KW_ONLY
    n_init: int = 4
    device: str = "cpu"

    def emission(self) -> Bernoulli:
        probs = np.asarray(self.emissionprob_, dtype=np.float64)
        if probs.ndim != 2 or len(probs) != self.n_components or ((probs < 0) | (probs > 1)).any():
            raise ValueError(
                f"emissionprob_ of shape {probs.shape} must be ({self.n_components}, D) in [0, 1]"
            )
        return Bernoulli(torch.as_tensor(probs))

    def require_arguments(self) -> None:
        super().require_arguments()
        require_number(0, emissionprob_prior=self.emissionprob_prior)

    def first_emission(self, data: Sequences) -> Bernoulli:
        mean = data.x.sum(0) / data.observed.sum(0).clamp_min(1)
        return Bernoulli(mean.expand(self.n_components, -1))

    def prepare(self, model: HMM, data: Sequences) -> None:
        super().prepare(model, data)
        assert isinstance(model.emission, Bernoulli)
        model.emission.ones = model.emission.zeros = self.emissionprob_prior

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        found = super().troubles(model, last)
        assert isinstance(model.emission, Bernoulli)
        probs = model.emission.probs()
        certain = ((probs == 0).all(0) | (probs == 1).all(0)).nonzero().flatten().tolist()
        if certain:
            found.append(
                f"columns {certain} are the same for certain in every state, so new data that differ there would be "
                "impossible; leave them out, or use a prior (emissionprob_prior above 1)"
            )
        return found

    @property
    def n_features(self) -> int:
        """Columns of X, hmmlearn's name for it."""
        return self.width

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, Bernoulli)
        if "e" in letters:
            self.emissionprob_ = as_array(emission.probs())
