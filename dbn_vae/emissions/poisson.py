"""Poisson emissions: p(x_t | s_t = k) = Π_d Poisson(x_td; λ_kd), for counts."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Poisson as TorchPoisson

from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.likelihoods.base import require


class Poisson(Emission, ClosedForm):
    """Counts.

    Args:
        rates: (K, D), ≥ 0.
        shape, rate: Gamma prior on each λ, log p(λ) = (shape − 1) log λ − rate λ; (1, 0) is maximum likelihood.
    """

    def __init__(self, rates: Tensor, shape: Tensor | float = 1.0, rate: Tensor | float = 0.0) -> None:
        super().__init__()
        self.n_components, self.n_features = rates.shape
        self.log_rates = nn.Parameter(rates.log())
        self.shape, self.rate = shape, rate

    def rates(self) -> Tensor:
        return self.log_rates.exp()

    def distribution(self) -> Distribution:
        return TorchPoisson(self.rates(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        counts = x[..., None, :]
        # x log λ is 0 at x = 0 even where λ = 0 and its logarithm is −inf
        total = torch.where(counts > 0, counts * self.log_rates, 0.0)
        entry = total - self.rates() - torch.lgamma(counts + 1)
        return torch.where(observed[..., None, :], entry, 0.0).sum(-1)  # chosen: −inf · 0 would be NaN

    def check(self, x: Tensor, observed: Tensor) -> None:
        count = (x >= 0) & (x == x.round())
        require(count | ~observed, x, "Poisson", "counts are the whole numbers from 0")

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w and Σ w x over observed entries: (K, D) each."""
        return weights.T @ observed.to(x.dtype), weights.T @ (x * observed)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, total = statistics
        if "rates" in self.frozen:
            return
        exposure = count + self.rate
        fresh = (total + self.shape - 1).clamp_min(0) / exposure
        self.log_rates.copy_(torch.where(exposure > 0, fresh, self.rates()).log())

    def log_prior(self) -> Tensor:
        rates = self.rates()
        shape = torch.as_tensor(self.shape, dtype=rates.dtype)
        return (torch.xlogy(shape - 1, rates) - self.rate * rates).sum()

    def n_free(self) -> int:
        return 0 if "rates" in self.frozen else self.log_rates.numel()
