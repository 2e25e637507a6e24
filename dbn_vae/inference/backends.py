"""Which module does the work: the reference, the compiled CPU kernels, a GPU.

A backend is a module with log_partition, filter, smooth, viterbi, k_best and sample over a canonical Chain.  The
choice is made from the chain alone, never by the user; `using` overrides it in tests and benchmarks.  A fusing one
also reads the emissions of potentials.py without their being written out, has expect, and takes a chain that it has
prepared in a chain's place.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor

from dbn_vae.inference import cuda, reference
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.potentials import Fused, Table


class Backend(Protocol):
    def log_partition(self, chain: Chain) -> Tensor: ...
    def filter(self, chain: Chain) -> Filtered: ...
    def smooth(self, chain: Chain) -> Posterior: ...
    def viterbi(self, chain: Chain) -> Path: ...
    def k_best(self, chain: Chain[Tensor], n: int) -> Path: ...
    def sample(self, chain: Chain, uniform: Tensor) -> Tensor: ...


class Fusing(Backend, Protocol):
    def prepare(self, chain: Chain[Fused]) -> Any: ...
    def expect(self, chain: Chain[Fused], weights: Tensor) -> Expected: ...


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


def overridden() -> bool:
    """Whether `using` says which backend works."""
    return _forced.get() is not None


def choose(chain: Chain) -> str:
    initial, transition, emission, _ = chain
    dtype, place = initial.dtype, initial.device.type
    if dtype not in (torch.float32, torch.float64) or not fits(transition, dtype, place):
        return "reference"
    if isinstance(emission, Tensor):
        alike = fits(emission, dtype, place)
    else:  # symbols may be of any type
        data, parameter = emission[0], emission[2]
        alike = fits(data, data.dtype if isinstance(emission, Table) else dtype, place)
        alike = alike and fits(parameter, dtype, place)
    if not alike:
        return "reference"
    if place == "cpu" and "cpu" not in available:
        notice()
    return place if place in available else "reference"


def fits(table: Tensor, dtype: torch.dtype, place: str) -> bool:
    return table.dtype == dtype and table.device.type == place


@functools.cache
def notice() -> None:
    warnings.warn(
        "dbn_vae runs without its compiled engine: inference is plain torch, exact but many times slower. Install a "
        "C++ compiler (GCC or Clang) and reinstall dbn_vae to have it. If it was installed with one, Python found "
        "the source folder before the installed package: start it from another folder.",
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
