"""A data file is found where the user keeps it, or fetched once, and its bytes are proved.

The places, in order: the folder given as `data_dir`, the folder named by the environment variable
`DBN_VAE_DATA`, the cache (`DBN_VAE_CACHE`, else `~/.cache/dbn_vae`), and last, only for a file with
a known address and a known MD5 sum, a download into the cache.
"""

import csv
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 30.0


def locate(
    name: str,
    *,
    data_dir: Path | str | None = None,
    url: str | None = None,
    md5: str | None = None,
) -> Path:
    """The path of the data file `name`, downloaded to the cache first if `url` is its only source.

    A name within a folder, such as `mnist/train-images-idx3-ubyte.gz`, is also found without that
    folder. A file whose MD5 sum is not `md5` is refused, wherever it was found.
    """
    if url is not None and md5 is None:
        raise ValueError(f"url={url!r} comes without md5: a download is only accepted if verified")
    places = _places(data_dir)
    candidates = [path for place in places for path in (place / name, place / Path(name).name)]
    for path in candidates:
        if path.is_file():
            return _verified(path, md5)
    if url is not None and md5 is not None:
        return _download(url, cache_dir() / name, md5)
    looked_at = "".join(f"\n  {place}" for place in places)
    raise FileNotFoundError(
        f"data file {name!r} was not found. Looked in:{looked_at}\n"
        "Put the file in one of these folders, pass its folder as data_dir, or set DBN_VAE_DATA "
        "to it; data/README.md of the project says where each file comes from."
    )


def cache_dir() -> Path:
    """The folder that downloads fill: `DBN_VAE_CACHE`, else `~/.cache/dbn_vae`."""
    return Path(os.environ.get("DBN_VAE_CACHE") or "~/.cache/dbn_vae").expanduser()


def read_arrays(name: str, *keys: str, data_dir: Path | str | None = None) -> tuple[npt.NDArray[Any], ...]:
    """The arrays stored under `keys` in the `.npz` file `name`."""
    path = locate(name, data_dir=data_dir)
    with np.load(path, allow_pickle=False) as stored:
        _require(path, keys, stored.files)
        return tuple(stored[key] for key in keys)


def read_columns(
    name: str, *columns: str, data_dir: Path | str | None = None
) -> tuple[npt.NDArray[np.float64], ...]:
    """The numeric `columns` of the `.csv` file `name`, whose first line names them."""
    path = locate(name, data_dir=data_dir)
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        _require(path, columns, reader.fieldnames or ())
        rows = list(reader)
    return tuple(np.array([row[column] for row in rows], dtype=np.float64) for column in columns)


def check_split(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise ValueError(f"split={split!r} is not known; choose one of {', '.join(splits)}")


def _require(path: Path, wanted: tuple[str, ...], present: Any) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; it holds {', '.join(present)}. "
            "data/README.md of the project gives the layout."
        )


def _places(data_dir: Path | str | None) -> list[Path]:
    given = [data_dir, os.environ.get("DBN_VAE_DATA")]
    return [Path(place).expanduser() for place in given if place] + [cache_dir()]


def _verified(path: Path, md5: str | None) -> Path:
    if md5 is not None and (found := _md5(path)) != md5:
        raise ValueError(
            f"{path} has MD5 {found}, expected {md5}: the file is damaged or is not the original. "
            "Delete or replace it."
        )
    return path


def _md5(path: Path) -> str:
    # MD5 tells a damaged or different file from the original; it does not guard against an attack.
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, target: Path, md5: str) -> Path:
    by_hand = f"Fetch it by hand and put it at {target}, or in a folder given as data_dir."
    target.parent.mkdir(parents=True, exist_ok=True)
    with _partial(target) as partial:
        try:
            _fetch(url, partial)
        except (OSError, HTTPException) as error:
            raise OSError(f"cannot download {url}: {error}. {by_hand}") from error
        if (found := _md5(partial)) != md5:
            raise ValueError(
                f"the download of {url} has MD5 {found}, expected {md5}, and was discarded: the "
                f"transfer was cut short or the file has changed. Try again. {by_hand}"
            )
        partial.replace(target)
    return target


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A fresh path beside `target`, so that replacing `target` by it is atomic; gone afterwards."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, path: Path) -> None:
    with urlopen(url, timeout=_TIMEOUT_SECONDS) as response, path.open("wb") as file:
        size = response.headers.get("Content-Length")
        total = int(size) if size else None
        with tqdm(total=total, unit="B", unit_scale=True, desc=Path(url).name) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
