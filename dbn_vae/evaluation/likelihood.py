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

from dbn_vae.aevb import log_mean_exp
from dbn_vae.models.base import LatentModel, Model, Particles
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
def particle_filter(
    model: LatentModel, batch: Batch, n_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """log of an unbiased estimate of p(x): (B,).

    log Z = Σ over stretches between resamplings of log mean_i w_i, w the product of a stretch's weights.  A sequence is
    resampled, systematically, when its effective number of particles 1 / Σ w² is under S / 2.
    """
    advance = model.particles(batch, n_samples, generator)
    log_w = batch.x.new_zeros(n_samples, len(batch.x))
    log_z = batch.x.new_zeros(len(batch.x))
    state: Particles = ()
    for t, running in enumerate(batch.mask.unbind(1)):
        w = log_w.softmax(0)
        poor = (
            w.square().sum(0) * n_samples > 2
        ) & running  # False, as it should be, for weights that are all 0
        if bool(poor.any()):
            log_z = torch.where(poor, log_z + log_mean_exp(log_w), log_z)
            log_w = torch.where(poor, 0.0, log_w)
            ancestors = torch.where(
                poor, systematic(w, generator), torch.arange(n_samples, device=poor.device)[:, None]
            )
            state = tuple(at_ancestors(part, ancestors) for part in state)
        state, weight = advance(t, state)
        log_w = log_w + torch.where(running, weight, 0.0)
    return log_z + log_mean_exp(log_w)


def systematic(w: Tensor, generator: torch.Generator | None) -> Tensor:
    """Ancestors (S, B) for normalised weights (S, B), one uniform number a sequence (Carpenter et al. 1999)."""
    S, B = w.shape
    source = w.device if generator is None else generator.device
    u = torch.rand(B, generator=generator, dtype=w.dtype, device=source).to(w.device)
    points = (torch.arange(S, device=w.device)[:, None] + u) / S
    return torch.searchsorted(w.cumsum(0).T.contiguous(), points.T.contiguous()).T.clamp_max(S - 1)


def at_ancestors(values: Tensor, ancestors: Tensor) -> Tensor:
    """values (S, B, ...) of the particles named (S, B)."""
    return values.gather(0, ancestors.view(*ancestors.shape, *[1] * (values.dim() - 2)).expand_as(values))


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
