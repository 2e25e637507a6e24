"""Arguments that cannot be are refused by name before any work is done."""

import math
import re

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone

import dbn_vae
from dbn_vae.emissions import DiagonalGaussian

X = np.random.default_rng(0).integers(0, 2, (40, 1)).astype(float)


def made(kind: type[BaseEstimator]) -> BaseEstimator:
    if kind in (dbn_vae.HSMM, dbn_vae.EmissionHMM):
        return kind(DiagonalGaussian(torch.zeros(2, 1).double(), torch.ones(2, 1).double()))
    return kind()


PUBLIC = [getattr(dbn_vae, name) for name in dbn_vae.__all__]
KINDS = [k for k in PUBLIC if isinstance(k, type) and issubclass(k, BaseEstimator)]
NUMBERS = [
    (kind, name, value)
    for kind in KINDS
    for name, value in made(kind).get_params(deep=False).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]


def test_all_of_them_are_asked() -> None:
    assert {dbn_vae.GaussianHMM, dbn_vae.VAEHMM, dbn_vae.DeepMarkovModel, dbn_vae.HSMM, dbn_vae.VAE} <= set(
        KINDS
    )
    assert len(NUMBERS) > 100


@pytest.mark.parametrize(
    ("kind", "name", "value"), NUMBERS, ids=[f"{kind.__name__}-{name}" for kind, name, _ in NUMBERS]
)
def test_what_is_no_such_number_is_refused_by_its_name(
    kind: type[BaseEstimator], name: str, value: float
) -> None:
    """A word and NaN for every number, and half of one for every count."""
    counts = isinstance(value, int) and "prior" not in name and "weight" not in name
    for wrong in ("many", math.nan, *((0.5,) if counts else ())):
        with pytest.raises(ValueError, match=re.escape(f"{name}={wrong}").replace("=many", "='?many")):
            clone(made(kind)).set_params(**{name: wrong}).fit(X)


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        (dbn_vae.DeepMarkovModel, {"learning_rate": 0}, "learning_rate=0; it must be a number above 0"),
        (dbn_vae.DeepMarkovModel, {"max_length": 0}, "max_length=0; it must be a whole number from 1"),
        (dbn_vae.VAE, {"hidden": (32, 0)}, "hidden=0; it must be a whole number from 1"),
        (dbn_vae.SwitchingDMM, {"n_components": 0}, "n_components=0; it must be a whole number from 1"),
        (dbn_vae.VAEHMM, {"stickiness": -1}, "stickiness=-1; it must be a number from 0"),
        (dbn_vae.GaussianHMM, {"min_covar": -1e-3}, "min_covar=-0.001; it must be a number from 0"),
        (dbn_vae.GaussianHMM, {"n_iter": -1}, "n_iter=-1; it must be a whole number from 0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_range(
    kind: type[BaseEstimator], wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        kind(**wrong).fit(X)
