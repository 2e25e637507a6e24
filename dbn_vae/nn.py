"""Networks: plain functions of tensors, with no probability in them."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence


class MLP(nn.Sequential):
    """Linear layers with an activation between them, on the last dimension."""

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        sizes = [n_in, *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), activation()]
        super().__init__(*layers, nn.Linear(sizes[-1], n_out))


Shape = tuple[int, int, int]  # (C, H, W) of a picture
PICTURES_AT_ONCE = 512  # bounds the memory of inner maps; fewer at a time also stay in the cache


class Conv(nn.Module):
    """Pictures to vectors: every layer halves height and width, rounded up, and a linear map reads what is left.

    Any H and W; of a picture of one pixel only the kernels' centres are used, and this is an MLP of its channels.

    Args:
        frame: (C, H, W).
        channels: of the layers.
    """

    def __init__(
        self, frame: Shape, channels: Sequence[int], n_out: int, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.frame = frame
        layers: list[nn.Module] = []
        for a, b in pairwise([frame[0], *channels]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), activation()]
        c, h, w = halved(frame, channels)[-1]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * h * w, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C · H · W) to (..., n_out)."""
        pictures = x.reshape(-1, *self.frame).split(PICTURES_AT_ONCE)
        return torch.cat([self.layers(some) for some in pictures]).view(*x.shape[:-1], -1)


class Deconv(nn.Module):
    """Vectors to pictures: Conv the other way round, by transposed convolutions; each size is met exactly."""

    def __init__(
        self, n_in: int, channels: Sequence[int], frame: Shape, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        """channels: as Conv has them reversed, from the smallest map to the largest."""
        super().__init__()
        self.n_out = frame[0] * frame[1] * frame[2]
        sizes = halved(frame, channels[::-1])[::-1]
        c, h, w = sizes[0]
        layers: list[nn.Module] = [nn.Linear(n_in, c * h * w), nn.Unflatten(1, sizes[0])]
        for (a, _, _), (b, H, W) in pairwise(sizes):
            even = (1 - H % 2, 1 - W % 2)  # 2 h − 1 rows without, for h = ⌈H / 2⌉
            layers += [
                activation(),
                nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=even),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """(..., n_in) to (..., C · H · W)."""
        vectors = z.reshape(-1, z.shape[-1]).split(PICTURES_AT_ONCE)
        return torch.cat([self.layers(some) for some in vectors]).view(*z.shape[:-1], self.n_out)


def halved(frame: Shape, channels: Sequence[int]) -> list[Shape]:
    """(C, H, W) of a picture and of the maps after it."""
    sizes = [frame]
    for c in channels:
        _, h, w = sizes[-1]
        sizes.append((c, (h + 1) // 2, (w + 1) // 2))
    return sizes


class Packing(NamedTuple):
    """The N real frames of a padded batch in the order a recurrence meets them: step by step, longest first.

    Row blocks of neighbouring steps then hold the same sequences in the same places, and nothing is padding.
    """

    which: Tensor  # (N,) sequence
    step: Tensor  # (N,)
    counts: list[int]  # sequences that are still running at each step

    @property
    def starts(self) -> list[int]:
        """First row of every step, and N."""
        return [0, *accumulate(self.counts)]


def pack(lengths: Tensor) -> Packing:
    order = lengths.argsort(descending=True, stable=True)
    running = torch.arange(int(lengths.max()), device=lengths.device)[:, None] < lengths[order]
    step, row = running.nonzero(as_tuple=True)
    return Packing(order[row], step, running.sum(1).tolist())


def take(values: Tensor, which: Tensor, step: Tensor) -> Tensor:
    """Some frames of (..., B, T, F): (..., N, F).

    Not values[..., which, step, :], whose gradient torch adds up one row after the other.
    """
    return values.flatten(-3, -2).index_select(-2, which * values.shape[-2] + step)


def beside(z: Tensor, u: Tensor) -> Tensor:
    """(..., Z) and what broadcasts to (..., U) as (..., Z + U)."""
    return torch.cat([z, u.expand(*z.shape[:-1], -1)], -1)


class Recurrent(nn.Module):
    """A recurrent network whose output at t knows x_{1:t}, or backwards x_{t:T}, and no padding.

    Args:
        cell: "gru", or "relu" for h_t = relu(U x_t + W h_{t-1} + b).
    """

    def __init__(
        self, n_in: int, n_hidden: int, *, backward: bool, cell: Literal["gru", "relu"] = "gru"
    ) -> None:
        super().__init__()
        self.backward = backward
        self.cell: nn.GRU | nn.RNN
        self.cell = nn.GRU(n_in, n_hidden) if cell == "gru" else nn.RNN(n_in, n_hidden, nonlinearity="relu")

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: (B, T, n_in), lengths: (B,).  Returns (B, T, n_hidden), 0 on padding."""
        packing = pack(lengths)
        which, step = packing.which, packing.step
        if self.backward:
            step = lengths[which] - 1 - step
        output = self.run(take(x, which, step), packing)
        return output.new_zeros(*x.shape[:2], output.shape[-1]).index_put((which, step), output)

    def run(self, x: Tensor, packing: Packing) -> Tensor:
        """The recurrence over packed frames: (N, n_in) to (N, n_hidden)."""
        if isinstance(self.cell, nn.GRU):
            return self.cell(PackedSequence(x, torch.tensor(packing.counts)))[0].data
        W_in, W, b_in, b = self.cell.all_weights[0]
        return ReluScan.apply(nn.functional.linear(x, W_in, b_in + b), W, packing)


class ReluScan(torch.autograd.Function):
    """h_t = relu(a_t + W h_{t-1}) over packed frames, h_0 = 0.

    Through autograd every step would add its share to the gradient of W, as large as W itself; here
    the steps carry only the gradient of h, and that of W is one product over all frames.
    """

    @staticmethod
    def forward(ctx: Any, drive: Tensor, W: Tensor, packing: Packing) -> Tensor:
        h = torch.empty_like(drive)
        previous = h[:0]
        for first, last in pairwise(packing.starts):
            now = h[first:last]
            if first:
                torch.addmm(drive[first:last], previous[: last - first], W.T, out=now)
                now.clamp_min_(0)
            else:
                torch.clamp_min(drive[first:last], 0, out=now)
            previous = now
        ctx.save_for_backward(h, W)
        ctx.packing = packing
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        h, W = ctx.saved_tensors
        packing: Packing = ctx.packing
        on = (h > 0).to(grad.dtype)
        d = grad * on
        later = d[:0]
        for first, last in reversed(list(pairwise(packing.starts))):
            now, n = d[first : first + len(later)], len(later)
            if n:
                torch.addmm(grad[first : first + n], later, W, out=now)
                now.mul_(on[first : first + n])
            later = d[first:last]
        return d, d[packing.counts[0] :].T @ h[before(packing)], None


def before(packing: Packing) -> Tensor:
    """Rows of the frames one step before, for every frame but the first ones."""
    rows = torch.arange(packing.counts[0], sum(packing.counts))
    shift = torch.tensor(packing.counts[:-1]).repeat_interleave(torch.tensor(packing.counts[1:]))
    return (rows - shift).to(packing.step.device)
