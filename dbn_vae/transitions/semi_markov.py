"""A chain of stays: where the next one is, A without its diagonal, and how long it lasts."""

import torch
from torch import Tensor

from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.durations import Duration
from dbn_vae.transitions.stationary import Stationary


class SemiMarkov(Transition):
    """Moves from stay to stay, and durations of stays; for models.HSMM.

    frozen may name "initial", "transition" and "duration".  Raises ValueError where a state moves to itself, since its
    length would then not be that of its duration.
    """

    def __init__(self, moves: Stationary, durations: Duration) -> None:
        super().__init__()
        if moves.n_components != durations.n_components:
            raise ValueError(f"moves has {moves.n_components} states, durations {durations.n_components}")
        stays = moves.log_transition().diagonal() > -torch.inf
        if stays.any():
            raise ValueError(
                f"states {stays.nonzero().flatten().tolist()} move to themselves; set the diagonal of transmat to 0: "
                "how long a state lasts is for its duration to say"
            )
        self.n_components = moves.n_components
        self.moves, self.durations = moves, durations

    def log_initial(self, inputs: Tensor | None = None) -> Tensor:
        return self.moves.log_initial(inputs)

    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        """From stay to stay: (K, K)."""
        return self.moves.log_transition(inputs)

    def statistics(
        self,
        weights: Tensor,
        inputs: Tensor | None,
        log_z: Tensor,
        gamma: Tensor,
        xi: Tensor,
        *stays: Tensor,
    ) -> tuple[Tensor, ...]:
        """Besides the moves, stays (K, D) that ended after d steps, and that were seen for d steps."""
        counts = super().statistics(weights, inputs, log_z, gamma, xi)
        return *counts, *(torch.einsum("b,bkd->kd", weights, s) for s in stays)

    def maximize(self, first: Tensor, pairs: Tensor, *stays: Tensor) -> None:
        self.moves.frozen = self.frozen
        self.moves.maximize(first, pairs)
        if stays and "duration" not in self.frozen:
            self.durations.maximize(*stays)

    def log_prior(self) -> Tensor:
        return self.moves.log_prior() + self.durations.log_prior()

    def n_free(self) -> int:
        self.moves.frozen = self.frozen
        return self.moves.n_free() + (0 if "duration" in self.frozen else self.durations.n_free())
