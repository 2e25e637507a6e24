"""Filter and smooth in scaled arithmetic with a log-sum-exp where that could fail, in Triton; up to 128 states.

    c_t p_t(k) = e_t(k) Σ_j p_{t-1}(j) A_jk          e_t(k) = exp(l_t(k) − max_k l_t(k))
    q_t(k) ∝ e_t(k) b_t(k),    b_{t-1}(i) = Σ_k A_ik q_t(k)
    gamma_t(k) = p_t(k) b_t(k) / N_t,    xi_ij = A_ij Σ_t p_{t-1}(i) q_t(j) / N_{t-1},    N_t = Σ_k p_t(k) b_t(k)

A program has a tile of R sequences; messages (R, K), transitions (1 or R, K, K) and expected moves stay in registers
while it walks through time.  Beside every scaled number p, b, q stands its logarithm, whose range is unlimited and
which the next fast step does not wait for.

Why it is exact.  Let tiny be the smallest normal number: no more than that is lost where a product underflows.  p and q
sum to 1, A and e are at most 1 (their maximum is taken out), K ≤ 128.
  1. While Σ_k e(k) pred(k) ≥ `low`, a number p = e · pred / Σ loses at most tiny / low, and a sum over its K products
     with A at most K (tiny / low + tiny).  That is below the rounding of a sum that is at least `faint`.
  2. A smaller sum, a zero among them, is exact if nothing was lost: all p and A are zero or at least `safe`, and
     safe² > tiny.  Otherwise that step is done again from the logarithms, each target with its own maximum.
  3. Where a state with e = 1 has pred ≥ low, the sum of 1. is.  Otherwise the step is normalised by its logarithms.
The same holds backward with b and q.  A posterior with N < `rare` is taken from the logarithms; else what the products
lost is K² tiny / rare at most, absolutely.
"""

import triton
import triton.language as tl

from dbn_vae.inference._triton_logs import NEVER, anywhere, finite, inverse_of, log_of, log_sum


@triton.jit
def low(x):
    return 2.0**-100 if x.dtype == tl.float64 else 2.0**-16


@triton.jit
def faint(x):
    return 2.0**-800 if x.dtype == tl.float64 else 2.0**-76


@triton.jit
def log_safe(x):
    return -345.0 if x.dtype == tl.float64 else -41.0


@triton.jit
def rare(x):
    return 2.0**-500 if x.dtype == tl.float64 else 2.0**-60


@triton.jit
def relative(l):
    """l without its maximum, and that maximum."""
    peak = finite(tl.max(l, 1))
    return l - peak[:, None], peak


@triton.jit
def members(order, lengths, B, R: tl.constexpr):
    """The sequences of this program's tile and their lengths; 0 beyond the batch."""
    slot = tl.program_id(0) * R + tl.arange(0, R)
    there = slot < B
    row = slot.to(tl.int64) if order is None else tl.load(order + slot, there, 0)
    return row, tl.load(lengths + row, there, 0).to(tl.int32)


@triton.jit
def log_transition(transition, row, n, K, R: tl.constexpr, S: tl.constexpr, SHARED: tl.constexpr):
    """(1, S, S) where all sequences share them, else (R, S, S); −inf on padding states."""
    j, k = tl.arange(0, S)[None, :, None], tl.arange(0, S)[None, None, :]
    there = (j < K) & (k < K)
    if SHARED:
        return tl.load(transition + j * K + k, there, NEVER)
    return tl.load(
        transition + row[:, None, None] * (K * K) + j * K + k, there & (n[:, None, None] > 0), NEVER
    )


@triton.jit
def scaled(log_A):
    """A / max A, its logarithm's shift, and whether entries are so small that products with them may be lost."""
    # one shift for all sequences of the tile would do harm: they need not have anything in common
    shift = finite(tl.max(tl.max(log_A, 2), 1))
    log_A -= shift[:, None, None]
    small = (log_A < log_safe(log_A)) & (log_A > NEVER)
    return tl.exp(log_A), shift, anywhere(tl.max(small.to(tl.int32), 2))


@triton.jit
def forward(
    initial, transition, emission, messages, normalizers, row, n, T, K,
    R: tl.constexpr, S: tl.constexpr, SHARED: tl.constexpr, LINEAR: tl.constexpr,
):  # fmt: skip
    """log Z (R,) in float64.  Leaves log p_t, or p_t itself, in messages and log c_t in normalizers where given."""
    k = tl.arange(0, S)
    real = (k < K)[None, :]
    log_A = log_transition(transition, row, n, K, R, S, SHARED)
    A, shift, rough = scaled(log_A)
    at = row[:, None] * T * K + k[None, :]
    inside = real & (n > 0)[:, None]
    l, peak = relative(tl.load(emission + at, inside, NEVER))
    m = tl.load(initial + row[:, None] * K + k[None, :], inside, NEVER) + l
    log_c = log_sum(m, 1)
    m -= finite(log_c)[:, None]
    p = tl.exp(m)
    step = log_c.to(tl.float64) + peak.to(tl.float64)
    log_z = tl.where(n > 0, step, 0.0)
    if messages is not None:
        tl.store(messages + at, p if LINEAR else m, inside)
    if normalizers is not None:
        tl.store(normalizers + row * T, step, n > 0)
    for t in tl.range(1, tl.max(n, 0), num_stages=4):
        active = t < n
        inside = real & active[:, None]
        l, peak = relative(tl.load(emission + at + t * K, inside, NEVER))
        e = tl.exp(l)
        predicted = tl.sum(p[:, :, None] * A, 1)
        log_predicted = log_of(predicted)
        joint = predicted * e
        c = tl.sum(joint, 1)
        log_c = log_of(c)
        new_p = joint * inverse_of(c)[:, None]
        new_m = log_predicted + l - finite(log_c)[:, None]
        weak = (predicted < faint(l)) | ((l == 0.0) & (predicted < low(l)))
        if anywhere(weak & inside):
            if rough | anywhere((m < log_safe(m)) & (m > NEVER)):
                again = log_transition(transition, row, n, K, R, S, SHARED) - shift[:, None, None]
                log_predicted = log_sum(m[:, :, None] + again, 1)
            new_m = log_predicted + l
            log_c = log_sum(new_m, 1)
            new_m -= finite(log_c)[:, None]
            new_p = tl.exp(new_m)
        m = tl.where(active[:, None], new_m, m)
        p = tl.where(active[:, None], new_p, p)
        step = log_c.to(tl.float64) + (peak.to(tl.float64) + shift.to(tl.float64))
        log_z += tl.where(active, step, 0.0)
        if messages is not None:
            tl.store(messages + at + t * K, p if LINEAR else m, inside)
        if normalizers is not None:
            tl.store(normalizers + row * T + t, step, active)
    return log_z


@triton.jit
def clear_padding(table, row, n, B, T, K, R: tl.constexpr, S: tl.constexpr):
    """0 at steps from n on: of a table (B, T, K)."""
    k = tl.arange(0, S)
    there = (k < K)[None, :] & (n > 0)[:, None]
    for t in range(tl.min(n, 0), T):
        at = table + (row[:, None] * T + t) * K + k[None, :]
        tl.store(at, tl.zeros((R, S), table.dtype.element_ty), there & (t >= n)[:, None])


@triton.jit
def filter_kernel(
    initial, transition, emission, lengths, order, log_z, probs, normalizers, B, T, K,
    R: tl.constexpr, S: tl.constexpr, SHARED: tl.constexpr, LINEAR: tl.constexpr,
):  # fmt: skip
    row, n = members(order, lengths, B, R)
    total = forward(
        initial, transition, emission, probs, normalizers, row, n, T, K, R, S, SHARED, LINEAR
    )  # fmt: skip
    tl.store(log_z + row, total, n > 0)
    if probs is not None:
        clear_padding(probs, row, n, B, T, K, R, S)
    if normalizers is not None:
        clear_padding(normalizers, row, n, B, T, 1, R, 1)


@triton.jit
def smooth_kernel(
    initial, transition, emission, lengths, order, log_z, gamma, xi, B, T, K,
    R: tl.constexpr, S: tl.constexpr, SHARED: tl.constexpr, FLUSH: tl.constexpr,
):  # fmt: skip
    """gamma holds the forward messages until the way back overwrites them.  xi: float64, 0 at first."""
    row, n = members(order, lengths, B, R)
    total = forward(initial, transition, emission, gamma, None, row, n, T, K, R, S, SHARED, False)
    tl.store(log_z + row, total, n > 0)
    tl.debug_barrier()  # another thread may read a message than the one that wrote it
    i = tl.arange(0, S)
    real = (i < K)[None, :]
    A, shift, rough = scaled(log_transition(transition, row, n, K, R, S, SHARED))
    at = row[:, None] * T * K + i[None, :]
    pair = (row[:, None, None] * K + i[None, :, None]) * K + i[None, None, :]
    pair_there = (real[:, :, None] & real[:, None, :]) & (n > 0)[:, None, None]
    dtype = gamma.dtype.element_ty
    b, log_b = tl.full((R, S), 1.0, dtype), tl.zeros((R, S), dtype)
    q, log_q = tl.zeros((R, S), dtype), tl.full((R, S), NEVER, dtype)
    moves = tl.zeros((R, S, S), dtype)  # Σ_t p_{t-1}(i) q_t(j) / N_{t-1} of the last FLUSH steps
    longest = tl.max(n, 0)
    for back in tl.range(0, longest, num_stages=4):
        t = longest - 1 - back
        active = t < n
        inside = real & active[:, None]
        m = tl.load(gamma + at + t * K, inside, NEVER)
        l, _ = relative(tl.load(emission + at + t * K, inside, NEVER))
        p = tl.exp(m)
        joint = p * b
        evidence = tl.sum(joint, 1)
        usable = active & (total != NEVER)
        scale = tl.where(usable, inverse_of(evidence), 0.0)[:, None]
        posterior, origin = joint * scale, p * scale
        if anywhere((usable & (evidence < rare(m)))[:, None]):
            log_joint = m + log_b
            log_evidence = finite(log_sum(log_joint, 1))[:, None]
            posterior = tl.where(usable[:, None], tl.exp(log_joint - log_evidence), 0.0)
            origin = tl.zeros((R, S), dtype)
            # a move may be as rare as the evidence: not to be written as A times anything
            again = log_transition(transition, row, n, K, R, S, SHARED) - shift[:, None, None]
            jump = tl.exp(m[:, :, None] + again + (log_q - log_evidence)[:, None, :])
            jump = tl.where(usable[:, None, None], jump, 0.0).to(tl.float64)
            tl.debug_barrier()
            tl.store(xi + pair, tl.load(xi + pair, pair_there, 0.0) + jump, pair_there)
            tl.debug_barrier()
        tl.store(gamma + at + t * K, posterior, inside)
        moves += origin[:, :, None] * q[:, None, :]
        if t % FLUSH == 0:  # so that long float32 sums keep their digits
            expected = (A * moves).to(tl.float64)
            tl.debug_barrier()
            tl.store(xi + pair, tl.load(xi + pair, pair_there, 0.0) + expected, pair_there)
            tl.debug_barrier()
            moves = tl.zeros((R, S, S), dtype)
        future = tl.exp(l) * b
        mass = tl.sum(future, 1)
        new_q = future * inverse_of(mass)[:, None]
        new_b = tl.sum(A * new_q[:, None, :], 2)
        new_log_q = l + log_b - finite(log_of(mass))[:, None]
        new_log_b = log_of(new_b)
        weak = (new_b < faint(l)) | ((l == 0.0) & (b < low(l)))
        if anywhere(weak & inside):
            log_future = l + log_b
            new_log_q = log_future - finite(log_sum(log_future, 1))[:, None]
            new_q = tl.exp(new_log_q)
            if rough | anywhere((new_log_q < log_safe(l)) & (new_log_q > NEVER)):
                again = log_transition(transition, row, n, K, R, S, SHARED) - shift[:, None, None]
                new_log_b = log_sum(again + new_log_q[:, None, :], 2)
                new_b = tl.exp(new_log_b)
            else:
                new_b = tl.sum(A * new_q[:, None, :], 2)
                new_log_b = log_of(new_b)
        b, log_b = tl.where(inside, new_b, b), tl.where(inside, new_log_b, log_b)
        q, log_q = tl.where(inside, new_q, q), tl.where(inside, new_log_q, log_q)
    clear_padding(gamma, row, n, B, T, K, R, S)
