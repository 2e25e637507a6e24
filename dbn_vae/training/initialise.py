"""Starts: where EM and SGVB begin decides where they end.

An HMM starts from responsibilities, which are just weights: k-means on the frames (or random ones), then one M-step.
A VAE-HMM starts from a classical HMM fitted to the latents that the static core gives the frames.  How a switching deep
Markov model starts is in dynamics.py.
"""

from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from dbn_vae.aevb import AEVB
from dbn_vae.models.hmm import HMM, frames
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.vae import VAE
from dbn_vae.sequences import Sequences
from dbn_vae.training.gradient_em import collect, maximize
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary


def cluster(data: Sequences, n_components: int, generator: torch.Generator) -> Tensor:
    """Responsibilities (N, K) of k-means on standardised frames, missing entries at the mean.

    A frame gives its own cluster 0.9 and shares out the rest: no state starts with a variance or a probability
    of 0, from which EM could never raise it.
    """
    from sklearn.cluster import KMeans

    x, seen = data.x.flatten(1), data.observed.flatten(1)
    if data.step_weights is not None:
        seen = seen & (data.step_weights > 0)[:, None]
    mean, variance = data.moments
    mean, scale = mean.flatten(), variance.flatten().sqrt()
    standard = torch.where(seen & (scale > 0), (x - mean) / scale.where(scale > 0, 1.0), 0.0)
    frames = standard.cpu().numpy()
    sample = frames[(data.weights.repeat_interleave(data.lengths) > 0).cpu().numpy()]
    if len(np.unique(sample[:10_000], axis=0)) < n_components:
        return randomly(data, n_components, generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    if len(sample) > 50_000:  # centres need no more than that, and k-means must not dominate
        sample = sample[np.random.default_rng(seed).choice(len(sample), 50_000, replace=False)]
    means = KMeans(n_components, n_init=1, random_state=seed).fit(sample)
    label = torch.as_tensor(means.predict(frames), dtype=torch.int64)
    own = torch.nn.functional.one_hot(label, n_components).to(data.x)
    return 0.9 * own + 0.1 / n_components


def randomly(data: Sequences, n_components: int, generator: torch.Generator) -> Tensor:
    """Responsibilities (N, K) drawn at random, uniform on the simplex."""
    weights = torch.rand(data.n_frames, n_components, generator=generator, dtype=torch.float64)
    weights = -weights.clamp_min(1e-300).log()
    return (weights / weights.sum(1, keepdim=True)).to(data.x)


def in_turn(data: Sequences, n_components: int) -> Tensor:
    """Responsibilities (N, K) of sequences cut into K equal parts, as sure as those of cluster: for states that come
    one after the other, as phonemes do."""
    t = torch.cat([torch.arange(n) * n_components // n for n in data.lengths.tolist()])
    return 0.9 * torch.nn.functional.one_hot(t, n_components).to(data.x) + 0.1 / n_components


def named_by(labels: Tensor, responsibilities: Tensor) -> Tensor:
    """Responsibilities (N, K) with the groups named as the labels name them, and weighed by what these know.

    labels: known states (N,), −1 where unknown, which become certain; or log-potentials (N, K) of soft ones.
    """
    from scipy.optimize import linear_sum_assignment

    if labels.is_floating_point():
        known = (labels < 0).any(1)
        evidence = labels[known].exp()
    else:
        known = labels >= 0
        evidence = torch.nn.functional.one_hot(labels[known], responsibilities.shape[1])
    evidence = evidence.to(responsibilities)
    overlap = (evidence / evidence.sum(1, keepdim=True)).T @ responsibilities[known]  # (label, group)
    _, group = linear_sum_assignment(-overlap.cpu().numpy())
    renamed = responsibilities[:, torch.as_tensor(group, device=labels.device)].clone()
    joint = renamed[known] * evidence
    renamed[known] = joint / joint.sum(1, keepdim=True)
    return renamed


def arranged(model: HMM, data: Sequences, responsibilities: Tensor) -> Tensor:
    """Responsibilities (N, K) with the groups renamed so that most starts and moves are such as the chain allows.

    That is a quadratic assignment, Σ_ij possible_ij · moves_{p(i) p(j)}, climbed from 30 orders by exchanging
    two names at a time: with many states a good order, not always the best.
    """
    from scipy.optimize import quadratic_assignment

    group = responsibilities.argmax(1).numpy()
    starts = data.starts.numpy()
    K = responsibilities.shape[1]
    possible = np.zeros((K + 1, K + 1))  # row and column K stand for the time before the first frame
    possible[:K, :K] = (model.transition.log_transition() > -torch.inf).numpy()
    possible[K, :K] = (model.transition.log_initial() > -torch.inf).numpy()
    before = np.r_[K, group[:-1]]
    before[starts] = K
    moves = np.zeros((K + 1, K + 1))
    np.add.at(moves, (before, group), 1.0)
    tries = [
        quadratic_assignment(
            possible,
            moves,
            method="2opt",
            options={"maximize": True, "rng": np.random.default_rng(i), "partial_match": np.array([[K, K]])},
        )
        for i in range(30)
    ]
    best = max(tries, key=lambda found: float(found.fun))
    return responsibilities[:, torch.as_tensor(best.col_ind[:K])]


@torch.no_grad()
def start(model: HMM, data: Sequences, responsibilities: Tensor, stay: float | None = None) -> None:
    """One M-step from responsibilities (N, K); moves are counted between neighbouring frames.

    One pseudo-count is spread over every row of moves and over the first states, so that nothing starts
    impossible but what the model itself forbids.  Where one frame says little of its state the counts are
    those of noise; `stay` sets the probability of staying instead, and lets EM look for states that last.
    """
    K = model.n_components
    weighted = responsibilities * data.weights.repeat_interleave(data.lengths)[:, None]
    due = weighted if data.step_weights is None else responsibilities * data.frame_weights[:, None]
    maximize(model.emission, collect(model.emission, *frames(model, data), due))
    first = torch.zeros(data.n_frames, dtype=torch.bool)
    first[data.starts] = True
    pairs = responsibilities[:-1].T @ (weighted[1:] * ~first[1:, None])
    if stay is not None and K > 1:
        identity = torch.eye(K).to(pairs)
        pairs = data.n_frames * (stay * identity + (1 - stay) / (K - 1) * (1 - identity))
    model.transition.maximize(weighted[first].sum(0) + 1 / K, pairs + 1 / K)


@torch.no_grad()
def adopt(model: HMMPrior, hmm: HMM, data: Sequences | None = None) -> None:
    """Copy (π, A, μ, Σ) of a Gaussian HMM fitted to latents into a VAE-HMM, as much of Σ as that has.

    A state that EM lost, which nothing enters any more, has no μ and Σ, and all latents in one point have no Σ: such a
    state stays as the VAE-HMM has it.

    data: the latents; where the VAE-HMM is semi-Markov its chain is counted from their most probable paths.
    """
    from dbn_vae.emissions.gaussian import Gaussian

    if not isinstance(hmm.emission, Gaussian):
        raise TypeError("adopt needs a Gaussian HMM")
    covariance = hmm.emission.covariance()
    spread = covariance.diagonal(dim1=-2, dim2=-1)
    kept = (spread.isfinite() & (spread > 0)).all(-1)
    adopt_chain(model.transition, hmm, kept, data)
    model.set_components(hmm.emission.mean, covariance, kept)


@torch.no_grad()
def adopt_chain(chain: Transition, hmm: HMM, kept: Tensor, data: Sequences | None = None) -> None:
    """Copy (π, A) of an HMM, of the states that are kept (K,); stays are counted on its most probable paths in data."""
    if isinstance(chain, SemiMarkov):
        if data is None:
            raise TypeError("a semi-Markov chain starts from stays counted in data; give adopt the latents")
        K, shortest, longest = hmm.n_components, chain.durations.min_duration, chain.durations.max_duration
        first, moves, ended, censored = count_stays(hmm, data, shortest, longest)
        chain.maximize(first + 1 / K, moves + 1 / K, ended + 1 / longest, censored)
    elif isinstance(chain, Stationary | InputDriven):
        first, moves = hmm.transition.log_initial(), hmm.transition.log_transition()
        chain.initial_logits.copy_(torch.where(kept, first, chain.initial_logits))
        chain.transition_logits.copy_(torch.where(kept[:, None] & kept, moves, chain.transition_logits))
    else:
        raise TypeError(f"adopt knows no way from an HMM to {type(chain).__name__}")


def count_stays(hmm: HMM, data: Sequences, min_duration: int, max_duration: int) -> tuple[Tensor, ...]:
    """First states (K,), moves (K, K), and stays (K, max_duration) that ended and that the end cut off, on the most
    probable paths; a stay too short or too long counts as the nearest that is allowed."""
    K = hmm.n_components
    first, moves = data.x.new_zeros(K), data.x.new_zeros(K, K)
    ended, censored = (data.x.new_zeros(K, max_duration) for _ in range(2))
    for batch in data.batches():
        paths = hmm.viterbi(batch).states
        for path, length, weight in zip(paths, batch.lengths, batch.weights, strict=True):
            runs = [(k, len(list(run))) for k, run in groupby(path[:length].tolist())]
            first[runs[0][0]] += weight
            for (k, d), after in zip(runs, [*runs[1:], None], strict=True):
                steps = min(max(d, min_duration), max_duration)
                (ended if after else censored)[k, steps - 1] += weight
                if after:
                    moves[k, after[0]] += weight
    return first, moves, ended, censored


@torch.no_grad()
def latents(core: AEVB, data: Sequences, max_frames: int) -> Sequences:
    """The static posterior means of the frames as data of their own (N, Z), on the CPU and in float64.

    Of a frame that was not seen at all nothing is known, not that z is 0.
    """
    z = torch.zeros(data.n_frames, core.n_latent)
    for batch in data.batches(max_frames):
        data.unbatch(batch, VAE(core).latents(batch).cpu(), z)
    seen = data.observed.any(1, keepdim=True).expand(z.shape)
    known = replace(data, x=z.to(data.x) * seen, observed=seen, inputs=None)
    return known.to(dtype=torch.float64)


def adopt_core(core: AEVB, trained: AEVB) -> None:
    """Copy the weights of a trained static core.

    Raises ValueError naming what differs in kind or size, and the argument that would make it the same.
    """
    for what, there, here, remedy in (
        (
            "likelihood",
            trained.likelihood.name,
            core.likelihood.name,
            f"likelihood={trained.likelihood.name!r}",
        ),
        ("n_latent", trained.n_latent, core.n_latent, f"n_latent={trained.n_latent}"),
        ("columns", trained.n_observed, core.n_observed, "X with the columns that it was trained on"),
        (
            "read_missing",
            trained.read_missing,
            core.read_missing,
            f"read_missing={trained.read_missing}",
        ),
    ):
        if there != here:
            raise ValueError(
                f"core has {what} {there}, and this model {here}: give {remedy}, or another core"
            )
    weights, own = trained.state_dict(), core.state_dict()
    for name in sorted(weights.keys() | own.keys()):
        shapes = [tuple(d[name].shape) if name in d else "no such part" for d in (weights, own)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"core has other layers than this model: {name} is {shapes[0]} there and {shapes[1]} here; "
                "give the same hidden as it was built with, or another core"
            )
    core.load_state_dict(weights)
