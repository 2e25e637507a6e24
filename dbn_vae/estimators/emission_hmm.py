"""A hidden Markov model of any emission and any transition behind the verbs.

    EmissionHMM(emission, transition)     p(s, x) = p(s_1) Π_t p(s_t | s_{t-1}) Π_t p(x_t | s_t)

What the classical estimators are to their families, this is to a module: one of dbn_vae.emissions, a composition of
them, or a family of the user's own that says nothing but log_prob.
"""

import copy
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.arguments import require_width
from dbn_vae.estimators.classical import prior
from dbn_vae.estimators.devices import place
from dbn_vae.estimators.forecasting import PredictiveVerbs
from dbn_vae.estimators.modules import ModuleHMM
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary


@dataclass(eq=False, repr=False)
class EmissionHMM(ModuleHMM, PredictiveVerbs):
    """An HMM over any emission family; the modules given are templates, which are copied and never changed.

    Args:
        emission: p(x_t | s_t = k), with its numbers of states and of columns, its priors and what it freezes.  Unless
            init is "given", its values are only where the first M-step begins.  Parts of a state that are equal, such
            as components of a Mixture, stay equal: give them different values.
        transition: how the state moves; without it a Stationary, uniform at first.
        startprob_prior, transmat_prior: Dirichlet concentrations of that Stationary; a transition that is given has
            its own.
        init: "data", every start makes one M-step from clusters of the frames or from chance; "given", there is one
            start, the templates as they are.
        n_iter, tol: at most so many updates; stop when the log-likelihood gains less than tol.
        algorithm: of predict and decode, "viterbi" or "map".
        n_init: starts, of which the best is kept.
        device: "cpu", "cuda", or "auto".

    Attributes:
        model_: the fitted models.HMM, its parts model_.emission and model_.transition; monitor_, restart_scores_.

    >>> from dbn_vae.emissions import Poisson
    >>> template = Poisson(torch.ones(2, 1, dtype=torch.float64))
    >>> model = EmissionHMM(template, random_state=0).fit(np.repeat([[1.0], [9.0]], 20, axis=0))
    >>> sorted(model.model_.emission.rates().ravel().round().tolist())
    [1.0, 9.0]
    """

    templates: ClassVar[tuple[str, ...]] = ("emission", "transition")

    emission: Emission
    transition: Transition | None = None
    _: KW_ONLY
    startprob_prior: Any = 1.0
    transmat_prior: Any = 1.0
    init: str = "data"
    n_iter: int = 100
    tol: float = 1e-3
    algorithm: str = "viterbi"
    random_state: Any = None
    verbose: bool = False
    n_init: int = 4
    device: str = "cpu"

    @property
    def n_starts(self) -> int:
        return 1 if self.init == "given" else self.n_init

    def require_arguments(self) -> None:
        for name, value, kind in (
            ("emission", self.emission, Emission),
            ("transition", self.transition, Transition),
        ):
            if not isinstance(value, kind) and not (name == "transition" and value is None):
                raise TypeError(
                    f"{name}={value!r}; it must be a module of dbn_vae.{name}s, or of a subclass of {kind.__name__}"
                )
        if isinstance(self.transition, SemiMarkov):
            raise TypeError("transition is a SemiMarkov; for durations of stays there is dbn_vae.HSMM")
        widths = {m.n_inputs for m in (self.emission, self.transition) if m is not None and m.n_inputs}
        if len(widths) > 1:
            raise ValueError(
                f"emission and transition read {sorted(widths)} inputs a frame; they read the same u_t and must agree"
            )
        if self.init not in ("data", "given"):
            raise ValueError(f"init={self.init!r}; it is 'data' or 'given'")
        for name in ("startprob_prior", "transmat_prior"):
            if self.transition is not None and np.any(np.not_equal(getattr(self, name), 1)):
                raise ValueError(
                    f"{name}={getattr(self, name)} beside a transition, which has priors of its own: set it there"
                )
        super().require_arguments()

    def started(self, data: Sequences, generator: torch.Generator, restart: int) -> HMM:
        model = HMM(self.chain(), copy.deepcopy(self.emission))
        place(model, torch.device("cpu"), self.dtype)
        require_width(data, model.emission.n_features, type(self).__name__)
        model.emission.check(data.x, data.observed)
        # counted here: zeros of the start are structure, zeros that EM arrives at are estimates
        self.n_free_ = model.transition.n_free() + model.emission.n_free()
        if self.init == "data":
            self.begin(model, data, generator, restart)
        return model

    def chain(self) -> Transition:
        """A transition to learn: a copy of the one given, or a uniform one."""
        if self.transition is not None:
            return copy.deepcopy(self.transition)
        K = self.n_components
        uniform = torch.full((K,), 1 / K, dtype=self.dtype)
        return Stationary(
            uniform,
            uniform.expand(K, K).clone(),
            prior("startprob_prior", self.startprob_prior, (K,)),
            prior("transmat_prior", self.transmat_prior, (K, K)),
        )
