"""Truth by enumeration: every one of the K^T paths, its probability written out.

Nothing here is shared with the package: the oracle reads a chain's tables and multiplies.
"""

import itertools
import math

import torch
from torch import Tensor

from dbn_vae.inference import Chain


def paths(T: int, K: int) -> Tensor:
    """All K^T state paths: (P, T)."""
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
        for path, p in zip(every, (score - log_z[b]).exp(), strict=True):
            for t, k in enumerate(path):
                gamma[b, t, k] += p
                if t:
                    pairs[b, t - 1, path[t - 1], k] += p
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
