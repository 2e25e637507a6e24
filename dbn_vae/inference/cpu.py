"""The compiled engine: reference.py's functions on CPU tensors, exact and fast, and emissions it computes itself.

The kernels are C++ (_cpu.cpp, which says how they work); here are only their tables and their results.
"""

from typing import Any

import torch
from torch import Tensor

from dbn_vae.inference import _cpu
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.potentials import Fused, Quadratic, Table, Whitened


class Ready:
    """A canonical chain whose tables the kernels know by their addresses; every verb takes one in a chain's place.

    It keeps the tensors that the addresses are of.
    """

    def __init__(self, chain: Chain) -> None:
        assert chain.lengths is not None  # a canonical chain
        initial, transition = chain.log_initial.contiguous(), chain.log_transition.contiguous()
        lengths = chain.lengths.to(torch.int64).contiguous()
        emission = chain.log_emission
        self.new, self.varies_in_time = initial.new_empty, chain.varies_in_time
        self.shape = B, T, K = emission.shape
        self.tables = _cpu.Tables(
            initial.dtype == torch.float64, B, T, K, transition.dim() - 2,
            initial.data_ptr(), transition.data_ptr(), lengths.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        if isinstance(emission, Table):
            emission = emission._replace(symbols=emission.symbols.to(initial.dtype))
        parts = (emission,) if isinstance(emission, Tensor) else emission
        alive = [part.contiguous() for part in parts]
        addresses = [part.data_ptr() for part in alive]
        if isinstance(emission, Quadratic):
            self.tables.quadratic(emission.x.shape[-1], *addresses)
        elif isinstance(emission, Whitened):
            self.tables.whitened(emission.x.shape[-1], *addresses)
        elif isinstance(emission, Table):
            self.tables.symbols(emission.log_probs.shape[-1], *addresses)
        else:
            self.tables.dense(*addresses)
        self.alive: list[Any] = [initial, transition, lengths, *alive]

    def of(self, x: Tensor) -> "Ready":
        """The same for other frames: one complete sequence x (1, T, D), contiguous, of the tables' own type."""
        other = Ready.__new__(Ready)
        T = x.shape[1]
        other.new, other.varies_in_time, other.shape = self.new, False, (1, T, self.shape[2])
        other.tables = self.tables.of(x.data_ptr(), T, torch.get_num_threads())
        other.alive = [self, x]
        return other


def prepare(chain: Chain | Ready) -> Ready:
    return chain if isinstance(chain, Ready) else Ready(chain)


def log_partition(chain: Chain | Ready) -> Tensor:
    ready = prepare(chain)
    log_z = ready.new(ready.shape[0])
    _cpu.filter(ready.tables, log_z.data_ptr(), 0, 0)
    return log_z


def filter(chain: Chain | Ready) -> Filtered:
    ready = prepare(chain)
    new, (B, T, K) = ready.new, ready.shape
    log_z, probs, c = new(B), new(B, T, K), new(B, T)
    _cpu.filter(ready.tables, log_z.data_ptr(), probs.data_ptr(), c.data_ptr())
    return Filtered(log_z, probs, c)


def smooth(chain: Chain | Ready) -> Posterior:
    ready = prepare(chain)
    new, (B, T, K) = ready.new, ready.shape
    log_z, gamma = new(B), new(B, T, K)
    xi = new(B, T - 1, K, K) if ready.varies_in_time else new(B, K, K)
    _cpu.smooth(ready.tables, log_z.data_ptr(), gamma.data_ptr(), xi.data_ptr())
    return Posterior(log_z, gamma, xi)


def expect(chain: Chain[Fused], weights: Tensor) -> Expected:
    ready, emission = prepare(chain), chain.log_emission
    new, (B, _, K) = ready.new, ready.shape
    weights = weights.to(chain.log_initial.dtype).contiguous()
    log_z, first, pairs = new(B), new(K), new(K, K)
    D = emission.mean.shape[1] if isinstance(emission, Quadratic | Whitened) else 0
    if isinstance(emission, Quadratic):
        statistics = new(3, K, D)
        parts = statistics.unbind()
    elif isinstance(emission, Whitened):
        statistics = new(K, 1 + D + D * D)
        parts = statistics[:, :1], statistics[:, 1 : 1 + D], statistics[:, 1 + D :].view(K, D, D)
    else:
        statistics = new(emission.log_probs.shape)
        parts = (statistics,)
    results = (weights, log_z, first, pairs, statistics)
    _cpu.expect(ready.tables, *(x.data_ptr() for x in results))
    return Expected(log_z, first, pairs, parts)


def viterbi(chain: Chain | Ready) -> Path:
    ready = prepare(chain)
    B, T, _ = ready.shape
    states, score = torch.empty(B, T, dtype=torch.int64), ready.new(B)
    _cpu.viterbi(ready.tables, states.data_ptr(), score.data_ptr())
    return Path(states, score)


def k_best(chain: Chain[Tensor], n: int) -> Path:
    ready = prepare(chain)
    B, T, _ = ready.shape
    states, score = torch.empty(n, B, T, dtype=torch.int64), ready.new(n, B)
    _cpu.k_best(ready.tables, n, states.data_ptr(), score.data_ptr())
    return Path(states, score)


def sample(chain: Chain, uniform: Tensor) -> Tensor:
    ready = prepare(chain)
    uniform = uniform.to(torch.float64).contiguous()
    states = torch.empty(uniform.shape, dtype=torch.int64)
    _cpu.sample(ready.tables, uniform.data_ptr(), uniform.shape[0], states.data_ptr())
    return states


def scan_stays(chain: Chain[Tensor], duration: Tensor, survival: Tensor, best: bool) -> tuple[Tensor, ...]:
    """Chains of stays forward, durations.scan: b, e, the states (B, T, K) each, and c (B, T)."""
    ready = prepare(chain)
    duration, survival = (x.detach().double().contiguous() for x in (duration, survival))
    new, shape = ready.new, ready.shape
    results = [*(new(shape) for _ in range(3)), new(shape[:2])]
    begin, end, state, c = (x.data_ptr() for x in results)
    _cpu.scan_stays(
        ready.tables, duration.data_ptr(), survival.data_ptr(), duration.shape[1], best, begin, end, state, c
    )
    return tuple(results)


def smooth_stays(
    chain: Chain[Tensor], duration: Tensor, survival: Tensor, begin: Tensor, end: Tensor, c: Tensor
) -> tuple[Tensor, ...]:
    """The posterior that follows from a pass forward: gamma (B, T, K), xi (B, K, K), ended and censored (B, K, D)."""
    ready = prepare(chain)
    duration, survival = (x.detach().double().contiguous() for x in (duration, survival))
    new, (B, T, K), D = chain.log_initial.new_zeros, ready.shape, duration.shape[1]
    results = new(B, T, K), new(B, K, K), new(B, K, D), new(B, K, D)
    _cpu.smooth_stays(
        ready.tables, duration.data_ptr(), survival.data_ptr(), D, begin.data_ptr(), end.data_ptr(), c.data_ptr(),
        *(x.data_ptr() for x in results),
    )  # fmt: skip
    return results
