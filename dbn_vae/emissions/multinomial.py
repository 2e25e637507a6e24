"""Multinomial emissions: p(x_t | s_t = k) = n! / Π_v x_tv! · Π_v B(k, v)^x_tv, counts of V symbols among n trials.

With one trial it is the categorical family, a frame its one-hot code.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Multinomial as TorchMultinomial

from dbn_vae.distributions import at, dirichlet_mode, log, log_dirichlet, log_normalized, n_choices, sample
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.likelihoods.base import require


class Multinomial(Emission, ClosedForm):
    """Rows of counts.

    Entries nobody saw are integrated out: together they are one more symbol, which took the remaining trials.

    Args:
        probs: (K, V), rows summing to 1; exact zeros stay zeros.
        n_trials: the sum of every row; None takes each row's own sum as given, and then a row is seen whole or not
            at all.
        concentration: Dirichlet prior, broadcastable to (K, V); 1 is maximum likelihood.
    """

    def __init__(
        self, probs: Tensor, n_trials: int | None = None, concentration: Tensor | float = 1.0
    ) -> None:
        super().__init__()
        self.n_components, self.n_features = probs.shape
        self.logits = nn.Parameter(log(probs))
        self.n_trials, self.concentration = n_trials, concentration

    def probs(self) -> Tensor:
        return log_normalized(self.logits).exp()

    def distribution(self) -> Distribution:
        if self.n_trials is None:
            raise ValueError("n_trials is None: to draw counts, say how many trials a row has")
        return TorchMultinomial(self.n_trials, probs=self.probs(), validate_args=False)

    def rest(self, x: Tensor, observed: Tensor) -> Tensor:
        """Trials that went to symbols nobody saw: (..., 1)."""
        given = (x * observed).sum(-1, keepdim=True)
        return torch.zeros_like(given) if self.n_trials is None else self.n_trials - given

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        seen, rest = observed[..., None, :], self.rest(x, observed)
        logs, probs = log_normalized(self.logits), self.probs()
        unseen = (probs * ~seen).sum(-1)  # (..., K)
        counts = torch.where(seen, x[..., None, :], 0.0)
        # 0 log 0 is 0
        entry = torch.where(counts > 0, counts * logs, 0.0) - torch.lgamma(counts + 1)
        remainder = torch.where(rest > 0, rest * unseen.where(rest > 0, 1.0).log(), 0.0)
        total = entry.sum(-1) + remainder - torch.lgamma(rest.clamp_min(0) + 1)
        log_prob = total + torch.lgamma(counts.sum(-1) + rest.clamp_min(0) + 1)
        possible = (rest >= 0) & observed.any(-1, keepdim=True)
        # of a frame nobody saw, exactly 0: the probabilities sum to 1 only up to rounding
        return torch.where(possible, log_prob, torch.where(rest < 0, -torch.inf, 0.0))

    def check(self, x: Tensor, observed: Tensor) -> None:
        count = (x >= 0) & (x == x.round())
        require(count | ~observed, x, "multinomial", "counts are the whole numbers from 0")
        total = (x * observed).sum(-1)
        whole, some = observed.all(-1), observed.any(-1)
        if self.n_trials is None:
            if bool((some & ~whole).any()):
                raise ValueError(
                    "X has rows with some counts missing, of which the sum is unknown; give n_trials"
                )
            return
        wrong = torch.where(whole, total != self.n_trials, some & (total > self.n_trials))
        if bool(wrong.any()):
            raise ValueError(
                f"X has a row that sums to {total[wrong][0]:g}; with n_trials it is {self.n_trials}"
            )

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Expected counts of each symbol in each state, (K, V); unseen symbols share the remaining trials."""
        probs = self.probs()
        unseen = (~observed).to(x.dtype) * observed.any(-1, keepdim=True)  # (n, V)
        mass = unseen @ probs.T  # (n, K)
        due = weights * self.rest(x, observed) / mass.where(mass > 0, 1.0)
        return (weights.T @ (x * observed) + probs * (due.T @ unseen),)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        (count,) = statistics
        if "probs" not in self.frozen:
            self.logits.copy_(dirichlet_mode(count, self.concentration, self.logits))

    def log_prior(self) -> Tensor:
        return log_dirichlet(self.logits, self.concentration)

    def n_free(self) -> int:
        return 0 if "probs" in self.frozen else n_choices(self.logits)


@sample.register
def _(distribution: TorchMultinomial, generator: torch.Generator | None) -> Tensor:
    probs = distribution.probs
    flat = at(probs.reshape(-1, probs.shape[-1]), generator)
    drawn = torch.multinomial(flat, distribution.total_count, replacement=True, generator=generator)
    counts = torch.zeros_like(flat).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=flat.dtype))
    return counts.view(probs.shape).to(probs)
