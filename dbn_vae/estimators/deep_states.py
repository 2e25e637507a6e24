"""Deep models with a discrete state at every step: decode and filter as a classical HMM does."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae.estimators.arguments import require_number, require_whole
from dbn_vae.estimators.base import StateEstimator
from dbn_vae.estimators.deep_forecasting import DeepForecaster
from dbn_vae.estimators.hsmm import duration_named
from dbn_vae.estimators.posterior import PosteriorVerbs
from dbn_vae.estimators.recipe import Bonus
from dbn_vae.inference import Chain
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.chains import log_p_labels
from dbn_vae.models.clip import ClipVAEHMM
from dbn_vae.models.hmm import require_labels
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.reseed import reseed
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.sticky import sticky

INPUT_PRECISION = 1.0  # of the prior on the inputs' weights: a standard deviation of 1
USUAL_STAY = 10  # steps that stays begin with, as those of sticky do


@dataclass(eq=False, repr=False)
class DeepStateEstimator(DeepForecaster, StateEstimator, PosteriorVerbs):
    """States follow from the fitted module's chain; decode reports log q(states | x).

    Args:
        stickiness: pseudo-counts of staying that the prior adds to every row of A; where inputs drive the chain,
            which has no such prior, it acts through the start alone.
        durations: None, states last geometrically; or stays with a distribution of their own, "categorical",
            "poisson", "negative_binomial" or "geometric", as in HSMM.
        max_duration, min_duration: no stay is longer, or shorter but for the last one; for durations.
        duration_prior: Dirichlet concentration of a categorical duration.
        label_weight: times that log p(labels | x), by the chain that decodes, is ascended beside the bound, which has
            the labels as evidence. Above 0 states serve labels more than frames, and what is ascended, and history_
            shows, is no bound.
        reseed: a state that explains less than this part of an even share, 1 / K of the frames, is begun again from the
            frames explained worst, at every look of the first half of joint training; 0 to leave dead states.
    """

    reads_inputs = True

    _: KW_ONLY
    stickiness: float = 10.0
    durations: str | None = None
    max_duration: int = 50
    min_duration: int = 1
    duration_prior: float = 1.1
    label_weight: float = 0.0
    reseed: float = 0.1

    module_: HMMPrior | ClipVAEHMM | SwitchingDMM = field(init=False)

    def require_arguments(self) -> None:
        super().require_arguments()
        require_whole(1, n_components=self.n_components)
        require_whole(1, min_duration=self.min_duration, max_duration=self.max_duration)
        require_number(0, stickiness=self.stickiness, duration_prior=self.duration_prior)
        require_number(0, reseed=self.reseed, label_weight=self.label_weight)
        if not self.reseed < 1:
            raise ValueError(f"reseed={self.reseed}; it is a part of an even share, from 0 to under 1")

    def require_labels(self, data: Sequences) -> None:
        if data.labels is not None:
            require_labels(data.labels, self.n_components)

    def bonus(self, model: LatentModel) -> Bonus | None:
        assert isinstance(model, StateModel)
        return (
            (lambda batch, g: self.label_weight * log_p_labels(model, batch, g))
            if self.label_weight
            else None
        )

    def rescue(self, model: LatentModel, train: Sequences, generator: torch.Generator) -> int:
        """Begin dead states again."""
        assert isinstance(model, StateModel)
        return reseed(model, train, self.reseed, generator) if self.reseed and self.n_components > 1 else 0

    @property
    def startprob_(self) -> np.ndarray:
        """π, where inputs drive the chain that under inputs of 0: (K,)."""
        return self.plain_chain()[0]

    @property
    def transmat_(self) -> np.ndarray:
        """A, where inputs drive the chain that under inputs of 0: (K, K)."""
        return self.plain_chain()[1]

    def plain_chain(self) -> tuple[np.ndarray, np.ndarray]:
        chain, K = self.module_.transition, self.n_components
        u = next(chain.parameters()).new_zeros(1, 2, chain.n_inputs) if chain.n_inputs else None
        with torch.no_grad():
            first, moves = chain.log_initial(u).exp(), chain.log_transition(u).exp()
        return first.view(K).cpu().numpy(), moves.view(K, K).cpu().numpy()

    @property
    def durations_(self) -> np.ndarray:
        """P(a stay in k lasts d), d = 1..max_duration: (K, max_duration)."""
        with torch.no_grad():
            return self.stays().durations.log_prob().exp().cpu().numpy()

    @property
    def mean_durations_(self) -> np.ndarray:
        """Mean stay in steps: (K,)."""
        with torch.no_grad():
            return self.stays().durations.mean().cpu().numpy()

    def stays(self) -> SemiMarkov:
        if not isinstance(self.module_.transition, SemiMarkov):
            raise AttributeError("states last geometrically; fit with durations=... for stays of their own")
        return self.module_.transition

    def chain(self) -> Transition:
        """A chain that favours staying; driven by inputs where fit was given some, or of stays."""
        if self.durations is not None:
            return self.chain_of_stays(self.durations)
        chain = sticky(self.n_components, self.stickiness, self.dtype)
        if not self.n_driving:
            return chain
        tables = chain.log_initial().exp(), chain.log_transition().exp()
        return InputDriven(*tables, self.n_driving, INPUT_PRECISION)

    @property
    def n_driving(self) -> int:
        """How many numbers a step drive the states."""
        return self.n_inputs

    def chain_of_stays(self, durations: str) -> SemiMarkov:
        K, shortest, longest = self.n_components, self.min_duration, self.max_duration
        require_whole(2, n_components=K)
        if self.n_driving:
            raise ValueError(
                f"durations={durations!r} beside inputs or recurrent=True, which drive moves of a chain without: leave "
                "one of them out"
            )
        uniform = torch.full((K,), 1 / K, dtype=self.dtype)
        apart = (1 - torch.eye(K, dtype=self.dtype)) / (K - 1)
        mean = max(min(USUAL_STAY, longest) - shortest, 0.5) * torch.ones(K, dtype=self.dtype)
        duration = duration_named(durations, mean, shortest, longest, self.duration_prior)
        return SemiMarkov(Stationary(uniform, apart), duration)

    def state_model(self) -> HMMPrior | ClipVAEHMM | SwitchingDMM:
        return self.module_

    def reported(self, log_joint: Tensor, chain: Chain) -> Tensor:
        log_z: Tensor = self.module_.verbs.filter(chain).log_z
        return log_joint - log_z

    def filter(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """p(s_t = k | x_{1:t}): (n, K).

        Raises ValueError where the latents' posterior looks ahead.
        """
        self.require_fitted()
        if self.module_.looks_ahead:
            raise ValueError(
                "the fitted posterior knows the future; fit with inference='product-filter', or without "
                "n_clip_latent, to filter"
            )
        return super().filter(X, lengths, inputs=inputs)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, inputs: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A new sequence: X (n, D) or (n, C, H, W) and its states (n,), under inputs (n, U) if the fit had some."""
        self.require_fitted()
        u = self.sample_inputs(inputs, n_samples)
        x, states, _ = self.module_.sample(n_samples, self.generator(random_state), u)
        return self.in_units(x), states.cpu().numpy()
