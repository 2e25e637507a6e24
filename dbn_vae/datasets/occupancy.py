"""Five sensors of an office, once a minute, with the true occupancy.

Candanedo and Feldheim, "Accurate occupancy detection of an office room from light, temperature,
humidity and CO2 measurements using statistical learning models", 2016.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import check_split, read_arrays


class Occupancy(NamedTuple):
    """`x` (T, 5) of the sensors in `names`, `labels` (T,) 1 if occupied, `times` (T,) in seconds.

    The units: degrees Celsius, percent relative humidity, lux, ppm, kg water per kg air.
    """

    x: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    times: npt.NDArray[np.datetime64]
    names: tuple[str, ...]


def load_occupancy(
    split: Literal["train", "test1", "test2"] = "train", *, data_dir: Path | str | None = None
) -> Occupancy:
    """One of three stretches of days: T is 8143, 2665 or 9752; test1 comes *before* train."""
    check_split(split, ("train", "test1", "test2"))
    x, labels, times, names = read_arrays(
        "occupancy.npz",
        f"x_{split}",
        f"y_{split}",
        f"time_{split}",
        "channels",
        data_dir=data_dir,
    )
    return Occupancy(x, labels.astype(np.int64), times, tuple(str(name) for name in names))
