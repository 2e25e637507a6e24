"""One thread: the problems here are tiny, and sums come out the same on every machine.  Seeds belong to the tests."""

import torch

torch.set_num_threads(1)
