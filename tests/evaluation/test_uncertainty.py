"""Standard errors: textbook formulas where there are any, differences where there are none, and coverage."""

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import posterior_slope, random_chain, slope_of_slope
from scipy.stats import binom
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from dbn_vae import (
    GMMHMM,
    VAEHMM,
    BernoulliHMM,
    CategoricalHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    Sequences,
    VariationalGaussianHMM,
    inference,
    uncertainty,
)
from dbn_vae.estimators.classical import ClassicalHMM
from dbn_vae.evaluation import information
from dbn_vae.evaluation.chain_quantities import model_quantities
from dbn_vae.evaluation.information import Free, free_coordinates, jacobian, observed_information
from dbn_vae.evaluation.likelihood import ratio_error

RNG = np.random.default_rng(0)
N = 90
LENGTHS = [30, 1, 9, 20, 2, 28]
GROUP = np.repeat(RNG.integers(0, 2, N // 3), 3)
REAL = RNG.normal(size=(N, 2)) + 2 * GROUP[:, None]
REAL[RNG.random((N, 2)) < 0.1] = np.nan
COUNTS = RNG.poisson(np.array([2.0, 7.0])[GROUP])[:, None].astype(float)
SYMBOLS = np.where(RNG.random(N) < 0.7, GROUP, RNG.integers(0, 3, N))[:, None].astype(float)
BITS = (RNG.random((N, 2)) < np.array([0.2, 0.7])[GROUP][:, None]).astype(float)
TRIALS = RNG.multinomial(5, [0.2, 0.3, 0.5], N).astype(float)
COMMON: dict[str, Any] = {"random_state": 0, "n_init": 1, "n_iter": 400, "tol": 1e-9}
FITS: dict[str, tuple[ClassicalHMM, np.ndarray]] = {
    **{c: (GaussianHMM(2, c, means_weight=1.0, **COMMON), REAL) for c in ("diag", "spherical", "full", "tied")},
    **{
        f"mixture {c}": (GMMHMM(2, n_mix=2, covariance_type=c, **COMMON), REAL)
        for c in ("diag", "spherical", "full", "tied")
    },
    "poisson": (PoissonHMM(2, lambdas_prior=1.0, lambdas_weight=0.5, **COMMON), COUNTS),
    "categorical": (CategoricalHMM(2, emissionprob_prior=2.0, **COMMON), SYMBOLS),
    "bernoulli": (BernoulliHMM(2, emissionprob_prior=1.5, **COMMON), BITS),
    "multinomial": (MultinomialHMM(2, n_trials=5, transmat_prior=1.5, **COMMON), TRIALS),
}  # fmt: skip
every = pytest.mark.parametrize("name", FITS)


def standard_error(table: pd.DataFrame, parameter: str) -> np.ndarray:
    return table.loc[table["parameter"] == parameter, "standard error"].to_numpy()


# -- textbook formulas: one state is a sample from one distribution


def one_state(model: Any, X: np.ndarray, **options: Any) -> pd.DataFrame:
    return uncertainty(model.set_params(tol=1e-12, n_iter=100).fit(X), X, **options)


def test_one_gaussian() -> None:
    """σ / √n, σ² √(2 / n), and for matrices √((Σ_dd Σ_ee + Σ_de²) / n), entry by entry."""
    X = RNG.normal([3.0, -1e4], [2.0, 50.0], (40, 2)) @ np.array([[1.0, 0.4], [0, 1.0]])
    variance = X.var(0)
    table = one_state(GaussianHMM(1, covars_prior=0), X)
    assert_allclose(standard_error(table, "means"), np.sqrt(variance / 40), rtol=1e-9)
    assert_allclose(standard_error(table, "covars"), variance * np.sqrt(2 / 40), rtol=1e-9)
    S = np.cov(X.T, bias=True)
    table = one_state(GaussianHMM(1, "full", covars_prior=0), X)
    assert_allclose(standard_error(table, "means"), np.sqrt(variance / 40), rtol=1e-9)
    rows = table[table["parameter"] == "covars"]
    assert rows["index"].tolist() == [(0, 0), (1, 0), (1, 1)]
    expected = [np.sqrt((S[d, d] * S[e, e] + S[d, e] ** 2) / 40) for d, e in rows["index"]]
    assert_allclose(rows["standard error"], expected, rtol=1e-8)


def test_missing_frames_tell_nothing() -> None:
    X = RNG.normal(size=(50, 1))
    X[::2] = np.nan
    seen = X[1::2]
    assert_allclose(
        standard_error(one_state(GaussianHMM(1, covars_prior=0), X), "means"), seen.std() / 5, rtol=1e-9
    )


def test_one_discrete_distribution() -> None:
    """√(p (1 − p) / n) for symbols, yes or no, and trials; √(λ / n) for counts."""
    p = np.bincount(SYMBOLS[:, 0].astype(int)) / N
    assert_allclose(
        standard_error(one_state(CategoricalHMM(1), SYMBOLS), "emissionprob"),
        np.sqrt(p * (1 - p) / N),
        rtol=1e-9,
    )
    p = TRIALS.mean(0) / 5
    assert_allclose(
        standard_error(one_state(MultinomialHMM(1), TRIALS), "emissionprob"),
        np.sqrt(p * (1 - p) / (5 * N)),
        rtol=1e-9,
    )
    p = BITS.mean(0)
    assert_allclose(
        standard_error(one_state(BernoulliHMM(1), BITS), "emissionprob"), np.sqrt(p * (1 - p) / N), rtol=1e-9
    )
    assert_allclose(
        standard_error(one_state(PoissonHMM(1), COUNTS), "lambdas"), np.sqrt(COUNTS.mean() / N), rtol=1e-9
    )


def test_a_prior_counts_as_the_frames_it_is_worth() -> None:
    X = RNG.normal(size=(20, 1))
    model = GaussianHMM(1, means_weight=5.0, params="stm", init_params="", n_iter=5)
    model.startprob_, model.transmat_, model.means_, model.covars_ = [1.0], [[1.0]], [[0.0]], [[4.0]]
    assert_allclose(standard_error(one_state(model, X), "means"), 2 / np.sqrt(25), rtol=1e-9)


def test_states_known_apart_are_samples_of_their_own() -> None:
    """Far apart, the states are as good as known: each mean has σ_k / √n_k, and moves are counted."""
    state = np.repeat([0, 1, 0, 1, 0, 1, 0], [10, 30, 20, 15, 25, 5, 15])
    X = (RNG.normal(size=120) + 1000 * state)[:, None]
    model = GaussianHMM(2, covars_prior=0, min_covar=0, **COMMON).fit(X).sort_states()
    table = uncertainty(model, X)
    n = np.bincount(state)
    spread = [X[state == k].std() for k in (0, 1)]
    assert_allclose(standard_error(table, "means"), spread / np.sqrt(n), rtol=1e-6)
    left = np.array([3, 3]) / (n - [1, 0])  # the last frame moves nowhere
    expected = np.sqrt(left * (1 - left) / (n - [1, 0]))
    assert_allclose(standard_error(table, "transmat").reshape(2, 2), expected[:, None] * [[1, 1]], rtol=1e-6)
    assert_allclose(standard_error(table, "mean stay"), expected / left**2, rtol=1e-6)


# -- derivatives


@pytest.mark.parametrize("seed", range(4))
def test_the_product_of_operators_is_the_partition_function(seed: int) -> None:
    chain = random_chain(4, 9, 3, seed=seed, zeros=0.3, varies="stationary" if seed % 2 else "time")
    assert_allclose(information.log_partition(chain), inference.log_partition(chain), rtol=1e-12)
    single = random_chain(2, 1, 3, seed=seed)
    assert_allclose(information.log_partition(single), inference.log_partition(single), rtol=1e-12)


def prepared(name: str) -> tuple[Any, Any, Sequences, list[Free]]:
    """A model a few updates from its start, with a structural zero."""
    estimator, X = FITS[name]
    estimator = clone(estimator).set_params(n_components=3, n_iter=3, tol=-np.inf).fit(X, lengths=LENGTHS)
    estimator.transmat_ = np.array([[0.7, 0.3, 0.0], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
    estimator.startprob_ = np.array([0.4, 0.35, 0.25])
    module, data = estimator.build(), estimator.read(X, LENGTHS, weights=[1, 2, 0.5, 1, 1, 3])
    estimator.prepare(module, data)
    return estimator, module, data, free_coordinates(module, data)


def slopes(module: Any, data: Sequences, free: list[Free]) -> np.ndarray:
    """∂ every quantity, of matrices both halves, / ∂ θ."""
    return jacobian([v for q in model_quantities(module, data) for v in q.value.flatten()], free)


@pytest.mark.some(4)
@every
def test_information_is_what_differences_of_the_gradient_give(name: str) -> None:
    _, module, data, free = prepared(name)
    found = observed_information(module, data, free)
    assert_allclose(found.gradient, posterior_slope(module, data, free), atol=1e-9)
    assert_allclose(found.matrix, slope_of_slope(module, data, free), atol=1e-7 * np.abs(found.matrix).max())


@every
def test_stationary_distribution_and_stay_by_their_formulas(name: str) -> None:
    """dπ = π dA (I − A + 1 π)⁻¹ (Schweitzer 1968), and d 1 / (1 − a) = da / (1 − a)²."""
    estimator, module, data, free = prepared(name)
    A, pi = estimator.transmat_, estimator.get_stationary_distribution()
    J = slopes(module, data, free)
    P = J.shape[1]
    dA = J[3:12].reshape(3, 3, P)  # targets: π (3), A (9), ...
    fundamental = np.linalg.inv(np.eye(3) - A + np.ones((3, 1)) * pi)
    assert_allclose(J[-6:-3], np.einsum("i,ijp,jk->kp", pi, dA, fundamental), atol=1e-10)
    stay = np.stack([dA[k, k] / (1 - A[k, k]) ** 2 for k in range(3)])
    assert_allclose(J[-3:], stay, atol=1e-9)
    rows = dA.sum(1)
    assert_allclose(rows, 0, atol=1e-11)
    assert_allclose(dA[0, 2], 0, atol=0)


@pytest.mark.some(4)
@every
@pytest.mark.parametrize("letters", ["all", "st", "none of the chain"])
def test_free_parameters_are_the_rank_of_what_may_move(name: str, letters: str) -> None:
    """n_parameters, which AIC and BIC pay for, against the dimension of the attributes' tangent space."""
    estimator, X = FITS[name]
    own = "".join(estimator.letters)
    chosen = {"all": "st" + own, "st": "st", "none of the chain": own}[letters]
    start, *_ = prepared(name)
    start.set_params(params=chosen, init_params="", n_iter=0).fit(X, lengths=LENGTHS)
    module, data = start.build(), start.read(X, LENGTHS)
    start.prepare(module, data)
    fixed = free_coordinates(module, data)
    everything = [Free(p, torch.isfinite(p.detach())) for p in module.parameters()]
    moved = [Free(f.parameter, f.which) for f, g in zip(everything, fixed, strict=True) if g.which.any()]
    J = slopes(module, data, moved)
    rank = np.linalg.matrix_rank(J / np.abs(J).max(0).clip(1e-6), tol=1e-6) if moved else 0
    assert rank == start.n_parameters() == sum(int(f.which.sum()) for f in fixed)


# -- invariances


def test_units_names_and_weights() -> None:
    model, X = FITS["diag"]
    fitted = clone(model).set_params(means_weight=0, covars_prior=0).fit(X, lengths=LENGTHS)
    table = uncertainty(fitted, X, LENGTHS)
    larger = clone(fitted).fit(1e3 * X, lengths=LENGTHS)
    scaled = uncertainty(larger, 1e3 * X, LENGTHS)
    assert_allclose(standard_error(scaled, "means"), 1e3 * standard_error(table, "means"), rtol=1e-3)
    assert_allclose(standard_error(scaled, "covars"), 1e6 * standard_error(table, "covars"), rtol=1e-3)
    renamed = uncertainty(fitted.reorder([1, 0]), X, LENGTHS)
    for parameter in ("means", "covars", "stationary", "mean stay"):
        there = renamed[renamed["parameter"] == parameter].sort_values(["state", "index"])
        here = table[table["parameter"] == parameter].assign(state=lambda t: 1 - t["state"])
        here = here.sort_values(["state", "index"])
        assert_allclose(there["standard error"], here["standard error"], rtol=1e-6)
    doubled = Sequences.from_any(X, LENGTHS, weights=[2.0] * len(LENGTHS))
    twice = uncertainty(fitted, doubled)
    again = uncertainty(fitted, np.vstack([X, X]), LENGTHS * 2)
    assert_allclose(standard_error(twice, "means"), standard_error(again, "means"), rtol=1e-9)
    assert_allclose(standard_error(twice, "means"), standard_error(renamed, "means") / np.sqrt(2), rtol=1e-2)


# -- the sandwich


def test_sandwich_of_one_rate_is_the_ratio_estimators_error() -> None:
    """λ = Σ x / Σ T over sequences, whose counts may vary more than Poisson counts do."""
    totals = RNG.poisson(RNG.gamma(1, 5, 12)).repeat(LENGTHS * 2)
    X = RNG.poisson(totals)[:, None].astype(float)
    model = PoissonHMM(1).fit(X, lengths=LENGTHS * 2)
    table = uncertainty(model, X, LENGTHS * 2, method="sandwich")
    borders = np.cumsum(LENGTHS * 2)[:-1]
    sums = torch.tensor([part.sum() for part in np.split(X, borders)])
    expected = ratio_error(sums, torch.tensor(LENGTHS * 2))
    assert_allclose(standard_error(table, "lambdas"), expected, rtol=1e-9)
    assert expected > 2 * standard_error(uncertainty(model, X, LENGTHS * 2), "lambdas")[0]


@every
def test_scores_add_up_to_the_gradient(name: str) -> None:
    _, module, data, free = prepared(name)
    total = information.scores(module, data, free).sum(0)
    prior = information.second_order(module.log_parameter_prior(), free)[0]
    assert_allclose(total + prior, posterior_slope(module, data, free), atol=1e-9)


# -- the bootstrap


def test_bootstrap_finds_the_sampling_error_and_keeps_the_gaps() -> None:
    X = RNG.poisson(4.0, (60, 1)).astype(float)
    X[::2] = np.nan
    model = PoissonHMM(1).fit(X)
    table = uncertainty(model, X, method="bootstrap", n_samples=150, random_state=0)
    row = table[table["parameter"] == "lambdas"].iloc[0]
    exact = np.sqrt(model.lambdas_[0, 0] / 30)
    assert row["standard error"] == pytest.approx(exact, rel=4 / np.sqrt(2 * 150))
    assert row["upper"] - row["lower"] == pytest.approx(2 * 1.96 * exact, rel=0.25)
    few = [uncertainty(model, X, method="bootstrap", n_samples=5, random_state=0) for _ in range(2)]
    pd.testing.assert_frame_equal(*few)


def test_bootstrap_keeps_zeros() -> None:
    X = (RNG.normal(size=60) + 8 * np.repeat([0, 1, 2], [6, 6, 48]))[:, None]
    model = GaussianHMM(3, init_params="mc", **COMMON)
    model.startprob_, model.transmat_ = np.eye(3)[0], np.array([[0.8, 0.2, 0], [0, 0.8, 0.2], [0, 0, 1]])
    model.fit(X)
    table = uncertainty(model, X, method="bootstrap", n_samples=5, random_state=0)
    zeros = table[(table["parameter"] == "transmat") & (table["estimate"] == 0)]
    assert len(zeros) == 4
    assert (zeros[["standard error", "lower", "upper"]] == 0).all(axis=None)


def test_bootstrap_knows_states_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refit that ends with its states renamed tells the same."""
    model = PoissonHMM(2, **COMMON).fit(COUNTS)
    table = uncertainty(model, COUNTS, method="bootstrap", n_samples=10, random_state=0)
    climb = PoissonHMM.climb

    def and_rename(self: Any, module: Any, *others: Any) -> Any:
        found = climb(self, module, *others)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(p.flip(0, 1) if p is module.transition.transition_logits else p.flip(0))
        return found

    monkeypatch.setattr(PoissonHMM, "climb", and_rename)
    renamed = uncertainty(model, COUNTS, method="bootstrap", n_samples=10, random_state=0)
    pd.testing.assert_frame_equal(table, renamed, rtol=1e-9)


# -- what intervals promise


@pytest.mark.thorough
def test_intervals_cover_as_often_as_they_say() -> None:
    truth = PoissonHMM(2)
    truth.startprob_, truth.transmat_ = np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.2, 0.8]])
    truth.lambdas_ = np.array([[2.0], [9.0]])
    cover = {name: np.zeros(2) for name in ("lambdas", "stay", "mean stay", "stationary")}
    values = {
        "lambdas": truth.lambdas_[:, 0],
        "stay": truth.transmat_.diagonal(),
        "mean stay": np.array([10.0, 5.0]),
        "stationary": truth.get_stationary_distribution(),
    }
    n = 60
    for seed in range(n):
        X, _ = truth.sample(200, random_state=seed)
        model = PoissonHMM(2, init_params="", tol=1e-4, n_iter=200)
        for attribute in truth.learnt():
            setattr(model, attribute, np.array(getattr(truth, attribute)))
        table = uncertainty(model.fit(X), X, level=0.9)
        for name, true in values.items():
            rows = table[table["parameter"] == ("transmat" if name == "stay" else name)]
            if name == "stay":
                rows = rows[[s == i[0] for s, i in zip(rows["state"], rows["index"], strict=True)]]
            cover[name] += (rows["lower"] <= true).to_numpy() & (true <= rows["upper"]).to_numpy()
    low, high = binom.interval(0.999, n, 0.9)
    for name, count in cover.items():
        assert (count >= low).all(), f"{name}: {count} of {n} intervals cover; at least {low} should"
        assert (count <= high).all()


# -- what has no error, and why


def note(table: pd.DataFrame, parameter: str, which: int = 0) -> str:
    return str(table[table["parameter"] == parameter].iloc[which]["note"])


def test_numbers_without_an_error_say_why() -> None:
    X = (RNG.normal(size=60) + 6 * np.repeat([0, 1, 2], 20))[:, None]
    model = GaussianHMM(3, init_params="mc", params="stm", random_state=0, n_iter=3, tol=-np.inf)
    model.startprob_ = np.array([0.5, 0.5, 0.0])
    model.transmat_ = np.array([[0.8, 0.1, 0.1], [0, 0.9, 0.1], [0, 0, 1.0]])
    table = uncertainty(model.fit(X), X)
    assert note(table, "covars") == "fixed: not learnt"
    assert standard_error(table, "covars").tolist() == [0, 0, 0]
    assert note(table, "startprob") == "one sequence cannot tell it"
    assert note(table, "startprob", 2).startswith("exact: a structural zero")
    at = {i: note(table, "transmat", i) for i in range(9)}
    assert at[2] == "at the edge of its range"  # no such move was seen
    assert at[3].startswith("exact") and at[8].startswith("exact")
    assert at[0] == at[1] == at[4] == ""
    # an exact zero that EM has arrived at is no structure, and which is which cannot be told afterwards
    model.transmat_[0] = [0.95, 0.05, 0.0]
    model.startprob_ = np.array([1.0, 0.0, 0.0])
    table = uncertainty(model, X)
    assert {note(table, "transmat", i) for i in (2, 3, 8)} == {"at the edge of its range"}
    assert note(table, "startprob", 2) == "one sequence cannot tell it"
    unsure = table["note"].isin(["one sequence cannot tell it", "at the edge of its range"])
    assert table.loc[unsure, ["standard error", "lower", "upper"]].isna().all(axis=None)
    told = table[table["note"] == ""]
    assert (told["lower"] < told["estimate"]).all() and (told["estimate"] < told["upper"]).all()


@pytest.mark.parametrize("covariance_type", ["diag", "spherical", "full", "tied"])
def test_a_variance_at_its_floor_has_no_error(covariance_type: str) -> None:
    X = np.repeat([0.0, 5.0], 30)[:, None] + np.repeat([0, 1], 30)[:, None] * RNG.normal(size=(60, 1))
    if covariance_type == "tied":
        X = np.repeat([0.0, 5.0], 30)[:, None]
    model = GaussianHMM(2, covariance_type, covars_prior=0, min_covar=0.01, **COMMON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X).sort_states()
    table = uncertainty(model, X)
    assert note(table, "covars") == "held at its floor"
    if covariance_type != "tied":
        assert note(table, "covars", 1) == ""
    assert np.isfinite(standard_error(table, "means")).all()


# -- warnings and errors


def test_states_that_nothing_tells_apart_are_said() -> None:
    X = RNG.normal(size=(50, 1))
    model = GaussianHMM(2, init_params="", n_iter=5)
    model.startprob_, model.transmat_ = np.array([0.5, 0.5]), np.full((2, 2), 0.5)
    model.means_, model.covars_ = np.zeros((2, 1)), np.ones((2, 1))
    model.fit(X)
    with pytest.warns(ConvergenceWarning, match="not positive definite.*use fewer states"):
        table = uncertainty(model, X)
    assert np.isnan(standard_error(table, "means")).all()


def test_a_fit_that_stopped_early_is_said() -> None:
    model, X = FITS["poisson"]
    early = clone(model).set_params(n_iter=2).fit(X)
    with pytest.warns(ConvergenceWarning, match=r"standard errors from the maximum.*smaller tol"):
        uncertainty(early, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uncertainty(clone(model).fit(X), X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "hessian"}, "method='hessian'; it is one of observed, sandwich, bootstrap"),
        ({"level": 95}, "level=95; it is a coverage between 0 and 1"),
        ({"method": "sandwich"}, "there is only one; use 'observed' or 'bootstrap'"),
        ({"method": "bootstrap", "n_samples": 1}, "n_samples=1; it must be a whole number from 2"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], words: str) -> None:
    model = PoissonHMM(1).fit(COUNTS)
    with pytest.raises(ValueError, match=re.escape(words)):
        uncertainty(model, COUNTS, **options)


def test_other_models_are_refused() -> None:
    for model in (VAEHMM(2), VariationalGaussianHMM(2)):
        with pytest.raises(TypeError, match=f"not those of a {type(model).__name__}"):
            uncertainty(model, REAL)  # type: ignore[arg-type]
