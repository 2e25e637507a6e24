"""The static job: what it writes is whole, goes on to the same numbers, and never trains on a test image."""

import argparse
import csv
import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dbn_vae import plotting, storage
from dbn_vae.jobs import static_images, static_vae

TINY = ("--data", "digits", "--hidden-dim", "24", "--latent-dim", "3", "--learning-rate", "0.005")


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_vae, "IMPORTANCE_SAMPLES", 20)
        patch.setattr(static_vae, "IMPORTANCE_IMAGES", 100)
        patch.setattr(plotting, "DPI", 40)
        yield


def parsed(*words: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    static_vae.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def vae(*words: Any) -> int:
    return static_vae.run(parsed(*words))


def table(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def decodes(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def weights(out: Path) -> dict[str, torch.Tensor]:
    return storage.load(out / "checkpoint.safetensors")[0]


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vae") / "whole"
    assert vae(*TINY, "--epochs", 3, "--out", out) == 0
    return out


def test_it_writes_what_it_promises_and_the_bound_improves(three_epochs: Path) -> None:
    assert {path.name for path in three_epochs.iterdir()} == {
        "checkpoint.safetensors",
        "curves.csv",
        "curves.png",
        "reconstructions.png",
        "report.html",
        "samples.png",
    }
    for path in three_epochs.glob("*.png"):
        decodes(path)
    curves = table(three_epochs / "curves.csv")
    assert curves["epoch"] == [1, 2, 3]
    for split in ("train", "test"):
        total = curves[f"total_{split}"]
        assert total == sorted(total, reverse=True)
        parts = np.add(curves[f"reconstruction_{split}"], curves[f"kl_{split}"])
        np.testing.assert_allclose(total, parts)
    assert 20 < curves["total_test"][-1] < 64 * np.log(2), "nats per image of 64 pixels"


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(three_epochs: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    assert vae(*TINY, "--epochs", 2, "--out", out) == 0
    assert vae(*TINY, "--epochs", 3, "--out", out, "--resume") == 0
    assert (out / "curves.csv").read_bytes() == (three_epochs / "curves.csv").read_bytes()
    one, other = weights(out), weights(three_epochs)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_an_interrupted_run_is_whole_and_goes_on(
    three_epochs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, calls = tmp_path / "cut", []

    def interrupted(*arguments: Any) -> static_vae.Bound:
        calls.append(arguments)
        if len(calls) == 3:  # train, test, and then the second epoch's train
            raise KeyboardInterrupt
        return measure(*arguments)

    measure = static_vae.measure
    with monkeypatch.context() as patch:
        patch.setattr(static_vae, "measure", interrupted)
        assert vae(*TINY, "--epochs", 2, "--out", out) == 130
    assert "--resume" in capsys.readouterr().err
    assert table(out / "curves.csv")["epoch"] == [1]
    assert vae(*TINY, "--epochs", 2, "--out", out, "--resume") == 0
    assert (three_epochs / "curves.csv").read_bytes().startswith((out / "curves.csv").read_bytes())


def test_both_bounds_are_printed_with_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vae(*TINY, "--epochs", 1, "--estimator", "A", "--latent-dim", 2, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "test images: 297, binarised once (seed 0), never trained on" in printed
    assert "test, 297 images, ELBO: " in printed
    assert "test, 100 images, ELBO: " in printed
    assert "test, 100 images, importance bound, S = 20: " in printed
    decodes(tmp_path / "manifold.png")


def test_the_test_images_are_binarised_once_and_kept_apart() -> None:
    arguments = parsed(*TINY, "--out", "unused")
    images, again = static_images.load_images(arguments), static_vae.load_images(arguments)
    assert torch.equal(images.test.x, again.test.x)
    assert set(images.test.x.unique().tolist()) == {0.0, 1.0}
    assert len(images.test) == len(images.train_part) == 297
    assert len(images.train) == 1500
    model, _, _ = static_vae.fresh(arguments, images)
    assert static_vae.measure(model, images.test) == static_vae.measure(model, images.test)
    grey = static_images.load_images(parsed(*TINY, "--likelihood", "gaussian", "--out", "unused"))
    assert torch.equal(torch.cat([grey.train.x, grey.test.x]) * 16 % 1, torch.zeros(1797, 64))


def test_a_gaussian_likelihood_trains_on_grey_levels(tmp_path: Path) -> None:
    assert vae(*TINY, "--epochs", 2, "--likelihood", "gaussian", "--out", tmp_path) == 0
    total = table(tmp_path / "curves.csv")["total_test"]
    assert total[1] < total[0]


def test_mnist_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(30, 28, 28), dtype=np.uint8)

    def stored(split: str, *, data_dir: Path | None) -> tuple[Any, Any]:
        path = tmp_path / f"{split}.gz"
        path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 30, 28, 28) + pixels.tobytes()))
        from dbn_vae.datasets.mnist import read_idx

        assert data_dir == tmp_path
        return read_idx(path), np.zeros(30)

    monkeypatch.setattr("dbn_vae.datasets.mnist.load_mnist", stored)
    images = static_images.load_images(
        parsed("--data", "mnist", "--data-dir", tmp_path, "--out", "unused", "--likelihood", "gaussian")
    )
    np.testing.assert_allclose(images.test.x, pixels.reshape(30, 784) / 255, atol=1e-7)
    assert images.shape == (28, 28)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "mnist", "--data-dir", "/no/such/folder"), "--data-dir /no/such/folder is no folder"),
        (("--data", "digits", "--data-dir", "/no/such/folder"), "has no use with --data digits"),
        (("--data", "digits", "--resume"), "leave --resume out"),
    ],
)
def test_what_cannot_be_done_says_so_with_status_2(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vae(*words, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_neither_overwritten_nor_resumed_as_another(
    three_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (three_epochs / "checkpoint.safetensors").read_bytes()
    assert vae(*TINY, "--epochs", 3, "--out", three_epochs) == 2
    assert "holds a run" in capsys.readouterr().err
    assert vae(*TINY, "--latent-dim", 4, "--out", three_epochs, "--resume") == 2
    assert "--latent-dim 4 does not fit the run" in capsys.readouterr().err
    assert (three_epochs / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("word", ["0", "-3", "many"])
def test_sizes_must_be_positive(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed("--data", "digits", "--out", "x", "--batch-size", word)
    assert stopped.value.code == 2
    assert "--batch-size" in capsys.readouterr().err
