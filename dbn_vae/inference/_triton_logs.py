"""Sums of exponentials in Triton, where −inf is an exact zero."""

import triton
import triton.language as tl

NEVER = tl.constexpr(float("-inf"))


@triton.jit
def finite(x):
    """The number to subtract: −inf stays in the message instead of turning into NaN."""
    return tl.where(x == NEVER, 0.0, x)


@triton.jit
def log_sum(x, axis: tl.constexpr):
    """log Σ exp x along the axis; every sum takes its own maximum out."""
    top = finite(tl.max(x, axis))
    return tl.log(tl.sum(tl.exp(x - tl.expand_dims(top, axis)), axis)) + top


@triton.jit
def add_logs(top, mass, x):
    """A running log-sum-exp, mass · exp(top), takes in the entries along the first axis: the new (top, mass)."""
    higher = tl.maximum(top, tl.max(x, 0))
    kept = mass * tl.exp(top - finite(higher))
    return higher, kept + tl.sum(tl.exp(x - finite(higher)), 0)


@triton.jit
def anywhere(condition):
    """Whether it holds for any entry of a matrix: one answer for the whole program."""
    return tl.max(tl.max(condition.to(tl.int32), 1), 0) > 0
