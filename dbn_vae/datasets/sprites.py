"""Videos of cartoon characters who walk, cast a spell or slash, in three directions each.

Li and Mandt, "Disentangled sequential autoencoder", 2018. A clip has one behaviour; clips of one
character joined end to end make a video whose behaviour switches.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dbn_vae.datasets.files import check_split, read_arrays


class Sprites(NamedTuple):
    """`video` (N, 8, 64, 64, 3) in 0..255; `labels` (N,) in 0..8, named by `names`.

    `attributes` (N, 4) says which body, bottom wear, top wear and hair: the character of a clip.
    """

    video: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    attributes: npt.NDArray[np.int64]
    names: tuple[str, ...]


def load_sprites(split: Literal["train", "test"] = "train", *, data_dir: Path | str | None = None) -> Sprites:
    """1,080 clips of 120 characters, or 360 clips of 40 others; nine clips a character."""
    check_split(split, ("train", "test"))
    video, labels, attributes, names = read_arrays(
        "sprites_video.npz",
        f"video_{split}",
        f"label_{split}",
        f"attributes_{split}",
        "class_names",
        data_dir=data_dir,
    )
    return Sprites(
        video,
        labels.astype(np.int64),
        attributes.astype(np.int64),
        tuple(str(name) for name in names),
    )
