"""Sequences: a ragged, possibly incomplete data set as one object, and the padded batches cut from it.

A data set is B sequences x_{1:T_b}.  It is kept flat, all frames one after the other, so that a very long
sequence beside very short ones costs no memory; models see padded `Batch`es.  A value that is NaN is missing:
it is stored as 0 with observed = False, so no NaN ever enters a computation or a gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Some sequences of a data set, padded to the longest of them."""

    x: Tensor  # (B, T, *D), 0 where not observed
    observed: Tensor  # (B, T, *D) bool, False where missing or padding
    lengths: Tensor  # (B,) int64
    weights: Tensor  # (B,)
    labels: Tensor | None  # (B, T) int64, −1 unknown
    inputs: Tensor | None  # (B, T, U)
    which: Tensor  # (B,) which sequences of the data set

    @property
    def mask(self) -> Tensor:
        """True on real steps: (B, T)."""
        return torch.arange(self.x.shape[1], device=self.x.device) < self.lengths[:, None]


@dataclass(frozen=True)
class Sequences:
    """B sequences of N frames in all."""

    x: Tensor  # (N, *D), 0 where not observed
    observed: Tensor  # (N, *D) bool
    lengths: Tensor  # (B,) int64
    weights: Tensor  # (B,)
    labels: Tensor | None = None  # (N,) int64, −1 unknown
    inputs: Tensor | None = None  # (N, U)

    @classmethod
    def from_any(
        cls,
        X: Any,
        lengths: Any = None,
        *,
        sequence: str | None = None,
        labels: Any = None,
        inputs: Any = None,
        weights: Any = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> "Sequences":
        """Data in any of the usual forms; complete float64 arrays are not copied.

        Args:
            X: a Sequences, taken as it is; (n, D) array or tensor with `lengths`, the B sequences stacked; a list
                of (T_i, *D) arrays; (B, T, *D), where `lengths` may cut each sequence short; or a DataFrame whose
                sequences are told apart by `lengths`, by the column named `sequence`, or by the first level of
                a MultiIndex.
            labels: one integer a frame, stacked (N,), a list of (T_i,) or (B, T); −1 or NaN: unknown.
            inputs: covariates u_t, stacked (N, U), a list of (T_i, U) or (B, T, U).
            weights: (B,) non-negative weight of each sequence.

        Raises:
            ValueError: naming the argument, the offending value and the remedy.

        >>> Sequences.from_any([[[1.0], [2.0]], [[float("nan")]]]).lengths
        tensor([2, 1])
        """
        if isinstance(X, Sequences):
            if any(v is not None for v in (lengths, sequence, labels, inputs, weights)):
                raise ValueError(
                    "X is a Sequences, which carries its own lengths, labels, inputs and weights"
                )
            return X.to(dtype=dtype, device=device)
        frames, sizes = flatten(X, lengths, sequence)
        observed = np.isfinite(frames)
        if not observed.all():
            if np.isinf(frames).any():
                row = int(np.argwhere(np.isinf(frames))[0][0])
                raise ValueError(f"X holds an infinite value in row {row}; use NaN for missing data")
            frames = np.where(observed, frames, 0.0)
        return cls(
            x=torch.as_tensor(np.require(frames, requirements=["C", "W"]), dtype=dtype, device=device),
            observed=torch.as_tensor(observed, device=device),
            lengths=torch.as_tensor(sizes, device=device),
            weights=torch.as_tensor(check_weights(weights, len(sizes)), dtype=dtype, device=device),
            labels=None if labels is None else torch.as_tensor(check_labels(labels, sizes), device=device),
            inputs=None
            if inputs is None
            else torch.as_tensor(check_inputs(inputs, sizes), dtype=dtype, device=device),
        )

    def replace(self, **fields: Tensor) -> "Sequences":
        """The same data set with some fields exchanged."""
        return replace(self, **fields)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_frames(self) -> int:
        return len(self.x)

    @property
    def starts(self) -> Tensor:
        """Row of each sequence's first frame: (B,)."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every entry over the frames that observe it, with the sequences' weights: (*D) each.

        Block by block: a long data set fills memory already.
        """
        weights = self.weights.repeat_interleave(self.lengths).view(-1, *[1] * (self.x.dim() - 1))
        blocks = list(zip(*(part.split(2**16) for part in (self.x, self.observed, weights)), strict=True))
        count = torch.stack([(w * seen).sum(0) for _, seen, w in blocks]).sum(0)
        count = torch.where(count > 0, count, 1.0)
        mean = torch.stack([(w * seen * x).sum(0) for x, seen, w in blocks]).sum(0) / count
        scatter = torch.stack([(w * seen * (x - mean).square()).sum(0) for x, seen, w in blocks]).sum(0)
        return mean, scatter / count

    def batch(self, index: Tensor | None = None) -> Batch:
        """The named sequences (all of them without `index`), padded."""
        if index is None:
            index = torch.arange(len(self), device=self.x.device)
        rows = self.rows(index)
        if isinstance(rows, slice):
            chosen: Tensor | slice = slice(int(index[0]), int(index[0]) + len(index))
            shape = len(index), int(self.lengths[chosen][0])
        else:
            chosen = index
            mask = rows >= 0

        def padded(values: Tensor, fill: float) -> Tensor:
            if isinstance(rows, slice):
                return values[rows].view(*shape, *values.shape[1:])
            # NumPy gathers in one thread: for a copy, waking the others costs more than it gains
            out = np.take(values.cpu().numpy(), np.maximum(rows, 0), axis=0)
            out[~mask] = fill
            return torch.from_numpy(out).to(values.device)

        return Batch(
            x=padded(self.x, 0),
            observed=padded(self.observed, False),
            lengths=self.lengths[chosen],
            weights=self.weights[chosen],
            labels=None if self.labels is None else padded(self.labels, -1),
            inputs=None if self.inputs is None else padded(self.inputs, 0),
            which=index,
        )

    def batches(self, max_frames: int = 2**18) -> Iterator[Batch]:
        """Every sequence once, sequences of like length together, about max_frames padded frames each."""
        if len(self) == 1:
            yield self.only()
            return
        lengths = self.lengths.cpu().numpy()
        order = torch.from_numpy(np.argsort(-lengths, kind="stable")).to(self.x.device)
        sizes = -np.sort(-lengths)
        first = 0
        while first < len(order):
            last = first + max(1, max_frames // int(sizes[first]))
            yield self.batch(order[first:last])
            first = last

    def only(self) -> Batch:
        """The one sequence of the data set as a batch: views, no gather."""
        return Batch(
            x=self.x[None],
            observed=self.observed[None],
            lengths=self.lengths,
            weights=self.weights,
            labels=None if self.labels is None else self.labels[None],
            inputs=None if self.inputs is None else self.inputs[None],
            which=torch.zeros(1, dtype=torch.int64, device=self.x.device),
        )

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Every sequence once in random order, batch_size sequences at a time."""
        order = torch.randperm(len(self), generator=generator).to(self.x.device)
        for index in order.split(batch_size):
            yield self.batch(index)

    def unbatch(self, batch: Batch, values: Tensor, out: Tensor) -> None:
        """Write values (B, T, ...) of a batch's real steps to the rows of out (N, ...) they came from."""
        rows = self.rows(batch.which)
        if isinstance(rows, slice):
            out.numpy()[rows] = values.flatten(0, 1).cpu().numpy()
        else:
            mask = rows >= 0
            out.numpy()[rows[mask]] = values.cpu().numpy()[mask]

    def rows(self, index: Tensor) -> slice | np.ndarray:
        """Where the frames of the named sequences lie: (B, T), −1 on padding.

        A slice where these are neighbours of one length: their batch is then a view of the data.
        """
        which, lengths = index.cpu().numpy(), self.lengths.cpu().numpy()
        starts = np.cumsum(lengths) - lengths
        first, size = starts[which], lengths[which]
        if len(which) and (size == size[0]).all() and (np.diff(which) == 1).all():
            return slice(int(first[0]), int(first[-1] + size[-1]))
        step = np.arange(size.max())
        return np.where(step < size[:, None], first[:, None] + step, -1)

    def subset(self, index: Sequence[int] | Tensor) -> "Sequences":
        """The named sequences as a data set of their own."""
        index = torch.as_tensor(index, device=self.x.device)
        lengths, starts = self.lengths[index], self.starts[index]
        first = (lengths.cumsum(0) - lengths).repeat_interleave(
            lengths
        )  # where each one begins in the subset
        rows = starts.repeat_interleave(lengths) + torch.arange(len(first), device=first.device) - first
        return Sequences(
            x=self.x[rows],
            observed=self.observed[rows],
            lengths=lengths,
            weights=self.weights[index],
            labels=None if self.labels is None else self.labels[rows],
            inputs=None if self.inputs is None else self.inputs[rows],
        )

    def frames(self) -> "Sequences":
        """Each frame a sequence of its own (T = 1): the data set of a static model."""
        return Sequences(
            x=self.x,
            observed=self.observed,
            lengths=torch.ones(self.n_frames, dtype=torch.int64, device=self.x.device),
            weights=self.weights.repeat_interleave(self.lengths),
            labels=self.labels,
            inputs=self.inputs,
        )

    def segments(self, max_length: int) -> "Sequences":
        """The same frames with every sequence cut into nearly equal pieces of at most max_length frames."""
        pieces = []
        for length in self.lengths.tolist():
            n = -(-length // max_length)
            cuts = torch.linspace(0, length, n + 1).round().long()
            pieces.append(cuts.diff())
        count = torch.tensor([len(p) for p in pieces], device=self.x.device)
        return replace(
            self,
            lengths=torch.cat(pieces).to(self.x.device),
            weights=self.weights.repeat_interleave(count),
        )

    def to(self, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> "Sequences":
        """The same data in another floating type and on another device."""
        return Sequences(
            x=self.x.to(device, dtype),
            observed=self.observed.to(device),
            lengths=self.lengths.to(device),
            weights=self.weights.to(device, dtype),
            labels=None if self.labels is None else self.labels.to(device),
            inputs=None if self.inputs is None else self.inputs.to(device, dtype),
        )


def flatten(X: Any, lengths: Any, sequence: str | None) -> tuple[np.ndarray, np.ndarray]:
    """X in any of its forms as frames (N, *D) float64, NaN where missing, and lengths (B,) int64."""
    if isinstance(X, Sequences):
        missing = torch.full((), torch.nan, dtype=torch.float64)
        return torch.where(X.observed.cpu(), X.x.cpu(), missing).numpy(), X.lengths.cpu().numpy()
    if hasattr(X, "columns"):  # a DataFrame; pandas itself need not be imported for the other forms
        return flatten_frame(X, lengths, sequence)
    if sequence is not None:
        raise ValueError(f"sequence={sequence!r} names a column, but X is no DataFrame; use lengths")
    if isinstance(X, list | tuple) and len(X) and all(np.ndim(as_numpy(x)) >= 2 for x in X):
        return flatten_list([as_numpy(x) for x in X], lengths)
    array = as_numpy(X)
    if array.ndim < 2:
        raise ValueError(
            f"X has shape {array.shape}; a sequence is (n, D). Reshape your data: for one column use "
            "X.reshape(-1, 1)"
        )
    if array.ndim == 2:
        return array, check_lengths(lengths, total=len(array))
    B, T = array.shape[:2]
    cut = np.full(B, T) if lengths is None else check_lengths(lengths, total=None)
    if len(cut) != B or cut.max() > T:
        raise ValueError(
            f"lengths={cut.tolist()} does not fit X of shape {array.shape}: "
            f"it needs {B} lengths of at most {T}"
        )
    return array[np.arange(T) < cut[:, None]], cut


def flatten_list(arrays: list[np.ndarray], lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    if lengths is not None:
        raise ValueError("lengths is given, but X is a list of sequences, which has its own lengths")
    shapes = {a.shape[1:] for a in arrays}
    if len(shapes) > 1:
        raise ValueError(f"the sequences in X differ in their frames' shape: {sorted(shapes)}")
    return np.concatenate(arrays), check_lengths([len(a) for a in arrays], total=None)


def flatten_frame(X: Any, lengths: Any, sequence: str | None) -> tuple[np.ndarray, np.ndarray]:
    key = None
    if sequence is not None:
        if sequence not in X.columns:
            raise ValueError(f"sequence={sequence!r} is no column of X; it has {list(X.columns)}")
        key, X = X[sequence], X.drop(columns=sequence)
    elif X.index.nlevels > 1:
        key = X.index.get_level_values(0)
    text = [c for c, kind in X.dtypes.items() if kind.kind not in "biuf"]
    if text:
        raise ValueError(f"columns {text} of X are not numeric; encode or drop them")
    values = X.to_numpy(dtype=np.float64, na_value=np.nan)
    if key is None:
        return flatten(values, lengths, None)
    if lengths is not None:
        raise ValueError("lengths is given, but the DataFrame X names its sequences itself")
    keys = np.asarray(key)
    change = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    runs = np.diff(np.concatenate([[0], change, [len(keys)]]))
    if len(runs) != len(set(keys.tolist())):
        raise ValueError("the rows of a sequence must stand together: sort X by its sequence key")
    return values, check_lengths(runs, total=len(values))


def as_numpy(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    shapes = "X must hold real numbers in one regular shape: (n, D), (B, T, D) or a list of (T_i, D)"
    if getattr(getattr(value, "dtype", None), "kind", "f") == "c":
        raise ValueError(f"Complex data not supported: {shapes}")
    if hasattr(value, "toarray"):  # scipy need not be imported to know its matrices
        raise TypeError(f"X is a sparse {type(value).__name__}, which is not supported; use X.toarray()")
    try:
        return np.asarray(value, dtype=np.float64)
    except TypeError as error:
        raise TypeError(f"{shapes}; {error}") from error
    except ValueError as error:
        raise ValueError(shapes) from error


def check_lengths(lengths: Any, total: int | None) -> np.ndarray:
    if lengths is None and total:
        return np.array([total])  # one sequence
    sizes = np.atleast_1d(np.asarray([total] if lengths is None else lengths))
    whole = sizes.dtype.kind in "iu" or (sizes.dtype.kind == "f" and not (sizes % 1).any())
    if sizes.ndim != 1 or not whole:
        raise ValueError(f"lengths={lengths!r} must be a one-dimensional list of whole numbers")
    if len(sizes) == 0 or sizes.min() < 1:
        raise ValueError(f"lengths={sizes.tolist()}: every sequence needs at least one frame")
    if total is not None and sizes.sum() != total:
        raise ValueError(f"lengths sum to {sizes.sum()}, but X has {total} rows")
    return sizes.astype(np.int64)


def check_weights(weights: Any, B: int) -> np.ndarray:
    if weights is None:
        return np.ones(B)
    w = numbers("weights", weights).copy()
    if w.shape != (B,) or not (np.isfinite(w) & (w >= 0)).all() or not w.sum() > 0:
        raise ValueError(
            f"weights={w.tolist()} of shape {w.shape} must be {B} finite non-negative numbers, one a sequence, "
            "not all zero"
        )
    return w


def check_labels(labels: Any, sizes: np.ndarray) -> np.ndarray:
    y = stack("labels", labels, sizes, 1)
    y = np.where(np.isnan(y), -1, y)
    wrong = y[~np.isfinite(y) | (y < -1) | (np.where(np.isfinite(y), y, 0) % 1 != 0)]
    if len(wrong):
        raise ValueError(
            f"labels hold {wrong[0]:g}; they are whole numbers from 0, and −1 or NaN where unknown"
        )
    return y.astype(np.int64)


def check_inputs(inputs: Any, sizes: np.ndarray) -> np.ndarray:
    u = stack("inputs", inputs, sizes, 2)
    if not np.isfinite(u).all():
        raise ValueError("inputs hold NaN or infinite values; covariates must be known throughout")
    return u


def stack(name: str, values: Any, sizes: np.ndarray, ndim: int) -> np.ndarray:
    """What goes with every frame, as one array of ndim dimensions: (N, ...).

    Accepts (N, ...), a list of (T_i, ...) that fits the sequences one by one, or (B, T, ...) cut as X is.
    """
    if isinstance(values, list | tuple) and len(values) and all(np.ndim(v) == ndim for v in values):
        given = [len(v) for v in values]
        if given != sizes.tolist():
            raise ValueError(f"{name} has sequences of lengths {given}, but those of X are {sizes.tolist()}")
        return np.concatenate([numbers(name, v) for v in values])
    array = numbers(name, values)
    N, B, T = int(sizes.sum()), len(sizes), int(sizes.max())
    if array.ndim == ndim and len(array) == N:
        return array.copy()
    if array.ndim == ndim + 1 and len(array) == B and array.shape[1] >= T:
        return array[np.arange(array.shape[1]) < sizes[:, None]]
    shape = "(N,)" if ndim == 1 else "(N, U)"
    raise ValueError(
        f"{name} has shape {array.shape}; it must be {shape} with N = {N}, one row a frame of X, "
        "or be given sequence by sequence"
    )


def numbers(name: str, values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers; got {values!r}") from error
