"""Negative binomial emissions: counts whose variance μ + μ² / r exceeds their mean μ; r → ∞ is Poisson.

    p(x_t | s_t = k) = Π_d Γ(x + r) / (x! Γ(r)) · (r / (r + μ))^r (μ / (r + μ))^x

For every r the mean that maximises is the weighted mean of the counts.  For r, log (r + i) ≥ log (r₀ + i) +
r₀ / (r₀ + i) · log (r / r₀), summed over i < x, bounds log Γ(x + r) / Γ(r) from below and touches it at the present
r₀; the bound's maximum solves r log(1 + μ / r) = E[r₀ (ψ(x + r₀) − ψ(r₀))], a root in one dimension.  It is the EM of
the count of tables in a Chinese restaurant, so it never decreases (Zhou and Carin 2015).
"""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import NegativeBinomial as TorchNegativeBinomial

from dbn_vae.distributions import log
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.special import digamma_difference, increasing_root, log_gamma_ratio
from dbn_vae.likelihoods.base import require


class NegativeBinomial(Emission, ClosedForm):
    """Overdispersed counts; frozen may name "mean" and "size".

    Args:
        mean: (K, D), > 0.
        size: r, broadcastable to (K, D).
    """

    def __init__(self, mean: Tensor, size: Tensor | float) -> None:
        super().__init__()
        self.n_components, self.n_features = mean.shape
        self.log_mean = nn.Parameter(log(mean))
        self.log_size = nn.Parameter(log(torch.as_tensor(size).to(mean).expand_as(mean)).clone())

    def mean(self) -> Tensor:
        return self.log_mean.exp()

    def size(self) -> Tensor:
        return self.log_size.exp()

    def distribution(self) -> Distribution:
        logits = self.log_mean - self.log_size
        return TorchNegativeBinomial(self.size(), logits=logits, validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        counts, mean, size = x[..., None, :], self.mean(), self.size()
        # x log μ is 0 at x = 0 even where μ = 0 and its logarithm is −inf
        total = torch.where(counts > 0, counts * (self.log_mean - (size + mean).log()), 0.0)
        ratio = log_gamma_ratio(size, counts) - torch.lgamma(counts + 1)
        entry = ratio + total - size * torch.log1p(mean / size)
        return torch.where(observed[..., None, :], entry, 0.0).sum(-1)  # chosen: −inf · 0 would be NaN

    def check(self, x: Tensor, observed: Tensor) -> None:
        count = (x >= 0) & (x == x.round())
        require(count | ~observed, x, "negative binomial", "counts are the whole numbers from 0")

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w, Σ w x and Σ w r (ψ(x + r) − ψ(r)) over observed entries: (K, D) each."""
        w = weights[..., None] * observed[:, None, :]
        size = self.size()
        tables = size * digamma_difference(size, x[:, None, :])
        return weights.T @ observed.to(x.dtype), weights.T @ (x * observed), (w * tables).sum(0)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, total, tables = statistics
        mean = self.mean()
        if "mean" not in self.frozen:
            mean = torch.where(count > 0, total / count.where(count > 0, 1.0), mean)
            self.log_mean.copy_(mean.log())
        if "size" not in self.frozen:
            known = (count > 0) & (total > 0)  # of zeros alone r says nothing
            fresh = self.best_size(count, total, tables, mean)
            self.log_size.copy_(torch.where(known, fresh.log(), self.log_size))

    def best_size(self, count: Tensor, total: Tensor, tables: Tensor, mean: Tensor) -> Tensor:
        """The root in r of tables / r − Σ w log(1 + μ / r) + (Σ w μ − total) / (r + μ); the last is 0 at the best μ."""

        def f(t: Tensor) -> tuple[Tensor, Tensor]:
            r = t.exp()
            surplus = (count * mean - total) / (r + mean)
            value = count * r * torch.log1p(mean / r) - tables - surplus * r
            slope = count * (r * torch.log1p(mean / r) - r * mean / (r + mean)) - surplus * r * mean / (
                r + mean
            )
            return value, slope

        return increasing_root(f, mean)

    def n_free(self) -> int:
        return self.log_mean.numel() * (2 - len(self.frozen & {"mean", "size"}))
