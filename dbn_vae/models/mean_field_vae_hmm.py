"""The VAE-HMM with q(z) blind to time: q(z) = Π q(z_t | x_t), the static posterior of every frame.

    A1  E_{z~q} [ Σ log p(x_t | z_t) + H[q_t] + FWD(π, A, log N(z_t; μ_k, Σ_k)) ]      sampled
    A2  Σ E_q log p(x_t | z_t) + FWD(π, A, −KL(q_t ‖ N(μ_k, Σ_k)))                    analytic

A2 ≤ A1 ≤ log p(x): FWD is convex in its potentials, and A2 takes their expectation first (Jensen).  Where states have
offsets, log p(x_t | z_t, k) stands inside FWD, in A2 its expectation.
Source of A1: Dong et al. (2020).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal

from dbn_vae.aevb import ElboTerms, log_mean_exp
from dbn_vae.distributions import draw, log_normal, normal, posterior, standard_normal
from dbn_vae.models.base import Generator
from dbn_vae.models.gaussians import N_POINTS, fixed_points, kl, place
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.sequences import Batch


class MeanFieldVAEHMM(HMMPrior):
    """Trained on A2; the states are exact given z."""

    def posterior(self, batch: Batch) -> Normal:
        evidence = self.core.evidence(batch.x, batch.observed)
        return posterior(standard_normal(evidence.h), evidence)

    def state_potential(self, batch: Batch) -> Tensor:
        """−KL(q(z_t | x_t) ‖ N(μ_k, Σ_k)), with offsets plus E_q log p(x_t | z, k), of the same few points always."""
        q = self.posterior(batch)
        if self.offset is None:
            return -self.cost(q)
        fit = torch.zeros_like(batch.x[..., :1])
        for point in fixed_points(q.mean):
            fit = fit + self.log_likelihoods(batch.x, batch.observed, place(q, point))
        return fit / N_POINTS - self.cost(q)

    def cost(self, q: Normal) -> Tensor:
        """KL(q(z_t | x_t) ‖ N(μ_k, Σ_k)): (B, T, K)."""
        return kl(normal(q.mean[..., None, :], q.scale[..., None, :]), self.components())

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def latents(self, batch: Batch) -> Tensor:
        return self.posterior(batch).mean

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        """A2; with offsets the bound of a q(s) guessed from draws of its own, which tends to A2 as n_samples grows."""
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        if self.offset is None:
            return ElboTerms(
                self.log_likelihood(batch, z).mean(0), -self.verbs.log_partition(self.chain(batch))
            )
        fit, cost = self.log_likelihoods(batch.x, batch.observed, z).mean(0), self.cost(q)
        with torch.no_grad():  # q(s) must not see these z
            others = draw(q, generator, (n_samples,))
            guess = self.log_likelihoods(batch.x, batch.observed, others).mean(0) - cost
        return self.bound_of(batch, guess, fit, cost)

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


class SampledVAEHMM(MeanFieldVAEHMM):
    """The same q, trained on A1; states are still decoded by −KL, which needs no draw."""

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        entropy = (q.entropy().sum(-1) * batch.mask).sum(-1)
        cost = -entropy - self.log_prior(batch, z)
        return ElboTerms(self.log_likelihood(batch, z).mean(0), cost.mean(0))
