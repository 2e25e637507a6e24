"""q(z_t | z_{t-1}, x): ways to infer a continuous path, one class each, all for comparison.

A recognition model prepares everything that does not depend on z at once, for all steps, as a context (B, T, C),
and then takes one cheap step at a time, since z_t depends on the z_{t-1} just drawn.  Here are those made of
Gaussian evidence; those of Krishnan, Shalit and Sontag (2017) are in structured.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.aevb import AEVB
from dbn_vae.distributions import Evidence, normal, posterior, standard_normal
from dbn_vae.models.gaussians import log_integral
from dbn_vae.nn import Recurrent
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

    def trajectory(
        self, predict: Callable[[Tensor | None], Normal], batch: Batch, context: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Normal]:
        """A path z = m + σ ∘ ε (S, B, T, Z), step by step, and the q(z_t | z_{t-1}, x) it came from.

        predict: p(z_t | z_{t-1}) from z_{t-1}, and p(z_1) from None; it is asked for every step in turn.
        """
        z, last = torch.zeros_like(epsilon[:, :, 0]), None
        path, means, scales = [], [], []
        for t in range(epsilon.shape[2]):
            q = self.step(predict(last), z, context[:, t])
            z = last = q.mean + q.scale * epsilon[:, :, t]
            path.append(z)
            means.append(q.mean.expand_as(z))
            scales.append(q.scale.expand_as(z))
        return torch.stack(path, 2), normal(torch.stack(means, 2), torch.stack(scales, 2))


class PerStep(Recognition):
    """Mean field: the static posterior of each frame, q(z_t | x_t) ∝ N(0, I) psi_t."""

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        return torch.cat(core.evidence(batch.x, batch.observed), -1)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        return self.posterior(context)

    def trajectory(
        self, predict: Callable[[Tensor | None], Normal], batch: Batch, context: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Normal]:
        """All steps at once: none waits for another."""
        q = self.posterior(context)
        z = q.mean + q.scale * epsilon
        return z, normal(q.mean.expand_as(z), q.scale.expand_as(z))

    def posterior(self, context: Tensor) -> Normal:
        evidence = Evidence(*context.chunk(2, -1))
        return posterior(standard_normal(evidence.h), evidence)


class Filtering(Recognition):
    """q ∝ p(z_t | z_{t-1}) psi_t(z_t): a learned Kalman update that never looks ahead."""

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        return torch.cat(core.evidence(batch.x, batch.observed), -1)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        return posterior(prediction, Evidence(*context.chunk(2, -1)))

    def log_promise(self, prediction: Normal, context: Tensor) -> Tensor:
        """log ∫ p(z_t | z_{t-1}) psi_t dz_t: how likely q takes what it knows of x from t on to be (...)."""
        return log_integral(prediction, Evidence(*context.chunk(2, -1)))


class Product(Filtering):
    """q ∝ p(z_t | z_{t-1}) psi_t(z_t) χ_t(z_t), with χ a backward GRU's evidence of the future."""

    looks_ahead = True

    def __init__(self, n_observed: int, n_latent: int, n_hidden: int = 32) -> None:
        """n_observed: features that the core hands to networks, AEVB.n_features."""
        super().__init__()
        self.future = Recurrent(n_observed + 1, n_hidden, backward=True)
        self.head = nn.Linear(n_hidden, 2 * n_latent)
        with torch.no_grad():
            self.head.bias[n_latent:] = -3.0  # starts nearly silent: q close to the filtering form

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        location, raw = self.head(self.future(visible(core, batch), batch.lengths)).chunk(2, -1)
        J = F.softplus(raw) * batch.mask[..., None]
        return torch.cat(core.evidence(batch.x, batch.observed) * Evidence(J * location, J), -1)


def visible(core: AEVB, batch: Batch) -> Tensor:
    """What a recurrent network reads: the frame's features, and whether anything of it was observed."""
    seen = batch.observed.any(-1, keepdim=True).to(batch.x.dtype)
    return torch.cat([core.features(batch.x, batch.observed), seen], -1)
