"""The variational estimators: hmmlearn's numbers where its bound is right, and what a bound is good for.

The bound itself is held to exact evidence in tests/training/test_vb.py.
"""

import math
from pathlib import Path
from typing import Any

import hmmlearn.vhmm
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dbn_vae import (
    CategoricalHMM,
    GaussianHMM,
    VariationalCategoricalHMM,
    VariationalGaussianHMM,
    load,
)

LENGTHS = [40, 1, 59]
N = sum(LENGTHS)


def put(model: Any, values: dict[str, Any]) -> Any:
    for name, value in values.items():
        setattr(model, name, np.asarray(value) if np.ndim(value) else value)
    return model


def chain_start(rng: np.random.Generator, K: int) -> dict[str, Any]:
    return {
        "startprob_prior_": rng.uniform(0.3, 2, K),
        "startprob_posterior_": rng.uniform(1, 5, K),
        "transmat_prior_": rng.uniform(0.3, 2, (K, K)),
        "transmat_posterior_": rng.uniform(1, 20, (K, K)),
    }


def gaussian_start(rng: np.random.Generator, kind: str, K: int, D: int) -> dict[str, Any]:
    root = rng.normal(size=(K, D, 2 * D))
    scale = root @ root.mT if kind == "full" else (root @ root.mT)[0]
    tied = kind == "tied"
    return {
        "means_prior_": rng.normal(size=(K, D)),
        "means_posterior_": rng.normal(size=(K, D)),
        "beta_prior_": rng.uniform(0.5, 2, K),
        "beta_posterior_": rng.uniform(5, 20, K),
        "dof_prior_": float(D + 0.5) if tied else D + rng.uniform(0, 2, K),
        "dof_posterior_": float(D + 30) if tied else D + rng.uniform(10, 30, K),
        "scale_prior_": 0.3 * scale,
        "scale_posterior_": 10 * scale,
    }


@pytest.mark.parametrize("params", ["ste", "st", "e"])
@pytest.mark.parametrize("seed", range(10))
def test_categorical_bounds_are_hmmlearns_at_every_iteration(seed: int, params: str) -> None:
    rng = np.random.default_rng(seed)
    K, V = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    begin = chain_start(rng, K)
    begin["emissionprob_prior_"], begin["emissionprob_posterior_"] = rng.uniform(0.3, 9, (2, K, V))
    X = rng.integers(0, V, (N, 1))
    options = {"init_params": "", "params": params, "n_iter": 12, "tol": -np.inf, "n_features": V}
    ours = put(VariationalCategoricalHMM(K, **options), begin).fit(X, LENGTHS)
    theirs = put(hmmlearn.vhmm.VariationalCategoricalHMM(K, **options), begin)
    theirs.startprob_, theirs.transmat_ = np.full(K, 1 / K), np.full((K, K), 1 / K)  # read, where frozen
    theirs.fit(X, LENGTHS)
    assert_allclose(ours.monitor_.history[:-1], list(theirs.monitor_.history), rtol=1e-10)
    for name in begin:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, err_msg=name)
    if params == "ste":
        assert_allclose(ours.score(X, LENGTHS), theirs.score(X, LENGTHS), rtol=1e-10)
        assert_allclose(ours.predict_proba(X, LENGTHS), theirs.predict_proba(X, LENGTHS), atol=1e-9)
        # two paths may tie, and either is right
        assert_allclose(ours.decode(X, LENGTHS)[0], theirs.decode(X, LENGTHS)[0], rtol=1e-10)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("seed", range(10))
def test_gaussian_posteriors_are_hmmlearns_and_bounds_but_for_its_constant(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    K, D = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    begin = chain_start(rng, K) | gaussian_start(rng, kind, K, D)
    X = 2 * rng.normal(size=(N, D)) + 3 * rng.integers(0, 2, (N, 1))
    options = {"init_params": "", "n_iter": 12, "tol": -np.inf}
    ours = put(VariationalGaussianHMM(K, kind, **options), begin).fit(X, LENGTHS)
    theirs = put(hmmlearn.vhmm.VariationalGaussianHMM(K, kind, **options), begin)
    theirs.n_features = D
    theirs.fit(X, LENGTHS)
    constant = N * D / 2 * math.log(2 * math.pi)
    assert_allclose(np.array(ours.monitor_.history[:-1]) + constant, list(theirs.monitor_.history), rtol=1e-9)
    for name in begin:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7, err_msg=name)
    assert_allclose(ours.covars_, theirs.covars_, rtol=1e-7)
    assert_allclose(ours.score(X, LENGTHS), theirs.score(X, LENGTHS), rtol=1e-9)


def three_groups(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(150, 2)) + 6 * np.repeat(rng.integers(0, 3, 30), 5)[:, None]


@pytest.mark.parametrize(
    "kind", ["full", "diag", *(pytest.param(k, marks=pytest.mark.thorough) for k in ("tied", "spherical"))]
)
def test_too_many_states_are_left_at_their_prior(kind: str) -> None:
    X = three_groups(0)
    model = VariationalGaussianHMM(6, kind, random_state=0, n_init=16).fit(X)
    assert len(np.unique(model.predict(X))) == 3
    assert (model.beta_posterior_ > 1.01).sum() == 3, "the others have seen no frame"
    bound = {
        k: VariationalGaussianHMM(k, kind, random_state=0).fit(X).monitor_.history[-1] for k in (1, 2, 3)
    }
    assert max(bound, key=bound.__getitem__) == 3


def test_with_many_frames_the_posterior_means_are_the_maximum() -> None:
    """The prior's weight is fixed and the data's grows."""
    truth = GaussianHMM(2)
    truth.startprob_, truth.transmat_ = np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.2, 0.8]])
    truth.means_, truth.covars_ = np.array([[0.0], [5.0]]), np.ones((2, 1))
    X = truth.sample(20_000, random_state=0)[0]
    bayes = VariationalGaussianHMM(2, "diag", random_state=0, n_init=1).fit(X).sort_states()
    most = GaussianHMM(2, covars_prior=0, random_state=0, n_init=1, n_iter=50).fit(X).sort_states()
    for name in ("means_", "covars_", "transmat_"):
        assert_allclose(getattr(bayes, name), getattr(most, name), rtol=2e-3, atol=2e-3, err_msg=name)


def test_init_params_leaves_posteriors_alone_and_a_second_fit_goes_on() -> None:
    X = three_groups(1)
    model = VariationalGaussianHMM(3, random_state=0, n_iter=3, tol=-np.inf).fit(X)
    first = model.monitor_.history
    again = model.set_params(init_params="").fit(X).monitor_.history
    assert again[0] == pytest.approx(first[-1], rel=1e-12)
    means = model.means_posterior_
    frozen = model.set_params(params="stc").fit(X)
    assert_allclose(frozen.means_posterior_, means, rtol=1e-12)


def test_a_file_holds_the_posteriors(tmp_path: Path) -> None:
    X = three_groups(2)
    for kind in ("full", "tied"):
        model = VariationalGaussianHMM(2, kind, random_state=0, n_iter=3).fit(X)
        model.save(tmp_path / "m.dbn")
        again: Any = load(tmp_path / "m.dbn")
        for name in ("means", "beta", "dof", "scale", "startprob", "transmat"):
            for which in ("prior", "posterior"):
                attribute = f"{name}_{which}_"
                assert_array_equal(getattr(again, attribute), getattr(model, attribute), err_msg=attribute)
        again.set_params(init_params="", n_iter=1, tol=-np.inf)
        assert again.fit(X).monitor_.history[0] == pytest.approx(model.monitor_.history[-1], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta_prior": 0}, "beta_prior.*must be positive"),
        ({"dof_prior": 0.5}, "dof_prior.*above 1"),
        ({"scale_prior": -np.eye(2)}, "scale_prior must be positive definite"),
        ({"means_prior": np.zeros(3)}, r"means_prior has shape \(3,\)"),
        ({"transmat_prior": 0.0}, "transmat_prior.*must be positive"),
        ({"covariance_type": "round"}, "covariance_type='round'"),
        ({"params": "x"}, "params='x'"),
    ],
)
def test_wrong_priors_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VariationalGaussianHMM(2, **options).fit(three_groups(0))


def test_symbols_of_few_frames_are_not_impossible() -> None:
    """Where maximum likelihood says 0, the posterior mean does not."""
    X = np.array([[0], [1], [0], [1]])
    assert CategoricalHMM(1, n_features=3).fit(X).score([[2]]) == -np.inf
    assert np.isfinite(VariationalCategoricalHMM(1, n_features=3).fit(X).score([[2]]))
