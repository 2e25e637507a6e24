"""Sequences: a ragged, possibly incomplete data set as one object, and the padded batches cut from it.

A data set is B sequences x_{1:T_b}.  It is kept flat, all frames one after the other, so that a very long
sequence beside very short ones costs no memory; models see padded `Batch`es.  A value that is NaN is missing:
it is stored as 0 with observed = False, so no NaN ever enters a computation or a gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dbn_vae.arrays import check_inputs, check_labels, check_step_weights, check_weights, flatten

BLOCK = 2**16  # frames that sums over a long data set read at a time


class Batch(NamedTuple):
    """Some sequences of a data set, padded to the longest of them."""

    x: Tensor  # (B, T, *D), 0 where not observed
    observed: Tensor  # (B, T, *D) bool, False where missing or padding
    lengths: Tensor  # (B,) int64
    weights: Tensor  # (B,)
    labels: Tensor | None  # (B, T) int64, −1 unknown; or (B, T, K) log-potentials
    inputs: Tensor | None  # (B, T, U)
    which: Tensor  # (B,) which sequences of the data set
    step_weights: Tensor | None = None  # (B, T), 0 on padding

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
    labels: Tensor | None = (
        None  # (N,) int64, −1 unknown; or (N, K) log-potentials, 0 throughout where unknown
    )
    inputs: Tensor | None = None  # (N, U)
    step_weights: Tensor | None = None  # (N,) how many times each frame counts as evidence; None: once

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
            X: a Sequences, taken as it is; (n, *D) array or tensor with `lengths`, the B sequences stacked; a list
                of (T_i, *D) arrays; (B, T, *D), where `lengths` may cut each sequence short, a frame being a vector
                (D,) or a picture (C, H, W): four dimensions are (n, C, H, W); or a DataFrame whose
                sequences are told apart by `lengths`, by the column named `sequence`, or by the first level of
                a MultiIndex.
            labels: one integer a frame, stacked (N,), a list of (T_i,) or (B, T); −1 or NaN: unknown.  Or soft
                labels, one dimension more: numbers proportional to p(evidence | s_t = k), a row of NaN: unknown.
            inputs: covariates u_t, stacked (N, U), a list of (T_i, U) or (B, T, U).
            weights: (B,) non-negative weight of each sequence; or of each frame, stacked (N,), a list of (T_i,) or
                (B, T): a frame of weight w counts as w independent observations of one step.

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
        every = None if weights is None else check_step_weights(weights, sizes)
        y = None if labels is None else check_labels(labels, sizes)
        return cls(
            x=torch.as_tensor(np.require(frames, requirements=["C", "W"]), dtype=dtype, device=device),
            observed=torch.as_tensor(observed, device=device),
            lengths=torch.as_tensor(sizes, device=device),
            weights=torch.as_tensor(
                check_weights(weights if every is None else None, len(sizes)), dtype=dtype, device=device
            ),
            labels=None
            if y is None
            else torch.as_tensor(y, dtype=None if y.ndim == 1 else dtype, device=device),
            inputs=None
            if inputs is None
            else torch.as_tensor(check_inputs(inputs, sizes), dtype=dtype, device=device),
            step_weights=None if every is None else torch.as_tensor(every, dtype=dtype, device=device),
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

    @property
    def frame_weights(self) -> Tensor:
        """Weight of each frame as evidence, its sequence's times its own: (N,)."""
        weights = (
            self.weights.expand(self.n_frames)
            if len(self) == 1
            else self.weights.repeat_interleave(self.lengths)
        )
        return weights if self.step_weights is None else weights * self.step_weights

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every entry over the frames that observe it, with their weights: (*D) each.

        Block by block: a long data set fills memory already.
        """
        given = [self.weights] if self.step_weights is None else [self.weights, self.step_weights]
        if all(bool((w == 1).all()) for w in given) and bool(self.observed.all()):
            variance, mean = torch.var_mean(self.x, 0, correction=0)
            return mean, variance
        weights = self.frame_weights.view(-1, *[1] * (self.x.dim() - 1))
        blocks = list(zip(*(in_blocks(part) for part in (self.x, self.observed, weights)), strict=True))
        count = reduce(torch.add, ((w * seen).sum(0) for _, seen, w in blocks)).to(self.x.dtype)
        count = torch.where(count > 0, count, 1.0)
        mean = reduce(torch.add, ((w * seen * x).sum(0) for x, seen, w in blocks)) / count
        scatter = reduce(torch.add, ((w * seen * (x - mean).square()).sum(0) for x, seen, w in blocks))
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
            if not values.is_cpu:  # what is on a device stays there
                there = torch.from_numpy(rows).to(values.device)
                real = (there >= 0).view(*there.shape, *[1] * (values.dim() - 1))
                return torch.where(real, values[there.clamp_min(0)], fill)
            # NumPy gathers in one thread: for a copy, waking the others costs more than it gains
            out = np.take(values.cpu().numpy(), np.maximum(rows, 0), axis=0)
            out[~mask] = fill
            return torch.from_numpy(out).to(values.device)

        return Batch(
            x=padded(self.x, 0),
            observed=padded(self.observed, False),
            lengths=self.lengths[chosen],
            weights=self.weights[chosen],
            labels=None if self.labels is None else padded(self.labels, -1 if self.labels.dim() == 1 else 0),
            inputs=None if self.inputs is None else padded(self.inputs, 0),
            which=index,
            step_weights=None if self.step_weights is None else padded(self.step_weights, 0),
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
            step_weights=None if self.step_weights is None else self.step_weights[None],
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

    def stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames (N, *D) float64, NaN where missing, and lengths (B,)."""
        missing = torch.full((), torch.nan, dtype=torch.float64)
        return torch.where(self.observed.cpu(), self.x.cpu(), missing).numpy(), self.lengths.cpu().numpy()

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
            step_weights=None if self.step_weights is None else self.step_weights[rows],
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
            step_weights=self.step_weights,
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
        y = self.labels
        return Sequences(
            x=self.x.to(device, dtype),
            observed=self.observed.to(device),
            lengths=self.lengths.to(device),
            weights=self.weights.to(device, dtype),
            labels=None if y is None else y.to(device, dtype if y.is_floating_point() else y.dtype),
            inputs=None if self.inputs is None else self.inputs.to(device, dtype),
            step_weights=None if self.step_weights is None else self.step_weights.to(device, dtype),
        )


def in_blocks(frames: Tensor) -> tuple[Tensor, ...]:
    return frames.split(BLOCK) if len(frames) > BLOCK else (frames,)
