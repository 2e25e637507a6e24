"""Deep models with a discrete state at every step: decode and filter as a classical HMM does."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dbn_vae import inference
from dbn_vae.estimators.base import StateEstimator
from dbn_vae.estimators.deep_forecasting import DeepForecaster
from dbn_vae.estimators.posterior import PosteriorVerbs
from dbn_vae.inference import Chain
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.models.vae_hmm import VAEHMM


@dataclass(eq=False, repr=False)
class DeepStateEstimator(DeepForecaster, StateEstimator, PosteriorVerbs):
    """States follow from the fitted module's chain; decode reports log q(states | x)."""

    module_: VAEHMM | SwitchingDMM = field(init=False)

    @property
    def startprob_(self) -> np.ndarray:
        """π: (K,)."""
        return self.module_.transition.log_initial().exp().detach().cpu().numpy()

    @property
    def transmat_(self) -> np.ndarray:
        """A: (K, K)."""
        return self.module_.transition.log_transition().exp().detach().cpu().numpy()

    def state_model(self) -> VAEHMM | SwitchingDMM:
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

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """A new sequence: X (n, D) and its states (n,)."""
        self.require_fitted()
        x, states, _ = self.module_.sample(n_samples, self.generator(random_state))
        return self.in_units(x), states.cpu().numpy()
