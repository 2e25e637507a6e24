"""Truth by enumeration for chains of stays: every segmentation of a sequence, its probability written out."""

import itertools
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


def moves(chain: Chain, b: int, t: int) -> Tensor:
    """log A of sequence b to step t: (K, K)."""
    A = chain.log_transition
    return A[b, t - 1] if A.dim() == 4 else A[b] if A.dim() == 3 else A


def enumerated(stays: Stays) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """log Z, gamma, xi, ended, censored; and every path with its log-probability, sequence by sequence."""
    pi, _, emission, lengths = stays.chain.canonical()
    B, _, K = emission.shape
    D = stays.log_duration.shape[1]
    log_z, gamma = emission.new_full((B,), NEVER), torch.zeros_like(emission)
    xi, ended = emission.new_zeros(B, K, K), emission.new_zeros(B, K, D)
    censored, paths = torch.zeros_like(ended), []
    for b in range(B):
        L = int(lengths[b])
        every = segmentations(L, K, D)
        scores, states = [], []
        for segments in every:
            t, score = 0, pi[b, segments[0][0]]
            for n, (k, d) in enumerate(segments):
                if n:
                    score = score + moves(stays.chain, b, t)[segments[n - 1][0], k]
                score = score + emission[b, t : t + d, k].sum()
                t += d
                table = stays.log_survival if n == len(segments) - 1 else stays.log_duration
                score = score + table[k, d - 1]
            scores.append(score)
            states.append([k for k, d in segments for _ in range(d)])
        score = torch.stack(scores)
        paths.append((torch.tensor(states), score))
        log_z[b] = torch.logsumexp(score, 0)
        if log_z[b] == NEVER:
            continue
        for segments, path, p in zip(every, states, (score - log_z[b]).exp(), strict=True):
            for t, k in enumerate(path):
                gamma[b, t, k] += p
            for (i, d), (j, _) in itertools.pairwise(segments):
                xi[b, i, j] += p
                ended[b, i, d - 1] += p
            censored[b, segments[-1][0], segments[-1][1] - 1] += p
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
