"""Multinomial emissions under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import Tags

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.multinomial import Multinomial
from dbn_vae.estimators.categorical_hmm import never_given
from dbn_vae.estimators.classical import ClassicalHMM, as_array, checked, prior
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep


@dataclass(eq=False, repr=False)
class MultinomialHMM(ClassicalHMM):
    """Rows of counts of V symbols; hmmlearn's MultinomialHMM.

    Args:
        n_trials: what every row sums to.  None takes each row's own sum as given: then a row may not be missing in
            part, and nothing can be sampled.  (hmmlearn also takes an array of the rows' sums, which None stands for.)
        emissionprob_prior: Dirichlet concentration.

    Attributes: startprob_ (K,), transmat_ (K, K), emissionprob_ (K, V), monitor_, restart_scores_.
    """

    letters: ClassVar = {"e": "emissionprob_"}
    parts: ClassVar = {"e": "probs"}

    n_components: int = 1
    n_trials: int | None = None
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 10
    tol: float = 1e-2
    verbose: bool = False
    params: str = "ste"
    init_params: str = "ste"
    implementation: str = "log"
    _: KW_ONLY
    emissionprob_prior: Any = 1.0
    n_init: int = 4
    device: str = "cpu"

    def emission(self) -> Multinomial:
        V = np.asarray(self.emissionprob_).shape[-1]
        probs = checked("emissionprob_", self.emissionprob_, (self.n_components, V))
        return Multinomial(probs, self.trials())

    def first_emission(self, data: Sequences) -> Multinomial:
        K, V = self.n_components, data.x.shape[1]
        # the prior, or one pseudo-count a row, as for CategoricalHMM
        concentration = prior("emissionprob_prior", self.emissionprob_prior, (K, V)).clamp_min(1 + 1 / V)
        return Multinomial(torch.full((K, V), 1 / V, dtype=self.dtype), self.trials(), concentration)

    def trials(self) -> int | None:
        if self.n_trials is None:
            return None
        sums = np.unique(self.n_trials)
        if not (sums == np.rint(sums)).all() or sums.min() < 1:
            raise ValueError(f"n_trials={self.n_trials}; it is a whole number from 1, or None")
        return int(sums[0]) if len(sums) == 1 else None

    def prepare(self, model: HMM, data: Sequences) -> None:
        super().prepare(model, data)
        assert isinstance(model.emission, Multinomial)
        shape = self.n_components, model.emission.n_features
        model.emission.concentration = prior("emissionprob_prior", self.emissionprob_prior, shape)

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        assert isinstance(model.emission, Multinomial)
        return super().troubles(model, last) + never_given(model.emission.logits)

    @property
    def n_features(self) -> int:
        """Columns of X, hmmlearn's name for it."""
        return self.width

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, Multinomial)
        if "e" in letters:
            self.emissionprob_ = as_array(emission.probs())
