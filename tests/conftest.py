"""One thread: the problems here are tiny, and sums come out the same on every machine.  Every test starts from one
seed, so that no result depends on the tests that ran before it in the same process."""

import os

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
