"""The compiled engine: reference.py's functions on CPU tensors, exact and fast, and emissions it computes itself.

The kernels are C++ (_cpu.cpp, which says how they work); here are only their tables and their results.
"""

import torch
from torch import Tensor

from dbn_vae.inference import _cpu
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.potentials import Fused, Quadratic, Table, Whitened


def log_partition(chain: Chain) -> Tensor:
    tables, _alive = prepare(chain)
    log_z = chain.log_initial.new_empty(chain.log_emission.shape[0])
    _cpu.filter(tables, log_z.data_ptr(), 0, 0)
    return log_z


def filter(chain: Chain) -> Filtered:
    tables, _alive = prepare(chain)
    new = chain.log_initial.new_empty
    B, T, K = chain.log_emission.shape
    log_z, probs, c = new(B), new(B, T, K), new(B, T)
    _cpu.filter(tables, log_z.data_ptr(), probs.data_ptr(), c.data_ptr())
    return Filtered(log_z, probs, c)


def smooth(chain: Chain) -> Posterior:
    tables, _alive = prepare(chain)
    new = chain.log_initial.new_empty
    B, T, K = chain.log_emission.shape
    log_z, gamma = new(B), new(B, T, K)
    xi = new(B, T - 1, K, K) if chain.varies_in_time else new(B, K, K)
    _cpu.smooth(tables, log_z.data_ptr(), gamma.data_ptr(), xi.data_ptr())
    return Posterior(log_z, gamma, xi)


def expect(chain: Chain[Fused], weights: Tensor) -> Expected:
    tables, _alive = prepare(chain)
    new, emission = chain.log_initial.new_empty, chain.log_emission
    B, _, K = emission.shape
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
    _cpu.expect(tables, *(x.data_ptr() for x in results))
    return Expected(log_z, first, pairs, parts)


def viterbi(chain: Chain) -> Path:
    tables, _alive = prepare(chain)
    B, T, _ = chain.log_emission.shape
    states, score = torch.empty(B, T, dtype=torch.int64), chain.log_initial.new_empty(B)
    _cpu.viterbi(tables, states.data_ptr(), score.data_ptr())
    return Path(states, score)


def k_best(chain: Chain[Tensor], n: int) -> Path:
    tables, _alive = prepare(chain)
    B, T, _ = chain.log_emission.shape
    states, score = torch.empty(n, B, T, dtype=torch.int64), chain.log_initial.new_empty(n, B)
    _cpu.k_best(tables, n, states.data_ptr(), score.data_ptr())
    return Path(states, score)


def sample(chain: Chain, uniform: Tensor) -> Tensor:
    tables, _alive = prepare(chain)
    uniform = uniform.to(torch.float64).contiguous()
    states = torch.empty(uniform.shape, dtype=torch.int64)
    _cpu.sample(tables, uniform.data_ptr(), uniform.shape[0], states.data_ptr())
    return states


def scan_stays(chain: Chain[Tensor], duration: Tensor, survival: Tensor, best: bool) -> tuple[Tensor, ...]:
    """Chains of stays forward, durations.scan: b, e, the states (B, T, K) each, and c (B, T)."""
    tables, _alive = prepare(chain)
    duration, survival = (x.detach().double().contiguous() for x in (duration, survival))
    new, shape = chain.log_initial.new_empty, chain.log_emission.shape
    results = [*(new(shape) for _ in range(3)), new(shape[:2])]
    begin, end, state, c = (x.data_ptr() for x in results)
    _cpu.scan_stays(
        tables, duration.data_ptr(), survival.data_ptr(), duration.shape[1], best, begin, end, state, c
    )
    return tuple(results)


def smooth_stays(
    chain: Chain[Tensor], duration: Tensor, survival: Tensor, begin: Tensor, end: Tensor, c: Tensor
) -> tuple[Tensor, ...]:
    """The posterior that follows from a pass forward: gamma (B, T, K), xi (B, K, K), ended and censored (B, K, D)."""
    tables, _alive = prepare(chain)
    duration, survival = (x.detach().double().contiguous() for x in (duration, survival))
    new, (B, T, K), D = chain.log_initial.new_zeros, chain.log_emission.shape, duration.shape[1]
    results = new(B, T, K), new(B, K, K), new(B, K, D), new(B, K, D)
    _cpu.smooth_stays(
        tables, duration.data_ptr(), survival.data_ptr(), D, begin.data_ptr(), end.data_ptr(), c.data_ptr(),
        *(x.data_ptr() for x in results),
    )  # fmt: skip
    return results


def prepare(chain: Chain) -> tuple[_cpu.Tables, list[Tensor]]:
    """The addresses of the potentials, and the tensors that must outlive them."""
    assert chain.lengths is not None  # a canonical chain
    initial, transition = chain.log_initial.contiguous(), chain.log_transition.contiguous()
    lengths = chain.lengths.to(torch.int64).contiguous()
    emission = chain.log_emission
    B, T, K = emission.shape
    tables = _cpu.Tables(
        initial.dtype == torch.float64, B, T, K, transition.dim() - 2,
        initial.data_ptr(), transition.data_ptr(), lengths.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    if isinstance(emission, Table):
        emission = emission._replace(symbols=emission.symbols.to(initial.dtype))
    parts = (emission,) if isinstance(emission, Tensor) else emission
    alive = [part.contiguous() for part in parts]
    addresses = [part.data_ptr() for part in alive]
    if isinstance(emission, Quadratic):
        tables.quadratic(emission.x.shape[-1], *addresses)
    elif isinstance(emission, Whitened):
        tables.whitened(emission.x.shape[-1], *addresses)
    elif isinstance(emission, Table):
        tables.symbols(emission.log_probs.shape[-1], *addresses)
    else:
        tables.dense(*addresses)
    return tables, [initial, transition, lengths, *alive]
