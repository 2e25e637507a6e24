"""The definition: one scan over time, read in two semirings.

    a_1 = log π + l_1,    a_t(k) = l_t(k) + ⊕_j ( a_{t-1}(j) + log A_jk ),    log Z = ⊕_k a_T(k)

With ⊕ = log-sum-exp that is the forward algorithm, with ⊕ = max it is Viterbi.  Every ⊕ takes the maximum of
its own target, so states that lie hundreds of nats apart lose nothing.  Messages are normalised at each
step (a_t ← a_t − c_t, c_t = ⊕_k a_t(k)) so that long sequences keep their digits; log Z = Σ_t c_t.

Plain torch, differentiable to any order, and the oracle that every faster backend must agree with.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dbn_vae.inference.chain import Chain, Filtered, Path, Posterior

Reduce = Callable[[Tensor, int], Tensor]


def logsumexp(x: Tensor, dim: int) -> Tensor:
    """log Σ exp x, with value −inf and gradient 0 (torch's is NaN) where every term is −inf."""
    shift = x.detach().amax(dim, keepdim=True)
    shift = torch.where(shift == -math.inf, 0.0, shift)
    total = (x - shift).exp().sum(dim)
    possible = total != 0  # a NaN stays a NaN
    log_total = torch.where(possible, total, 1.0).log() + shift.squeeze(dim)
    return torch.where(possible, log_total, -math.inf)


def maximum(x: Tensor, dim: int) -> Tensor:
    return x.amax(dim)


def finite(c: Tensor) -> Tensor:
    """The normaliser to subtract: −inf stays in the message instead of turning into NaN."""
    return torch.where(c == -math.inf, 0.0, c)


def readable(chain: Chain) -> Chain:
    """The canonical chain with 0 on padding, whatever stood there: a NaN would poison gradients."""
    chain = chain.canonical()
    mask = chain.mask()
    A = chain.log_transition
    return chain._replace(
        log_transition=torch.where(mask[:, 1:, None, None], A, 0.0) if chain.varies_in_time else A,
        log_emission=torch.where(mask[..., None], chain.log_emission, 0.0),
    )


def transition(chain: Chain, t: int) -> Tensor:
    """log A between steps t−1 and t, broadcastable to (B, K, K)."""
    return chain.log_transition[:, t - 1] if chain.varies_in_time else chain.log_transition


def forward(chain: Chain, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Normalised forward messages (B, T, K) and their log-normalisers c (B, T), 0 on padding."""
    mask = chain.mask()
    message = torch.zeros_like(chain.log_emission[:, 0])
    messages, normalizers = [], []
    for t in range(chain.log_emission.shape[1]):
        if t == 0:
            predicted = chain.log_initial
        else:
            predicted = reduce(message[:, :, None] + transition(chain, t), 1)
        joint = predicted + chain.log_emission[:, t]
        c = reduce(joint, -1)
        inside = mask[:, t]
        message = torch.where(inside[:, None], joint - finite(c)[:, None], message)
        messages.append(message)
        normalizers.append(torch.where(inside, c, 0.0))
    return torch.stack(messages, 1), torch.stack(normalizers, 1)


def total(normalizers: Tensor) -> Tensor:
    """log Z = Σ_t c_t, added in float64 so that long float32 sequences keep their digits."""
    return normalizers.sum(1, dtype=torch.float64).to(normalizers.dtype)


def log_partition(chain: Chain) -> Tensor:
    """log Z: (B,), differentiable by torch itself."""
    _, c = forward(readable(chain), logsumexp)
    return total(c)


def filter(chain: Chain) -> Filtered:
    chain = readable(chain)
    message, c = forward(chain, logsumexp)
    return Filtered(total(c), message.exp() * chain.mask()[..., None], c)


def smooth(chain: Chain) -> Posterior:
    chain = readable(chain)
    mask = chain.mask()
    T = chain.log_emission.shape[1]
    message, c = forward(chain, logsumexp)
    backward = torch.zeros_like(message[:, 0])  # b_t(i) = log p(x_{t+1:T} | s_t = i) − Σ_{u>t} c_u
    gammas, pairs = [], []
    for t in reversed(range(T)):
        joint = message[:, t] + backward
        evidence = logsumexp(joint, -1)  # 0 but for rounding, and −inf for an impossible sequence
        gammas.append((joint - finite(evidence)[:, None]).exp() * mask[:, t, None])
        if t == 0:
            break
        future = chain.log_emission[:, t] + backward - finite(c[:, t])[:, None]
        future = transition(chain, t) + future[:, None, :]  # (B, from, to)
        pair = message[:, t - 1, :, None] + future - finite(evidence)[:, None, None]
        # masked before exp: on padding a large potential would be ∞ · 0
        pairs.append(torch.where(mask[:, t, None, None], pair, -math.inf).exp())
        backward = torch.where(mask[:, t, None], logsumexp(future, -1), backward)
    gamma = torch.stack(gammas[::-1], 1)
    if chain.varies_in_time:
        xi = torch.stack(pairs[::-1], 1) if pairs else torch.zeros_like(chain.log_transition)
    else:
        B, _, K = chain.log_emission.shape
        xi = torch.stack(pairs).sum(0) if pairs else message.new_zeros(B, K, K)
    return Posterior(total(c), gamma, xi)


def viterbi(chain: Chain) -> Path:
    """The most probable path; of equally probable ones, the smaller state index from the end."""
    chain = readable(chain)
    mask = chain.mask()
    message, c = forward(chain, maximum)
    state = message[:, -1].argmax(-1)  # padding copied the last real message
    states = [state]
    for t in reversed(range(1, message.shape[1])):
        arrive = transition(chain, t).expand(len(state), -1, -1)
        column = arrive.gather(2, state[:, None, None].expand(-1, arrive.shape[1], 1)).squeeze(2)
        best = (message[:, t - 1] + column).argmax(-1)
        state = torch.where(mask[:, t], best, state)
        states.append(state)
    return Path(torch.where(mask, torch.stack(states[::-1], 1), -1), total(c))


def k_best(chain: Chain, n: int) -> Path:
    """The n most probable paths, best first; where fewer are possible, states −1 and score −inf.

    Viterbi's recursion over the n best scores of every state instead of the best one (Seshadri and Sundberg,
    1994, the parallel list Viterbi algorithm): the n best paths into a state go through the n best paths into
    some state before it.  Of equally probable paths the smaller state index comes first, from the end.
    """
    chain = readable(chain)
    mask = chain.mask()
    B, T, K = chain.log_emission.shape
    # message[b, k, r]: the r-th best score of a path into state k; an origin is j n + r, of the step before
    message = torch.full((B, K, n), -math.inf, dtype=chain.log_emission.dtype, device=mask.device)
    normalizer, origins = message.new_zeros(B, dtype=torch.float64), []
    for t in range(T):
        inside, emission = mask[:, t], chain.log_emission[:, t, :, None]
        if t == 0:
            joint = message.clone()
            joint[..., 0] = chain.log_initial + chain.log_emission[:, 0]
        else:
            ways = message[:, :, None, :] + transition(chain, t)[..., None]  # (B, from, to, n)
            predicted, origin = best(ways.transpose(1, 2).flatten(2), n)
            joint = predicted + emission
            origins.append(origin)
        c = finite(joint.flatten(1).amax(1))
        message = torch.where(inside[:, None, None], joint - c[:, None, None], message)
        normalizer += torch.where(inside, c, 0.0)
    score, place = best(message.flatten(1), n)  # (B, n)
    states = [place // n]
    for t in reversed(range(1, T)):
        place = torch.where(mask[:, t, None], origins[t - 1].flatten(1).gather(1, place), place)
        states.append(place // n)
    possible = (score > -math.inf)[..., None] & mask[:, None]
    path = torch.where(possible, torch.stack(states[::-1], -1), -1)
    return Path(path.transpose(0, 1), (normalizer[:, None] + score).to(score.dtype).T)


def best(scores: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest of the last axis and where they stand, the first of equals first."""
    order = scores.sort(dim=-1, descending=True, stable=True)
    return order.values[..., :n], order.indices[..., :n]


def sample(chain: Chain, uniform: Tensor) -> Tensor:
    """Paths from p(s_{1:T} | x_{1:T}) by filtering forward and sampling backward.

    uniform: (S, B, T) float64 numbers in [0, 1), one a step, turned into states by the inverse distribution
    function, so that every backend gives the same paths.  Returns (S, B, T) int64, −1 on padding.
    """
    chain = readable(chain)
    mask = chain.mask()
    message, _ = forward(chain, logsumexp)
    logits = message[:, -1].expand(uniform.shape[0], -1, -1)
    states: list[Tensor] = []
    for t in reversed(range(message.shape[1])):
        drawn = invert(logits, uniform[..., t])
        states.append(drawn)
        if t > 0:
            arrive = transition(chain, t).expand(len(mask), -1, -1).transpose(1, 2)  # (B, to, from)
            chosen = arrive[torch.arange(len(mask), device=drawn.device), drawn]  # (S, B, from)
            onward = message[:, t - 1] + chosen
            logits = torch.where(mask[:, t, None], onward, message[:, t - 1].expand_as(onward))
    return torch.where(mask, torch.stack(states[::-1], -1), -1)


def invert(logits: Tensor, uniform: Tensor) -> Tensor:
    """The first state whose cumulated probability exceeds the uniform number; never one of probability 0."""
    # in float64: a float32 uniform may round to 1, beyond the last state
    weight = (logits - finite(logsumexp(logits, -1))[..., None]).double().exp()
    cumulated = weight.cumsum(-1)
    above = cumulated > (uniform * cumulated[..., -1])[..., None]
    return above.to(torch.int8).argmax(-1)
