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

    def __init__(self, transition: SemiMarkov, emission: Emission) -> None:
        super().__init__(transition, emission)

    def chain(self, batch: Batch) -> Stays:  # type: ignore[override]
        potential = labelled(self.emission.log_prob(*self.frames(batch)), batch)
        return stays(self.transition, potential, batch)

    @torch.no_grad()
    def sample(
        self, n_steps: int, generator: Generator = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (T, D) and states (T,) of a new sequence; its last stay is cut off where the sequence ends."""
        states = sample_stays(self.transition, n_steps, generator)
        return self.emission.sample(states, generator, inputs), states


def stays(transition: SemiMarkov, potential: Tensor, batch: Batch) -> Stays:
    """A chain of stays under potentials (B, T, K), from data or from latents."""
    chain = Chain(transition.log_initial(), transition.log_transition(), potential, batch.lengths)
    return Stays(chain, transition.durations.log_prob(), transition.durations.log_survival())


def sample_stays(transition: SemiMarkov, n_steps: int, generator: Generator) -> Tensor:
    """A path of stays alone: (T,) int64."""
    start = at(transition.log_initial().exp(), generator)
    moves = at(transition.log_transition().exp(), generator)
    lengths = at(transition.durations.log_prob().exp(), generator)
    path: list[int] = []
    weights = start
    while len(path) < n_steps:
        k = int(torch.multinomial(weights, 1, generator=generator))
        path += [k] * (1 + int(torch.multinomial(lengths[k], 1, generator=generator)))
        weights = moves[k]
    return torch.tensor(path[:n_steps])
