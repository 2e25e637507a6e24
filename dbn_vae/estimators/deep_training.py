"""How every deep estimator is trained.

    core      the static core is pre-trained on single frames, or taken over from another model
    start     the model takes its own start from the core; of n_probes starts the one ahead after a tenth goes on
    joint     everything ascends the bound together while β rises; a part of the sequences is kept apart, their bound
              is watched once β = 1, and the best parameters seen are the ones kept

The runs themselves are in recipe.py, their file in logbook.py, and what is told of them afterwards in diagnostics.py.
"""

from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dbn_vae.aevb import AEVB
from dbn_vae.estimators import cores
from dbn_vae.estimators.arguments import (
    input_columns,
    lengths_given,
    require_number,
    require_positive,
    require_whole,
)
from dbn_vae.estimators.base import SequenceEstimator
from dbn_vae.estimators.diagnostics import Diagnostics, diagnose
from dbn_vae.estimators.logbook import Logbook, identity_of
from dbn_vae.estimators.monitor import warn
from dbn_vae.estimators.recipe import Ascent, Bonus, Curve, Limited, Schedule
from dbn_vae.models.base import LatentModel
from dbn_vae.models.vae import VAE as StaticVAE
from dbn_vae.sequences import Sequences
from dbn_vae.training.initialise import adopt_core
from dbn_vae.training.sgvb import Objective


class DeepTraining(SequenceEstimator):
    """The verb fit; a DeepEstimator says what is built, how it begins, and how data are scaled."""

    reads_inputs: ClassVar[bool] = False  # whether a model of this kind can be driven by inputs

    n_updates: int
    n_pretrain: int
    warm_up: int
    batch_size: int
    learning_rate: float
    max_length: int | None
    hidden: tuple[int, ...] | None
    validation: float
    patience: int | None
    max_norm: float
    n_probes: int
    core: Any
    freeze_core: bool
    n_samples: int
    verbose: bool
    module_: LatentModel
    frame_: tuple[int, ...]
    n_symbols_: int | None
    center_: Tensor
    scale_: Tensor

    @property
    @abstractmethod
    def n_latent(self) -> int:
        """Z; a model's first or second argument."""

    @abstractmethod
    def size_up(self, data: Sequences) -> None:
        """Everything that must be known of the data before a module can be built."""

    @abstractmethod
    def prepared(self, data: Sequences) -> Sequences:
        """The data as the module sees them."""

    @abstractmethod
    def new_module(self) -> LatentModel:
        """An untrained model, its weights drawn from torch's global generator."""

    @abstractmethod
    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """The model's own start, given a pre-trained core and (scaled) data."""

    def training_objective(self, model: LatentModel) -> Objective | None:
        """What training ascends; None for the model's own."""
        return None

    def bonus(self, model: LatentModel) -> Bonus | None:
        """What training ascends beside that."""
        return None

    def rescue(self, model: LatentModel, train: Sequences, generator: torch.Generator) -> int:
        """Mend what has died in the model; returns of how many states."""
        return 0

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        lengths: Any = None,
        labels: Any = None,
        sample_weight: Any = None,
        inputs: Any = None,
        checkpoint: Path | str | None = None,
    ) -> Self:
        """Train on data in any form that Sequences.from_any takes.

        Args:
            y: not read, or lengths without their name: see lengths_given.
            labels: known states, one a frame, −1 where unknown, or soft ones; for models with states.
            sample_weight: (B,) weight of each sequence.
            inputs: u_t, (n, U), which then drive the states or the latent, and go with every question asked later;
                they are taken as they are, and should be of order 1.
            checkpoint: a file that is written as training goes, and from which a later fit with the same arguments
                and data goes on, to the same numbers as without a break.

        On Ctrl-C the best parameters so far are kept before the interrupt goes on.
        """
        self.require_arguments()
        generator = self.generator()
        self.n_inputs_ = input_columns(X, inputs) if self.reads_inputs else 0
        data = self.read(X, lengths_given(X, y, lengths), labels=labels, weights=sample_weight, inputs=inputs)
        self.require_labels(data)
        self.remember_columns(X)
        self.size_up(data)
        data = flattened(data)
        self.take_scaling()
        self.check(data)
        book = Logbook(checkpoint, {} if checkpoint is None else self.identity(data), generator)
        self.history_: list[Curve] = []
        self.diagnostics_: Diagnostics | None = None  # until training is over
        data = self.prepared(data)
        self.module_ = self.fresh(generator)
        train, validation = self.split(data, generator)
        if book.phase != "joint":
            self.pretrain(train, generator, book)
            joint = self.started(train, validation, generator)
        else:
            joint = self.joint(train, validation, generator)
            book.go_on("joint", joint)
        self.history_ = joint.curve
        try:
            joint.run(after=partial(book.write, "joint"))
        finally:
            joint.keep_best()
        self.diagnostics_ = diagnose(joint, self.module_, train)
        warn(type(self).__name__, self.diagnostics_.troubles)
        return self

    def require_arguments(self) -> None:
        """Raise ValueError naming the first argument that cannot be."""
        require_whole(1, n_latent=self.n_latent, batch_size=self.batch_size, n_samples=self.n_samples)
        require_whole(0, n_updates=self.n_updates, n_pretrain=self.n_pretrain, warm_up=self.warm_up)
        require_whole(1, n_probes=self.n_probes)
        for name in ("patience", "max_length"):
            if getattr(self, name) is not None:
                require_whole(1, **{name: getattr(self, name)})
        for width in self.hidden or ():
            require_whole(1, hidden=width)
        require_positive(learning_rate=self.learning_rate, max_norm=self.max_norm)
        require_number(validation=self.validation)
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"validation={self.validation}; it is a share of the sequences, from 0 to under 1"
            )
        if self.core is not None and not isinstance(self.core, AEVB | DeepTraining):
            raise TypeError(
                f"core={self.core!r}; it is a fitted VAE or another deep estimator, or an AEVB module"
            )

        if isinstance(self.core, DeepTraining) and not self.core.is_fitted():
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"core={self.core!r} is not fitted: fit it before it is taken over")

    def require_labels(self, data: Sequences) -> None:
        """Raise ValueError for labels where there are no states to be known."""
        if data.labels is not None:
            raise ValueError(f"labels are given, but a {type(self).__name__} has no states: leave them out")

    def limited(self, model: LatentModel) -> Limited | None:
        """Parameters that the model's own start wants to be moved in small steps."""
        return None

    # -- the steps of training, in their order

    def trained_core(self) -> AEVB | None:
        """The core to begin with, where one was given."""
        if isinstance(self.core, DeepTraining):
            return self.core.module_.core
        return self.core

    def take_scaling(self) -> None:
        """That of the estimator whose core is taken over."""
        if isinstance(self.core, DeepTraining) and self.core.frame == self.frame:
            self.center_, self.scale_ = self.core.center_.clone(), self.core.scale_.clone()
            self.n_symbols_ = self.core.n_symbols_

    def fresh(self, generator: torch.Generator) -> LatentModel:
        """A new module, its weights drawn from the generator and its core taken over, where one was given."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            module = self.new_module()
        trained = self.trained_core()
        if trained is not None:
            adopt_core(module.core, trained)
        return module

    def pretrain(self, train: Sequences, generator: torch.Generator, book: Logbook) -> None:
        """Teach the core single frames."""
        if self.core is not None or self.n_pretrain == 0:
            return
        plan = self.schedule(self.n_pretrain, 32 * self.batch_size)
        core = Ascent(
            StaticVAE(self.module_.core), train.frames(), None, plan, generator, name=self.bar("core")
        )
        book.go_on("core", core)
        core.run(after=partial(book.write, "core"))

    def started(self, train: Sequences, validation: Sequences | None, generator: torch.Generator) -> Ascent:
        """The beginning of joint training; of several starts, the one ahead after a tenth of it."""
        core = self.module_.core if self.core is not None or self.n_pretrain else None
        runs = []
        for probe in range(self.n_probes if self.n_updates else 1):
            if probe:
                self.module_ = self.fresh(generator)
                if core is not None:
                    adopt_core(self.module_.core, core)
            self.begin(self.module_, train, generator)
            runs.append(self.joint(train, validation, generator))
            if self.n_probes > 1:
                runs[-1].run(until=runs[-1].schedule.probe_until)
        bounds = [run.curve[-1].validation for run in runs if run.curve]
        best = runs[int(np.argmax(bounds))] if bounds else runs[0]
        best.probes = bounds
        self.module_ = best.model
        return best

    def joint(self, train: Sequences, validation: Sequences | None, generator: torch.Generator) -> Ascent:
        """Ascent of everything together, from where the module is."""
        model = self.module_
        model.core.requires_grad_(not self.freeze_core)
        if self.n_updates and not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                f"freeze_core=True leaves a {type(self).__name__} nothing to learn: set n_updates=0"
            )
        return Ascent(
            model,
            train,
            validation,
            self.schedule(self.n_updates, self.batch_size),
            generator,
            objective=self.training_objective(model),
            bonus=self.bonus(model),
            rescue=partial(self.rescue, model, train, generator),
            limited=self.limited(model),
            name=self.bar("joint"),
        )

    def schedule(self, n_updates: int, batch_size: int) -> Schedule:
        warm_up = min(self.warm_up, n_updates // 2)
        return Schedule(n_updates, batch_size, self.learning_rate, warm_up, self.max_norm, self.patience)

    def bar(self, what: str) -> str:
        return f"{type(self).__name__} {what}" if self.verbose else ""

    def split(self, data: Sequences, generator: torch.Generator) -> tuple[Sequences, Sequences | None]:
        """Training pieces, and validation pieces where there are enough to spare some."""
        pieces = data if self.max_length is None else data.segments(self.max_length)
        held = int(self.validation * len(pieces))
        if held == 0:
            return pieces, None
        order = torch.randperm(len(pieces), generator=generator)
        return pieces.subset(order[held:].sort().values), pieces.subset(order[:held].sort().values)

    def identity(self, data: Sequences) -> dict[str, dict[str, Any]]:
        """What a checkpoint must agree in."""
        arguments = self.get_params(deep=False) | {"core": cores.digest(self.core)}
        arguments.pop("verbose")
        return identity_of(type(self).__name__, arguments, data)


def flattened(data: Sequences) -> Sequences:
    """The same data set with every frame one vector (D,)."""
    return data.replace(x=data.x.flatten(1), observed=data.observed.flatten(1))
