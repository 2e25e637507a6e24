"""What else a chain can be asked: looking a little ahead, leaving one frame out, and paths between two extremes.

    predicted      p(s_t | x_{1:t-h})           before frame t is seen, h = 1, or earlier
    belief         p(s_T | x_{1:T})             all that the frames to come depend on
    fixed lag      p(s_t | x_{1:t+lag})         filter at lag 0, smoother once the lag reaches the end
    leave one out  p(s_t | x_{1:t-1}, x_{t+1:T})
    two slices     p(s_{t-1}, s_t | x_{1:T})    step by step, not summed
    hybrid         argmax_s α log p(s | x) + (1 − α) Σ_t log p(s_t | x)

Sources: Zucchini, MacDonald and Langrock (2016), Hidden Markov models for time series, ch. 5 and 6; Lember and
Koloydenko (2014), Bridging Viterbi and posterior decoding, JMLR 15.
"""

import torch
from torch import Tensor

from dbn_vae.inference import reference
from dbn_vae.inference.chain import Chain, Path
from dbn_vae.inference.exact import detached, filter, path_score, smooth, viterbi

BLOCK = 2**22  # numbers in one block of windows: bounds the memory whatever T


def predicted(chain: Chain, h: int = 1) -> Tensor:
    """p(s_t | x_{1:t-h}): (B, T, K), 0 on padding; where t ≤ h nothing was seen, and it is p(s_t).

    O(T h K²).  Raises ValueError for h under 1.
    """
    require_ahead(h)
    chain = detached(chain)
    A = chain.log_transition.exp()
    if A.dim() == 3:
        A = A[:, None]
    before = filter(chain).probs
    first = chain.log_initial.exp()[:, None]
    for _ in range(min(h, before.shape[1])):
        before = torch.cat([first, (before[:, :-1, None] @ A).squeeze(2)], 1)
    return before * chain.mask()[..., None]


def require_ahead(h: int) -> None:
    if h < 1:
        raise ValueError(f"h={h}; it is a number of steps ahead, from 1")


def belief(chain: Chain) -> Tensor:
    """p(s_T | x_{1:T}), all that the frames to come depend on: (B, K); 0 where a sequence is impossible."""
    last = chain.mask().sum(1) - 1
    return filter(chain).probs[torch.arange(len(last), device=last.device), last]


def two_slice(chain: Chain) -> tuple[Tensor, Tensor]:
    """log Z (B,), and p(s_{t-1} = i, s_t = j | x_{1:T}) (B, T-1, K, K), 0 on padding."""
    chain = detached(chain).dense()
    B, T, K = chain.log_emission.shape
    A = chain.log_transition
    if not chain.varies_in_time:
        A = A.expand(B, K, K)[:, None].expand(B, T - 1, K, K)
    log_z, _, xi = smooth(chain._replace(log_transition=A.contiguous()))
    return log_z, xi


def fixed_lag(chain: Chain, lag: int) -> Tensor:
    """p(s_t | x_{1:min(t + lag, T)}): (B, T, K), 0 on padding and where a sequence is impossible.

    O(T · lag · K²), in logarithms throughout, since a state may be lost by the filter and found again by what comes.
    Runs on the reference, whatever the backend.  Raises ValueError for a negative lag.
    """
    require_lag(lag)
    chain = reference.readable(detached(chain).dense())
    message, _ = reference.forward(chain, reference.logsumexp)
    B, T, K = message.shape
    size = max(1, BLOCK // (B * K * K))
    ends = [windows(chain, first, min(first + size, T), lag) for first in range(0, T, size)]
    return normalized(message + torch.cat(ends, 1), chain)


def require_lag(lag: int) -> None:
    if lag < 0:
        raise ValueError(f"lag={lag}; it is a number of steps to look ahead, from 0")


def windows(chain: Chain, first: int, last: int, lag: int) -> Tensor:
    """log p(x_{t+1:t+lag} | s_t), up to a constant, for first ≤ t < last: (B, last − first, K)."""
    B, T, K = chain.log_emission.shape
    mask, t = chain.mask(), torch.arange(first, last, device=chain.log_emission.device)
    ahead = chain.log_emission.new_zeros(B, last - first, K)
    for offset in reversed(range(1, min(lag, T - 1 - first) + 1)):
        step = (t + offset).clamp_max(T - 1)
        inside = mask[:, step] & (t + offset < T)
        A = chain.log_transition
        A = A[:, step - 1] if chain.varies_in_time else A.expand(B, K, K)[:, None]
        into = chain.log_emission[:, step] + ahead
        onward = reference.logsumexp(A + into[:, :, None], -1)
        onward = onward - reference.finite(onward.amax(-1, keepdim=True))
        ahead = torch.where(inside[..., None], onward, ahead)
    return ahead


def leave_one_out(chain: Chain) -> Tensor:
    """p(s_t | all frames but t): (B, T, K), 0 on padding and where the other frames are impossible.

    Not gamma_t(k) / p(x_t | s_t = k), which is 0 / 0 for the very outliers that one looks for.  Runs on the reference.
    """
    chain = reference.readable(detached(chain).dense())
    mask = chain.mask()
    message, c = reference.forward(chain, reference.logsumexp)
    backward = torch.zeros_like(message[:, 0])
    without = []
    for t in reversed(range(message.shape[1])):
        before = chain.log_initial
        if t:
            A = reference.transition(chain, t)
            before = reference.logsumexp(message[:, t - 1, :, None] + A, 1)
        without.append(before + backward)
        if t:
            into = chain.log_emission[:, t] + backward - reference.finite(c[:, t])[:, None]
            onward = reference.logsumexp(A + into[:, None], -1)
            backward = torch.where(mask[:, t, None], onward, backward)
    return normalized(torch.stack(without[::-1], 1), chain)


def normalized(logits: Tensor, chain: Chain) -> Tensor:
    """Probabilities over the last axis; 0 on padding and where everything is impossible."""
    total = reference.logsumexp(logits, -1)[..., None]
    return (logits - reference.finite(total)).exp() * chain.mask()[..., None]


def hybrid(chain: Chain, alpha: float) -> Path:
    """The path that maximises α log p(s | x) + (1 − α) Σ_t log p(s_t | x), and its log p(s, x).

    α = 1 is Viterbi's path.  α = 0 is the most probable state of every step, which may be a path of probability 0; with
    any α > 0 the path is a possible one.  As α falls, Σ_t log p(s_t | x) rises and log p(s | x) falls.  Exact: Viterbi
    on modified potentials.
    Raises ValueError for α outside [0, 1].
    """
    require_weight(alpha)
    chain = detached(chain).dense()
    gamma = smooth(chain).gamma
    chosen = viterbi(
        chain._replace(
            log_initial=scaled(alpha, chain.log_initial),
            log_transition=scaled(alpha, chain.log_transition),
            log_emission=scaled(alpha, chain.log_emission) + scaled(1 - alpha, gamma.log()),
        )
    ).states
    return Path(chosen, path_score(chain, chosen))


def require_weight(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}; it is the weight of the path as a whole, from 0 to 1")


def scaled(weight: float, table: Tensor) -> Tensor:
    """weight · table with 0 · −∞ = 0: what has no weight forbids nothing."""
    return weight * table if weight else torch.zeros_like(table)
