"""The hidden semi-Markov model: an HMM whose stays have a distribution of their own, not the geometric.

    p(s, x) = Π over stays of A(k_n, k_{n+1}) p_{k_n}(d_n) Π_t p(x_t | s_t = k_n),   A_kk = 0

The first stay begins with the sequence; the last may be cut off by its end, P(D ≥ d) in place of p(d).

Source: Yu (2010), Hidden semi-Markov models; Guédon (2003) for the ends.
"""

from types import ModuleType

import torch
from torch import Tensor

from dbn_vae.distributions import at
from dbn_vae.emissions.base import Emission
from dbn_vae.inference import Chain, durations
from dbn_vae.inference.durations import Stays
from dbn_vae.models.base import Generator
from dbn_vae.models.hmm import HMM, labelled
from dbn_vae.sequences import Batch
from dbn_vae.transitions.semi_markov import SemiMarkov


class HSMM(HMM):
    """A semi-Markov transition and an emission over the same K states; learned by `em` like any HMM."""

    verbs: ModuleType = durations
    transition: SemiMarkov

    @property
    def n_ages(self) -> int:  # type: ignore[override]
        """D: how long a stay has lasted says how long it still may."""
        return self.transition.durations.max_duration

    def __init__(self, transition: SemiMarkov, emission: Emission) -> None:
        super().__init__(transition, emission)

    def chain(self, batch: Batch) -> Stays:  # type: ignore[override]
        potential = labelled(self.emission.log_prob(*self.frames(batch)), batch)
        return stays(self.transition, potential, batch)

    def tables(self, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return tables_of_stays(self.transition)

    @torch.no_grad()
    def sample(
        self,
        n_steps: int,
        generator: Generator = None,
        inputs: Tensor | None = None,
        first: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x (T, D) and states (T,) of a new sequence; its last stay is cut off where the sequence ends.

        first: the state of the first stay, drawn from π unless given.
        """
        states = sample_stays(self.transition, n_steps, generator, first)
        return self.emission.sample(states, generator, inputs), states


def stays(transition: SemiMarkov, potential: Tensor, batch: Batch) -> Stays:
    """A chain of stays under potentials (B, T, K), from data or from latents."""
    chain = Chain(transition.log_initial(), transition.log_transition(), potential, batch.lengths)
    return Stays(chain, transition.durations.log_prob(), transition.durations.log_survival())


def tables_of_stays(transition: SemiMarkov) -> tuple[Tensor, Tensor]:
    """log π (K · D,) and log A (K · D, K · D) of the chain over state and age; see durations.unrolled."""
    length = transition.durations.log_prob()
    nothing = length.new_zeros(1, 1, transition.n_components)
    chain = Chain(transition.log_initial(), transition.log_transition(), nothing)
    flat = durations.unrolled(Stays(chain, length, transition.durations.log_survival()))
    return flat.log_initial, flat.log_transition


def sample_stays(
    transition: SemiMarkov, n_steps: int, generator: Generator, first: int | None = None
) -> Tensor:
    """A path of stays alone: (T,) int64, from a given state or from π."""
    start = at(transition.log_initial().exp(), generator)
    moves = at(transition.log_transition().exp(), generator)
    lengths = at(transition.durations.log_prob().exp(), generator)
    path: list[int] = []
    k = int(torch.multinomial(start, 1, generator=generator)) if first is None else first
    while True:
        path += [k] * (1 + int(torch.multinomial(lengths[k], 1, generator=generator)))
        if len(path) >= n_steps:
            return torch.tensor(path[:n_steps])
        k = int(torch.multinomial(moves[k], 1, generator=generator))
