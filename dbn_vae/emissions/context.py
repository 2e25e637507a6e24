"""Families that read inputs or earlier frames, where these are known: each is then a plain family, and answers as one.

What a family reads beside a frame is its context: the columns that with_context appends.

    under          p(x | context, s = k) as a family of x alone, for one context
    over_contexts  what such families say of rows, each under its own context
    counted        the entries of frames that have a density, given what is known of their contexts
    drawn          x ~ p(x | context, s), every row under its own context
"""

from collections.abc import Callable
from functools import singledispatch
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dbn_vae.distributions import at
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.emissions.dense_gaussian import FullGaussian
from dbn_vae.emissions.linear_regression import LinearRegression
from dbn_vae.emissions.logistic_regression import LogisticRegression
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.predictive import in_order
from dbn_vae.emissions.product import Product

Rows = np.ndarray | slice
E = TypeVar("E", bound=Emission)
Generator = torch.Generator | None


@singledispatch
def under(emission: Emission, context: Tensor) -> Emission:
    """The family under a context (C,), which reads none.

    Raises NotImplementedError for a family that registers nothing here and conditions on more than the state.
    """
    return without_context(emission)


def without_context(emission: E) -> E:
    if emission.n_context:
        name = type(emission).__name__
        raise NotImplementedError(
            f"what {name} is in a given context is not known: register {name} with `under` of "
            "dbn_vae.emissions.context"
        )
    return emission


@under.register
def _(emission: LinearRegression, context: Tensor) -> Emission:
    return FullGaussian(emission.mean + emission.slope @ context, emission.covariance())


@under.register
def _(emission: LogisticRegression, context: Tensor) -> Emission:
    family = Bernoulli(torch.full_like(emission.intercept, 0.5))
    with torch.no_grad():
        family.logits.copy_(
            emission.logits(context)
        )  # not by way of the probability, which may round to 0 or 1
    return family


@under.register
def _(emission: Mixture, context: Tensor) -> Emission:
    return Mixture(under(emission.component, context), emission.weights())


@under.register
def _(emission: Product, context: Tensor) -> Emission:
    return Product([under(block, context[c]) for block, c in contexts(emission)], emission.columns)


def contexts(emission: Product) -> list[tuple[Emission, list[int]]]:
    """Every block with its columns of the context."""
    D = emission.n_features
    return [(block, [i - D for i in columns if i >= D]) for block, columns in emission.parts()]


def over_contexts(
    emission: Emission, context: Tensor | None, ask: Callable[[Emission, Rows], Tensor]
) -> Tensor:
    """ask(family, rows) of the rows of each context, together in the order of the rows; rows of one context at once.

    context: (n, C) of n ≥ 1 rows; not looked at for a family that reads none, which is asked of all rows.
    """
    if not emission.n_context or context is None:
        return ask(emission, slice(None))
    values, which = context.unique(dim=0, return_inverse=True)
    order = which.argsort(stable=True)
    parts = order.split(which.bincount().tolist())
    found = [ask(under(emission, c), rows.numpy()) for c, rows in zip(values, parts, strict=True)]
    return torch.cat(found)[order.argsort()]


def of_inputs(emission: Emission, inputs: Tensor | None) -> Tensor | None:
    """The contexts (n, C) of a family that reads no frames, under inputs (n, U); None where it reads none."""
    if not emission.n_inputs or inputs is None:
        return None
    frames = inputs.new_zeros(1, len(inputs), emission.n_features)
    return emission.with_context(frames, frames.bool(), inputs[None])[0][0, :, emission.n_features :]


@singledispatch
def counted(emission: Emission, observed: Tensor) -> Tensor:
    """The entries that the density of a frame speaks of: (..., D + C) to (..., D)."""
    return observed[..., : emission.n_features]


@counted.register
def _(emission: LinearRegression, observed: Tensor) -> Tensor:
    return emission.seen(observed)


@counted.register
def _(emission: Mixture, observed: Tensor) -> Tensor:
    return counted(emission.component, observed)


@counted.register
def _(emission: Product, observed: Tensor) -> Tensor:
    return in_order(emission, [counted(block, observed[..., c]) for block, c in emission.parts()])


@singledispatch
def drawn(emission: Emission, states: Tensor, context: Tensor, generator: Generator = None) -> Tensor:
    """A frame for each state (n,) under its own context (n, C): (n, D).

    Raises NotImplementedError for a family that registers nothing here and conditions on more than the state.
    """
    return without_context(emission).sample(states, generator)


@drawn.register
def _(emission: LinearRegression, states: Tensor, context: Tensor, generator: Generator = None) -> Tensor:
    return LinearRegression.sample(emission, states, generator, context)


@drawn.register
def _(emission: LogisticRegression, states: Tensor, context: Tensor, generator: Generator = None) -> Tensor:
    return emission.sample(states, generator, context)


@drawn.register
def _(emission: Mixture, states: Tensor, context: Tensor, generator: Generator = None) -> Tensor:
    rows = at(emission.weights(), generator)[states]
    which = torch.multinomial(rows, 1, generator=generator).squeeze(1)
    return drawn(emission.component, states * emission.n_mix + which, context, generator)


@drawn.register
def _(emission: Product, states: Tensor, context: Tensor, generator: Generator = None) -> Tensor:
    return in_order(
        emission, [drawn(block, states, context[:, c], generator) for block, c in contexts(emission)]
    )
