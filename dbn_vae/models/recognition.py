"""q(z_t | z_{t-1}, x): ways to infer a continuous path, one class each, all for comparison.

A recognition model prepares everything that does not depend on z at once, for all steps, as a context (B, T, C),
and then takes one cheap step at a time, since z_t depends on the z_{t-1} just drawn.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.aevb import AEVB
from dbn_vae.distributions import Evidence, normal, posterior, standard_normal
from dbn_vae.nn import BackwardGRU
from dbn_vae.sequences import Batch


class Recognition(nn.Module, ABC):
    """A factor q(z_t | z_{t-1}, x) for every step."""

    looks_ahead: bool = False  # True: q at t knows x after t, so it cannot filter

    @abstractmethod
    def context(self, core: AEVB, batch: Batch) -> Tensor:
        """(B, T, C)."""

    @abstractmethod
    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        """q(z_t | z_{t-1}, x) from p(z_t | z_{t-1}), z_{t-1} (..., Z) and the context at t (..., C)."""


class PerStep(Recognition):
    """Mean field: the static posterior of each frame, q(z_t | x_t) ∝ N(0, I) psi_t."""

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        return torch.cat(core.evidence(batch.x, batch.observed), -1)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        return posterior(standard_normal(prediction.mean), Evidence(*context.chunk(2, -1)))


class Filtering(Recognition):
    """q ∝ p(z_t | z_{t-1}) psi_t(z_t): a learned Kalman update that never looks ahead."""

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        return torch.cat(core.evidence(batch.x, batch.observed), -1)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        return posterior(prediction, Evidence(*context.chunk(2, -1)))


class Product(Recognition):
    """q ∝ p(z_t | z_{t-1}) psi_t(z_t) χ_t(z_t), with χ a backward GRU's evidence of the future."""

    looks_ahead = True

    def __init__(self, n_observed: int, n_latent: int, n_hidden: int = 32) -> None:
        """n_observed: features the likelihood hands to an encoder, see Likelihood.n_features."""
        super().__init__()
        self.future = BackwardGRU(n_observed + 1, n_hidden)
        self.head = nn.Linear(n_hidden, 2 * n_latent)
        with torch.no_grad():
            self.head.bias[n_latent:] = -3.0  # starts nearly silent: q close to the filtering form

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        location, raw = self.head(self.future(visible(core, batch), batch.lengths)).chunk(2, -1)
        J = F.softplus(raw) * batch.mask[..., None]
        return torch.cat(core.evidence(batch.x, batch.observed) * Evidence(J * location, J), -1)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        return posterior(prediction, Evidence(*context.chunk(2, -1)))


class STR(Recognition):
    """The deep Kalman smoother: a combiner of z_{t-1} and a backward GRU, blind to p(z_t | z_{t-1}).

    Source: Krishnan, Shalit and Sontag (2017), ST-R, sec. 3 and 4.
    """

    looks_ahead = True

    def __init__(self, n_observed: int, n_latent: int, n_hidden: int = 32) -> None:
        super().__init__()
        self.future = BackwardGRU(n_observed + 1, n_hidden)
        self.combine = nn.Linear(n_latent, n_hidden)
        self.head = nn.Linear(n_hidden, 2 * n_latent)

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        return self.future(visible(core, batch), batch.lengths)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        combined = 0.5 * (torch.tanh(self.combine(z)) + context)
        mean, raw = self.head(combined).chunk(2, -1)
        return normal(mean, F.softplus(raw) + 1e-4)


def visible(core: AEVB, batch: Batch) -> Tensor:
    """What a recurrent network reads: the frame's features, and whether anything of it was observed."""
    seen = batch.observed.any(-1, keepdim=True).to(batch.x.dtype)
    return torch.cat([core.likelihood.features(batch.x), seen], -1)
