"""Von Mises emissions: p(x_t | s_t = k) = Π_d exp(κ_kd cos(x_td − μ_kd)) / 2π I₀(κ_kd), for directions and phases.

The M-step: μ is the direction of Σ w (cos x, sin x), and κ solves I₁(κ) / I₀(κ) = the length of its mean.
Source: Mardia and Jupp (2000), Directional statistics.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import VonMises as TorchVonMises

from dbn_vae.distributions import at, log, sample
from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.special import FLOOR, increasing_root
from dbn_vae.likelihoods.base import require


class VonMises(Emission, ClosedForm):
    """Angles in radians; frozen may name "loc" and "concentration".

    Args:
        loc: (K, D) directions μ.
        concentration: (K, D) κ ≥ 0; 0 is the uniform distribution on the circle.
        floor: (D,) smallest 1/κ allowed, a variance in radians² where it is small; the M-step maximises under that
            constraint.  Without it a state that meets one angle only would be held at 1e-9.
    """

    def __init__(self, loc: Tensor, concentration: Tensor, floor: Tensor | None = None) -> None:
        super().__init__()
        self.n_components, self.n_features = loc.shape
        self.loc = nn.Parameter(loc.clone())
        self.log_concentration = nn.Parameter(log(concentration))
        self.floor: Tensor
        self.register_buffer("floor", torch.full_like(loc[0], FLOOR) if floor is None else floor)

    def concentration(self) -> Tensor:
        return self.log_concentration.exp()

    def distribution(self) -> Distribution:
        return TorchVonMises(self.loc, self.concentration(), validate_args=False)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        kappa = self.concentration()
        constant = (2 * math.pi * torch.special.i0e(kappa)).log()  # i0e(κ) = exp(−κ) I₀(κ)
        half = (x[..., None, :] - self.loc) / 2
        entry = (
            -2 * kappa * half.sin().square() - constant
        )  # not κ (cos 2h − 1): a large κ would lose its digits
        return (entry * observed[..., None, :]).sum(-1)

    def check(self, x: Tensor, observed: Tensor) -> None:
        inside = x.abs() <= 2 * math.pi
        require(inside | ~observed, x, "von Mises", "its values are angles in radians, from −2π to 2π")

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Σ w, Σ w cos x and Σ w sin x over observed entries: (K, D) each."""
        return tuple(weights.T @ (term * observed) for term in (torch.ones_like(x), x.cos(), x.sin()))

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        count, cosine, sine = statistics
        seen = count > 0
        if "loc" not in self.frozen:
            self.loc.copy_(torch.where(seen, torch.atan2(sine, cosine), self.loc))
        if "concentration" not in self.frozen:
            length = (cosine * self.loc.cos() + sine * self.loc.sin()) / count.where(seen, 1.0)
            fresh, highest = concentrated(length), 1 / self.floor
            self.held = seen & (fresh > highest)
            kappa = torch.where(seen, fresh.minimum(highest), self.concentration())
            self.log_concentration.copy_(kappa.log())

    def n_free(self) -> int:
        return self.loc.numel() * (2 - len(self.frozen & {"loc", "concentration"}))


def concentrated(length: Tensor) -> Tensor:
    """The κ with I₁(κ) / I₀(κ) = length."""

    def f(t: Tensor) -> tuple[Tensor, Tensor]:
        kappa = t.exp()
        ratio = torch.special.i1e(kappa) / torch.special.i0e(kappa)
        return ratio - length, kappa * (1 - ratio.square()) - ratio

    return increasing_root(f, length)


@sample.register
def _(distribution: TorchVonMises, generator: torch.Generator | None) -> Tensor:
    """By rejection from a wrapped Cauchy (Best and Fisher 1979), all entries until the last is accepted."""
    loc, kappa = at(distribution.loc, generator), at(distribution.concentration, generator)
    tau = 1 + (1 + 4 * kappa.square()).sqrt()
    rho = (tau - (2 * tau).sqrt()) / (2 * kappa).clamp_min(1e-12)
    r = (1 + rho.square()) / (2 * rho).clamp_min(1e-12)
    angle, pending = torch.zeros_like(loc), torch.ones_like(loc, dtype=torch.bool)
    while bool(pending.any()):
        u, v, side = (torch.rand(loc.shape, generator=generator, dtype=loc.dtype) for _ in range(3))
        z = (math.pi * u).cos()
        f = (1 + r * z) / (r + z)
        c = kappa * (r - f)
        accepted = (c * (2 - c) > v) | ((c / v).log() + 1 - c >= 0)
        fresh = f.clamp(-1, 1).arccos() * torch.where(side < 0.5, -1, 1)
        angle = torch.where(pending & accepted, fresh, angle)
        pending = pending & ~accepted
    wrapped = torch.remainder(angle + loc + math.pi, 2 * math.pi) - math.pi
    return wrapped.to(distribution.loc)
