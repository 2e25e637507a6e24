"""Gamma emissions: p(x_t | s_t = k) = Π_d b^a x^(a−1) exp(−b x) / Γ(a), for positive quantities; a = 1 is exponential.

The M-step solves log a − ψ(a) = log E[x] − E[log x], and b = a / E[x].
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma

from dbn_vae.distributions import at, log, sample
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.special import FLOOR, gamma_shape, increasing_root, stirling_error
from dbn_vae.likelihoods.base import require


class Gamma(Emission, ClosedForm):
    """x > 0; frozen may name "shape" and "rate".

    Args:
        shape, rate: (K, D), > 0.
        floor: (D,) smallest 1/shape allowed, the squared coefficient of variation; the M-step maximises under that
            constraint.  Without it a state that meets one value only would be held at 1e-9.
    """

    def __init__(self, shape: Tensor, rate: Tensor, floor: Tensor | None = None) -> None:
        super().__init__()
        self.n_components, self.n_features = shape.shape
        self.log_shape = nn.Parameter(log(shape))
        self.log_rate = nn.Parameter(log(rate))
        self.floor: Tensor
        self.register_buffer("floor", torch.full_like(shape[0], FLOOR) if floor is None else floor)

    def shape(self) -> Tensor:
        return self.log_shape.exp()

    def rate(self) -> Tensor:
        return self.log_rate.exp()

    def distribution(self) -> Distribution:
        return TorchGamma(self.shape(), self.rate(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        value = torch.where(observed, x, 1.0)[..., None, :]
        # with r = b x / a: a (log r − r + 1) + ½ log a / 2π − log x, less what Stirling's formula leaves of log Γ(a).
        # The terms of the usual form are so large where a is that their difference is lost
        shape, ratio = self.shape(), (self.log_rate - self.log_shape).exp() * value
        near = (ratio - 1).abs() < 0.5
        deficit = torch.where(near, torch.log1p((ratio - 1).where(near, 0.0)), ratio.log()) - (ratio - 1)
        constant = 0.5 * (self.log_shape - math.log(2 * math.pi)) - stirling_error(shape)
        entry = shape * deficit + constant - value.log()
        return (entry * observed[..., None, :]).sum(-1)

    def check(self, x: Tensor, observed: Tensor) -> None:
        require((x > 0) | ~observed, x, "gamma", "its values are positive")

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w, Σ w x and Σ w log x over observed entries: (K, D) each."""
        logs = torch.where(observed, x, 1.0).log()
        return weights.T @ observed.to(x.dtype), weights.T @ (x * observed), weights.T @ logs

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        seen = statistics[0] > 0
        count = statistics[0].where(seen, 1.0)
        mean = torch.where(seen, statistics[1] / count, 1.0)
        mean_log = statistics[2] / count
        shape, rate = self.shape(), self.rate()
        if "shape" not in self.frozen:
            fresh = (
                self.shape_at(rate, mean_log) if "rate" in self.frozen else gamma_shape(mean.log() - mean_log)
            )
            highest = 1 / self.floor
            self.held = seen & (fresh > highest)
            shape = torch.where(seen, fresh.minimum(highest), shape)
            self.log_shape.copy_(shape.log())
        if "rate" not in self.frozen:
            self.log_rate.copy_(torch.where(seen, shape / mean, rate).log())

    def shape_at(self, rate: Tensor, mean_log: Tensor) -> Tensor:
        """The best shape under a given rate: ψ(a) = log b + E[log x]."""

        def f(t: Tensor) -> tuple[Tensor, Tensor]:
            a = t.exp()
            return torch.digamma(a) - rate.log() - mean_log, a * torch.polygamma(1, a)

        return increasing_root(f, mean_log)

    def n_free(self) -> int:
        return self.log_shape.numel() * (2 - len(self.frozen & {"shape", "rate"}))


@sample.register
def _(distribution: TorchGamma, generator: torch.Generator | None) -> Tensor:
    shape = at(distribution.concentration, generator)
    return torch._standard_gamma(shape, generator=generator).to(distribution.rate) / distribution.rate
