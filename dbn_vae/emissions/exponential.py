"""Exponential emissions: p(x_t | s_t = k) = Π_d λ_kd exp(−λ_kd x_td), for waiting times."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Exponential as TorchExponential

from dbn_vae.distributions import at, log, sample
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.likelihoods.base import require


class Exponential(Emission, ClosedForm):
    """x ≥ 0.

    Args:
        rates: (K, D), > 0.
        shape, rate: Gamma prior on each λ, log p(λ) = (shape − 1) log λ − rate λ; (1, 0) is maximum likelihood.
    """

    def __init__(self, rates: Tensor, shape: Tensor | float = 1.0, rate: Tensor | float = 0.0) -> None:
        super().__init__()
        self.n_components, self.n_features = rates.shape
        self.log_rates = nn.Parameter(log(rates))
        self.shape, self.rate = shape, rate

    def rates(self) -> Tensor:
        return self.log_rates.exp()

    def distribution(self) -> Distribution:
        return TorchExponential(self.rates(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        entry = self.log_rates - self.rates() * x[..., None, :]
        return (entry * observed[..., None, :]).sum(-1)

    def check(self, x: Tensor, observed: Tensor) -> None:
        require((x >= 0) | ~observed, x, "exponential", "its values are not negative")

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w and Σ w x over observed entries: (K, D) each."""
        return weights.T @ observed.to(x.dtype), weights.T @ (x * observed)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, total = statistics
        if "rates" in self.frozen:
            return
        events, exposure = (count + self.shape - 1).clamp_min(0), total + self.rate
        known = (events > 0) & (exposure > 0)
        self.log_rates.copy_(torch.where(known, events / exposure, self.rates()).log())

    def log_prior(self) -> Tensor:
        rates = self.rates()
        shape = torch.as_tensor(self.shape, dtype=rates.dtype)
        return (torch.xlogy(shape - 1, rates) - self.rate * rates).sum()

    def n_free(self) -> int:
        return 0 if "rates" in self.frozen else self.log_rates.numel()


@sample.register
def _(distribution: TorchExponential, generator: torch.Generator | None) -> Tensor:
    ones = torch.ones_like(at(distribution.rate, generator))
    return torch._standard_gamma(ones, generator=generator).to(distribution.rate) / distribution.rate
