"""Newton's method for an M-step without a closed form: many small problems at once, none of which ever falls."""

from collections.abc import Callable

import torch
from torch import Tensor


def newton(theta: Tensor, objective: Callable[[Tensor], Tensor], max_iter: int = 30) -> Tensor:
    """Raise n objectives of P parameters each from where they stand.

    The step is |H|⁻¹ g, the Hessian's eigenvalues taken positive, which is uphill also where the objective is not
    concave (Nocedal and Wright 2006, section 3.4), and nothing along directions in which it is flat.  It is halved
    until the objective does not fall; where that does not help, the problem is left where it is.

    Args:
        theta: (n, P) start; an entry of −inf stays.
        objective: (n, P) to (n,), row by row, twice differentiable.
    """
    theta = theta.detach()
    with torch.no_grad():
        value = objective(theta)
    for _ in range(max_iter):
        gradient, hessian = derivatives(objective, theta)
        scale, directions = torch.linalg.eigh(hessian)
        size = scale.abs()
        curved = size > 1e-12 * size.amax(-1, keepdim=True)
        along = (directions.mT @ gradient[..., None]).squeeze(-1)
        step = (directions @ torch.where(curved, along / size, 0.0)[..., None]).squeeze(-1)
        gain = (step * gradient).sum(-1)  # twice what a parabola promises
        if not (gain > 1e-13 * (1 + value.abs())).any():
            break
        theta, value = line_search(objective, theta, value, step)
    return theta


def derivatives(objective: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (n, P) and Hessians (n, P, P)."""
    with torch.enable_grad():
        at = theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(at).sum(), at, create_graph=True)
        rows = [torch.autograd.grad(g.sum(), at, retain_graph=True)[0] for g in gradient.unbind(-1)]
    hessian = torch.stack(rows, -2)
    return gradient.detach(), (hessian + hessian.mT) / 2


def line_search(
    objective: Callable[[Tensor], Tensor], theta: Tensor, value: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """The first of theta + step, + step / 2, … at which a problem's objective is at least its value; else theta."""
    length = torch.ones_like(value)
    with torch.no_grad():
        for _ in range(30):
            there = theta + length[:, None] * step
            reached = objective(there)
            better = reached >= value  # NaN is not
            if better.all():
                return there, reached
            length = torch.where(better, length, length / 2)
    return torch.where(better[:, None], there, theta), torch.where(better, reached, value)
