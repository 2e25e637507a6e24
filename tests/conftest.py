"""One thread: the problems here are tiny, and sums come out the same on every machine.  Every test starts from one
seed, so that no result depends on the tests that ran before it in the same process."""

import os
from collections import defaultdict
from zlib import crc32

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # read when NumPy, SciPy and torch load

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_start_for_every_test() -> None:
    """Weights drawn without a generator, and NumPy's global state where a peer reads it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.hookimpl(tryfirst=True)  # before -m takes out what is thorough
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked some(n) one variant in n always runs: which ones its name shuffles, so that a family left out of
    one test is in others."""
    grids = defaultdict(list)
    for item in items:
        if item.get_closest_marker("some") and not item.get_closest_marker("thorough"):
            grids[item.nodeid.split("[")[0]].append(item)
    for variants in grids.values():
        variants.sort(key=lambda item: crc32(item.name.encode()))
        n = variants[0].get_closest_marker("some").args[0]
        for item in variants[-(-len(variants) // n) :]:
            item.add_marker(pytest.mark.thorough)
