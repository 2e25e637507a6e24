"""Discrete states carried along paths of z as exact probabilities (Rao-Blackwellised)."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn.functional import pad

from dbn_vae.distributions import sample
from dbn_vae.inference import logsumexp
from dbn_vae.models.base import Generator, Later, Particles, inputs_at
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
    """What z_{1:t} say of the chain at t, as log-probabilities (S, B, K, ...), one step at a time.

    u is the input (B, U) of the step moved to, where the chain reads any.
    """

    reads_z: bool = False  # whether where the chain goes depends on z

    @abstractmethod
    def begin(self, n_samples: int, batch: Batch) -> Tensor:
        """Before z_1 is known."""

    @abstractmethod
    def predict(self, belief: Tensor, z: Tensor, u: Tensor | None) -> Tensor:
        """From what z_{1:t-1} say at t − 1 to what they say at t; z is z_{t-1} (S, B, Z)."""

    @abstractmethod
    def states(self, belief: Tensor) -> Tensor:
        """log p(s_t = k): (S, B, K)."""

    @property
    @abstractmethod
    def end(self) -> Tensor:
        """The message after the last frame, see Later: (K, ...)."""

    @abstractmethod
    def back(self, log_p: Tensor, more: Tensor, z: Tensor, u: Tensor | None) -> Tensor:
        """The message to t − 1, given log p(z_t | z_{t-1}, s_t = k) (..., K), that to t, and z_{t-1} (..., Z)."""

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

    def __init__(self, transition: Transition) -> None:
        self.transition = transition
        self.A = None if transition.n_inputs else transition.log_transition()

    def begin(self, n_samples: int, batch: Batch) -> Tensor:
        return self.transition.log_initial(batch.inputs).expand(n_samples, len(batch.x), -1)

    def moves(self, z: Tensor, u: Tensor | None) -> Tensor:
        """log A: (..., K, K)."""
        if self.A is not None:
            return self.A
        assert isinstance(self.transition, InputDriven) and u is not None
        return self.transition.moves_under(u)

    def predict(self, belief: Tensor, z: Tensor, u: Tensor | None) -> Tensor:
        return logsumexp(belief[..., :, None] + self.moves(z, u), -2)

    def states(self, belief: Tensor) -> Tensor:
        return belief

    @property
    def end(self) -> Tensor:
        return next(self.transition.parameters()).new_zeros(self.transition.n_components)

    def back(self, log_p: Tensor, more: Tensor, z: Tensor, u: Tensor | None) -> Tensor:
        return logsumexp((log_p + more)[..., None, :] + self.moves(z, u), -1)


class RecurrentBelief(ChainBelief):
    """The same of a chain that z_{t-1} drives, beside the batch's inputs if there are any."""

    reads_z = True

    def begin(self, n_samples: int, batch: Batch) -> Tensor:
        assert isinstance(self.transition, InputDriven)
        nowhere = batch.x.new_zeros(len(batch.x), self.transition.n_inputs)
        if batch.inputs is not None:
            nowhere[:, -batch.inputs.shape[-1] :] = batch.inputs[:, 0]
        return self.transition.first_under(nowhere).expand(n_samples, len(batch.x), -1)

    def moves(self, z: Tensor, u: Tensor | None) -> Tensor:
        assert isinstance(self.transition, InputDriven)
        return self.transition.moves_under(z if u is None else beside(z, u))


class StaysBelief(Belief):
    """p(s_t, stay begun at t − a + 1 | z_{1:t}), less the chance that a stay lasts as long: (S, B, K, D).

    See inference.durations for the recursion.  Messages in turn have that chance, S_k(a), in them:

        m_T(k, a) = S_k(a),   m_{t-1}(k, a) = p_k(a) Σ_j A_kj p(z_t | j) m_t(j, 1) + p(z_t | k) m_t(k, a + 1)
    """

    def __init__(self, transition: SemiMarkov) -> None:
        self.first, self.A = transition.log_initial(), transition.log_transition()
        self.duration, self.survival = transition.durations.log_prob(), transition.durations.log_survival()

    def begin(self, n_samples: int, batch: Batch) -> Tensor:
        K, D = self.duration.shape
        older = self.first.new_full((n_samples, len(batch.x), K, D - 1), -torch.inf)
        return torch.cat([self.first[:, None].expand(n_samples, len(batch.x), K, 1), older], -1)

    def predict(self, belief: Tensor, z: Tensor, u: Tensor | None) -> Tensor:
        ended = logsumexp(belief + self.duration, -1)
        begun = logsumexp(ended[..., :, None] + self.A, -2)
        return torch.cat([begun[..., None], belief[..., :-1]], -1)

    def states(self, belief: Tensor) -> Tensor:
        return logsumexp(belief + self.survival, -1)

    @property
    def end(self) -> Tensor:
        return self.survival

    def back(self, log_p: Tensor, more: Tensor, z: Tensor, u: Tensor | None) -> Tensor:
        anew = logsumexp((log_p + more[..., 0])[..., None, :] + self.A, -1)
        on = pad(log_p[..., None] + more[..., 1:], (0, 1), value=-torch.inf)
        return torch.logaddexp(anew[..., None] + self.duration, on)


def belief_in(transition: Transition) -> Belief:
    return StaysBelief(transition) if isinstance(transition, SemiMarkov) else ChainBelief(transition)


def drawn_ahead(
    states: Belief, belief: Tensor, each: Gaussian, generator: Generator, keep: bool = False
) -> Particles:
    """A step of the prior, given the belief predicted: z_{t+1} from Σ_k p(s_{t+1} = k) p(z_{t+1} | z_t, k).

    each: p(z_{t+1} | z_t, s_{t+1} = k), (..., K, Z).
    keep: the belief is that of the state drawn, for x to be drawn in it; otherwise states stay summed out.
    """
    drawn = sample(Categorical(logits=states.states(belief)), generator).long()
    z = draw(chosen(each, drawn[..., None]), generator).squeeze(-2)
    if keep:
        other = torch.arange(len(states.end), device=z.device) != drawn[..., None]
        return z, states.update(belief, belief.new_zeros(other.shape).masked_fill(other, -torch.inf))[1]
    return z, states.update(belief, log_density(z[..., None, :], each))[1]


def later_with_states(states: Belief, batch: Batch, log_p: Callable[[int, Tensor, Tensor], Tensor]) -> Later:
    """log_p: log p(z_{t+1}, x_{t+1} | z_t, s_{t+1} = k), up to a constant, of t, z_t and z_{t+1} (..., Z): (..., K)."""
    end = states.end
    known = known_states(batch, len(end))

    def step(t: int, z: Tensor, then: Tensor, more: Tensor) -> Tensor:
        seen = log_p(t, z, then) + known[:, t + 1]
        return states.back(seen, more, z, inputs_at(batch, t + 1))

    return Later(end, step)
