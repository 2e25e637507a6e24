"""What comes next, and what is missing: the predictive distributions of a classical HMM.

    p(s_{T+h} | x_{1:T}) = p(s_T | x_{1:T}) A^h,    p(x_{T+h} | x_{1:T}) = Σ_k p(s_{T+h} = k | x_{1:T}) p_k(x)

Where inputs drive the moves, A^h is A(u_{T+1}) … A(u_{T+h}); where states have durations, A is that of (state, age).

Source: Zucchini, MacDonald and Langrock (2016), Hidden Markov models for time series, ch. 5.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from dbn_vae.emissions.ahead import Road, draw_ahead, follows, moments_ahead
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.conditional import complete, expected, likely
from dbn_vae.emissions.context import of_inputs, over_contexts
from dbn_vae.emissions.predictive import cdf, discrete, plain, require_known_context, require_no_past
from dbn_vae.estimators.arguments import column_names, require_future_inputs, require_whole
from dbn_vae.estimators.devices import on_host
from dbn_vae.estimators.posterior import PosteriorVerbs
from dbn_vae.models.gaps import fill_gaps
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences

DRAWS = 1000  # behind quantiles of families without a distribution function, where no samples are asked for
LEVELS = (0.05, 0.5, 0.95)


@dataclass(frozen=True, eq=False, repr=False)
class Forecast:
    """What is predicted for the H frames after each of B sequences.

    A model without states leaves state_probs out; one without closed forms has everything else from samples.
    """

    mean: np.ndarray  # (B, H, D); NaN for symbols and angles, which have none
    variance: np.ndarray  # (B, H, D)
    levels: tuple[float, ...]  # Q of them
    quantiles: np.ndarray  # (B, Q, H, D), entry by entry; NaN for symbols
    samples: np.ndarray | None = None  # (S, B, H, D) paths drawn jointly through time
    state_probs: np.ndarray | None = None  # (B, H, K) p(s_{T+h} = k | x_{1:T})
    names: tuple[str, ...] = ()  # of the D columns
    keys: tuple[Any, ...] = ()  # of the B sequences

    def __repr__(self) -> str:
        B, H, D = self.mean.shape
        return f"Forecast(sequences={B}, horizon={H}, features={D}, levels={self.levels})"

    def to_frame(self) -> pd.DataFrame:
        """A row for every sequence and step: mean, standard deviation and quantiles of every column."""
        B, H, D = self.mean.shape
        index = pd.MultiIndex.from_product(
            [self.keys or range(B), range(1, H + 1)], names=["sequence", "step"]
        )
        columns = {}
        for d, name in enumerate(self.names or map(str, range(D))):
            columns[name, "mean"] = self.mean[:, :, d].ravel()
            columns[name, "std"] = np.sqrt(self.variance[:, :, d]).ravel()
            for q, level in enumerate(self.levels):
                columns[name, f"{100 * level:g} %"] = self.quantiles[:, q, :, d].ravel()
        return pd.DataFrame(columns, index)


class PredictiveVerbs(PosteriorVerbs):
    """What follows from a posterior of the states and an emission: forecast and impute."""

    random_state: Any

    def forecast(
        self,
        X: Any,
        lengths: Any = None,
        *,
        horizon: int = 1,
        n_samples: int = 0,
        quantiles: Any = LEVELS,
        random_state: Any = None,
        inputs: Any = None,
        future_inputs: Any = None,
    ) -> Forecast:
        """The `horizon` frames after the end of every sequence, given all of it.

        States, means and variances are exact, and so are quantiles, by inverting the distribution function of the
        mixture; where a family has none, they are those of n_samples paths (1,000 unless more are asked for).  So are
        quantiles of an autoregression; its means and variances are exact, from the last frames seen.

        Args:
            horizon: H ≥ 1.
            n_samples: paths x_{T+1:T+H} to draw.
            quantiles: levels between 0 and 1.
            inputs: (n, U) covariates of the frames of X, where the model reads them.
            future_inputs: those of the frames to come, (H, U) for every sequence or (B, H, U).

        Raises:
            ValueError: naming the argument; also where a sequence is impossible, or a frame is missing that the next
                one conditions on.
        """
        require_whole(1, horizon=horizon)
        require_whole(0, n_samples=n_samples)
        levels = checked_levels(quantiles)
        posterior = self.posterior(X, lengths, inputs=inputs)
        B = len(posterior.data)
        u = require_future_inputs(future_inputs, B, horizon, self.n_inputs, type(self).__name__)
        model = self.hmm()
        require_known_context(model.emission, "forecast")
        generator = self.generator(random_state)
        with torch.no_grad():
            A = moves_ahead(model, u, horizon).expand(B, -1, -1, -1)
            past = last_frames(model.emission, posterior.data, u)
            road = Road(torch.as_tensor(posterior.belief), A, model.n_ages, past, u)
            probs = road.states()
            mean, variance, values = predictive(model.emission, road, levels)
            known = mean is not None and values is not None
            n_draws = n_samples if known else max(n_samples, DRAWS)
            paths = None
            if n_draws:
                states = draw_states(road.beliefs()[:, 0], A, n_draws, generator) // model.n_ages
                paths = plain(draw_ahead(model.emission, states, road, generator))
        if paths is not None and (mean is None or variance is None):
            mean, variance = paths.mean(0), paths.var(0, ddof=1)
        if paths is not None and values is None:
            values = np.moveaxis(np.quantile(paths, levels, axis=0), 0, 1)
        assert mean is not None and variance is not None and values is not None
        drawn = paths[:n_samples] if paths is not None and n_samples else None
        return Forecast(
            mean, variance, levels, values, drawn, plain(probs), tuple(names_of(X)), sequence_keys(X)
        )

    def impute(
        self,
        X: Any,
        lengths: Any = None,
        *,
        how: str = "mean",
        random_state: Any = None,
        inputs: Any = None,
    ) -> Any:
        """X with missing entries filled in given everything observed, the observed ones as they are: (n, D).

        Rows stand as those of predict_proba; a DataFrame gives a DataFrame with its index and columns.

        Args:
            how: "mean", the conditional expectation, of least squared error; "sample", one draw of states and then of
                frames from their joint posterior, with the spread that means lack; "viterbi", the expectation (of
                symbols and angles the most probable value) in the states of the most probable path.
            inputs: (n, U) covariates, where the model reads them.

        Of an autoregression all of it follows from the joint density of the frames, what is missing integrated out of
        every one that reads it: more than predict_proba and score make of frames next to a gap.

        Raises:
            ValueError: for another `how`, for the mean of symbols or angles, which have none, and where the first
                frames of an autoregression do not follow from later ones.
            NotImplementedError: for gaps of an autoregression with too many paths of states; see models.gaps.
        """
        if how not in ("mean", "sample", "viterbi"):
            raise ValueError(f"how={how!r}; it is 'mean', 'sample' or 'viterbi'")
        model = self.hmm()
        if (emission := model.emission).order:
            data = self.sequences(X, lengths, inputs=inputs)
            with torch.no_grad():
                return table(X, plain(fill_gaps(model, data, how, self.generator(random_state))))
        posterior = self.posterior(X, lengths, inputs=inputs)
        require_no_past(emission, "impute")
        data = posterior.data
        rows = (~data.observed).any(1).nonzero().flatten()
        x, observed = data.x[rows], data.observed[rows]
        out, _ = data.stacked()
        if len(rows) == 0:
            return table(X, out)
        u = of_inputs(emission, None if data.inputs is None else data.inputs[rows])
        with torch.no_grad():
            if how == "mean":
                gamma = torch.as_tensor(np.asarray(posterior.smoothed)[rows])
                # a state that cannot have given the frame has no say, whatever it expects
                each = over_contexts(emission, u, lambda family, r: expected(family, x[r], observed[r]))
                weighted = torch.where(gamma[..., None] > 0, gamma[..., None] * each, 0.0)
                filled = torch.where(observed, x, weighted.sum(1))
            elif how == "viterbi":
                path = torch.as_tensor(np.asarray(posterior.viterbi().states)[rows])
                each = over_contexts(emission, u, lambda family, r: likely(family, x[r], observed[r]))
                filled = each[torch.arange(len(rows)), path]
            else:
                # one stream for both: seeded alike, entries would follow from the draws of the states
                stream = check_random_state(self.random_state if random_state is None else random_state)
                path = torch.as_tensor(posterior.sample(1, stream)[0][rows])
                generator = self.generator(stream)
                filled = over_contexts(
                    emission, u, lambda family, r: complete(family, path[r], x[r], observed[r], generator)
                )
        out[rows] = plain(filled)
        if np.isnan(out).any():
            raise ValueError(
                f"how={how!r}: what is missing are symbols or angles, which have no mean; use 'sample' or 'viterbi'"
            )
        return table(X, out)

    def anomaly_scores(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> Any:
        """−log p(x_t | x_{1:t-1}) in nats, how surprising each frame was: (n,), exact.

        0 where nothing was observed, or, of an autoregression, not all frames that this one conditions on.
        """
        return -self.posterior(X, lengths, inputs=inputs).log_scores

    def hmm(self) -> HMM:
        """The fitted module, where random numbers are."""
        model = self.state_model()
        assert isinstance(model, HMM)
        return on_host(model)


def moves_ahead(model: HMM, inputs: Tensor | None, horizon: int) -> Tensor:
    """A of the moves into each of the next frames, under their inputs (B, H, U): (B or 1, H, M, M)."""
    if not model.transition.n_inputs or inputs is None:
        A = model.tables()[1].exp()
        return A.expand(1, horizon, *A.shape)
    # a move reads the inputs of the frame moved to: those of the last frame seen have no say
    return model.tables(torch.cat([inputs[:, :1], inputs], 1))[1].exp()


def last_frames(emission: Emission, data: Sequences, inputs: Tensor | None) -> Tensor:
    """The frames that the one after each of B sequences reads, the latest last: (B, order, D).

    Raises ValueError where they are not all known.
    """
    P, first = emission.order, None if inputs is None else inputs[:, 0]
    x, observed = (
        data.x.new_zeros(len(data), P, data.x.shape[1]),
        torch.zeros(len(data), P, data.x.shape[1]).bool(),
    )
    for b, (start, length) in enumerate(zip(data.starts.tolist(), data.lengths.tolist(), strict=True)):
        n = min(P, length)
        x[b, P - n :], observed[b, P - n :] = (
            v[start + length - n : start + length] for v in (data.x, data.observed)
        )
    if P and not (known := follows(emission, x, observed, first)).all():
        raise ValueError(
            f"of sequences {(~known).nonzero().flatten().tolist()} the last {P} frames are not all known, and the next "
            f"one conditions on them: a forecast of {type(emission).__name__} needs them filled in, or left off"
        )
    return x


def predictive(
    emission: Emission, road: Road, levels: tuple[float, ...]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Mean, variance (B, H, D) and quantiles (B, Q, H, D) of the frames to come; None where not known exactly."""
    mean = variance = quantiles = None
    with suppress(NotImplementedError):
        mean, variance = (plain(value) for value in moments_ahead(emission, road))
    if emission.order:
        return mean, variance, None
    weights = road.states()
    (B, H), D, w = weights.shape[:2], emission.n_features, weights.flatten(0, 1)
    with suppress(NotImplementedError):
        each = over_contexts(
            emission,
            of_inputs(emission, road.flat_inputs()),
            lambda family, rows: torch.as_tensor(mixture_quantiles(family, plain(w[rows]), levels)),
        )
        quantiles = np.moveaxis(each.numpy().reshape(B, H, len(levels), D), 2, 1)
    if quantiles is None and mean is not None and np.isnan(mean).all():
        quantiles = np.full((B, len(levels), H, D), np.nan)
    return mean, variance, quantiles


def mixture_quantiles(emission: Emission, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """The smallest x with Σ_k w_k F_k(x) ≥ level, by bisection: weights (..., K) to (..., Q, D).

    Raises NotImplementedError where the family has no distribution function.
    """
    level, whole = np.array(levels)[:, None], discrete(emission)
    shape = (*weights.shape[:-1], len(levels), emission.n_features)
    w = weights[..., None, :, None]

    def reached(x: np.ndarray) -> np.ndarray:
        return (w * cdf(emission, x)).sum(-2) >= level

    low, high = np.full(shape, -1.0), np.full(shape, 1.0)
    while (beyond := reached(low)).any():
        low[beyond] *= 2
    while (short := ~reached(high)).any():
        high[short] *= 2
    for _ in range(200):
        middle = (low + high) / 2
        middle = np.where(whole, np.floor(middle), middle)
        up = reached(middle)
        low, high = np.where(up, low, middle), np.where(up, middle, high)
        if (high - low <= np.where(whole, 1, 1e-14 * np.maximum(abs(low), abs(high)))).all():
            break
    return high


def draw_states(first: Tensor, A: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n ≥ 1 paths from each of B distributions (B, M) of the first step, by moves A (B, H, M, M): (n, B, H)."""
    state = torch.multinomial(first, n, replacement=True, generator=generator).T
    path, lane = [state], torch.arange(len(first))
    for step in A[:, 1:].unbind(1):
        rows = step[lane, state].flatten(0, 1)
        state = torch.multinomial(rows, 1, generator=generator).view(state.shape)
        path.append(state)
    return torch.stack(path, -1)


def checked_levels(quantiles: Any) -> tuple[float, ...]:
    levels = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"quantiles={quantiles!r}; they are levels between 0 and 1, such as (0.05, 0.5, 0.95)"
        )
    return tuple(levels.tolist())


def table(X: Any, values: np.ndarray) -> Any:
    """Frames (n, D) with the index and the columns of X where it is a DataFrame."""
    return pd.DataFrame(values, X.index, X.columns) if isinstance(X, pd.DataFrame) else values


def names_of(X: Any) -> list[str]:
    names = column_names(X)
    return [] if names is None else names.tolist()


def sequence_keys(X: Any) -> tuple[Any, ...]:
    """What a DataFrame calls its sequences; nothing where they have no names."""
    if isinstance(X, pd.DataFrame) and X.index.nlevels > 1:
        return tuple(X.index.get_level_values(0).unique())
    return ()
