"""One run of gradient ascent on a bound: its schedule, the looks at held-out data, what is kept, and when it ends.

    step size    rises over 20 updates, then falls to 0 as a cosine
    β            rises from 0.01 to 1 in warm_up updates; only then is what is ascended a bound
    a look       every twentieth of the run, but not within ten updates of another: the bound of the validation
                 sequences, always with the same noise
    the end      after n_updates, or `patience` looks at β = 1 without a better bound; the best look is kept

A run is an object that can be left and taken up again: between two updates its model, optimizer, generator and the
few numbers of `facts` and `tensors` are everything it knows.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dbn_vae.evaluation.likelihood import iwae
from dbn_vae.models.base import LatentModel
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training.sgvb import Objective, Place, ascend, own_objective, ramp

Bonus = Callable[[Batch, torch.Generator | None], Tensor]

LOOKS = 20  # a run
SHORTEST = 10  # updates between two looks, each of which costs about as much as some of them


class Limited(NamedTuple):
    """Parameters, and what their step size must not exceed."""

    parameters: Iterable[Tensor]
    step_size: float


class Curve(NamedTuple):
    """What was seen at one look at the validation sequences."""

    update: int
    train: float  # objective per frame, averaged since the last look
    validation: float  # bound per frame
    gradient_norm: float = math.nan  # before clipping, averaged since the last look


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and what weighs when; see the module."""

    n_updates: int
    batch_size: int
    learning_rate: float
    warm_up: int
    max_norm: float
    patience: int | None = None
    weight_decay: float = 0.0  # λ of the ½ λ |θ|² that a frame's objective is less

    @property
    def look_every(self) -> int:
        return max(self.n_updates // LOOKS, SHORTEST)

    @property
    def probe_until(self) -> int:
        """A tenth of the run, or the first look of a short one."""
        return self.look_every * max(self.n_updates // (10 * self.look_every), 1)

    def looks_after(self, update: int) -> bool:
        """Whether this update, one of 1 to n_updates, ends with a look."""
        return update % self.look_every == 0 or update == self.n_updates

    def rate(self, update: int) -> float:
        """Step size of an update; the first is 0."""
        falling = 0.5 * (1 + math.cos(math.pi * update / self.n_updates))
        return self.learning_rate * (min(1.0, (update + 1) / 20) * falling)


class Ascent:
    """A run of Adam on a model's parameters, those that are not frozen.

    Args:
        validation: sequences whose bound chooses the best parameters; without them the last are kept.
        objective: what to ascend; the model's own unless given.
        bonus: of a batch and a generator, or None for its exact value, what is ascended beside it (B,); that of the
            validation is added to its bound.
        rescue: asked at every look of the first half; mends the model and says of how many states.
        limited: parameters, and what their step size must not exceed.
        name: of the progress bar; none is shown without it.
    """

    def __init__(
        self,
        model: LatentModel,
        train: Sequences,
        validation: Sequences | None,
        schedule: Schedule,
        generator: torch.Generator,
        *,
        objective: Objective | None = None,
        bonus: Bonus | None = None,
        rescue: Callable[[], int] | None = None,
        limited: Limited | None = None,
        name: str = "",
    ) -> None:
        self.model, self.train, self.validation = model, train, validation
        self.schedule, self.generator = schedule, generator
        self.bonus, self.rescue, self.name = bonus, rescue, name
        own = objective or own_objective(model)
        self.objective = (
            own if bonus is None else lambda batch, beta, g: own(batch, beta, g) + bonus(batch, g)
        )
        held = set() if limited is None else {id(p) for p in limited.parameters}
        free = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [p for p in free if id(p) not in held], "share": 1.0}]
        if limited is not None:
            whole = schedule.learning_rate <= limited.step_size
            share = 1.0 if whole else limited.step_size / schedule.learning_rate
            groups.append({"params": [p for p in free if id(p) in held], "share": share})
        self.optimizer = torch.optim.Adam(
            groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        self.place, self.keeper = Place(), Keeper(model)
        self.curve: list[Curve] = []
        self.recent: list[tuple[float, float]] = []  # objective and gradient norm since the last look
        self.clipped = 0  # updates whose gradient was
        self.rescued = 0  # states, each time it was
        self.probes: list[float] = []  # bounds of the starts this one was chosen from

    def run(self, until: int | None = None, after: Callable[["Ascent", bool], None] | None = None) -> None:
        """Go on to an update, the last one unless given; after each, `after` is told whether it ended with a look."""
        plan = self.schedule
        last = plan.n_updates if until is None else min(until, plan.n_updates)
        steps = ascend(
            self.model,
            self.train,
            self.optimizer,
            batch_size=min(plan.batch_size, len(self.train)),
            generator=self.generator,
            beta=ramp(plan.warm_up),
            objective=self.objective,
            max_norm=plan.max_norm,
            place=self.place,
        )
        with tqdm(
            total=last, initial=self.place.update, desc=self.name, disable=not self.name, leave=False
        ) as bar:
            while self.place.update < last and not self.exhausted():
                for group in self.optimizer.param_groups:  # a file of a run brings back the shares as well
                    group["lr"] = group["share"] * plan.rate(self.place.update)
                step = next(steps)
                self.recent.append((step.objective, step.gradient_norm))
                self.clipped += step.gradient_norm > plan.max_norm
                bar.update()
                looks = plan.looks_after(step.update)
                if looks:
                    self.look()
                    bar.set_postfix(nats_per_frame=f"{self.curve[-1].train:.3f}")
                if after is not None:
                    after(self, looks)

    def look(self) -> None:
        """One more point of the curve; the best parameters are kept, and what died is mended in the first half."""
        update = self.place.update
        train, norm = np.mean(self.recent, 0).tolist()
        self.recent = []
        bound = train
        if self.validation is not None:
            fixed = torch.Generator().manual_seed(0)  # the same noise at every look: looks are comparable
            bound = iwae(self.model, self.validation, fixed, 8).per_frame
            if self.bonus is not None:
                bound += total(self.bonus, self.validation) / self.validation.n_frames
            if update >= self.schedule.warm_up:
                self.keeper.offer(bound, update)
        self.curve.append(Curve(update, train, bound, norm))
        if self.rescue is not None and 2 * update <= self.schedule.n_updates:
            self.rescued += self.rescue()

    def exhausted(self) -> bool:
        """Whether too many looks went by without a better bound."""
        if self.schedule.patience is None or self.keeper.parameters is None:
            return False
        return sum(c.update > self.keeper.update for c in self.curve) >= self.schedule.patience

    def keep_best(self) -> None:
        """Leave the best parameters seen in the model."""
        self.keeper.restore()

    # -- to be left and taken up again

    def facts(self) -> dict[str, Any]:
        """What a run knows beside its tensors, as JSON."""
        return {
            "update": self.place.update,
            "epoch": self.place.epoch,
            "curve": [list(c) for c in self.curve],
            "recent": self.recent,
            "clipped": self.clipped,
            "rescued": self.rescued,
            "probes": self.probes,
            "best": [self.keeper.value, self.keeper.update],
        }

    def tensors(self) -> dict[str, Tensor]:
        """The sequences left of this epoch and the best parameters."""
        best = self.keeper.parameters or {}
        return {"left": self.place.left} | {f"best.{k}": v for k, v in best.items()}

    def put_back(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The reverse of facts and tensors."""
        self.place = Place(facts["update"], facts["epoch"], tensors["left"])
        self.curve = [Curve(*c) for c in facts["curve"]]
        self.recent = [(a, b) for a, b in facts["recent"]]
        self.clipped, self.rescued, self.probes = facts["clipped"], facts["rescued"], facts["probes"]
        self.keeper.value, self.keeper.update = facts["best"]
        best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.keeper.parameters = best or None


@torch.no_grad()
def total(bonus: Bonus, data: Sequences) -> float:
    """Of all sequences together."""
    return sum(float(bonus(batch, None).sum()) for batch in data.batches(2**14))


class Keeper:
    """The best parameters offered so far."""

    def __init__(self, model: LatentModel) -> None:
        self.model = model
        self.value = -math.inf
        self.update = 0
        self.parameters: dict[str, Tensor] | None = None

    def offer(self, value: float, update: int) -> None:
        if value > self.value:
            self.value, self.update = value, update
            self.parameters = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def restore(self) -> None:
        if self.parameters is not None:
            self.model.load_state_dict(self.parameters)
