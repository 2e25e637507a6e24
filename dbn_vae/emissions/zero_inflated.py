"""Zero inflation: p(x_td | s_t = k) = π_kd [x = 0] + (1 − π_kd) p_k(x_td), counts with extra zeros.

Whether an entry came from the family is one more hidden variable: certain for x > 0, and for a zero of probability
(1 − π) p(0) / (π + (1 − π) p(0)).  Source: Lambert (1992), Zero-inflated Poisson regression.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbn_vae.distributions import at
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.compound import Compound, Share


class ZeroInflated(Compound):
    """A count family whose entries are independent given the state, each inflated by itself.

    Args:
        base: the family.
        inflation: (K, D) probability π of a zero beyond those of the family; frozen may name it.
    """

    def __init__(self, base: Emission, inflation: Tensor) -> None:
        super().__init__()
        if inflation.shape != (base.n_components, base.n_features):
            raise ValueError(
                f"inflation has shape {tuple(inflation.shape)}; this base needs {(base.n_components, base.n_features)}"
            )
        self.n_components, self.n_features = base.n_components, base.n_features
        self.base = base
        self.logits = nn.Parameter(inflation.logit())

    def inflation(self) -> Tensor:
        return self.logits.sigmoid()

    def check(self, x: Tensor, observed: Tensor) -> None:
        self.base.check(x, observed)

    def columns(self, observed: Tensor) -> list[Tensor]:
        """observed with all columns but one hidden, column by column."""
        one = torch.eye(self.n_features, dtype=torch.bool, device=observed.device)
        return [observed & column for column in one]

    def entries(self, x: Tensor, observed: Tensor) -> Tensor:
        """log (1 − π) p_k(x_td) of every entry: (..., K, D)."""
        terms = [self.base.log_prob(x, only) for only in self.columns(observed)]
        return torch.stack(terms, -1) + F.logsigmoid(-self.logits)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        inside = self.entries(x, observed)
        zero = torch.logaddexp(inside, F.logsigmoid(self.logits))
        entry = torch.where(x[..., None, :] == 0, zero, inside)
        return torch.where(observed[..., None, :], entry, 0.0).sum(-1)

    def divide(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[tuple[Tensor, ...], list[Share]]:
        """Own: Σ w and Σ w p(inflated | x) over observed entries, (K, D) each; the base sees a row an entry."""
        inside = self.entries(x, observed)
        came = torch.where(x[:, None, :] == 0, torch.sigmoid(inside - F.logsigmoid(self.logits)), 1.0)
        w = weights[..., None] * observed[:, None, :]
        due = torch.where(w > 0, w * came, 0.0)  # an impossible entry is NaN, its weight 0
        share = Share(
            self.base,
            x.repeat(self.n_features, 1),
            torch.cat(self.columns(observed)),
            due.permute(2, 0, 1).flatten(0, 1),
        )
        return (w.sum(0), (w - due).sum(0)), [share]

    @torch.no_grad()
    def maximize_own(self, *statistics: Tensor) -> None:
        count, inflated = statistics
        if "inflation" not in self.frozen:
            fresh = inflated / count.where(count > 0, 1.0)
            self.logits.copy_(torch.where(count > 0, fresh.logit(), self.logits))

    def log_prior(self) -> Tensor:
        return self.base.log_prior()

    def n_free(self) -> int:
        return self.base.n_free() + (0 if "inflation" in self.frozen else self.logits.numel())

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        drawn = self.base.sample(states, generator, inputs)
        probs = at(self.inflation(), generator)[states]
        return drawn * (1 - torch.bernoulli(probs, generator=generator).to(drawn))
