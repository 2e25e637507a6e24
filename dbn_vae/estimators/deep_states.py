"""Deep models with a discrete state at every step: decode and filter as a classical HMM does."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.estimators.base import StateEstimator
from dbn_vae.estimators.deep import DeepEstimator
from dbn_vae.estimators.posterior import PosteriorVerbs
from dbn_vae.inference import Chain
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.sticky import sticky

INPUT_PRECISION = 1.0  # of the prior on the inputs' weights: a standard deviation of 1


@dataclass(eq=False, repr=False)
class DeepStateEstimator(DeepEstimator, StateEstimator, PosteriorVerbs):
    """States follow from the fitted module's chain; decode reports log q(states | x)."""

    reads_inputs = True

    module_: HMMPrior | SwitchingDMM = field(init=False)

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

    def chain(self, stickiness: float) -> Transition:
        """A chain that favours staying; driven by inputs where fit was given some."""
        chain = sticky(self.n_components, stickiness, self.dtype)
        if not self.n_inputs:
            return chain
        tables = chain.log_initial().exp(), chain.log_transition().exp()
        return InputDriven(*tables, self.n_inputs, INPUT_PRECISION)

    def state_model(self) -> HMMPrior | SwitchingDMM:
        return self.module_

    def path_offset(self, chain: Chain) -> Tensor:
        return inference.filter(chain).log_z

    def filter(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """p(s_t = k | x_{1:t}): (n, K).

        Raises ValueError where the latents' posterior looks ahead.
        """
        self.require_fitted()
        if self.module_.looks_ahead:
            raise ValueError(
                "the fitted posterior knows the future; fit with inference='product-filter' to filter"
            )
        return super().filter(X, lengths, inputs=inputs)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, inputs: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A new sequence: X (n, D) and its states (n,), under inputs (n, U) if the fit had some."""
        self.require_fitted()
        u = self.sample_inputs(inputs, n_samples)
        x, states, _ = self.module_.sample(n_samples, self.generator(random_state), u)
        return self.in_units(x), states.cpu().numpy()
