"""How well a model predicts data, and what kind of number that is.

`exact` is log p(x).  `elbo` and `iwae` are lower bounds of it, never to be printed without their name; `iwae` tends
to log p(x) as its number of samples grows (Burda, Grosse and Salakhutdinov 2016, theorem 1), and so does `smc`, the
log of a particle filter's unbiased estimate of p(x), whose slack grows with T and not exponentially with it (Maddison
et al. 2017, Filtering variational objectives).  Every number is in nats, a value a sequence, with the Monte Carlo
error of the total beside it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.evaluation.particles import particle_filter, particle_steps
from dbn_vae.models.base import LatentModel, Model
from dbn_vae.sequences import Batch, Sequences

REPEATS = 4  # runs from whose spread the Monte Carlo error is told
MAX_VALUES = 2**18  # frames times samples evaluated at once: bounds the memory whatever S


class Score(NamedTuple):
    """Log-probabilities of a data set."""

    per_sequence: Tensor  # (B,) nats
    lengths: Tensor  # (B,) frames
    kind: str  # "exact", "ELBO", "importance bound, S = ..." or "SMC bound, S = ..."
    monte_carlo_error: float = 0.0  # standard error of the total from sampling z; 0 where nothing is sampled

    @property
    def total(self) -> float:
        return float(self.per_sequence.sum())

    @property
    def per_frame(self) -> float:
        return self.total / int(self.lengths.sum())

    @property
    def standard_error(self) -> float:
        """Of per_frame, from the variation between sequences (the ratio estimator's)."""
        return ratio_error(self.per_sequence, self.lengths)

    @property
    def mean(self) -> float:
        """Nats a sequence."""
        return float(self.per_sequence.mean())

    @property
    def standard_error_of_mean(self) -> float:
        """Of mean, from the variation between sequences; NaN for a single one."""
        return ratio_error(self.per_sequence, torch.ones_like(self.per_sequence))


def ratio_error(values: Tensor, lengths: Tensor) -> float:
    """Standard error of Σ values / Σ lengths over B sequences; NaN for a single one."""
    B = len(values)
    if B < 2:
        return math.nan
    residual = values - values.sum() / lengths.sum() * lengths
    variance = residual.square().sum() / (B - 1) * B
    return float(variance.sqrt() / lengths.sum())


def exact(model: Model, data: Sequences) -> Score:
    """The log-likelihood of a model whose objective is exact, an HMM's."""
    values = torch.empty(len(data), dtype=torch.float64)
    with torch.no_grad():
        for batch in data.batches():
            values.numpy()[batch.which.cpu().numpy()] = model.objective(batch).cpu().numpy()
    return Score(values, data.lengths, "exact")


def elbo(model: LatentModel, data: Sequences, generator: torch.Generator, n_samples: int = 10) -> Score:
    """The evidence lower bound, the mean of REPEATS runs with S samples each."""
    values, error = evaluate(
        data, lambda batch: model.elbo(batch, n_samples, generator).elbo, REPEATS, MAX_VALUES // n_samples
    )
    return Score(values, data.lengths, "ELBO", error)


def iwae(model: LatentModel, data: Sequences, generator: torch.Generator, n_samples: int = 100) -> Score:
    """The importance-weighted bound, the mean of REPEATS runs with S samples each."""
    values, error = evaluate(
        data,
        lambda batch: model.importance_bound(batch, n_samples, generator),
        REPEATS,
        MAX_VALUES // n_samples,
    )
    return Score(values, data.lengths, f"importance bound, S = {n_samples}", error)


def smc(model: LatentModel, data: Sequences, generator: torch.Generator, n_samples: int = 100) -> Score:
    """The particle filter's bound with q as proposal, the mean of REPEATS runs with S particles each."""
    values, error = evaluate(
        data,
        lambda batch: particle_filter(model, batch, n_samples, generator),
        REPEATS,
        MAX_VALUES // n_samples,
    )
    return Score(values, data.lengths, f"SMC bound, S = {n_samples}", error)


@torch.no_grad()
def smc_frames(
    model: LatentModel, data: Sequences, generator: torch.Generator, n_samples: int = 100
) -> Tensor:
    """log p(x_t | x_{1:t-1}) of every frame as the particle filter estimates it: (N,), which sum to what smc says."""
    out = torch.zeros(data.n_frames, dtype=torch.float64)
    for batch in data.batches(MAX_VALUES // n_samples):
        runs = [
            torch.stack([step.log_p for step in particle_steps(model, batch, n_samples, generator)], 1)
            for _ in range(REPEATS)
        ]
        upto = torch.stack(runs).mean(0)
        data.unbatch(batch, upto.diff(dim=1, prepend=upto.new_zeros(len(upto), 1)), out)
    return out


@torch.no_grad()
def evaluate(
    data: Sequences, value: Callable[[Batch], Tensor], repeats: int, max_frames: int = 2**16
) -> tuple[Tensor, float]:
    """Mean of repeated evaluations (B,), and the standard error of their total."""
    runs = torch.zeros(repeats, len(data), dtype=torch.float64)
    for batch in data.batches(max_frames):
        for r in range(repeats):
            runs.numpy()[r, batch.which.cpu().numpy()] = value(batch).double().cpu().numpy()
    error = float(runs.sum(1).std()) / math.sqrt(repeats) if repeats > 1 else 0.0
    return runs.mean(0), error
