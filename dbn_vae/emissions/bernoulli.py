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
    """

    def __init__(self, probs: Tensor, ones: float = 1.0, zeros: float = 1.0) -> None:
        super().__init__()
        self.n_components, self.n_features = probs.shape
        self.logits = nn.Parameter(probs.logit())
        self.ones, self.zeros = ones, zeros

    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    def distribution(self) -> Distribution:
        return TorchBernoulli(probs=self.probs(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        one, zero = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        # chosen, not multiplied: 0 · log 0 would be NaN where a probability is exactly 0 or 1
        entry = torch.where(x[..., None, :] > 0.5, one, zero)
        return torch.where(observed[..., None, :], entry, 0.0).sum(-1)

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
        weight = torch.tensor([self.ones - 1, self.zeros - 1], dtype=one.dtype)
        # a factor of 0 must win over a log of −inf
        return sum(
            ((w * v).sum() for w, v in zip(weight, (one, zero), strict=True) if w != 0),
            start=one.new_zeros(()),
        )

    def n_free(self) -> int:
        return 0 if "probs" in self.frozen else self.logits.numel()
