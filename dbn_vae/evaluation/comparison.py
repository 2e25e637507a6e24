"""Models side by side on data none of them saw: one table, best first, every number labelled with its kind.

Sequences, or blocks in time of one long sequence, are held out.  All models are fitted to the same rest and scored on
the same held-out blocks, so besides each level, whose standard error is mostly that of the data, the table
gives the difference to a reference model block by block, whose standard error is the one that decides.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from dbn_vae.evaluation.likelihood import Score, ratio_error


class Candidate(Protocol):
    """What compare asks of a model; every estimator of the package answers it."""

    def fit(self, X: Any) -> Any: ...
    def evaluate(self, X: Any, lengths: Any = None) -> Score: ...
    def n_parameters(self) -> int: ...
    @property
    def n_states(self) -> int: ...


class Split(NamedTuple):
    """Train and test data as lists of sequences, and where each block began in the original rows."""

    train: list[np.ndarray]
    test: list[np.ndarray]
    train_starts: list[int]
    test_starts: list[int]


def hold_out(X: Any, lengths: Any = None, *, block: int = 50, every: int = 3) -> Split:
    """Cut sequences into blocks of about `block` frames and hold out each `every`-th; neighbours stay together.

    Sequences shorter than one and a half blocks are one block.  Raises ValueError when nothing would be left.
    """
    from dbn_vae.sequences import flatten

    if block < 1 or every < 2:
        raise ValueError(f"block={block} must be at least 1 and every={every} at least 2")
    frames, sizes = flatten(X, lengths, None)
    bounds: list[tuple[int, int]] = []
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        cuts = np.linspace(start, start + size, max(1, round(size / block)) + 1).astype(int)
        bounds += list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    if len(bounds) < every:
        raise ValueError(
            f"only {len(bounds)} blocks of {block} frames: too few to hold out one in {every}; "
            "give a smaller block"
        )
    held = [i % every == every - 1 for i in range(len(bounds))]
    train: list[tuple[int, int]] = []
    for (a, b), out in zip(bounds, held, strict=True):
        if out:
            continue
        starts_sequence = a in set((np.cumsum(sizes) - sizes).tolist())
        if train and train[-1][1] == a and not starts_sequence:
            train[-1] = (train[-1][0], b)  # neighbours in time are one sequence
        else:
            train.append((a, b))
    test = [bound for bound, out in zip(bounds, held, strict=True) if out]
    return Split(
        [frames[a:b] for a, b in train],
        [frames[a:b] for a, b in test],
        [a for a, _ in train],
        [a for a, _ in test],
    )


@dataclass
class Peer:
    """A hmmlearn model behind the same three verbs."""

    model: Any

    def fit(self, X: Any, lengths: Any = None) -> "Peer":
        self.model.fit(*stacked(X, lengths))
        return self

    def evaluate(self, X: Any, lengths: Any = None) -> Score:
        frames, sizes = stacked(X, lengths)
        ends = np.cumsum(sizes)
        values = [self.model.score(frames[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
        return Score(torch.tensor(values, dtype=torch.float64), torch.as_tensor(sizes), "exact")

    def n_parameters(self) -> int:
        return int(sum(self.model._get_n_fit_scalars_per_param().values()))

    @property
    def n_states(self) -> int:
        return int(self.model.n_components)


def stacked(X: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    from dbn_vae.sequences import flatten

    return flatten(X, lengths, None)


class Row(NamedTuple):
    """One fitted candidate."""

    name: str
    model: Candidate
    score: Score
    seconds: float


def fit_and_score(
    candidates: Iterable[tuple[str, Candidate]],
    split: Split,
    announce: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Fit every candidate to the training part and score it on the held-out part."""
    rows = []
    for name, model in candidates:
        announce(name)
        began = time.perf_counter()
        model.fit(split.train)
        seconds = time.perf_counter() - began
        rows.append(Row(name, model, model.evaluate(split.test), seconds))
    return rows


def table(rows: Sequence[Row], reference: str | None = None) -> pd.DataFrame:
    """Rows best first, ties in the order given.

    gain is the difference to a reference row, the first one given unless named, paired block by block;
    attrs["reference"] holds its name.
    """
    named = {row.name: row for row in rows}
    base = named[reference] if reference is not None else rows[0]
    records = []
    for row in rows:
        gain = row.score.per_sequence - base.score.per_sequence
        frames = int(row.score.lengths.sum())
        records.append(
            {
                "model": row.name,
                "per frame": row.score.per_frame,
                "s.e.": row.score.standard_error,
                "gain": float(gain.sum()) / frames,
                "gain s.e.": ratio_error(gain, row.score.lengths) if row is not base else 0.0,
                "kind": row.score.kind,
                "Monte Carlo s.e.": row.score.monte_carlo_error / frames,
                "states": row.model.n_states,
                "parameters": row.model.n_parameters(),
                "seconds": row.seconds,
            }
        )
    unsorted = pd.DataFrame(records)
    # models that agree to rounding are ties, not winners
    order = np.argsort(-unsorted["per frame"].round(9).to_numpy(), kind="stable")
    result = unsorted.iloc[order].reset_index(drop=True)
    result.attrs["reference"] = base.name
    return result


def compare(
    models: Sequence[Candidate],
    X: Any,
    lengths: Any = None,
    *,
    block: int = 50,
    every: int = 3,
    hmmlearn: bool = True,
) -> pd.DataFrame:
    """Fit every model on part of the data and tabulate what each says of the rest, hmmlearn beside them.

    Args:
        models: unfitted estimators of this package.
        block, every: see hold_out.
        hmmlearn: also fit hmmlearn's GaussianHMM with as many states as each model has, diagonal covariances.

    Returns:
        One row a model, best first: held-out nats per frame, its standard error over held-out blocks, the
        gain over the first model given with the standard error of that gain, the kind of number, its
        Monte Carlo error, states, free parameters, seconds to fit.
    """
    split = hold_out(X, lengths, block=block, every=every)
    names = [repr(model) for model in models]
    candidates = [
        (name if names.count(name) == 1 else f"{name} #{i + 1}", model)
        for i, (name, model) in enumerate(zip(names, models, strict=True))
    ]
    if hmmlearn:
        from hmmlearn.hmm import GaussianHMM

        sizes = sorted({m.n_states for m in models})
        candidates += [
            (f"hmmlearn GaussianHMM({k})", Peer(GaussianHMM(k, random_state=0, n_iter=100))) for k in sizes
        ]
    return table(fit_and_score(candidates, split))
