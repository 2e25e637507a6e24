"""The classical hidden Markov model, λ = (A, B, π).

    p(s, x) = π(s_1) Π_t A(s_{t-1}, s_t) Π_t p(x_t | s_t)

Source: Rabiner (1989).  Labels are evidence: a step labelled j has potential −inf in every other state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dbn_vae.distributions import at
from dbn_vae.emissions.base import Emission
from dbn_vae.inference import Chain, Potential
from dbn_vae.models.base import Generator, StateModel
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions.base import Transition


class HMM(StateModel):
    """A transition and an emission over the same K states."""

    def __init__(self, transition: Transition, emission: Emission) -> None:
        super().__init__()
        if transition.n_components != emission.n_components:
            raise ValueError(
                f"transition has {transition.n_components} states, emission {emission.n_components}"
            )
        self.n_components = transition.n_components
        self.transition, self.emission = transition, emission

    def frames(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x and observed as the emission reads them: (B, T, D + n_context)."""
        return self.emission.with_context(batch.x, batch.observed, batch.inputs)

    def potential(self, batch: Batch) -> Potential:
        """log p(x_t | s_t = k): (B, T, K), or a form of it where nothing needs it written out."""
        written_out = torch.is_grad_enabled() or batch.labels is not None or batch.step_weights is not None
        ask = self.emission.log_prob if written_out else self.emission.potential
        return ask(*self.frames(batch))

    def chain(self, batch: Batch) -> Chain:
        return state_chain(self.transition, self.potential(batch), batch)

    def tables(self, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log π (..., M) and log A (..., M, M) of what a step forward depends on, M = K · n_ages: here the state.

        inputs: (B, T, U), where the transition reads some.
        """
        return self.transition.log_initial(inputs), self.transition.log_transition(inputs)

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        """The exact log-likelihood; β and the generator have nothing to act on."""
        return self.verbs.log_partition(self.chain(batch))

    def log_parameter_prior(self) -> Tensor:
        return self.transition.log_prior() + self.emission.log_prior()

    @torch.no_grad()
    def sample(
        self,
        n_steps: int,
        generator: Generator = None,
        inputs: Tensor | None = None,
        first: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x (T, D) and states (T,) of a new sequence, under inputs (T, U) where a part of the model reads them.

        first: the state of the first step, drawn from π unless given.
        """
        states = sample_states(self.transition, n_steps, generator, first, inputs)
        return self.emission.sample(states, generator, inputs), states


def frames(model: HMM, data: Sequences) -> tuple[Tensor, Tensor]:
    """x and observed of all frames in their order, as the emission reads them: (N, D + n_context)."""
    if model.emission.n_context == 0:
        return data.x, data.observed
    width = model.emission.n_features + model.emission.n_context
    x, observed = data.x.new_zeros(data.n_frames, width), data.observed.new_zeros(data.n_frames, width)
    for batch in data.batches():
        for values, out in zip(model.frames(batch), (x, observed), strict=True):
            data.unbatch(batch, values, out)
    return x, observed


def state_chain(transition: Transition, potential: Potential, batch: Batch) -> Chain:
    """A learned chain under potentials (B, T, K) and the batch's labels, which need them written out."""
    return Chain(
        transition.log_initial(batch.inputs),
        transition.log_transition(batch.inputs),
        labelled(potential, batch) if isinstance(potential, Tensor) else potential,
        batch.lengths,
    )


def labelled(log_emission: Tensor, batch: Batch) -> Tensor:
    """The potentials with the batch's other evidence: w_t l_t(k) where steps have weights, and what is known of s_t.

    A known label forbids every other state; a soft one adds log p(evidence | s_t = k).
    Raises ValueError for labels that do not fit the states.
    """
    if batch.step_weights is not None:
        w = batch.step_weights[..., None]
        log_emission = torch.where(w > 0, w * log_emission, 0.0)  # 0 · −inf is NaN
    if batch.labels is None:
        return log_emission
    K = log_emission.shape[-1]
    require_labels(batch.labels, K)
    if batch.labels.is_floating_point():
        return log_emission + batch.labels
    known = batch.labels >= 0
    other = F.one_hot(batch.labels.clamp_min(0), K) == 0
    return log_emission.masked_fill(known[..., None] & other, -math.inf)


def require_labels(labels: Tensor, n_components: int) -> None:
    """Raise ValueError for a label that names no state, and for soft labels of another number of states."""
    if labels.is_floating_point():
        if labels.shape[-1] != n_components:
            raise ValueError(
                f"labels have {labels.shape[-1]} numbers a frame, but n_components is {n_components}; soft labels "
                "have one a state, known states are one whole number a frame"
            )
    elif int(labels.max()) >= n_components:
        raise ValueError(f"labels name state {int(labels.max())}, but n_components is {n_components}")


def sample_states(
    transition: Transition,
    n_steps: int,
    generator: Generator,
    first: int | None = None,
    inputs: Tensor | None = None,
) -> Tensor:
    """A path of the chain alone: (T,) int64, from a given state or from π, under inputs (T, U) if it reads any.

    Raises ValueError where the inputs are not n_steps long.
    """
    if inputs is not None and len(inputs) != n_steps:
        raise ValueError(f"inputs has {len(inputs)} rows; a path of n_steps={n_steps} needs one a step")
    u = None if inputs is None else inputs[None]
    K = transition.n_components
    start = at(transition.log_initial(u).exp(), generator).view(K)
    moves = at(transition.log_transition(u).exp(), generator)
    tables = moves[0] if moves.dim() == 4 else moves  # one a move, or the same for all
    path = [int(torch.multinomial(start, 1, generator=generator)) if first is None else first]
    for table in tables.expand(n_steps - 1, K, K):
        path.append(int(torch.multinomial(table[path[-1]], 1, generator=generator)))
    return torch.tensor(path)
