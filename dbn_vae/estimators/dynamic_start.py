"""Deep models that begin with the dynamics of an autoregressive HMM; see training.dynamics."""

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch
from sklearn.exceptions import ConvergenceWarning

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.deep_training import DeepTraining
from dbn_vae.estimators.emission_hmm import EmissionHMM
from dbn_vae.estimators.logbook import Logbook
from dbn_vae.estimators.recipe import Limited
from dbn_vae.models.base import LatentModel
from dbn_vae.models.dmm import DMM
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.dynamics import Start, adopt, autoregression, begun, moves_of, small_step
from dbn_vae.training.initialise import latents

MAX_ORDER = 8  # of the autoregression; each costs a fit of it


@dataclass(eq=False, repr=False)
class DynamicStart(DeepTraining):
    """With init="dynamics" z begins as the frames themselves, where they fit into it, or as the latents of the core."""

    step_size_: float = field(init=False, default=math.inf)  # of the moves at most, as the start has it

    init: str = field(init=False)
    inference: str = field(init=False)

    @abstractmethod
    def drift(self, model: LatentModel, generator: torch.Generator) -> None:
        """The start without dynamics."""

    @abstractmethod
    def dynamics(self, emission: Emission, seed: int) -> EmissionHMM:
        """What finds them, given the autoregression of every state."""

    @property
    def knows_dynamics(self) -> bool:
        return self.init == "dynamics"

    @property
    def tells_frames(self) -> bool:
        """Whether z begins as the frames themselves: numbers that fit into it, and a core that is to learn."""
        plain = self.likelihood in ("gaussian", "student-t") and not self.pictures
        taught = self.n_pretrain > 0 and self.core is None and not self.freeze_core
        return self.knows_dynamics and plain and self.width <= self.n_latent and taught

    def pretrain(self, train: Sequences, generator: torch.Generator, book: Logbook) -> None:
        """Nothing where the core is to learn from the start what it tells."""
        if not self.tells_frames:
            super().pretrain(train, generator, book)

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        assert isinstance(model, DMM | SwitchingDMM)
        self.step_size_ = math.inf
        if not self.knows_dynamics:
            self.drift(model, generator)
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
            n_updates=self.n_pretrain if self.tells_frames else 0,
            n_frames=32 * self.batch_size,
        )

    def limited(self, model: LatentModel) -> Limited:
        """Moves that EM has found: in many columns a full step would be as long as a quiet state's innovation."""
        assert isinstance(model, DMM | SwitchingDMM)
        return Limited([p for move in moves_of(model) for p in move.parameters()], self.step_size_)

    def likeliest_start(self, y: Sequences, generator: torch.Generator) -> Start:
        """Of all orders that z has room for the one with the highest BIC; strengths have no parameters in it."""
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        room = 1 if self.inference == "mean-field" else min(self.n_latent // y.x.shape[1], MAX_ORDER)
        found = []
        for order in range(1, room + 1):
            hmm = self.dynamics(autoregression(self.n_states, y.x.shape[1], order), seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a start need be no optimum
                hmm.fit(y)
            start = begun(hmm.model_, y)
            found.append((start.gain - hmm.bic(y) / 2, start))
        return max(found, key=lambda pair: pair[0])[1]
