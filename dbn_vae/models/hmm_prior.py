"""A hidden Markov model as the prior of z, a static core at every step; how z is inferred is left open.

    p(s, z, x) = π(s_1) Π A(s_{t-1}, s_t) · Π N(z_t; μ_{s_t}, Σ_{s_t}) · Π p_θ(x_t | z_t)

Σ_k is diagonal, any matrix, or one matrix for all states.  With offsets b_k a state also says something of x itself,

    p(x_t | z_t, s_t = k),   the decoder's outputs (natural parameters) at z_t, plus b_k,

so that z is left with what varies within a state; where the decoder is silent this is the HMM whose emissions b are.
Then log p(x | z) = FWD(π, A, log p(z_t | k) + log p(x_t | z_t, k)) − FWD(π, A, log p(z_t | k)).
"""

from abc import abstractmethod
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from dbn_vae.aevb import AEVB, ElboTerms
from dbn_vae.distributions import normal, sample
from dbn_vae.inference import Chain
from dbn_vae.models.base import Generator, LatentModel, Later, Particles, Proposal, StateModel, inputs_at
from dbn_vae.models.chains import ages_of, chain_under, sample_chain, sum_out_states, verbs_of
from dbn_vae.models.gaussians import Gaussian, chosen, dense, draw, log_density, packed, unpacked
from dbn_vae.models.particles import Belief, belief_in, drawn_ahead, known_states, later_with_states
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition


class HMMPrior(StateModel, LatentModel):
    """The generative model; how z is inferred is left open.

    Args:
        core: the static AEVB.
        transition: the chain over K states, Markov or semi-Markov.
        mean: (K, Z) of the components p(z_t | s_t = k).
        variance: theirs (K, Z), or matrices (K, Z, Z), or the one matrix (1, Z, Z) that all states share.
        offset: b (K, P) of the decoder's P outputs; None: p(x | z) is the same in all states.
    """

    def __init__(
        self,
        core: AEVB,
        transition: Transition,
        mean: Tensor,
        variance: Tensor,
        offset: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.core, self.transition = core, transition
        self.n_components = transition.n_components
        self.mean = nn.Parameter(mean.clone())
        self.offset = None if offset is None else nn.Parameter(offset.clone())
        self.diagonal = variance.dim() == 2
        if self.diagonal:
            self.log_scale = nn.Parameter(0.5 * variance.log())
        else:
            self.factor = nn.Parameter(packed(torch.linalg.cholesky(variance)))

    @property
    def verbs(self) -> ModuleType:  # type: ignore[override]
        return verbs_of(self.transition)

    @property
    def n_ages(self) -> int:  # type: ignore[override]
        return ages_of(self.transition)

    def log_parameter_prior(self) -> Tensor:
        return self.transition.log_prior()

    @abstractmethod
    def state_potential(self, batch: Batch) -> Tensor:
        """What x_t says of s_t, latents integrated out: (B, T, K)."""

    def components(self) -> Gaussian:
        """p(z_t | s_t = k): (K, Z)."""
        if self.diagonal:
            return normal(self.mean, self.log_scale.exp())
        return dense(self.mean, unpacked(self.factor))

    @torch.no_grad()
    def set_components(self, mean: Tensor, covariance: Tensor, which: Tensor | None = None) -> None:
        """Take over (K, Z) and (K, Z, Z), of all states or of some (K,): of diagonal components the variances, of tied
        ones the mean matrix."""
        which = torch.ones(self.n_components, dtype=torch.bool) if which is None else which
        self.mean[which] = mean[which]
        if self.diagonal:
            self.log_scale[which] = 0.5 * covariance[which].diagonal(dim1=-2, dim2=-1).log()
        elif len(self.factor) == 1:
            self.factor.copy_(packed(torch.linalg.cholesky(covariance[which].mean(0, True))))
        else:
            self.factor[which] = packed(torch.linalg.cholesky(covariance[which]))

    def chain(self, batch: Batch) -> Chain:
        return self.chain_of(self.state_potential(batch), batch)

    def chain_of(self, potential: Tensor, batch: Batch) -> Chain:
        return chain_under(self.transition, potential, batch)

    def bound_of(self, batch: Batch, guess: Tensor, fit: Tensor, cost: Tensor) -> ElboTerms:
        """The bound of q(s) Π q(z_t | s_t), q(s) the chain (π, A, guess):

            L = log Z + Σ_t Σ_k γ_t(k) { fit_t(k) − cost_t(k) − guess_t(k) }

        Any guess gives a bound, the best is fit − cost itself; but it must not have seen the samples in `fit`: a chain
        that can choose the states whose samples were lucky gives no bound.  Gradients hold q(s) as it is.

        Args:
            fit: E_q(z_t | s_t = k) log p(x_t | z_t, k), or an unbiased estimate of it: (B, T, K).
            cost: KL(q(z_t | s_t = k) ‖ p(z_t | s_t = k)): (B, T, K).
        """
        chain = self.chain_of(guess.detach(), batch)
        with torch.no_grad():
            gamma = self.verbs.smooth(chain).gamma
        expected, above = ((gamma * v).sum((-2, -1)) for v in (fit, cost + guess.detach()))
        return ElboTerms(expected, above - self.verbs.log_partition(chain))

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        """FWD(π, A, log N(z_t; μ_k, Σ_k)): (S, B, T, Z) to (S, B)."""
        potential = log_density(z[..., None, :], self.components())
        return sum_out_states(self.transition, potential, batch)

    def log_likelihoods(self, x: Tensor, observed: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | z_t, s_t = k): (..., Z) to (..., K), or to (..., 1) where it is the same in all states."""
        if self.offset is None:
            return self.core.log_likelihood(x, observed, z)[..., None]
        return self.core.log_likelihood(x[..., None, :], observed[..., None, :], z[..., None, :], self.offset)

    def log_joints(self, x: Tensor, observed: Tensor, z: Tensor) -> Tensor:
        """log p(x_t, z_t | s_t = k): (..., Z) to (..., K)."""
        return log_density(z[..., None, :], self.components()) + self.log_likelihoods(x, observed, z)

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x_{1:T} | z_{1:T}), states summed out: (S, B, T, Z) to (S, B)."""
        if self.offset is None:
            return super().log_likelihood(batch, z)
        joint = self.log_joints(batch.x, batch.observed, z)
        return sum_out_states(self.transition, joint, batch) - self.log_prior(batch, z)

    @abstractmethod
    def propose(self, batch: Batch, generator: Generator) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """Of t and log p(s_t = k | z_{1:t-1}) (S, B, K): z_t ~ q (S, B, Z) and log q (S, B)."""

    def belief(self) -> Belief:
        return belief_in(self.transition)

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Proposal:
        """A particle carries z_t, which given the states the next one forgets, and p(s_t | z_{1:t})."""
        states, known = self.belief(), known_states(batch, self.n_components)
        propose = self.propose(batch, generator)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            if t:
                belief = states.predict(state[1], state[0], inputs_at(batch, t))
            else:
                belief = states.begin(n_samples, batch)
            z, log_q = propose(t, states.states(belief) + known[:, t])
            seen = self.log_joints(batch.x[:, t], batch.observed[:, t], z)
            log_p, belief = states.update(belief, known[:, t] + seen)
            return (z, belief), log_p - log_q

        return Proposal(advance)

    def ahead(self, state: Particles, inputs: Tensor | None, generator: Generator) -> Particles:
        states = self.belief()
        belief = states.predict(state[1], state[0], inputs)
        return drawn_ahead(states, belief, self.components(), generator, keep=self.offset is not None)

    def later(self, batch: Batch) -> Later:
        def log_p(t: int, z: Tensor, then: Tensor) -> Tensor:
            return self.log_joints(batch.x[:, t + 1], batch.observed[:, t + 1], then)

        return later_with_states(self.belief(), batch, log_p)

    def offset_of(self, states: Tensor) -> Tensor | None:
        """b of states (...): (..., P)."""
        return None if self.offset is None else self.offset[states]

    def offsets_along(self, batch: Batch, z: Tensor, generator: Generator) -> Tensor | None:
        """Of states drawn given x and z."""
        if self.offset is None:
            return None
        joint = self.log_joints(batch.x, batch.observed, z)
        drawn = [self.verbs.sample(self.chain_of(each, batch), 1, generator)[0] for each in joint]
        return self.offset_of(torch.stack(drawn).clamp_min(0))

    def offsets_at(self, state: Particles) -> Tensor | None:
        return self.offset_of(self.belief().states(state[1]).argmax(-1))

    def reconstruct(self, batch: Batch) -> Tensor:
        """E p(x_t | z_t, s_t) at the latents, over the states given x: (B, T, D), missing entries filled in."""
        if self.offset is None:
            return super().reconstruct(batch)
        z, gamma, total = self.latents(batch), self.smooth(batch).gamma, torch.zeros_like(batch.x)
        for p, offset in zip(
            gamma.unbind(-1), self.offset, strict=True
        ):  # one at a time: frames may be pictures
            total = total + p[..., None] * self.core.mean(z, offset)
        return total

    @torch.no_grad()
    def sample(
        self, n_steps: int, generator: Generator = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D), states (T,) and z (T, Z) of a new sequence, under inputs (T, U) where the chain reads them."""
        states = sample_chain(self.transition, n_steps, generator, inputs).to(self.mean.device)
        z = draw(chosen(self.components(), states[:, None]), generator).squeeze(-2)
        return sample(self.core.decode(z, self.offset_of(states)), generator), states, z
