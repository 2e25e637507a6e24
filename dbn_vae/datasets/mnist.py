"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, from the four original gzipped IDX files.

An IDX file is a header and a row-major array: two zero bytes, one byte for the type (0x08 is an
unsigned byte), one byte for the number of dimensions, each dimension as a big-endian 32-bit
integer, then the data. LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
document recognition", 1998.
"""

import gzip
import math
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import check_split, locate

_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FILES = {
    "train": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
}


def load_mnist(
    split: Literal["train", "test"] = "train",
    *,
    data_dir: Path | str | None = None,
    download: bool = True,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images (N, 28, 28) in 0..255 and digits (N,); N is 60,000 for train and 10,000 for test."""
    check_split(split, tuple(_FILES))
    images, labels = (
        read_idx(locate(f"mnist/{name}", data_dir=data_dir, url=_URL + name if download else None, md5=md5))
        for name, md5 in _FILES[split].items()
    )
    return images, labels


def read_idx(path: Path | str) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in a gzipped IDX file."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    shape, start = _header(path, content)
    expected = math.prod(shape)
    if len(content) - start != expected:
        raise ValueError(
            f"{path} announces shape {shape}, {expected} bytes, but holds {len(content) - start}; "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _header(path: Path | str, content: bytes) -> tuple[tuple[int, ...], int]:
    """The shape, and where the data starts."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 0x08 or content[3] == 0:
        raise ValueError(
            f"{path} starts with 0x{content[:4].hex()}, not with the magic number of an IDX file "
            "of unsigned bytes (0x000008 and the number of dimensions); fetch the original file"
        )
    n_dims = content[3]
    start = 4 + 4 * n_dims
    if len(content) < start:
        raise ValueError(f"{path} ends within its header of {n_dims} dimensions; fetch it again")
    return struct.unpack(f">{n_dims}I", content[4:start]), start
