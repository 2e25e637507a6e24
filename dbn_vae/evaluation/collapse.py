"""Which latents and which states of a deep model are in use.

variance_d    of the latents' means over the frames; Burda, Grosse and Salakhutdinov (2016) call a unit active
              where it is over 0.01
KL_d          of what q knows of z_td beyond its prediction, in nats per frame: 0 where x tells nothing of it
share_k       mean of gamma_t(k); exp of its entropy is the effective number of states
"""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from dbn_vae.distributions import normal, standard_normal
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.dmm import DMM
from dbn_vae.models.mean_field_vae_hmm import MeanFieldVAEHMM
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.models.vae import VAE
from dbn_vae.models.vae_hmm import VAEHMM
from dbn_vae.nn import take
from dbn_vae.sequences import Batch, Sequences

ACTIVE = 0.01  # of variance, and nats of KL


class Usage(NamedTuple):
    """Of latents and states; see the module."""

    variance: Tensor  # (Z,)
    kl: Tensor  # (Z,) nats per frame, NaN where the model has no such form
    shares: Tensor | None  # (K,), None for a model without states


@torch.no_grad()
def usage(model: LatentModel, data: Sequences) -> Usage:
    """Averages over the real frames of (prepared) data, each with its sequence's weight."""
    parts = []
    for batch in data.batches(2**14):
        real = batch.mask
        gamma = model.smooth(batch).gamma[real] if isinstance(model, StateModel) else real.new_zeros(0)
        weights = batch.weights[:, None].expand(real.shape)[real]
        parts.append((model.latents(batch)[real], kl_by_dimension(model, batch)[real], gamma, weights))
    z, kl, gamma, weights = (torch.cat(p).double().cpu() for p in zip(*parts, strict=True))
    weights = weights / weights.sum()
    spread = weights @ (z - weights @ z).square()
    return Usage(spread, weights @ kl, weights @ gamma if isinstance(model, StateModel) else None)


def active_units(variance: Tensor) -> int:
    """Latents (Z,) whose means vary by more than 0.01."""
    return int((variance > ACTIVE).sum())


@singledispatch
def kl_by_dimension(model: LatentModel, batch: Batch) -> Tensor:
    """KL of q(z_td) from its prediction, latent by latent: (B, T, Z); NaN for models with no way to tell."""
    return batch.x.new_full((*batch.x.shape[:2], model.core.n_latent), torch.nan)


@kl_by_dimension.register
def _(model: VAE, batch: Batch) -> Tensor:
    q = model.posterior(batch)
    return kl_divergence(q, standard_normal(q.mean))


@kl_by_dimension.register
def _(model: VAEHMM, batch: Batch) -> Tensor:
    """Σ_k gamma_t(k) KL(q(z_t | s_t = k) ‖ N(μ_k, V_k)), gamma that of q(s); NaN where latents are correlated."""
    if not model.diagonal:
        return kl_by_dimension.dispatch(LatentModel)(model, batch)
    each = kl_divergence(model.given_states(batch), model.components())
    return (model.smooth(batch).gamma[..., None] * each).sum(-2)


@kl_by_dimension.register
def _(model: MeanFieldVAEHMM, batch: Batch) -> Tensor:
    if not model.diagonal:
        return kl_by_dimension.dispatch(LatentModel)(model, batch)
    q, gamma = model.posterior(batch), model.smooth(batch).gamma
    each = kl_divergence(normal(q.mean[..., None, :], q.scale[..., None, :]), model.components())
    return (gamma[..., None] * each).sum(-2)


@kl_by_dimension.register
def _(model: DMM, batch: Batch) -> Tensor:
    """Along one path drawn from q, always with the same noise."""
    z, q = model.draw_path(batch, 1, torch.Generator().manual_seed(0))
    B, T = batch.x.shape[:2]
    which = torch.arange(B, device=z.device).repeat_interleave(T)
    step = torch.arange(T, device=z.device).repeat(B)
    p = model.predictions(batch, z, which, step)
    found = normal(take(q.mean, which, step), take(q.scale, which, step))
    return kl_divergence(found, p).view(B, T, -1)


@kl_by_dimension.register
def _(model: SwitchingDMM, batch: Batch) -> Tensor:
    """The same; the prediction is the mixture over states, matched in two moments."""
    z, q = model.draw_path(batch, 1, torch.Generator().manual_seed(0))
    predict = model.predictor(z[:, :, 0], batch)
    path = [predict(None), *(predict(now) for now in z[:, :, :-1].unbind(2))]
    p = normal(torch.stack([n.mean for n in path], 2), torch.stack([n.scale for n in path], 2))
    return kl_divergence(q, p)[0]
