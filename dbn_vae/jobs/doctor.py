"""What is installed here, and which backend does exact inference."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import dbn_vae
from dbn_vae.inference import Chain, backends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace) -> int:
    print(f"dbn_vae {dbn_vae.__version__} on Python {platform.python_version()}, {platform.machine()}")
    for name in ("torch", "numpy", "scipy", "scikit-learn", "hmmlearn", "pandas", "matplotlib"):
        try:
            print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            print(f"  {name} is missing")
    print(f"threads: {torch.get_num_threads()}; CUDA: {'yes' if torch.cuda.is_available() else 'no'}")
    chain = Chain(torch.zeros(2), torch.zeros(2, 2), torch.zeros(1, 3, 2))
    print(f"inference backends: {', '.join(backends.available)}; on this CPU: {backends.choose(chain)}")
    return 0
