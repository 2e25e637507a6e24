"""What users hand in, as plain arrays: frames one after the other, and the lengths of their sequences.

    (n, D) with lengths · list of (T_i, D) · (B, T, D) · DataFrame     →     frames (N, *D), lengths (B,)

A frame is a vector (D,) or a picture (C, H, W): an array of two or four dimensions is a stack of frames, one of three
or five has sequences first.

Every error names the argument, the value and the remedy.
"""

from typing import Any

import numpy as np
from torch import Tensor


def flatten(X: Any, lengths: Any, sequence: str | None) -> tuple[np.ndarray, np.ndarray]:
    """X in any of its forms as frames (N, *D) float64, NaN where missing, and lengths (B,) int64."""
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
    if array.ndim in (2, 4):
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
            "not all zero; or one a frame"
        )
    return w


def check_step_weights(weights: Any, sizes: np.ndarray) -> np.ndarray | None:
    """Weights of frames (N,), or None where these are weights of sequences: (B,), or none at all.

    One number for each of B = N sequences of one frame is a sequence's; (B, 1) says that it is the frame's.
    """
    N, B = int(sizes.sum()), len(sizes)
    given = () if weights is None else outline(weights)
    if weights is None or (len(given) == 1 and (given[0] != N or N == B)):
        return None
    w = stack("weights", weights, sizes, 1)
    if not (np.isfinite(w) & (w >= 0)).all() or not w.sum() > 0:
        raise ValueError("weights must hold finite non-negative numbers, one a frame, not all zero")
    return w


def check_labels(labels: Any, sizes: np.ndarray) -> np.ndarray:
    """States (N,) int64, −1 where unknown; or log-potentials (N, K) of soft labels, the largest of a frame being 0."""
    if soft(labels, sizes):
        return log_potentials(stack("labels", labels, sizes, 2))
    y = stack("labels", labels, sizes, 1)
    y = np.where(np.isnan(y), -1, y)
    wrong = y[~np.isfinite(y) | (y < -1) | (np.where(np.isfinite(y), y, 0) % 1 != 0)]
    if len(wrong):
        raise ValueError(
            f"labels hold {wrong[0]:g}; they are whole numbers from 0, and −1 or NaN where unknown, or (N, K): "
            "how well each state fits a frame"
        )
    return y.astype(np.int64)


def soft(labels: Any, sizes: np.ndarray) -> bool:
    """Whether labels have a number for every state: (N, K), a list of (T_i, K) or (B, T, K)."""
    given = outline(labels)
    if len(given) != 2:
        return len(given) == 3
    N, B, T = int(sizes.sum()), len(sizes), int(sizes.max())
    if isinstance(labels, list | tuple) and [outline(row) for row in labels] == [
        (n,) for n in sizes.tolist()
    ]:
        return False  # a list of (T_i,)
    n, width = given
    padded = n == B and width >= T and not (B == N and width > 1)  # (B, T)
    return not padded and n == N and width > 1  # one column knows nothing of one state: a slip for (N,)


def log_potentials(likelihood: np.ndarray) -> np.ndarray:
    """log p(evidence | s_t = k) up to a constant a frame, from (N, K) numbers proportional to it; a row of NaN says
    nothing."""
    nothing = np.isnan(likelihood).all(1)
    known = np.where(nothing[:, None], 1.0, likelihood)
    for wrong, words in (
        (
            ~(np.isfinite(known) & (known >= 0)).all(1),
            "they are finite and not negative; a row of NaN is unknown",
        ),
        (~(known > 0).any(1), "they rule out every state; a row of NaN is unknown"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"labels of frame {row} are {likelihood[row].tolist()}: {words}")
    with np.errstate(divide="ignore"):
        return np.log(known / known.max(1, keepdims=True))


def outline(values: Any) -> tuple[int, ...]:
    """The shape of an array; of a list that may be ragged, how many rows it has and the outline of the first."""
    if isinstance(values, list | tuple) and len(values):
        return len(values), *outline(values[0])
    return tuple(values.shape) if isinstance(values, Tensor) else np.asarray(values).shape


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
