"""Gamma emissions: p(x_t | s_t = k) = Π_d b^a x^(a−1) exp(−b x) / Γ(a), for positive quantities; a = 1 is exponential.

The M-step solves log a − ψ(a) = log E[x] − E[log x], and b = a / E[x].
"""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma

from dbn_vae.distributions import at, log, sample
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.special import gamma_shape, increasing_root
from dbn_vae.likelihoods.base import require


class Gamma(Emission, ClosedForm):
    """x > 0; frozen may name "shape" and "rate".

    Args:
        shape, rate: (K, D), > 0.
    """

    def __init__(self, shape: Tensor, rate: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_features = shape.shape
        self.log_shape = nn.Parameter(log(shape))
        self.log_rate = nn.Parameter(log(rate))

    def shape(self) -> Tensor:
        return self.log_shape.exp()

    def rate(self) -> Tensor:
        return self.log_rate.exp()

    def distribution(self) -> Distribution:
        return TorchGamma(self.shape(), self.rate(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        value = torch.where(observed, x, 1.0)[..., None, :]
        shape = self.shape()
        entry = shape * self.log_rate - torch.lgamma(shape) + (shape - 1) * value.log() - self.rate() * value
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
            shape = torch.where(seen, fresh, shape)
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
