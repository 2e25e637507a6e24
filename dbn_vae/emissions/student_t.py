"""Student's t emissions: p(x_t | s_t = k) = Π_d t(x_td; loc_kd, scale_kd, dof_kd), Gaussians that outliers do not move.

A t variable is a Gaussian of random precision: x | u ~ N(loc, scale² / u) with u ~ Gamma(dof/2, dof/2).  Given x,

    E[u] = (dof + 1) / (dof + δ²),    δ = (x − loc) / scale,

weighs a frame in the M-step; the degrees of freedom solve log(dof/2) − ψ(dof/2) = E[u] − E[log u] − 1 on average.
Sources: Liu and Rubin (1995), ML estimation of the t distribution using EM and its extensions; Fernández and Steel
(1999), Multivariate Student-t regression models: pitfalls and inference, for the floor: where a value repeats, or the
degrees of freedom are few, the likelihood has no maximum, and grows as the scale goes to 0.
"""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import StudentT as TorchStudentT

from dbn_vae.distributions import log
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.special import gamma_shape, log_gamma_ratio


class StudentT(Emission, ClosedForm):
    """Independent entries; frozen may name "loc", "scale", "dof".

    Args:
        loc, scale: (K, D).
        dof: degrees of freedom, broadcastable to (K, D).
        floor: (D,) smallest scale² allowed; the M-step maximises under that constraint.  Never under what rounding
            leaves of a scale of 0.
    """

    def __init__(self, loc: Tensor, scale: Tensor, dof: Tensor | float, floor: Tensor | None = None) -> None:
        super().__init__()
        self.n_components, self.n_features = loc.shape
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(log(scale))
        self.log_dof = nn.Parameter(log(torch.as_tensor(dof).to(loc).expand_as(loc)).clone())
        self.floor: Tensor
        self.register_buffer("floor", torch.zeros_like(loc[0]) if floor is None else floor)

    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def dof(self) -> Tensor:
        return self.log_dof.exp()

    def distribution(self) -> Distribution:
        return TorchStudentT(self.dof(), self.loc, self.scale(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        dof = self.dof()
        constant = log_gamma_ratio(dof / 2, 0.5) - 0.5 * (self.log_dof + math.log(math.pi)) - self.log_scale
        distance = ((x[..., None, :] - self.loc) / self.scale()).square()
        entry = constant - 0.5 * (dof + 1) * torch.log1p(distance / dof)
        return (entry * observed[..., None, :]).sum(-1)

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w, Σ w u, Σ w u (x − loc), Σ w u (x − loc)² and Σ w (E u − E log u) over observed entries: (K, D) each."""
        dof, deviation = self.dof(), x[:, None, :] - self.loc
        half = (dof + 1) / 2
        u = (dof + 1) / (dof + (deviation / self.scale()).square())
        spread = u - u.log() - torch.digamma(half) + half.log()
        w = weights[..., None] * observed[:, None, :]
        terms = (torch.ones_like(u), u, u * deviation, u * deviation.square(), spread)
        return tuple((w * term).sum(0) for term in terms)

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, weight, first, second, spread = statistics
        seen = count > 0
        count = count.where(seen, 1.0)
        shift = torch.zeros_like(first)
        if "loc" not in self.frozen:
            shift = torch.where(seen, first / weight.where(seen, 1.0), 0.0)
            self.loc.add_(shift)
        if "scale" not in self.frozen:
            variance = (second - 2 * shift * first + weight * shift.square()) / count
            floor = self.lowest(second / count)
            self.held = seen & (variance < floor)
            self.log_scale.copy_(torch.where(seen, 0.5 * variance.maximum(floor).log(), self.log_scale))
        if "dof" not in self.frozen:
            dof = 2 * gamma_shape(spread / count - 1)
            self.log_dof.copy_(torch.where(seen, dof.log(), self.log_dof))

    def lowest(self, second: Tensor) -> Tensor:
        """The floor (K, D), or what a difference of numbers like the second moment and loc² is known to, if more."""
        kind = torch.finfo(second.dtype)
        rounding = (8 * kind.eps * second).maximum((kind.eps * self.loc).square())
        return self.floor.maximum(rounding).clamp_min(kind.tiny**0.5)  # so that δ² is finite

    def recentred(self, statistics: tuple[Tensor, ...], before: Self) -> tuple[Tensor, ...]:
        count, weight, first, second, spread = statistics
        shift = (self.loc - before.loc).detach()
        moved = second - 2 * shift * first + weight * shift.square()
        return count, weight, first - weight * shift, moved, spread

    def n_free(self) -> int:
        return self.loc.numel() * (3 - len(self.frozen & {"loc", "scale", "dof"}))
