"""Filter and smooth in log space, in Triton: for many states and for transitions that vary in time.

    a_t(k) = l_t(k) + LSE_j( a_{t-1}(j) + log A_jk ) − c_t
    b_t(i) = LSE_k( log A_ik + q_{t+1}(k) ),    q_t(k) = l_t(k) + b_t(k) − LSE_k( … )
    xi_ij = Σ_t exp( a_t(i) + log A_ij + q_{t+1}(j) − ev_t ),    ev_t = LSE_k( a_t(k) + b_t(k) )

Each target has its own maximum, so nothing is lost.  The K² exponentials a step cost no more than reading K² numbers
from beyond the registers, which either case must do.  A program has one sequence; it goes over the states in blocks,
and its messages are in memory.  xi is a kernel of its own, where a program has one block of pairs.
"""

import triton
import triton.language as tl

from dbn_vae.inference._triton_logs import BITS, NATS, NEVER, add_logs, finite, log2


@triton.jit
def log_product(vector, matrix, out, K, to_in, to_out, S: tl.constexpr):
    """LSE_in( vector[in] + matrix[in, out] ) for a block of targets `out`; the matrix has the strides to_in, to_out."""
    top = tl.full((S,), NEVER, vector.dtype.element_ty)
    mass = tl.zeros((S,), vector.dtype.element_ty)
    for first in range(0, K, S):
        i = first + tl.arange(0, S)
        there = (i < K)[:, None] & (out < K)[None, :]
        terms = tl.load(matrix + i[:, None] * to_in + out[None, :] * to_out, there, NEVER) * BITS
        terms += tl.load(vector + i, i < K, NEVER)[:, None]
        top, mass = add_logs(top, mass, terms)
    return log2(mass) + finite(top)


@triton.jit
def peak_of(l, K, S: tl.constexpr):
    """max_k l(k), taken out of every sum so that float32 keeps the digits of evidence at −1e5."""
    peak = tl.full((S,), NEVER, l.dtype.element_ty)
    for first in range(0, K, S):
        k = first + tl.arange(0, S)
        peak = tl.maximum(peak, tl.load(l + k, k < K, NEVER))
    return finite(tl.max(peak, 0))


@triton.jit
def forward_kernel(
    initial, transition, emission, lengths, messages, log_z, normalizers, T, K, to_row, to_step,
    S: tl.constexpr,
):  # fmt: skip
    """Leaves a_t, to base 2, in messages (B, T, K)."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row).to(tl.int32)
    dtype = messages.dtype.element_ty
    total = tl.zeros((), tl.float64)
    for t in range(n):
        l, a = emission + (row * T + t) * K, messages + (row * T + t) * K
        peak = peak_of(l, K, S)
        top, mass = tl.full((), NEVER, dtype), tl.zeros((), dtype)
        for first in range(0, K, S):
            k = first + tl.arange(0, S)
            if t == 0:
                predicted = tl.load(initial + row * K + k, k < K, NEVER) * BITS
            else:
                A = transition + row * to_row + (t - 1) * to_step
                predicted = log_product(a - K, A, k, K, K, 1, S)
            joint = predicted + (tl.load(l + k, k < K, NEVER) - peak) * BITS
            tl.store(a + k, joint, k < K)
            top, mass = add_logs(top, mass, joint)
        c = log2(mass) + finite(top)
        tl.debug_barrier()  # messages go from thread to thread through memory
        for first in range(0, K, S):
            k = first + tl.arange(0, S)
            tl.store(a + k, tl.load(a + k, k < K, NEVER) - finite(c), k < K)
        tl.debug_barrier()
        step = c.to(tl.float64) * NATS + peak.to(tl.float64)
        total += step
        if normalizers is not None:
            tl.store(normalizers + row * T + t, step)
    tl.store(log_z + row, total)


@triton.jit
def backward_kernel(
    transition, emission, lengths, messages, gamma, q, T, K, to_row, to_step, S: tl.constexpr
):
    """Leaves gamma_t, q_t, and a_t − ev_t in messages, so that a move is exp(message + log A + q)."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row).to(tl.int32)
    dtype = messages.dtype.element_ty
    for back in range(n):
        t = n - 1 - back
        at = (row * T + t) * K
        peak = peak_of(emission + at, K, S)
        top, mass = tl.full((), NEVER, dtype), tl.zeros((), dtype)
        next_top, next_mass = tl.full((), NEVER, dtype), tl.zeros((), dtype)
        for first in range(0, K, S):
            k = first + tl.arange(0, S)
            if back == 0:
                b = tl.zeros((S,), dtype)
            else:
                A = transition + row * to_row + t * to_step
                b = log_product(q + at + K, A, k, K, 1, K, S)
            joint = tl.load(messages + at + k, k < K, NEVER) + b
            future = (tl.load(emission + at + k, k < K, NEVER) - peak) * BITS + b
            tl.store(gamma + at + k, joint, k < K)
            tl.store(q + at + k, future, k < K)
            top, mass = add_logs(top, mass, joint)
            next_top, next_mass = add_logs(next_top, next_mass, future)
        evidence = finite(log2(mass) + finite(top))
        c = finite(log2(next_mass) + finite(next_top))
        tl.debug_barrier()
        for first in range(0, K, S):
            k = first + tl.arange(0, S)
            joint = tl.load(gamma + at + k, k < K, NEVER) - evidence
            tl.store(gamma + at + k, tl.exp2(joint), k < K)
            tl.store(q + at + k, tl.load(q + at + k, k < K, NEVER) - c, k < K)
            tl.store(messages + at + k, tl.load(messages + at + k, k < K, NEVER) - evidence, k < K)
        tl.debug_barrier()


@triton.jit
def pairs_kernel(
    transition, lengths, messages, q, xi, T, K, to_row, to_step,
    SUMMED: tl.constexpr, S: tl.constexpr, FLUSH: tl.constexpr,
):  # fmt: skip
    """A block of pairs, of one step (xi: B, T-1, K, K) or summed over all (B, K, K)."""
    steps = 1 if SUMMED else T - 1
    row = (tl.program_id(0) // steps).to(tl.int64)
    n = tl.load(lengths + row).to(tl.int32)
    across = tl.cdiv(K, S)
    i = tl.program_id(1) // across * S + tl.arange(0, S)
    k = tl.program_id(1) % across * S + tl.arange(0, S)
    there = (i < K)[:, None] & (k < K)[None, :]
    cell = i[:, None].to(tl.int64) * K + k[None, :]
    dtype = messages.dtype.element_ty
    if SUMMED:
        log_A = tl.load(transition + row * to_row + cell, there, NEVER) * BITS
        total = tl.zeros((S, S), tl.float64)
        for begin in range(0, n - 1, FLUSH):  # so that long float32 sums keep their digits
            moves = tl.zeros((S, S), dtype)
            for t in range(begin, tl.minimum(begin + FLUSH, n - 1)):
                at = (row * T + t) * K
                a = tl.load(messages + at + i, i < K, NEVER)
                moves += tl.exp2(a[:, None] + log_A + tl.load(q + at + K + k, k < K, NEVER)[None, :])
            total += moves
        tl.store(xi + row * K * K + cell, total, there)
    else:
        t = tl.program_id(0) % steps
        L = tl.where(t < n - 1, K, 0)  # a step on padding has no states to come from
        at = (row * T + t) * K
        inside = (i < L)[:, None] & (k < L)[None, :]
        log_A = tl.load(transition + row * to_row + t * to_step + cell, inside, NEVER) * BITS
        a = tl.load(messages + at + i, i < L, NEVER)
        to = tl.load(q + at + K + k, k < L, NEVER)
        tl.store(xi + (row * (T - 1) + t) * K * K + cell, tl.exp2(a[:, None] + log_A + to[None, :]), there)
