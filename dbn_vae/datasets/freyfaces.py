"""Frey faces: 1,965 consecutive frames of one face on video, in the order of time.

Collected by Brendan Frey and distributed by Sam Roweis; a bench of the VAE since Kingma and
Welling, "Auto-encoding variational Bayes", 2014.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_arrays


def load_freyfaces(*, data_dir: Path | str | None = None) -> npt.NDArray[np.uint8]:
    """Frames (1965, 28, 20) in 0..255 from `freyfaces.npz`."""
    (frames,) = read_arrays("freyfaces.npz", "frames", data_dir=data_dir)
    return frames
