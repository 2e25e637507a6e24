"""What a family says of frames to come, which nobody saw: of those that read the frames before them, step by step.

    z_t = (x_t, …, x_{t-p+1}),   z_t = F_k z_{t-1} + c_k + (ε, 0, …),   ε ~ N(0, Σ_k)   where s_t = k

is an autoregression with F_k its companion matrix.  Given s_t = k, but not the states before it, z_t is a mixture; its
mean m_k and covariance V_k are exact at any horizon, for with w_jk = p(s_{t-1} = j | s_t = k) they are

    m_k ← F_k Σ_j w_jk m_j + c_k,    V_k ← F_k ( Σ_j w_jk (V_j + (m_j − m̄)(m_j − m̄)ᵀ) ) F_kᵀ + Σ_k,    m̄ = Σ_j w_jk m_j.

Source: Hamilton (1989), A new approach to the economic analysis of nonstationary time series, for the mean.
"""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.emissions.autoregressive import Autoregressive
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.context import Generator, counted, drawn, of_inputs, over_contexts
from dbn_vae.emissions.linear_regression import LinearRegression
from dbn_vae.emissions.predictive import blend, in_order, moments
from dbn_vae.emissions.product import Product

MOST = 2**12  # paths of states that are summed one by one


class Road(NamedTuple):
    """The H steps ahead of B sequences, over M = K · n_ages states, or pairs of a state and its age."""

    belief: Tensor  # (B, M) p(s_T)
    moves: Tensor  # (B, H, M, M) A into every step
    n_ages: int
    past: Tensor  # (B, P, D) the last frames seen, the latest last
    inputs: Tensor | None  # (B, H, U)

    def beliefs(self) -> Tensor:
        """p(s_{T+h}): (B, H, M)."""
        ahead = [self.belief]
        for A in self.moves.unbind(1):
            ahead.append((ahead[-1][:, None] @ A).squeeze(1))
        return torch.stack(ahead[1:], 1)

    def states(self) -> Tensor:
        """The same of states alone: (B, H, K)."""
        return self.beliefs().unflatten(-1, (-1, self.n_ages)).sum(-1)

    def flat_inputs(self) -> Tensor | None:
        return None if self.inputs is None else self.inputs.flatten(0, 1)


@singledispatch
def moments_ahead(emission: Emission, road: Road) -> tuple[Tensor, Tensor]:
    """Mean and variance of every entry of the frames to come: (B, H, D) each.

    Raises NotImplementedError where they are not known exactly.
    """
    if emission.order:
        raise NotImplementedError(
            f"moments of {type(emission).__name__} ahead of the data have no closed form here"
        )
    weights = road.states()
    B, H, K = weights.shape
    w = weights.reshape(B * H, K)
    both = over_contexts(
        emission,
        of_inputs(emission, road.flat_inputs()),
        lambda family, rows: torch.stack(blend(w[rows], *moments(family)), 1),
    )
    mean, variance = both.view(B, H, 2, -1).unbind(2)
    return mean, variance


@moments_ahead.register
def _(emission: Product, road: Road) -> tuple[Tensor, Tensor]:
    blocks = zip(emission.emissions(), emission.columns, strict=True)
    found = [moments_ahead(block, road._replace(past=road.past[..., c])) for block, c in blocks]
    mean, variance = (in_order(emission, list(part)) for part in zip(*found, strict=True))
    return mean, variance


@moments_ahead.register
def _(emission: Autoregressive, road: Road) -> tuple[Tensor, Tensor]:
    D, p = emission.n_features, emission.order
    F, c, Q = (table.repeat_interleave(road.n_ages, 0) for table in companion(emission))
    z = road.past[:, -p:].flip(1).flatten(1)[:, None].expand(-1, len(F), -1)  # (B, M, pD)
    V = z.new_zeros(*z.shape, z.shape[-1])
    belief, means, variances = road.belief, [], []
    for A in road.moves.unbind(1):
        joint = belief[..., None] * A
        belief = joint.sum(1)
        share = torch.where(belief[:, None] > 0, joint / belief[:, None], 0.0)  # (B, from, to)
        m = torch.einsum("bij,biz->bjz", share, z)
        apart = z[:, :, None] - m[:, None]
        V = torch.einsum("bij,bizy->bjzy", share, V) + torch.einsum(
            "bij,bijz,bijy->bjzy", share, apart, apart
        )
        z = (F @ m[..., None]).squeeze(-1) + c
        V = F @ V @ F.mT + Q
        mean, variance = blend(belief, z[..., :D], V.diagonal(dim1=-2, dim2=-1)[..., :D])
        means.append(mean)
        variances.append(variance)
    return torch.stack(means, 1), torch.stack(variances, 1)


def companion(emission: Autoregressive) -> tuple[Tensor, Tensor, Tensor]:
    """F (K, pD, pD), c (K, pD) and the covariance of what is new (K, pD, pD)."""
    K, D, width = emission.slope.shape
    F, c = emission.mean.new_zeros(K, width, width), emission.mean.new_zeros(K, width)
    F[:, :D], c[:, :D] = emission.slope.detach(), emission.mean.detach()
    F[:, D:, : width - D] = torch.eye(width - D).to(F)
    Q = torch.zeros_like(F)
    Q[:, :D, :D] = emission.covariance().detach()
    return F, c, Q


def after_paths(emission: Autoregressive, h: int) -> LinearRegression:
    """x_{T+h} in each of the K^h paths s_{T+1:T+h}, the last state fastest: a regression on (x_T, …, x_{T-p+1})."""
    D, (F, c, Q) = emission.n_features, companion(emission)
    width = c.shape[1]
    slope, mean, spread = torch.eye(width).to(F)[None], c.new_zeros(1, width), F.new_zeros(1, width, width)
    for _ in range(h):
        slope = (F @ slope[:, None]).flatten(0, 1)
        mean = ((F @ mean[:, None, :, None]).squeeze(-1) + c).flatten(0, 1)
        spread = (F @ spread[:, None] @ F.mT + Q).flatten(0, 1)
    return LinearRegression(mean[:, :D], slope[:, :D], spread[:, :D, :D])


def follows(emission: Emission, past: Tensor, observed: Tensor, inputs: Tensor | None) -> Tensor:
    """Whether the frame after these has a density: past (B, P, D), inputs (B, U) of that frame, to (B,)."""
    x, whole = after(emission, past, inputs), torch.ones_like(observed[:, :1])
    wide = emission.with_context(x[0], torch.cat([observed, whole], 1), x[1])[1][:, -1]
    return counted(emission, wide).all(-1)


def after(emission: Emission, past: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Past frames (n, P, D) and one to come (n, P + 1, D), and the inputs of the latter where they stand."""
    frames = torch.cat([past, torch.zeros_like(past[:, :1])], 1)
    if inputs is None:
        return frames, None
    return frames, torch.cat([inputs.new_zeros(*past.shape[:2], inputs.shape[-1]), inputs[:, None]], 1)


def draw_ahead(emission: Emission, states: Tensor, road: Road, generator: Generator = None) -> Tensor:
    """Frames along paths of states (S, B, H), each after the past of its sequence and those drawn: (S, B, H, D)."""
    S, B, H = states.shape
    if not emission.order:
        u = None if road.inputs is None else road.inputs.expand(S, *road.inputs.shape)
        return emission.sample(states, generator, u)
    D = emission.n_features
    window = road.past[:, -emission.order :].expand(S, B, -1, D).flatten(0, 1)
    path = []
    for t in range(H):
        u = None if road.inputs is None else road.inputs[:, t].expand(S, B, -1).flatten(0, 1)
        frames, inputs = after(emission, window, u)
        context = emission.with_context(frames, torch.ones_like(frames, dtype=torch.bool), inputs)[0][
            :, -1, D:
        ]
        x = drawn(emission, states[..., t].flatten(), context, generator)
        path.append(x.view(S, B, D))
        window = torch.cat([window[:, 1:], x[:, None]], 1)
    return torch.stack(path, 2)
