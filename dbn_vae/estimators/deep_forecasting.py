"""What comes next, what is missing and what is odd, for models whose latents are continuous: by particles.

    forecast         z_T ~ p(z_T | x_{1:T}), z_{T+1}, z_{T+2}, … from the prior, x from the decoder
    impute           z_{1:T} ~ p(z_{1:T} | all that was observed), and of each frame only what is missing
    anomaly_scores   −log p(x_t | x_{1:t-1}), estimated

q proposes particles and no more: their weights make up for what it does not know, such as which entries of a frame it
was shown are missing.  All three are right as the number of particles grows; see evaluation.particles.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae.distributions import at, sample
from dbn_vae.emissions.predictive import plain
from dbn_vae.estimators.arguments import require_future_inputs, require_whole
from dbn_vae.estimators.deep import DeepEstimator
from dbn_vae.estimators.forecasting import (
    DRAWS,
    LEVELS,
    Forecast,
    checked_levels,
    names_of,
    sequence_keys,
    table,
)
from dbn_vae.evaluation.likelihood import MAX_VALUES, smc_frames
from dbn_vae.evaluation.particles import at_ancestors, last_particles, smoothed_paths
from dbn_vae.models.base import LatentModel, Particles
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.particles import Belief
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.sequences import Batch, Sequences

WITH_STATES = HMMPrior, SwitchingDMM


class DeepImputer(DeepEstimator):
    """Filling in and scores of frames."""

    def require_steps(self, verb: str) -> None:
        """Raise NotImplementedError for models of which a latent belongs to the whole sequence."""
        self.require_fitted()
        if getattr(self, "n_clip_latent", 0):
            raise NotImplementedError(f"{verb} is not offered with n_clip_latent={self.n_clip_latent}")

    def walks(self, data: Sequences) -> Sequences:
        """The sequences through which particles are carried, frames in the same order."""
        return data

    def impute(
        self,
        X: Any,
        lengths: Any = None,
        *,
        inputs: Any = None,
        how: str = "mean",
        n_samples: int | None = None,
        random_state: Any = None,
    ) -> Any:
        """X with missing entries filled in given everything observed, the observed ones as they are: (n, D).

        Rows stand as those of transform; a DataFrame gives a DataFrame with its index and columns.

        Args:
            inputs: as those given to fit.
            how: "mean", the conditional expectation, as the mean of E p(x_t | z_t) over n_samples draws of the latents;
                "sample", one draw of the latents and then of the entries.
            n_samples: particles, and for the mean draws of the latents; self.n_samples without it.

        Entries of a frame are taken as independent given z_t, which those of likelihood="made" are not.  With
        autoregressive=True a frame reads what was seen of the one before, not what is filled in: as in every score.

        Raises ValueError for another `how`, and for the mean of symbols, which have none.
        """
        self.require_steps("impute")
        if how not in ("mean", "sample"):
            raise ValueError(f"how={how!r}; it is 'mean' or 'sample'")
        S = self.n_samples if n_samples is None else n_samples
        require_whole(1, n_samples=S)
        data = self.sequences(X, lengths, inputs=inputs)
        if how == "mean" and self.likelihood == "categorical" and not data.observed.all():
            raise ValueError("how='mean': what is missing are symbols, which have no mean; use 'sample'")
        out, _ = Sequences.from_any(X, None if isinstance(X, Sequences) else lengths).stacked()
        M, generator = S if how == "mean" else 1, self.generator(random_state)
        filled = torch.zeros(data.x.shape)
        data = self.prepared(self.walks(data))
        with torch.no_grad():
            for batch in few(data, MAX_VALUES // (S * M * self.n_ages), with_holes(data)):
                which, step = (batch.mask & ~batch.observed.all(-1)).nonzero(as_tuple=True)
                paths = smoothed_paths(self.module_, batch, M, S, generator)
                read, core = self.module_.read_along(batch, paths)[:, which, step], self.module_.core
                offset = self.module_.offsets_along(batch, paths, generator)
                said = (read,) if offset is None else (read, offset[:, which, step])
                if how == "mean":
                    frames = core.mean(*said).mean(0)
                else:
                    frames = sample(core.decode(*(v[0] for v in said)), generator)
                values = torch.zeros_like(batch.x).index_put((which, step), frames)
                data.unbatch(batch, values, filled)
        return table(X, np.where(np.isnan(out), self.in_units(filled), out))

    @property
    def n_ages(self) -> int:
        """Numbers that a particle carries for every state: ages of its stay, or one."""
        return self.max_duration if getattr(self, "durations", None) is not None else 1

    def anomaly_scores(
        self, X: Any, lengths: Any = None, *, inputs: Any = None, n_samples: int | None = None
    ) -> Any:
        """−log p(x_t | x_{1:t-1}) in nats and the units of X, how surprising each frame was: (n,).

        A particle filter's estimate: those of a sequence sum to minus its SMC bound, evaluate(method="smc"), so that on
        the average they are too high, by less the more particles there are.  0 where nothing was observed.

        Args:
            inputs: as those given to fit.
            n_samples: particles; self.n_samples without it.
        """
        S = self.n_samples if n_samples is None else n_samples
        require_whole(1, n_samples=S)
        raw = self.sequences(X, lengths, inputs=inputs)
        fixed = torch.Generator().manual_seed(0)  # scores are repeatable
        scores = smc_frames(self.module_, self.prepared(self.walks(raw)), fixed, S) - self.log_units(raw)
        return self.like(X, -scores.numpy())


class DeepForecaster(DeepImputer):
    """The same, and forecasts, for models that know time."""

    def forecast(
        self,
        X: Any,
        lengths: Any = None,
        *,
        inputs: Any = None,
        future_inputs: Any = None,
        horizon: int = 1,
        n_samples: int = 0,
        quantiles: Any = LEVELS,
        random_state: Any = None,
    ) -> Forecast:
        """The `horizon` frames after the end of every sequence, given all of it.

        Everything is that of n_samples paths (1,000 unless more are asked for), but for state_probs, where states are
        summed out (with recurrent=True along the paths).  Symbols have no mean, variance and quantiles; these are NaN.

        Args:
            inputs: as those given to fit.
            future_inputs: u_{T+1:T+H}, (H, U) for all sequences alike or (B, H, U), where the model reads inputs.
            horizon: H ≥ 1.
            n_samples: paths x_{T+1:T+H} to give back.
            quantiles: levels between 0 and 1.

        Raises ValueError naming the argument.
        """
        self.require_steps("forecast")
        require_whole(1, horizon=horizon)
        require_whole(0, n_samples=n_samples)
        levels = checked_levels(quantiles)
        data = self.prepared(self.sequences(X, lengths, inputs=inputs))
        future = require_future_inputs(future_inputs, len(data), horizon, self.n_inputs, type(self).__name__)
        n, generator = max(n_samples, DRAWS), self.generator(random_state)
        paths = np.empty((n, len(data), horizon, self.width))
        K = self.module_.n_components if isinstance(self.module_, WITH_STATES) else 0
        probs = np.empty((len(data), horizon, K))
        with torch.no_grad():
            for batch in few(data, MAX_VALUES // (n * self.n_ages)):
                which = batch.which.cpu().numpy()
                given = [None] * horizon if future is None else future.to(batch.x)[batch.which].unbind(1)
                x, states = roll_on(self.module_, batch, given, n, generator)
                paths[:, which] = self.in_units(x)
                if states is not None:
                    probs[which] = plain(states)
        if self.likelihood == "categorical":
            mean = variance = np.full(paths.shape[1:], np.nan)
            values = np.full((len(data), len(levels), *paths.shape[2:]), np.nan)
        else:
            mean, variance = paths.mean(0), paths.var(0, ddof=1)
            values = np.moveaxis(np.quantile(paths, levels, axis=0), 0, 1)
        drawn = paths[:n_samples] if n_samples else None
        known = probs if K else None
        return Forecast(mean, variance, levels, values, drawn, known, tuple(names_of(X)), sequence_keys(X))


def roll_on(
    model: LatentModel, batch: Batch, future: Sequence[Tensor | None], n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """n paths of x_{T+1:T+H} (n, B, H, D), and of models with states p(s_{T+h} | x_{1:T}) (B, H, K).

    future: of each of the H steps the inputs (B, U), or None.
    """
    last, log_w = last_particles(model, batch, n, generator)
    states = model.belief() if isinstance(model, WITH_STATES) else None
    probs = [] if states is None or states.reads_z else states_ahead(states, last, log_w, future)
    # independent draws, so that any n_samples of the paths are as good as others
    w = at(log_w.T.softmax(-1), generator)
    index = torch.multinomial(w, n, replacement=True, generator=generator).T.to(log_w.device)
    state = tuple(at_ancestors(part, index) for part in last)
    end = torch.arange(len(batch.x), device=batch.x.device), batch.lengths - 1
    x, observed = batch.x[end], batch.observed[end]
    path = []
    for u in future:
        state = model.ahead(state, u, generator)
        read, offset = model.read_after(x, observed, state[0]), model.offsets_at(state)
        x = sample(model.core.decode(read, offset), generator)
        observed = torch.ones_like(x, dtype=torch.bool)
        path.append(x)
        if states is not None and states.reads_z:
            probs.append(states.states(state[1]).exp().mean(0))
    return torch.stack(path, 2), torch.stack(probs, 1) if probs else None


def states_ahead(
    states: Belief, last: Particles, log_weights: Tensor, future: Sequence[Tensor | None]
) -> list[Tensor]:
    """p(s_{T+h} | x_{1:T}) (B, K) of a chain that does not read z, from the particles at T."""
    z, belief = last
    w = log_weights.log_softmax(0).to(belief)
    belief = (belief + w.view(*w.shape, *[1] * (belief.dim() - 2))).logsumexp(0, keepdim=True)
    probs = []
    for u in future:
        belief = states.predict(belief, z, u)
        probs.append(states.states(belief)[0].exp())
    return probs


def with_holes(data: Sequences) -> Tensor:
    """Which sequences have missing entries."""
    frames = (~data.observed).flatten(1).any(1)
    owner = torch.arange(len(data), device=frames.device).repeat_interleave(data.lengths)
    return owner[frames].unique()


def few(data: Sequences, n: int, which: Tensor | None = None) -> Iterator[Batch]:
    """Sequences of like length together, at most n (but at least one) at a time."""
    index = torch.arange(len(data), device=data.x.device) if which is None else which
    index = index[data.lengths[index].argsort(descending=True)]
    for first in range(0, len(index), max(n, 1)):
        yield data.batch(index[first : first + max(n, 1)])
