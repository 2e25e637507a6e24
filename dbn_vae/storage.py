"""Tensors and JSON in one file, written whole or not at all, verified when read.

The file is a safetensors file (no code can hide in it) whose metadata holds a JSON text and a SHA-256 of the JSON
and of every tensor's name, type, shape and bytes.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary neighbour first, then moved into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp's 0600 is meant for secrets
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save(path: Path | str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able facts."""
    from safetensors.torch import save as to_bytes

    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    text = json.dumps(facts, sort_keys=True)
    write_bytes(path, to_bytes(whole, {"facts": text, "sha256": digest(whole, text)}))


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what save wrote.

    Raises ValueError when the file is no such file or its content does not match its digest.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a file of dbn_vae: {error}") from error
    if "facts" not in metadata:
        raise ValueError(f"{path} is a safetensors file, but dbn_vae did not write it")
    if metadata.get("sha256") != digest(tensors, metadata["facts"]):
        raise ValueError(f"{path} is damaged: its content does not match its SHA-256")
    return tensors, json.loads(metadata["facts"])


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()
