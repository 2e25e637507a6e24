"""Statically binarised MNIST: each pixel drawn once as a Bernoulli variable of its intensity.

The usual bench for binary likelihoods, split 50,000 / 10,000 / 10,000. Salakhutdinov and Murray,
"On the quantitative analysis of deep belief networks", 2008.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import read_arrays


class BinarizedMNIST(NamedTuple):
    """Images (N, 28, 28) of zeros and ones."""

    train: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.uint8]
    test: npt.NDArray[np.uint8]


def load_binarized_mnist(*, data_dir: Path | str | None = None) -> BinarizedMNIST:
    """The three splits of `binarized_mnist.npz`, which stores eight pixels to the byte."""
    packed = read_arrays("binarized_mnist.npz", "train", "valid", "test", data_dir=data_dir)
    return BinarizedMNIST(*(np.unpackbits(rows, axis=1, count=784).reshape(-1, 28, 28) for rows in packed))
