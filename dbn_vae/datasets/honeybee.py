"""Six dances of honey bees, which turn left, turn right and waggle, with their change points.

Oh, Rehg, Balch and Dellaert, "Learning and inferring motion patterns using parametric segmental
switching linear dynamic systems", 2008. The file knows where the behaviour changes, not which one
it is: a segmentation can be scored on its boundaries, not on its names.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_arrays


class Dance(NamedTuple):
    """`x` (T, 3): position x, y and change of heading, each scaled to [0, 1] within the dance.

    `change_points` are the first frames of new segments, from 0; `segments` (T,) numbers the
    segments 0, 1, 2, ..., so that its changes are the change points.
    """

    x: npt.NDArray[np.float64]
    change_points: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]


def load_honeybee(*, data_dir: Path | str | None = None) -> list[Dance]:
    """The six dances of `honeybee_dance.npz`, of 602 to 1,124 frames."""
    return [_dance(number, data_dir) for number in range(1, 7)]


def _dance(number: int, data_dir: Path | str | None) -> Dance:
    x, change_points = read_arrays("honeybee_dance.npz", f"X_{number}", f"cp_{number}", data_dir=data_dir)
    change_points = change_points.astype(np.int64)
    segments = np.searchsorted(change_points, np.arange(len(x)), side="right")
    return Dance(x, change_points, segments.astype(np.int64))
