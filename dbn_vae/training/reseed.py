"""States that died, begun again from the frames that the model explains worst.

    share_k = mean_t gamma_t(k)         a state is dead where its share is under threshold / K
    explained_t = Σ_k gamma_t(k) l_t(k)   log p(x_t | s_t) of a VAE-HMM, log p(z_t | z_{t-1}, s_t) of a switching DMM

A dead state has no gradient that could revive it: nothing is its own.  So it is begun again, in the way of its model,
from the tenth of the frames with the least `explained`, and is given moves that lead to it.  Where the bound does not
rise by that, all is put back as it was: there may be nothing left for another state to explain.
"""

import copy
from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.distributions import Conditional, log_normal
from dbn_vae.inference.durations import Stays
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.hmm_prior import HMMPrior
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.gated import Gated
from dbn_vae.transitions.stationary import Stationary

ENOUGH = 2**10  # frames that tell which states are alive
WORST = 0.1  # share of the frames that a state is begun again from


class Frames(NamedTuple):
    """What the model says of N frames."""

    gamma: Tensor  # (N, K)
    explained: Tensor  # (N,) nats
    allowed: Tensor  # (N, K) False where a label forbids the state
    z: Tensor  # (N, Z) latents
    before: Tensor  # (N, Z) those of the frame before
    first: Tensor  # (N,) True for the first frame of a sequence, which has none before
    weights: Tensor  # (N,)

    @property
    def shares(self) -> Tensor:
        return self.weights @ self.gamma / self.weights.sum()


def evenly(data: Sequences, n_frames: int) -> Sequences:
    """Sequences from all over the data, about n_frames in all."""
    n = max(1, len(data) * n_frames // data.n_frames)
    return data if n >= len(data) else data.subset(torch.linspace(0, len(data) - 1, n).long())


@torch.no_grad()
def shares(model: StateModel, data: Sequences) -> Tensor:
    """How much of the frames every state has, by the weights of their sequences: (K,)."""
    total = torch.stack([b.weights @ model.smooth(b).gamma.sum(1) for b in data.batches()]).sum(0)
    return total / total.sum()


@torch.no_grad()
def explain(model: StateModel, data: Sequences) -> Frames:
    """Every real frame of the data, one batch after the other."""
    assert isinstance(model, LatentModel)
    seen = []
    for batch in data.batches():
        chain, real = model.chain(batch), batch.mask
        log_l = torch.as_tensor(chain.chain.log_emission if isinstance(chain, Stays) else chain.log_emission)
        gamma = model.verbs.smooth(chain).gamma
        z = model.latents(batch)
        weights = batch.weights[:, None].expand(real.shape)
        seen.append(
            Frames(
                gamma[real],
                torch.where(gamma > 0, gamma * log_l, 0.0).sum(-1)[real],
                (log_l > -torch.inf)[real],
                z[real],
                torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], 1)[real],
                (torch.arange(real.shape[1], device=real.device) == 0).expand(real.shape)[real],
                weights[real],
            )
        )
    return Frames(*(torch.cat(part) for part in zip(*seen, strict=True)))


@torch.no_grad()
def reseed(model: StateModel, data: Sequences, threshold: float, generator: torch.Generator) -> int:
    """Begin dead states again, one after the other, until one is of no use; returns how many were of use."""
    data, K, revived = evenly(data, ENOUGH), model.n_components, 0
    if (shares(model, data) >= threshold / K).all():  # as nearly always: frames need no explaining
        return 0
    frames = explain(model, data)
    for state in (frames.shares < threshold / K).nonzero().flatten().tolist():
        alive = (frames.shares >= threshold / K).nonzero().flatten().tolist()
        saved = {k: v.clone() for k, v in model.state_dict().items()}
        before = bound(model, data)
        if not seed(model, state, alive, frames, generator):
            continue
        admit(model, state, alive, threshold / K)
        if not bound(model, data) > before:
            model.load_state_dict(saved)
            break
        frames, revived = explain(model, data), revived + 1
    return revived


def bound(model: StateModel, data: Sequences) -> float:
    """Of all sequences together, by their weights, always with the same noise."""
    fixed = torch.Generator().manual_seed(0)
    return sum(float(b.weights @ model.objective(b, generator=fixed)) for b in data.batches())


def worst(frames: Frames, state: int, least: int) -> Tensor:
    """The frames that are explained worst, of those that may be in a state; none where fewer than `least` may."""
    may = frames.allowed[:, state].nonzero().flatten()
    n = max(int(WORST * len(may)), least)
    return may[frames.explained[may].argsort()[:n]] if len(may) >= least else may[:0]


@singledispatch
def seed(model: StateModel, state: int, alive: list[int], frames: Frames, generator: torch.Generator) -> bool:
    """Begin one state again; False where no frame is left to it.  TypeError for a model that has no way to."""
    raise TypeError(f"states of a {type(model).__name__} cannot be begun again: set reseed=0")


@seed.register
def _(model: HMMPrior, state: int, alive: list[int], frames: Frames, generator: torch.Generator) -> bool:
    """Of one of the worst frames and all that lie nearer to it than to any living mean: their mean and spread."""
    group = worst(frames, state, 1)
    if len(group) == 0:
        return False
    chosen = group[int(torch.randint(len(group), (1,), generator=generator))]
    centres = torch.cat([frames.z[chosen][None], model.mean[alive]])
    # differences, not products: rounding must not put a frame nearer to another centre than to itself
    distance = torch.cdist(frames.z, centres, compute_mode="donot_use_mm_for_euclid_dist")
    own = frames.z[distance.argmin(1) == 0]
    model.mean[state] = own.mean(0)
    if model.diagonal:
        typical = model.log_scale[alive].mean(0).exp()
        model.log_scale[state] = torch.maximum(own.std(0, correction=0), typical / 10).log()
    elif len(model.factor) > 1:
        model.factor[state] = model.factor[alive].mean(0)
    if model.offset is not None:
        model.offset[state] = model.offset[alive].mean(0)
    return True


@seed.register
def _(model: SwitchingDMM, state: int, alive: list[int], frames: Frames, generator: torch.Generator) -> bool:
    """The move of the state used most, fitted to the worst moves."""
    group = worst(frames._replace(allowed=frames.allowed & ~frames.first[:, None]), state, 10)
    if len(group) == 0:
        return False
    most = alive[int(frames.shares[alive].argmax())]
    move = model.moves[state]
    move.load_state_dict(model.moves[most].state_dict())
    assert isinstance(move, Conditional)
    fit_move(move, frames.before[group], frames.z[group])
    model.initial_mean[state] = model.initial_mean[most]
    model.initial_log_scale[state] = model.initial_log_scale[most]
    return True


def fit_move(move: Conditional, before: Tensor, z: Tensor) -> None:
    """Raise the mean of log p(z_t | z_{t-1}) over pairs (n, Z) by some steps of L-BFGS.

    A variance that hardly varies may push a gated move's proposal under the ReLU that the variance reads it through,
    whence no gradient returns: the rest is then fitted with the proposal as it was.
    """
    begin, first = copy.deepcopy(move.state_dict()), heard(move, before)
    rise(list(move.parameters()), move, before, z)
    if isinstance(move, Gated) and bool((first & ~heard(move, before)).any()):
        move.load_state_dict(begin)
        held = set(move.proposal.parameters())
        rise([p for p in move.parameters() if p not in held], move, before, z)


def heard(move: Conditional, before: Tensor) -> Tensor:
    """Which entries of a gated move's proposal are ever above 0: (Z,)."""
    return (move.proposal(before) > 0).any(0) if isinstance(move, Gated) else before.new_zeros(0)


def rise(parameters: Sequence[Tensor], move: Conditional, before: Tensor, z: Tensor) -> None:
    """The same by these parameters of the move alone."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        loss = -log_normal(z, move(before)).mean()
        for p, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = slope
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)
    for p in parameters:
        p.grad = None


def admit(model: StateModel, state: int, alive: list[int], part: float) -> None:
    """Let a stationary chain into a state: states that live, and the start, give it this part of their moves.

    It lasts as those do on average.
    """
    transition = model.transition
    assert isinstance(transition, Transition)
    if not isinstance(transition, Stationary):
        return
    pi, A = transition.log_initial().exp(), transition.log_transition().exp()
    stay = A[alive, alive].mean()
    A[alive], pi = A[alive] * (1 - part), pi * (1 - part)
    A[alive, state] += part
    pi[state] += part
    A[state] = (1 - stay) / (model.n_components - 1)
    A[state, state] = stay
    transition.initial_logits.copy_(pi.log())
    transition.transition_logits.copy_(A.log())
