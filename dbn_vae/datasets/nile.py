"""Annual flow of the Nile at Aswan, 1871 to 1970, in units of 10^8 cubic metres.

A series with one change of level, near 1898. Cobb, "The problem of the Nile: conditional solution
to a change-point problem", 1978.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_columns


def load_nile(*, data_dir: Path | str | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Years (100,) and volumes (100,) from `nile.csv`."""
    years, volumes = read_columns("nile.csv", "year", "volume", data_dir=data_dir)
    return years.astype(np.int64), volumes
