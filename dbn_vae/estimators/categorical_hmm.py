"""Categorical emissions under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import Tags

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.estimators.classical import ClassicalHMM, as_array, checked, prior
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep


class CategoricalFace(ClassicalHMM):
    """Probabilities of symbols as hmmlearn keeps them."""

    letters: ClassVar = {"e": "emissionprob_"}
    parts: ClassVar = {"e": "probs"}
    clustered = False

    unknown: str
    emissionprob_: np.ndarray

    def require_arguments(self) -> None:
        super().require_arguments()
        if self.unknown not in ("error", "ignore"):
            raise ValueError(f"unknown={self.unknown!r}; it is 'error' or 'ignore'")

    def unseen(self, data: Sequences) -> torch.Tensor:
        """Symbols outside the fitted alphabet: (N, 1)."""
        V = np.shape(self.emissionprob_)[-1]
        return data.observed & ((data.x < 0) | (data.x >= V)) & (data.x == data.x.round())

    def admitted(self, data: Sequences) -> Sequences:
        if self.unknown != "ignore":
            return data
        unseen = self.unseen(data)
        return data.replace(x=data.x.masked_fill(unseen, 0.0), observed=data.observed & ~unseen)

    def check(self, data: Sequences) -> None:
        try:
            super().check(data)
        except ValueError as error:
            if not self.unseen(data).any():
                raise
            raise ValueError(f"{error}, or set unknown='ignore' to take unseen symbols as missing") from None

    def emission(self) -> Categorical:
        V = np.asarray(self.emissionprob_).shape[-1]
        return Categorical(checked("emissionprob_", self.emissionprob_, (self.n_components, V)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, Categorical)
        if "e" in letters:
            self.emissionprob_ = as_array(emission.probs())


@dataclass(eq=False, repr=False)
class CategoricalHMM(CategoricalFace):
    """Symbols 0..n_features − 1, one column; hmmlearn's CategoricalHMM.

    Args:
        n_features: how many symbols there are; without it, those of the training data.
        unknown: what score, decode and the like make of a symbol that the fit did not know: an "error", or "ignore": it
            is missing.

    Attributes: startprob_ (K,), transmat_ (K, K), emissionprob_ (K, V), monitor_, restart_scores_.
    """

    n_components: int = 1
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    _: KW_ONLY
    emissionprob_prior: Any = 1.0
    n_features: int | None = None
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 10
    tol: float = 1e-2
    verbose: bool = False
    params: str = "ste"
    init_params: str = "ste"
    implementation: str = "log"
    n_init: int = 4
    unknown: str = "error"
    device: str = "cpu"

    def first_emission(self, data: Sequences) -> Categorical:
        V = self.n_features or int(data.x.max()) + 1
        # the prior, or one pseudo-count a row: a symbol that the data lack must not start, and so stay, impossible
        shape = self.n_components, V
        concentration = prior("emissionprob_prior", self.emissionprob_prior, shape).clamp_min(1 + 1 / V)
        return Categorical(torch.full(shape, 1 / V, dtype=self.dtype), concentration)

    def prepare(self, model: HMM, data: Sequences) -> None:
        super().prepare(model, data)
        assert isinstance(model.emission, Categorical)
        shape = self.n_components, model.emission.n_symbols
        model.emission.concentration = prior("emissionprob_prior", self.emissionprob_prior, shape)

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        assert isinstance(model.emission, Categorical)
        return super().troubles(model, last) + never_given(model.emission.logits)


def never_given(logits: torch.Tensor) -> list[str]:
    """The trouble with symbols that have probability 0 in every state."""
    never = np.flatnonzero(np.isneginf(logits.detach().cpu().numpy()).all(0)).tolist()
    if not never:
        return []
    return [
        f"no state ever gives symbols {never}, so new data that hold them would be impossible; "
        "use a prior (emissionprob_prior above 1)"
    ]
