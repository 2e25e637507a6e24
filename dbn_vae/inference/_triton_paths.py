"""Viterbi and sampled paths in Triton.

    a_t(k) = l_t(k) + max_j( a_{t-1}(j) + log A_jk ) − c_t,    c_t such that max_k a_t(k) = 0

in the same arithmetic as the reference, rounding included, so that ties fall alike: of several best states the first.
Each state's best predecessor is kept in the smallest integer type; the way back is in the same kernel.
"""

import triton
import triton.language as tl

from dbn_vae.inference._triton_logs import BITS, NEVER, finite, log_sum, spread
from dbn_vae.inference._triton_scaled import log_matrix, members


@triton.jit
def first_best(x, index, none):
    """Along the first axis: the maximum, and the first index that has it."""
    best = tl.max(x, 0)
    return best, tl.min(tl.where(x == tl.expand_dims(best, 0), index, none), 0)


@triton.jit
def viterbi_kernel(
    initial, transition, emission, lengths, order, score, states, came, B, T, K, to_row,
    R: tl.constexpr, S: tl.constexpr, VARIES: tl.constexpr,
):  # fmt: skip
    """came (B, T, K): the best predecessor.  Messages and, where they stay the same, transitions are in registers."""
    row, n = members(order, lengths, B, R)
    k = tl.arange(0, S)
    real = (k < K)[None, :]
    at = row[:, None] * T * K + k[None, :]
    inside = real & (n > 0)[:, None]
    a = tl.load(initial + row[:, None] * K + k[None, :], inside, NEVER)
    a += tl.load(emission + at, inside, NEVER)
    c = tl.max(a, 1)
    a -= finite(c)[:, None]
    total = tl.where(n > 0, c.to(tl.float64), 0.0)
    longest = tl.max(n, 0)
    if not VARIES:
        log_A = log_matrix(transition, row, n, K, to_row, R, S)
    for t in tl.range(1, longest, num_stages=4):
        active = t < n
        inside = real & active[:, None]
        l = tl.load(emission + at + t * K, inside, NEVER)
        if VARIES:
            log_A = log_matrix(transition + (t - 1) * K * K, row, n - t, K, to_row, R, S)
        best, source = first_best(spread(a) + log_A, k[:, None, None], S)
        joint = best + l
        c = tl.max(joint, 1)
        a = tl.where(active[:, None], joint - finite(c)[:, None], a)
        total += tl.where(active, c.to(tl.float64), 0.0)
        tl.store(came + at + t * K, source.to(came.dtype.element_ty), inside)
    tl.store(score + row, total, n > 0)
    tl.debug_barrier()
    state = tl.min(tl.where(a == tl.max(a, 1)[:, None], k[None, :], S), 1)
    for back in tl.range(1, longest, num_stages=4):
        t = longest - back
        active = t < n
        tl.store(states + row * T + t, state.to(tl.int64), active)
        # the whole row, which does not wait for the state, so that it can be fetched ahead
        sources = tl.load(came + at + t * K, real & active[:, None], 0).to(tl.int32)
        previous = tl.sum(tl.where(k[None, :] == state[:, None], sources, 0), 1)
        state = tl.where(active, previous, state)
    tl.store(states + row * T, state.to(tl.int64), n > 0)
    for t in range(tl.min(n, 0), T):
        tl.store(states + row * T + t, tl.full((R,), -1, tl.int64), (n > 0) & (t >= n))


@triton.jit
def blocked_viterbi_kernel(
    initial, transition, emission, lengths, score, states, came, messages, T, K, to_row, to_step,
    S: tl.constexpr,
):  # fmt: skip
    """The same for more states than registers hold: a sequence a program, two messages (B, 2, K) in memory."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row).to(tl.int32)
    dtype = messages.dtype.element_ty
    total, state = tl.zeros((), tl.float64), tl.zeros((), tl.int32)
    for t in range(n):
        a, before = messages + (row * 2 + t % 2) * K, messages + (row * 2 + (t + 1) % 2) * K
        A = transition + row * to_row + (t - 1) * to_step
        c = tl.full((), NEVER, dtype)
        for first in range(0, K, S):
            k = first + tl.arange(0, S)
            if t == 0:
                best = tl.load(initial + row * K + k, k < K, NEVER)
            else:
                best, source = tl.full((S,), NEVER, dtype), tl.zeros((S,), tl.int32)
                for start in range(0, K, S):
                    j = start + tl.arange(0, S)
                    there = (j < K)[:, None] & (k < K)[None, :]
                    terms = tl.load(A + j[:, None] * K + k[None, :], there, NEVER)
                    terms = tl.load(before + j, j < K, NEVER)[:, None] + terms
                    here, index = first_best(terms, j[:, None], K)
                    source = tl.where(here > best, index, source)  # of equals, the block before
                    best = tl.maximum(best, here)
                tl.store(came + (row * T + t) * K + k, source.to(came.dtype.element_ty), k < K)
            joint = best + tl.load(emission + (row * T + t) * K + k, k < K, NEVER)
            tl.store(a + k, joint, k < K)
            c = tl.maximum(c, tl.max(joint, 0))
        tl.debug_barrier()
        found = K
        for first in range(0, K, S):
            k = first + tl.arange(0, S)
            joint = tl.load(a + k, k < K, NEVER)
            found = tl.minimum(found, tl.min(tl.where((joint == c) & (k < K), k, K), 0))
            tl.store(a + k, joint - finite(c), k < K)
        state = found
        total += c.to(tl.float64)
        tl.debug_barrier()
    tl.store(score + row, total)
    for back in range(n):
        t = n - 1 - back
        tl.store(states + row * T + t, state.to(tl.int64))
        if t > 0:
            state = tl.load(came + (row * T + t) * K + state).to(tl.int32)
    for t in range(n, T):
        tl.store(states + row * T + t, tl.full((), -1, tl.int64))


@triton.jit
def sample_kernel(
    transition, lengths, messages, uniform, states, N, B, T, K, to_row, to_step,
    D: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """D paths of one sequence from the end to the start, by inversion; messages: the filter's logarithms."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row).to(tl.int32)
    draw = tl.program_id(1) * D + tl.arange(0, D)
    there = draw < N
    k = tl.arange(0, S)
    path = (draw.to(tl.int64) * B + row) * T
    state = tl.zeros((D,), tl.int32)
    for back in range(n):
        t = n - 1 - back
        logits = tl.zeros((D, S), messages.dtype.element_ty)
        logits += tl.load(messages + (row * T + t) * K + k, k < K, NEVER)[None, :]
        if back > 0:
            into = transition + row * to_row + t * to_step + k[None, :] * K + state[:, None]
            logits += tl.load(into, (k < K)[None, :] & there[:, None], NEVER) * BITS
        weight = tl.exp2((logits - finite(log_sum(logits, 1))[:, None]).to(tl.float64))
        # a sum in the order of a tree may rise where there is no weight: not to be drawn
        cumulated = tl.where(weight > 0.0, tl.cumsum(weight, 1), 0.0)
        u = tl.load(uniform + path + t, there, 0.0)
        above = cumulated > (u * tl.max(cumulated, 1))[:, None]
        drawn = tl.min(tl.where(above, k[None, :], S), 1)
        state = tl.where(drawn < S, drawn, 0)
        tl.store(states + path + t, state.to(tl.int64), there)
    for t in range(n, T):
        tl.store(states + path + t, tl.full((D,), -1, tl.int64), there)
