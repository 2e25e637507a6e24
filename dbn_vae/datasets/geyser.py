"""Old Faithful, 299 eruptions in order, 1 to 15 August 1985: how long each took, and the wait.

Long and short eruptions alternate in a two-state rhythm. Some eruptions at night were noted only as
short, medium or long and are coded as exactly 2, 3 or 4 minutes: a continuous density can collapse
onto these ties. Azzalini and Bowman, "A look at some data on the Old Faithful geyser", 1990.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_columns


class Geyser(NamedTuple):
    """Minutes: `waiting` (299,) before each eruption, `duration` (299,) of each eruption."""

    waiting: npt.NDArray[np.float64]
    duration: npt.NDArray[np.float64]


def load_geyser(*, data_dir: Path | str | None = None) -> Geyser:
    """The two columns of `geyser.csv`."""
    return Geyser(*read_columns("geyser.csv", "waiting", "duration", data_dir=data_dir))
