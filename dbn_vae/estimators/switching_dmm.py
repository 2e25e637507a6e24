"""The switching deep Markov model under hmmlearn's verbs."""

from dataclasses import KW_ONLY, dataclass, field

import torch

from dbn_vae.aevb import AEVB
from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.arguments import require_choice, require_whole
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.dmm import recognition_named, transition_named
from dbn_vae.estimators.dynamic_start import DynamicStart
from dbn_vae.estimators.emission_hmm import EmissionHMM
from dbn_vae.models.base import LatentModel
from dbn_vae.models.switching_dmm import SwitchingDMM as Model
from dbn_vae.transitions.sticky import sticky


@dataclass(eq=False, repr=False)
class SwitchingDMM(DynamicStart, DeepStateEstimator):
    """A discrete state chooses how the continuous latent moves (Dong et al. 2020; Ansari et al. 2021).

    Args:
        n_components, n_latent: K, Z.
        transition: "linear" (a switching linear system behind a network) or "gated".
        recurrent: the states move by A(z_{t-1}): where z is says which state comes next (Linderman et al. 2017).
        inference, n_hidden: see DeepMarkovModel.
        init: "dynamics", states and moves begin as an autoregressive HMM has them, see training.dynamics: of the frames
            themselves where these are Gaussian or Student-t vectors of at most n_latent columns and the core is free to
            learn them, which it does in n_pretrain updates; else of the latents of the pre-trained core.  "random",
            moves begin near z_t = z_{t-1}.
        n_init: starts of that HMM.
        others: see DeepStateEstimator and DeepEstimator.

    Attributes: startprob_ (K,), transmat_ (K, K), with durations that from stay to stay, and durations_,
        mean_durations_; module_ (models.SwitchingDMM), history_.
    """

    module_: Model = field(init=False)

    n_components: int = 2
    n_latent: int = 4
    _: KW_ONLY
    transition: str = "linear"
    inference: str = "product"
    n_hidden: int = 32
    recurrent: bool = False
    init: str = "dynamics"
    n_init: int = 4
    algorithm: str = "viterbi"

    @property
    def n_driving(self) -> int:
        return self.n_inputs + self.n_latent * self.recurrent

    def build(self, core: AEVB) -> Model:
        K, Z = self.n_components, core.n_latent
        moves = [transition_named(self.transition, Z, self.n_hidden) for _ in range(K)]
        recognition = recognition_named(self.inference, core, self.n_hidden)
        return Model(core, self.chain(), moves, recognition, self.recurrent)

    def require_arguments(self) -> None:
        super().require_arguments()
        require_choice(("dynamics", "random"), init=self.init)
        require_whole(1, n_hidden=self.n_hidden, n_init=self.n_init)
        if self.inference == "smoother":
            raise ValueError(
                "inference='smoother' is for one linear transition: use 'product', which looks ahead too"
            )

    def drift(self, model: LatentModel, generator: torch.Generator) -> None:
        """Break the symmetry between states at random."""
        assert isinstance(model, Model)
        with torch.no_grad():
            for parameter in model.moves.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))

    def dynamics(self, emission: Emission, seed: int) -> EmissionHMM:
        chain = sticky(self.n_components, self.stickiness)
        return EmissionHMM(emission, chain, random_state=seed, n_init=self.n_init, n_iter=50)
