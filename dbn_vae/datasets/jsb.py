"""JSB Chorales: four-part chorales by J. S. Bach as piano rolls, one frame a quarter note.

Boulanger-Lewandowski, Bengio and Vincent, "Modeling temporal dependencies in high-dimensional
sequences", 2012. Published likelihoods belong to this quarter-note grid; those on the eighth-note
grid, with twice the frames, are another data set.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import check_split, read_arrays


def load_jsb(
    split: Literal["train", "valid", "test"] = "train", *, data_dir: Path | str | None = None
) -> list[npt.NDArray[np.uint8]]:
    """229, 76 or 77 rolls (T_i, 88) of zeros and ones; column c is the MIDI note c + 21."""
    check_split(split, ("train", "valid", "test"))
    roll, lengths = read_arrays("jsb_chorales.npz", f"{split}_roll", f"{split}_lengths", data_dir=data_dir)
    return np.split(roll, np.cumsum(lengths)[:-1])
