"""Names of states, and what a fit says of itself."""

import warnings
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from dbn_vae import (
    BernoulliHMM,
    CategoricalHMM,
    GaussianHMM,
    PoissonHMM,
    VariationalCategoricalHMM,
    VariationalGaussianHMM,
)
from dbn_vae.estimators import hmm
from dbn_vae.training.em import EMStep, em

RNG = np.random.default_rng(0)
GROUP = np.repeat(RNG.permutation([0, 1, 2] * 15), 4)[:, None]
REAL = RNG.normal(size=(180, 2)) + np.array([[0, 0], [6, 0], [0, 6]])[GROUP[:, 0]]
COUNTS = RNG.poisson(np.array([1, 8, 30])[GROUP]).astype(float)
SYMBOLS = np.where(RNG.random((180, 1)) < 0.7, GROUP, RNG.integers(0, 3, (180, 1))).astype(float)
FITS: dict[str, tuple[Any, np.ndarray]] = {
    **{
        f"gaussian-{c}": (GaussianHMM(3, c, random_state=0), REAL)
        for c in ("diag", "spherical", "full", "tied")
    },
    **{
        f"variational-{c}": (VariationalGaussianHMM(3, c, random_state=0, n_iter=20), REAL)
        for c in ("diag", "spherical", "full", "tied")
    },
    "categorical": (CategoricalHMM(3, random_state=0), SYMBOLS),
    "variational-categorical": (VariationalCategoricalHMM(3, random_state=0, n_iter=20), SYMBOLS),
    "poisson": (PoissonHMM(3, random_state=0), COUNTS),
    "bernoulli": (BernoulliHMM(3, random_state=0), (COUNTS > 5).astype(float)),
}
every = pytest.mark.parametrize("name", FITS)


def fitted(name: str) -> tuple[Any, np.ndarray]:
    model, X = FITS[name]
    return clone(model).fit(X), X


# -- names


@every
def test_other_names_change_no_number(name: str) -> None:
    model, X = fitted(name)
    score, gamma, covars = model.score(X), model.predict_proba(X), getattr(model, "covars_", None)
    order = [2, 0, 1]
    assert model.reorder(order) is model
    assert model.score(X) == pytest.approx(score, rel=1e-12)
    assert_allclose(model.predict_proba(X), gamma[:, order], atol=1e-9)
    if covars is not None:
        assert_array_equal(model.covars_, covars[order])
    # learning goes on from there as it would have
    before = clone(model).set_params(init_params="", n_iter=2, tol=-np.inf)
    for attribute in model.kept():
        setattr(before, attribute, np.copy(getattr(model, attribute)))
    before.reorder(np.argsort(order)).fit(X)
    after = model.set_params(init_params="", n_iter=2, tol=-np.inf).fit(X)
    assert_allclose(after.monitor_.history, before.monitor_.history, rtol=1e-10)


@every
def test_sorted_states_have_one_name_whatever_the_seed(name: str) -> None:
    model, X = fitted(name)
    sorted_, shuffled = clone(model).fit(X).sort_states(), model.reorder([1, 2, 0]).sort_states()
    for attribute in model.kept():
        assert_array_equal(getattr(sorted_, attribute), getattr(shuffled, attribute), err_msg=attribute)
    key = getattr(sorted_, next(iter(type(model).letters.values())))[:, 0]
    assert (np.diff(key) >= 0).all()


def test_states_are_sorted_by_what_is_asked() -> None:
    model, _ = fitted("gaussian-diag")
    assert (np.diff(model.sort_states("occupancy").get_stationary_distribution()) <= 0).all()
    assert (np.diff(model.sort_states(model.means_[:, 1]).means_[:, 1]) > 0).all()
    for by in ("mean", [1, 2], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=r"by=.*'occupancy' or 3 numbers"):
            model.sort_states(by)
    with pytest.raises(ValueError, match=r"order=\[0, 0, 1\] must name each of the 3 states once"):
        model.reorder([0, 0, 1])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_aligned_models_agree(order: tuple[int, ...]) -> None:
    """Back from every renaming; and two families on the same frames, though their parameters have no common unit."""
    model, X = fitted("gaussian-full")
    other = clone(model).fit(X).reorder(order)
    assert_array_equal(other.align_to(model, X).means_, model.means_)
    binned = CategoricalHMM(3, random_state=0, n_iter=50).fit(GROUP).reorder(order)
    assert (binned.align_to(SameFrames(model, X), GROUP).predict(GROUP) == model.predict(X)).mean() > 0.95


class SameFrames:
    """A model asked about its own view of the frames."""

    def __init__(self, model: Any, X: np.ndarray) -> None:
        self.model, self.X = model, X

    def predict_proba(self, X: Any, lengths: Any = None) -> np.ndarray:
        return np.asarray(self.model.predict_proba(self.X, lengths))


def test_models_of_different_size_do_not_align() -> None:
    model, X = fitted("gaussian-diag")
    with pytest.raises(ValueError, match="other has 2 states, this model 3"):
        model.align_to(GaussianHMM(2, random_state=0).fit(X), X)


# -- warnings, each with its remedy


def said(model: Any, X: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, **options)
    assert all(w.category is ConvergenceWarning for w in caught)
    return [str(w.message) for w in caught]


def test_a_good_fit_says_nothing() -> None:
    for model in (
        GaussianHMM(3, random_state=0, n_iter=100),
        VariationalGaussianHMM(5, random_state=0, n_iter=500),
    ):
        assert said(model, REAL) == []
        assert model.monitor_.reason.startswith(f"converged: after {model.monitor_.iter} updates")


def test_an_early_stop_is_said() -> None:
    model = GaussianHMM(3, random_state=0, n_iter=1, n_init=1)
    (message,) = said(model, REAL)
    assert "GaussianHMM: it has not converged: stopped at n_iter=1 updates" in message
    assert "raise n_iter" in message
    for quiet in ({"tol": -np.inf}, {"n_iter": 0}):  # asked for so many updates, or none
        assert said(clone(model).set_params(**quiet), REAL) == []


def test_a_dead_state_is_said() -> None:
    """The third state is far from every frame and never entered."""
    model = GaussianHMM(3, init_params="", n_iter=5, tol=1e3)
    model.startprob_, model.transmat_ = (
        np.array([0.5, 0.5, 0]),
        np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]),
    )
    model.means_, model.covars_ = np.array([[0.0, 0], [3, 3], [99, 99]]), np.ones((3, 2))
    (message,) = said(model, REAL)
    assert "states [2] explain less than one frame; use fewer states, or more starts (n_init)" in message


@pytest.mark.parametrize("covariance_type", ["diag", "spherical", "full", "tied"])
def test_a_collapsed_variance_is_said(covariance_type: str) -> None:
    X = np.vstack([np.zeros((30, 2)), RNG.normal(5, 1, (30, 2))])
    if covariance_type == "tied":
        X[:, 0] = np.where(X[:, 0] == 0, 0, 5)
    model = GaussianHMM(2, covariance_type, covars_prior=0, min_covar=0.01, n_iter=200, random_state=0)
    (message,) = said(model, X)
    assert "would collapse and is held at min_covar=0.01" in message
    assert "covars_prior" in message


@pytest.mark.parametrize(("loss", "warned"), [(1e-3, True), (1e-12, False)])
def test_a_likelihood_that_falls_is_said(loss: float, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """EM cannot lose; where a step does beyond rounding, something is wrong."""

    def losing(*arguments: Any) -> Iterator[EMStep]:
        for i, step in enumerate(em(*arguments)):
            yield EMStep(-10.0 - loss * i, -10.0 - loss * i, step.found)

    monkeypatch.setattr(hmm, "em", losing)
    messages = said(GaussianHMM(2, n_init=1, n_iter=3, tol=-np.inf, random_state=0), REAL)
    assert any("lost 0.001 nats, which EM cannot" in m for m in messages) == warned
    assert len(messages) == (2 if warned else 0)


def test_visits_are_expected_steps() -> None:
    model = GaussianHMM(3, random_state=0, n_iter=3).fit(REAL, lengths=[100, 80], sample_weight=[2, 1])
    data = model.read(REAL, [100, 80], weights=[2, 1])
    step = next(iter(em(model.state_model(), data)))
    gamma = model.predict_proba(REAL, [100, 80])
    assert_allclose(step.visits, 2 * gamma[:100].sum(0) + gamma[100:].sum(0), rtol=1e-10)
    assert torch.is_tensor(step.visits)
