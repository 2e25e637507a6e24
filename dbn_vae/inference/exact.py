"""The verbs of exact inference in a chain, each on the fastest backend that can do the work.

To smooth is to train: by Fisher's identity the gradient of log Z is the posterior,

    ∂ log Z / ∂ log_emission_t(k) = gamma_t(k),    ∂ log Z / ∂ log_transition_ij = xi(i, j),
    ∂ log Z / ∂ log_initial_k = gamma_1(k),

so the E-step of Baum-Welch and the backward pass of a deep model are the same numbers from the same kernel.
"""

import math

import torch
from torch import Tensor

from dbn_vae.inference import reference
from dbn_vae.inference.backends import Backend, available, fusing, name
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.gradient import posterior, transforming
from dbn_vae.inference.potentials import Fused


def log_partition(chain: Chain) -> Tensor:
    """log Z of every sequence: (B,), in nats, differentiable to any order in every potential."""
    if followed(chain):
        return posterior(chain.dense().canonical()).log_z
    engine, chain = ready(chain)
    return engine.log_partition(chain)


def filter(chain: Chain) -> Filtered:
    """p(s_t | x_{1:t}) and log p(x_t | x_{1:t-1}); see Filtered."""
    engine, chain = ready(chain)
    return engine.filter(chain)


def smooth(chain: Chain) -> Posterior:
    """p(s_t | x_{1:T}) and expected transition counts; see Posterior."""
    engine, chain = ready(chain)
    return engine.smooth(chain)


def expect(chain: Chain[Fused], weights: Tensor) -> Expected:
    """What an M-step needs of all sequences, with their weights (B,); see Expected.

    The transitions must be the same in every sequence and step: (K, K).
    """
    chain = detached(chain)
    chosen = name(chain)
    if chosen in fusing:
        return fusing[chosen].expect(chain, weights)
    log_z, gamma, xi = available[chosen].smooth(chain.dense())
    weighted = gamma * weights[:, None, None]
    pairs = torch.einsum("b,bij->ij", weights, xi)
    return Expected(log_z, weighted[:, 0].sum(0), pairs, chain.log_emission.statistics(weighted))


def viterbi(chain: Chain) -> Path:
    """The most probable path (B, T) and its joint log-probability (B,)."""
    engine, chain = ready(chain)
    return engine.viterbi(chain)


def k_best(chain: Chain, n: int) -> Path:
    """The n most probable paths (n, B, T), best first, and their joint log-probabilities (n, B).

    Where a sequence has fewer than n possible paths, the rest has states −1 and score −inf.  Raises ValueError for
    n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least 1 path")
    engine, chain = ready(chain)
    return engine.k_best(chain.dense(), n)


def entropy(chain: Chain) -> Tensor:
    """H of p(s_{1:T} | x_{1:T}), how undecided the path is as a whole: (B,), in nats, differentiable.

        H = log Z − Σ_k gamma_1(k) log π_k − Σ_ij xi(i, j) log A_ij − Σ_t Σ_k gamma_t(k) l_t(k)

    with 0 · log 0 = 0; 0 where no path is possible.
    """
    initial, transition, emission, lengths = chain.dense().canonical()
    # in float64: H is a small difference of large numbers
    wide = Chain(initial.double(), transition.double(), emission.double(), lengths)
    log_z, gamma, xi = posterior(wide) if followed(chain) else smooth(wide)
    energy = sum(
        expected(p, table).flatten(1).sum(1)
        for p, table in (
            (gamma[:, 0], wide.log_initial),
            (xi, wide.log_transition),
            (gamma, wide.log_emission),
        )
    )
    return torch.where(log_z > -math.inf, log_z - energy, 0.0).to(initial.dtype)


def expected(p: Tensor, table: Tensor) -> Tensor:
    return p * torch.where(p > 0, table, 0.0)


def sample(chain: Chain, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n independent paths from p(s_{1:T} | x_{1:T}): (n, B, T) int64, −1 on padding."""
    engine, chain = ready(chain)
    B, T, _ = chain.log_emission.shape
    device = chain.log_initial.device
    source = device if generator is None else generator.device
    uniform = torch.rand(n, B, T, generator=generator, device=source, dtype=torch.float64)
    return engine.sample(chain, uniform.to(device))


def step(belief: Tensor, log_transition: Tensor, log_emission: Tensor) -> tuple[Tensor, Tensor]:
    """One filtering step of a stream: predict with A, update with the emission.

    belief: (..., K) log p(s_{t-1} | x_{1:t-1}); log_transition: (..., K, K); log_emission: (..., K).
    Returns log p(s_t | x_{1:t}) (..., K) and log p(x_t | x_{1:t-1}) (...).
    """
    joint = reference.logsumexp(belief[..., :, None] + log_transition, -2) + log_emission
    c = reference.logsumexp(joint, -1)
    return joint - reference.finite(c)[..., None], c


def path_score(chain: Chain, states: Tensor) -> Tensor:
    """log p(states, x) of given paths (B, T): (B,); entries on padding are ignored."""
    chain = chain.dense().canonical()
    mask = chain.mask()
    s = torch.where(mask, states, 0)
    emission = chain.log_emission.gather(2, s[..., None]).squeeze(2)
    score = torch.where(mask, emission, 0.0).sum(1)
    score = score + chain.log_initial.gather(1, s[:, :1]).squeeze(1)
    B, T, K = chain.log_emission.shape
    if T > 1:
        A = chain.log_transition
        A = A if chain.varies_in_time else A.expand(B, K, K)[:, None].expand(B, T - 1, K, K)
        rows = A.gather(2, s[:, :-1, None, None].expand(-1, -1, 1, K)).squeeze(2)
        moves = rows.gather(2, s[:, 1:, None]).squeeze(2)
        score = score + torch.where(mask[:, 1:], moves, 0.0).sum(1)
    return score


def followed(chain: Chain) -> bool:
    """Whether someone may ask for a derivative."""
    emission = chain.log_emission
    parts = (emission,) if isinstance(emission, Tensor) else emission
    tables = (chain.log_initial, chain.log_transition, *parts)
    if torch.is_grad_enabled() and any([x.requires_grad for x in tables]):
        return True
    return torch.compiler.is_compiling() or transforming()


def ready(chain: Chain) -> tuple[Backend, Chain]:
    """The backend that does the work, and the chain in a form it reads, without gradients."""
    chain = detached(chain)
    chosen = name(chain)
    return available[chosen], chain if chosen in fusing else chain.dense()


def detached(chain: Chain) -> Chain:
    initial, transition, emission, lengths = chain.canonical()
    return Chain(initial.detach(), transition.detach(), emission.detach(), lengths)
