"""The switching deep Markov model: a discrete state chooses how the continuous latent moves.

    p(s, z, x) = π(s_1) Π A(s_{t-1}, s_t) · Π p(z_t | z_{t-1}, s_t) · Π p_θ(x_t | z_t)
    L = E_{z~q} [ Σ_t log p(x_t | z_t) + H[q_t] + FWD(π, A, log p(z_t | z_{t-1}, s_t = k)) ]

The states are summed out exactly along each sampled path (Dong et al. 2020; Ansari et al. 2021).  q reuses the
prior: its prediction is the mixture over states given the path so far, matched by a Gaussian in its first
two moments.  With one state, or with equal transitions, this is the deep Markov model.

`recurrent`: the states move by A(z_{t-1}) (Linderman et al. 2017).  Along a path that is one table for every step, and
FWD is as exact as before.
"""

from collections.abc import Callable
from itertools import count
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.aevb import AEVB, ElboTerms, log_mean_exp
from dbn_vae.distributions import Conditional, at, draw, log_normal, normal, sample
from dbn_vae.inference import Chain
from dbn_vae.models.base import Generator, LatentModel, Later, Particles, Proposal, StateModel, inputs_at
from dbn_vae.models.chains import ages_of, chain_under, sample_chain, sum_out_states, verbs_of
from dbn_vae.models.dmm import no_noise, noise_like
from dbn_vae.models.particles import (
    Belief,
    RecurrentBelief,
    belief_in,
    drawn_ahead,
    known_states,
    later_with_states,
)
from dbn_vae.models.recognition import Filtering, Recognition
from dbn_vae.models.smoothing import Smoothing
from dbn_vae.nn import beside
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.linear import Linear, together


class SwitchingDMM(StateModel, LatentModel):
    """A chain over K states and a move of z for each.

    Args:
        transition: the discrete chain over K states, Markov or semi-Markov.
        moves: K conditionals p(z_t | z_{t-1}, s_t = k).
        recurrent: the states move by A(z_{t-1}), a transition whose inputs are z_{t-1}, and after it the batch's.
    """

    def __init__(
        self,
        core: AEVB,
        transition: Transition,
        moves: list[Conditional],
        recognition: Recognition,
        recurrent: bool = False,
    ) -> None:
        super().__init__()
        self.recurrent = recurrent
        if len(moves) != transition.n_components:
            raise ValueError(f"{len(moves)} moves for {transition.n_components} states")
        if recurrent and not isinstance(transition, InputDriven):
            raise TypeError(
                f"recurrent=True with a transition of type {type(transition).__name__}; z drives an InputDriven one"
            )
        if isinstance(recognition, Smoothing):
            raise TypeError("Smoothing is for one Linear transition, not for moves that a state chooses")
        self.core, self.transition, self.recognition = core, transition, recognition
        self.n_components = transition.n_components
        self.moves = nn.ModuleList(moves)
        self.initial_mean = nn.Parameter(torch.zeros(self.n_components, core.n_latent))
        self.initial_log_scale = nn.Parameter(torch.zeros(self.n_components, core.n_latent))

    @property
    def verbs(self) -> ModuleType:  # type: ignore[override]
        return verbs_of(self.transition)

    @property
    def n_ages(self) -> int:  # type: ignore[override]
        return ages_of(self.transition)

    def log_parameter_prior(self) -> Tensor:
        return self.transition.log_prior()

    @property
    def looks_ahead(self) -> bool:
        return self.recognition.looks_ahead

    def initial(self, like: Tensor) -> Normal:
        """p(z_1 | s_1 = k): (..., K, Z)."""
        shape = (*like.shape[:-1], *self.initial_mean.shape)
        return normal(self.initial_mean.expand(shape), self.initial_log_scale.exp().expand(shape))

    def move(self, z: Tensor) -> Normal:
        """p(z_t | z_{t-1}, s_t = k): (..., Z) to (..., K, Z)."""
        return self.mover()(z)

    def mover(self) -> Callable[[Tensor], Normal]:
        """`move`, for many steps of one path: linear moves take each of them as one product."""
        linear = [move for move in self.moves if type(move) is Linear]
        return together(linear) if len(linear) == self.n_components else self.one_by_one

    def one_by_one(self, z: Tensor) -> Normal:
        each = [move(z) for move in self.moves]
        return normal(torch.stack([p.mean for p in each], -2), torch.stack([p.scale for p in each], -2))

    def trajectory(self, batch: Batch, epsilon: Tensor) -> tuple[Tensor, Normal]:
        """A path z (S, B, T, Z) and the q(z_t | z_{t-1}, x) it came from; see DMM.trajectory."""
        context = self.recognition.context(self.core, batch)
        first = self.predictor(epsilon[:, :, 0], batch)
        return self.recognition.trajectory(first, batch, context, epsilon)

    def predictor(self, like: Tensor, batch: Batch) -> Callable[[Tensor | None], Normal]:
        """p(z_t | z_{1:t-1}), its mixture matched in two moments; each call takes the belief in s a step on."""
        states, move, steps = self.belief(), self.mover(), count(1)
        belief, each = states.begin(len(like), batch), self.initial(like)

        def predict(z: Tensor | None) -> Normal:
            nonlocal belief, each
            if z is not None:
                _, belief = states.update(belief, log_normal(z[..., None, :], each))
                u = inputs_at(batch, next(steps))
                belief, each = states.predict(belief, z, u), move(z)
            return match_moments(states.states(belief).exp(), each)

        return predict

    def belief(self) -> Belief:
        return RecurrentBelief(self.transition) if self.recurrent else belief_in(self.transition)

    def driving(self, z: Tensor, inputs: Tensor | None) -> Tensor | None:
        """What drives the states: the inputs, after z_{t-1} (..., T, Z) if that does too; z_0 = 0."""
        if not self.recurrent:
            return inputs
        before = nn.functional.pad(z[..., :-1, :], (0, 0, 1, 0))
        return before if inputs is None else beside(before, inputs)

    def draw_path(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Normal]:
        return self.trajectory(batch, noise_like(self.core, batch, n_samples, generator))

    def state_potential(self, z: Tensor) -> Tensor:
        """log p(z_t | z_{t-1}, s_t = k) along a path: (S, B, T, Z) to (S, B, T, K)."""
        first = log_normal(z[..., :1, None, :], self.initial(z[..., :1, :]))
        later = log_normal(z[..., 1:, None, :], self.move(z[..., :-1, :]))
        return torch.cat([first, later], -2)

    def chain(self, batch: Batch) -> Chain:
        """The states along the central path: deterministic."""
        z = self.latents(batch)
        driven = batch._replace(inputs=self.driving(z, batch.inputs))
        return chain_under(self.transition, self.state_potential(z[None])[0], driven)

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        z, q = self.draw_path(batch, n_samples, generator)
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        inputs = self.driving(z, batch.inputs) if self.recurrent else None
        return sum_out_states(self.transition, self.state_potential(z), batch, inputs)

    def latents(self, batch: Batch) -> Tensor:
        return self.trajectory(batch, no_noise(self.core, batch))[0][0]

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        z, q = self.draw_path(batch, n_samples, generator)
        entropy = (q.entropy().sum(-1) * batch.mask).sum(-1)
        kl = -entropy - self.log_prior(batch, z)
        return ElboTerms(self.log_likelihood(batch, z).mean(0), kl.mean(0))

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        return self.elbo(batch, generator=generator).weighted(beta)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        return log_mean_exp(self.log_weights(batch, n_samples, generator))

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Proposal:
        """The states are carried as p(s_t | z_{1:t}), exactly (Rao-Blackwell)."""
        context = self.recognition.context(self.core, batch)
        states, move, known = self.belief(), self.mover(), known_states(batch, self.n_components)
        nowhere = batch.x.new_zeros(n_samples, len(batch.x), self.core.n_latent)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            if t:
                last, belief = state
                belief, each = states.predict(belief, last, inputs_at(batch, t)), move(last)
            else:
                last, belief, each = nowhere, states.begin(n_samples, batch), self.initial(nowhere)
            prediction = match_moments(states.states(belief).exp(), each)
            q = self.recognition.step(prediction, last, context[:, t])
            z = draw(normal(q.mean.expand_as(last), q.scale.expand_as(last)), generator)
            log_p, belief = states.update(belief, known[:, t] + log_normal(z[..., None, :], each))
            return (z, belief), self.log_likelihood_at(batch, t, z) + log_p - log_normal(z, q)

        if not isinstance(self.recognition, Filtering):
            return Proposal(advance)
        log_promise, told = self.recognition.log_promise, self.core.told(batch.observed)

        def promise(t: int, state: Particles) -> Tensor:
            z, belief = state
            belief = states.predict(belief, z, inputs_at(batch, t + 1))
            each = log_promise(move(z), context[:, t + 1, None])
            return torch.where(told, states.update(belief, known[:, t + 1] + each)[0], 0.0)

        return Proposal(advance, promise)

    def ahead(self, state: Particles, inputs: Tensor | None, generator: Generator) -> Particles:
        z, states = state[0], self.belief()
        return drawn_ahead(states, states.predict(state[1], z, inputs), self.move(z), generator)

    def later(self, batch: Batch) -> Later:
        move = self.mover()

        def log_p(t: int, z: Tensor, then: Tensor) -> Tensor:
            return log_normal(then[..., None, :], move(z))

        return later_with_states(self.belief(), batch, log_p)

    @torch.no_grad()
    def sample(
        self, n_steps: int, generator: Generator = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D), states (T,) and z (T, Z) of a new sequence, under inputs (T, U) where the chain reads them."""
        states: list[int] = []
        if not self.recurrent:  # the chain does not wait for z
            states = sample_chain(self.transition, n_steps, generator, inputs).tolist()
        z, path = torch.zeros_like(self.initial_mean[0]), []
        for t in range(n_steps):
            if self.recurrent:
                states.append(self.next_state(states, z, inputs, generator))
            each = self.move(z) if t else self.initial(z)
            z = draw(normal(each.mean[states[t]], each.scale[states[t]]), generator)
            path.append(z)
        latent = torch.stack(path)
        return sample(self.core.decode(latent), generator), torch.tensor(states), latent

    def next_state(self, visited: list[int], z: Tensor, inputs: Tensor | None, generator: Generator) -> int:
        """s_t of a sequence that has visited some states and is at z."""
        assert isinstance(self.transition, InputDriven)
        read = z if inputs is None else beside(z, inputs[len(visited)])
        if visited:
            log_p = self.transition.moves_under(read)[visited[-1]]
        else:
            log_p = self.transition.first_under(read)
        return int(torch.multinomial(at(log_p.exp(), generator), 1, generator=generator))


def match_moments(weights: Tensor, each: Normal) -> Normal:
    """The Gaussian with the mean and variance of Σ_k w_k N(m_k, V_k): (..., K), (..., K, Z) to (..., Z)."""
    w = weights[..., None]
    mean = (w * each.mean).sum(-2)
    spread = each.mean - mean[..., None, :]
    return normal(mean, (w * (each.variance + spread.square())).sum(-2).sqrt())
