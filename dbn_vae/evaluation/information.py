"""How sharply data fix the parameters of an HMM: the observed information and the scores of the sequences.

    information = −∂² log p(x, θ) / ∂θ²,    score_b = ∂ log p(x_b | θ) / ∂θ,    θ the free coordinates

θ are the module's own unconstrained parameters less what is no coordinate: one logit of every distribution, the upper
half of a factor, what is frozen, and what stands at the edge of its range, where no derivative vanishes.

Source: Efron and Hinkley (1978) for observed against expected information; White (1982) for the scores.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dbn_vae.evaluation.chain_quantities import model_quantities
from dbn_vae.inference import Chain, durations, logsumexp
from dbn_vae.inference.durations import Stays
from dbn_vae.inference.reference import readable
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences


class Free(NamedTuple):
    """The entries of one parameter that are coordinates of θ."""

    parameter: nn.Parameter
    which: Tensor  # bool, the parameter's shape


class Information(NamedTuple):
    """At θ, of the log-likelihood plus the log-prior of the parameters, each sequence times its weight."""

    gradient: np.ndarray  # (P,); 0 at a maximum
    matrix: np.ndarray  # (P, P)


def free_coordinates(model: HMM, data: Sequences) -> list[Free]:
    """θ of a model: every parameter with its entries that are free and not at the edge of their range."""
    with torch.no_grad():
        found = model_quantities(model, data)
    return [Free(q.parameter, q.free) for q in found if q.parameter is not None and q.free is not None]


def observed_information(model: HMM, data: Sequences, free: list[Free]) -> Information:
    """Gradient and information over all sequences; time grows with T K³ P, memory with T K³."""
    gradient, matrix = second_order(model.log_parameter_prior(), free)
    for batch in data.batches(2**14):
        value = batch.weights @ log_partition(model.chain(batch))
        parts = second_order(value, free)
        gradient, matrix = gradient + parts[0], matrix + parts[1]
    return Information(gradient, -(matrix + matrix.T) / 2)


def second_order(value: Tensor, free: list[Free]) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (P,) and Hessian (P, P) of a number in the free coordinates."""
    parameters, P = [f.parameter for f in free], sum(int(f.which.sum()) for f in free)
    if not value.requires_grad:
        return np.zeros(P), np.zeros((P, P))
    gradient = picked(torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True), free)
    if P == 0 or not gradient.requires_grad:
        return gradient.detach().numpy(), np.zeros((P, P))
    rows = [
        picked(torch.autograd.grad(slope, parameters, retain_graph=True, allow_unused=True), free)
        for slope in gradient
    ]
    return gradient.detach().numpy(), torch.stack(rows).numpy()


def picked(slopes: tuple[Tensor | None, ...], free: list[Free]) -> Tensor:
    """The free coordinates (P,) of the slope of each parameter, None where it has none."""
    parts = [
        f.parameter.new_zeros(int(f.which.sum())) if s is None else s[f.which]
        for s, f in zip(slopes, free, strict=True)
    ]
    return torch.cat(parts)


def jacobian(values: list[Tensor], free: list[Free]) -> np.ndarray:
    """∂ values / ∂ θ of n numbers: (n, P); 0 of what is infinite, such as the stay in a state that is never left."""
    parameters, rows = [f.parameter for f in free], []
    for value in values:
        slopes: tuple[Tensor | None, ...] = (None,) * len(free)
        if value.requires_grad:
            slopes = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        rows.append(picked(slopes, free).nan_to_num(0.0, 0.0, 0.0))
    return torch.stack(rows).numpy()


def scores(model: HMM, data: Sequences, free: list[Free]) -> np.ndarray:
    """∂ log p(x_b) / ∂θ, times the weight of the sequence: (B, P)."""
    parameters, found = [f.parameter for f in free], []
    for b in range(len(data)):
        value = model.objective(data.subset([b]).only()).sum() * data.weights[b]
        found.append(picked(torch.autograd.grad(value, parameters, allow_unused=True), free))
    return torch.stack(found).numpy()


def log_partition(chain: Chain | Stays) -> Tensor:
    """log Z (B,) as a product of step operators, taken two by two: log T operations on long tables, none on short ones.

    inference.log_partition is differentiable twice as well, but by a loop over time for every row of the Hessian.  Of
    stays there is nothing else: an operator would have K times D rows.
    """
    if isinstance(chain, Stays):
        return durations.log_partition(chain)
    chain = readable(chain)
    K = chain.log_emission.shape[-1]
    identity = torch.full((K, K), -math.inf, dtype=chain.log_emission.dtype).fill_diagonal_(0.0)
    steps = chain.log_transition + chain.log_emission[:, 1:, None, :]  # (B, T-1, from, to)
    steps = torch.where(chain.mask()[:, 1:, None, None], steps, identity)
    while steps.shape[1] > 1:
        last = steps[:, -1:] if steps.shape[1] % 2 else steps[:, :0]
        even = steps.shape[1] // 2 * 2
        pairs = steps[:, 0:even:2, :, :, None] + steps[:, 1:even:2, None, :, :]
        steps = torch.cat([logsumexp(pairs, 3), last], 1)
    message = chain.log_initial + chain.log_emission[:, 0]
    if steps.shape[1]:
        message = logsumexp(message[:, :, None] + steps[:, 0], 1)
    return logsumexp(message, -1)
