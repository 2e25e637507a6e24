"""A model goes to hmmlearn and back, fitted or not, and both packages say the same of data."""

from typing import Any

import hmmlearn.hmm
import hmmlearn.vhmm
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dbn_vae
from dbn_vae import from_hmmlearn, to_hmmlearn

LENGTHS = [30, 1, 29]
CASES: dict[str, tuple[Any, dict[str, Any], str]] = {
    **{
        f"{name}-{c}": (getattr(module, name), {"covariance_type": c}, "real")
        for module, name in ((hmmlearn.hmm, "GaussianHMM"), (hmmlearn.vhmm, "VariationalGaussianHMM"))
        for c in ("diag", "spherical", "full", "tied")
        if (name, c) != ("VariationalGaussianHMM", "spherical")  # hmmlearn's own fit breaks there
    },
    "CategoricalHMM": (hmmlearn.hmm.CategoricalHMM, {}, "symbols"),
    "VariationalCategoricalHMM": (hmmlearn.vhmm.VariationalCategoricalHMM, {}, "symbols"),
    "PoissonHMM": (hmmlearn.hmm.PoissonHMM, {}, "counts"),
    "MultinomialHMM": (hmmlearn.hmm.MultinomialHMM, {"n_trials": 7}, "rows"),
    **{
        f"GMMHMM-{c}": (hmmlearn.hmm.GMMHMM, {"covariance_type": c, "n_mix": 2}, "real")
        for c in ("diag", "spherical", "full", "tied")
    },
}
every = pytest.mark.parametrize("case", CASES)


def frames(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, (sum(LENGTHS), 1))
    return {
        "real": rng.normal(size=(60, 2)) + 4 * group,
        "symbols": (group + rng.integers(0, 2, (60, 1))),
        "rows": np.where(
            group, rng.multinomial(7, [0.7, 0.2, 0.1], 60), rng.multinomial(7, [0.1, 0.3, 0.6], 60)
        ),
        "counts": rng.poisson(2 + 9 * group * [1, 0.5]),
    }[kind]


@every
def test_a_fitted_model_of_hmmlearn_says_the_same_here(case: str) -> None:
    make, options, kind = CASES[case]
    X = frames(kind)
    theirs = make(2, random_state=0, n_iter=5, tol=0.1, params=make().params, **options).fit(X, LENGTHS)
    ours = from_hmmlearn(theirs)
    assert type(ours).__name__ == make.__name__
    assert ours.get_params()["tol"] == 0.1
    back = to_hmmlearn(ours)
    assert type(back) is make
    for model in (ours, back):
        assert_allclose(model.score(X, LENGTHS), theirs.score(X, LENGTHS), rtol=1e-10)
        assert_allclose(model.predict_proba(X, LENGTHS), theirs.predict_proba(X, LENGTHS), atol=1e-9)


@pytest.mark.some(4)
@every
def test_a_model_fitted_here_says_the_same_in_hmmlearn_and_learns_on(case: str) -> None:
    make, options, kind = CASES[case]
    X = frames(kind)
    ours = getattr(dbn_vae, make.__name__)(2, random_state=0, n_iter=3, **options).fit(X, LENGTHS)
    theirs = to_hmmlearn(ours)
    assert_allclose(theirs.score(X, LENGTHS), ours.score(X, LENGTHS), rtol=1e-10)
    again = from_hmmlearn(theirs)
    assert again.kept() == ours.kept()
    for name in ours.kept():
        assert_array_equal(getattr(again, name), getattr(ours, name), err_msg=name)
    theirs.set_params(init_params="")
    theirs.fit(X, LENGTHS)
    for model in (ours, again):
        model.set_params(init_params="", n_iter=1, tol=-np.inf)
    assert again.fit(X, LENGTHS).monitor_.history == ours.fit(X, LENGTHS).monitor_.history


@every
def test_arguments_go_over_without_a_fit(case: str) -> None:
    make, options, _ = CASES[case]
    theirs = make(3, n_iter=7, algorithm="map", **options)
    ours = from_hmmlearn(theirs)
    assert not ours.is_fitted()
    again = to_hmmlearn(ours).get_params()
    assert again == theirs.get_params()


def test_a_subclass_goes_over_as_what_it_is() -> None:
    class Mine(hmmlearn.hmm.GaussianHMM):
        pass

    assert type(from_hmmlearn(Mine(2))) is dbn_vae.GaussianHMM


def test_a_model_without_counterpart_is_refused() -> None:
    with pytest.raises(TypeError, match=r"LinearRegression has no counterpart.*GaussianHMM"):
        from sklearn.linear_model import LinearRegression

        from_hmmlearn(LinearRegression())
    with pytest.raises(TypeError, match="BernoulliHMM has no counterpart"):
        to_hmmlearn(dbn_vae.BernoulliHMM())
