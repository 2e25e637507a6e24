"""The VAE-HMM: one static core unrolled in time, its prior a hidden Markov model with learned A.

    p(s, z, x) = π(s_1) Π A(s_{t-1}, s_t) · Π N(z_t; μ_{s_t}, diag V_{s_t}) · Π p_θ(x_t | z_t)

`VAEHMM` infers with the exact posterior under the encoder's evidence psi_t(z) = exp(h·z − ½ zᵀ J z):

    q(z_t | s_t = k) = N(m_tk, S_tk),   S = (1/V_k + J_t)⁻¹,   m = S (μ_k / V_k + h_t),
    log c_t(k) = log ∫ N(z; μ_k, V_k) psi_t(z) dz = ½ Σ_d ( S g² − μ²/V − log(1 + V J) ),   g = μ/V + h,

and q(s) is the chain (π, A, log c): states and latents inform each other.

Training uses that the model *is* an HMM whose emission density is an integral, p(x_t | s_t = k) =
∫ N(z; μ_k, V_k) p(x_t | z) dz.  With importance samples z_tks ~ N(m_tk, S_tk) inside every emission,

    L_S = E FWD(π, A, log (1/S) Σ_s p(x_t | z_tks) N(z_tks; μ_k, V_k) / N(z_tks; m_tk, S_tk))  ≤  log p(x),

by Jensen's inequality, since the product over t of unbiased independent estimates is unbiased.  L_1 is at least
the bound `elbo` (it has the best q(s) for its r_t(k)), and L_S tends to log p(x) at a rate that T does not spoil.

`MeanFieldVAEHMM` is the simpler relative, q(z) = Π q(z_t | x_t) from the evidence under N(0, I) and p(s | z) exact:
its elbo_sampled is the bound of Dong et al. (2020), its elbo replaces log N(z_t; μ_k, V_k) by −KL(q_t ‖ N(μ_k, V_k)).
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from dbn_vae import inference
from dbn_vae.aevb import AEVB, ElboTerms, log_mean_exp
from dbn_vae.distributions import (
    Evidence,
    draw,
    kl_normal,
    log_normal,
    noise,
    normal,
    posterior,
    sample,
    standard_normal,
)
from dbn_vae.inference import Chain
from dbn_vae.models.base import Advance, Generator, LatentModel, Particles, StateModel, real_frames
from dbn_vae.models.hmm import sample_states, state_chain, sum_out_states
from dbn_vae.models.particles import known_states, moves, update
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition

N_POINTS = 32  # of the integral over z when states are decoded


class HMMPrior(StateModel, LatentModel):
    """The generative model; how z is inferred is left open.

    Args:
        core: the static AEVB.
        transition: the chain over K states.
        mean, variance: (K, Z) of the components p(z_t | s_t = k).
    """

    def __init__(self, core: AEVB, transition: Transition, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.core, self.transition = core, transition
        self.n_components = transition.n_components
        self.mean = nn.Parameter(mean.clone())
        self.log_scale = nn.Parameter(0.5 * variance.log())

    @abstractmethod
    def state_potential(self, batch: Batch) -> Tensor:
        """What x_t says of s_t, latents integrated out: (B, T, K)."""

    def components(self) -> torch.distributions.Normal:
        """p(z_t | s_t = k): (K, Z)."""
        return normal(self.mean, self.log_scale.exp())

    def chain(self, batch: Batch) -> Chain:
        return self.chain_of(self.state_potential(batch), batch)

    def chain_of(self, potential: Tensor, batch: Batch) -> Chain:
        return state_chain(self.transition, potential, batch)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        """FWD(π, A, log N(z_t; μ_k, V_k)): (S, B, T, Z) to (S, B)."""
        potential = log_normal(z[..., None, :], self.components())
        return sum_out_states(self.transition, potential, batch)

    @abstractmethod
    def propose(self, batch: Batch, generator: Generator) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """Of t and log p(s_t = k | z_{1:t-1}) (S, B, K): z_t ~ q (S, B, Z) and log q (S, B)."""

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Advance:
        """A particle carries p(s_t | z_{1:t}) alone: given the states, z_t forgets z_{t-1}."""
        move, known = moves(self.transition, batch), known_states(batch, self.n_components)
        start = self.transition.log_initial(batch.inputs).expand(n_samples, len(batch.x), -1)
        propose = self.propose(batch, generator)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            predicted = inference.logsumexp(state[0][..., :, None] + move(t), -2) if t else start
            predicted = predicted + known[:, t]
            z, log_q = propose(t, predicted)
            log_p, belief = update(predicted + log_normal(z[..., None, :], self.components()))
            return (belief,), self.log_likelihood_at(batch, t, z) + log_p - log_q

        return advance

    @torch.no_grad()
    def sample(self, n_steps: int, generator: Generator = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D), states (T,) and z (T, Z) of a new sequence."""
        states = sample_states(self.transition, n_steps, generator)
        p = self.components()
        z = draw(normal(p.mean[states], p.scale[states]), generator)
        return sample(self.core.decode(z), generator), states, z


class VAEHMM(HMMPrior):
    """Inference by the exact posterior under the evidence."""

    reparameterized = False  # infer draws states

    def responses(self, evidence: Evidence) -> torch.distributions.Normal:
        """q(z_t | s_t = k) for every k: (B, T, K, Z)."""
        wide = Evidence(evidence.h[..., None, :], evidence.J[..., None, :])
        return posterior(self.components(), wide)

    def log_evidence(self, evidence: Evidence) -> Tensor:
        """log c_t(k): (B, T, K)."""
        h, J = evidence.h[..., None, :], evidence.J[..., None, :]
        mean, V = self.mean, (2 * self.log_scale).exp()
        # ½ (S g² − μ²/V) with the two large terms cancelled by hand
        numerator = V * h.square() + 2 * mean * h - J * mean.square()
        return 0.5 * (numerator / (1 + V * J) - torch.log1p(V * J)).sum(-1)

    def state_potential(self, batch: Batch) -> Tensor:
        """log p(x_t | s_t = k), estimated with the same few fixed points for every frame: deterministic.

        log c_t(k) would be cheaper, but it is only as good as the encoder's evidence, and training ascends the
        emissions, not the evidence.
        """
        q = self.responses(self.core.evidence(batch.x, batch.observed))
        total = torch.full_like(q.mean[..., 0], -torch.inf)
        for point in fixed_points(q.mean):  # one at a time: (B, T, K, D) is memory enough
            weight = self.log_weight(batch.x, batch.observed, q, q.mean + q.scale * point, 1.0)
            total = torch.logaddexp(total, weight)
        return total - math.log(N_POINTS)

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Paths s by backward sampling, then z_t | s_t; q(z) = p(z) Π psi_t(z_t) / Z in closed form.

        Not reparameterised: for evaluation, not for gradients of q.
        """
        evidence = self.core.evidence(batch.x, batch.observed)
        chain = self.chain_of(self.log_evidence(evidence), batch)
        states = inference.sample(chain, n_samples, generator).clamp_min(0)  # (S, B, T)
        q = self.responses(evidence)
        pick = states[..., None, None].expand(*states.shape, 1, q.mean.shape[-1])
        mean = q.mean.expand(n_samples, *q.mean.shape).gather(-2, pick).squeeze(-2)
        scale = q.scale.expand(n_samples, *q.scale.shape).gather(-2, pick).squeeze(-2)
        z = draw(normal(mean, scale), generator)
        log_psi = (evidence.log_psi(z) * batch.mask).sum(-1)
        return z, self.log_prior(batch, z) + log_psi - inference.log_partition(chain)

    def propose(self, batch: Batch, generator: Generator) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """q ∝ Σ_k p(s_t = k | z_{1:t-1}) N(z; μ_k, V_k) psi_t(z), a mixture in closed form."""
        evidence = self.core.evidence(batch.x, batch.observed)
        log_c, q = self.log_evidence(evidence), self.responses(evidence)

        def propose(t: int, predicted: Tensor) -> tuple[Tensor, Tensor]:
            joint = predicted + log_c[:, t]
            states = sample(Categorical(logits=possible(joint)), generator).long()
            pick = states[..., None, None].expand(*states.shape, 1, q.mean.shape[-1])
            mean, scale = (v[:, t].expand(*states.shape, -1, -1) for v in (q.mean, q.scale))
            z = draw(normal(mean.gather(-2, pick)[..., 0, :], scale.gather(-2, pick)[..., 0, :]), generator)
            prior = predicted + log_normal(z[..., None, :], self.components())
            log_psi = Evidence(evidence.h[:, t], evidence.J[:, t]).log_psi(z)
            return z, torch.logsumexp(possible(prior), -1) + log_psi - torch.logsumexp(possible(joint), -1)

        return propose

    def latents(self, batch: Batch) -> Tensor:
        """E_q z_t = Σ_k gamma_t(k) m_tk."""
        evidence = self.core.evidence(batch.x, batch.observed)
        gamma = inference.smooth(self.chain_of(self.log_evidence(evidence), batch)).gamma
        return (gamma[..., None] * self.responses(evidence).mean).sum(-2)

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        """L = log Z + Σ_t Σ_k gamma_t(k) { E log p(x_t | z) − E log psi_t(z) }.

        Its gradient needs that of gamma, the second derivative of log Z: exact, but slow.  Training ascends
        `objective`, which is tighter and needs only the first.
        """
        evidence = self.core.evidence(batch.x, batch.observed)
        potential = self.log_evidence(evidence)
        chain = self.chain_of(potential, batch)
        log_z = inference.log_partition(chain)
        if log_z.requires_grad:
            (gamma,) = torch.autograd.grad(log_z.sum(), potential, create_graph=True)
        else:
            gamma = inference.smooth(chain).gamma
        q = self.responses(evidence)
        z = draw(q, generator, (n_samples,))
        x, observed = batch.x[..., None, :], batch.observed[..., None, :]
        fit = self.core.log_likelihood(x, observed, z).mean(0)
        second = q.mean.square() + q.variance
        log_psi = evidence.h[..., None, :] * q.mean - 0.5 * evidence.J[..., None, :] * second
        expected_psi = (gamma * log_psi.sum(-1)).sum((-2, -1))
        return ElboTerms((gamma * fit).sum((-2, -1)), expected_psi - log_z)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        return self.emission_bound(batch, n_samples, 1.0, generator)

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        """L_1; β scales the cost of z given s."""
        return self.emission_bound(batch, 1, beta, generator)

    def emission_bound(self, batch: Batch, n_samples: int, beta: float, generator: Generator) -> Tensor:
        """FWD over importance estimates of log p(x_t | s_t = k): (B,)."""
        which, step = real_frames(batch)  # padding is not decoded
        x, observed = batch.x[which, step], batch.observed[which, step]
        q = self.responses(self.core.evidence(x, observed))
        epsilon = noise((n_samples, *batch.x.shape[:2], *self.mean.shape), q.mean, generator)
        # one sample at a time: (N, K, D) is memory enough
        weights = (self.log_weight(x, observed, q, q.mean + q.scale * e[which, step], beta) for e in epsilon)
        values = reduce(torch.logaddexp, weights) - math.log(n_samples)
        potential = values.new_zeros(*batch.x.shape[:2], values.shape[-1]).index_put((which, step), values)
        return inference.log_partition(self.chain_of(potential, batch))

    def log_weight(
        self, x: Tensor, observed: Tensor, q: torch.distributions.Normal, z: Tensor, beta: float
    ) -> Tensor:
        """log p(x_t | z) − β log q(z | s_t = k) / N(z; μ_k, V_k): x (..., D) and z (..., K, Z) to (..., K)."""
        cost = log_normal(z, q) - log_normal(z, self.components())
        return self.core.log_likelihood(x[..., None, :], observed[..., None, :], z) - beta * cost


def fixed_points(like: Tensor) -> Tensor:
    """N_POINTS standard normal points in Z dimensions, in pairs z, −z, the same at every call: (N_POINTS, Z)."""
    always = torch.Generator().manual_seed(0)
    half = noise((N_POINTS // 2, like.shape[-1]), like, always)
    return torch.cat([half, -half])


def possible(logits: Tensor) -> Tensor:
    """The same where some state is possible; flat where none is, so that something can be drawn and weigh 0."""
    return torch.where((logits == -torch.inf).all(-1, keepdim=True), 0.0, logits)


class MeanFieldVAEHMM(HMMPrior):
    """q(z) = Π q(z_t | x_t), blind to time; the states are exact given z."""

    def posterior(self, batch: Batch) -> torch.distributions.Normal:
        evidence = self.core.evidence(batch.x, batch.observed)
        return posterior(standard_normal(evidence.h), evidence)

    def state_potential(self, batch: Batch) -> Tensor:
        """−KL(q(z_t | x_t) ‖ N(μ_k, V_k))."""
        q = self.posterior(batch)
        wide = normal(q.mean[..., None, :], q.scale[..., None, :])
        return -kl_normal(wide, self.components())

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def latents(self, batch: Batch) -> Tensor:
        return self.posterior(batch).mean

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        z, _ = self.infer(batch, n_samples, generator)
        kl = -inference.log_partition(self.chain(batch))
        return ElboTerms(self.log_likelihood(batch, z).mean(0), kl)

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        return self.elbo(batch, generator=generator).weighted(beta)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        return log_mean_exp(self.log_weights(batch, n_samples, generator))

    def propose(self, batch: Batch, generator: Generator) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        q = self.posterior(batch)

        def propose(t: int, predicted: Tensor) -> tuple[Tensor, Tensor]:
            now = normal(q.mean[:, t], q.scale[:, t])
            z = draw(now, generator, (len(predicted),))
            return z, log_normal(z, now)

        return propose
