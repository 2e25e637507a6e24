"""Standard errors of models that are modules: the classical tables again, textbook formulas, and what is shared."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import posterior_slope, slope_of_slope
from scipy import special
from scipy.stats import binom
from torch import Tensor, nn

from dbn_vae import (
    GMMHMM,
    HMM,
    HSMM,
    BernoulliHMM,
    CategoricalHMM,
    EmissionHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    Sequences,
    emissions,
    uncertainty,
)
from dbn_vae.evaluation.chain_quantities import model_quantities
from dbn_vae.evaluation.information import Free, free_coordinates, jacobian, observed_information
from dbn_vae.models.hsmm import HSMM as StaysModule
from dbn_vae.transitions import (
    CategoricalDuration,
    InputDriven,
    NegativeBinomialDuration,
    PartlyFixed,
    PoissonDuration,
    SemiMarkov,
    Stationary,
    Tied,
    Transition,
    left_to_right,
)

RNG = np.random.default_rng(5)
N, K = 90, 2
LENGTHS = [30, 1, 9, 20, 2, 28]
GROUP = np.repeat(RNG.integers(0, 2, N // 3), 3)
REAL = RNG.normal(size=(N, 2)) + 2 * GROUP[:, None]
COUNTS = RNG.poisson(np.array([2.0, 7.0])[GROUP], (2, N)).T.astype(float)
BITS = (RNG.random((N, 2)) < np.array([0.2, 0.7])[GROUP][:, None]).astype(float)
SYMBOLS = np.where(RNG.random(N) < 0.7, GROUP, RNG.integers(0, 3, N))[:, None].astype(float)
TRIALS = RNG.multinomial(5, np.array([[0.1, 0.3, 0.6], [0.6, 0.3, 0.1]])[GROUP]).astype(float)
ANGLES = RNG.vonmises(1.5 * GROUP, 2.0)[:, None]
U = RNG.normal(size=(N, 1))
COMMON: dict[str, Any] = {"n_iter": 500, "tol": 1e-10, "n_init": 1, "random_state": 0}


def f64(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def wave(*shape: int) -> Tensor:
    """Numbers between 0.3 and 1.7 in no order."""
    return 1 + 0.7 * torch.arange(int(np.prod(shape)), dtype=torch.float64).mul(2.4).sin().view(*shape)


def rows(*shape: int) -> Tensor:
    return wave(*shape) / wave(*shape).sum(-1, keepdim=True)


def matrices(n: int, D: int = 2) -> Tensor:
    return torch.eye(D).double() + 0.3 * torch.diag_embed(wave(n, D))


def errors(table: pd.DataFrame, parameter: str) -> np.ndarray:
    return table.loc[table["parameter"] == parameter, "standard error"].to_numpy()


class Cauchy(emissions.Emission):
    """A family of a user's own, which registers nothing."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_features = centre.shape
        self.centre, self.log_width = nn.Parameter(centre.clone()), nn.Parameter(torch.zeros_like(centre))

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        z = (x[..., None, :] - self.centre) / self.log_width.exp()
        entry = -torch.log1p(z.square()) - self.log_width - np.log(np.pi)
        return (entry * observed[..., None, :]).sum(-1)


# -- the classical tables


CLASSICAL: dict[str, tuple[Any, np.ndarray, dict[str, str]]] = {
    **{
        c: (GaussianHMM(K, c, covars_prior=0, **COMMON), REAL, {"mean": "means", "covariance": "covars"})
        for c in ("diag", "spherical", "full", "tied")
    },
    "mixture": (
        GMMHMM(K, n_mix=2, means_weight=1.0, **COMMON), REAL,
        {"component.mean": "means", "component.covariance": "covars"},
    ),
    "mixture, tied": (
        GMMHMM(K, n_mix=2, covariance_type="tied", means_weight=1.0, **COMMON | {"n_init": 4}), REAL,
        {"component.mean": "means", "component.covariance": "covars"},
    ),
    "poisson": (PoissonHMM(K, lambdas_prior=1.0, lambdas_weight=0.5, **COMMON), COUNTS, {"rates": "lambdas"}),
    "categorical": (CategoricalHMM(K, emissionprob_prior=2.0, **COMMON), SYMBOLS, {"probs": "emissionprob"}),
    "bernoulli": (BernoulliHMM(K, emissionprob_prior=1.5, **COMMON), BITS, {"probs": "emissionprob"}),
    "multinomial": (MultinomialHMM(K, 5, emissionprob_prior=1.5, **COMMON), TRIALS, {"probs": "emissionprob"}),
}  # fmt: skip


@cache
def fitted(name: str) -> Any:
    """Once for all tests, which leave it as it is."""
    classical, X, _ = CLASSICAL[name]
    return classical.fit(X, lengths=LENGTHS)


def as_module(classical: Any, X: np.ndarray) -> EmissionHMM:
    """The fitted model as it is, priors and floors included."""
    module = classical.as_fitted(classical.read(X, LENGTHS))
    model = EmissionHMM(module.emission, module.transition, init="given", n_iter=0, tol=classical.tol)
    return model.fit(X, lengths=LENGTHS)


@pytest.mark.some(4)
@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("method", ["observed", "sandwich"])
@pytest.mark.filterwarnings("ignore:.*few to tell")
def test_over_a_classical_family_it_is_the_classical_table(name: str, method: str) -> None:
    classical, (_, X, names) = fitted(name), CLASSICAL[name]
    theirs = uncertainty(classical, X, LENGTHS, method=method)
    ours = uncertainty(as_module(classical, X), X, LENGTHS, method=method)
    pd.testing.assert_frame_equal(ours.replace({"parameter": names}), theirs, rtol=1e-9, atol=1e-12)
    assert np.isfinite(errors(ours, "transmat")).all()


@pytest.mark.parametrize("name", CLASSICAL)
def test_every_number_stands_where_the_attribute_has_it(name: str) -> None:
    classical, X = fitted(name), CLASSICAL[name][1]
    table = uncertainty(classical, X, LENGTHS)
    for attribute in classical.learnt():
        value = np.asarray(getattr(classical, attribute))
        found = table[table["parameter"] == attribute.strip("_")]
        if attribute == "startprob_" or classical.per_state(attribute):
            places = [(k, *index) for k, index in zip(found["state"], found["index"], strict=True)]
        else:
            places = list(found["index"])
        assert_allclose(found["estimate"], [value[place] for place in places], rtol=1e-12, atol=1e-300)
        half = "covars" in attribute and getattr(classical, "covariance_type", "") in ("full", "tied")
        assert len(set(places)) == len(places) == (value.size * 3 // 4 if half else value.size)


def test_the_bootstrap_is_the_classical_one() -> None:
    classical = PoissonHMM(K, **COMMON).fit(COUNTS, lengths=LENGTHS)
    asked = {"method": "bootstrap", "n_samples": 4, "random_state": 0}
    theirs = uncertainty(classical, COUNTS, LENGTHS, **asked)
    ours = uncertainty(as_module(classical, COUNTS), COUNTS, LENGTHS, **asked)
    pd.testing.assert_frame_equal(ours.replace({"parameter": {"rates": "lambdas"}}), theirs, rtol=1e-6)


# -- textbook formulas: one state is a sample from one distribution


def one(emission: emissions.Emission, X: Any, inputs: Any = None, **options: Any) -> tuple[Any, pd.DataFrame]:
    """The fitted emission, and its table."""
    model = EmissionHMM(emission, n_iter=500, tol=1e-13, n_init=1, random_state=0).fit(X, inputs=inputs)
    return model.model_.emission, uncertainty(model, X, inputs=inputs, **options)


def test_one_rate() -> None:
    """λ / √n of waiting times, √(λ / n) of counts, √(p (1 − p) / n) of yes or no."""
    X = RNG.exponential(3.0, (50, 1))
    _, table = one(emissions.Exponential(f64([[1.0]])), X)
    assert_allclose(errors(table, "rates"), 1 / X.mean() / np.sqrt(50), rtol=1e-9)
    _, table = one(emissions.Poisson(f64([[1.0, 1.0]])), COUNTS)
    assert_allclose(errors(table, "rates"), np.sqrt(COUNTS.mean(0) / N), rtol=1e-9)
    p = BITS.mean(0)
    _, table = one(emissions.Bernoulli(f64([[0.5, 0.5]])), BITS)
    assert_allclose(errors(table, "probs"), np.sqrt(p * (1 - p) / N), rtol=1e-9)


def test_frames_count_by_their_weights() -> None:
    w = RNG.uniform(0.5, 2, N)
    data = Sequences.from_any(COUNTS, weights=w)
    _, table = one(emissions.Poisson(f64([[1.0, 1.0]])), data)
    assert_allclose(errors(table, "rates"), np.sqrt(w @ COUNTS) / w.sum(), rtol=1e-9)
    with pytest.raises(ValueError, match="cannot keep labels or weights of X"):
        one(emissions.Poisson(f64([[1.0, 1.0]])), data, method="bootstrap")


def test_labels_are_evidence() -> None:
    """States that labels tell apart are samples of n_k frames."""
    data = Sequences.from_any(COUNTS, labels=GROUP)
    start = emissions.Poisson(f64([[2.0, 2.0], [7.0, 7.0]]))
    table = uncertainty(EmissionHMM(start, **COMMON).fit(data), data)
    n, mean = np.bincount(GROUP)[:, None], np.array([COUNTS[k == GROUP].mean(0) for k in (0, 1)])
    assert_allclose(errors(table, "rates"), np.sqrt(mean / n).ravel(), rtol=1e-9)


def test_one_exponential_family() -> None:
    """Where the statistics are sums, the information is their covariance, in closed form."""
    X = RNG.gamma(2.5, 2.0, (60, 1))
    fitted, table = one(emissions.Gamma(f64([[1.0]]), f64([[1.0]])), X)
    a, b = fitted.shape().item(), fitted.rate().item()
    V = np.linalg.inv(60 * np.array([[special.polygamma(1, a), -1 / b], [-1 / b, a / b**2]]))
    found = np.concatenate([errors(table, name) for name in ("shape", "rate")])
    assert_allclose(found, np.sqrt(V.diagonal()), rtol=1e-6)
    angles = RNG.vonmises(0.5, 2.0, (60, 1))
    fitted, table = one(emissions.VonMises(f64([[0.0]]), f64([[1.0]])), angles)
    kappa = fitted.concentration().item()
    A = special.i1(kappa) / special.i0(kappa)
    assert_allclose(errors(table, "loc"), 1 / np.sqrt(60 * kappa * A), rtol=1e-6)
    assert_allclose(errors(table, "concentration"), 1 / np.sqrt(60 * (1 - A / kappa - A**2)), rtol=1e-6)
    fitted, table = one(emissions.LogNormal(emissions.DiagonalGaussian(f64([[0.0]]), f64([[1.0]]))), X)
    assert_allclose(errors(table, "gaussian.mean"), np.log(X).std() / np.sqrt(60), rtol=1e-9)


def test_one_negative_binomial() -> None:
    """μ and r do not tell of each other: the variance of the mean is (μ + μ² / r) / n."""
    X = RNG.negative_binomial(2, 0.3, (80, 1)).astype(float)
    fitted, table = one(emissions.NegativeBinomial(f64([[3.0]]), 2.0), X)
    mean, size = fitted.mean().item(), fitted.size().item()
    assert_allclose(errors(table, "mean"), np.sqrt((mean + mean**2 / size) / 80), rtol=1e-4)


def test_one_regression_is_least_squares() -> None:
    """σ̂² (VᵀV)⁻¹ with the variance of maximum likelihood; the same with earlier frames in place of inputs."""
    V = np.c_[np.ones(N), U]
    X = V @ [[1.0], [0.6]] + RNG.normal(size=(N, 1))
    start = f64([[0.0]]), f64([[[0.0]]]), f64([[[1.0]]])
    _, table = one(emissions.LinearRegression(*start), X, U)
    assert_allclose(*least_squares(table, V, X), rtol=1e-8)
    past = np.c_[np.ones(N - 1), X[:-1]]
    _, table = one(emissions.Autoregressive(start[0], start[1][:, :, None], start[2]), X)
    assert_allclose(*least_squares(table, past, X[1:]), rtol=1e-8)


def least_squares(table: pd.DataFrame, V: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    residual = X - V @ np.linalg.lstsq(V, X, rcond=None)[0]
    covariance = (residual**2).mean() * np.linalg.inv(V.T @ V)
    found = np.concatenate([errors(table, name) for name in ("mean", "slope", "covariance")])
    return found, np.append(np.sqrt(covariance.diagonal()), (residual**2).mean() * np.sqrt(2 / len(X)))


def test_one_logistic_regression() -> None:
    """(Vᵀ W V)⁻¹ with W = p (1 − p)."""
    V = np.c_[np.ones(N), U]
    fitted, table = one(emissions.LogisticRegression(f64([[0.0]]), f64([[[0.0]]])), BITS[:, :1], U)
    p = special.expit(V @ [fitted.intercept.item(), fitted.slope.item()])
    V = np.linalg.inv((V * (p * (1 - p))[:, None]).T @ V)
    found = np.concatenate([errors(table, name) for name in ("intercept", "slope")])
    assert_allclose(found, np.sqrt(V.diagonal()), rtol=1e-6)


def test_a_users_own_family() -> None:
    """The Cauchy's information is ½ n / width² for either parameter, by expectation; here it is observed."""
    X = RNG.standard_cauchy((2000, 1))
    _, table = one(Cauchy(f64([[0.0]])), X)
    width = table.loc[table["parameter"] == "width", "estimate"].item()
    assert_allclose(errors(table, "centre"), width * np.sqrt(2 / 2000), rtol=0.1)
    assert_allclose(errors(table, "width"), width * np.sqrt(2 / 2000), rtol=0.1)


# -- derivatives and what is free, for every part


EMISSIONS: dict[str, tuple[Any, np.ndarray]] = {
    "low rank": (lambda: emissions.LowRankGaussian(wave(K, 4), wave(K, 4, 2), wave(K, 4)), np.c_[REAL, COUNTS]),
    "lower rank": (lambda: emissions.LowRankGaussian(wave(K, 4), wave(K, 4, 1), wave(K, 4)), np.c_[REAL, COUNTS]),
    "surplus rank": (lambda: emissions.LowRankGaussian(wave(K, 2), wave(K, 2, 3), wave(K, 2)), REAL),
    "student": (lambda: emissions.StudentT(wave(K, 2), wave(K, 2), 4 * wave(K, 2)), REAL),
    "gamma": (lambda: emissions.Gamma(wave(K, 2), wave(K, 2)), np.exp(REAL / 3)),
    "exponential": (lambda: emissions.Exponential(wave(K, 2), 2.0, 1.0), np.exp(REAL / 3)),
    "negative binomial": (lambda: emissions.NegativeBinomial(4 * wave(K, 2), wave(K, 2)), COUNTS),
    "von mises": (lambda: emissions.VonMises(wave(K, 1), wave(K, 1)), ANGLES),
    "log-normal": (
        lambda: emissions.LogNormal(emissions.FullGaussian(wave(K, 2), matrices(K))), np.exp(REAL / 3),
    ),
    "zero-inflated": (lambda: emissions.ZeroInflated(emissions.Poisson(4 * wave(K, 2)), wave(K, 2) / 4), COUNTS),
    "mixture": (lambda: emissions.Mixture(emissions.StudentT(3 * wave(6, 2), wave(6, 2), 5.0), rows(K, 3)), REAL),
    "product": (
        lambda: emissions.Product([Cauchy(wave(K, 1)), emissions.Poisson(4 * wave(K, 1))]),
        np.c_[REAL[:, 0], COUNTS[:, 0]],
    ),
    "regression": (lambda: emissions.LinearRegression(wave(K, 2), wave(K, 2, 1), matrices(K)), REAL),
    "logistic": (lambda: emissions.LogisticRegression(wave(K, 2), wave(K, 2, 1), 1.0), BITS),
    "autoregressive": (lambda: emissions.Autoregressive(wave(K, 2), wave(K, 1, 2, 2) / 4, matrices(K)), REAL),
}  # fmt: skip
circle = (torch.arange(3) - torch.arange(3)[:, None]) % 3
half = f64([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])


def driven() -> InputDriven:
    chain = InputDriven(rows(3), f64([[0.6, 0.4, 0], [0.2, 0.3, 0.5], [0, 0.5, 0.5]]), 1, 0.5)
    with torch.no_grad():
        chain.initial_slope.copy_(wave(3, 1))
        chain.transition_slope.copy_(wave(3, 3, 1))
    return chain


def lasting(duration: Any) -> SemiMarkov:
    return SemiMarkov(Stationary(rows(3), f64([[0, 0.6, 0.4], [0.3, 0, 0.7], [0.5, 0.5, 0]])), duration)


CHAINS: dict[str, Any] = {
    "left to right": lambda: left_to_right(3),
    "partly fixed": lambda: PartlyFixed(rows(3), half, half == 0.5),
    "partly fixed, two of three": lambda: PartlyFixed(rows(3), half, half > 0.25),
    "tied": lambda: Tied(rows(3), half, circle),
    "tied rows": lambda: Tied(rows(3), half[[0, 1, 0]], torch.tensor([0, 1, 0])),
    "driven": driven,
    "categorical stays": lambda: lasting(CategoricalDuration(rows(3, 5), 1.2)),
    "poisson stays": lambda: lasting(PoissonDuration(2 * wave(3), 8)),
    "negative binomial stays": lambda: lasting(NegativeBinomialDuration(2 * wave(3), wave(3), 8)),
}


def part(name: str) -> tuple[Any, Sequences]:
    """A model with one part of this name, not at a maximum, and data with gaps and weights."""
    if name in EMISSIONS:
        emission, X = EMISSIONS[name][0](), EMISSIONS[name][1]
        transition: Transition = Stationary(rows(K), rows(K, K), transmat_prior=1.5)
    else:
        emission, X, transition = emissions.Poisson(4 * wave(3, 2)), COUNTS, CHAINS[name]()
    X = X.copy()
    X[[3, 40]] = np.nan
    u = U if max(emission.n_inputs, transition.n_inputs) else None
    made = StaysModule if isinstance(transition, SemiMarkov) else HMM
    return made(transition, emission), Sequences.from_any(X, LENGTHS, inputs=u, weights=[1, 2, 0.5, 1, 1, 3])


every = pytest.mark.parametrize("name", [*EMISSIONS, *CHAINS])


@pytest.mark.some(4)
@every
def test_information_is_what_differences_of_the_gradient_give(name: str) -> None:
    model, data = part(name)
    free = free_coordinates(model, data)
    found = observed_information(model, data, free)
    assert_allclose(found.gradient, posterior_slope(model, data, free), atol=1e-9)
    assert_allclose(found.matrix, slope_of_slope(model, data, free), atol=1e-7 * np.abs(found.matrix).max())


@every
def test_free_parameters_are_the_rank_of_what_may_move(name: str) -> None:
    """Coordinates and quantities both: none too many, none too few."""
    model, data = part(name)
    free = free_coordinates(model, data)
    everything = [Free(p, torch.isfinite(p.detach())) for p in model.parameters()]
    values = [
        v
        for q in model_quantities(model, data)
        for v in (q.value.flatten() if q.shown is None else q.value[q.shown])
    ]
    expected = model.transition.n_free() + model.emission.n_free()
    for coordinates in (free, everything):
        J = jacobian(values, coordinates)
        assert np.linalg.matrix_rank(J / np.abs(J).max(0).clip(1e-6), tol=1e-6) == expected
    assert sum(int(f.which.sum()) for f in free) == expected


# -- what is shared, fixed or known


def test_tied_entries_share_their_errors_and_pool_the_evidence() -> None:
    """States known apart: an entry of three rows has the error of a count among all moves."""
    state = np.cumsum(RNG.choice(3, 400, p=[0.6, 0.3, 0.1])) % 3
    X = (1000.0 * state + RNG.normal(size=400))[:, None]
    chain = Tied(torch.ones(3).double() / 3, torch.ones(3, 3).double() / 3, circle)
    start = emissions.DiagonalGaussian(f64([[0.0], [1000.0], [2000.0]]), torch.ones(3, 1).double())
    model = EmissionHMM(start, chain, init="given", tol=1e-10).fit(X)
    table = uncertainty(model, X)
    p = np.array([(np.diff(state) % 3 == step).mean() for step in range(3)])
    expected = np.sqrt(p * (1 - p) / 399)
    assert_allclose(errors(table, "transmat").reshape(3, 3), expected[circle], rtol=1e-6)


def test_what_is_fixed_says_so_and_has_no_error() -> None:
    known = f64([[0.6, 0.4, 0.0], [0.1, 0.5, 0.4], [0.2, 0.3, 0.5]])
    fixed = torch.tensor([[True, False, True], [True, False, False], [False, False, False]])
    emission = emissions.Poisson(f64([[1.0], [4.0], [9.0]]))
    emission.frozen = frozenset({"rates"})
    chain = PartlyFixed(rows(3), known, fixed)
    X = HMM(chain, emission).sample(300, torch.Generator().manual_seed(0))[0].numpy()
    model = EmissionHMM(emission, chain, init="given", **COMMON).fit(X)
    table = uncertainty(model, X)
    moves = table[table["parameter"] == "transmat"]
    told = (moves["note"] == "").to_numpy().reshape(3, 3)
    assert told.tolist() == [[False] * 3, [False, True, True], [True] * 3]
    assert (moves.loc[moves["note"] != "", "note"] == "fixed: not learnt").all()
    assert (moves.loc[moves["note"] != "", "standard error"] == 0).all()
    e = moves["standard error"].to_numpy().reshape(3, 3)
    assert e[1, 1] == pytest.approx(e[1, 2]), "they share what is left"
    rates = table[table["parameter"] == "rates"]
    assert (rates["note"] == "fixed: not learnt").all() and (rates["standard error"] == 0).all()
    assert (errors(table, "mean stay")[1:] > 0).all()


def test_a_frozen_chain_fixes_what_follows_from_it() -> None:
    chain = Stationary(rows(K), rows(K, K))
    chain.frozen = frozenset({"initial", "transition"})
    model = EmissionHMM(emissions.Poisson(f64([[2.0, 2], [7, 7]])), chain, init="given", **COMMON)
    table = uncertainty(model.fit(COUNTS), COUNTS)
    follows = table["parameter"].isin(["startprob", "transmat", "stationary", "mean stay"])
    assert (table.loc[follows, "note"] == "fixed: not learnt").all()
    assert (table.loc[~follows, "note"] == "").all()


@pytest.mark.parametrize(
    ("make", "X", "parameter"),
    [
        (lambda: emissions.StudentT(f64([[0.0]]), f64([[1.0]]), 5.0), np.linspace(-1, 1, 40), "dof"),
        (lambda: emissions.NegativeBinomial(f64([[3.0]]), 2.0), np.tile([2.0, 3.0], 20), "size"),
    ],
)
def test_a_limit_of_its_family_has_no_error(make: Any, X: np.ndarray, parameter: str) -> None:
    """Tails lighter than any t's, counts that vary less than Poisson's: the parameter runs away."""
    _, table = one(make(), X[:, None])
    others = {"dof": ["loc", "scale"], "size": ["mean"]}[parameter]
    assert table.loc[table["parameter"] == parameter, "note"].item() == "at the edge of its range"
    assert all(np.isfinite(errors(table, other)).all() for other in others)


def test_a_spread_at_its_floor_has_no_error() -> None:
    X = np.r_[np.zeros(30), RNG.normal(9, 1, 30)][:, None]
    start = emissions.StudentT(f64([[0.0], [9.0]]), torch.ones(2, 1).double(), 5.0, floor=f64([0.01]))
    start.frozen = frozenset({"dof"})
    model = EmissionHMM(start, init="given", **COMMON)
    with pytest.warns(UserWarning, match="held at the floor"):
        model.fit(X)
    table = uncertainty(model, X)
    assert table.loc[table["parameter"] == "scale", "note"].tolist() == ["held at its floor", ""]
    assert np.isfinite(errors(table, "loc")).all()


# -- chains that inputs drive, and stays


def test_a_driven_chain_of_known_states_is_a_logistic_regression() -> None:
    """(Vᵀ W V)⁻¹ of every row: whether a state is left, on the input of the step moved to."""
    u = RNG.normal(size=(600, 1))
    state = [0]
    for t in range(1, 600):
        leave = RNG.random() < special.expit([-1.0, -0.5][state[-1]] + u[t, 0])
        state.append(state[-1] ^ leave)
    s = np.array(state)
    X = (1000.0 * s + RNG.normal(size=600))[:, None]
    start = emissions.DiagonalGaussian(f64([[0.0], [1000.0]]), torch.ones(2, 1).double())
    chain = InputDriven(torch.ones(2).double() / 2, torch.ones(2, 2).double() / 2, 1)
    model = EmissionHMM(start, chain, init="given", tol=1e-10).fit(X, inputs=u)
    table = uncertainty(model, X, inputs=u)
    assert "stationary" not in set(table["parameter"])
    for k in (0, 1):
        V = np.c_[np.ones(599), u[1:]][s[:-1] == k]
        mine = table[(table["state"] == k) & table["parameter"].str.startswith("transition")]
        assert mine["index"].tolist() == [(1 - k,), (1 - k, 0)]
        p = special.expit(V @ mine["estimate"])
        expected = np.linalg.inv((V * (p * (1 - p))[:, None]).T @ V)
        assert_allclose(mine["standard error"], np.sqrt(expected.diagonal()), rtol=1e-6)


def test_inputs_of_first_frames_tell_nothing_of_moves() -> None:
    """Under 0 a move is open, under 60 settled: where 0 stands at first frames alone nothing is known of moves.

    The first frame of the second sequence stands in the middle of the data, and belongs to no move.
    """
    chain = InputDriven(rows(2), rows(2, 2), 1)
    with torch.no_grad():
        chain.transition_slope.copy_(f64([[[0.0], [1.0]], [[1.0], [0.0]]]))
    first = np.zeros((12, 1))
    first[[0, 5]] = 1
    for open_at, expected in ((first, False), (1 - first, True)):
        u = 60 * (1 - open_at)
        data = Sequences.from_any(np.zeros((12, 1)), [5, 7], inputs=u)
        found = {
            q.name: q for q in model_quantities(HMM(chain, emissions.Poisson(f64([[1.0], [2.0]]))), data)
        }
        logits = found["transition_logits"]
        assert logits.free is not None and logits.edge is not None and logits.shown is not None
        assert bool(logits.free.any()) == expected
        assert torch.equal(logits.edge, logits.shown & ~logits.free)
        assert int(logits.free.sum()) == (2 if expected else 0)


def test_geometric_stays_have_the_errors_of_the_chain() -> None:
    """The same model twice: an HMM, and stays whose distribution is not cut off before the data end."""
    model = EmissionHMM(emissions.Poisson(f64([[2.0, 2], [7, 7]])), init="given", **COMMON)
    # beyond two states moves would have more freedom than stays
    model.transition = Stationary(f64([0.6, 0.4]), f64([[0.7, 0.3], [0.2, 0.8]]))
    chain = uncertainty(model.fit(COUNTS, lengths=LENGTHS), COUNTS, LENGTHS)
    fitted = model.model_
    A = fitted.transition.log_transition().exp().detach()
    stay = NegativeBinomialDuration(1 / (1 - A.diagonal()) - 1, torch.ones(2).double(), 400, geometric=True)
    moves = Stationary(fitted.transition.log_initial().exp().detach(), 1 - torch.eye(2).double())
    stays = HSMM(fitted.emission, "geometric", max_duration=400)
    stays.model_ = StaysModule(SemiMarkov(moves, stay), fitted.emission)
    stays.n_free_ = stays.model_.transition.n_free() + fitted.emission.n_free()
    lasting = uncertainty(stays, COUNTS, LENGTHS)
    for parameter in ("rates", "startprob", "stationary", "mean stay"):
        here, there = (t[t["parameter"] == parameter].reset_index(drop=True) for t in (lasting, chain))
        pd.testing.assert_frame_equal(here, there, rtol=1e-6)
    moved = lasting[lasting["parameter"] == "transmat"]
    assert moved["note"].str.startswith("exact").all()


def test_a_fitted_hsmm_tells_of_its_stays() -> None:
    """Stays known apart: those that ended, d − 1 ~ Poisson(λ), have the error √(λ / n)."""
    lengths = RNG.poisson(5.0, 40) + 1
    state = np.repeat(np.arange(40) % 2, lengths)
    X = (1000.0 * state + RNG.normal(size=len(state)))[:, None]
    emission = emissions.DiagonalGaussian(torch.zeros(2, 1).double(), torch.ones(2, 1).double())
    model = HSMM(emission, "poisson", max_duration=60, random_state=0, n_iter=100, tol=1e-9).fit(X)
    table = uncertainty(model, X)
    rate = table[table["parameter"] == "durations.rate"]
    assert_allclose(rate["standard error"], np.sqrt(rate["estimate"] / 20), rtol=0.06)  # the last is censored
    assert_allclose(errors(table, "mean stay"), rate["standard error"], rtol=1e-9)
    boot = uncertainty(model, X, method="bootstrap", n_samples=3, random_state=0)
    assert np.isfinite(errors(boot, "durations.rate")).all()


# -- what intervals promise


@pytest.mark.thorough  # of the classical families it always runs
def test_intervals_cover_as_often_as_they_say() -> None:
    """Regressions in two states whose moves are partly known."""
    chain = PartlyFixed(
        f64([0.5, 0.5]), f64([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[True] * 2, [False] * 2])
    )
    slope, mean = f64([[[1.0]], [[-1.0]]]), f64([[0.0], [2.0]])
    truth = emissions.LinearRegression(mean, slope, f64([[[1.0]], [[0.5]]]))
    module = HMM(chain, truth)
    n, cover = 60, np.zeros(5)
    for seed in range(n):
        generator = torch.Generator().manual_seed(seed)
        u = torch.randn(150, 1, generator=generator, dtype=torch.float64)
        X = module.sample(150, generator, u)[0].detach().numpy()
        model = EmissionHMM(truth, chain, init="given", n_iter=300, tol=1e-4).fit(X, inputs=u.numpy())
        table = uncertainty(model, X, inputs=u.numpy(), level=0.9)
        wanted = table["parameter"].isin(["mean", "slope"]) | (
            (table["parameter"] == "transmat") & (table["note"] == "") & (table["index"] == (1,))
        )
        found = table[wanted]
        true = np.array([0.8, 0.0, 2.0, 1.0, -1.0])  # moves, means, slopes
        cover += (found["lower"] <= true).to_numpy() & (true <= found["upper"]).to_numpy()
    low, high = binom.interval(0.999, n, 0.9)
    assert (cover >= low).all() and (cover <= high).all(), f"{cover} of {n}"


# -- wrong inputs


class Kinked(Cauchy):
    """Twice differentiable only where nobody looks."""

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        z = (x[..., None, :] - self.centre).abs().sqrt()  # at 0 the slope is infinite
        return (-z * observed[..., None, :]).sum(-1)


def test_derivatives_that_do_not_exist_are_said() -> None:
    model = EmissionHMM(Kinked(f64([[1.0, 1.0]])), n_iter=0, init="given").fit(np.ones((5, 2)))
    with pytest.warns(UserWarning, match=r"second derivatives .* are not finite.*method='bootstrap'"):
        table = uncertainty(model, np.ones((5, 2)))
    assert np.isnan(errors(table, "centre")).all()


def test_inputs_are_asked_for() -> None:
    model = EmissionHMM(emissions.LinearRegression(wave(K, 2), wave(K, 2, 1), matrices(K)), n_iter=2)
    model.fit(REAL, inputs=U)
    with pytest.raises(ValueError, match=r"inputs are not given, but this EmissionHMM reads 1.*\(90, 1\)"):
        uncertainty(model, REAL)
    with pytest.raises(ValueError, match="inputs are given, but this PoissonHMM reads none"):
        uncertainty(PoissonHMM(1).fit(COUNTS), COUNTS, inputs=U)


def test_a_family_that_cannot_draw_has_no_bootstrap() -> None:
    model = EmissionHMM(Cauchy(wave(K, 2)), n_iter=2, n_init=1).fit(REAL)
    with pytest.raises(NotImplementedError, match=r"Cauchy .*define distribution or sample"):
        uncertainty(model, REAL, method="bootstrap", n_samples=2)


def test_the_model_is_not_changed() -> None:
    classical, X, _ = CLASSICAL["full"]
    model = as_module(classical.fit(X, lengths=LENGTHS), X)
    before = {name: p.clone() for name, p in model.model_.state_dict().items()}
    uncertainty(model, X, LENGTHS, method="bootstrap", n_samples=2, random_state=0)
    assert model.n_iter == 0 and model.monitor_.iter == 0
    for name, p in model.model_.state_dict().items():
        assert torch.equal(p, before[name]), name
