"""Families made of families: mixtures, products, zero inflation, changes of variable.

Given what is hidden inside a state (which component, whether a zero is structural), the expected complete
log-likelihood is a sum over the parts, each with frames and weights of its own.  Their M-steps are then the whole's.
"""

from abc import abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor

from dbn_vae.emissions.base import ClosedForm, Emission


class Share(NamedTuple):
    """What one part learns from: frames with weights (n, K of that part)."""

    part: Emission
    x: Tensor
    observed: Tensor
    weights: Tensor


class Compound(Emission, ClosedForm):
    """An emission that hands its frames on to parts.  In closed form if all its parts are; see base.closed_form."""

    @abstractmethod
    def divide(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[tuple[Tensor, ...], list[Share]]:
        """The E-step within a state, under the present parameters.

        Returns the sums for the parameters that no part has, and what each part learns from; always the same parts in
        the same order.
        """

    @abstractmethod
    def maximize_own(self, *statistics: Tensor) -> None:
        """The M-step of the parameters that no part has."""

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        own, shares = self.divide(x, observed, weights)
        found = list(own)
        for part, *frames in shares:
            assert isinstance(part, ClosedForm)
            found += part.statistics(*frames)
        return tuple(found)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        own, shares = self.shared_out(statistics)
        self.maximize_own(*own)
        for part, found in shares:
            part.maximize(*found)

    def recentred(self, statistics: tuple[Tensor, ...], before: Self) -> tuple[Tensor, ...]:
        own, shares = self.shared_out(statistics)
        earlier = [part for part, _ in before.shared_out(statistics)[1]]
        for (part, found), then in zip(shares, earlier, strict=True):
            own += part.recentred(found, then)
        return own

    def shared_out(
        self, statistics: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], list[tuple[ClosedForm, tuple[Tensor, ...]]]]:
        """The sums of the parameters that no part has, and each part with its own."""
        # how many statistics each part has, it says of no frames
        like = next(self.parameters())
        nothing = like.new_zeros(0, self.n_features + self.n_context)
        own, shares = self.divide(nothing, nothing.bool(), like.new_zeros(0, self.n_components))
        first = len(own)
        found: list[tuple[ClosedForm, tuple[Tensor, ...]]] = []
        for part, *frames in shares:
            assert isinstance(part, ClosedForm)
            last = first + len(part.statistics(*frames))
            found.append((part, statistics[first:last]))
            first = last
        return statistics[: len(own)], found
