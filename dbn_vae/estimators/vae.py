"""The static auto-encoder under scikit-learn's verbs."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch

from dbn_vae.aevb import AEVB
from dbn_vae.arrays import as_numpy
from dbn_vae.estimators.arguments import names_its_sequences
from dbn_vae.estimators.deep_forecasting import DeepImputer
from dbn_vae.models.base import LatentModel
from dbn_vae.models.vae import VAE as StaticVAE
from dbn_vae.sequences import Sequences
from dbn_vae.training.sgvb import Objective, estimator_a, estimator_b


@dataclass(eq=False, repr=False)
class VAE(DeepImputer):
    """Frames are independent: p(z) = N(0, I), p(x | z) from a network (Kingma and Welling 2014).

    Args:
        n_latent: Z.
        estimator: "B", the KL analytic, or "A", everything sampled.
        others: see DeepEstimator.

    Attributes: module_ (models.VAE), history_.
    """

    module_: StaticVAE = field(init=False)

    n_latent: int = 8
    _: KW_ONLY
    estimator: str = "B"
    n_updates: int = 2000
    n_pretrain: int = 0
    warm_up: int = 0
    batch_size: int = 128
    learning_rate: float = 2e-3
    max_length: int | None = 1
    validation: float = 0.1

    @property
    def n_states(self) -> int:
        return 1

    def read(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        """Frames are independent: one stack of them is as many sequences, each with a weight of its own."""
        if lengths is None and not isinstance(X, Sequences) and not names_its_sequences(X):
            frames = as_numpy(X)
            if frames.ndim in (2, 4):
                lengths = np.ones(len(frames))
        data = super().read(X, lengths, **fields)
        return data.frames() if len(data) == 1 else data

    def walks(self, data: Sequences) -> Sequences:
        return data.frames()

    def build(self, core: AEVB) -> StaticVAE:
        return StaticVAE(core)

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    def training_objective(self, model: LatentModel) -> Objective:
        estimators = {"A": estimator_a, "B": estimator_b}
        if self.estimator not in estimators:
            raise ValueError(f"estimator={self.estimator!r}; it is 'A' or 'B'")
        return estimators[self.estimator](model)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """New frames X (n, D) and their latents (n, Z)."""
        self.require_fitted()
        x, z = self.module_.sample(n_samples, self.generator(random_state))
        return self.in_units(x), z.cpu().numpy()
