"""The images of the static job: digits or MNIST, in training and held out, grey or binarised."""

import argparse
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.sequences import Batch, Sequences

BINARISATION_SEED = 0  # not --seed: runs that differ in their seed are judged on the same binary images
DIGITS_HELD_OUT = 297


class Images(NamedTuple):
    """Grey images in [0, 1], and the frozen ones that evaluations use."""

    train: Sequences  # (N, H·W) what training draws its minibatches from
    train_part: Sequences  # as many training images as there are test images, frozen
    test: Sequences  # frozen
    shape: tuple[int, int]
    facts: dict[str, str]  # what was done to them, for the reader


def load_images(arguments: argparse.Namespace) -> Images:
    train, test = grey_digits(arguments) if arguments.data == "digits" else grey_mnist(arguments)
    binary = arguments.likelihood == "bernoulli"
    freeze = binarised_once if binary else torch.clone
    frozen = f"binarised once (seed {BINARISATION_SEED})" if binary else "grey levels in [0, 1]"
    facts = {
        "training images": f"{len(train):,}, " + ("binarised anew in each minibatch" if binary else frozen),
        "test images": f"{len(test):,}, {frozen}, never trained on",
        "train curves": f"on the first {len(test):,} training images, {frozen}",
        "unit": "nats per image" if binary else "nats per image, of the log-density of grey levels",
    }
    return Images(
        train=as_sequences(train),
        train_part=as_sequences(freeze(train[: len(test)])),
        test=as_sequences(freeze(test)),
        shape=(train.shape[1], train.shape[2]),
        facts=facts,
    )


def grey_digits(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The digits of scikit-learn, the last 297 held out."""
    from dbn_vae.datasets.digits import load_digits

    if arguments.data_dir is not None:
        raise ValueError(
            f"--data-dir {arguments.data_dir} has no use with --data digits, which come with "
            "scikit-learn; leave it out, or ask for --data mnist"
        )
    grey = torch.from_numpy(load_digits()[0]).float()
    return grey[:-DIGITS_HELD_OUT], grey[-DIGITS_HELD_OUT:]


def grey_mnist(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    from dbn_vae.datasets.mnist import load_mnist

    folder = arguments.data_dir
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"--data-dir {folder} is no folder; name the one with the MNIST files")
    train, _ = load_mnist("train", data_dir=folder)
    test, _ = load_mnist("test", data_dir=folder)
    return torch.from_numpy(train).float() / 255, torch.from_numpy(test).float() / 255


def as_sequences(images: Tensor) -> Sequences:
    """Each image (N, H, W) a sequence of one frame, without from_any's detour over float64."""
    x = images.flatten(1)
    n = len(x)
    observed = torch.ones((), dtype=torch.bool).expand(x.shape)
    return Sequences(x, observed, torch.ones(n, dtype=torch.int64), torch.ones(n))


def binarised_once(grey: Tensor) -> Tensor:
    return torch.bernoulli(grey, generator=torch.Generator().manual_seed(BINARISATION_SEED))


def binarise_anew(batch: Batch, generator: torch.Generator) -> Batch:
    return batch._replace(x=torch.bernoulli(batch.x, generator=generator))
