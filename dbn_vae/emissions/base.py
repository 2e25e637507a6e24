"""p(x_t | s_t = k): a family of K distributions over a frame."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dbn_vae.distributions import sample
from dbn_vae.inference.potentials import Potential


class Emission(nn.Module, ABC):
    """K distributions over frames of D entries.  One method, log_prob, suffices for every inference verb."""

    n_components: int
    n_features: int
    frozen: frozenset[str] = frozenset()  # names of parameters that maximize leaves alone

    @abstractmethod
    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        """log p(x_t | s_t = k) with unobserved entries integrated out: (..., D) to (..., K), in nats."""

    def potential(self, x: Tensor, observed: Tensor) -> Potential:
        """log_prob(x, observed), or a functional form of it that an engine may compute as it goes."""
        return self.log_prob(x, observed)

    @abstractmethod
    def distribution(self) -> Distribution:
        """The K distributions of a complete frame: batch shape (K,) or (K, D)."""

    @abstractmethod
    def n_free(self) -> int:
        """Number of free parameters, frozen ones left out."""

    def check(self, x: Tensor, observed: Tensor) -> None:
        """Raise ValueError where observed entries lie outside the support; every real number is in it."""

    def sample(self, states: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One frame for each state: states (...), returns (..., D)."""
        flat = states.flatten()
        distribution = self.distribution()
        every = distribution.expand(flat.shape + distribution.batch_shape)
        drawn = sample(every, generator).reshape(len(flat), self.n_components, -1)
        return drawn[torch.arange(len(flat)), flat].reshape(*states.shape, -1)


class ClosedForm(ABC):
    """A family whose M-step has a closed form: responsibilities are just weights."""

    @abstractmethod
    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Sums over frames x (n, D) with weights (n, K); they add over batches and processes."""

    @abstractmethod
    def maximize(self, *statistics: Tensor) -> None:
        """Set the parameters to the maximum of Σ weights · log_prob + log_prior."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """The log-prior of the parameters, up to a constant: (); 0 for maximum likelihood."""
