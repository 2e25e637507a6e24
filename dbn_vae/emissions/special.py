"""Numerics that several families share: differences of gamma functions, and roots in one dimension."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

FLOOR = 1e-9  # of 1/shape and 1/concentration: within the bracket of increasing_root, so that what is found is a root


def stirling_error(a: Tensor) -> Tensor:
    """log Γ(a) − [(a − ½) log a − a + ½ log 2π], without the cancellation of large numbers when a is large."""
    # a branch not taken must not overflow: its gradient would be NaN
    large, small = a.clamp_min(100), a.clamp_max(100)
    series = 1 / (12 * large) - 1 / (360 * large**3) + 1 / (1260 * large**5)
    exact = torch.lgamma(small) - (small - 0.5) * small.log() + small - 0.5 * math.log(2 * math.pi)
    return torch.where(a > 100, series, exact)


def log_gamma_ratio(a: Tensor, h: Tensor | float) -> Tensor:
    """log Γ(a + h) − log Γ(a), h ≥ 0, without the cancellation of two large numbers when a is large."""
    z = a + h
    # Stirling's series of both; the first term left out is under 1e-13 from a = 100 on
    tail = (1 / z - 1 / a) / 12 - (z**-3 - a**-3) / 360
    series = (a - 0.5) * torch.log1p(h / a) + h * z.log() - h + tail
    return torch.where(a > 100, series, torch.lgamma(z) - torch.lgamma(a))


def digamma_difference(a: Tensor, h: Tensor | float) -> Tensor:
    """ψ(a + h) − ψ(a), h ≥ 0, likewise."""
    z = a + h
    tail = -(1 / z - 1 / a) / 2 - (z**-2 - a**-2) / 12 + (z**-4 - a**-4) / 120
    return torch.where(a > 100, torch.log1p(h / a) + tail, torch.digamma(z) - torch.digamma(a))


def increasing_root(
    f: Callable[[Tensor], tuple[Tensor, Tensor]], like: Tensor, low: float = -23.0, high: float = 23.0
) -> Tensor:
    """exp t with f(t) = 0 by Newton, f giving values and slopes; a step that leaves the bracket halves it.

    The bracket is that of t: roots outside exp(±23) are found at its ends.
    """
    lower, upper = torch.full_like(like, low), torch.full_like(like, high)
    t = torch.zeros_like(like)
    for _ in range(100):
        value, slope = f(t)
        lower, upper = torch.where(value < 0, t, lower), torch.where(value < 0, upper, t)
        newton = t - value / slope
        inside = (newton > lower) & (newton < upper)
        new = torch.where(inside, newton, (lower + upper) / 2)
        moved = (new - t).abs().max() if len(t) else t.sum()
        t = new
        if float(moved) <= 1e-11:  # Newton's next step would be its square
            break
    return t.exp()


def gamma_shape(gap: Tensor) -> Tensor:
    """The a with log a − ψ(a) = gap > 0: of a gamma whose log E[x] − E[log x] is known."""

    def f(t: Tensor) -> tuple[Tensor, Tensor]:
        a = t.exp()
        return gap - t + torch.digamma(a), a * torch.polygamma(1, a) - 1

    return increasing_root(f, gap)
