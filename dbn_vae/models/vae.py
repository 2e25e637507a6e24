"""The static auto-encoder: p(z) = N(0, I), p(x | z) from the decoder, q(z | x) from the evidence under N(0, I).

    log p(x) ≥ E_q log p(x | z) − KL(q(z | x) ‖ N(0, I))

Source: Kingma and Welling (2014), eqs. 6 (estimator A) and 7 (B).  Frames are independent: a sequence is just
a set of frames, and with T = 1 this is the MNIST VAE.
"""

import torch
from torch import Tensor

from dbn_vae.aevb import AEVB, ElboTerms, log_mean_exp
from dbn_vae.distributions import draw, kl_normal, log_normal, normal, posterior, sample, standard_normal
from dbn_vae.models.base import Generator, LatentModel, Later, Particles, Proposal
from dbn_vae.sequences import Batch


class VAE(LatentModel):
    """A core under N(0, I)."""

    def __init__(self, core: AEVB) -> None:
        super().__init__()
        self.core = core

    def posterior(self, batch: Batch) -> torch.distributions.Normal:
        """q(z_t | x_t): (B, T, Z)."""
        evidence = self.core.evidence(batch.x, batch.observed)
        return posterior(standard_normal(evidence.h), evidence)

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        return (log_normal(z, standard_normal(z)) * batch.mask).sum(-1)

    def latents(self, batch: Batch) -> Tensor:
        return self.posterior(batch).mean

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        kl = kl_normal(q, standard_normal(q.mean)) * batch.mask
        return ElboTerms(self.log_likelihood(batch, z).mean(0), kl.sum(-1))

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        return self.elbo(batch, generator=generator).weighted(beta)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        """Frame by frame, since frames are independent: Σ_t log mean_s w_ts."""
        q = self.posterior(batch)
        z = draw(q, generator, (n_samples,))
        log_likelihood = self.core.log_likelihood(batch.x, batch.observed, z)
        weights = log_likelihood + log_normal(z, standard_normal(z)) - log_normal(z, q)
        return (log_mean_exp(weights) * batch.mask).sum(-1)

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Proposal:
        q = self.posterior(batch)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            now = normal(q.mean[:, t], q.scale[:, t])
            z = draw(now, generator, (n_samples,))
            cost = log_normal(z, now) - log_normal(z, standard_normal(z))
            return (z,), self.log_likelihood_at(batch, t, z) - cost

        return Proposal(advance)

    def ahead(self, state: Particles, inputs: Tensor | None, generator: Generator) -> Particles:
        return (draw(standard_normal(state[0]), generator),)

    def later(self, batch: Batch) -> Later:
        return Later(batch.x.new_zeros(1), lambda t, z, then, more: torch.zeros_like(more))

    @torch.no_grad()
    def sample(self, n_frames: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """x (n, D) and z (n, Z): new frames from random z."""
        weight = next(self.parameters())
        z = weight.new_empty(n_frames, self.core.n_latent).normal_(generator=generator)
        return sample(self.core.decode(z), generator), z
