"""q(z_t | z_{t-1}, x) of a linear transition: from the evidence of the whole sequence, by messages and no network.

    β_t(z) = ∫ p(z_{t+1} | z_t = z) psi_{t+1}(z_{t+1}) β_{t+1}(z_{t+1}) dz_{t+1} = exp(η_t·z − ½ zᵀ Λ_t z),    β_T = 1
           ∝ exp(r·m − ½ mᵀ R m),  m = W z + b,   R = (I + P Q)⁻¹ P,   r = (I + P Q)⁻¹ g,
    P = Λ_{t+1} + J_{t+1},  g = η_{t+1} + h_{t+1},   hence  Λ_t = Wᵀ R W,   η_t = Wᵀ (r − R b)

p(z_t | z_{t-1}) psi_t β_t is the exact posterior of a linear-Gaussian chain given the evidence.  q keeps the diagonal
of its precision, and its mean where z_{t-1} is the posterior's mean: with one latent it is exact.

Source: Johnson, Duvenaud, Wiltschko, Datta and Adams (2016), Composing graphical models with neural networks.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from dbn_vae.aevb import AEVB
from dbn_vae.models.recognition import Filtering
from dbn_vae.sequences import Batch


class Moves(NamedTuple):
    """p(z_1) = N(first_mean, first_variance) and p(z_t | z_{t-1}) = N(W z_{t-1} + b_t, Q), all variances diagonal."""

    first_mean: Tensor  # (Z,)
    first_variance: Tensor  # (Z,)
    weight: Tensor  # (Z, Z)
    bias: Tensor  # (B, T, Z)
    variance: Tensor  # (Z,)


class Messages(NamedTuple):
    """log β_t, and the same of psi_t β_t as seen from t − 1; see the formulas above."""

    eta: Tensor  # (B, T, Z)
    Lambda: Tensor  # (B, T, Z, Z)
    r: Tensor  # (B, T, Z)
    R: Tensor  # (B, T, Z, Z)


class Smoothing(Filtering):
    """q ∝ p(z_t | z_{t-1}) psi_t χ_t, with χ what the transition makes of the evidence to come."""

    looks_ahead = True

    def smoothed(self, core: AEVB, batch: Batch, moves: Moves) -> Tensor:
        """The context, in place of that of the present alone: what meets the prediction (B, T, 2 Z), then r and R."""
        evidence = core.evidence(batch.x, batch.observed)
        h, J = (part.double() for part in evidence)
        given = Moves(*(part.double() for part in moves))
        eta, Lambda, r, R = backward(h, J, given)
        mean = forward(h + eta, J, Lambda, given)
        diagonal = Lambda.diagonal(dim1=-2, dim2=-1)
        elsewhere = (Lambda @ mean[..., None]).squeeze(-1) - diagonal * mean  # what other latents' means pull
        return torch.cat([h + eta - elsewhere, J + diagonal, r, R.flatten(2)], -1).to(batch.x)

    def step(self, prediction: Normal, z: Tensor, context: Tensor) -> Normal:
        return super().step(prediction, z, context[..., : 2 * z.shape[-1]])

    def log_promise(self, prediction: Normal, context: Tensor) -> Tensor:
        """log β, of all latents together."""
        m, Z = prediction.mean, prediction.mean.shape[-1]
        r, R = context[..., 2 * Z : 3 * Z], context[..., 3 * Z :].unflatten(-1, (Z, Z))
        return (r * m).sum(-1) - 0.5 * (m * (R @ m[..., None]).squeeze(-1)).sum(-1)


def backward(h: Tensor, J: Tensor, moves: Moves) -> Messages:
    """The messages of every step's future; before the first step there is no prediction, and its r and R are 0."""
    Z, W = h.shape[-1], moves.weight
    one = torch.eye(Z, dtype=h.dtype, device=h.device)
    zeros = torch.zeros_like(h[:, 0]), torch.zeros_like(one).expand(len(h), Z, Z)
    (eta, Lambda), messages = zeros, []
    for t in range(h.shape[1] - 1, 0, -1):
        P, g = Lambda + torch.diag_embed(J[:, t]), eta + h[:, t]
        r, R = torch.linalg.solve(one + P * moves.variance, torch.cat([g[..., None], P], -1)).split(
            [1, Z], -1
        )
        r, R = r.squeeze(-1), (R + R.mT) / 2
        messages.append((eta, Lambda, r, R))
        Lambda, eta = W.T @ R @ W, (r - (R @ moves.bias[:, t, :, None]).squeeze(-1)) @ W
    messages.append((eta, Lambda, *zeros))
    return Messages(*(torch.stack(part, 1) for part in zip(*reversed(messages), strict=True)))


def forward(information: Tensor, J: Tensor, Lambda: Tensor, moves: Moves) -> Tensor:
    """The posterior's mean of every step, given h + η (B, T, Z): (B, T, Z)."""
    mean, precision = moves.first_mean.expand_as(J[:, 0]), moves.first_variance.reciprocal()
    means = []
    for t in range(J.shape[1]):
        total = Lambda[:, t] + torch.diag_embed(J[:, t] + precision)
        z = torch.linalg.solve(total, (information[:, t] + precision * mean)[..., None]).squeeze(-1)
        means.append(z)
        if t + 1 < J.shape[1]:
            mean, precision = z @ moves.weight.T + moves.bias[:, t + 1], moves.variance.reciprocal()
    return torch.stack(means, 1)
