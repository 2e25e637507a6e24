"""Discrete states carried along paths of z as exact probabilities (Rao-Blackwellised)."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical

from dbn_vae.distributions import sample
from dbn_vae.inference import logsumexp
from dbn_vae.models.base import Generator, Later, Particles
from dbn_vae.models.gaussians import Gaussian, chosen, draw, log_density
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


def drawn_ahead(transition: Transition, belief: Tensor, each: Gaussian, generator: Generator) -> Particles:
    """A step of the prior: s_{t+1}, then z_{t+1} from each p(z_{t+1} | z_t, s_{t+1} = k) (..., K, Z).

    The state drawn is known from there on: its log-probability is 0, that of the others −inf.
    """
    A = moves(transition)
    states = sample(Categorical(logits=logsumexp(belief[..., :, None] + A, -2)), generator).long()
    z = draw(chosen(each, states[..., None]), generator).squeeze(-2)
    here = torch.arange(belief.shape[-1], device=belief.device) == states[..., None]
    return z, torch.where(here, belief.new_zeros(()), -torch.inf)


def moves(transition: Transition) -> Tensor:
    """log A (K, K) of a chain that is the same at every step; raises NotImplementedError for another."""
    if isinstance(transition, SemiMarkov) or transition.n_inputs:
        raise NotImplementedError(
            f"states that move by a {type(transition).__name__} are not carried beyond or back from a frame"
        )
    return transition.log_transition()


def later_with_states(transition: Transition, batch: Batch, each: Callable[[Tensor], Gaussian]) -> Later:
    """log Σ_k A(j, k) p(z_{t+1} | z_t, s_{t+1} = k) p(z_{t+2:T} | z_{t+1}, s_{t+1} = k) of every j, see LatentModel.

    each: p(z_{t+1} | z_t, s_{t+1} = k) of z_t, (..., Z) to (..., K, Z).
    """
    A, known = moves(transition), known_states(batch, transition.n_components)

    def later(t: int, z: Tensor, then: Tensor, more: Tensor) -> Tensor:
        joint = log_density(then[..., None, :], each(z)) + more + known[:, t + 1]
        return logsumexp(joint[..., None, :] + A, -1)

    return later
