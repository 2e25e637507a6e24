"""p(x_t | s_t = k): a family of K distributions over a frame."""

from abc import ABC, abstractmethod
from typing import Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dbn_vae.distributions import sample
from dbn_vae.inference.potentials import Potential


class Emission(nn.Module, ABC):
    """K distributions over frames of D entries.  One method, log_prob, suffices to infer and to learn."""

    n_components: int
    n_features: int
    n_context: int = 0  # columns that with_context appends to a frame
    n_inputs: int = 0  # columns of the inputs that with_context reads
    order: int = 0  # frames before a frame, of the same sequence, that with_context reads
    frozen: frozenset[str] = frozenset()  # names of parameters that no M-step moves
    held: Tensor = torch.zeros(
        0, 1, dtype=torch.bool
    )  # spreads the last M-step held at a floor; rows: states

    @abstractmethod
    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        """log p(x_t | s_t = k) with unobserved entries integrated out: (..., D + n_context) to (..., K), in nats."""

    def with_context(self, x: Tensor, observed: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the other methods call x and observed: whole sequences (B, T, D), with whatever a family conditions on,
        inputs (B, T, U) or earlier frames, as further columns: (B, T, D + n_context)."""
        return x, observed

    def potential(self, x: Tensor, observed: Tensor) -> Potential:
        """log_prob(x, observed), or a functional form of it that an engine may compute as it goes."""
        return self.log_prob(x, observed)

    def distribution(self) -> Distribution:
        """The K distributions of a complete frame: batch shape (K,) or (K, D)."""
        raise NotImplementedError(
            f"{type(self).__name__} names no torch Distribution; to draw from it, define distribution or sample"
        )

    @property
    def floored(self) -> list[int]:
        """States of which the last M-step held a spread at the floor: they would collapse onto single values.

        Of a matrix that all states share: [0].
        """
        parts = [part for part in self.modules() if isinstance(part, Emission) and part.held.any()]
        if not parts:
            return []
        # the components of a state stand together
        rows = [
            part.held.any(-1).nonzero().flatten() * self.n_components // max(len(part.held), 1)
            for part in parts
        ]
        return sorted(set(torch.cat(rows).tolist()))

    def free_parameters(self) -> list[nn.Parameter]:
        """What a gradient M-step moves."""
        named = self.named_parameters()
        return [p for name, p in named if p.requires_grad and name.split(".")[0] not in self.frozen]

    def n_free(self) -> int:
        """Number of free parameters, frozen ones left out."""
        return sum(p.numel() for p in self.free_parameters())

    def log_prior(self) -> Tensor:
        """The log-prior of the parameters, up to a constant: (); 0 for maximum likelihood."""
        return torch.zeros(())

    def check(self, x: Tensor, observed: Tensor) -> None:
        """Raise ValueError where observed entries lie outside the support; every real number is in it."""

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        """One frame for each state: states (..., T) and inputs (..., T, U), returns (..., T, D)."""
        flat = states.flatten()
        distribution = self.distribution()
        every = distribution.expand(flat.shape + distribution.batch_shape)
        drawn = sample(every, generator).reshape(len(flat), self.n_components, -1)
        return drawn[torch.arange(len(flat)), flat].reshape(*states.shape, -1)


class ClosedForm(ABC):
    """A family whose M-step has a closed form: responsibilities are just weights."""

    @abstractmethod
    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Sums over frames x (n, D + n_context) with weights (n, K); they add over batches and processes."""

    @abstractmethod
    def maximize(self, *statistics: Tensor) -> None:
        """Set the parameters to the maximum of Σ weights · log_prob + log_prior, or where that has no closed form to
        values that raise it."""

    def recentred(self, statistics: tuple[Tensor, ...], before: Self) -> tuple[Tensor, ...]:
        """Sums taken about the parameters that this family had `before`, as its present ones would have centred them.

        Sums that no parameter centres stay as they are.
        """
        return statistics


def closed_form(emission: Emission) -> TypeGuard[ClosedForm]:
    """Whether a family, and every family it is made of, has a closed-form M-step."""
    return all(isinstance(m, ClosedForm) for m in emission.modules() if isinstance(m, Emission))
