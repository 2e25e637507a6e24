"""Six motion-capture recordings of exercises, twelve channels at ten frames a second, labelled.

Fox, Hughes, Sudderth and Jordan, "Joint modeling of multiple time series via the beta process with
application to motion capture segmentation", 2014, from the CMU motion-capture database. No
recording holds all twelve exercises.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_arrays


class Mocap6(NamedTuple):
    """`x` six arrays (T_i, 12), `labels` six arrays (T_i,) in 0..11, `names` the exercises."""

    x: list[npt.NDArray[np.float64]]
    labels: list[npt.NDArray[np.int64]]
    names: tuple[str, ...]


def load_mocap6(*, data_dir: Path | str | None = None) -> Mocap6:
    """The six recordings of `mocap6.npz`, 2,058 frames together."""
    x, labels, lengths, names = read_arrays(
        "mocap6.npz", "X", "z", "lengths", "action_names", data_dir=data_dir
    )
    borders = np.cumsum(lengths)[:-1]
    return Mocap6(
        x=np.split(x, borders),
        labels=np.split(labels.astype(np.int64), borders),
        names=tuple(str(name) for name in names),
    )
