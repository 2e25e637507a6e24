"""sample_posterior: arrays named and named alike as the fit's, around it, and as wide as they should be."""

import numpy as np
import pytest

from dbn_vae import (
    GMMHMM,
    BernoulliHMM,
    CategoricalHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    VariationalGaussianHMM,
)

LENGTHS = [60, 1, 59]
GROUP = np.repeat([0, 1, 0, 1, 0, 1], 20)
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(120, 2)) + 5 * GROUP[:, None]
PROPER = {"means_weight": 0.5, "covars_prior": 1.0, "covars_weight": 12.0}
MODELS = {
    "diag": (GaussianHMM(2, "diag", **PROPER), REAL),
    "spherical": (GaussianHMM(2, "spherical", **PROPER), REAL),
    "full": (GaussianHMM(2, "full", **PROPER), REAL),
    "tied": (GaussianHMM(2, "tied", **PROPER), REAL),
    "mixture": (
        GMMHMM(2, 2, covariance_type="full", means_weight=0.5, covars_prior=1.0, covars_weight=4.0),
        REAL,
    ),
    "categorical": (CategoricalHMM(2), np.where(RNG.random(120) < 0.8, GROUP, 2)[:, None]),
    "bernoulli": (BernoulliHMM(2), (RNG.random((120, 3)) < np.where(GROUP, 0.9, 0.1)[:, None]).astype(int)),
    "poisson": (PoissonHMM(2, lambdas_prior=1.0, lambdas_weight=0.5), RNG.poisson(1 + 9 * GROUP[:, None])),
    "multinomial": (
        MultinomialHMM(2),
        np.where(
            GROUP[:, None],
            RNG.multinomial(5, [0.7, 0.2, 0.1], 120),
            RNG.multinomial(5, [0.1, 0.2, 0.7], 120),
        ),
    ),
}


@pytest.mark.some(4)
@pytest.mark.parametrize("name", MODELS)
def test_draws_lie_around_the_fit_under_its_names(name: str) -> None:
    """Every parameter's draws hold the MAP estimate within their range; the two states are never mixed up."""
    model, X = MODELS[name]
    model.set_params(random_state=0, n_iter=100).fit(X, LENGTHS)
    fitted = {a.lstrip("_"): np.array(getattr(model, a.lstrip("_"))) for a in model.learnt()}
    free = model.n_parameters()
    draws = model.sample_posterior(X, LENGTHS, n_draws=60, burn_in=10)
    assert set(draws) == {*fitted, "log_likelihood"}
    for attribute, value in fitted.items():
        assert draws[attribute].shape == (60, *value.shape)
        assert np.array_equal(getattr(model, attribute), value), f"{attribute} of the model was changed"
    assert np.allclose(draws["transmat_"].sum(-1), 1)
    assert (draws["log_likelihood"] <= model.score(X, LENGTHS) + 1e-6).mean() > 0.9, (
        "a fit is near the maximum"
    )
    if name != "mixture":
        parameter = next(iter(type(model).letters.values()))
        low, high = draws[parameter].min(0), draws[parameter].max(0)
        assert ((low - 0.02 <= fitted[parameter]) & (fitted[parameter] <= high + 0.02)).all()
    assert model.n_parameters() == free
    again = model.sample_posterior(X, LENGTHS, n_draws=60, burn_in=10)
    assert np.array_equal(again["transmat_"], draws["transmat_"]), "the same random_state, other draws"


def test_what_params_leaves_out_stays_and_the_rest_moves() -> None:
    model = GaussianHMM(2, params="tc", random_state=0, n_iter=20, **PROPER).fit(REAL, LENGTHS)
    draws = model.sample_posterior(REAL, LENGTHS, n_draws=5, burn_in=0)
    assert (draws["means_"] == model.means_).all()
    assert (draws["startprob_"] == model.startprob_).all()
    assert draws["covars_"].std(0)[:, 0, 0].min() > 0


def test_what_cannot_be_drawn_is_said_with_the_remedy() -> None:
    model = GaussianHMM(2, random_state=0, n_iter=20).fit(REAL)
    with pytest.raises(ValueError, match="means_weight"):
        model.sample_posterior(REAL)
    with pytest.raises(ValueError, match="covars_weight"):
        model.set_params(means_weight=1.0).sample_posterior(REAL)
    with pytest.raises(ValueError, match="n_draws=0"):
        model.sample_posterior(REAL, n_draws=0)
    bayes = VariationalGaussianHMM(2, random_state=0).fit(REAL)
    with pytest.raises(TypeError, match="_posterior_"):
        bayes.sample_posterior(REAL)
