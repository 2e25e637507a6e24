"""The VAE-HMM: one static core unrolled in time, its prior a hidden Markov model with learned A.

    p(s, z, x) = π(s_1) Π A(s_{t-1}, s_t) · Π N(z_t; μ_{s_t}, Σ_{s_t}) · Π p_θ(x_t | z_t)

`VAEHMM` infers with the encoder's evidence psi_t(z) = exp(h·z − ½ zᵀ J z) in the likelihood's place,

    q(z_t | s_t = k) = N(m_tk, S_tk),   S = (Λ_k + J_t)⁻¹,   m = S (Λ_k μ_k + h_t),   Λ = Σ⁻¹,
    log c_t(k) = log ∫ N(z; μ_k, Σ_k) psi_t(z) dz = ½ (gᵀ S g − μᵀ Λ μ) − ½ log |I + Σ J|,   g = Λ μ + h,
    KL(q(z_t | s_t = k) ‖ p(z_t | s_t = k)) = E_q log psi_t(z) − log c_t(k),

and q(s) is the chain (π, A, r), r_t(k) ≈ log p(x_t | s_t = k) of a few fixed points: states and latents inform each
other.  Were psi the likelihood, r would be log c, and q the posterior itself.

Training uses that the model *is* an HMM whose emission density is an integral, p(x_t | s_t = k) =
∫ N(z; μ_k, Σ_k) p(x_t | z) dz.  With importance samples z_tks ~ N(m_tk, S_tk) inside every emission,

    L_S = E FWD(π, A, log (1/S) Σ_s p(x_t | z_tks) N(z_tks; μ_k, Σ_k) / N(z_tks; m_tk, S_tk))  ≤  log p(x),

by Jensen's inequality, since the product over t of unbiased independent estimates is unbiased.  L_1 is at least the
bound `elbo` (it has the best q(s) for every draw of z), and L_S tends to log p(x) at a rate that T does not spoil.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical

from dbn_vae.aevb import AEVB, ElboTerms
from dbn_vae.distributions import Evidence, noise, sample
from dbn_vae.inference import Chain
from dbn_vae.models.base import Generator, padded, real_frames
from dbn_vae.models.chains import sum_out_states
from dbn_vae.models.gaussians import (
    Gaussian,
    at_step,
    chosen,
    draw,
    fixed_points,
    log_density,
    log_integral,
    meet,
    place,
)
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition

N_SAMPLED = 4  # points of the integral over z that gradients of a chain go through
MAX_VALUES = 2**21  # numbers of z, or of x decoded from it, that the samples of a bound are held in at once


class VAEHMM(HMMPrior):
    """Inference by what the evidence makes of z in every state, and by the emissions of the states.

    top_k: the bound decodes z of the so many likeliest states of each frame only; None: of all.
    """

    reparameterized = False  # infer draws states

    def __init__(
        self,
        core: AEVB,
        transition: Transition,
        mean: Tensor,
        variance: Tensor,
        offset: Tensor | None = None,
        top_k: int | None = None,
    ) -> None:
        super().__init__(core, transition, mean, variance, offset)
        self.top_k = top_k

    def responses(self, evidence: Evidence) -> Gaussian:
        """q(z_t | s_t = k) for every k: (B, T, K, Z)."""
        return meet(self.components(), for_each_state(evidence))

    def given_states(self, batch: Batch) -> Gaussian:
        """The same of a batch."""
        return self.responses(self.core.evidence(batch.x, batch.observed))

    def log_evidence(self, evidence: Evidence) -> Tensor:
        """log c_t(k): (B, T, K)."""
        return log_integral(self.components(), for_each_state(evidence))

    def state_potential(self, batch: Batch) -> Tensor:
        """log p(x_t | s_t = k), estimated with the same few fixed points for every frame: deterministic.

        log c_t(k) would be cheaper, but it is only as good as the encoder's evidence, and training ascends the
        emissions, not the evidence.
        """
        return self.potential_at(batch, fixed_points(batch.x.new_empty(self.core.n_latent)))

    def chain_sampled(self, batch: Batch, generator: torch.Generator) -> Chain:
        half = noise((N_SAMPLED // 2, self.core.n_latent), batch.x, generator)
        return self.chain_of(self.potential_at(batch, torch.cat([half, -half])), batch)

    def potential_at(self, batch: Batch, points: Tensor) -> Tensor:
        """log p(x_t | s_t = k) by importance at m_tk + S_tk^½ e for points e (S, Z), the same for all: (B, T, K)."""
        which, step = real_frames(batch)  # padding is not decoded
        x, observed = batch.x[which, step], batch.observed[which, step]
        p, q = self.components(), self.responses(self.core.evidence(x, observed))
        total = torch.full_like(q.mean[..., 0], -torch.inf)
        for point in points:  # one at a time: (N, K, D) is memory enough
            log_w = self.log_weight(x, observed, p, q, place(q, point), 1.0, self.offset)
            total = torch.logaddexp(total, log_w)
        return padded(total - math.log(len(points)), which, step, batch)

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Paths s by backward sampling, then z_t | s_t; q(z) = Σ_s q(s) Π N(z_t; m, S) in closed form.

        Not reparameterised: for evaluation, not for gradients of q.
        """
        q, potential = self.given_states(batch), self.state_potential(batch)
        chain = self.chain_of(potential, batch)
        states = self.verbs.sample(chain, n_samples, generator).clamp_min(0)  # (S, B, T)
        z = draw(chosen(q, states[..., None]), generator).squeeze(-2)
        joint = potential + log_density(z[..., None, :], q)
        return z, sum_out_states(self.transition, joint, batch) - self.verbs.log_partition(chain)

    def propose(self, batch: Batch, generator: Generator) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """q = Σ_k p(s_t = k | x_{1:t-1}, z_{1:t-1}) exp r_t(k) N(z; m_tk, S_tk) / its integral, a mixture."""
        q, potential = self.given_states(batch), self.state_potential(batch)

        def propose(t: int, predicted: Tensor) -> tuple[Tensor, Tensor]:
            log_share = possible(predicted + potential[:, t]).log_softmax(-1)
            states = sample(Categorical(logits=log_share), generator).long()
            now = at_step(q, t)
            z = draw(chosen(now, states[..., None]), generator).squeeze(-2)
            return z, torch.logsumexp(log_share + log_density(z[..., None, :], now), -1)

        return propose

    def latents(self, batch: Batch) -> Tensor:
        """E_q z_t = Σ_k gamma_t(k) m_tk."""
        return (self.smooth(batch).gamma[..., None] * self.given_states(batch).mean).sum(-2)

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        """The bound of q(s) Π q(z_t | s_t).  Training ascends `objective`, which is tighter."""
        evidence = self.core.evidence(batch.x, batch.observed)
        q = self.responses(evidence)
        z = draw(q, generator, (n_samples,))
        x, observed = batch.x[..., None, :], batch.observed[..., None, :]
        fit = self.core.log_likelihood(x, observed, z, self.offset).mean(0)
        with torch.no_grad():
            guess = self.state_potential(batch)
        return self.bound_of(batch, guess, fit, self.cost(q, evidence))

    def cost(self, q: Gaussian, evidence: Evidence) -> Tensor:
        """KL(q(z_t | s_t = k) ‖ p(z_t | s_t = k)) = E_q log psi_t(z) − log c_t(k): (B, T, K)."""
        h, J = for_each_state(evidence)
        log_psi = h * q.mean - 0.5 * J * (q.mean.square() + q.variance)
        return log_psi.sum(-1) - self.log_evidence(evidence)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        return self.emission_bound(batch, n_samples, 1.0, generator)

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        """L_1; β scales the cost of z given s."""
        return self.emission_bound(batch, 1, beta, generator)

    def emission_bound(self, batch: Batch, n_samples: int, beta: float, generator: Generator) -> Tensor:
        """FWD over importance estimates of log p(x_t | s_t = k): (B,).

        With top_k, over the paths through the likeliest states of every frame alone.  Which these are depends on x
        and not on the samples, so that exp FWD is an unbiased estimate of the sum of p(x, s) over those paths.  What is
        left out are terms that are not negative: that sum is at most p(x), and the bound is still one, only lower.
        """
        which, step = real_frames(batch)  # N of them; padding is not decoded
        x, observed = batch.x[which, step], batch.observed[which, step]
        evidence = self.core.evidence(x, observed)
        p, q = self.components(), self.responses(evidence)
        offset: Tensor | None = self.offset
        kept = None
        if self.top_k is not None:
            with torch.no_grad():
                guess = self.guess(x, observed, evidence)
            kept = self.likeliest(padded(guess, which, step, batch), batch, self.top_k)[which, step]
            p, q, offset = chosen(p, kept), chosen(q, kept), self.offset_of(kept)
        at_once = max(1, MAX_VALUES // (q.mean[..., 0].numel() * max(q.mean.shape[-1], x.shape[-1])))
        parts = []
        for first in range(0, n_samples, at_once):  # all S samples together may fill memory
            shape = min(at_once, n_samples - first), *batch.mask.shape, *q.mean.shape[1:]
            z = place(q, noise(shape, q.mean, generator)[:, which, step])  # (s, N, K, Z)
            parts.append(self.log_weight(x, observed, p, q, z, beta, offset).logsumexp(0))
        potential = torch.stack(parts).logsumexp(0) - math.log(n_samples)
        if kept is not None:
            nothing = potential.new_full((len(kept), self.n_components), -torch.inf)
            potential = nothing.scatter(-1, kept, potential)
        log_p: Tensor = self.verbs.log_partition(self.chain_of(padded(potential, which, step, batch), batch))
        return log_p

    def guess(self, x: Tensor, observed: Tensor, evidence: Evidence) -> Tensor:
        """Which states are likeliest, at the price of one decoding a frame: log c_t(k), up to a constant of the frame.

        With offsets plus log p(x_t | z̄_t, s_t = k) at the mean z̄_t of m_tk by c_t(k): (..., K).
        """
        log_c = self.log_evidence(evidence)
        if self.offset is None:
            return log_c
        mean = (log_c.softmax(-1)[..., None] * self.responses(evidence).mean).sum(-2)
        return log_c + self.log_likelihoods(x, observed, mean)

    @torch.no_grad()
    def likeliest(self, log_c: Tensor, batch: Batch, n: int) -> Tensor:
        """The n states of largest gamma under potentials (B, T, K) at every step, in their order: (B, T, n).

        The most probable path is always among them, so that some path is possible whatever A forbids.
        """
        chain = self.chain_of(log_c, batch)
        path = self.verbs.viterbi(chain).states.clamp_min(0)
        gamma = self.verbs.smooth(chain).gamma.scatter(-1, path[..., None], 2.0)
        kept: Tensor = gamma.topk(min(n, self.n_components), -1).indices.sort(-1).values
        return kept

    def log_weight(
        self,
        x: Tensor,
        observed: Tensor,
        p: Gaussian,
        q: Gaussian,
        z: Tensor,
        beta: float,
        offset: Tensor | None,
    ) -> Tensor:
        """log p(x_t | z, s_t) − β log q(z | s_t) / p(z | s_t) of N frames: (..., N, K, Z) to (..., N, K)."""
        cost = log_density(z, q) - log_density(z, p)
        return self.core.log_likelihood(x[:, None], observed[:, None], z, offset) - beta * cost


def for_each_state(evidence: Evidence) -> Evidence:
    """(..., Z) as (..., 1, Z): it meets K components."""
    return Evidence(evidence.h[..., None, :], evidence.J[..., None, :])


def possible(logits: Tensor) -> Tensor:
    """The same where some state is possible; flat where none is, so that something can be drawn and weigh 0."""
    return torch.where((logits == -torch.inf).all(-1, keepdim=True), 0.0, logits)
