"""log Z and its posterior as one operator of torch, whose derivatives are its own results.

    (log Z, γ, ξ) = posterior(log π, log A, l),
    ∂ log Z / ∂ l_t(k) = γ_t(k),    ∂ log Z / ∂ log A_ij = ξ(i, j),    ∂ log Z / ∂ log π_k = γ_1(k).

The forward pass is one run of the chosen kernel, and the backward pass of log Z multiplies what that run left behind.
γ and ξ are results like any other, so the gradient has a graph: their derivatives are those of the reference, which
is torch all the way, and nothing is spent on them before somebody asks.

Source: Fisher's identity; Eisner (2016), Inside-outside and forward-backward algorithms are just backprop.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library

from dbn_vae.inference import reference
from dbn_vae.inference.backends import backend
from dbn_vae.inference.chain import Chain, Posterior

Tables = tuple[Tensor, Tensor, Tensor]  # log_z (B,), gamma (B, T, K), xi (B, K, K) or (B, T-1, K, K)


def posterior(chain: Chain[Tensor]) -> Posterior:
    """The posterior of a canonical chain with a graph, whether torch runs, compiles or transforms this code."""
    if torch.compiler.is_compiling():
        return Posterior(*_operator(*chain))
    if transforming():
        return Posterior(*_Transformed.apply(*chain))
    return Posterior(*_Eager.apply(*chain))


def transforming() -> bool:
    """Inside torch.func.vmap, grad or vjp, where a tensor does not tell whether it needs a gradient."""
    return torch._C._are_functorch_transforms_active()  # what autograd.Function itself asks


def tables(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, lengths: Tensor) -> Tables:
    chain = Chain(log_initial, log_transition, log_emission, lengths)
    log_z, gamma, xi = backend(chain).smooth(chain)
    return log_z, gamma, xi


def remember(ctx: Any, inputs: tuple[Tensor, ...], output: Tables) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output[1:])


def pull_back(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of log Z, gamma and xi to those of log_initial, log_transition, log_emission, lengths."""
    log_initial, log_transition, log_emission, lengths, gamma, xi = ctx.saved_tensors
    grad = torch.zeros_like(gamma[:, 0, 0]) if grads[0] is None else grads[0]
    pairs = grad.view(-1, *[1] * (xi.dim() - 1)) * xi
    first = (
        grad[:, None] * gamma[:, 0],
        pairs.sum(0) if log_transition.dim() == 2 else pairs,
        grad[:, None, None] * gamma,
    )
    if grads[1] is None and grads[2] is None:
        return *first, None
    given = tuple(
        torch.zeros_like(x) if g is None else g for g, x in zip(grads[1:], (gamma, xi), strict=True)
    )

    def gamma_and_xi(pi: Tensor, A: Tensor, emission: Tensor) -> tuple[Tensor, ...]:
        return reference.smooth(Chain(pi, A, emission, lengths))[1:]

    pull = torch.func.vjp(gamma_and_xi, log_initial, log_transition, log_emission)[1]
    return *(a + b for a, b in zip(first, pull(given), strict=True)), None


def fold(
    apply: Callable[..., Tables], info: Any, in_dims: tuple[int | None, ...], *potentials: Tensor
) -> tuple[Tables, tuple[int, int, int]]:
    """R parameters of B sequences are R·B sequences: one run of the kernel instead of R."""
    R = info.batch_size
    rows = [
        x.expand(R, *x.shape) if d is None else x.movedim(d, 0)
        for x, d in zip(potentials, in_dims, strict=True)
    ]
    log_initial, log_transition, log_emission, lengths = rows
    if in_dims[1] is None and potentials[1].dim() == 2:
        shared = potentials[1]  # the same in all R·B
    elif log_transition.dim() == 3:  # one for the B sequences of each
        shared = log_transition[:, None].expand(-1, len(log_emission[0]), -1, -1).flatten(0, 1)
    else:
        shared = log_transition.flatten(0, 1)
    folded = apply(log_initial.flatten(0, 1), shared, log_emission.flatten(0, 1), lengths.flatten())
    log_z, gamma, xi = (x.unflatten(0, (R, -1)) for x in folded)
    return (log_z, gamma, xi), (0, 0, 0)


class _Eager(torch.autograd.Function):
    """The operator as plain autograd meets it; the two below cost a third more a call."""

    @staticmethod
    def forward(ctx: Any, *potentials: Tensor) -> Tables:
        output = tables(*potentials)
        remember(ctx, potentials, output)
        return output

    backward = staticmethod(pull_back)


class _Transformed(torch.autograd.Function):
    """The operator under torch.func, to any order and depth of vmap and grad."""

    @staticmethod
    def forward(*potentials: Tensor) -> Tables:
        return tables(*potentials)

    setup_context = staticmethod(remember)
    backward = staticmethod(pull_back)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *potentials: Tensor) -> Any:
        return fold(_Transformed.apply, info, in_dims, *potentials)


@library.custom_op("dbn_vae::posterior", mutates_args=())
def _operator(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator as torch.compile sees it, opaque, so that the backend is chosen when the graph runs."""
    log_z, gamma, xi = tables(log_initial, log_transition, log_emission, lengths)
    return log_z, gamma.contiguous(), xi.contiguous()  # as the graph was promised


@_operator.register_fake
def _(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, lengths: Tensor) -> Tables:
    B, _, K = log_emission.shape
    new = log_emission.new_empty
    moves = log_transition.shape if log_transition.dim() == 4 else (B, K, K)
    return new(B), new(log_emission.shape), new(moves)


_operator.register_autograd(pull_back, setup_context=remember)
_operator.register_vmap(lambda info, in_dims, *potentials: fold(_operator, info, in_dims, *potentials))
