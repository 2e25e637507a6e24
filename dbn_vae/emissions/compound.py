"""Families made of families: mixtures, products, zero inflation, changes of variable.

Given what is hidden inside a state (which component, whether a zero is structural), the expected complete
log-likelihood is a sum over the parts, each with frames and weights of its own.  Their M-steps are then the whole's.
"""

from abc import abstractmethod
from typing import NamedTuple

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
    def shares(self, x: Tensor, observed: Tensor, weights: Tensor) -> list[Share]:
        """The E-step within a state, under the present parameters: always the same parts in the same order."""

    @abstractmethod
    def own_statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """The sums for the parameters that no part has."""

    @abstractmethod
    def own_maximize(self, *statistics: Tensor) -> None:
        """The M-step of those."""

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        found = list(self.own_statistics(x, observed, weights))
        for share in self.shares(x, observed, weights):
            assert isinstance(share.part, ClosedForm)
            found += share.part.statistics(share.x, share.observed, share.weights)
        return tuple(found)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        # how many statistics each part has, it says of no frames
        like = next(self.parameters())
        nothing = like.new_zeros(0, self.n_features + self.n_context)
        empty = nothing, nothing.bool(), like.new_zeros(0, self.n_components)
        rest = list(statistics)
        own = [rest.pop(0) for _ in self.own_statistics(*empty)]
        due = []
        for part, *frames in self.shares(*empty):
            assert isinstance(part, ClosedForm)
            due.append((part, [rest.pop(0) for _ in part.statistics(*frames)]))
        self.own_maximize(*own)
        for part, values in due:
            part.maximize(*values)
