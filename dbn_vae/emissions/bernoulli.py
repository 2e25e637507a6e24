"""Bernoulli emissions: p(x_t | s_t = k) = Π_d p_kd^x_td (1 − p_kd)^(1 − x_td), for yes or no."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution

from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.likelihoods.base import require


class Bernoulli(Emission, ClosedForm):
    """x ∈ {0, 1}.

    Args:
        probs: (K, D) probability of a 1.
        ones, zeros: Beta prior, log p = (ones − 1) log p + (zeros − 1) log (1 − p); (1, 1) is maximum likelihood.
            Numbers, or tensors that broadcast to (K, D).
    """

    def __init__(self, probs: Tensor, ones: Tensor | float = 1.0, zeros: Tensor | float = 1.0) -> None:
        super().__init__()
        self.n_components, self.n_features = probs.shape
        self.logits = nn.Parameter(probs.logit())
        self.ones, self.zeros = ones, zeros

    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    def distribution(self) -> Distribution:
        return TorchBernoulli(probs=self.probs(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        # one product for all states: a table (..., K, D) would be D times as large as the answer
        logs = torch.cat([F.logsigmoid(self.logits), F.logsigmoid(-self.logits)], -1)
        yes = x > 0.5
        entries = torch.cat([yes & observed, ~yes & observed], -1).to(logs.dtype)
        lowest = torch.finfo(logs.dtype).min / 2  # stands for −inf, since 0 · −inf is NaN
        total = F.linear(entries, logs.clamp_min(lowest))
        return total.masked_fill(total < lowest / 2, -torch.inf)

    def check(self, x: Tensor, observed: Tensor) -> None:
        binary = (x == 0) | (x == 1)
        require(binary | ~observed, x, "Bernoulli", "its values are 0 and 1")

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w and Σ w x over observed entries: (K, D) each."""
        return weights.T @ observed.to(x.dtype), weights.T @ (x * observed)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, total = statistics
        if "probs" in self.frozen:
            return
        ones = (total + self.ones - 1).clamp_min(0)
        both = ones + (count - total + self.zeros - 1).clamp_min(0)
        self.logits.copy_(torch.where(both > 0, ones / both, self.probs()).logit())

    def log_prior(self) -> Tensor:
        one, zero = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        weights = (
            torch.as_tensor(n - 1, dtype=one.dtype, device=one.device) for n in (self.ones, self.zeros)
        )
        # a factor of 0 must win over a log of −inf
        terms = [torch.where(w == 0, 0.0, w * v).sum() for w, v in zip(weights, (one, zero), strict=True)]
        return terms[0] + terms[1]

    def n_free(self) -> int:
        return 0 if "probs" in self.frozen else self.logits.numel()
