"""The deep Markov model: a continuous latent that moves by a learned non-linear transition.

    p(z, x) = N(z_1; μ_0, V_0) Π p(z_t | z_{t-1}) Π p_θ(x_t | z_t)
    L = Σ_t E log p(x_t | z_t) − Σ_t E KL(q(z_t | z_{t-1}, x) ‖ p(z_t | z_{t-1}))

Source: Krishnan, Shalit and Sontag (2017).  A transition that forgets z_{t-1} makes it the static VAE.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.aevb import AEVB, ElboTerms, log_mean_exp
from dbn_vae.distributions import Conditional, draw, kl_normal, log_normal, noise, normal, sample
from dbn_vae.models.base import Advance, Generator, LatentModel, Later, Particles, add_up, real_frames
from dbn_vae.models.recognition import Recognition
from dbn_vae.nn import take
from dbn_vae.sequences import Batch


class DMM(LatentModel):
    """A core, a transition p(z_t | z_{t-1}) and a way to infer."""

    def __init__(self, core: AEVB, transition: Conditional, recognition: Recognition) -> None:
        super().__init__()
        self.core, self.transition, self.recognition = core, transition, recognition
        self.initial_mean = nn.Parameter(torch.zeros(core.n_latent))
        self.initial_log_scale = nn.Parameter(torch.zeros(core.n_latent))

    @property
    def looks_ahead(self) -> bool:
        return self.recognition.looks_ahead

    def initial(self, like: Tensor) -> Normal:
        """p(z_1), in the shape of a tensor (..., Z)."""
        scale = self.initial_log_scale.exp()
        return normal(self.initial_mean.expand_as(like), scale.expand_as(like))

    def trajectory(self, batch: Batch, epsilon: Tensor) -> tuple[Tensor, Normal]:
        """A path z = m + σ ∘ ε (S, B, T, Z), and the q(z_t | z_{t-1}, x) it came from."""
        context = self.recognition.context(self.core, batch)

        def predict(z: Tensor | None) -> Normal:
            return self.initial(epsilon[:, :, 0]) if z is None else self.transition(z)

        return self.recognition.trajectory(predict, batch, context, epsilon)

    def draw_path(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Normal]:
        return self.trajectory(batch, noise_like(self.core, batch, n_samples, generator))

    def predictions(self, z: Tensor, which: Tensor, step: Tensor) -> Normal:
        """p(z_t | z_{t-1}) along paths (S, B, T, Z), all frames named at once: (S, N, Z)."""
        later = self.transition(take(z, which, (step - 1).clamp_min(0)))
        first, begins = self.initial(later.mean), (step == 0)[:, None]
        return normal(
            torch.where(begins, first.mean, later.mean), torch.where(begins, first.scale, later.scale)
        )

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        z, q = self.draw_path(batch, n_samples, generator)
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        which, step = real_frames(batch)
        values = log_normal(take(z, which, step), self.predictions(z, which, step))
        return add_up(values, which, batch)

    def latents(self, batch: Batch) -> Tensor:
        return self.trajectory(batch, no_noise(self.core, batch))[0][0]

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        z, q = self.draw_path(batch, n_samples, generator)
        which, step = real_frames(batch)
        q = normal(take(q.mean, which, step), take(q.scale, which, step))
        kl = add_up(kl_normal(q, self.predictions(z, which, step)), which, batch)
        return ElboTerms(self.log_likelihood(batch, z).mean(0), kl.mean(0))

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        return self.elbo(batch, generator=generator).weighted(beta)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        return log_mean_exp(self.log_weights(batch, n_samples, generator))

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Advance:
        context = self.recognition.context(self.core, batch)
        nowhere = batch.x.new_zeros(n_samples, len(batch.x), self.core.n_latent)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            last = state[0] if t else nowhere
            prediction = self.transition(last) if t else self.initial(last)
            q = self.recognition.step(prediction, last, context[:, t])
            z = draw(normal(q.mean.expand_as(last), q.scale.expand_as(last)), generator)
            return (z,), self.log_likelihood_at(batch, t, z) + log_normal(z, prediction) - log_normal(z, q)

        return advance

    def ahead(self, state: Particles, generator: Generator) -> Particles:
        return (draw(self.transition(state[0]), generator),)

    def later(self, batch: Batch) -> Later:
        return lambda t, z, then, more: log_normal(then, self.transition(z))[..., None] + more

    @torch.no_grad()
    def sample(self, n_steps: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """x (T, D) and z (T, Z) of a new sequence."""
        z = draw(self.initial(self.initial_mean), generator)
        path = [z]
        for _ in range(n_steps - 1):
            path.append(z := draw(self.transition(z), generator))
        latent = torch.stack(path)
        return sample(self.core.decode(latent), generator), latent


def noise_like(core: AEVB, batch: Batch, n_samples: int, generator: Generator) -> Tensor:
    """Standard normal noise for S paths of a batch: (S, B, T, Z)."""
    shape = (n_samples, *batch.x.shape[:2], core.n_latent)
    return noise(shape, batch.x, generator)


def no_noise(core: AEVB, batch: Batch) -> Tensor:
    """The noise of the central path: (1, B, T, Z)."""
    return batch.x.new_zeros(1, *batch.x.shape[:2], core.n_latent)
