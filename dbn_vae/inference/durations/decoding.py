"""What else a chain of stays can be asked: the questions of inference.decoding, by the recursion over the age.

No state moves to itself, so a path of states is a path of stays: the entropy of one is that of the other, and so are
the best ones.  In the notation of the recursion, and with r_t(k, a) = log p(x_{t+1:T} | state k of age a) + log S_k(a),

    r_T(k, a) = log S_k(a),
    r_{t-1}(k, a) = ( l_t(k) + r_t(k, a + 1) ) ⊕ ( log p_k(a) + ⊕_j ( log A_kj + l_t(j) + r_t(j, 1) ) ).

The same model is also a plain chain over K · D pairs (state, age), state k having those from k · D to k · D + D − 1:

    (k, a) → (k, a + 1) with S_k(a + 1) / S_k(a),    (k, a) → (j, 1) with p_k(a) / S_k(a) · A_kj.

`unrolled` writes it out, for what steps forward from the end of a sequence and for lists of paths.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from dbn_vae.inference import decoding, exact
from dbn_vae.inference.chain import Chain, Path
from dbn_vae.inference.decoding import BLOCK, normalized, scaled
from dbn_vae.inference.durations.recursion import (
    Scan,
    Stays,
    ages,
    path_score,
    prepared,
    probability,
    scan,
    smooth,
    viterbi,
)
from dbn_vae.inference.reference import finite, logsumexp, transition


def unrolled(stays: Stays) -> Chain[Tensor]:
    """The chain over (state, age): log_initial (..., K · D), log_transition (..., K · D, K · D) and so on.

    Its log Z is that of the stays under any tables whose log_survival is finite wherever a stay can be as long.
    """
    chain, duration, survival = stays.chain, stays.log_duration, stays.log_survival
    D = duration.shape[1]
    lived = survival > -math.inf
    hazard = torch.where(lived, duration - finite(survival), -math.inf)
    onward = torch.where(lived[:, 1:], survival[:, 1:] - finite(survival[:, :-1]), -math.inf)
    first = torch.arange(D, device=duration.device) == 0

    def begun(table: Tensor) -> Tensor:
        """Stays that begin in state k, whose log-weights are (..., K): (..., K · D)."""
        return torch.where(first, (table + survival[:, 0])[..., None], -math.inf).flatten(-2)

    moves = begun(hazard[:, :, None] + chain.log_transition[..., :, None, :]).flatten(-3, -2)
    older = pad(onward, (0, 1), value=-math.inf).flatten()[:-1]
    return Chain(
        begun(chain.log_initial),
        torch.where((older > -math.inf).diag_embed(1), finite(older).diag_embed(1), moves),
        chain.log_emission.repeat_interleave(D, -1),
        chain.lengths,
    )


@torch.no_grad()
def belief(stays: Stays) -> Tensor:
    """p(state, age of its stay at T | x_{1:T}), all that the frames to come depend on: (B, K · D)."""
    forward = scan(stays, logsumexp)
    chain, _, survival = prepared(stays)
    last = chain.mask().sum(1) - 1
    age = forward.state.new_empty(len(last), *survival.shape)
    for t in last.unique().tolist():
        age[last == t] = ages(forward, t, survival.shape[1])[last == t]
    joint = (age + survival).flatten(1)
    return (joint - finite(logsumexp(joint, -1))[:, None]).exp()


def before(stays: Stays, forward: Scan, t: int) -> Tensor:
    """a_t(k, a) − l_t(k), what is known of state and age before frame t is seen: (B, K, D)."""
    begin, D = forward.begin[:, t, :, None], stays.log_duration.shape[1]
    if t == 0:
        return pad(begin, (0, D - 1), value=-math.inf)
    return torch.cat([begin, ages(forward, t - 1, D)[..., :-1]], -1)


def earlier(A: Tensor, log_emission: Tensor, duration: Tensor, backward: Tensor) -> Tensor:
    """r_{t-1} from r_t: A (..., K, K), l_t (..., K), r_t (..., K, D)."""
    into = log_emission[..., None] + backward
    leave = logsumexp(A + into[..., None, :, 0], -1)[..., None] + duration
    return torch.logaddexp(pad(into[..., 1:], (0, 1), value=-math.inf), leave)


@torch.no_grad()
def predicted(stays: Stays, h: int = 1) -> Tensor:
    """p(s_t | x_{1:t-h}), given nothing where t ≤ h: (B, T, K), 0 on padding and where a sequence is impossible."""
    decoding.require_ahead(h)
    forward = scan(stays, logsumexp)
    chain, duration, survival = prepared(stays)
    B, T, K = chain.log_emission.shape
    size = max(1, BLOCK // (B * duration.numel()))
    blocks = []
    for first in range(0, T, size):
        start, end = max(0, first - h + 1), min(first + size, T)
        age = torch.stack([before(stays, forward, t) for t in range(start, end)], 1)  # (B, t, K, D)
        A = chain.log_transition
        A = A[:, start : end - 1] if chain.varies_in_time else A.expand(B, K, K)[:, None]
        for _ in range(min(h, end - start) - 1):
            # every row moves on by a frame nobody saw; that of the first frame stays what it was
            ended = logsumexp(age[:, :-1] + duration, -1)
            begun = logsumexp(ended[..., None] + A, -2)
            age = torch.cat([age[:, :1], torch.cat([begun[..., None], age[:, :-1, :, :-1]], -1)], 1)
        blocks.append(logsumexp(age[:, first - start :] + survival, -1))
    return normalized(torch.cat(blocks, 1), chain)


@torch.no_grad()
def fixed_lag(stays: Stays, lag: int) -> Tensor:
    """p(s_t | x_{1:min(t + lag, T)}): (B, T, K), 0 on padding and where a sequence is impossible.

    O(T · lag · K (K + D)).  Raises ValueError for a negative lag.
    """
    decoding.require_lag(lag)
    forward = scan(stays, logsumexp)
    chain, duration, survival = prepared(stays)
    B, T, K = chain.log_emission.shape
    D, mask = duration.shape[1], chain.mask()
    size = max(1, BLOCK // (B * K * D))
    blocks = []
    for first in range(0, T, size):
        t = torch.arange(first, min(first + size, T), device=mask.device)
        backward = survival.expand(B, len(t), K, D)
        for offset in reversed(range(1, min(lag, T - 1 - first) + 1)):
            step = (t + offset).clamp_max(T - 1)
            A = chain.log_transition
            A = A[:, step - 1] if chain.varies_in_time else A.expand(B, K, K)[:, None]
            inside = mask[:, step] & (t + offset < T)
            moved = earlier(A, forward.emission[:, step], duration, backward)
            backward = torch.where(inside[..., None, None], moved, backward)
        age = torch.stack([ages(forward, i, D) for i in t.tolist()], 1)
        blocks.append(logsumexp(age + backward, -1))
    return normalized(torch.cat(blocks, 1), chain)


@torch.no_grad()
def leave_one_out(stays: Stays) -> Tensor:
    """p(s_t | all frames but t): (B, T, K), 0 on padding and where the other frames are impossible."""
    forward = scan(stays, logsumexp)
    chain, duration, survival = prepared(stays)
    mask = chain.mask()
    backward = survival.expand(len(mask), *survival.shape)
    without = []
    for t in reversed(range(mask.shape[1])):
        without.append(logsumexp(before(stays, forward, t) + backward, -1))
        if t:
            moved = earlier(transition(chain, t), forward.emission[:, t], duration, backward)
            backward = torch.where(mask[:, t, None, None], moved, backward)
    return normalized(torch.stack(without[::-1], 1), chain)


@torch.no_grad()
def two_slice(stays: Stays) -> tuple[Tensor, Tensor]:
    """log Z (B,), and p(s_{t-1} = i, s_t = j | x_{1:T}) (B, T-1, K, K), stays on the diagonal, 0 on padding."""
    forward = scan(stays, logsumexp)
    chain, duration, survival = prepared(stays)
    mask = chain.mask()
    B, T, K = chain.log_emission.shape
    log_z = forward.c.sum(1)
    possible = (log_z > -math.inf)[:, None, None]
    backward = survival.expand(B, *survival.shape)
    pairs = chain.log_emission.new_zeros(B, T - 1, K, K)
    for t in reversed(range(1, T)):
        into = forward.emission[:, t, :, None] + backward
        moved = forward.end[:, t - 1, :, None] + transition(chain, t) + into[:, None, :, 0]
        longer = pad(into[..., 1:], (0, 1), value=-math.inf)
        stayed = logsumexp(ages(forward, t - 1, survival.shape[1]) + longer, -1)
        inside = mask[:, t, None, None]
        pairs[:, t - 1] = probability(moved, inside & possible)
        pairs[:, t - 1] += probability(stayed[..., None], inside & possible).squeeze(-1).diag_embed()
        backward = torch.where(
            inside, earlier(transition(chain, t), forward.emission[:, t], duration, backward), backward
        )
    return log_z, pairs


@torch.no_grad()
def entropy(stays: Stays) -> Tensor:
    """H of p(s_{1:T} | x_{1:T}), see inference.entropy: (B,), in nats; 0 where no path is possible."""
    initial, transition, emission, lengths = stays.chain
    chain = Chain(initial.double(), transition.double(), emission.double(), lengths)
    # in float64: H is a small difference of large numbers
    wide = Stays(chain, stays.log_duration.double(), stays.log_survival.double())
    posterior = smooth(wide)
    (pi, A, emission, _), duration, survival = prepared(wide)
    moves = (
        posterior.xi
        if A.dim() < 4
        else two_slice(wide)[1] * ~torch.eye(len(duration), dtype=torch.bool, device=A.device)
    )
    energy = sum(
        exact.expected(p, table).flatten(1).sum(1)
        for p, table in (
            (posterior.gamma[:, 0], pi),
            (moves, A),
            (posterior.gamma, emission),
            (posterior.ended, duration),
            (posterior.censored, survival),
        )
    )
    log_z = posterior.log_z
    return torch.where(log_z > -math.inf, log_z - energy, 0.0).to(initial.dtype)


def hybrid(stays: Stays, alpha: float) -> Path:
    """The path that maximises α log p(s | x) + (1 − α) Σ_t log p(s_t | x), and its score; see inference.hybrid."""
    decoding.require_weight(alpha)
    gamma = smooth(stays).gamma
    if alpha == 0:  # nothing is forbidden, not even what no stay can be
        chosen = torch.where(stays.mask(), gamma.argmax(-1), -1)
        return Path(chosen, path_score(stays, chosen))
    chain = stays.chain
    weighed = chain._replace(
        log_initial=scaled(alpha, chain.log_initial),
        log_transition=scaled(alpha, chain.log_transition),
        log_emission=scaled(alpha, chain.log_emission) + scaled(1 - alpha, gamma.log()),
    )
    chosen = viterbi(
        Stays(weighed, scaled(alpha, stays.log_duration), scaled(alpha, stays.log_survival))
    ).states
    return Path(chosen, path_score(stays, chosen))


def k_best(stays: Stays, n: int) -> Path:
    """The n most probable paths (n, B, T), best first, and their scores (n, B); see inference.k_best.

    In the unrolled chain, O(T n K² D²): D = log_duration.shape[1] is best no longer than it need be.
    """
    best = exact.k_best(unrolled(stays), n)
    return best._replace(states=best.states.div(stays.log_duration.shape[1], rounding_mode="floor"))
