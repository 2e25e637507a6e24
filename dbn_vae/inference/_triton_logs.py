"""Sums of exponentials in Triton, where −inf is an exact zero; and what the kernels ask of the compiler.

Logarithms are to base 2 inside the kernels: the hardware has no other.  Potentials are turned by BITS, after their
maximum was taken out, and results by NATS.
"""

import math
import os

import triton
import triton.language as tl

NEVER = tl.constexpr(float("-inf"))
BITS = tl.constexpr(1 / math.log(2))
NATS = tl.constexpr(math.log(2))
COMPILED = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")


@triton.jit
def finite(x):
    """The number to subtract: −inf stays in the message instead of turning into NaN."""
    return tl.where(x == NEVER, 0.0, x)


@triton.jit
def log2(x):
    if COMPILED and x.dtype == tl.float32:
        # to 2^-22, in one instruction instead of thirty
        y = tl.inline_asm_elementwise("lg2.approx.f32 $0, $1;", "=r,r", [x], tl.float32, is_pure=True, pack=1)
    else:
        y = tl.log2(x)
    return y


@triton.jit
def log_sum(x, axis: tl.constexpr):
    """log2 Σ 2^x along the axis; every sum takes its own maximum out."""
    top = finite(tl.max(x, axis))
    return log2(tl.sum(tl.exp2(x - tl.expand_dims(top, axis)), axis)) + top


@triton.jit
def add_logs(top, mass, x):
    """A running log-sum-exp, mass · 2^top, takes in the entries along the first axis: the new (top, mass)."""
    higher = tl.maximum(top, tl.max(x, 0))
    kept = mass * tl.exp2(top - finite(higher))
    return higher, kept + tl.sum(tl.exp2(x - finite(higher)), 0)


@triton.jit
def anywhere(condition):
    """Whether it holds for any entry of a matrix: one answer for the whole program."""
    return tl.max(tl.max(condition.to(tl.int32), 1), 0) > 0


@triton.jit
def spread(x):
    """x[r, i] as [i, r, 1], to meet a matrix [i, r, o].

    Every lane needs all of x.  Left alone, the compiler thinks it cheaper that each lane computes all of x, with
    everything that x depends on, than that it fetches x from other lanes; a copy it cannot see through prevents that.
    """
    if COMPILED:
        if x.dtype == tl.float64:
            x = tl.inline_asm_elementwise("mov.b64 $0, $1;", "=l,l", [x], x.dtype, is_pure=False, pack=1)
        else:
            x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], x.dtype, is_pure=False, pack=1)
    return tl.trans(x)[:, :, None]
