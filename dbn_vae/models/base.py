"""What every model answers: one objective to ascend, and what follows from its kind.

A `StateModel` fills in one method, chain: its states are then filtered, smoothed and decoded by the same exact
kernels.  A `LatentModel` fills in how z is inferred and what its prior is: bounds and importance weights follow.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dbn_vae import inference
from dbn_vae.aevb import AEVB, ElboTerms
from dbn_vae.inference import Chain, Filtered, Path, Posterior
from dbn_vae.nn import take
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition

Generator = torch.Generator | None
# what S partial paths carry from step to step: z_t (S, B, Z) and, of models with states, their belief (S, B, K, ...)
Particles = tuple[Tensor, ...]


class Proposal(NamedTuple):
    """How particles go a step on."""

    # Of t and the particles at t − 1 (anything at t = 0): those at t, and their log-weights (S, B),
    # log p(x_t | z_t) + log p(z_t | z_{1:t-1}) − log q(z_t | z_{t-1}, x), discrete states summed out.
    advance: Callable[[int, Particles], tuple[Particles, Tensor]]
    # Of t and the particles at t < T − 1: log χ_t (S, B), what q expects of their future, up to a constant; anything
    # will do, and exact is log p(x_{t+1:T} | z_t).  None where q does not say.
    promise: Callable[[int, Particles], Tensor] | None = None


class Later(NamedTuple):
    """What a path of z from t + 1 on says of the particles at t, for smoothing: back through its steps.

    Messages are logarithms, up to a constant, and of the shape of the belief (K, ...) that a particle carries beside
    z_t, so that Σ belief · message is what they weigh; (1,) for models without states.
    """

    end: Tensor  # after the last frame
    step: Callable[
        [int, Tensor, Tensor, Tensor], Tensor
    ]  # of t, z_t, z_{t+1} (..., Z) and the message to t + 1


class Model(nn.Module, ABC):
    """A joint density of sequences and whatever is hidden behind them."""

    @abstractmethod
    def objective(self, batch: Batch, *, beta: float = 1.0, generator: Generator = None) -> Tensor:
        """What training ascends: (B,), in nats; at β = 1 the log-likelihood or a lower bound of it."""

    def log_parameter_prior(self) -> Tensor:
        """The log-prior of every part that has one, up to a constant: ()."""
        parts = [m.log_prior() for m in self.modules() if isinstance(m, Transition)]
        return torch.stack(parts).sum() if parts else torch.zeros(())


class StateModel(Model):
    """A model with a discrete state at every step."""

    n_components: int
    verbs: ModuleType = inference  # the functions that read its chain
    n_ages: int = 1  # of a state, that what comes next depends on

    @abstractmethod
    def chain(self, batch: Batch) -> Chain:
        """The potentials of p(s_{1:T} | x_{1:T})."""

    def chain_sampled(self, batch: Batch, generator: torch.Generator) -> Chain:
        """The same, cheap enough for gradients: where z is integrated out, by a few samples instead of many points."""
        return self.chain(batch)

    def filter(self, batch: Batch) -> Filtered:
        return self.verbs.filter(self.chain(batch))

    def smooth(self, batch: Batch) -> Posterior:
        return self.verbs.smooth(self.chain(batch))

    def viterbi(self, batch: Batch) -> Path:
        return self.verbs.viterbi(self.chain(batch))


class LatentModel(Model):
    """A model with a continuous latent z_t at every step, seen through the static core."""

    core: AEVB
    reparameterized: bool = True  # gradients of what infer draws reach q

    @property
    def looks_ahead(self) -> bool:
        """Whether q at t knows x after t, beyond what the states' own smoothing adds."""
        return False

    @abstractmethod
    def infer(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """z ~ q(z_{1:T} | x_{1:T}): (S, B, T, Z), and log q(z): (S, B)."""

    @abstractmethod
    def log_prior(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(z_{1:T}), discrete states summed out: (S, B)."""

    @abstractmethod
    def latents(self, batch: Batch) -> Tensor:
        """The mean of q, or its best deterministic guess: (B, T, Z)."""

    @abstractmethod
    def elbo(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        """The bound with everything analytic that can be (estimator B where q allows it)."""

    @abstractmethod
    def importance_bound(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        """A bound that tends to log p(x) as S grows: (B,)."""

    @abstractmethod
    def particles(self, batch: Batch, n_samples: int, generator: Generator) -> Proposal:
        """The steps of a particle filter with q as its proposal."""

    @abstractmethod
    def ahead(self, state: Particles, inputs: Tensor | None, generator: Generator) -> Particles:
        """Particles at t + 1 from those at t by the prior alone, under inputs at t + 1 (B, U) where some are read."""

    @abstractmethod
    def later(self, batch: Batch) -> Later:
        """The way back through the steps of a batch."""

    def log_weights(self, batch: Batch, n_samples: int, generator: Generator = None) -> Tensor:
        """log p(x, z) − log q(z | x) of S samples: (S, B)."""
        z, log_q = self.infer(batch, n_samples, generator)
        return self.log_likelihood(batch, z) + self.log_prior(batch, z) - log_q

    def elbo_sampled(self, batch: Batch, n_samples: int = 1, generator: Generator = None) -> ElboTerms:
        """Estimator A (Kingma and Welling 2014, eq. 6): nothing analytic, one formula for every model."""
        z, log_q = self.infer(batch, n_samples, generator)
        kl = log_q - self.log_prior(batch, z)
        return ElboTerms(self.log_likelihood(batch, z).mean(0), kl.mean(0))

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        """Σ_t log p(x_t | z_t) over observed entries: (S, B, T, Z) to (S, B)."""
        which, step = real_frames(batch)  # padding is not decoded
        x, observed = batch.x[which, step], batch.observed[which, step]
        read = take(self.read_along(batch, z), which, step)
        return add_up(self.core.log_likelihood(x, observed, read), which, batch)

    def log_likelihood_at(self, batch: Batch, t: int, z: Tensor) -> Tensor:
        """log p(x_t | z_t) of one step: (S, B, Z) to (S, B)."""
        read = self.read_after(batch.x[:, t - 1], batch.observed[:, t - 1], z) if t else z
        return self.core.log_likelihood(batch.x[:, t], batch.observed[:, t], read)

    def read_after(self, x: Tensor, observed: Tensor, z: Tensor) -> Tensor:
        """What the decoder reads of z_t (..., Z) after a frame x_{t-1} (..., D): of most models z_t alone."""
        return z

    def read_along(self, batch: Batch, z: Tensor) -> Tensor:
        """The same of whole paths (..., B, T, Z)."""
        return z

    def offsets_along(self, batch: Batch, z: Tensor, generator: Generator) -> Tensor | None:
        """What is added to the decoder's outputs along paths (S, B, T, Z), (S, B, T, P), where states drawn say it."""
        return None

    def offsets_at(self, state: Particles) -> Tensor | None:
        """The same of particles that `ahead` has drawn: (S, B, P)."""
        return None

    def reconstruct(self, batch: Batch) -> Tensor:
        """E p(x_t | z_t) at the latents: (B, T, D), missing entries filled in."""
        return self.core.mean(self.read_along(batch, self.latents(batch)))


def real_frames(batch: Batch) -> tuple[Tensor, Tensor]:
    """Sequence and step of the N frames of a batch that are not padding: (N,) each."""
    which, step = batch.mask.nonzero(as_tuple=True)
    return which, step


def padded(values: Tensor, which: Tensor, step: Tensor, batch: Batch) -> Tensor:
    """Those of the real frames, (N, ...), where they stand in the batch, and 0 on padding: (B, T, ...)."""
    nothing = values.new_zeros(*batch.mask.shape, *values.shape[1:])
    return nothing.index_put((which, step), values)


def inputs_at(batch: Batch, t: int) -> Tensor | None:
    """u_t of every sequence (B, U), where there are inputs."""
    return None if batch.inputs is None else batch.inputs[:, t]


def add_up(values: Tensor, which: Tensor, batch: Batch) -> Tensor:
    """Sums over the frames of each sequence: (S, N) to (S, B)."""
    return values.new_zeros(len(values), len(batch.x)).index_add(1, which, values)
