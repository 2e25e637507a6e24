"""What a caller handed in: columns, and a second positional argument that may be two things.

Is it `lengths`, as in hmmlearn, or a target y, as in scikit-learn?

    hmmlearn        fit(X, lengths)      lengths sum to the rows of X
    scikit-learn    fit(X, y)            one y a row (or a sequence), which no model here reads

It is lengths only where it can be nothing else.  What could be both is refused, never guessed.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dbn_vae.arrays import as_numpy, check_inputs, numbers
from dbn_vae.sequences import Sequences


def lengths_given(X: Any, y: Any, lengths: Any) -> Any:
    """The lengths among the arguments of fit(X, y, lengths=...), or None.

    Raises ValueError where y could be lengths as well as targets.
    """
    if lengths is not None or y is None:
        return lengths
    if isinstance(X, Sequences):
        return y  # refused where the data are read: Sequences know their lengths
    if names_its_sequences(X):
        fits = isinstance(X, pd.DataFrame) or np.shape(y)[:1] == (len(X),)
        return None if fits else y  # refused where the data are read: such X knows its lengths
    shape = X.shape if hasattr(X, "shape") else as_numpy(X).shape
    targets = np.asarray(y)
    rows = shape[0] if shape else 0
    if targets.ndim == 0 or len(targets) != rows:
        return y  # not one target each: checked as lengths where the data are read
    sizes = whole_positive(targets)
    if len(shape) in (3, 5):  # (B, T, D) or (B, T, C, H, W)
        if sizes is not None and sizes.max() <= shape[1]:
            raise ambiguous(f"lengths or targets of the {rows} sequences in X")
        return None
    if sizes is None or sizes.sum() != rows:
        return None
    if rows > 1:
        raise ambiguous(f"{rows} sequences of one frame each or one target a row")
    return y


def names_its_sequences(X: Any) -> bool:
    """A list of sequences, or a DataFrame with a MultiIndex: nobody gives lengths beside it."""
    if isinstance(X, pd.DataFrame):
        return bool(X.index.nlevels > 1)
    return isinstance(X, list | tuple) and len(X) > 0 and all(np.ndim(x) >= 2 for x in X)


def whole_positive(values: np.ndarray) -> np.ndarray | None:
    """The values, where they are a list of positive whole numbers."""
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iuf":
        return None
    return values if ((values > 0) & (values % 1 == 0)).all() else None


def ambiguous(readings: str) -> ValueError:
    return ValueError(
        f"the second argument could be {readings}: write lengths=... for lengths of sequences, "
        "or leave targets out, which no model here reads (known states are labels=...)"
    )


def column_names(X: Any) -> np.ndarray | None:
    """The names of a DataFrame's columns, where all are text: (D,)."""
    if isinstance(X, pd.DataFrame) and len(X.columns) and all(isinstance(c, str) for c in X.columns):
        return np.asarray(X.columns, dtype=object)
    return None


def require_columns(X: Any, names: np.ndarray | None) -> None:
    """Raise ValueError where X names its columns otherwise, or in another order, than the data of the fit."""
    given = column_names(X)
    if names is not None and given is not None and given.tolist() != names.tolist():
        raise ValueError(
            f"X has the columns {given.tolist()}; this model was fitted to {names.tolist()}, in this order: "
            "use X[model.feature_names_in_]"
        )


def require_width(data: Sequences, width: int, name: str) -> None:
    """Raise ValueError unless the frames of data are vectors of this width."""
    require_shape(data, (width,), name)


def require_shape(data: Sequences, expected: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless the frames of data have this shape: (D,) or (C, H, W)."""
    shape = tuple(data.x.shape[1:])
    if shape != expected and len(shape) == len(expected) == 1:
        raise ValueError(
            f"X has {shape[0]} features, but {name} is expecting {expected[0]} features as input"
        )
    if shape != expected:
        raise ValueError(f"X has frames of shape {shape}; this model was fitted to {expected}")


def frame_shape(data: Sequences) -> tuple[int, ...]:
    """(D,), or (C, H, W) of pictures; raises ValueError for frames that are neither, or whose channels stand last."""
    shape = tuple(data.x.shape[1:])
    if len(shape) not in (1, 3):
        raise ValueError(
            f"X has frames of shape {shape}; a frame is a vector (D,) or a picture (C, H, W). Give a picture of one "
            "channel that axis: X[..., None, :, :]"
        )
    if len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"X has pictures of shape {shape}, whose channels seem to stand last; a picture is (C, H, W): "
            "np.moveaxis(X, -1, -3)"
        )
    return shape


def require_whole(minimum: int, **values: Any) -> None:
    """Raise ValueError naming the first value that is no whole number from the minimum."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or value < minimum:
            raise ValueError(f"{name}={value!r}; it must be a whole number from {minimum}")


def require_number(minimum: float = -math.inf, **values: Any) -> None:
    """Raise ValueError naming the first value that is no number from the minimum."""
    for name, value in values.items():
        if not isinstance(value, int | float | np.number) or not value >= minimum:
            bound = "" if minimum == -math.inf else f" from {minimum:g}"
            raise ValueError(f"{name}={value!r}; it must be a number{bound}")


def require_positive(**values: Any) -> None:
    """Raise ValueError naming the first value that is no number above 0."""
    for name, value in values.items():
        if not isinstance(value, int | float | np.number) or not value > 0:
            raise ValueError(f"{name}={value!r}; it must be a number above 0")


def require_choice(choices: Iterable[str], **value: str) -> None:
    """Raise ValueError for an argument, given by its name, that is none of the choices."""
    for name, given in value.items():
        if given not in choices:
            raise ValueError(f"{name}={given!r}; it is one of {list(choices)}")


def input_columns(X: Any, inputs: Any) -> int:
    """Columns of the inputs that come with X, in whatever form; 0 where none do."""
    given = X.inputs if isinstance(X, Sequences) else inputs
    if given is None:
        return 0
    one = given[0] if isinstance(given, list | tuple) and len(given) and np.ndim(given[0]) == 2 else given
    return int(np.shape(one)[-1]) if np.ndim(one) else 0  # what is no table is refused where it is read


def require_inputs(data: Sequences, n_inputs: int, name: str) -> None:
    """Raise ValueError unless the data have the inputs that a model reads, and no others."""
    given = 0 if data.inputs is None else data.inputs.shape[1]
    if given == n_inputs:
        return
    if n_inputs == 0:
        raise ValueError(
            f"inputs are given, but this {name} reads none: leave them out, or take EmissionHMM with a part that "
            "reads them, such as emissions.LinearRegression (a family of your own says so by its n_inputs)"
        )
    words = f"inputs have {given} columns" if given else "inputs are not given"
    raise ValueError(
        f"{words}, but this {name} reads {n_inputs} a frame: give inputs of shape {(data.n_frames, n_inputs)}"
    )


def require_sample_inputs(inputs: Any, n_samples: int, n_inputs: int, name: str) -> Tensor | None:
    """The inputs (n_samples, n_inputs) of a sequence to draw; raises ValueError where they do not fit."""
    u = None if inputs is None else torch.as_tensor(check_inputs(inputs, np.array([n_samples])))
    width = 0 if u is None else u.shape[1]
    if width != n_inputs:
        given = f"inputs have {width} columns" if width else "inputs are not given"
        wanted = f"give inputs of shape {(n_samples, n_inputs)}" if n_inputs else "leave them out"
        raise ValueError(f"{given}, but this {name} reads {n_inputs} a frame: {wanted}")
    return u


def require_future_inputs(inputs: Any, B: int, horizon: int, n_inputs: int, name: str) -> Tensor | None:
    """The inputs of the H frames after each of B sequences: (B, H, U); raises ValueError where they do not fit."""
    if inputs is None and not n_inputs:
        return None
    if not n_inputs:
        raise ValueError(f"future_inputs are given, but this {name} reads none: leave them out")
    u = None if inputs is None else numbers("future_inputs", inputs)
    shapes = (horizon, n_inputs), (B, horizon, n_inputs)
    if u is None or u.shape not in shapes:
        given = "are not given" if u is None else f"have shape {u.shape}"
        raise ValueError(
            f"future_inputs {given}, but this {name} reads {n_inputs} a frame: give those of the {horizon} frames to "
            f"come, of shape {shapes[0]} for every sequence or {shapes[1]}"
        )
    if not np.isfinite(u).all():
        raise ValueError("future_inputs hold NaN or infinite values; covariates must be known throughout")
    return torch.as_tensor(u).expand(B, horizon, n_inputs)
