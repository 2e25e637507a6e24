"""Truth by enumeration for chains of stays: every segmentation of a sequence, its probability written out."""

import functools
import math

import pytest
import torch
from oracles import random_chain
from torch import Tensor

from dbn_vae.inference import Chain
from dbn_vae.inference.durations import Stays

NEVER = -math.inf
CASES = [
    (3, 6, 3, 3, 0.0, "stationary"),
    (3, 6, 2, 9, 0.0, "stationary"),  # longer stays than the sequence
    (4, 6, 3, 4, 0.4, "stationary"),  # zeros in every table
    (2, 5, 3, 2, 0.0, "batch"),
    (2, 5, 3, 3, 0.2, "time"),
    (2, 4, 3, 1, 0.0, "stationary"),  # no stay longer than a step
]
every_case = pytest.mark.parametrize("case", CASES)


def random_stays(
    B: int, T: int, K: int, D: int, *, seed: int, zeros: float = 0.0, varies: str = "stationary", scale: float = 2.0
) -> Stays:  # fmt: skip
    """No state moves to itself; log_survival is unrelated to log_duration, as gradients need it to be."""
    chain = random_chain(B, T, K, seed=seed, varies=varies, zeros=zeros, scale=scale)
    A = chain.log_transition.masked_fill(torch.eye(K, dtype=torch.bool), NEVER)
    g = torch.Generator().manual_seed(seed)
    tables = [scale * torch.randn(K, D, generator=g, dtype=torch.float64) for _ in range(2)]
    tables[0] = tables[0].masked_fill(torch.rand(K, D, generator=g) < zeros, NEVER)
    return Stays(chain._replace(log_transition=A), *tables)


def segmentations(T: int, K: int, D: int) -> list[list[tuple[int, int]]]:
    """Every sequence of stays (state, length) that fills T steps."""
    if T == 0:
        return [[]]
    return [
        [(k, d), *rest]
        for d in range(1, min(D, T) + 1)
        for k in range(K)
        for rest in segmentations(T - d, K, D)
        if not rest or rest[0][0] != k
    ]


@functools.cache
def laid_out(T: int, K: int, D: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every segmentation: the paths, and the states, lengths (0: no more) and starts of their stays, each (P, T)."""
    every = segmentations(T, K, D)
    stays = torch.tensor([[*one, *[(0, 0)] * (T - len(one))] for one in every])
    k, d = stays.unbind(-1)
    states = torch.tensor([[k for k, d in one for _ in range(d)] for one in every])
    return states, k, d, d.cumsum(1) - d


def enumerated(stays: Stays) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """log Z, gamma, xi, ended, censored; and every path with its log-probability, sequence by sequence."""
    pi, A, emission, lengths = stays.chain.canonical()
    B, T, K = emission.shape
    D = stays.log_duration.shape[1]
    if A.dim() < 4:  # of every sequence to every step
        A = A.expand(B, K, K)[:, None].expand(B, T - 1, K, K)
    log_z, gamma = emission.new_full((B,), NEVER), torch.zeros_like(emission)
    xi, ended = emission.new_zeros(B, K, K), emission.new_zeros(B, K, D)
    censored, paths = torch.zeros_like(ended), []
    for b in range(B):
        L = int(lengths[b])
        states, k, d, start = laid_out(L, K, D)
        there = d > 0
        goes_on = there[:, 1:]  # another stay comes after
        last = there & ~torch.cat([goes_on, torch.zeros_like(there[:, :1])], 1)
        held = torch.where(last, stays.log_survival[k, d - 1], stays.log_duration[k, d - 1])
        moved = A[b, start[:, 1:].clamp_max(L - 1) - 1, k[:, :-1], k[:, 1:]] if L > 1 else held[:, :0]
        score = pi[b, k[:, 0]] + emission[b, torch.arange(L), states].sum(1)
        score = score + held.where(there, 0.0).sum(1) + moved.where(goes_on, 0.0).sum(1)
        paths.append((states, score))
        log_z[b] = torch.logsumexp(score, 0)
        if log_z[b] == NEVER:
            continue
        p = (score - log_z[b]).exp()[:, None].expand(-1, L)
        before, after = k[:, :-1][goes_on], k[:, 1:][goes_on]
        gamma[b].index_put_((torch.arange(L).expand_as(states), states), p, accumulate=True)
        xi[b].index_put_((before, after), p[:, 1:][goes_on], accumulate=True)
        ended[b].index_put_((before, d[:, :-1][goes_on] - 1), p[:, 1:][goes_on], accumulate=True)
        censored[b].index_put_((k[last], d[last] - 1), p[last], accumulate=True)
    return [log_z, gamma, xi, ended, censored], paths


def geometric(chain: Chain, D: int) -> Stays:
    """The same chain, its self-moves told as durations."""
    A = chain.log_transition.exp()
    K = len(A)
    stay = A.diagonal()
    eye = torch.eye(K, dtype=torch.bool)
    moves = torch.where(eye, 0.0, A) / (1 - stay)[:, None]
    d = torch.arange(D).double()
    log_survival = d * stay.log()[:, None]
    log_duration = log_survival + (1 - stay).log()[:, None]
    return Stays(chain._replace(log_transition=moves.log()), log_duration, log_survival)
