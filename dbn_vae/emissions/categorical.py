"""Categorical emissions: p(x_t = v | s_t = k) = B(k, v), the B of Rabiner's λ = (A, B, π)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution

from dbn_vae.distributions import dirichlet_mode, log, log_dirichlet, log_normalized, n_choices
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.inference.potentials import Table
from dbn_vae.likelihoods.base import require


class Categorical(Emission, ClosedForm):
    """Symbols 0..V−1.

    Args:
        probs: (K, V), rows summing to 1; exact zeros stay zeros.
        concentration: Dirichlet prior, broadcastable to (K, V); 1 is maximum likelihood.
    """

    n_features = 1

    def __init__(self, probs: Tensor, concentration: Tensor | float = 1.0) -> None:
        super().__init__()
        self.n_components, self.n_symbols = probs.shape
        self.logits = nn.Parameter(log(probs))
        self.concentration = concentration

    def probs(self) -> Tensor:
        return log_normalized(self.logits).exp()

    def distribution(self) -> Distribution:
        return TorchCategorical(probs=self.probs()[:, None], validate_args=False)

    def potential(self, x: Tensor, observed: Tensor) -> Table:
        return Table(x.squeeze(-1), observed.squeeze(-1), log_normalized(self.logits))

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        return self.potential(x, observed).dense()

    def check(self, x: Tensor, observed: Tensor) -> None:
        if x.shape[-1] != 1:
            raise ValueError(f"X has {x.shape[-1]} columns; categorical data has one column of symbols")
        values = x.cpu().numpy()  # unobserved entries are 0
        if (
            values.size
            and values.min() >= 0
            and values.max() < self.n_symbols
            and (values == np.rint(values)).all()
        ):
            return
        symbol = (x >= 0) & (x < self.n_symbols) & (x == x.round())
        remedy = f"its symbols are 0 to {self.n_symbols - 1}; give n_features to allow for more"
        require(symbol | ~observed, x, "categorical", remedy)

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Expected counts of each symbol in each state: (K, V)."""
        return self.potential(x, observed).statistics(weights)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        (count,) = statistics
        if "probs" not in self.frozen:
            self.logits.copy_(dirichlet_mode(count, self.concentration, self.logits))

    def log_prior(self) -> Tensor:
        return log_dirichlet(self.logits, self.concentration)

    def n_free(self) -> int:
        return 0 if "probs" in self.frozen else n_choices(self.logits)
