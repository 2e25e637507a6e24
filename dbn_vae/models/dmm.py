"""The deep Markov model: a continuous latent that moves by a learned non-linear transition.

    p(z, x) = N(z_1; μ_0, V_0) Π p(z_t | z_{t-1}) Π p_θ(x_t | z_t)
    L = Σ_t E log p(x_t | z_t) − Σ_t E KL(q(z_t | z_{t-1}, x) ‖ p(z_t | z_{t-1}))

Source: Krishnan, Shalit and Sontag (2017).  A transition that forgets z_{t-1} makes it the static VAE.
Where a batch has inputs, the transition reads u_t beside z_{t-1}: the first step has none.
"""

from itertools import count

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.aevb import AEVB, ElboTerms, log_mean_exp
from dbn_vae.distributions import Conditional, draw, kl_normal, log_normal, noise, normal, sample
from dbn_vae.models.autoregressive import ReadsBefore, context, context_width, frame_before
from dbn_vae.models.base import (
    Generator,
    LatentModel,
    Later,
    Particles,
    Proposal,
    add_up,
    inputs_at,
    real_frames,
)
from dbn_vae.models.recognition import Filtering, Recognition
from dbn_vae.models.smoothing import Moves, Smoothing
from dbn_vae.nn import beside, take
from dbn_vae.sequences import Batch
from dbn_vae.transitions.linear import Linear


class DMM(LatentModel):
    """A core, a transition p(z_t | z_{t-1}) and a way to infer.

    Raises TypeError for Smoothing of a transition that is not Linear.

    autoregressive: the emission is p(x_t | z_t, x_{t-1}), see autoregressive.py; the core's decoder is widened.
    """

    def __init__(
        self, core: AEVB, transition: Conditional, recognition: Recognition, autoregressive: bool = False
    ) -> None:
        super().__init__()
        if isinstance(recognition, Smoothing) and not isinstance(transition, Linear):
            raise TypeError(f"Smoothing is for a Linear transition, not a {type(transition).__name__}")
        self.autoregressive = autoregressive
        if autoregressive:
            n_context = context_width(core.likelihood, core.n_observed)
            core.add_module("decoder", ReadsBefore(core.decoder, n_context))
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
        context = self.context(batch)

        steps = count(1)

        def predict(z: Tensor | None) -> Normal:
            return self.initial(epsilon[:, :, 0]) if z is None else self.move(batch, next(steps), z)

        return self.recognition.trajectory(predict, batch, context, epsilon)

    def context(self, batch: Batch) -> Tensor:
        """What q reads at every step: (B, T, C)."""
        if isinstance(self.recognition, Smoothing):
            return self.recognition.smoothed(self.core, batch, self.linear_moves(batch))
        return self.recognition.context(self.core, batch)

    def linear_moves(self, batch: Batch) -> Moves:
        """The prior of a linear transition, under the inputs of a batch where it reads some."""
        move = self.transition
        assert isinstance(move, Linear)
        Z = self.core.n_latent
        weight, slope = move.weight[:, :Z], move.weight[:, Z:]
        bias = move.bias.expand(*batch.x.shape[:2], Z)
        if batch.inputs is not None:
            bias = bias + batch.inputs @ slope.T
        variance = move(batch.x.new_zeros(move.weight.shape[1])).variance
        return Moves(self.initial_mean, (2 * self.initial_log_scale).exp(), weight, bias, variance)

    def draw_path(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Normal]:
        return self.trajectory(batch, noise_like(self.core, batch, n_samples, generator))

    def move(self, batch: Batch, t: int, z: Tensor) -> Normal:
        """p(z_t | z_{t-1}) of one step t ≥ 1: (S, B, Z)."""
        return self.moved(z, inputs_at(batch, t))

    def moved(self, z: Tensor, inputs: Tensor | None) -> Normal:
        """p(z_t | z_{t-1}) under u_t: (..., Z)."""
        prediction = self.transition(z if inputs is None else beside(z, inputs))
        assert isinstance(prediction, Normal)
        return prediction

    def predictions(self, batch: Batch, z: Tensor, which: Tensor, step: Tensor) -> Normal:
        """p(z_t | z_{t-1}) along paths (S, B, T, Z), all frames named at once: (S, N, Z)."""
        before = take(z, which, (step - 1).clamp_min(0))
        if batch.inputs is not None:
            before = beside(before, take(batch.inputs, which, step))
        later = self.transition(before)
        first, begins = self.initial(later.mean), (step == 0)[:, None]
        return normal(
            torch.where(begins, first.mean, later.mean), torch.where(begins, first.scale, later.scale)
        )

    def read_after(self, x: Tensor, observed: Tensor, z: Tensor) -> Tensor:
        return beside(z, context(self.core.likelihood, x, observed)) if self.autoregressive else z

    def read_along(self, batch: Batch, z: Tensor) -> Tensor:
        if not self.autoregressive:
            return z
        return beside(z, frame_before(context(self.core.likelihood, batch.x, batch.observed)))

    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        z, q = self.draw_path(batch, n_samples, generator)
        return z, (log_normal(z, q) * batch.mask).sum(-1)

    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        which, step = real_frames(batch)
        values = log_normal(take(z, which, step), self.predictions(batch, z, which, step))
        return add_up(values, which, batch)

    def latents(self, batch: Batch) -> Tensor:
        return self.trajectory(batch, no_noise(self.core, batch))[0][0]

    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        z, q = self.draw_path(batch, n_samples, generator)
        which, step = real_frames(batch)
        q = normal(take(q.mean, which, step), take(q.scale, which, step))
        kl = add_up(kl_normal(q, self.predictions(batch, z, which, step)), which, batch)
        return ElboTerms(self.log_likelihood(batch, z).mean(0), kl.mean(0))

    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        return self.elbo(batch, generator=generator).weighted(beta)

    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        return log_mean_exp(self.log_weights(batch, n_samples, generator))

    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Proposal:
        context = self.context(batch)
        nowhere = batch.x.new_zeros(n_samples, len(batch.x), self.core.n_latent)

        def advance(t: int, state: Particles) -> tuple[Particles, Tensor]:
            last = state[0] if t else nowhere
            prediction = self.move(batch, t, last) if t else self.initial(last)
            q = self.recognition.step(prediction, last, context[:, t])
            z = draw(normal(q.mean.expand_as(last), q.scale.expand_as(last)), generator)
            return (z,), self.log_likelihood_at(batch, t, z) + log_normal(z, prediction) - log_normal(z, q)

        if not isinstance(self.recognition, Filtering):
            return Proposal(advance)
        log_promise, told = self.recognition.log_promise, self.core.told(batch.observed)

        def promise(t: int, state: Particles) -> Tensor:
            return torch.where(told, log_promise(self.move(batch, t + 1, state[0]), context[:, t + 1]), 0.0)

        return Proposal(advance, promise)

    def ahead(self, state: Particles, inputs: Tensor | None, generator: Generator) -> Particles:
        return (draw(self.moved(state[0], inputs), generator),)

    def later(self, batch: Batch) -> Later:
        def step(t: int, z: Tensor, then: Tensor, more: Tensor) -> Tensor:
            return log_normal(then, self.move(batch, t + 1, z))[..., None] + more

        return Later(batch.x.new_zeros(1), step)

    @torch.no_grad()
    def sample(
        self, n_steps: int, generator: Generator = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (T, D) and z (T, Z) of a new sequence, under inputs (T, U) where the transition reads them."""
        z = draw(self.initial(self.initial_mean), generator)
        path = [z]
        for t in range(1, n_steps):
            path.append(z := draw(self.moved(z, None if inputs is None else inputs[t]), generator))
        latent = torch.stack(path)
        if not self.autoregressive:
            return sample(self.core.decode(latent), generator), latent
        x = [sample(self.core.decode(latent[0]), generator)]
        for now in latent[1:]:
            read = self.read_after(x[-1], torch.ones_like(x[-1], dtype=torch.bool), now)
            x.append(sample(self.core.decode(read), generator))
        return torch.stack(x), latent


def noise_like(core: AEVB, batch: Batch, n_samples: int, generator: Generator) -> Tensor:
    """Standard normal noise for S paths of a batch: (S, B, T, Z)."""
    shape = (n_samples, *batch.x.shape[:2], core.n_latent)
    return noise(shape, batch.x, generator)


def no_noise(core: AEVB, batch: Batch) -> Tensor:
    """The noise of the central path: (1, B, T, Z)."""
    return batch.x.new_zeros(1, *batch.x.shape[:2], core.n_latent)
