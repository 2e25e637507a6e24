"""Truth by enumeration: every one of the K^T paths, its probability written out.

Nothing here is shared with the package: the oracle reads a chain's tables and multiplies.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from dbn_vae.aevb import AEVB
from dbn_vae.evaluation.information import Free
from dbn_vae.inference import Chain
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences

Values = Tensor | tuple["Values", ...]


def close(got: Values, want: Values, *, rtol: float, atol: float, **options: Any) -> None:
    """torch.testing.assert_close, which takes longer than a small model, only to say what is wrong."""
    if not near(got, want, rtol, atol):
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol, **options)


def near(got: Values, want: Values, rtol: float, atol: float) -> bool:
    if isinstance(got, tuple):
        return len(got) == len(want) and all(near(a, b, rtol, atol) for a, b in zip(got, want, strict=True))
    same = got.shape == want.shape and got.dtype == want.dtype
    return same and torch.allclose(got, want, rtol=rtol, atol=atol)


@functools.cache
def paths(T: int, K: int) -> Tensor:
    """All K^T state paths: (P, T), the same tensor every time."""
    return torch.tensor(list(itertools.product(range(K), repeat=T)))


def log_joint(chain: Chain, b: int) -> tuple[Tensor, Tensor]:
    """Every path of sequence b and its log-probability: (P, T), (P,)."""
    initial, transition, emission, lengths = chain.canonical()
    assert lengths is not None
    T = int(lengths[b])
    every = paths(T, emission.shape[-1])
    score = initial[b, every[:, 0]] + emission[b, torch.arange(T), every].sum(-1)
    for t in range(1, T):
        A = transition
        if transition.dim() == 3:
            A = transition[b]
        elif transition.dim() == 4:
            A = transition[b, t - 1]
        score = score + A[every[:, t - 1], every[:, t]]
    return every, score


def enumerate_posterior(chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
    """log Z (B,), gamma (B, T, K), xi (B, K, K) or (B, T-1, K, K) by summing over all paths."""
    _, transition, emission, _ = chain.canonical()
    B, T, K = emission.shape
    log_z = emission.new_full((B,), -math.inf)
    gamma = torch.zeros_like(emission)
    pairs = emission.new_zeros(B, max(T - 1, 0), K, K)
    for b in range(B):
        every, score = log_joint(chain, b)
        log_z[b] = torch.logsumexp(score, 0)
        if log_z[b] == -math.inf:
            continue
        p = (score - log_z[b]).exp()
        for t, now in enumerate(every.T):
            gamma[b, t].index_put_((now,), p, accumulate=True)
            if t:
                pairs[b, t - 1].index_put_((every[:, t - 1], now), p, accumulate=True)
    return log_z, gamma, pairs if transition.dim() == 4 else pairs.sum(1)


def enumerate_filter(chain: Chain) -> Tensor:
    """p(s_t | x_{1:t}): (B, T, K), each step by enumerating the sequence cut off after it."""
    initial, transition, emission, lengths = chain.canonical()
    assert lengths is not None
    probs = torch.zeros_like(emission)
    for b in range(len(emission)):
        for t in range(int(lengths[b])):
            cut = Chain(initial, transition, emission, torch.full_like(lengths, t + 1))
            every, score = log_joint(cut, b)
            weight = (score - torch.logsumexp(score, 0)).exp()
            probs[b, t].index_add_(0, every[:, t], weight)
    return probs


def random_chain(
    B: int, T: int, K: int, *, seed: int, varies: str = "stationary", zeros: float = 0.0,
    ragged: bool = True, scale: float = 2.0, dtype: torch.dtype = torch.float64,
) -> Chain:  # fmt: skip
    """Random potentials; a share of the transitions exactly impossible, but never a whole row."""
    g = torch.Generator().manual_seed(seed)

    def simplex(*shape: int) -> Tensor:
        logits = scale * torch.randn(*shape, generator=g, dtype=torch.float64)
        forbidden = torch.rand(*shape, generator=g) < zeros
        forbidden[..., 0] = False
        return torch.log_softmax(logits.masked_fill(forbidden, -math.inf), -1).to(dtype)

    shape = {"stationary": (K, K), "batch": (B, K, K), "time": (B, T - 1, K, K)}[varies]
    emission = (scale * torch.randn(B, T, K, generator=g, dtype=torch.float64)).to(dtype)
    lengths = torch.randint(1, T + 1, (B,), generator=g) if ragged else torch.full((B,), T)
    lengths[0] = T
    return Chain(simplex(B, K), simplex(*shape), emission, lengths)


# Linear-Gaussian models, whose log p(x) a dense covariance matrix gives


def linear_gaussian_core(C: Tensor, d: Tensor, scale: Tensor) -> AEVB:
    """p(x | z) = N(C z + d, diag scale²) and, as evidence, exactly that likelihood as a function of z.

    The columns of C must be orthogonal under diag scale⁻², since evidence is diagonal.
    """
    D, Z = C.shape
    core = AEVB(D, Z, Gaussian(min_scale=1e-2), hidden=()).double()
    weighted = (C / scale.square()[:, None]).T  # Cᵀ R⁻¹
    J = (weighted @ C).diagonal()
    (encoder,), (decoder,) = core.encoder, core.decoder
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([weighted / J[:, None], torch.zeros(Z, D)]))
        encoder.bias.copy_(torch.cat([-weighted @ d / J, J.expm1().log()]))
        decoder.weight.copy_(torch.cat([C, torch.zeros(D, Z)]))
        decoder.bias.copy_(torch.cat([d, (scale - 1e-2).expm1().log()]))
    return core


def dense_gaussian_log_prob(
    x: Tensor, seen: Tensor, mean: Tensor, covariance: Tensor, core: tuple[Tensor, Tensor, Tensor]
) -> float:
    """log p of the frames seen of x (T, D), given the joint mean (T, Z) and covariance (T, Z, T, Z) of z."""
    C, d, scale = core
    if not seen.any():
        return 0.0
    joint = torch.einsum("dz,tzuw,ew->tdue", C, covariance, C)
    joint = joint + torch.einsum("tu,de->tdue", torch.eye(len(x)), scale.square().diag())
    n = int(seen.sum()) * x.shape[1]
    covariance_of_x = joint[seen][:, :, seen].reshape(n, n).detach().numpy()
    mean_of_x = (mean @ C.T + d)[seen].flatten().detach().numpy()
    return float(multivariate_normal(mean_of_x, covariance_of_x).logpdf(x[seen].flatten().numpy()))


def walk_moments(
    first: tuple[Tensor, Tensor], moves: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Mean (T, Z) and covariance (T, Z, T, Z) of z_1 ~ N(m, V) and z_t = W z_{t-1} + b + N(0, Q)."""
    means, (m, V) = [first[0]], first
    blocks = [[V]]
    for W, b, Q in moves:
        m, V = W @ m + b, W @ V @ W.T + Q
        means.append(m)
        blocks.append([W @ block for block in blocks[-1]] + [V])
    T, Z = len(means), len(m)
    covariance = torch.zeros(T, Z, T, Z, dtype=m.dtype)
    for t, u in itertools.product(range(T), range(T)):
        covariance[t, :, u] = blocks[t][u] if u <= t else blocks[u][t].T
    return torch.stack(means), covariance


def kalman_log_prob(
    x: Tensor,
    first: tuple[Tensor, Tensor],
    move: tuple[Tensor, Tensor, Tensor],
    core: tuple[Tensor, Tensor, Tensor],
) -> float:
    """log p(x) of x (T, D), NaN rows unseen, by the Kalman filter: z_1 ~ N(m, V), z_t = W z_{t-1} + b + N(0, Q)."""
    (m, V), (W, b, Q), (C, d, scale) = first, move, core
    total = 0.0
    for t, frame in enumerate(x):
        if t:
            m, V = W @ m + b, W @ V @ W.T + Q
        if frame.isnan().any():
            continue
        S = C @ V @ C.T + scale.square().diag()
        total += float(multivariate_normal((C @ m + d).numpy(), S.numpy()).logpdf(frame.numpy()))
        gain = V @ C.T @ torch.linalg.inv(S)
        m, V = m + gain @ (frame - C @ m - d), V - gain @ C @ V
    return total


def cube_noise(n_axes: int = 1) -> Callable[..., Tensor]:
    """In place of torch.randn: the corners ±1 of a cube over the last axes, one a sample in turn.

    Over all 2^n corners the mean of a quadratic is its expectation under N(0, I), so that a Monte Carlo
    bound of a linear-Gaussian model becomes exact; and noise that depends on the sample alone, and not on
    where a sequence stands in its batch, shows what else does.  Noise that has no axis before
    these is as ever.
    """
    usual = torch.randn

    def randn(shape: tuple[int, ...], **options: Any) -> Tensor:
        if len(shape) <= n_axes:
            return usual(shape, **options)
        inner = tuple(shape[len(shape) - n_axes :])
        signs = 2.0 * paths(math.prod(inner), 2) - 1
        signs = signs[torch.arange(shape[0]) % len(signs)].to(options["dtype"])
        middle = [1] * (len(shape) - 1 - n_axes)
        return signs.view(shape[0], *middle, *inner).expand(shape)

    return randn


def posterior_slope(model: HMM, data: Sequences, free: list[Free]) -> np.ndarray:
    """∂ log p(x, θ) / ∂ θ (P,) by the engine's backward pass: γ and ξ, nothing shared with second derivatives."""
    value = model.log_parameter_prior()
    for batch in data.batches():
        value = value + batch.weights @ model.objective(batch)
    found = torch.autograd.grad(value, [f.parameter for f in free], allow_unused=True, materialize_grads=True)
    return torch.cat([s[f.which] for s, f in zip(found, free, strict=True)]).numpy()


def slope_of_slope(model: HMM, data: Sequences, free: list[Free]) -> np.ndarray:
    """−∂² log p(x, θ) / ∂ θ² (P, P), by differences of fourth order of the above."""
    columns = []
    for parameter, which in free:
        for index in map(tuple, which.nonzero().tolist()):
            origin = float(parameter.data[index])
            h = 4e-4 * min(1.0, max(abs(origin), 0.05))
            sides = []
            for step in (-2, -1, 1, 2):
                parameter.data[index] = origin + step * h
                sides.append(posterior_slope(model, data, free))
            parameter.data[index] = origin
            columns.append(-(sides[0] - 8 * sides[1] + 8 * sides[2] - sides[3]) / (12 * h))
    return np.stack(columns, 1)
