"""The VAE-HMM under hmmlearn's verbs."""

import warnings
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from dbn_vae.aevb import AEVB
from dbn_vae.emissions.frame import Inputs, Past
from dbn_vae.emissions.predictive import plain
from dbn_vae.estimators.arguments import require_choice, require_whole
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.gaussian_hmm import GaussianHMM
from dbn_vae.estimators.logbook import Logbook
from dbn_vae.estimators.recipe import Ascent
from dbn_vae.estimators.streaming import Steps, tables_under
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.chains import tables_of
from dbn_vae.models.clip import ClipVAEHMM
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.mean_field_vae_hmm import MeanFieldVAEHMM, SampledVAEHMM
from dbn_vae.models.vae_hmm import VAEHMM as Model
from dbn_vae.sequences import Sequences
from dbn_vae.training.initialise import adopt, latents
from dbn_vae.transitions.sticky import sticky


@dataclass(eq=False, repr=False)
class VAEHMM(DeepStateEstimator):
    """An auto-encoder at every step whose prior over z_t is a hidden Markov model with learned A.

    Training starts from a classical HMM fitted to the latents of the pre-trained core.

    Args:
        n_components, n_latent: K, Z.
        n_clip_latent: W; above 0 a sequence has a latent w of its own beside z_t, for what stays the same throughout,
            and transform gives (z_t, w), (n, n_latent + n_clip_latent). See models.ClipVAEHMM.
        covariance: of z in a state, "diag", "full", or "tied", one matrix for all states.
        inference: "exact", states and latents inform each other (models.VAEHMM); or q(z) blind to time, trained on
            the bound "sampled" or "analytic" (models.SampledVAEHMM, MeanFieldVAEHMM), to compare with.
        top_k: in training and in scores decode z of the so many likeliest states of each frame only: lower bounds, at a
            cost that does not grow with K; for inference="exact".
        state_offset: every state has numbers of its own that are added to the decoder's outputs. They say what its
            frames have in common, and z is left with what varies within it.
        n_init: starts of that classical HMM.
        others: see DeepStateEstimator and DeepEstimator.

    Attributes: startprob_ (K,), transmat_ (K, K), with durations that from stay to stay, and durations_,
        mean_durations_; module_ (a models.HMMPrior or ClipVAEHMM), history_.
    """

    module_: HMMPrior | ClipVAEHMM = field(init=False)

    n_components: int = 2
    n_latent: int = 4
    _: KW_ONLY
    n_clip_latent: int = 0
    covariance: str = "diag"
    inference: str = "exact"
    top_k: int | None = None
    state_offset: bool = False
    n_init: int = 4
    algorithm: str = "viterbi"
    max_length: int | None = 200

    @property
    def n_core_latent(self) -> int:
        return self.n_latent + self.n_clip_latent

    def require_arguments(self) -> None:
        super().require_arguments()
        require_whole(0, n_clip_latent=self.n_clip_latent)
        require_whole(1, n_init=self.n_init, top_k=1 if self.top_k is None else self.top_k)

    def build(self, core: AEVB) -> HMMPrior | ClipVAEHMM:
        K, Z = self.n_components, self.n_latent
        spreads = {
            "diag": torch.ones(K, Z),
            "full": torch.eye(Z).expand(K, Z, Z),
            "tied": torch.eye(Z)[None],
        }
        require_choice(spreads, covariance=self.covariance)
        require_choice(("exact", "sampled", "analytic"), inference=self.inference)
        parts = core, self.chain(), torch.zeros(K, Z), spreads[self.covariance]
        offset = torch.zeros(K, core.likelihood.n_outputs(core.n_observed)) if self.state_offset else None
        if self.n_clip_latent:
            self.require_lone_clip()
            return ClipVAEHMM(*parts)
        if self.inference == "exact":
            return Model(*parts, offset, self.top_k)
        if self.top_k is not None:
            raise ValueError(f"top_k={self.top_k} beside inference={self.inference!r}; it is for 'exact'")
        return (SampledVAEHMM if self.inference == "sampled" else MeanFieldVAEHMM)(*parts, offset)

    def require_lone_clip(self) -> None:
        """Raise ValueError for options that a model with a latent of the clip does not have."""
        plain_values = {
            "covariance": "diag",
            "inference": "exact",
            "top_k": None,
            "state_offset": False,
            "durations": None,
            "core": None,
        }
        for name, value in plain_values.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} beside n_clip_latent={self.n_clip_latent}; a latent of the whole "
                    f"sequence goes with {name}={value!r} alone"
                )
        if self.n_inputs:
            raise ValueError(f"inputs beside n_clip_latent={self.n_clip_latent}; leave one of them out")

    def pretrain(self, train: Sequences, generator: torch.Generator, book: Logbook) -> None:
        """The core on single frames; with w on whole sequences, where alone it differs from z."""
        if self.n_clip_latent == 0:
            return super().pretrain(train, generator, book)
        if self.n_pretrain:
            chain = sticky(1, self.stickiness, self.dtype)
            one = ClipVAEHMM(
                self.module_.core, chain, torch.zeros(1, self.n_latent), torch.ones(1, self.n_latent)
            )
            plan = self.schedule(self.n_pretrain, self.batch_size)
            clips = Ascent(
                one.to(train.x), replace(train, labels=None), None, plan, generator, name=self.bar("clips")
            )
            book.go_on("core", clips)
            clips.run(after=partial(book.write, "core"))
        return None

    def rescue(self, model: LatentModel, train: Sequences, generator: torch.Generator) -> int:
        """Begin dead states again, where that is known of."""
        return 0 if isinstance(model, ClipVAEHMM) else super().rescue(model, train, generator)

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """Fit a classical HMM to the latents of the static core, and take over its chain and components."""
        assert isinstance(model, HMMPrior | ClipVAEHMM)
        z = latents(model.core, data, self.frames_at_once)
        z = z.replace(x=z.x[:, : self.n_latent], observed=z.observed[:, : self.n_latent])
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        hmm = GaussianHMM(
            self.n_components,
            self.covariance,
            min_covar=1e-2,
            covars_prior=0.0,  # any other, shared out over no frames, is a boundless variance of a state that EM lost
            transmat_prior=1 + self.stickiness * np.eye(self.n_components),
            random_state=seed,
            n_iter=50,
            n_init=self.n_init,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a start need be no optimum
            hmm.fit(z)
        prior = model.given_w if isinstance(model, ClipVAEHMM) else model
        adopt(prior, hmm.build().to(data.x), z.to(dtype=self.dtype, device=data.x.device))

    def steps(self, model: StateModel) -> Steps:
        """The chain, and the potential of a single frame, which depends on no other."""
        if isinstance(model, ClipVAEHMM):
            raise NotImplementedError("n_clip_latent above 0: w knows every frame, so none can be filtered")
        assert isinstance(model, HMMPrior)
        transition = model.transition

        def log_prob(x: np.ndarray, u: Inputs, past: Past) -> np.ndarray:
            frame = self.prepared(self.sequences(x[None], inputs=None if u is None else u[None]))
            with torch.no_grad():
                return plain(model.state_potential(frame.only())[0, 0])

        tables = tables_under(partial(tables_of, transition), transition)
        return Steps(tables, log_prob, self.frame, self.n_inputs, transition.n_inputs > 0)
