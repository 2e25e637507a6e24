"""Emissions that also read the frame before: p(x_t | z_t, x_{t-1}).

The decoder's first layer gets a second linear map, of the features of x_{t-1} and of a mask that says which of its
entries were seen.  A missing entry is a zero with its mask off, and so is the frame before the first.  What is then
modelled is a density of the entries observed, given which ones are: it sums to 1 over them for every pattern of holes,
and a bound of it stays a bound.
"""

import torch
from torch import Tensor, nn

from dbn_vae.likelihoods.base import Likelihood


class ReadsBefore(nn.Module):
    """A decoder of (..., Z + C), or of (..., Z) alone where there is no frame before.

    It starts blind to the context: as the decoder that it is made from, whose weights it keeps.

    Args:
        decoder: a linear layer and whatever follows it.
        n_context: C.
    """

    def __init__(self, decoder: nn.Module, n_context: int) -> None:
        super().__init__()
        first, *rest = decoder.children()
        if not isinstance(decoder, nn.Sequential) or not isinstance(first, nn.Linear):
            raise TypeError(
                f"the decoder begins with {type(first).__name__}; to read the frame before it must begin with a "
                "linear layer, as an MLP does"
            )
        self.n_latent = first.in_features
        self.latent, self.rest = first, nn.Sequential(*rest)
        self.context = nn.Linear(n_context, first.out_features, bias=False)
        nn.init.zeros_(self.context.weight)

    def forward(self, given: Tensor) -> Tensor:
        read = self.latent(given[..., : self.n_latent])
        if given.shape[-1] > self.n_latent:
            read = read + self.context(given[..., self.n_latent :])
        return self.rest(read)


def context_width(likelihood: Likelihood, D: int) -> int:
    """C for frames of D entries."""
    return likelihood.n_features(D) + D


def context(likelihood: Likelihood, x: Tensor, observed: Tensor) -> Tensor:
    """Features and mask of a frame: (..., D) to (..., C), 0 where nothing was seen."""
    seen = observed.to(x.dtype)
    features = likelihood.features(x)
    each = features.shape[-1] // x.shape[-1]
    return torch.cat([features * seen.repeat_interleave(each, -1), seen], -1)


def frame_before(values: Tensor) -> Tensor:
    """What belongs to t − 1 beside each step t, zeros beside the first: (..., T, F)."""
    return nn.functional.pad(values[..., :-1, :], (0, 0, 1, 0))
