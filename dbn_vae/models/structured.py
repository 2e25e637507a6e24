"""Structured inference networks: q(z_t | z_{t-1}, x) from z_{t-1} and recurrent networks, blind to p(z_t | z_{t-1}).

    c_t = w ( tanh(W z_{t-1} + b) + h^L_t + h^R_t ),   m = V_m c + b_m,   σ = softplus(V_σ c + b_σ) + 1e-4

h^L is a network of the past and present, h^R one of the present and future; ST-L, ST-R and ST-LR have the first,
the second and both, and w is one over the number of terms.  ST-R, all that the true posterior needs, is the deep
Kalman smoother.  Source: Krishnan, Shalit and Sontag (2017), Structured inference networks, sec. 3 and 4.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Normal

from dbn_vae.aevb import AEVB
from dbn_vae.distributions import normal
from dbn_vae.models.recognition import Recognition, visible
from dbn_vae.nn import Packing, Recurrent, before, pack, take
from dbn_vae.sequences import Batch

MIN_SCALE = 1e-4


class Structured(Recognition):
    """The combiner; which networks it has is left open.

    The part of m and σ that recurrent networks give is the context: one product for all steps.  What is left for
    the step is two products, and StructuredWalk takes them without recording each.
    """

    past: ClassVar[bool]
    future: ClassVar[bool]

    def __init__(
        self, n_observed: int, n_latent: int, n_hidden: int = 32, cell: Literal["gru", "relu"] = "gru"
    ) -> None:
        """n_observed: features that the core hands to networks, AEVB.n_features; cell: see nn.Recurrent."""
        super().__init__()
        self.networks = nn.ModuleList(
            Recurrent(n_observed + 1, n_hidden, backward=backward, cell=cell)
            for backward in (False, True)
            if (self.future if backward else self.past)
        )
        self.combine = nn.Linear(n_latent, n_hidden)
        self.head = nn.Linear(n_hidden, 2 * n_latent)

    @property
    def looks_ahead(self) -> bool:  # type: ignore[override]
        return self.future

    @property
    def weight(self) -> Tensor:
        """w V: (2 Z, H)."""
        return self.head.weight / (1 + len(self.networks))

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        x = visible(core, batch)
        read = torch.stack([network(x, batch.lengths) for network in self.networks]).sum(0)
        return F.linear(read, self.weight, self.head.bias)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        mean, raw = (F.linear(torch.tanh(self.combine(z)), self.weight) + context).chunk(2, -1)
        return normal(mean, F.softplus(raw) + MIN_SCALE)

    def trajectory(
        self, predict: Callable[[Tensor | None], Normal], batch: Batch, context: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Normal]:
        """See Recognition.trajectory; z and m are 0 and σ is 1 on padding."""
        packing = pack(batch.lengths)
        which, step = packing.which, packing.step
        S, rows = len(epsilon), packing._replace(counts=[n * len(epsilon) for n in packing.counts])
        noise = (
            take(epsilon, which, step).transpose(0, 1).flatten(0, 1)
        )  # (N S, Z): a block holds all samples
        given = take(context, which, step).repeat_interleave(S, 0)
        z, mean, scale = StructuredWalk.apply(
            self.combine.weight, self.combine.bias, self.weight, given, noise, rows
        )

        def padded(values: Tensor, fill: float) -> Tensor:
            out = values.new_full((*epsilon.shape[1:3], S, values.shape[-1]), fill)
            return out.index_put((which, step), values.unflatten(0, (-1, S))).movedim(2, 0)

        return padded(z, 0.0), normal(padded(mean, 0.0), padded(scale, 1.0))


class STL(Structured):
    """h^L alone: what a filter can know."""

    past, future = True, False


class STR(Structured):
    """h^R alone: the deep Kalman smoother."""

    past, future = False, True


class STLR(Structured):
    """Both."""

    past, future = True, True


class StructuredWalk(torch.autograd.Function):
    """z_t = m_t + σ_t ∘ ε_t with (m_t, softplus⁻¹(σ_t − floor)) = V tanh(W z_{t-1} + b) + context_t, z_0 = 0.

    Over packed rows (N, ·).  As in nn.ReluScan, the steps back carry the gradient of z alone; those of the
    weights are one product each over all frames.
    """

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, b: Tensor, V: Tensor, context: Tensor, epsilon: Tensor, packing: Packing
    ) -> tuple[Tensor, Tensor, Tensor]:
        Z = epsilon.shape[1]
        a, out = context.new_empty(len(epsilon), len(W)), torch.empty_like(context)
        z, scale = torch.empty_like(epsilon), torch.empty_like(epsilon)
        last = epsilon.new_zeros(packing.counts[0], Z)
        for first, end in pairwise(packing.starts):
            torch.addmm(b, last[: end - first], W.T, out=a[first:end]).tanh_()
            torch.addmm(context[first:end], a[first:end], V.T, out=out[first:end])
            torch.add(F.softplus(out[first:end, Z:]), MIN_SCALE, out=scale[first:end])
            last = z[first:end]
            torch.addcmul(out[first:end, :Z], scale[first:end], epsilon[first:end], out=last)
        ctx.save_for_backward(W, V, a, z, out, epsilon)
        ctx.packing = packing
        return z, out[:, :Z].clone(), scale

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_z: Tensor, grad_mean: Tensor, grad_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        W, V, a, z, out, epsilon = ctx.saved_tensors
        packing: Packing = ctx.packing
        Z = epsilon.shape[1]
        sigmoid = torch.sigmoid(out[:, Z:])
        per_scale, per_z, slope = grad_scale * sigmoid, epsilon * sigmoid, 1 - a.square()
        d_out, d_pre, d_z = torch.empty_like(out), torch.empty_like(a), grad_z.clone()
        later = d_pre[:0]
        for first, end in reversed(list(pairwise(packing.starts))):
            d_z[first : first + len(later)].addmm_(later, W)
            carried = d_z[first:end]
            torch.add(grad_mean[first:end], carried, out=d_out[first:end, :Z])
            torch.addcmul(per_scale[first:end], carried, per_z[first:end], out=d_out[first:end, Z:])
            later = d_pre[first:end]
            torch.mm(d_out[first:end], V, out=later)
            later.mul_(slope[first:end])
        d_W = d_pre[packing.counts[0] :].T @ z[before(packing)]
        return d_W, d_pre.sum(0), d_out.T @ a, d_out, None, None
