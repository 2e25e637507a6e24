"""The VAE-HMM under hmmlearn's verbs."""

import math
import warnings
from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from dbn_vae.aevb import AEVB
from dbn_vae.emissions.frame import FrameLogProb
from dbn_vae.emissions.predictive import plain
from dbn_vae.estimators.base import require_at_least
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.gaussian_hmm import GaussianHMM
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.clip import ClipVAEHMM
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
        n_clip_latent: W; above 0 a sequence has a latent w of its own beside z_t, for what stays the same throughout,
            and transform gives (z_t, w), (n, n_latent + n_clip_latent). See models.ClipVAEHMM.
        stickiness: pseudo-counts of staying that the prior adds to every row of A.
        n_init: starts of that classical HMM.
        others: see DeepEstimator.

    Attributes: startprob_ (K,), transmat_ (K, K), module_ (models.VAEHMM or ClipVAEHMM), history_.
    """

    module_: Model | ClipVAEHMM = field(init=False)

    n_components: int = 2
    n_latent: int = 4
    _: KW_ONLY
    n_clip_latent: int = 0
    stickiness: float = 10.0
    n_init: int = 4
    algorithm: str = "viterbi"
    max_length: int | None = 200

    @property
    def n_core_latent(self) -> int:
        return self.n_latent + self.n_clip_latent

    def build(self, core: AEVB) -> Model | ClipVAEHMM:
        require_at_least(0, n_clip_latent=self.n_clip_latent)
        return self.around(core, self.n_components)

    def around(self, core: AEVB, K: int) -> Model | ClipVAEHMM:
        chain = sticky(K, self.stickiness, self.dtype)
        model = ClipVAEHMM if self.n_clip_latent else Model
        return model(core, chain, torch.zeros(K, self.n_latent), torch.ones(K, self.n_latent))

    def pretrain(self, train: Sequences, generator: torch.Generator) -> None:
        """The core on single frames; with w on whole sequences, where alone it differs from z."""
        if self.n_clip_latent == 0:
            return super().pretrain(train, generator)
        one = self.around(self.module_.core, 1).to(train.x)
        self.climb(one, replace(train, labels=None), None, self.n_pretrain, "clips", generator)
        return None

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """Fit a classical HMM to the latents of the static core, and take over its chain and components."""
        assert isinstance(model, Model | ClipVAEHMM)
        latents = torch.zeros(data.n_frames, self.n_core_latent, device=data.x.device)
        with torch.no_grad():
            for batch in data.batches(self.frames_at_once):
                data.unbatch(batch, StaticVAE(model.core).latents(batch), latents)
        latents = latents[:, : self.n_latent]
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
            hmm.fit(latents.cpu().numpy(), lengths=data.lengths.cpu().numpy(), labels=labels)
        prior = model.given_w if isinstance(model, ClipVAEHMM) else model
        adopt(prior, hmm.build().to(data.x))
        # EM may leave a state that no frame wants any more without a finite width
        spread = latents.std(0).clamp_min(1e-6).log().expand_as(prior.log_scale)
        dead = prior.log_scale > spread + math.log(100)
        prior.log_scale.data.copy_(torch.where(dead, spread, prior.log_scale))

    def stream(self, model: StateModel) -> tuple[np.ndarray, np.ndarray, FrameLogProb, tuple[int, ...]]:
        """log π, log A, the potential of a single frame, which depends on no other, and its shape."""
        if not isinstance(model, Model):
            raise NotImplementedError("n_clip_latent above 0: w knows every frame, so none can be filtered")

        def log_prob(x: np.ndarray) -> np.ndarray:
            frame = self.prepared(self.sequences(x.reshape(1, *self.frame)))
            with torch.no_grad():
                return plain(model.state_potential(frame.only())[0, 0])

        chain = model.transition
        return plain(chain.log_initial()), plain(chain.log_transition()), log_prob, self.frame
