"""The switching deep Markov model under hmmlearn's verbs."""

from typing import Any

import torch

from dbn_vae.aevb import AEVB
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.dmm import recognition_named, transition_named
from dbn_vae.models.base import LatentModel
from dbn_vae.models.switching_dmm import SwitchingDMM as Model
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.sticky import sticky


class SwitchingDMM(DeepStateEstimator):
    """A discrete state chooses how the continuous latent moves (Dong et al. 2020; Ansari et al. 2021).

    Args:
        n_components, n_latent: K, Z.
        transition: "linear" (a switching linear system behind a network) or "gated".
        posterior, n_hidden: see DeepMarkovModel.
        stickiness: pseudo-counts of staying that the prior adds to every row of A.
        others: see DeepEstimator.

    Attributes: startprob_ (K,), transmat_ (K, K), module_ (models.SwitchingDMM), history_.
    """

    module_: Model

    def __init__(
        self,
        n_components: int = 2,
        n_latent: int = 4,
        *,
        transition: str = "linear",
        posterior: str = "product",
        n_hidden: int = 32,
        stickiness: float = 10.0,
        algorithm: str = "viterbi",
        likelihood: str = "gaussian",
        hidden: tuple[int, ...] = (64,),
        n_updates: int = 1000,
        n_pretrain: int = 500,
        warm_up: int = 300,
        batch_size: int = 16,
        learning_rate: float = 3e-3,
        max_length: int | None = 100,
        validation: float = 0.15,
        standardize: bool = True,
        n_samples: int = 100,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.n_latent = n_latent
        self.transition = transition
        self.posterior = posterior
        self.n_hidden = n_hidden
        self.stickiness = stickiness
        self.algorithm = algorithm
        self.likelihood = likelihood
        self.hidden = hidden
        self.n_updates = n_updates
        self.n_pretrain = n_pretrain
        self.warm_up = warm_up
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_length = max_length
        self.validation = validation
        self.standardize = standardize
        self.n_samples = n_samples
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def build(self, core: AEVB) -> Model:
        K, Z = self.n_components, core.n_latent
        moves = [transition_named(self.transition, Z, self.n_hidden) for _ in range(K)]
        recognition = recognition_named(self.posterior, core, self.n_hidden)
        return Model(core, sticky(K, self.stickiness, self.dtype), moves, recognition)

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """Break the symmetry between states: every linear move starts a little different."""
        with torch.no_grad():
            for parameter in model.moves.parameters():  # type: ignore[union-attr]
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))
