"""What is missing of an autoregression, given all that was seen: a sum over the paths of states through each gap.

A frame stands in its own density and in those of the p frames after it.  So frames missing at a, …, b tie s_a, …,
s_{b+p} together, and given those they are Gaussian: with R x = y the whitened rows x_t = b_k + Σ_l A_kl x_{t-l},

    ∫ Π_t p(x_t | x_{t-1}, …, x_{t-p}, s_t) dx_missing ∝ exp(−½ min |R x − y|²) / |RᵀR|^½,
    x_missing | s ~ N((RᵀR)⁻¹ Rᵀ y, (RᵀR)⁻¹),

which makes a gap one step of the chain, whose states are the K^(b + p − a + 1) paths.  Everything is conditional on the
first p frames; what is missing of those has no density of its own, and follows from the frames after it alone.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.emissions.ahead import MOST
from dbn_vae.emissions.autoregressive import Autoregressive
from dbn_vae.inference import logsumexp
from dbn_vae.models.base import Generator
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Batch, Sequences


class Piece(NamedTuple):
    """A stretch of the chain: one step, or a gap."""

    first: int
    last: int
    paths: Tensor  # (n, last − first + 1) of states
    log_weight: Tensor  # (n,) of the frames, given the path
    mean: Tensor  # (n, m) of the missing entries, given the path
    factor: Tensor  # (n, m, m) the Cholesky factor of their precision
    entries: Tensor  # (m, 2) their frames and columns


def fill_gaps(model: HMM, data: Sequences, how: str, generator: Generator = None) -> Tensor:
    """x (N, D) with missing entries as how="mean", "viterbi" or "sample" has them: see PredictiveVerbs.impute.

    Raises NotImplementedError for a gap through which there are more than 2¹² paths, for stays with durations and for
    autoregressions inside other families; ValueError where what is missing does not follow from what was seen.
    """
    if not isinstance(model.emission, Autoregressive) or model.n_ages > 1:
        raise NotImplementedError(
            f"impute of {type(model.emission).__name__}, which conditions on earlier frames, is offered for "
            "Autoregressive itself, in a chain without durations"
        )
    out = data.x.clone()
    for b, (start, length) in enumerate(zip(data.starts.tolist(), data.lengths.tolist(), strict=True)):
        rows = slice(start, start + length)
        if not data.observed[rows].all():
            out[rows] = filled(model, model.emission, data.subset([b]).only(), b, how, generator)
    return out


def filled(
    model: HMM, emission: Autoregressive, batch: Batch, which: int, how: str, generator: Generator
) -> Tensor:
    """One sequence: (T, D)."""
    x, observed = batch.x[0].clone(), batch.observed[0]
    pieces = divided(emission, x, observed, model.emission.log_prob(*model.frames(batch))[0], which)
    log_initial, log_transition = model.tables(batch.inputs)
    log_initial = log_initial.view(-1)
    K = len(log_initial)
    moves = log_transition[0] if log_transition.dim() == 4 else log_transition.expand(len(x) - 1, K, K)
    reduce = maximum if how == "viterbi" else logsumexp
    into, weights = log_initial, []
    for piece in pieces:
        w = into[piece.paths[:, 0]] + within(piece, moves)
        weights.append(w)
        if piece.last < len(x) - 1:
            into = reduce(by_state(w, piece.paths[:, -1], K, reduce)[:, None] + moves[piece.last], 0)
    onward = torch.zeros_like(log_initial)  # log p(what follows | the last state of a piece)
    for piece, w in zip(reversed(pieces), reversed(weights), strict=True):
        joint = w + onward[piece.paths[:, -1]]
        p = (joint - logsumexp(joint, 0)).exp()
        if how == "sample":
            path = int(torch.multinomial(p, 1, generator=generator))
            noise = torch.randn(piece.mean.shape[1], generator=generator, dtype=piece.mean.dtype)
            value = piece.mean[path] + torch.linalg.solve_triangular(
                piece.factor[path].mT, noise[:, None], upper=True
            ).squeeze(1)
            ahead = torch.where(torch.arange(K) == piece.paths[path, 0], 0.0, -math.inf)
        else:
            value = piece.mean[joint.argmax()] if how == "viterbi" else p @ piece.mean
            later = within(piece, moves) + onward[piece.paths[:, -1]]
            ahead = by_state(later, piece.paths[:, 0], K, reduce)
        x[piece.entries[:, 0], piece.entries[:, 1]] = value
        if piece.first:
            onward = reduce(moves[piece.first - 1] + ahead, 1)
    return x


def maximum(x: Tensor, dim: int) -> Tensor:
    return x.amax(dim)


def within(piece: Piece, moves: Tensor) -> Tensor:
    """Log-weights of a piece's paths, given their first state: (n,)."""
    steps = moves[piece.first : piece.last]
    made = steps[torch.arange(len(steps)), piece.paths[:, :-1], piece.paths[:, 1:]]
    return made.sum(1) + piece.log_weight


def by_state(values: Tensor, states: Tensor, K: int, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The values (n,) of each state put together: (K,)."""
    return reduce(torch.where(states == torch.arange(K)[:, None], values, -math.inf), 1)


def divided(
    emission: Autoregressive, x: Tensor, observed: Tensor, log_prob: Tensor, which: int
) -> list[Piece]:
    """The steps of a sequence, those that a gap ties together as one piece."""
    (T, K), p = log_prob.shape, emission.order
    whole = observed.all(1).tolist()
    every, none = torch.arange(K)[:, None], torch.zeros(0, 2).long()
    pieces, t = [], 0
    while t < T:
        if whole[t]:
            pieces.append(Piece(t, t, every, log_prob[t], x.new_zeros(K, 0), x.new_zeros(K, 0, 0), none))
            t += 1
            continue
        last = t
        while not all(whole[last + 1 : last + 1 + p]):
            last += 1 + whole[last + 1 : last + 1 + p].index(False)
        end = min(last + p, T - 1)
        if K ** (end - t + 1) > MOST:
            raise NotImplementedError(
                f"frames {t} to {last} of sequence {which} are missing, whole or in part: with the {end - last} after "
                f"them that read them there are {K}^{end - t + 1} paths of states, and {MOST} at most are summed; "
                "use fewer states, or leave out the gap"
            )
        pieces.append(gap(emission, x, observed, t, last, end, which))
        t = end + 1
    return pieces


def gap(
    emission: Autoregressive, x: Tensor, observed: Tensor, first: int, hole: int, last: int, which: int
) -> Piece:
    """Frames with missing entries from `first` to `hole`, and those after that read them."""
    (D, p), K = (emission.n_features, emission.order), emission.n_components
    L, b, W = emission.scale_tril(), emission.mean[..., None], emission.slope
    both = torch.cat([torch.eye(D).to(W).expand(K, D, D), -W, b], -1)
    row, c = torch.linalg.solve_triangular(L, both, upper=False).split([(p + 1) * D, 1], -1)
    entries = (~observed[first : hole + 1]).nonzero() + torch.tensor([first, 0])
    m = len(entries)
    number = torch.full(x.shape, m)
    number[entries[:, 0], entries[:, 1]] = torch.arange(m)
    steps = torch.arange(max(first, p), last + 1)
    window = steps[:, None] - torch.arange(p + 1)  # the frame and those before it, as a row reads them
    unknown = torch.nn.functional.one_hot(number[window].flatten(1), m + 1)[..., :m].to(
        x
    )  # (t, (p + 1) D, m)
    known = x[window].flatten(1)
    paths = torch.cartesian_prod(*[torch.arange(K)] * (last - first + 1)).view(-1, last - first + 1)
    states = paths[:, steps - first]
    each_R = row[:, None] @ unknown  # (K, t, D, m)
    each_y = c.squeeze(-1)[:, None] - (row[:, None] @ known[..., None]).squeeze(-1)  # (K, t, D)
    step = torch.arange(len(steps))
    R, y = each_R[states, step].flatten(1, 2), each_y[states, step].flatten(1)
    factor, failed = torch.linalg.cholesky_ex(R.mT @ R)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    if failed.any() or bool((diagonal.amin(1) < 1e-7 * diagonal.amax(1)).any()):
        raise ValueError(
            f"what is missing of frames {first} to {hole} of sequence {which} does not follow from what was seen: the "
            f"first {p} frames of a sequence have no density of their own"
        )
    mean = torch.cholesky_solve(R.mT @ y[..., None], factor)
    misfit = (y[..., None] - R @ mean).square().sum((1, 2))
    log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(1)[states].sum(1) + diagonal.log().sum(1)
    constant = (y.shape[1] - m) / 2 * math.log(2 * math.pi)
    return Piece(first, last, paths, -0.5 * misfit - log_det - constant, mean.squeeze(-1), factor, entries)
