"""Networks: plain functions of tensors, with no probability in them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


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


class BackwardGRU(nn.Module):
    """A GRU that reads from the last real step to the first: its output at t knows x_{t:T} and no padding."""

    def __init__(self, n_in: int, n_hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_in, n_hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: (B, T, n_in), lengths: (B,).  Returns (B, T, n_hidden)."""
        step = torch.arange(x.shape[1], device=x.device)
        flip = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)[..., None]
        reversed_x = x.gather(1, flip.expand_as(x))
        output, _ = self.gru(reversed_x)
        return output.gather(1, flip.expand_as(output))
