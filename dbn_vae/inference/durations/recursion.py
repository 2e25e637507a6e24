"""Chains whose states last as long as a distribution says: exact inference in hidden semi-Markov models.

A path is a sequence of stays (k_n, d_n), and only the first d_n of the last one need to be seen:

    p(stays, evidence) = π(k_1) Π_n A(k_n, k_{n+1}) Π_{n<N} p_{k_n}(d_n) · S_{k_N}(d_N) · Π_t exp l_t(s_t)

with S_k(d) = P(a stay in k lasts at least d), since the sequence may end before its last stay does.  The first stay
begins with the sequence.  A must not move from a state to itself: two stays would look like one.  The recursion is over
the age a of the present stay,

    a_t(k, 1) = b_t(k) + l_t(k),    a_t(k, a) = a_{t-1}(k, a − 1) + l_t(k),    e_t(k) = ⊕_a ( a_t(k, a) + log p_k(a) ),
    b_1 = log π,    b_{t+1}(k) = ⊕_j ( e_t(j) + log A_jk ),    log Z = ⊕_{k,a} ( a_T(k, a) + log S_k(a) ),

in O(T (K² + K D)), and with ⊕ = max it is Viterbi.  No difference of long sums is taken: −inf is an exact zero.
The derivatives of log Z are the posterior, and torch has them to any order: log Z stands wherever that of a chain does.

Source: Yu (2010), Hidden semi-Markov models, Artificial Intelligence 174; Guédon (2003) for the censored last stay.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dbn_vae.inference import reference
from dbn_vae.inference.backends import available, name, using
from dbn_vae.inference.chain import Chain, Filtered, Path
from dbn_vae.inference.gradient import transforming
from dbn_vae.inference.reference import Reduce, finite, logsumexp, maximum, readable, total, transition

if "cpu" in available:
    from dbn_vae.inference import cpu


class Stays(NamedTuple):
    """Log-potentials of B sequences of stays of at most D steps in K states."""

    chain: Chain[Tensor]  # log_transition is that from stay to stay
    log_duration: Tensor  # (K, D) log P(a stay lasts d), d = 1..D
    log_survival: Tensor  # (K, D) log P(a stay lasts at least d)

    @property
    def fused(self) -> bool:
        return False

    def mask(self) -> Tensor:
        return self.chain.mask()


class StaysPosterior(NamedTuple):
    """The gradient of log_z (Fisher's identity); 0 where no path is possible."""

    log_z: Tensor  # (B,)
    gamma: Tensor  # (B, T, K) p(s_t | x_{1:T}) = ∂ log_z / ∂ log_emission; 0 on padding
    xi: Tensor  # (B, K, K) expected moves from stay to stay = ∂ log_z / ∂ log_transition
    ended: Tensor  # (B, K, D) expected stays of d steps that were seen to end = ∂ log_z / ∂ log_duration
    censored: Tensor  # (B, K, D) the last stay, seen for d steps = ∂ log_z / ∂ log_survival

    @property
    def pairs(self) -> Tensor:
        """Σ_t p(s_{t-1} = i, s_t = j | x_{1:T}): (B, K, K), a stay of d steps counting d − 1 times where i = j."""
        longer = torch.arange(self.ended.shape[-1]).to(self.ended)
        return self.xi + ((self.ended + self.censored) @ longer).diag_embed()


class Scan(NamedTuple):
    """One pass forward.  Messages at t are relative to Σ_{u ≤ t} c_u, those of b to Σ_{u < t} c_u."""

    begin: Tensor  # (B, T, K) b_t
    end: Tensor  # (B, T, K) e_t
    state: Tensor  # (B, T, K) ⊕_a ( a_t(k, a) + log S_k(a) )
    c: Tensor  # (B, T) what step t adds to log Z; 0 on padding
    emission: Tensor  # (B, T, K) l_t − c_t


def scan(stays: Stays, reduce: Reduce) -> Scan:
    chain, duration, survival = prepared(stays)
    if compiled(chain, duration, survival):
        begin, end, state, c = cpu.scan_stays(chain, duration, survival, reduce is maximum)
        return Scan(begin, end, state, c, chain.log_emission - finite(c)[..., None])
    B, T, K = chain.log_emission.shape
    mask = chain.mask()
    age = chain.log_emission.new_full((B, K, duration.shape[-1]), -math.inf)
    begins: list[Tensor] = []
    ends: list[Tensor] = []
    states: list[Tensor] = []
    normalizers: list[Tensor] = []
    for t in range(T):
        begin = reduce(ends[-1][:, :, None] + transition(chain, t), 1) if t else chain.log_initial
        age = torch.cat([begin[..., None], age[..., :-1]], -1) + chain.log_emission[:, t, :, None]
        state = reduce(age + survival, -1)
        c = torch.where(mask[:, t], reduce(state, -1), 0.0)
        age = age - finite(c)[:, None, None]
        begins.append(begin)
        ends.append(reduce(age + duration, -1))
        states.append(state - finite(c)[:, None])
        normalizers.append(c)
    c = torch.stack(normalizers, 1)
    relative = chain.log_emission - finite(c)[..., None]
    return Scan(torch.stack(begins, 1), torch.stack(ends, 1), torch.stack(states, 1), c, relative)


def compiled(chain: Chain[Tensor], *tables: Tensor) -> bool:
    """Whether the kernel may do it: on the CPU, where nobody follows the operations."""
    if name(chain) != "cpu" or torch.compiler.is_compiling() or transforming():
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in (*chain[:3], *tables)))


def prepared(stays: Stays) -> tuple[Chain[Tensor], Tensor, Tensor]:
    """The chain in canonical form, and the two tables in its type.  Raises ValueError for shapes that do not fit."""
    chain = readable(stays.chain)
    K = chain.log_emission.shape[-1]
    for what, table in (("log_duration", stays.log_duration), ("log_survival", stays.log_survival)):
        if table.dim() != 2 or len(table) != K or table.shape != stays.log_duration.shape:
            raise ValueError(
                f"{what} has shape {tuple(table.shape)}; with {K} states both tables are ({K}, D)"
            )
    dtype = chain.log_emission.dtype
    return chain, stays.log_duration.to(dtype), stays.log_survival.to(dtype)


def ages(forward: Scan, t: int, D: int) -> Tensor:
    """a_t(k, a) again, from where each age began: (B, K, D).  Keeping all of them would take D times the memory."""
    first = max(0, t - D + 1)
    grown = forward.emission[:, first : t + 1].flip(1).cumsum(1) + forward.begin[:, first : t + 1].flip(1)
    # b is relative to one normaliser less: emission carries the rest
    return torch.nn.functional.pad(grown, (0, 0, 0, D - grown.shape[1]), value=-math.inf).transpose(1, 2)


def log_partition(stays: Stays) -> Tensor:
    """log Z of every sequence: (B,), in nats, differentiable to any order in every potential."""
    chain, duration, survival = prepared(stays)
    with torch.no_grad():
        direct = compiled(chain, duration, survival)
    if direct and not chain.varies_in_time:
        return _LogPartition.apply(*chain, duration, survival)
    return total(scan(stays, logsumexp).c)


class _LogPartition(torch.autograd.Function):
    """log Z from the kernel; its gradient is the posterior, and second derivatives are those of the recursion."""

    @staticmethod
    def forward(ctx: Any, *potentials: Tensor) -> Tensor:
        *chain, duration, survival = potentials
        ctx.save_for_backward(*potentials)
        return total(scan(Stays(Chain(*chain), duration, survival), logsumexp).c)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pi, A, emission, lengths, duration, survival = ctx.saved_tensors
        stays = Stays(Chain(pi, A, emission, lengths), duration, survival)
        if torch.is_grad_enabled():  # somebody asks for derivatives of this
            wanted = [x for x, due in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True) if due]
            with using("reference"):
                found = iter(torch.autograd.grad(log_partition(stays), wanted, grad, create_graph=True))
            return tuple(next(found) if due else None for due in ctx.needs_input_grad)
        posterior, weight = smooth(stays), grad[:, None, None]
        pairs = weight * posterior.xi
        return (
            grad[:, None] * posterior.gamma[:, 0],
            pairs.sum(0) if A.dim() == 2 else pairs,
            weight * posterior.gamma,
            None,
            (weight * posterior.ended).sum(0),
            (weight * posterior.censored).sum(0),
        )


@torch.no_grad()
def filter(stays: Stays) -> Filtered:
    """p(s_t | x_{1:t}) and log p(x_t | x_{1:t-1}); see Filtered."""
    forward = scan(stays, logsumexp)
    return Filtered(total(forward.c), probability(forward.state, stays.mask()[..., None]), forward.c)


@torch.no_grad()
def smooth(stays: Stays) -> StaysPosterior:
    """The posterior of states, moves and stays, by one pass forward and one backward over the ages."""
    forward = scan(stays, logsumexp)
    chain, duration, survival = prepared(stays)
    if compiled(chain, duration, survival):
        found = cpu.smooth_stays(chain, duration, survival, forward.begin, forward.end, forward.c)
        return StaysPosterior(total(forward.c), *found)
    mask = chain.mask()
    B, T, K = chain.log_emission.shape
    D = duration.shape[-1]
    last = mask.sum(1) - 1
    log_z = total(forward.c)
    possible = (log_z > -math.inf)[:, None, None]
    backward = survival.expand(B, K, D)  # log p(x_{t+1:T} | state, age at t) − Σ_{u > t} c_u
    gammas, xi = [], torch.zeros_like(chain.log_emission[:, 0, :, None].expand(B, K, K))
    ended = torch.zeros_like(backward)
    censored = torch.zeros_like(backward)
    for t in reversed(range(T)):
        age = ages(forward, t, D)
        ends_here, goes_on = (last == t)[:, None, None] & possible, (last > t)[:, None, None] & possible
        if t < T - 1:
            grown = forward.emission[:, t + 1, :, None] + backward
            move = transition(chain, t + 1) + grown[:, None, :, 0]  # (B, from, to)
            leave = logsumexp(move, -1)[..., None] + duration
            stay = torch.cat([grown[..., 1:], torch.full_like(grown[..., :1], -math.inf)], -1)
            backward = torch.where(goes_on, logsumexp(torch.stack([stay, leave]), 0), survival)
            ended += probability(age + leave, goes_on)
            xi += probability(forward.end[:, t, :, None] + move, goes_on)
        censored += probability(age + survival, ends_here)
        gammas.append(probability(logsumexp(age + backward, -1)[..., None], ends_here | goes_on).squeeze(-1))
    return StaysPosterior(log_z, torch.stack(gammas[::-1], 1), xi, ended, censored)


def probability(log_p: Tensor, where: Tensor) -> Tensor:
    """Masked before exp: elsewhere a large number may stand."""
    return torch.where(where, log_p, -math.inf).exp()


@torch.no_grad()
def viterbi(stays: Stays) -> Path:
    """The most probable path (B, T) and its joint log-probability (B,)."""
    forward = scan(stays, maximum)
    states = trace_back(stays, forward, maximum, lambda score, t, draw: score.argmax(-1), 1)
    return Path(states[0], total(forward.c))


@torch.no_grad()
def sample(stays: Stays, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n independent paths from p(s_{1:T} | x_{1:T}): (n, B, T) int64, −1 on padding."""
    B, T = stays.mask().shape
    device = stays.chain.log_initial.device
    source = device if generator is None else generator.device
    uniform = torch.rand(2, n, B, T, generator=generator, device=source, dtype=torch.float64).to(device)

    def pick(score: Tensor, t: int, draw: int) -> Tensor:
        return reference.invert(score, uniform[draw, :, :, t])

    return trace_back(stays, scan(stays, logsumexp), logsumexp, pick, n)


def trace_back(
    stays: Stays, forward: Scan, reduce: Reduce, pick: Callable[[Tensor, int, int], Tensor], n: int
) -> Tensor:
    """Paths (n, B, T) from the end.

    At the last step t of each stay pick(score, t, 0) is its state and pick(score, t, 1) its age, counted from 0.
    """
    chain, duration, survival = prepared(stays)
    mask = chain.mask()
    B, T, K = chain.log_emission.shape
    lane = torch.arange(B, device=mask.device)
    last = mask.sum(1) - 1
    state = torch.zeros(n, B, dtype=torch.int64, device=mask.device)
    left = torch.zeros_like(state)  # steps of the present stay still to be written
    path: list[Tensor] = []
    for t in reversed(range(T)):
        over = (left == 0) & mask[:, t]
        if over.any():
            closing = ages(forward, t, duration.shape[-1])
            closing = closing + torch.where((last == t)[:, None, None], survival, duration)
            score = reduce(closing, -1).expand(n, B, K)
            if t < T - 1:
                onward = transition(chain, t + 1).expand(B, K, K).transpose(1, 2)[lane, state]  # (n, B, from)
                score = score + torch.where((last == t)[:, None], 0.0, onward)
            state = torch.where(over, pick(score, t, 0), state)
            left = torch.where(over, pick(closing[lane, state], t, 1) + 1, left)
        path.append(state)
        left = torch.where(mask[:, t], left - 1, left)
    return torch.where(mask, torch.stack(path[::-1], -1), -1)


def path_score(stays: Stays, states: Tensor) -> Tensor:
    """log p(states, x) of given paths (B, T): (B,); entries on padding are ignored."""
    chain, duration, survival = prepared(stays)
    mask = chain.mask()
    B, T, K = chain.log_emission.shape
    D = duration.shape[-1]
    s = torch.where(mask, states, 0)
    step = torch.arange(T, device=s.device)
    begins = torch.cat([torch.ones_like(mask[:, :1]), s[:, 1:] != s[:, :-1]], 1)
    age = step - torch.where(begins, step, 0).cummax(1).values  # less one

    def lasting(table: Tensor) -> Tensor:
        return torch.where(age < D, table[s, age.clamp_max(D - 1)], -math.inf)

    emission = chain.log_emission.gather(2, s[..., None]).squeeze(2)
    score = torch.where(mask, emission, 0.0).sum(1) + chain.log_initial.gather(1, s[:, :1]).squeeze(1)
    score = score + lasting(survival).gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    if T > 1:
        A = chain.log_transition
        A = A if chain.varies_in_time else A.expand(B, K, K)[:, None].expand(B, T - 1, K, K)
        rows = A.gather(2, s[:, :-1, None, None].expand(-1, -1, 1, K)).squeeze(2)
        moves = rows.gather(2, s[:, 1:, None]).squeeze(2) + lasting(duration)[:, :-1]
        score = score + torch.where(mask[:, 1:] & begins[:, 1:], moves, 0.0).sum(1)
    return score
