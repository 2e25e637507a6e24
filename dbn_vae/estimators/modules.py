"""HMM estimators whose fitted model is a module, built from templates that are modules too."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.estimators.described import describe, rebuild
from dbn_vae.estimators.devices import place, where
from dbn_vae.estimators.hmm import HMMEstimator
from dbn_vae.estimators.monitor import ConvergenceMonitor
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep


class ModuleHMM(HMMEstimator):
    """The model is the attribute model_; there are no arrays beside it."""

    templates: ClassVar[tuple[str, ...]] = ("emission",)  # the arguments that are modules

    emission: Emission
    model_: HMM

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """In one line, where torch gives every part of a module its own."""
        return " ".join(super().__repr__(N_CHAR_MAX).split())

    @property
    def n_components(self) -> int:  # type: ignore[override]
        """K, which the emission says."""
        return self.emission.n_components

    @property
    def n_inputs(self) -> int:
        """Columns of the inputs that a part of the model reads."""
        parts = (getattr(self, name) for name in self.templates)
        return max(part.n_inputs for part in parts if part is not None)

    @property
    def clustered(self) -> bool:  # type: ignore[override]
        """Symbols have no distances that k-means could go by."""
        return not any(isinstance(part, Categorical) for part in self.emission.modules())

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        found = super().troubles(model, last)
        if model.emission.floored:
            found.append(
                f"a spread of states {model.emission.floored} would collapse and is held at the floor of the emission; "
                "use fewer states, a prior or a higher floor, or leave out columns that are constant"
            )
        return found

    def keep(self, model: HMM) -> None:
        self.model_ = model

    def fitted(self) -> list[Any]:
        return [self.model_]

    def is_fitted(self) -> bool:
        return hasattr(self, "model_")

    def state_model(self) -> HMM:
        device, some = where(self.device), next(self.model_.parameters(), None)
        if some is not None and some.device != device:
            place(self.model_, device, self.dtype)
        return self.model_

    def as_fitted(self, data: Sequences) -> HMM:
        model = copy.deepcopy(self.model_)
        place(model, torch.device("cpu"), self.dtype)
        return model

    # -- files

    def plain_parameters(self) -> dict[str, Any]:
        return super().plain_parameters() | dict.fromkeys(self.templates)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The fitted module and the templates."""
        tensors: dict[str, Tensor] = {}
        modules: dict[str, Any] = {}
        for name in (*self.templates, "model_"):
            module = getattr(self, name)
            held, modules[name] = ({}, None) if module is None else describe(module, name)
            tensors |= held
        facts = {
            "modules": modules,
            "history": self.monitor_.history,
            "converged": bool(self.monitor_.converged),
            "n_free": self.n_free_,
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for name, module in facts["modules"].items():
            setattr(self, name, None if module is None else rebuild(module, tensors))
        self.monitor_ = ConvergenceMonitor(
            self.tol, self.n_iter, self.verbose, facts["history"], facts["converged"]
        )
        self.n_free_ = facts["n_free"]
