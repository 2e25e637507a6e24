"""Major earthquakes (magnitude 7 or more) in the world, each year from 1900 to 2006.

The standing example of a Poisson HMM: Zucchini and MacDonald, "Hidden Markov Models for Time
Series", 2009.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_columns


def load_earthquakes(
    *, data_dir: Path | str | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Years (107,) and counts (107,) from `earthquakes.csv`."""
    years, counts = read_columns("earthquakes.csv", "year", "count", data_dir=data_dir)
    return years.astype(np.int64), counts.astype(np.int64)
