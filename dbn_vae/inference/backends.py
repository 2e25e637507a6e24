"""Which module does the work: the reference, the compiled CPU kernels, a GPU.

A backend is a module with filter, smooth, viterbi and sample over a canonical Chain.  The choice is
made from the chain alone, never by the user; `using` overrides it in tests and benchmarks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor

from dbn_vae.inference import reference
from dbn_vae.inference.chain import Chain, Filtered, Path, Posterior


class Backend(Protocol):
    def filter(self, chain: Chain) -> Filtered: ...
    def smooth(self, chain: Chain) -> Posterior: ...
    def viterbi(self, chain: Chain) -> Path: ...
    def sample(self, chain: Chain, uniform: Tensor) -> Tensor: ...


available: dict[str, Backend] = {"reference": reference}
_forced: ContextVar[str | None] = ContextVar("backend", default=None)


def backend(chain: Chain) -> Backend:
    return available[_forced.get() or choose(chain)]


def choose(chain: Chain) -> str:
    return "reference"


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
