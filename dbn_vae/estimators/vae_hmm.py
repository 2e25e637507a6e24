"""The VAE-HMM under hmmlearn's verbs."""

import warnings
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from dbn_vae.aevb import AEVB
from dbn_vae.emissions.frame import FrameLogProb
from dbn_vae.emissions.predictive import plain
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.gaussian_hmm import GaussianHMM
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.vae import VAE as StaticVAE
from dbn_vae.models.vae_hmm import VAEHMM as Model
from dbn_vae.sequences import Sequences
from dbn_vae.training.initialise import adopt
from dbn_vae.transitions.sticky import sticky


@dataclass(eq=False, repr=False)
class VAEHMM(DeepStateEstimator):
    """An auto-encoder at every step whose prior over z_t is a hidden Markov model with learned A.

    Training starts from a classical HMM fitted to the latents of the pre-trained core.

    Args:
        n_components, n_latent: K, Z.
        stickiness: pseudo-counts of staying that the prior adds to every row of A.
        n_init: starts of that classical HMM.
        others: see DeepEstimator.

    Attributes: startprob_ (K,), transmat_ (K, K), module_ (models.VAEHMM), history_.
    """

    module_: Model = field(init=False)

    n_components: int = 2
    n_latent: int = 4
    _: KW_ONLY
    stickiness: float = 10.0
    n_init: int = 4
    algorithm: str = "viterbi"
    max_length: int | None = 200

    def build(self, core: AEVB) -> Model:
        K, Z = self.n_components, core.n_latent
        chain = sticky(K, self.stickiness, self.dtype)
        return Model(core, chain, torch.zeros(K, Z), torch.ones(K, Z))

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """Fit a classical HMM to the latents of the static core, and take over its chain and components."""
        assert isinstance(model, Model)
        whole = data.batch()
        with torch.no_grad():
            latents = torch.zeros(data.n_frames, self.n_latent)
            data.unbatch(whole, StaticVAE(model.core).latents(whole), latents)
        latents[~data.observed.any(-1).cpu()] = torch.nan  # nothing is known of these frames, not that z is 0
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        hmm = GaussianHMM(
            self.n_components,
            min_covar=1e-2,
            transmat_prior=1 + self.stickiness * np.eye(self.n_components),
            random_state=seed,
            n_iter=50,
            n_init=self.n_init,
        )
        labels = None if data.labels is None else data.labels.cpu().numpy()
        if labels is not None and labels.ndim == 2:
            labels = np.exp(labels)  # soft labels are kept as log-potentials
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a start need be no optimum
            hmm.fit(latents.numpy(), lengths=data.lengths.cpu().numpy(), labels=labels)
        adopt(model, hmm.build().to(data.x))

    def stream(self, model: StateModel) -> tuple[np.ndarray, np.ndarray, FrameLogProb, int]:
        """log π, log A, the potential of a single frame, which depends on no other, and D."""
        assert isinstance(model, Model)

        def log_prob(x: np.ndarray) -> np.ndarray:
            frame = self.prepared(self.sequences(x[None]))
            with torch.no_grad():
                return plain(model.state_potential(frame.only())[0, 0])

        chain = model.transition
        return plain(chain.log_initial()), plain(chain.log_transition()), log_prob, self.width
