"""A VAE-HMM with a second, slower latent: one w for a whole sequence beside z_t for every frame.

    p(w) = N(0, I),    p(s, z, x | w) = π(s_1) Π A(s_{t-1}, s_t) · Π N(z_t; μ_{s_t}, diag V_{s_t}) · Π p(x_t | z_t, w)
    q(w | x) ∝ N(0, I) · exp(h·w − ½ wᵀ J w),    (h, J) the mean of the encoder's evidence of w over observed frames
    L = E_q(w) [ a bound of log p(x | w) ] − KL(q(w | x) ‖ N(0, I))  ≤  log p(x)

What stays the same throughout a sequence, who is filmed and in which light, is paid for once in w; z_t and the states
are left with what changes.  Given w the model is a VAE-HMM, whose bounds of log p(x | w) are taken as they are.  The
core has Z + W latents, w being the last W of them.

Source: Li and Mandt (2018), Disentangled sequential autoencoder (their f is w); here the states stand over z.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

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
from dbn_vae.models.base import Generator, LatentModel, Later, Particles, Proposal, StateModel
from dbn_vae.models.hmm import sample_states
from dbn_vae.models.vae_hmm import VAEHMM
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition


class ClipVAEHMM(StateModel, LatentModel):
    """Its latents are (z_t, w): (..., Z + W), w repeated at every step.

    Args:
        core: the static AEVB over Z + W latents.
        transition: the chain over K states.
        mean, variance: (K, Z) of the components p(z_t | s_t = k).
    """

    reparameterized = False  # infer draws states
    looks_ahead = True  # w knows all frames

    def __init__(self, core: AEVB, transition: Transition, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_frame_latent = mean.shape
        self.given_w = VAEHMM(CoreGivenW(core, self.n_frame_latent), transition, mean, variance)

    @property
    def core(self) -> AEVB:  # type: ignore[override]
        core = self.given_w.core
        assert isinstance(core, CoreGivenW)
        return core.whole

    @property
    def transition(self) -> Transition:
        return self.given_w.transition

    def clip(self, batch: Batch) -> Normal:
        """q(w | x): (B, W)."""
        h, J = (e[..., self.n_frame_latent :].sum(1) for e in self.core.evidence(batch.x, batch.observed))
        n = batch.observed.any(-1).sum(1, keepdim=True).clamp_min(1)
        return posterior(standard_normal(h), Evidence(h / n, J / n))

    def draw_clip(self, batch: Batch, n: int, generator: Generator) -> tuple[Normal, Tensor, Batch]:
        """q(w | x), n draws of w (n, B, W), and n copies of the batch (n · B sequences) that know them."""
        q = self.clip(batch)
        w = draw(q, generator, (n,))
        fields = batch._asdict().items()
        copies = batch._replace(**{k: v.repeat(n, *[1] * (v.dim() - 1)) for k, v in fields if v is not None})
        return q, w, with_w(copies, w.flatten(0, 1))

    def chain(self, batch: Batch) -> Chain:
        """The states at the mean of w: deterministic."""
        return self.given_w.chain(with_w(batch, self.clip(batch).mean))

    def chain_sampled(self, batch: Batch, generator: torch.Generator) -> Chain:
        return self.given_w.chain_sampled(with_w(batch, self.clip(batch).mean), generator)

    def latents(self, batch: Batch) -> Tensor:
        w = self.clip(batch).mean
        return joined(self.given_w.latents(with_w(batch, w)), w)

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        q, w, known = self.draw_clip(batch, n_samples, generator)
        z, log_q = (v[0].unflatten(0, w.shape[:2]) for v in self.given_w.infer(known, 1, generator))
        return joined(z, w), log_q + log_normal(w, q)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        z, w = z[..., : self.n_frame_latent], z[..., 0, self.n_frame_latent :]
        return self.given_w.log_prior(batch, z) + log_normal(w, standard_normal(w))

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        q, w, known = self.draw_clip(batch, n_samples, generator)
        fit, kl = (v.unflatten(0, w.shape[:2]).mean(0) for v in self.given_w.elbo(known, 1, generator))
        return ElboTerms(fit, kl + kl_normal(q, standard_normal(q.mean)))

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        """β eases w alone: were z as cheap at first, it would learn frame by frame what w is there to hold."""
        q, _, known = self.draw_clip(batch, 1, generator)
        cost = kl_normal(q, standard_normal(q.mean))
        return self.given_w.objective(known, generator=generator) - beta * cost

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        """√S draws of w, and as many of every z_t for each: exp of the inner bound is unbiased given w, so all is."""
        n = math.isqrt(n_samples)
        q, w, known = self.draw_clip(batch, n, generator)
        inner = self.given_w.importance_bound(known, n_samples // n, generator).unflatten(0, w.shape[:2])
        return log_mean_exp(inner + log_normal(w, standard_normal(w)) - log_normal(w, q))

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Proposal:
        raise NotImplementedError(
            "a latent of the whole sequence has no step by step: use method='iwae' or 'elbo'"
        )

    def ahead(self, state: Particles, inputs: Tensor | None, generator: Generator) -> Particles:
        raise NotImplementedError(
            "a latent of the whole sequence is not carried beyond it: forecast without one"
        )

    def later(self, batch: Batch) -> Later:
        raise NotImplementedError("a latent of the whole sequence has no step by step: fill in without one")

    @torch.no_grad()
    def sample(
        self, n_steps: int, generator: Generator = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D), states (T,) and (z, w) (T, Z + W) of a new sequence; inputs are not read."""
        p = self.given_w.components()
        assert isinstance(p, Normal)
        states = sample_states(self.transition, n_steps, generator)
        z = draw(normal(p.mean[states], p.scale[states]), generator)
        latent = joined(z, noise((self.core.n_latent - self.n_frame_latent,), z, generator))
        return sample(self.core.decode(latent), generator), states, latent


class CoreGivenW(AEVB):
    """The core of the model given w, which stands beside every frame: x is (..., D + W)."""

    def __init__(self, whole: AEVB, n_latent: int) -> None:
        nn.Module.__init__(self)  # no networks but those of the whole
        self.whole, self.n_latent, self.n_observed = whole, n_latent, whole.n_observed

    def evidence(self, x: Tensor, observed: Tensor) -> Evidence:
        h, J = self.whole.evidence(x[..., : self.n_observed], observed[..., : self.n_observed])
        return Evidence(h[..., : self.n_latent], J[..., : self.n_latent])

    def log_likelihood(self, x: Tensor, observed: Tensor, z: Tensor, offset: Tensor | None = None) -> Tensor:
        D = self.n_observed
        w = x[..., D:].expand(*z.shape[:-1], -1)
        return self.whole.log_likelihood(x[..., :D], observed[..., :D], torch.cat([z, w], -1), offset)

    def decode(self, z: Tensor, offset: Tensor | None = None) -> Distribution:
        raise NotImplementedError("without w there is no frame: decode (z, w) by the whole core")


def with_w(batch: Batch, w: Tensor) -> Batch:
    """A batch whose frames are (x_t, w), w (B, W) as never observed entries."""
    columns = w[:, None].expand(-1, batch.x.shape[1], -1)
    unseen = torch.zeros_like(columns, dtype=torch.bool)
    return batch._replace(
        x=torch.cat([batch.x, columns], -1), observed=torch.cat([batch.observed, unseen], -1)
    )


def joined(z: Tensor, w: Tensor) -> Tensor:
    """(..., T, Z) and (..., W) as one (..., T, Z + W)."""
    return torch.cat([z, w[..., None, :].expand(*z.shape[:-1], -1)], -1)
