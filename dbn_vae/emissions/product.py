"""Products: p(x_t | s_t = k) = Π_b p_b(x_t^b | s_t = k), a family of its own for every block of columns."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.compound import Compound, Share


class Product(Compound):
    """Blocks of columns that are independent given the state.

    Args:
        blocks: families of the same K, in the order of their columns.
        columns: the columns of each block; without it the blocks stand side by side.
    """

    def __init__(self, blocks: Sequence[Emission], columns: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        sizes = [b.n_features for b in blocks]
        D, ends = sum(sizes), list(accumulate(sizes))
        if len({b.n_components for b in blocks}) != 1:
            raise ValueError(f"blocks have {[b.n_components for b in blocks]} states; they must agree")
        if columns is None:
            columns = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        if [len(c) for c in columns] != sizes or sorted(i for c in columns for i in c) != list(range(D)):
            raise ValueError(
                f"columns={[list(c) for c in columns]} must give each of 0 to {D - 1} to one block, "
                f"{sizes} of them each"
            )
        self.blocks = nn.ModuleList(blocks)
        self.columns = [list(c) for c in columns]
        self.n_components, self.n_features = blocks[0].n_components, D
        self.n_context = sum(b.n_context for b in blocks)
        self.n_inputs = max(b.n_inputs for b in blocks)  # each reads them all
        self.order = max(b.order for b in blocks)

    def parts(self) -> list[tuple[Emission, list[int]]]:
        """Every block with its columns of a frame, those of its context behind."""
        ends = accumulate((b.n_context for b in self.emissions()), initial=self.n_features)
        return [
            (block, columns + list(range(end, end + block.n_context)))
            for block, columns, end in zip(self.emissions(), self.columns, ends, strict=False)
        ]

    def emissions(self) -> list[Emission]:
        return [block for block in self.blocks if isinstance(block, Emission)]

    def with_context(self, x: Tensor, observed: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        wide = [
            block.with_context(x[..., c], observed[..., c], inputs)
            for block, c in zip(self.emissions(), self.columns, strict=True)
        ]
        sizes = [block.n_features for block in self.emissions()]
        return (
            torch.cat([x, *(w[0][..., size:] for w, size in zip(wide, sizes, strict=True))], -1),
            torch.cat([observed, *(w[1][..., size:] for w, size in zip(wide, sizes, strict=True))], -1),
        )

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        terms = [block.log_prob(x[..., c], observed[..., c]) for block, c in self.parts()]
        return torch.stack(terms).sum(0)

    def check(self, x: Tensor, observed: Tensor) -> None:
        for block, c in zip(self.emissions(), self.columns, strict=True):
            block.check(x[..., c], observed[..., c])

    def divide(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[tuple[Tensor, ...], list[Share]]:
        return (), [Share(block, x[:, c], observed[:, c], weights) for block, c in self.parts()]

    def maximize_own(self, *statistics: Tensor) -> None:
        """There is nothing but the blocks."""

    def log_prior(self) -> Tensor:
        return torch.stack([block.log_prior() for block in self.emissions()]).sum()

    def n_free(self) -> int:
        return sum(block.n_free() for block in self.emissions())

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        drawn = [block.sample(states, generator, inputs) for block in self.emissions()]
        order = torch.tensor([i for c in self.columns for i in c])
        return torch.cat(drawn, -1)[..., order.argsort()]
