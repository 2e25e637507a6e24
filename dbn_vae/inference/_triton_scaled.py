"""Filter and smooth in scaled arithmetic with a log-sum-exp where that could fail, in Triton; up to 128 states.

    c_t p_t(k) = e_t(k) Σ_j p_{t-1}(j) A_jk          e_t(k) = exp(l_t(k) − max_k l_t(k))
    q_t(k) ∝ e_t(k) b_t(k),    b_{t-1}(i) = Σ_k A_ik q_t(k)
    gamma_t(k) = p_t(k) b_t(k) / N_t,    xi_ij = A_ij Σ_t p_{t-1}(i) q_t(j) / N_{t-1},    N_t = Σ_k p_t(k) b_t(k)

A program has a tile of R sequences.  Messages (R, S) over S ≥ K states, transitions (S, R, S) and expected moves
stay in registers while it walks through time; the state summed over is the first axis, so that a lane has a target
and adds up its sources alone.  Beside every scaled number p, b, q stands its logarithm, whose range is unlimited and
which the next fast step does not wait for.

Why it is exact.  Let tiny be the smallest normal number: no more than that is lost where a product underflows.  p and q
sum to 1, A and e are at most 1 (their maximum is taken out), K ≤ 128.
  1. While Σ_k e(k) pred(k) ≥ LOW, a number p = e · pred / Σ loses at most tiny / LOW, and a sum over its K products
     with A at most K (tiny / LOW + tiny).  That is below the rounding of a sum that is at least FAINT.
  2. A smaller sum, a zero among them, is exact if nothing was lost: all p and A are zero or at least 2^SAFE, and
     2^(2 SAFE) > tiny.  Otherwise that step is done again from the logarithms, each target with its own maximum.
  3. Where a state with e = 1 has pred ≥ LOW, the sum of 1. is.  Otherwise the step is normalised by its logarithms.
The same holds backward with b and q.  A posterior with N < RARE is taken from the logarithms; else what the products
lost is K² tiny / RARE at most, absolutely.
"""

import triton
import triton.language as tl

from dbn_vae.inference._triton_logs import BITS, NATS, NEVER, anywhere, finite, log2, log_sum, spread


@triton.jit
def members(order, lengths, B, R: tl.constexpr):
    """The sequences of this program's tile and their lengths; 0 beyond the batch."""
    slot = tl.program_id(0) * R + tl.arange(0, R)
    there = slot < B
    row = slot.to(tl.int64) if order is None else tl.load(order + slot, there, 0)
    return row, tl.load(lengths + row, there, 0).to(tl.int32)


@triton.jit
def log_matrix(transition, row, n, K, to_row, R: tl.constexpr, S: tl.constexpr):
    """log A of the sequences, `to_row` apart: (S, R, S), sources first; −inf on padding states."""
    i, o = tl.arange(0, S)[:, None, None], tl.arange(0, S)[None, None, :]
    there = (i < K) & (o < K) & (n > 0)[None, :, None]
    return tl.load(transition + row[None, :, None] * to_row + i * K + o, there, NEVER)


@triton.jit
def scaled(log_A):
    """A over its maximum, to base 2, and that maximum (R,) of each sequence, in nats."""
    shift = finite(tl.max(tl.max(log_A, 2), 0))
    return (log_A - shift[None, :, None]) * BITS, shift


@triton.jit
def lossy(log_x, SAFE: tl.constexpr):
    """Products with these numbers may underflow."""
    return (log_x < SAFE) & (log_x > NEVER)


@triton.jit
def relative(l):
    """l over its maximum, to base 2, and that maximum (R,), in nats."""
    peak = finite(tl.max(l, 1))
    return (l - peak[:, None]) * BITS, peak


@triton.jit
def inverse(x, LIMIT: tl.constexpr):
    """1 / x; anything below the limit, where nobody looks."""
    return 1.0 / tl.where(x < LIMIT, 1.0, x)


@triton.jit
def forward(
    initial, transition, emission, messages, normalizers, row, n, T, K, to_row,
    R: tl.constexpr, S: tl.constexpr, LINEAR: tl.constexpr,
    LOW: tl.constexpr, FAINT: tl.constexpr, SAFE: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """log Z (R,) in float64.  Leaves log p_t, or p_t itself, in messages and log c_t in normalizers where given."""
    k = tl.arange(0, S)
    real = (k < K)[None, :]
    log_A, shift = scaled(log_matrix(transition, row, n, K, to_row, R, S))
    rough = anywhere(tl.max(lossy(log_A, SAFE).to(tl.int32), 0))
    A = tl.exp2(log_A)
    at = row[:, None] * T * K + k[None, :]
    inside = real & (n > 0)[:, None]
    l, peak = relative(tl.load(emission + at, inside, NEVER))
    start, highest = relative(tl.load(initial + row[:, None] * K + k[None, :], inside, NEVER))
    m = start + l
    log_c = log_sum(m, 1)
    m -= finite(log_c)[:, None]
    p = tl.exp2(m)
    c = tl.full((R,), 1.0, m.dtype)  # m is log2 (c p)
    # log Z is the sum of these; several c are multiplied before a logarithm is taken
    nats = tl.where(n > 0, peak.to(tl.float64) + highest.to(tl.float64), 0.0)
    bits = tl.where(n > 0, log_c.to(tl.float64), 0.0)
    factor = tl.full((R,), 1.0, tl.float64)
    if messages is not None:
        tl.store(messages + at, p if LINEAR else m, inside)
    if normalizers is not None:
        tl.store(normalizers + row * T, bits * NATS + nats, n > 0)
    for t in tl.range(1, tl.max(n, 0), num_stages=4):
        active = t < n  # a sequence that has ended goes on with nothing, and nobody looks
        inside = real & active[:, None]
        l, peak = relative(tl.load(emission + at + t * K, inside, NEVER))
        predicted = tl.sum(spread(p) * A, 0)
        joint = predicted * tl.exp2(l)
        log_predicted = log2(predicted)
        log_c = tl.zeros((R,), m.dtype)  # of what c does not hold
        before = c
        c = tl.sum(joint, 1)
        weak = (predicted < FAINT) | ((l == 0.0) & (predicted < LOW))
        if anywhere(weak & inside):
            m -= finite(log2(before))[:, None]
            if rough | anywhere(lossy(m, SAFE)):
                again, _ = scaled(log_matrix(transition, row, n, K, to_row, R, S))
                log_predicted = log_sum(spread(m) + again, 0)
            m = log_predicted + l
            log_c = log_sum(m, 1)
            m -= finite(log_c)[:, None]
            p = tl.exp2(m)
            c = tl.full((R,), 1.0, m.dtype)
        else:
            m = log_predicted + l
            p = joint * inverse(c, LOW)[:, None]
        if messages is not None:
            tl.store(messages + at + t * K, p if LINEAR else m, inside)
        if normalizers is not None:
            step = (log_c + log2(c)).to(tl.float64) * NATS + (peak.to(tl.float64) + shift.to(tl.float64))
            tl.store(normalizers + row * T + t, step, active)
        nats += peak.to(tl.float64)  # 0 where the sequence has ended
        factor *= tl.where(active, c, 1.0).to(tl.float64)
        bits += tl.where(active, log_c, 0.0).to(tl.float64)
        if t % FACTORS == 0:
            bits += tl.log2(factor)
            factor = tl.full((R,), 1.0, tl.float64)
    bits += tl.log2(factor)
    return bits * NATS + nats + tl.maximum(n - 1, 0).to(tl.float64) * shift.to(tl.float64)


@triton.jit
def clear_padding(table, row, n, T, K, R: tl.constexpr, S: tl.constexpr):
    """0 at steps from n on: of a table (B, T, K)."""
    k = tl.arange(0, S)
    there = (k < K)[None, :] & (n > 0)[:, None]
    for t in range(tl.min(n, 0), T):
        at = table + (row[:, None] * T + t) * K + k[None, :]
        tl.store(at, tl.zeros((R, S), table.dtype.element_ty), there & (t >= n)[:, None])


@triton.jit
def filter_kernel(
    initial, transition, emission, lengths, order, log_z, probs, normalizers, B, T, K, to_row,
    R: tl.constexpr, S: tl.constexpr, LINEAR: tl.constexpr,
    LOW: tl.constexpr, FAINT: tl.constexpr, SAFE: tl.constexpr, RARE: tl.constexpr,
    FACTORS: tl.constexpr,
):  # fmt: skip
    row, n = members(order, lengths, B, R)
    total = forward(
        initial, transition, emission, probs, normalizers, row, n, T, K, to_row, R, S, LINEAR,
        LOW, FAINT, SAFE, FACTORS,
    )  # fmt: skip
    tl.store(log_z + row, total, n > 0)
    if probs is not None:
        clear_padding(probs, row, n, T, K, R, S)
    if normalizers is not None:
        clear_padding(normalizers, row, n, T, 1, R, 1)


@triton.jit
def add_moves(xi, row, n, K, moves, R: tl.constexpr, S: tl.constexpr):
    """xi[r, j, i] += moves[j, r, i] in memory, each entry by one thread after the other: no barrier in a loop."""
    j, i = tl.arange(0, S)[:, None, None], tl.arange(0, S)[None, None, :]
    there = (i < K) & (j < K) & (n > 0)[None, :, None]
    tl.atomic_add(xi + row[None, :, None] * (K * K) + j * K + i, moves.to(tl.float64), there, sem="relaxed")


@triton.jit
def smooth_kernel(
    initial, transition, emission, lengths, order, transposed, log_z, gamma, xi, B, T, K, to_row,
    R: tl.constexpr, S: tl.constexpr, FLUSH: tl.constexpr,
    LOW: tl.constexpr, FAINT: tl.constexpr, SAFE: tl.constexpr, RARE: tl.constexpr,
    FACTORS: tl.constexpr,
):  # fmt: skip
    """gamma holds the forward messages until the way back overwrites them.

    transposed is the transposed transition, and xi, float64 and 0 at first, is left transposed: on the way back the
    sum is over the state after.
    """
    row, n = members(order, lengths, B, R)
    total = forward(
        initial, transition, emission, gamma, None, row, n, T, K, to_row, R, S, False,
        LOW, FAINT, SAFE, FACTORS,
    )  # fmt: skip
    tl.store(log_z + row, total, n > 0)
    tl.debug_barrier()  # the thread that reads a message need not be the one that wrote it
    k = tl.arange(0, S)
    real = (k < K)[None, :]
    log_A, _ = scaled(log_matrix(transposed, row, n, K, to_row, R, S))
    rough = anywhere(tl.max(lossy(log_A, SAFE).to(tl.int32), 0))
    A = tl.exp2(log_A)
    at = row[:, None] * T * K + k[None, :]
    dtype = gamma.dtype.element_ty
    b, log_b = tl.full((R, S), 1.0, dtype), tl.zeros((R, S), dtype)
    to = tl.zeros((S, R, 1), dtype)  # q of the step after, for every lane
    mass = tl.full((R,), 1.0, dtype)
    log_q = tl.full((R, S), NEVER, dtype)  # log2 (mass q)
    moves = tl.zeros((S, R, S), dtype)  # [j, r, i]: Σ_t p_{t-1}(i) q_t(j) / N_{t-1} since the last flush
    longest = tl.max(n, 0)
    for back in tl.range(0, longest, num_stages=4):
        t = longest - 1 - back
        active, within = t < n, t < n - 1
        inside = real & active[:, None]
        b, log_b = tl.where(within[:, None], b, 1.0), tl.where(within[:, None], log_b, 0.0)
        m = tl.load(gamma + at + t * K, inside, NEVER)
        p = tl.exp2(m)
        joint = p * b
        evidence = tl.sum(joint, 1)
        scale = tl.where(active, inverse(evidence, RARE), 0.0)
        posterior = joint * scale[:, None]
        origin = p * tl.where(within, scale, 0.0)[:, None]
        if anywhere((active & (evidence < RARE))[:, None]):
            log_joint = m + log_b
            log_evidence = finite(log_sum(log_joint, 1))[:, None]
            posterior = tl.where(active[:, None], tl.exp2(log_joint - log_evidence), 0.0)
            origin = tl.zeros((R, S), dtype)
            # a move as rare as the evidence cannot be written as A times anything
            again, _ = scaled(log_matrix(transposed, row, n, K, to_row, R, S))
            again += (m - log_evidence)[None, :, :] + spread(log_q - finite(log2(mass))[:, None])
            moved = within[None, :, None]
            add_moves(xi, row, n, K, tl.where(moved, tl.exp2(again), 0.0), R, S)
        tl.store(gamma + at + t * K, posterior, inside)
        moves += to * origin[None, :, :]
        if t % FLUSH == 0:  # so that long float32 sums keep their digits
            add_moves(xi, row, n, K, A * moves, R, S)
            moves = tl.zeros((S, R, S), dtype)
        l, _ = relative(tl.load(emission + at + t * K, inside, NEVER))
        log_q = l + log_b
        weak = (l == 0.0) & (b < LOW)
        future = tl.exp2(l) * b
        mass = tl.sum(future, 1)
        to = spread(future * inverse(mass, LOW)[:, None])
        b = tl.sum(to * A, 0)
        log_b = log2(b)
        weak |= b < FAINT
        if anywhere(weak & inside):
            log_q -= finite(log_sum(log_q, 1))[:, None]
            mass = tl.full((R,), 1.0, dtype)
            to = spread(tl.exp2(log_q))
            if rough | anywhere(lossy(log_q, SAFE)):
                again, _ = scaled(log_matrix(transposed, row, n, K, to_row, R, S))
                log_b = log_sum(spread(log_q) + again, 0)
                b = tl.exp2(log_b)
            else:
                b = tl.sum(to * A, 0)
                log_b = log2(b)
    clear_padding(gamma, row, n, T, K, R, S)
