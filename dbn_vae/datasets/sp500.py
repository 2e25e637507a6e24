"""Daily returns of the Standard and Poor's 500 index in the 1990s, in percent.

Calm and turbulent spells follow each other. Venables and Ripley, "Modern Applied Statistics with
S", 2002 (data set SP500 of the R package MASS).
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_columns


def load_sp500(*, data_dir: Path | str | None = None) -> npt.NDArray[np.float64]:
    """Returns (2780,) from `sp500_daily_1990s.csv`; the file gives no dates."""
    (returns,) = read_columns("sp500_daily_1990s.csv", "return_percent", data_dir=data_dir)
    return returns
