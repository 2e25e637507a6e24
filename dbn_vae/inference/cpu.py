"""The compiled engine: reference.py's four functions on CPU tensors, exact and fast.

The kernels are C++ (_cpu.cpp, which says how they work); here are only their tables and their results.
"""

import torch
from torch import Tensor

from dbn_vae.inference import _cpu
from dbn_vae.inference.chain import Chain, Filtered, Path, Posterior


def filter(chain: Chain) -> Filtered:
    tables, *_alive = prepare(chain)
    emission = chain.log_emission
    B, T, K = emission.shape
    log_z, probs, c = emission.new_empty(B), emission.new_empty(B, T, K), emission.new_empty(B, T)
    _cpu.filter(tables, log_z.data_ptr(), probs.data_ptr(), c.data_ptr())
    return Filtered(log_z, probs, c)


def smooth(chain: Chain) -> Posterior:
    tables, *_alive = prepare(chain)
    emission = chain.log_emission
    B, T, K = emission.shape
    pairs = (B, T - 1, K, K) if chain.varies_in_time else (B, K, K)
    log_z, gamma, xi = emission.new_empty(B), emission.new_empty(B, T, K), emission.new_empty(pairs)
    _cpu.smooth(tables, log_z.data_ptr(), gamma.data_ptr(), xi.data_ptr())
    return Posterior(log_z, gamma, xi)


def viterbi(chain: Chain) -> Path:
    tables, *_alive = prepare(chain)
    emission = chain.log_emission
    B, T, _ = emission.shape
    states, score = emission.new_empty(B, T, dtype=torch.int64), emission.new_empty(B)
    _cpu.viterbi(tables, states.data_ptr(), score.data_ptr())
    return Path(states, score)


def sample(chain: Chain, uniform: Tensor) -> Tensor:
    tables, *_alive = prepare(chain)
    uniform = uniform.to(torch.float64).contiguous()
    states = torch.empty(uniform.shape, dtype=torch.int64)
    _cpu.sample(tables, uniform.data_ptr(), uniform.shape[0], states.data_ptr())
    return states


def prepare(chain: Chain) -> tuple[_cpu.Tables, Tensor, Tensor, Tensor, Tensor]:
    """The addresses of the potentials, and the tensors that must outlive them."""
    assert chain.lengths is not None  # a canonical chain
    initial, transition, emission = (x.contiguous() for x in chain[:3])
    lengths = chain.lengths.to(torch.int64).contiguous()
    B, T, K = emission.shape
    tables = _cpu.Tables(
        emission.dtype == torch.float64, B, T, K, transition.dim() - 2,
        initial.data_ptr(), transition.data_ptr(), emission.data_ptr(), lengths.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return tables, initial, transition, emission, lengths
