"""p(x_t | z_t) as a family of distributions whose parameters a decoder network supplies."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution


class Likelihood(nn.Module, ABC):
    """One distribution an observed entry; entries are independent given z unless a family says otherwise."""

    name: ClassVar[str]
    n_parameters: int = 1  # numbers the decoder supplies for each entry
    is_density: bool = True  # False: sums of this log_prob are no log-likelihood of anything

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """parameters: (..., n_outputs(D)).  Returns a distribution of batch shape (..., D)."""

    def n_outputs(self, D: int) -> int:
        """Numbers the decoder supplies for a frame."""
        return D * self.n_parameters

    def log_prob(self, distribution: Distribution, x: Tensor, observed: Tensor) -> Tensor:
        """log p of the observed entries of x (..., D), others left out: (...), broadcasting."""
        return (distribution.log_prob(x) * observed).sum(-1)

    @abstractmethod
    def check(self, x: Tensor, observed: Tensor) -> None:
        """Raise ValueError where observed entries of x lie outside the support."""

    def features(self, x: Tensor) -> Tensor:
        """What the encoder reads: (..., n_features(D))."""
        return x

    def n_features(self, D: int) -> int:
        return D

    def mean(self, distribution: Distribution) -> Tensor:
        """The value to show for a distribution: (..., D)."""
        return distribution.mean


def require(condition: Tensor, x: Tensor, family: str, remedy: str) -> None:
    """Raise ValueError naming the first value of x that breaks the condition."""
    if not bool(condition.all()):
        value = x[~condition].flatten()[0].item()
        negative = "Negative values in data: " if value < 0 else ""
        raise ValueError(f"{negative}X holds {value:g}, which a {family} likelihood cannot give; {remedy}")
