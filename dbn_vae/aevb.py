"""The static core: auto-encoding variational Bayes for one time step, applied to every step at once.

    evidence    x_t ↦ psi_t(z) = exp(h_t·z − ½ zᵀ J_t z)       encoder
    likelihood  z_t ↦ p(x_t | z_t)                             decoder

The core knows neither a prior nor time.  A model supplies the prediction that meets the evidence, N(0, I) in
the static VAE and p(z_t | z_{t-1}) or p(z_t | s_t) in its dynamic relatives, so the same weights serve all.

Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes; evidence as in Johnson et al. (2016).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from dbn_vae.distributions import Evidence
from dbn_vae.likelihoods.base import Likelihood
from dbn_vae.nn import MLP, Conv, Deconv, Shape

MAX_VALUES = 2**24  # numbers that a decoder writes at once where no gradient is asked for


class ElboTerms(NamedTuple):
    """log p(x) ≥ log_likelihood − kl, in nats, a number a sequence, not reduced."""

    log_likelihood: Tensor  # (B,) E_q log p(x | z)
    kl: Tensor  # (B,) KL(q ‖ p) of everything latent, or an unbiased estimate of it

    @property
    def elbo(self) -> Tensor:
        return self.log_likelihood - self.kl

    def weighted(self, beta: float) -> Tensor:
        """The training objective while β < 1: it is a bound only at β = 1."""
        return self.log_likelihood - beta * self.kl


class AEVB(nn.Module):
    """Encoder to evidence, decoder to likelihood; any leading dimensions.

    Args:
        n_observed: D; or the shape (C, H, W) of a picture, whose D = C · H · W entries come and go as one vector, and
            in between as maps through convolutions.
        hidden: widths of the encoder's layers, for pictures their channels; the decoder's are the same reversed.
        read_missing: the encoder reads of every entry whether it is missing, for pictures as more channels.

    Raises ValueError for a likelihood whose outputs are no maps over pixels.
    """

    read_missing: bool = False

    def __init__(
        self,
        n_observed: int | Shape,
        n_latent: int,
        likelihood: Likelihood,
        hidden: Sequence[int] = (500,),
        activation: type[nn.Module] = nn.Tanh,
        read_missing: bool = False,
    ) -> None:
        super().__init__()
        D = n_observed if isinstance(n_observed, int) else math.prod(n_observed)
        self.n_observed, self.n_latent = D, n_latent
        self.likelihood, self.read_missing = likelihood, read_missing
        # J grows in proportion to what the encoder writes; precisions in the thousands, as slow or finely measured data
        # have them, would be as many updates of Adam away
        self.log_sharpness = nn.Parameter(torch.zeros(n_latent))
        self.encoder: MLP | Conv
        self.decoder: MLP | Deconv
        if isinstance(n_observed, int):
            self.encoder = MLP(self.n_features, hidden, 2 * n_latent, activation)
            self.decoder = MLP(n_latent, hidden[::-1], likelihood.n_outputs(D), activation)
            return
        n = likelihood.n_parameters
        if likelihood.n_features(D) != D or likelihood.n_outputs(D) != n * D:
            raise ValueError(
                f"a {likelihood.name} likelihood does not go with pictures {n_observed}; choose another, or make "
                "every frame a vector"
            )
        C, H, W = n_observed
        self.encoder = Conv((C * (1 + read_missing), H, W), hidden, 2 * n_latent, activation)
        self.decoder = Deconv(n_latent, hidden[::-1], (n * C, H, W), activation)

    @property
    def n_features(self) -> int:
        """Numbers that features gives for a frame."""
        return self.likelihood.n_features(self.n_observed) + self.n_observed * self.read_missing

    def features(self, x: Tensor, observed: Tensor) -> Tensor:
        """What networks read of a frame: (..., D) to (..., n_features).

        With read_missing no value that is missing matters, and where none is, the added ones are 0.
        """
        if not self.read_missing:
            return self.likelihood.features(x)
        seen = torch.where(observed, x, 0.0)
        return torch.cat([self.likelihood.features(seen), (~observed).to(x.dtype)], -1)

    def evidence(self, x: Tensor, observed: Tensor) -> Evidence:
        """(..., Z) each; zero for a frame of which nothing was observed.

        The encoder says where it saw z, and how surely: h = J · location.  So J → 0 silences a latent
        altogether, and a sharp posterior needs no large h from the network.
        """
        location, raw = self.encoder(self.features(x, observed)).chunk(2, -1)
        seen = observed.any(-1, keepdim=True)
        J = self.log_sharpness.exp() * F.softplus(raw) * seen
        return Evidence(J * location, J)

    def told(self, observed: Tensor) -> Tensor:
        """Whether the evidence of a sequence is of what was seen alone: (B, T, D) to (B,).

        An encoder that does not read what is missing takes a missing entry for an average one.
        """
        if self.read_missing:
            return torch.ones_like(observed[:, 0, 0])
        return (observed.all(-1) | ~observed.any(-1)).all(-1)

    def decode(self, z: Tensor, offset: Tensor | None = None) -> Distribution:
        """p(x | z), entry by entry: batch shape (..., D).

        offset: (..., n_outputs), added to what the decoder writes, broadcasting.
        """
        written = self.decoder(z)
        return self.likelihood(written if offset is None else written + offset)

    def log_likelihood(self, x: Tensor, observed: Tensor, z: Tensor, offset: Tensor | None = None) -> Tensor:
        """log p(x | z) of the observed entries: (...), broadcasting x and the offset of decode against z.

        Without a gradient, piece by piece where it would fill memory.
        """
        shape = z.shape[:-1] if offset is None else torch.broadcast_shapes(z.shape[:-1], offset.shape[:-1])
        size = shape.numel() * self.n_observed
        large = size > MAX_VALUES and not torch.is_grad_enabled()
        if large and z.dim() > 1 and len(z) == shape[0]:
            given = [as_long(v, z) for v in (x, observed, z, offset) if v is not None]
            if len(z) == 1:
                return self.log_likelihood(*(v[0] for v in given))[None]
            n = max(1, len(z) * MAX_VALUES // size)
            parts = zip(*(v.split(n) for v in given), strict=True)
            return torch.cat([self.log_likelihood(*part) for part in parts])
        return self.likelihood.log_prob(self.decode(z, offset), x, observed)

    def mean(self, z: Tensor, offset: Tensor | None = None) -> Tensor:
        """The value of x to show for z: (..., D)."""
        return self.likelihood.mean(self.decode(z, offset))


def as_long(values: Tensor, z: Tensor) -> Tensor:
    """Values that broadcast against z, in the length of its first dimension."""
    values = values[(None,) * (z.dim() - values.dim())]
    return values.expand(len(z), *values.shape[1:])


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log (1/S) Σ_s w_s over the first dimension: the importance-weighted bound.

    Source: Burda, Grosse and Salakhutdinov (2016), eq. 8.  The weights must be sampled ones: with an
    analytic KL inside the mean the result is no bound.
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
