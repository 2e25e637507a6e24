"""p(s_t | s_{t-1}) and p(s_1): how the discrete state moves."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Transition(nn.Module, ABC):
    """Log-potentials of a chain over K states.  Learned in closed form from expected counts."""

    n_components: int
    n_inputs: int = 0  # columns of the inputs that the chain reads
    frozen: frozenset[str] = frozenset()  # "initial", "transition": left alone by maximize

    @abstractmethod
    def log_initial(self) -> Tensor:
        """log p(s_1): (K,)."""

    @abstractmethod
    def log_transition(self) -> Tensor:
        """log p(s_t = j | s_{t-1} = i): (K, K), rows normalised."""

    @abstractmethod
    def maximize(self, first: Tensor, pairs: Tensor) -> None:
        """Set the parameters from expected counts of first states (K,) and of moves (K, K)."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """The log-prior of the parameters, up to a constant: ()."""

    @abstractmethod
    def n_free(self) -> int:
        """Number of free parameters: structural zeros and frozen ones left out."""
