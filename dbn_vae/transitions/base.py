"""p(s_t | s_{t-1}) and p(s_1): how the discrete state moves."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Transition(nn.Module, ABC):
    """Log-potentials of a chain over K states, learned from expected counts.

    Most chains are the same at every step.  One that reads inputs u_t returns tables with B and T in front, and an
    M-step of it reads every step's counts by themselves: see `InputDriven`.
    """

    n_components: int
    n_inputs: int = 0  # columns of the inputs that the chain reads
    frozen: frozenset[str] = frozenset()  # "initial", "transition": left alone by maximize

    @abstractmethod
    def log_initial(self, inputs: Tensor | None = None) -> Tensor:
        """log p(s_1): (K,); where the chain reads inputs (B, T, U), (B, K)."""

    @abstractmethod
    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        """log p(s_t = j | s_{t-1} = i), rows normalised: (K, K); where the chain reads inputs, (B, T-1, K, K)."""

    def statistics(
        self, weights: Tensor, inputs: Tensor | None, log_z: Tensor, gamma: Tensor, xi: Tensor
    ) -> tuple[Tensor, ...]:
        """What maximize reads of a batch, given its weights (B,), its inputs (B, T, U) and its posterior.

        Here counts of first states (K,) and of moves (K, K).
        """
        return weights @ gamma[:, 0], torch.einsum("b,bij->ij", weights, xi)

    def add(self, one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The statistics of two batches together."""
        return tuple(a + b for a, b in zip(one, other, strict=True))

    @abstractmethod
    def maximize(self, first: Tensor, pairs: Tensor) -> None:
        """Set the parameters from expected counts of first states (K,) and of moves (K, K)."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """The log-prior of the parameters, up to a constant: ()."""

    @abstractmethod
    def n_free(self) -> int:
        """Number of free parameters: structural zeros and frozen ones left out."""
