"""A file comes back to the bit or not at all."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dbn_vae import storage

TENSORS = {
    "float": torch.tensor([[1.0, -0.0], [float("nan"), float("inf")]], dtype=torch.float64),
    "half": torch.tensor([0.1, 2.0], dtype=torch.bfloat16),
    "whole": torch.arange(6).reshape(2, 3),
    "flags": torch.tensor([True, False]),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "scalar": torch.tensor(3.25),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(6.0).reshape(2, 3).T,
}
FACTS = {"name": "σ — a model", "history": [-1.5, 0.1 + 0.2], "nested": {"none": None, "yes": True}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "model.dbn"
    storage.save(path, TENSORS, FACTS)
    return path


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_everything_comes_back_to_the_bit(file: Path) -> None:
    tensors, facts = storage.load(file)
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape), name
        assert tensor.numel() == 0 or bits(tensors[name]) == bits(tensor), name


def test_the_same_content_is_the_same_file(file: Path, tmp_path: Path) -> None:
    storage.save(tmp_path / "again", dict(reversed(TENSORS.items())), dict(reversed(FACTS.items())))
    a, b = storage.load(file), storage.load(tmp_path / "again")
    assert a[1] == b[1]
    assert (tmp_path / "again").stat().st_size == file.stat().st_size


def test_a_changed_byte_is_noticed_wherever_it_is(file: Path) -> None:
    """Header, metadata and data: no byte may change unnoticed."""
    whole = file.read_bytes()
    step = max(1, len(whole) // 200)
    for at in range(0, len(whole), step):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"damaged|not a file of dbn_vae|did not write it"):
            storage.load(file)
    file.write_bytes(whole)
    storage.load(file)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model\.dbn is not a file of dbn_vae"):
        storage.load(file)


@pytest.mark.parametrize("metadata", [None, {"made by": "someone else"}])
def test_someone_elses_safetensors_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"x": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match="dbn_vae did not write it"):
        storage.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*nowhere\.dbn"):
        storage.load(tmp_path / "nowhere.dbn")


@pytest.mark.parametrize("step", ["fdopen", "fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    file: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path if step == "replace" else os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        storage.save(file, {"x": torch.ones(3)}, {})
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(tmp_path / "new", b"half")
    assert list(tmp_path.iterdir()) == []


def test_facts_that_json_cannot_hold_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        storage.save(tmp_path / "x", {}, {"set": {1}})
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_has_ordinary_rights(file: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask
