"""Which module does the work: the reference, the compiled CPU kernels, a GPU.

A backend is a module with log_partition, filter, smooth, viterbi and sample over a canonical Chain.  The choice is
made from the chain alone, never by the user; `using` overrides it in tests and benchmarks.  A fusing one also reads
the emissions of potentials.py without their being written out, and has expect.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from dbn_vae.inference import cuda, reference
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.potentials import Quadratic, Table


class Backend(Protocol):
    def log_partition(self, chain: Chain) -> Tensor: ...
    def filter(self, chain: Chain) -> Filtered: ...
    def smooth(self, chain: Chain) -> Posterior: ...
    def viterbi(self, chain: Chain) -> Path: ...
    def sample(self, chain: Chain, uniform: Tensor) -> Tensor: ...


class Fusing(Backend, Protocol):
    def expect(self, chain: Chain[Quadratic | Table], weights: Tensor) -> Expected: ...


available: dict[str, Backend] = {"reference": reference}
fusing: dict[str, Fusing] = {}
try:
    from dbn_vae.inference import cpu
except ImportError:  # installed without a C++ compiler
    pass
else:
    available["cpu"] = fusing["cpu"] = cpu
if cuda.usable:
    available["cuda"] = cuda

_forced: ContextVar[str | None] = ContextVar("backend", default=None)


def backend(chain: Chain) -> Backend:
    return available[name(chain)]


def name(chain: Chain) -> str:
    return _forced.get() or choose(chain)


def choose(chain: Chain) -> str:
    emission = chain.log_emission
    parts = (emission,) if isinstance(emission, Tensor) else emission
    parameters = parts if isinstance(emission, Tensor) else parts[-1:]
    if isinstance(emission, Quadratic):
        parameters = (emission.x, emission.mean, emission.log_scale)
    places = {x.device.type for x in (chain.log_initial, chain.log_transition, *parts)}
    dtypes = {x.dtype for x in (chain.log_initial, chain.log_transition, *parameters)}
    if places == {"cuda"} and "cuda" in available and cuda.takes(dtypes):
        return "cuda"
    if places != {"cpu"} or len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        return "reference"
    if "cpu" not in available:
        notice()
        return "reference"
    return "cpu"


@functools.cache
def notice() -> None:
    warnings.warn(
        "dbn_vae was installed without its compiled engine: inference runs in plain torch, exact but many "
        "times slower. Install a C++ compiler (GCC or Clang) and reinstall dbn_vae to have it.",
        stacklevel=2,
    )


@contextmanager
def using(name: str) -> Iterator[None]:
    """Within the block every verb runs on the named backend.  Raises ValueError for an unknown name."""
    if name not in available:
        raise ValueError(f"backend {name!r} is not here; choose one of {sorted(available)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)
