"""Categorical emissions by variational Bayes, under hmmlearn's name."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.categorical_hmm import CategoricalFace
from dbn_vae.estimators.variational import Pairs, VariationalHMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.vb import CategoricalPosterior


@dataclass(eq=False, repr=False)
class VariationalCategoricalHMM(VariationalHMM, CategoricalFace):
    """Symbols 0..n_features − 1, one column, and Dirichlet posteriors; hmmlearn's VariationalCategoricalHMM.

    Args:
        startprob_prior, transmat_prior: Dirichlet concentrations; 1 / n_components unless given.
        emissionprob_prior: Dirichlet concentration of symbols; 1 / n_features unless given.
        n_features: how many symbols there are; without it, those of the training data.
        unknown: see CategoricalHMM.

    Attributes: startprob_, transmat_, emissionprob_ (posterior means), each with its _prior_ and _posterior_;
        monitor_, whose history is the bound; restart_scores_.
    """

    n_components: int = 1
    startprob_prior: Any = None
    transmat_prior: Any = None
    emissionprob_prior: Any = None
    n_features: int | None = None
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 100
    tol: float = 1e-6
    verbose: bool = False
    params: str = "ste"
    init_params: str = "ste"
    implementation: str = "log"
    _: KW_ONLY
    n_init: int = 4
    unknown: str = "error"
    device: str = "cpu"

    def first_emission(self, data: Sequences) -> CategoricalPosterior:
        V = self.n_features or int(data.x.max()) + 1
        return CategoricalPosterior(self.concentration("emissionprob", "e", 1 / V, (self.n_components, V)))

    def reuse(self, emission: Emission) -> None:
        assert isinstance(emission, CategoricalPosterior)
        emission.emissionprob_posterior = self.left("emissionprob", "e", emission.emissionprob_posterior)

    def pairs(self, emission: Emission) -> Pairs:
        assert isinstance(emission, CategoricalPosterior)
        return {"emissionprob": (emission.emissionprob_prior, emission.emissionprob_posterior)}

    def absorb(self, emission: Emission, letters: str) -> None:
        assert isinstance(emission, CategoricalPosterior)
        super().absorb(emission.expected(), letters)
