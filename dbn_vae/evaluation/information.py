"""How sharply data fix the parameters of an HMM: the observed information and the scores of the sequences.

    information = −∂² log p(x, θ) / ∂θ²,    score_b = ∂ log p(x_b | θ) / ∂θ,    θ the free coordinates

θ are the module's own unconstrained parameters less what is no coordinate: one logit of every distribution, the upper
half of a factor, what is frozen, and what stands at the edge of its range, where no derivative vanishes.

Source: Efron and Hinkley (1978) for observed against expected information; White (1982) for the scores.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.dense_gaussian import FullGaussian
from dbn_vae.emissions.gaussian import DiagonalGaussian
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.multinomial import Multinomial
from dbn_vae.emissions.poisson import Poisson
from dbn_vae.inference import Chain, logsumexp
from dbn_vae.inference.reference import readable
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.stationary import Stationary

RARE = 0.01  # events expected in the data, under which a probability or a rate is at its edge

# Where `frozen` names a parameter otherwise than the module does.
FROZEN_AS = {
    "initial_logits": {"initial"},
    "transition_logits": {"transition"},
    "logits": {"probs", "weights"},
    "log_rates": {"rates"},
    "log_scale": {"covariance"},
    "factor": {"covariance"},
}


class Free(NamedTuple):
    """The entries of one parameter that are coordinates of θ."""

    parameter: nn.Parameter
    which: Tensor  # bool, the parameter's shape


class Information(NamedTuple):
    """At θ, of the log-likelihood plus the log-prior of the parameters, each sequence times its weight."""

    gradient: np.ndarray  # (P,); 0 at a maximum
    matrix: np.ndarray  # (P, P)


def rare(p: Any, n: int) -> Any:
    """Whether an event of this probability or rate is expected less than RARE times in n."""
    return p * n < RARE


def free_coordinates(model: HMM, n_frames: int, n_sequences: int) -> list[Free]:
    """θ of a model: every parameter with its entries that are free and not at the edge of their range."""
    found = []
    for module in model.modules():
        if not isinstance(module, Emission | Stationary):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            held = {name} | FROZEN_AS.get(name, set())
            which = torch.isfinite(parameter.detach())
            if held & module.frozen or not parameter.requires_grad:
                which = torch.zeros_like(which)
            n = n_sequences if name == "initial_logits" else n_frames
            with torch.no_grad():
                found.append(Free(parameter, which & interior(module, name, parameter, n)))
    return found


def interior(module: nn.Module, name: str, parameter: Tensor, n: int) -> Tensor:
    """Which entries are coordinates away from every edge, n draws having told of them."""
    everything = torch.ones_like(parameter, dtype=torch.bool)
    if isinstance(module, Stationary | Categorical | Multinomial | Mixture) and name.endswith("logits"):
        if name == "initial_logits" and n == 1:
            return ~everything  # the likelihood of one sequence is linear in π: its maximum is a corner
        p = parameter.softmax(-1)
        own = nn.functional.one_hot(p.argmax(-1), p.shape[-1]) > 0  # the largest is 1 less the others
        return ~own & ~rare(p, n)
    if isinstance(module, Bernoulli):
        p = parameter.sigmoid()
        return ~rare(torch.minimum(p, 1 - p), n)
    if isinstance(module, Poisson):
        return ~rare(parameter.exp(), n)
    if isinstance(module, DiagonalGaussian) and name == "log_scale":
        return (2 * parameter).exp() > module.lowest(module.floor) * (1 + 1e-6)
    if isinstance(module, FullGaussian) and name == "factor":
        scale = module.floor.clamp_min(1e-300).sqrt()
        least = torch.linalg.svdvals(parameter.tril() / scale[:, None])[..., -1]
        return everything.tril() & (least > 1 + 1e-6)[..., None, None]
    return everything


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


def scores(model: HMM, data: Sequences, free: list[Free]) -> np.ndarray:
    """∂ log p(x_b) / ∂θ, times the weight of the sequence: (B, P)."""
    parameters, found = [f.parameter for f in free], []
    for b in range(len(data)):
        value = model.objective(data.subset([b]).only()).sum() * data.weights[b]
        found.append(picked(torch.autograd.grad(value, parameters, allow_unused=True), free))
    return torch.stack(found).numpy()


def log_partition(chain: Chain) -> Tensor:
    """log Z (B,) as a product of step operators, taken two by two: log T operations on long tables, none on short ones.

    inference.log_partition is differentiable twice as well, but by a loop over time for every row of the Hessian.
    """
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
