"""One thread: the problems here are tiny, and sums come out the same on every machine.  Seeds belong to the tests."""

import os

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # read when NumPy, SciPy and torch load

import torch  # noqa: E402

torch.set_num_threads(1)
