"""The M-step of any emission: in closed form, part by part, or by gradient.

A family that says only log_prob ascends the expected complete log-likelihood

    Q(θ) = Σ_n Σ_k γ_n(k) log p(x_n | s_n = k; θ) + log p(θ)

from where it stands.  EM needs no maximum: as long as Q does not fall, neither does the log-likelihood (generalised EM,
Dempster, Laird and Rubin 1977).  So a step that lowers Q is never taken.
"""

import torch
from torch import Tensor, nn

from dbn_vae.emissions.base import Emission, closed_form
from dbn_vae.emissions.compound import Compound


def collect(emission: Emission, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """What the M-step reads of frames x (n, D) with weights (n, K): sums, or else the frames themselves."""
    if closed_form(emission):
        return emission.statistics(x, observed, weights)
    return x, observed, weights


def add(emission: Emission, collected: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The same of all batches together."""
    columns = zip(*collected, strict=True)
    if closed_form(emission):
        return tuple(torch.stack(c).sum(0) for c in columns)
    return tuple(torch.cat(c) for c in columns)


def maximize(emission: Emission, collected: tuple[Tensor, ...]) -> None:
    """The M-step."""
    if closed_form(emission):
        emission.maximize(*collected)
    elif isinstance(emission, Compound):
        x, observed, weights = collected
        own, shares = emission.divide(x, observed, weights)
        emission.maximize_own(*own)
        for part, *frames in shares:
            maximize(part, collect(part, *frames))
    else:
        x, observed, weights = collected
        climb(emission, x, observed, weights)


def climb(emission: Emission, x: Tensor, observed: Tensor, weights: Tensor, max_iter: int = 100) -> None:
    """Raise Q by L-BFGS from the present parameters; where that fails, by a step along the gradient; or not at all."""
    parameters = emission.free_parameters()
    if not parameters:
        return
    scale = float(weights.sum().clamp_min(1))  # the first step's length should not grow with the data

    def loss() -> Tensor:
        log_prob = emission.log_prob(x, observed)
        # 0 · −inf is NaN: a state that could not have given a frame has weight 0 there
        total = torch.where(weights > 0, weights * log_prob, 0.0).sum()
        return -(total + emission.log_prior()) / scale

    def closure() -> Tensor:
        value = loss()
        slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for p, gradient in zip(parameters, slopes, strict=True):
            p.grad = gradient
        return value

    with torch.enable_grad():
        start = [p.detach().clone() for p in parameters]
        before = closure().item()
        slope = [p.grad.clone() for p in parameters if p.grad is not None]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=max_iter,
            max_eval=4 * max_iter,
            history_size=20,
            tolerance_grad=1e-10,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(closure)
    with torch.no_grad():
        step = 1.0
        while not loss().item() <= before:  # NaN is no improvement either
            move(parameters, start, slope, step)
            step = step / 4 if step > 1e-20 else 0.0
            if step == 0.0:
                move(parameters, start, slope, 0.0)
                break
    for p in parameters:
        p.grad = None


def move(parameters: list[nn.Parameter], start: list[Tensor], slope: list[Tensor], step: float) -> None:
    """Set the parameters to a point on the ray of steepest descent."""
    for p, origin, gradient in zip(parameters, start, slope, strict=True):
        p.copy_(origin if step == 0.0 else origin - step * gradient)
