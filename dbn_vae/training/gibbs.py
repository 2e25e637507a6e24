"""Gibbs sampling: draws from the posterior of parameters and states, p(θ, s | x), of an HMM with conjugate priors.

    for draw in gibbs(model, data, generator):      # the caller's loop is the burn-in, the thinning, the record
        ...                                         # model holds θ, draw.states holds s

Given θ, whole paths are drawn backward from the filter; given s, chain and emission are ordinary conjugate problems:
Dirichlet rows of π, A and B, Gamma rates, Beta probabilities, normal-inverse-gamma or -Wishart for Gaussians.
The priors are those that EM's penalised objective has, read as densities of (π, A, ...; μ, Σ), and must be proper.

A likelihood knows no names of states: align draws before averaging them; see matched.

Source: Scott (2002), Bayesian methods for hidden Markov models; Frühwirth-Schnatter (2006), Finite mixture and Markov
switching models, chapter 11.
"""

from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.emissions import (
    Bernoulli,
    Categorical,
    LogNormal,
    Mixture,
    Multinomial,
    Poisson,
    Product,
)
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.gaussian import Gaussian
from dbn_vae.models.hmm import HMM, frames
from dbn_vae.sequences import Sequences
from dbn_vae.training.conjugate import dirichlet, draw_gaussian, log_gamma_draw, require_proper, sums
from dbn_vae.training.em import require_possible
from dbn_vae.transitions.stationary import Stationary


class GibbsDraw(NamedTuple):
    """With the parameters that the model has now, one draw of everything unknown."""

    log_likelihood: float  # log p(x | θ)
    states: Tensor  # (N,) int64, in the order of the frames


@torch.no_grad()
def gibbs(model: HMM, data: Sequences, generator: torch.Generator) -> Iterator[GibbsDraw]:
    """Draw after draw, the first at the parameters given; the model is changed in place.

    Parameters that are frozen are left alone.

    Raises:
        TypeError: a part has no conjugate prior.
        ValueError: a prior is improper, sequences have weights, or one is impossible under the start.
    """
    if bool((data.weights != 1).any()) or data.step_weights is not None:
        raise ValueError("data has weights other than 1; a posterior given half a sequence is not defined")
    while True:
        draw = draw_states(model, data, generator)
        yield draw
        draw_parameters(model, data, draw.states, generator)


@torch.no_grad()
def draw_states(model: HMM, data: Sequences, generator: torch.Generator) -> GibbsDraw:
    """s ~ p(s | x, θ), by filtering forward and drawing backward."""
    states, total = torch.full((data.n_frames,), -1), 0.0
    for batch in data.batches():
        chain = model.chain(batch)
        log_z = inference.log_partition(chain)
        require_possible(log_z, batch.which)
        total += float(log_z.sum())
        (path,) = inference.sample(chain, 1, generator)
        data.unbatch(batch, path, states)
    return GibbsDraw(total, states)


@torch.no_grad()
def draw_parameters(model: HMM, data: Sequences, states: Tensor, generator: torch.Generator) -> None:
    """θ ~ p(θ | s, x), in place."""
    chain, K = model.transition, model.n_components
    if type(chain) is not Stationary:  # those built on it have constraints that no Dirichlet knows
        raise TypeError(f"gibbs draws Stationary chains, not {type(chain).__name__}")
    begins = torch.zeros(len(states), dtype=torch.bool)
    begins[data.starts] = True
    first = states[begins].bincount(minlength=K).double()
    moves = (states[:-1] * K + states[1:])[~begins[1:]].bincount(minlength=K * K).view(K, K).double()
    if "initial" not in chain.frozen:
        dirichlet(chain.initial_logits, first, chain.startprob_prior, "startprob_prior", generator)
    if "transition" not in chain.frozen:
        dirichlet(chain.transition_logits, moves, chain.transmat_prior, "transmat_prior", generator)
    x, observed = frames(model, data)
    draw_emission(model.emission, x, observed, states, generator)


@singledispatch
def draw_emission(
    emission: Emission, x: Tensor, observed: Tensor, states: Tensor, generator: torch.Generator
) -> None:
    """The emission's parameters given frames x (n, D) and their states (n,), in place."""
    raise TypeError(
        f"{type(emission).__name__} has no conjugate prior here; register how it is drawn: gibbs.draw_emission.register"
    )


@draw_emission.register
def _(emission: Categorical, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    if "probs" not in emission.frozen:
        (count,) = sums(emission, x, observed, states)
        dirichlet(emission.logits, count, emission.concentration, "emissionprob_prior", g)


@draw_emission.register
def _(emission: Multinomial, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    if bool((observed.any(1) & ~observed.all(1)).any()):
        raise ValueError("gibbs needs multinomial rows that are seen whole or not at all")
    if "probs" not in emission.frozen:
        (count,) = sums(emission, x, observed, states)
        dirichlet(emission.logits, count, emission.concentration, "emissionprob_prior", g)


@draw_emission.register
def _(emission: Bernoulli, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    require_proper("emissionprob_prior", torch.tensor([emission.ones, emission.zeros]))
    if "probs" not in emission.frozen:
        count, total = sums(emission, x, observed, states)
        one = log_gamma_draw(emission.ones + total, g)
        emission.logits.copy_(one - log_gamma_draw(emission.zeros + count - total, g))


@draw_emission.register
def _(emission: Poisson, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    require_proper("the rates' prior shape", emission.shape)
    require_proper("the rates' prior rate (lambdas_weight)", emission.rate)
    if "rates" not in emission.frozen:
        count, total = sums(emission, x, observed, states)
        emission.log_rates.copy_(log_gamma_draw(emission.shape + total, g) - (emission.rate + count).log())


@draw_emission.register
def _(emission: Gaussian, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    draw_gaussian(emission, x, observed, states, g)


@draw_emission.register
def _(emission: LogNormal, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    draw_emission(emission.gaussian, emission.logs(x, observed), observed, states, g)


@draw_emission.register
def _(emission: Product, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    for block, columns in emission.parts():
        draw_emission(block, x[:, columns], observed[:, columns], states, g)


@draw_emission.register
def _(emission: Mixture, x: Tensor, observed: Tensor, states: Tensor, g: torch.Generator) -> None:
    """First which component gave each frame, then weights and components."""
    K, M = emission.n_components, emission.n_mix
    some = observed.any(1)
    x, observed, states = x[some], observed[some], states[some]
    joint = emission.log_joint(x, observed)[torch.arange(len(x)), states]  # (n, M)
    which = states * M
    if len(x):
        which = which + torch.multinomial(joint.softmax(1), 1, generator=g)[:, 0]
    if "weights" not in emission.frozen:
        count = which.bincount(minlength=K * M).view(K, M).double()
        dirichlet(emission.logits, count, emission.concentration, "weights_prior", g)
    draw_emission(emission.component, x, observed, which, g)


def matched(states: Tensor, reference: Tensor, n_components: int) -> Tensor:
    """The naming of drawn states (N,) that agrees most with a reference (N,): state order[k] is the reference's k."""
    from scipy.optimize import linear_sum_assignment

    pair = reference * n_components + states
    agree = pair.bincount(minlength=n_components**2).view(n_components, n_components)
    return torch.as_tensor(linear_sum_assignment(-agree.numpy())[1])
