"""The VAE-HMM under hmmlearn's verbs."""

import warnings
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from dbn_vae.aevb import AEVB
from dbn_vae.emissions.frame import FrameLogProb
from dbn_vae.emissions.predictive import plain
from dbn_vae.estimators.arguments import require_choice
from dbn_vae.estimators.base import require_at_least
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.gaussian_hmm import GaussianHMM
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.mean_field_vae_hmm import MeanFieldVAEHMM, SampledVAEHMM
from dbn_vae.models.vae import VAE as StaticVAE
from dbn_vae.models.vae_hmm import VAEHMM as Model
from dbn_vae.sequences import Sequences
from dbn_vae.training.initialise import adopt
from dbn_vae.transitions.stationary import Stationary


@dataclass(eq=False, repr=False)
class VAEHMM(DeepStateEstimator):
    """An auto-encoder at every step whose prior over z_t is a hidden Markov model with learned A.

    Training starts from a classical HMM fitted to the latents of the pre-trained core.

    Args:
        n_components, n_latent: K, Z.
        covariance: of z in a state, "diag", "full", or "tied", one matrix for all states.
        inference: "exact", states and latents inform each other (models.VAEHMM); or q(z) blind to time, trained on
            the bound "sampled" or "analytic" (models.SampledVAEHMM, MeanFieldVAEHMM), to compare with.
        top_k: in training and in scores decode z of the so many likeliest states of each frame only: lower bounds, at a
            cost that does not grow with K; for inference="exact".
        n_init: starts of that classical HMM.
        others: see DeepStateEstimator and DeepEstimator.

    Attributes: startprob_ (K,), transmat_ (K, K), with durations that from stay to stay, and durations_,
        mean_durations_; module_ (a models.HMMPrior), history_.
    """

    module_: HMMPrior = field(init=False)

    n_components: int = 2
    n_latent: int = 4
    _: KW_ONLY
    covariance: str = "diag"
    inference: str = "exact"
    top_k: int | None = None
    n_init: int = 4
    algorithm: str = "viterbi"
    max_length: int | None = 200

    def build(self, core: AEVB) -> HMMPrior:
        K, Z = self.n_components, core.n_latent
        spreads = {
            "diag": torch.ones(K, Z),
            "full": torch.eye(Z).expand(K, Z, Z),
            "tied": torch.eye(Z)[None],
        }
        require_choice(spreads, covariance=self.covariance)
        require_choice(("exact", "sampled", "analytic"), inference=self.inference)
        parts = core, self.chain(), torch.zeros(K, Z), spreads[self.covariance]
        if self.inference == "exact":
            require_at_least(1, top_k=K if self.top_k is None else self.top_k)
            return Model(*parts, top_k=self.top_k)
        if self.top_k is not None:
            raise ValueError(f"top_k={self.top_k} beside inference={self.inference!r}; it is for 'exact'")
        return (SampledVAEHMM if self.inference == "sampled" else MeanFieldVAEHMM)(*parts)

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """Fit a classical HMM to the latents of the static core, and take over its chain and components."""
        assert isinstance(model, HMMPrior)
        whole = data.batch()
        with torch.no_grad():
            latents = torch.zeros(data.n_frames, self.n_latent, device=data.x.device)
            data.unbatch(whole, StaticVAE(model.core).latents(whole), latents)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        hmm = GaussianHMM(
            self.n_components,
            self.covariance,
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
        seen = data.observed.any(1, keepdim=True).expand_as(latents)
        adopt(model, hmm.build().to(data.x), data.replace(x=latents, observed=seen))

    def stream(self, model: StateModel) -> tuple[np.ndarray, np.ndarray, FrameLogProb, int]:
        """log π, log A, the potential of a single frame, which depends on no other, and D."""
        assert isinstance(model, HMMPrior)
        if not isinstance(model.transition, Stationary):
            raise NotImplementedError(
                "filter_state is not offered where inputs drive the chain or stays have durations; use filter, on all "
                "frames so far"
            )

        def log_prob(x: np.ndarray) -> np.ndarray:
            frame = self.prepared(self.sequences(x[None]))
            with torch.no_grad():
                return plain(model.state_potential(frame.only())[0, 0])

        chain = model.transition
        return plain(chain.log_initial()), plain(chain.log_transition()), log_prob, self.width
