"""Categorical entries: one of n symbols each."""

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution

from dbn_vae.likelihoods.base import Likelihood, require


class Categorical(Likelihood):
    """x ∈ {0, ..., n_symbols − 1}; the encoder reads one-hot vectors."""

    name = "categorical"

    def __init__(self, n_symbols: int) -> None:
        super().__init__()
        self.n_symbols = self.n_parameters = n_symbols

    def forward(self, parameters: Tensor) -> TorchCategorical:
        return TorchCategorical(logits=parameters.unflatten(-1, (-1, self.n_symbols)), validate_args=False)

    def check(self, x: Tensor, observed: Tensor) -> None:
        symbol = (x >= 0) & (x < self.n_symbols) & (x == x.round())
        remedy = f"symbols are the whole numbers 0 to {self.n_symbols - 1}"
        require(symbol | ~observed, x, "categorical", remedy)

    def features(self, x: Tensor) -> Tensor:
        return F.one_hot(x.long(), self.n_symbols).to(x.dtype).flatten(-2)

    def n_features(self, D: int) -> int:
        return D * self.n_symbols

    def mean(self, distribution: Distribution) -> Tensor:
        """The most probable symbol: symbols have no mean."""
        return distribution.mode.to(distribution.logits.dtype)  # type: ignore[attr-defined]
