"""The verbs of exact inference in a chain, each on the fastest backend that can do the work.

To smooth is to train: by Fisher's identity the gradient of log Z is the posterior,

    ∂ log Z / ∂ log_emission_t(k) = gamma_t(k),    ∂ log Z / ∂ log_transition_ij = xi(i, j),
    ∂ log Z / ∂ log_initial_k = gamma_1(k),

so the E-step of Baum-Welch and the backward pass of a deep model are the same numbers from the same kernel.
"""

from typing import Any

import torch
from torch import Tensor

from dbn_vae.inference import reference
from dbn_vae.inference.backends import Backend, available, backend, fusing, name
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.potentials import Fused


def log_partition(chain: Chain) -> Tensor:
    """log Z of every sequence: (B,), in nats, differentiable twice in every potential."""
    if not torch.is_grad_enabled():
        engine, chain = ready(chain)
        return engine.log_partition(chain)
    return _LogPartition.apply(*chain.dense().canonical())


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


def ready(chain: Chain) -> tuple[Backend, Chain]:
    """The backend that does the work, and the chain in a form it reads, without gradients."""
    chain = detached(chain)
    chosen = name(chain)
    return available[chosen], chain if chosen in fusing else chain.dense()


def detached(chain: Chain) -> Chain:
    initial, transition, emission, lengths = chain.canonical()
    return Chain(initial.detach(), transition.detach(), emission.detach(), lengths)


class _LogPartition(torch.autograd.Function):
    """log Z whose backward pass is the posterior of the same kernel.

    The second derivative differentiates the reference's posterior, which is torch all the way.
    """

    @staticmethod
    def forward(
        ctx: Any, log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, lengths: Tensor
    ) -> Tensor:
        chain = Chain(log_initial, log_transition, log_emission, lengths)
        if not any(ctx.needs_input_grad):
            return backend(chain).log_partition(chain)
        log_z, gamma, xi = backend(chain).smooth(chain)
        ctx.save_for_backward(*chain, gamma, xi)
        return log_z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        *potentials, gamma, xi = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself must have a graph
            _, gamma, xi = reference.smooth(Chain(*potentials))
        shared = potentials[1].dim() == 2
        by_batch = grad.view(-1, *[1] * (xi.dim() - 1)) * xi
        return (
            grad[:, None] * gamma[:, 0],
            by_batch.sum(0) if shared else by_batch,
            grad[:, None, None] * gamma,
            None,
        )
