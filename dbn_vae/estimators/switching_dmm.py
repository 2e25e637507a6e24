"""The switching deep Markov model under hmmlearn's verbs."""

import math
import warnings
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from sklearn.exceptions import ConvergenceWarning

from dbn_vae.aevb import AEVB
from dbn_vae.estimators.arguments import require_choice
from dbn_vae.estimators.deep_states import DeepStateEstimator
from dbn_vae.estimators.dmm import recognition_named, transition_named
from dbn_vae.estimators.emission_hmm import EmissionHMM
from dbn_vae.estimators.logbook import Logbook
from dbn_vae.estimators.recipe import Limited
from dbn_vae.models.base import LatentModel
from dbn_vae.models.switching_dmm import SwitchingDMM as Model
from dbn_vae.sequences import Sequences
from dbn_vae.training.dynamics import Start, adopt, autoregression, begun, small_step
from dbn_vae.training.initialise import latents
from dbn_vae.transitions.sticky import sticky

MAX_ORDER = 8  # of the autoregression; each costs a fit of it


@dataclass(eq=False, repr=False)
class SwitchingDMM(DeepStateEstimator):
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
    step_size_: float = field(init=False, default=math.inf)  # of the moves at most, as the start has it

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

    @property
    def tells_frames(self) -> bool:
        """Whether z begins as the frames themselves: numbers that fit into it, and no core that is to be kept."""
        plain = self.likelihood in ("gaussian", "student-t") and not self.pictures
        kept = self.core is not None or self.freeze_core
        return self.init == "dynamics" and plain and self.width <= self.n_latent and not kept

    def require_arguments(self) -> None:
        super().require_arguments()
        require_choice(("dynamics", "random"), init=self.init)

    def pretrain(self, train: Sequences, generator: torch.Generator, book: Logbook) -> None:
        """Nothing where the core is to learn from the start what it tells."""
        if not self.tells_frames:
            super().pretrain(train, generator, book)

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """From the autoregressive HMM that explains the data best; or break the symmetry between states at random."""
        assert isinstance(model, Model)
        self.step_size_ = math.inf
        if self.init == "random":
            with torch.no_grad():
                for parameter in model.moves.parameters():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.1 * noise.to(parameter))
            return
        if self.tells_frames:
            y = replace(data, inputs=None).to(dtype=torch.float64)
        else:
            y = latents(model.core, data, self.frames_at_once)
        start = self.likeliest_start(y, generator)
        self.step_size_ = small_step(start)
        adopt(
            model,
            start,
            data,
            generator,
            n_updates=self.n_pretrain * self.tells_frames,
            n_frames=32 * self.batch_size,
        )

    def limited(self, model: LatentModel) -> Limited:
        """Moves that EM has found: in many columns a full step would be as long as a quiet state's innovation."""
        assert isinstance(model, Model)
        return Limited(model.moves.parameters(), self.step_size_)

    def likeliest_start(self, y: Sequences, generator: torch.Generator) -> Start:
        """Of all orders that z has room for the one with the highest BIC; strengths have no parameters in it."""
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        room = 1 if self.inference == "mean-field" else min(self.n_latent // y.x.shape[1], MAX_ORDER)
        found = []
        for order in range(1, room + 1):
            emission = autoregression(self.n_components, y.x.shape[1], order)
            chain = sticky(self.n_components, self.stickiness)
            hmm = EmissionHMM(emission, chain, random_state=seed, n_init=self.n_init, n_iter=50)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a start need be no optimum
                hmm.fit(y)
            start = begun(hmm.model_, y)
            found.append((start.gain - hmm.bic(y) / 2, start))
        return max(found, key=lambda pair: pair[0])[1]
