"""The deep Markov model under scikit-learn's verbs."""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dbn_vae.aevb import AEVB
from dbn_vae.distributions import Conditional
from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.arguments import require_choice, require_number, require_whole
from dbn_vae.estimators.deep_forecasting import DeepForecaster
from dbn_vae.estimators.dynamic_start import DynamicStart
from dbn_vae.estimators.emission_hmm import EmissionHMM
from dbn_vae.estimators.recipe import Schedule
from dbn_vae.models.base import LatentModel
from dbn_vae.models.dmm import DMM
from dbn_vae.models.recognition import Filtering, PerStep, Product, Recognition
from dbn_vae.models.smoothing import Smoothing
from dbn_vae.models.structured import STL, STLR, STR
from dbn_vae.transitions.gated import Gated
from dbn_vae.transitions.linear import Linear
from dbn_vae.transitions.sticky import sticky

EVIDENCE = "product", "product-filter", "smoother", "mean-field"  # ways to infer that read the core's


def transition_named(name: str, n_latent: int, n_hidden: int, n_inputs: int = 0) -> Conditional:
    """p(z_t | z_{t-1}, u_t); raises ValueError for an unknown name."""
    if name not in ("gated", "linear"):
        raise ValueError(f"transition={name!r}; it is 'gated' or 'linear'")
    if name == "gated":
        return Gated(n_latent, n_hidden, n_inputs)
    return Linear(n_latent, n_inputs=n_inputs)


def recognition_named(name: str, core: AEVB, n_hidden: int) -> Recognition:
    """q(z_t | z_{t-1}, x); raises ValueError for an unknown name."""
    networks = {"ST-L": STL, "ST-R": STR, "ST-LR": STLR, "product": Product}
    if name in networks:
        return networks[name](core.n_features, core.n_latent, n_hidden)
    evidence: dict[str, type[PerStep | Filtering]] = {
        "mean-field": PerStep,
        "product-filter": Filtering,
        "smoother": Smoothing,
    }
    if name not in evidence:
        raise ValueError(f"inference={name!r}; it is one of {[*evidence, *networks]}")
    return evidence[name]()


@dataclass(eq=False, repr=False)
class DeepMarkovModel(DynamicStart, DeepForecaster):
    """A continuous latent that moves by a learned transition (Krishnan, Shalit and Sontag 2017).

    Args:
        n_latent: Z.
        transition: "gated" or "linear".
        inference: q(z_t | z_{t-1}, x): "product" (prior times evidence of the present and the future),
            "product-filter" (the same without the future), "smoother" (the same with what a linear transition makes of
            the evidence to come, by messages and no network), "mean-field" (the static posterior of each frame),
            or Krishnan's structured networks of the past, the future or both, "ST-L", "ST-R" and "ST-LR".
        autoregressive: the decoder reads x_{t-1} beside z_t, zeros with a mask where it was not seen.
        n_hidden: width of the transition's and the recognition's networks.
        init: "dynamics", transitions begin as a linear regression has them, see training.dynamics: of the frames
            themselves where these are Gaussian or Student-t vectors of at most n_latent columns and the core is free to
            learn them, which it does in n_pretrain updates; else of the latents of the pre-trained core.  "drift", they
            begin near z_t = z_{t-1}; so they do with inputs, with autoregressive=True, with the structured networks and
            with a core that has learnt nothing.
        weight_decay: λ of the prior N(0, 1 / (λ n_frames)) on every weight, which training leans to.
        others: see DeepEstimator.

    Attributes: module_ (models.DMM), history_.
    """

    reads_inputs = True

    module_: DMM = field(init=False)

    n_latent: int = 4
    _: KW_ONLY
    transition: str = "gated"
    inference: str = "product"
    autoregressive: bool = False
    n_hidden: int = 32
    init: str = "dynamics"
    weight_decay: float = 0.0

    def require_arguments(self) -> None:
        super().require_arguments()
        require_choice(("dynamics", "drift"), init=self.init)
        if self.inference == "smoother" and self.transition == "gated":
            raise ValueError(
                "inference='smoother' is exact messages through transition='linear', not 'gated'"
            )
        require_whole(1, n_hidden=self.n_hidden)
        require_number(0, weight_decay=self.weight_decay)

    def schedule(self, n_updates: int, batch_size: int) -> Schedule:
        return replace(super().schedule(n_updates, batch_size), weight_decay=self.weight_decay)

    @property
    def n_states(self) -> int:
        return 1

    def build(self, core: AEVB) -> DMM:
        transition = transition_named(self.transition, core.n_latent, self.n_hidden, self.n_inputs)
        recognition = recognition_named(self.inference, core, self.n_hidden)
        return DMM(core, transition, recognition, self.autoregressive)

    @property
    def knows_dynamics(self) -> bool:
        trained = self.core is not None or self.n_pretrain > 0
        read = self.inference in EVIDENCE and not self.n_inputs and not self.autoregressive
        return super().knows_dynamics and trained and read

    def drift(self, model: LatentModel, generator: torch.Generator) -> None:
        """The pre-trained core is start enough: transitions begin so."""

    def dynamics(self, emission: Emission, seed: int) -> EmissionHMM:
        return EmissionHMM(emission, sticky(1), random_state=seed, n_init=1, n_iter=50)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, inputs: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A new sequence: X (n, D) and its latents (n, Z), under inputs (n, U) if the fit had some."""
        self.require_fitted()
        u = self.sample_inputs(inputs, n_samples)
        x, z = self.module_.sample(n_samples, self.generator(random_state), u)
        return self.in_units(x), z.cpu().numpy()

    def filter(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """Latents given the past and present only: (n, Z).

        Raises ValueError where q looks ahead.
        """
        self.require_fitted()
        if self.module_.looks_ahead:
            raise ValueError(
                f"inference={self.inference!r} knows the future; fit with inference='product-filter' to filter"
            )
        return self.transform(X, lengths, inputs=inputs)
