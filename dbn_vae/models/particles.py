"""Discrete states carried along paths of z as exact probabilities (Rao-Blackwellised)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dbn_vae.inference import logsumexp
from dbn_vae.models.hmm import labelled
from dbn_vae.nn import beside
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.semi_markov import SemiMarkov


def known_states(batch: Batch, n_components: int) -> Tensor:
    """0 for the states a step's label allows, −inf for others: (B, T, K)."""
    return labelled(batch.x.new_zeros(*batch.x.shape[:2], n_components), batch)


class Belief(ABC):
    """What z_{1:t} say of the chain at t, as log-probabilities (S, B, K, ...), one step at a time."""

    @abstractmethod
    def begin(self, n_samples: int) -> Tensor:
        """Before z_1 is known."""

    @abstractmethod
    def predict(self, t: int, belief: Tensor, z: Tensor) -> Tensor:
        """From what z_{1:t-1} say at t − 1 to what they say at t; z is z_{t-1} (S, B, Z)."""

    @abstractmethod
    def states(self, belief: Tensor) -> Tensor:
        """log p(s_t = k): (S, B, K)."""

    def update(self, belief: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """Given log p(z_t | s_t = k) (S, B, K): log p(z_t | z_{1:t-1}) (S, B), and what z_{1:t} say.

        Where no state is possible the latter stays −inf: weights are 0 from there on, and no NaN.
        """
        joint = belief + log_p.view(*log_p.shape, *[1] * (belief.dim() - log_p.dim()))
        total = logsumexp(self.states(joint), -1)
        shift = torch.where(total == -torch.inf, 0.0, total)
        return total, joint - shift.view(*shift.shape, *[1] * (joint.dim() - shift.dim()))


class ChainBelief(Belief):
    """p(s_t | z_{1:t}) of a Markov chain: (S, B, K)."""

    def __init__(self, transition: Transition, batch: Batch) -> None:
        self.first, self.A = transition.log_initial(batch.inputs), transition.log_transition(batch.inputs)
        self.n_sequences = len(batch.x)

    def begin(self, n_samples: int) -> Tensor:
        return self.first.expand(n_samples, self.n_sequences, -1)

    def predict(self, t: int, belief: Tensor, z: Tensor) -> Tensor:
        A = self.A[:, t - 1] if self.A.dim() == 4 else self.A
        return logsumexp(belief[..., :, None] + A, -2)

    def states(self, belief: Tensor) -> Tensor:
        return belief


class RecurrentBelief(ChainBelief):
    """The same of a chain that z_{t-1} drives, beside the batch's inputs if there are any."""

    def __init__(self, transition: InputDriven, batch: Batch) -> None:
        self.transition, self.inputs, self.n_sequences = transition, batch.inputs, len(batch.x)
        nowhere = batch.x.new_zeros(len(batch.x), transition.n_inputs)
        if batch.inputs is not None:
            nowhere[:, -batch.inputs.shape[-1] :] = batch.inputs[:, 0]
        self.first = transition.first_under(nowhere)

    def predict(self, t: int, belief: Tensor, z: Tensor) -> Tensor:
        read = z if self.inputs is None else beside(z, self.inputs[:, t])
        return logsumexp(belief[..., :, None] + self.transition.moves_under(read), -2)


class StaysBelief(Belief):
    """p(s_t, stay begun at t − a + 1 | z_{1:t}), less the chance that a stay lasts as long: (S, B, K, D).

    See inference.durations for the recursion.
    """

    def __init__(self, transition: SemiMarkov, batch: Batch) -> None:
        self.first, self.A = transition.log_initial(), transition.log_transition()
        self.duration, self.survival = transition.durations.log_prob(), transition.durations.log_survival()
        self.n_sequences = len(batch.x)

    def begin(self, n_samples: int) -> Tensor:
        K, D = self.duration.shape
        older = self.first.new_full((n_samples, self.n_sequences, K, D - 1), -torch.inf)
        return torch.cat([self.first[:, None].expand(n_samples, self.n_sequences, K, 1), older], -1)

    def predict(self, t: int, belief: Tensor, z: Tensor) -> Tensor:
        ended = logsumexp(belief + self.duration, -1)
        begun = logsumexp(ended[..., :, None] + self.A, -2)
        return torch.cat([begun[..., None], belief[..., :-1]], -1)

    def states(self, belief: Tensor) -> Tensor:
        return logsumexp(belief + self.survival, -1)


def belief_in(transition: Transition, batch: Batch) -> Belief:
    if isinstance(transition, SemiMarkov):
        return StaysBelief(transition, batch)
    return ChainBelief(transition, batch)
