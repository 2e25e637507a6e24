"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn and need no download.

Each pixel counts the dark cells of a 4 x 4 block, 0 to 16. Alpaydin and Kaynak, "Optical
recognition of handwritten digits", UCI repository, 1998 (the test part).
"""

import numpy as np
import numpy.typing as npt


def load_digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Images (1797, 8, 8) in [0, 1], a multiple of 1/16 per pixel, and digits (1797,)."""
    from sklearn.datasets import load_digits as stored

    pixels, labels = stored(return_X_y=True)
    return pixels.reshape(-1, 8, 8) / 16.0, labels.astype(np.int64)
