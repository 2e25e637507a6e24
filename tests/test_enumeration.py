"""250 random HMMs against the sum over all K^T paths, with densities by scipy and missing entries integrated out.

Nothing is shared with the package but the numbers that both are given.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from dbn_vae import emissions, inference
from dbn_vae.inference.backends import available
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions import Stationary

N_MODELS = 50  # of each family
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
Rng = np.random.Generator
LogProb = Callable[[np.ndarray, int], float]  # of the seen part of a frame (D,), NaN elsewhere, in state k


def diagonal(rng: Rng, K: int, D: int) -> tuple[emissions.Emission, LogProb, np.ndarray]:
    mean, variance = rng.normal(size=(K, D)), rng.uniform(0.2, 2, (K, D))
    emission = emissions.DiagonalGaussian(torch.tensor(mean), torch.tensor(variance))

    def log_prob(x: np.ndarray, k: int) -> float:
        o = ~np.isnan(x)
        return stats.norm.logpdf(x[o], mean[k, o], variance[k, o] ** 0.5).sum()

    return emission, log_prob, rng.normal(size=(40, D))


def full(rng: Rng, K: int, D: int) -> tuple[emissions.Emission, LogProb, np.ndarray]:
    mean, root = rng.normal(size=(K, D)), rng.normal(size=(K, D, D))
    covariance = root @ root.swapaxes(1, 2) + 0.3 * np.eye(D)
    emission = emissions.FullGaussian(torch.tensor(mean), torch.tensor(covariance))

    def log_prob(x: np.ndarray, k: int) -> float:
        o = ~np.isnan(x)
        if not o.any():
            return 0.0
        return stats.multivariate_normal.logpdf(x[o], mean[k, o], covariance[k][np.ix_(o, o)])

    return emission, log_prob, 2 * rng.normal(size=(40, D))


def poisson(rng: Rng, K: int, D: int) -> tuple[emissions.Emission, LogProb, np.ndarray]:
    rates = rng.uniform(0.2, 6, (K, D))

    def log_prob(x: np.ndarray, k: int) -> float:
        o = ~np.isnan(x)
        return stats.poisson.logpmf(x[o], rates[k, o]).sum()

    return emissions.Poisson(torch.tensor(rates)), log_prob, rng.poisson(3, (40, D)).astype(float)


def bernoulli(rng: Rng, K: int, D: int) -> tuple[emissions.Emission, LogProb, np.ndarray]:
    probs = rng.uniform(0.05, 0.95, (K, D))

    def log_prob(x: np.ndarray, k: int) -> float:
        o = ~np.isnan(x)
        return stats.bernoulli.logpmf(x[o], probs[k, o]).sum()

    return emissions.Bernoulli(torch.tensor(probs)), log_prob, rng.integers(2, size=(40, D)).astype(float)


def categorical(rng: Rng, K: int, D: int) -> tuple[emissions.Emission, LogProb, np.ndarray]:
    probs = rng.dirichlet(np.ones(4), K)

    def log_prob(x: np.ndarray, k: int) -> float:
        if np.isnan(x[0]):
            return 0.0
        return stats.multinomial.logpmf(np.eye(4)[int(x[0])], 1, probs[k])

    return emissions.Categorical(torch.tensor(probs)), log_prob, rng.integers(4, size=(40, 1)).astype(float)


FAMILIES = {f.__name__: f for f in (diagonal, full, poisson, bernoulli, categorical)}


class Truth(NamedTuple):
    log_z: float
    gamma: np.ndarray  # (T, K)
    filtered: np.ndarray  # (T, K)
    xi: np.ndarray  # (K, K)
    best: float  # log p of the most probable path


@functools.cache
def paths(K: int, T: int) -> np.ndarray:
    return np.array(list(itertools.product(range(K), repeat=T)))  # (P, T)


def enumerate_paths(start: np.ndarray, moves: np.ndarray, emission: np.ndarray) -> Truth:
    """Every path's probability written out: emission (T, K), all in logs."""
    T, K = emission.shape
    every = paths(K, T)
    scores = start[every[:, 0], None] + emission[0, every[:, :1]]  # (P, t), grown step by step
    for t in range(1, T):
        more = moves[every[:, t - 1], every[:, t]] + emission[t, every[:, t]]
        scores = np.column_stack([scores, scores[:, -1] + more])
    chosen = every[:, :, None] == np.arange(K)  # (P, T, K)
    log_z = logsumexp(scores[:, -1])
    p = np.exp(scores[:, -1] - log_z)
    prefix = np.exp(scores - logsumexp(scores, axis=0))  # a prefix stands in equally many paths
    return Truth(
        log_z,
        np.einsum("p,ptk->tk", p, chosen),
        np.einsum("pt,ptk->tk", prefix, chosen),
        np.einsum("p,pti,ptj->ij", p, chosen[:, :-1], chosen[:, 1:]),
        scores[:, -1].max(),
    )


def sparse_rows(rng: Rng, *shape: int) -> np.ndarray:
    """Rows that sum to 1, some entries exactly 0."""
    rows = rng.dirichlet(np.ones(shape[-1]), shape[:-1]) * (rng.random(shape) > 0.2)
    rows[..., -1] += 1e-3
    return rows / rows.sum(-1, keepdims=True)


@pytest.mark.some(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_inference_says_is_what_all_paths_say(family: str) -> None:
    rng = np.random.default_rng(list(FAMILIES).index(family))
    for model_number in range(N_MODELS):
        K, D, B = rng.integers(1, 4), rng.integers(1, 4), rng.integers(1, 4)
        emission, log_prob, frames = FAMILIES[family](rng, K, D)
        start, moves = sparse_rows(rng, K), sparse_rows(rng, K, K)
        lengths = rng.integers(1, 7, B)
        X = [frames[rng.integers(len(frames), size=n)] for n in lengths]
        for x in X:
            x[rng.random(x.shape) < 0.25] = np.nan
        with np.errstate(divide="ignore"):
            logs = np.log(start), np.log(moves)
        truth = [
            enumerate_paths(*logs, np.array([[log_prob(frame, k) for k in range(K)] for frame in x]))
            for x in X
        ]
        model = HMM(Stationary(torch.tensor(start), torch.tensor(moves)), emission)
        batch = Sequences.from_any(X).batch()
        with torch.no_grad():
            chain = model.chain(batch)
            for backend in sorted({*available} - {"cuda"}):
                with inference.using(backend):
                    posterior, filtered = inference.smooth(chain), inference.filter(chain)
                    best = inference.viterbi(chain)
                    path_score = inference.path_score(chain, best.states)
                for b, (n, true) in enumerate(zip(lengths, truth, strict=True)):
                    say = f"{family}, model {model_number}, sequence {b}, {backend}: "
                    close(posterior.log_z[b], true.log_z, err_msg=say + "log Z")
                    close(posterior.gamma[b, :n], true.gamma, err_msg=say + "gamma")
                    close(posterior.xi[b], true.xi, err_msg=say + "xi")
                    close(filtered.probs[b, :n], true.filtered, err_msg=say + "filter")
                    close(best.score[b], true.best, err_msg=say + "score of the best path")
                    close(path_score[b], true.best, err_msg=say + "the best path")
