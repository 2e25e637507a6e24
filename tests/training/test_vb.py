"""Variational Bayes is held to exact evidence: equal at K = 1, below it always, and never going down."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import gammaln, multigammaln
from torch import Tensor

from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em
from dbn_vae.training.initialise import randomly, start
from dbn_vae.training.vb import CategoricalPosterior, DirichletChain
from dbn_vae.training.vb_gaussian import (
    DiagonalPosterior,
    FullPosterior,
    GaussianPosterior,
    NormalWishart,
    SphericalPosterior,
    TiedPosterior,
)

KINDS: dict[str, type[GaussianPosterior]] = {
    "full": FullPosterior,
    "tied": TiedPosterior,
    "diag": DiagonalPosterior,
    "spherical": SphericalPosterior,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def gaussian_prior(kind: str, K: int, D: int, seed: int = 0) -> NormalWishart:
    """Nothing in it is a round number, and no two states are alike."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(K, D, D + 2))
    scales = {
        "full": root @ root.mT,
        "tied": root[0] @ root[0].T,
        "diag": rng.uniform(0.5, 2, (K, D)),
        "spherical": rng.uniform(0.5, 2, K),
    }
    dof = D + rng.uniform(0, 2, () if kind == "tied" else K)
    values = rng.normal(size=(K, D)), rng.uniform(0.5, 2, K), dof, scales[kind]
    return NormalWishart(*(torch.as_tensor(v, dtype=torch.float64) for v in values))


def chain_prior(K: int, seed: int = 0) -> DirichletChain:
    rng = np.random.default_rng(seed)
    return DirichletChain(*(torch.as_tensor(rng.uniform(0.3, 2, s)) for s in ((K,), (K, K))))


def model_of(kind: str, K: int, D: int, seed: int = 0) -> HMM:
    if kind == "categorical":
        prior = np.random.default_rng(seed).uniform(0.3, 2, (K, D + 1))
        return HMM(chain_prior(K, seed), CategoricalPosterior(torch.as_tensor(prior)))
    prior_ = gaussian_prior(kind, K, D, seed)
    return HMM(chain_prior(K, seed), KINDS[kind](prior_, prior_))


def data_of(kind: str, lengths: list[int], D: int, seed: int = 0, missing: float = 0.0) -> Sequences:
    rng = np.random.default_rng([seed, 1])
    n = sum(lengths)
    X = rng.integers(0, D + 1, (n, 1)).astype(float) if kind == "categorical" else rng.normal(1, 2, (n, D))
    X[rng.random(X.shape) < missing] = np.nan
    return Sequences.from_any(X, lengths)


# -- the exact evidence, written from the textbook


def log_dirichlet_multinomial(counts: np.ndarray, prior: np.ndarray) -> float:
    """log ∫ Π p^counts Dir(p | prior) dp."""
    ratio = gammaln(prior + counts) - gammaln(prior)
    return float(gammaln(prior.sum()) - gammaln(prior.sum() + counts.sum()) + ratio.sum())


def log_evidence_of_groups(kind: str, prior: NormalWishart, groups: list[np.ndarray]) -> float:
    """log ∫ Π_k Π_{x in group k} N(x; μ_k, Λ_k⁻¹) p(μ, Λ): the conjugate posterior's normaliser over the prior's."""
    means, beta, dof, scale = (v.numpy() for v in prior)
    D = means.shape[1]
    sizes, spread, total = [], [], 0.0
    for m, b, x in zip(means, beta, groups, strict=True):
        n = len(x)
        center = x.mean(0) if n else m
        S = (x - center).T @ (x - center) + b * n / (b + n) * np.outer(center - m, center - m)
        sizes.append(n)
        spread.append(S)
        total += 0.5 * D * np.log(b / (b + n)) - 0.5 * n * D * np.log(np.pi)

    def wishart(d: float, n: float, V: np.ndarray, S: np.ndarray) -> float:
        P = len(V)
        gamma = multigammaln((d + n) / 2, P) - multigammaln(d / 2, P)
        after, before = np.linalg.slogdet(V + S)[1], np.linalg.slogdet(V)[1]
        return float(gamma + 0.5 * d * before - 0.5 * (d + n) * after)

    one = np.ones((1, 1))
    for k, (n, S) in enumerate(zip(sizes, spread, strict=True)):
        if kind == "full":
            total += wishart(dof[k], n, scale[k], S)
        elif kind == "diag":
            total += sum(wishart(dof[k], n, scale[k, d] * one, S[d, d] * one) for d in range(D))
        elif kind == "spherical":
            total += wishart(dof[k], n * D, scale[k] * one, np.trace(S) * one)
    if kind == "tied":
        total += wishart(float(dof), sum(sizes), scale, sum(spread))
    return total


def log_evidence(kind: str, model: HMM, data: Sequences) -> float:
    """Every path of all sequences, each with its parameters integrated out."""
    K, x, lengths = model.n_components, data.x.numpy(), data.lengths.tolist()
    chain, emission, first = model.transition, model.emission, set(data.starts.tolist())
    assert isinstance(chain, DirichletChain)
    every = []
    for path in itertools.product(range(K), repeat=sum(lengths)):
        starts, moves, states = np.zeros(K), np.zeros((K, K)), np.array(path)
        for t, s in enumerate(path):
            if t in first:
                starts[s] += 1
            else:
                moves[path[t - 1], s] += 1
        value = log_dirichlet_multinomial(starts, chain.startprob_prior.numpy())
        value += sum(map(log_dirichlet_multinomial, moves, chain.transmat_prior.numpy()))
        if isinstance(emission, CategoricalPosterior):
            V = emission.n_symbols
            counts = np.stack([np.bincount(x[states == k, 0].astype(int), minlength=V) for k in range(K)])
            value += sum(map(log_dirichlet_multinomial, counts, emission.emissionprob_prior.numpy()))
        else:
            assert isinstance(emission, GaussianPosterior)
            groups = [x[states == k] for k in range(K)]
            value += log_evidence_of_groups(kind, emission.prior, groups)
        every.append(value)
    return float(torch.logsumexp(torch.tensor(every, dtype=torch.float64), 0))


def bounds(model: HMM, data: Sequences, n: int) -> list[float]:
    return [step.objective for _, step in zip(range(n), em(model, data), strict=False)]


@pytest.mark.parametrize("kind", [*KINDS, "categorical"])
@pytest.mark.parametrize("D", [1, 3])
def test_with_one_state_the_bound_is_the_evidence(kind: str, D: int) -> None:
    """hmmlearn's exceeds it by T D/2 log 2π, and has other errors with a diagonal."""
    model, data = model_of(kind, 1, D), data_of(kind, [7, 1, 12], D)
    assert bounds(model, data, 2)[1] == pytest.approx(log_evidence(kind, model, data), rel=1e-12)


@pytest.mark.some(4)
@pytest.mark.parametrize("kind", [*KINDS, "categorical"])
@pytest.mark.parametrize("seed", range(3))
def test_with_two_states_the_bound_stays_under_the_evidence(kind: str, seed: int) -> None:
    """2⁸ paths, the parameters of each integrated out; and it comes near, or it would be no use."""
    model, data = model_of(kind, 2, 2, seed), data_of(kind, [5, 1, 2], 2, seed)
    truth = log_evidence(kind, model, data)
    start(model, data, randomly(data, 2, torch.Generator().manual_seed(seed)))
    values = bounds(model, data, 60)
    assert max(values) <= truth
    assert values[-1] > truth - 6
    assert min(b - a for a, b in pairwise(values)) > -1e-10


@pytest.mark.some(4)
@pytest.mark.parametrize("kind", [*KINDS, "categorical"])
@pytest.mark.parametrize(("seed", "missing"), [(0, 0.0), (0, 0.3), (1, 0.3), (2, 0.0), (3, 0.3)])
def test_the_bound_never_goes_down(kind: str, missing: float, seed: int) -> None:
    """Weights, labels and holes in the data included; frozen parts too."""
    data = data_of(kind, [15, 1, 24], 3, seed, missing)
    labels = torch.full((40,), -1)
    labels[3:6] = 1
    data = data.replace(weights=torch.tensor([1.0, 2.5, 0.5], dtype=torch.float64), labels=labels)
    model = model_of(kind, 3, 3, seed)
    start(model, data, randomly(data, 3, torch.Generator().manual_seed(seed)))
    parts = ["initial", "transition", "mean", "covariance", "probs"]
    frozen = {p for i, p in enumerate(parts) if seed and (seed + i) % 3 == 0}
    model.transition.frozen = model.emission.frozen = frozenset(frozen)
    values = bounds(model, data, 40)
    assert min(b - a for a, b in pairwise(values)) > -1e-9 * abs(values[-1])
    assert values[-1] > values[0]


@every_kind
def test_a_frame_never_seen_is_no_frame(kind: str) -> None:
    model, again = model_of(kind, 1, 2), model_of(kind, 1, 2)
    data = data_of(kind, [9], 2)
    longer = Sequences.from_any(np.vstack([data.x.numpy(), np.full((3, 2), np.nan)]))
    assert bounds(again, longer, 5) == pytest.approx(bounds(model, data, 5), rel=1e-12)


def test_of_a_missing_entry_the_bound_knows_no_more_than_the_evidence() -> None:
    """Diagonal, one state: features are apart, and the evidence of each is that of the frames that show it."""
    data = data_of("diag", [20], 2, missing=0.3)
    keep = data.observed.any(1)
    prior = gaussian_prior("diag", 1, 2)
    truth = 0.0
    for d in range(2):
        alone = NormalWishart(prior.means[:, d : d + 1], prior.beta, prior.dof, prior.scale[:, d : d + 1])
        truth += log_evidence_of_groups("diag", alone, [data.x[data.observed[:, d], d : d + 1].numpy()])
    assert not keep.all() or not data.observed.all()
    value = bounds(model_of("diag", 1, 2), data, 200)[-1]
    assert truth - 2 < value < truth


@every_kind
def test_expected_densities_are_expectations(kind: str) -> None:
    """E_q log p(x | k) by sampling (μ, Λ) from q."""
    rng, K, D = np.random.default_rng(0), 2, 2
    q = gaussian_prior(kind, K, D, seed=3)._replace(beta=torch.tensor([3.0, 5.0], dtype=torch.float64))
    q = q._replace(dof=q.dof + 6)
    emission = KINDS[kind](q, q)
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    found = emission.log_prob(x, torch.ones(1, D, dtype=torch.bool))[0].detach()
    n = 40_000
    for k in range(K):
        root = np.linalg.cholesky(np.linalg.inv(as_matrix(kind, q, k).numpy()))
        dof = float(q.dof) if kind == "tied" else float(q.dof[k])
        Lambda = np.zeros((n, D, D))
        if kind in ("full", "tied"):
            z = np.tril(rng.normal(size=(n, D, D)), -1)
            z[:, range(D), range(D)] = np.sqrt(rng.chisquare(dof - np.arange(D), (n, D)))
            Lambda = root @ z @ z.swapaxes(1, 2) @ root.T
        else:
            draws = rng.chisquare(dof, (n, D if kind == "diag" else 1))
            Lambda[:, range(D), range(D)] = draws * np.diag(root @ root.T)
        spread = np.linalg.cholesky(np.linalg.inv(float(q.beta[k]) * Lambda))
        mu = q.means[k].numpy() + (spread @ rng.normal(size=(n, D, 1)))[..., 0]
        away = x[0].numpy() - mu
        quadratic = np.einsum("ni,nij,nj->n", away, Lambda, away)
        values = 0.5 * np.linalg.slogdet(Lambda)[1] - 0.5 * quadratic - 0.5 * D * np.log(2 * np.pi)
        assert abs(values.mean() - float(found[k])) < 5 * values.std() / np.sqrt(n), kind


def as_matrix(kind: str, q: NormalWishart, k: int) -> Tensor:
    matrices = {
        "full": lambda: q.scale[k],
        "tied": lambda: q.scale,
        "diag": lambda: q.scale[k].diag(),
        "spherical": lambda: q.scale[k] * torch.eye(2, dtype=torch.float64),
    }
    return matrices[kind]()
