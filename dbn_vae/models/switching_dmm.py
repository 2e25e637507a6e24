"""The switching deep Markov model: a discrete state chooses how the continuous latent moves.

    p(s, z, x) = π(s_1) Π A(s_{t-1}, s_t) · Π p(z_t | z_{t-1}, s_t) · Π p_θ(x_t | z_t)
    L = E_{z~q} [ Σ_t log p(x_t | z_t) + H[q_t] + FWD(π, A, log p(z_t | z_{t-1}, s_t = k)) ]

The states are summed out exactly along each sampled path (Dong et al. 2020; Ansari et al. 2021).  q reuses the
prior: its prediction is the mixture over states given the path so far, matched by a Gaussian in its first
two moments.  With one state, or with equal transitions, this is the deep Markov model.
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.aevb import AEVB, ElboTerms, log_mean_exp
from dbn_vae.distributions import Conditional, draw, log_normal, normal, sample
from dbn_vae.inference import Chain, logsumexp
from dbn_vae.models.base import Advance, Generator, LatentModel, Later, Particles, StateModel
from dbn_vae.models.dmm import no_noise, noise_like
from dbn_vae.models.hmm import sample_states, state_chain, sum_out_states
from dbn_vae.models.particles import drawn_ahead, known_states, later_with_states, moves, update
from dbn_vae.models.recognition import Recognition
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition


class SwitchingDMM(StateModel, LatentModel):
    """A chain over K states and a move of z for each.

    Args:
        transition: the discrete chain over K states.
        moves: K conditionals p(z_t | z_{t-1}, s_t = k).
    """

    def __init__(
        self,
        core: AEVB,
        transition: Transition,
        moves: list[Conditional],
        recognition: Recognition,
    ) -> None:
        super().__init__()
        if len(moves) != transition.n_components:
            raise ValueError(f"{len(moves)} moves for {transition.n_components} states")
        self.core, self.transition, self.recognition = core, transition, recognition
        self.n_components = transition.n_components
        self.moves = nn.ModuleList(moves)
        self.initial_mean = nn.Parameter(torch.zeros(self.n_components, core.n_latent))
        self.initial_log_scale = nn.Parameter(torch.zeros(self.n_components, core.n_latent))

    @property
    def looks_ahead(self) -> bool:
        return self.recognition.looks_ahead

    def initial(self, like: Tensor) -> Normal:
        """p(z_1 | s_1 = k): (..., K, Z)."""
        shape = (*like.shape[:-1], *self.initial_mean.shape)
        return normal(self.initial_mean.expand(shape), self.initial_log_scale.exp().expand(shape))

    def move(self, z: Tensor) -> Normal:
        """p(z_t | z_{t-1}, s_t = k): (..., Z) to (..., K, Z)."""
        each = [move(z) for move in self.moves]
        return normal(torch.stack([p.mean for p in each], -2), torch.stack([p.scale for p in each], -2))

    def trajectory(self, batch: Batch, epsilon: Tensor) -> tuple[Tensor, Normal]:
        """A path z (S, B, T, Z) and the q(z_t | z_{t-1}, x) it came from; see DMM.trajectory."""
        context = self.recognition.context(self.core, batch)
        first = self.predictor(epsilon[:, :, 0], batch)
        return self.recognition.trajectory(first, batch, context, epsilon)

    def predictor(self, like: Tensor, batch: Batch) -> Callable[[Tensor | None], Normal]:
        """p(z_t | z_{1:t-1}), its mixture matched in two moments; each call takes the belief in s a step on."""
        move, steps = moves(self.transition, batch), count(1)
        predicted = self.transition.log_initial(batch.inputs).expand(*like.shape[:-1], -1)
        each = self.initial(like)

        def predict(z: Tensor | None) -> Normal:
            nonlocal predicted, each
            if z is not None:
                belief = (predicted + log_normal(z[..., None, :], each)).log_softmax(-1)
                predicted, each = logsumexp(belief[..., :, None] + move(next(steps)), -2), self.move(z)
            return match_moments(predicted.exp(), each)

        return predict

    def draw_path(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Normal]:
        return self.trajectory(batch, noise_like(self.core, batch, n_samples, generator))

    def state_potential(self, z: Tensor) -> Tensor:
        """log p(z_t | z_{t-1}, s_t = k) along a path: (S, B, T, Z) to (S, B, T, K)."""
        first = log_normal(z[..., :1, None, :], self.initial(z[..., :1, :]))
        later = log_normal(z[..., 1:, None, :], self.move(z[..., :-1, :]))
        return torch.cat([first, later], -2)

    def chain(self, batch: Batch) -> Chain:
        """The states along the central path: deterministic."""
        potential = self.state_potential(self.latents(batch)[None])[0]
        return state_chain(self.transition, potential, batch)

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        z, q = self.draw_path(batch, n_samples, generator)
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        return sum_out_states(self.transition, self.state_potential(z), batch)

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

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Advance:
        """The states are carried as p(s_t | z_{1:t}), exactly (Rao-Blackwell)."""
        context = self.recognition.context(self.core, batch)
        move, known = moves(self.transition, batch), known_states(batch, self.n_components)
        nowhere = batch.x.new_zeros(n_samples, len(batch.x), self.core.n_latent)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            if t:
                last, belief = state
                predicted, each = logsumexp(belief[..., :, None] + move(t), -2), self.move(last)
            else:
                last, each = nowhere, self.initial(nowhere)
                predicted = self.transition.log_initial(batch.inputs).expand(*last.shape[:-1], -1)
            q = self.recognition.step(match_moments(predicted.exp(), each), last, context[:, t])
            z = draw(normal(q.mean.expand_as(last), q.scale.expand_as(last)), generator)
            log_p, belief = update(predicted + known[:, t] + log_normal(z[..., None, :], each))
            return (z, belief), self.log_likelihood_at(batch, t, z) + log_p - log_normal(z, q)

        return advance

    def ahead(self, state: Particles, generator: Generator) -> Particles:
        return drawn_ahead(self.transition, state[1], self.move(state[0]), generator)

    def later(self, batch: Batch) -> Later:
        return later_with_states(self.transition, batch, self.move)

    @torch.no_grad()
    def sample(self, n_steps: int, generator: Generator = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D), states (T,) and z (T, Z) of a new sequence."""
        states = sample_states(self.transition, n_steps, generator)
        z = torch.zeros_like(self.initial_mean[0])
        path = []
        for t, k in enumerate(states):
            each = self.move(z) if t else self.initial(z)
            z = draw(normal(each.mean[k], each.scale[k]), generator)
            path.append(z)
        latent = torch.stack(path)
        return sample(self.core.decode(latent), generator), states, latent


def match_moments(weights: Tensor, each: Normal) -> Normal:
    """The Gaussian with the mean and variance of Σ_k w_k N(m_k, V_k): (..., K), (..., K, Z) to (..., Z)."""
    w = weights[..., None]
    mean = (w * each.mean).sum(-2)
    spread = each.mean - mean[..., None, :]
    return normal(mean, (w * (each.variance + spread.square())).sum(-2).sqrt())
