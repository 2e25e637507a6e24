"""Stochastic gradient variational Bayes: the one gradient loop.

    L(θ, φ; X) ≃ (N / M) Σ_{b in minibatch} L_b(θ, φ) + log p(θ)          (Kingma and Welling 2014, eq. 8)

divided by the number of frames, so that a learning rate means the same on every data set.  The factor N / M is
what makes a prior on the parameters weigh the same whatever the batch size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.models.base import LatentModel, Model
from dbn_vae.sequences import Batch, Sequences

Objective = Callable[[Batch, float, torch.Generator], Tensor]


class AscentStep(NamedTuple):
    """What one update saw."""

    update: int  # 1 after the first
    epoch: int
    objective: float  # this minibatch's objective per frame, in nats
    beta: float
    gradient_norm: float  # before clipping


@dataclass
class Place:
    """Where a run is: with its model, optimizer and generator, all that it takes to go on to the same numbers."""

    update: int = 0  # made so far
    epoch: int = 0
    left: Tensor = field(
        default_factory=lambda: torch.empty(0, dtype=torch.int64)
    )  # of this epoch, in their order

    def deal(self, n_sequences: int, size: int, generator: torch.Generator) -> Tensor:
        """The sequences of the next minibatch; where none is left, a new epoch shuffles them all."""
        if len(self.left) == 0:
            self.left = torch.randperm(n_sequences, generator=generator)
            self.epoch += self.update > 0
        dealt, self.left = self.left[:size], self.left[size:]
        return dealt


def ascend(
    model: Model,
    data: Sequences,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    generator: torch.Generator,
    beta: Callable[[int], float] = lambda update: 1.0,
    objective: Objective | None = None,
    augment: Callable[[Batch, torch.Generator], Batch] | None = None,
    max_norm: float = 10.0,
    place: Place | None = None,
) -> Iterator[AscentStep]:
    """One update of every parameter the optimizer holds for each step the caller asks.

    Args:
        beta: weight of the KL at an update; only at 1 is the objective a bound.
        objective: (batch, β, generator) to (B,); the model's own unless given, see estimator_a.
        augment: applied to each minibatch, resampled binarisation for one.
        max_norm: the gradient's norm is clipped there.
        place: where to go on from, kept up to date from there on; the beginning without it.

    Raises FloatingPointError when the objective or its gradient is no longer finite, naming the update; the parameters
    are then those before it.
    """
    objective = objective or own_objective(model)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    place = place or Place()
    while True:
        batch = data.batch(place.deal(len(data), batch_size, generator).to(data.x.device))
        if augment is not None:
            batch = augment(batch, generator)
        weight_of_kl = beta(place.update)
        values = objective(batch, weight_of_kl, generator) * batch.weights
        scaled = values.sum() * len(data) / len(values) + model.log_parameter_prior()
        loss = -scaled / data.n_frames
        require_finite("objective", -loss.item(), place)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip(parameters, max_norm)
        require_finite("norm of the gradient", norm, place)
        optimizer.step()
        place.update += 1
        per_frame = float(values.detach().sum() / batch.lengths.sum())
        yield AscentStep(place.update, place.epoch, per_frame, weight_of_kl, norm)


def clip(parameters: list[Tensor], max_norm: float) -> float:
    """Scale gradients to at most this norm, all together; returns the norm before.

    A recurrence that explodes may have gradients whose squares overflow float32: their norm is then that of float64, so
    that they too are scaled and lead back, where an infinite norm would make them 0.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.isinf():
        norm = torch.nn.utils.get_total_norm([g.double() for g in gradients])
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def require_finite(what: str, value: float, place: Place) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the {what} is {value} at update {place.update}; lower the learning rate, or look for extreme values in X"
        )


def own_objective(model: Model) -> Objective:
    """What the model itself says to ascend."""
    return lambda batch, beta, generator: model.objective(batch, beta=beta, generator=generator)


def estimator_a(model: LatentModel, n_samples: int = 1) -> Objective:
    """SGVB estimator A, log p(x, z) − log q(z | x) (Kingma and Welling 2014, eq. 6).

    Raises TypeError for a model whose q draws states: its sampled bound has no pathwise gradient.
    """
    if not model.reparameterized:
        raise TypeError(f"{type(model).__name__} draws states; ascend its own objective instead")
    return lambda batch, beta, g: model.elbo_sampled(batch, n_samples, g).weighted(beta)


def estimator_b(model: LatentModel, n_samples: int = 1) -> Objective:
    """SGVB estimator B, the KL analytic where it can be (Kingma and Welling 2014, eq. 7)."""
    return lambda batch, beta, g: model.elbo(batch, n_samples, g).weighted(beta)


def ramp(n_updates: int, start: float = 0.01) -> Callable[[int], float]:
    """β from start to 1 in n_updates, then 1: by updates, since epochs mean nothing across data sets."""
    return lambda update: 1.0 if update >= n_updates else start + (1 - start) * update / n_updates
