"""Families that read inputs, at inputs that are known: each is then a plain family, and answers as one.

under        p(x | u, s = k) as a family of x alone, for one u
over_inputs  what such families say of rows, each under its own u
"""

from collections.abc import Callable
from functools import singledispatch
from typing import TypeVar

import torch
from torch import Tensor

from dbn_vae.emissions.autoregressive import Autoregressive
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.emissions.dense_gaussian import FullGaussian
from dbn_vae.emissions.linear_regression import LinearRegression
from dbn_vae.emissions.logistic_regression import LogisticRegression
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.product import Product

Rows = Tensor | slice
E = TypeVar("E", bound=Emission)


@singledispatch
def under(emission: Emission, u: Tensor) -> Emission:
    """The family under inputs u (U,), which reads none.

    Raises NotImplementedError for a family that registers nothing here and conditions on more than the state.
    """
    return without_context(emission)


def without_context(emission: E) -> E:
    if emission.n_context:
        name = type(emission).__name__
        raise NotImplementedError(
            f"what {name} is under given inputs is not known: register {name} with `under` of dbn_vae.emissions.inputs"
        )
    return emission


@under.register(Autoregressive)
def _(emission: Autoregressive, u: Tensor) -> Emission:
    return without_context(emission)  # its regressors are earlier frames


@under.register
def _(emission: LinearRegression, u: Tensor) -> Emission:
    return FullGaussian(emission.mean + emission.slope @ u, emission.covariance())


@under.register
def _(emission: LogisticRegression, u: Tensor) -> Emission:
    family = Bernoulli(torch.full_like(emission.intercept, 0.5))
    with torch.no_grad():
        family.logits.copy_(emission.logits(u))  # not by way of the probability, which may round to 0 or 1
    return family


@under.register
def _(emission: Mixture, u: Tensor) -> Emission:
    return Mixture(under(emission.component, u), emission.weights())


@under.register
def _(emission: Product, u: Tensor) -> Emission:
    return Product([under(block, u) for block in emission.emissions()], emission.columns)


def over_inputs(emission: Emission, inputs: Tensor | None, ask: Callable[[Emission, Rows], Tensor]) -> Tensor:
    """ask(family, rows) of the rows of each input, together in the order of the rows; rows of one input at once.

    inputs: (n, U) of n ≥ 1 rows; not looked at for a family that reads none, which is asked of all rows.
    """
    if not emission.n_inputs or inputs is None:
        return ask(emission, slice(None))
    values, which = inputs.unique(dim=0, return_inverse=True)
    order = which.argsort(stable=True)
    parts = order.split(which.bincount().tolist())
    found = [ask(under(emission, u), rows) for u, rows in zip(values, parts, strict=True)]
    return torch.cat(found)[order.argsort()]
