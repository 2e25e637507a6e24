"""Moments, distribution functions and conditional frames, against integrals of the family's own density."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.distributions import MultivariateNormal

from dbn_vae import emissions as E
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.conditional import complete, expected, likely
from dbn_vae.emissions.frame import frame_log_prob
from dbn_vae.emissions.predictive import cdf, discrete, gaussian_parts, moments

G = np.random.default_rng(0)
MEAN, VARIANCE = (
    torch.tensor([[0.5, -1.0], [2.0, 1.0]]).double(),
    torch.tensor([[0.5, 1.2], [0.8, 0.3]]).double(),
)
FULL = torch.tensor([[[1.0, 0.6], [0.6, 0.8]], [[0.5, -0.3], [-0.3, 0.9]]]).double()
WEIGHTS = torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()
FOUR = torch.cat([MEAN, MEAN + 1.5])


class Case(NamedTuple):
    build: Callable[[], Emission]
    support: tuple[str, str]  # of the two columns


CASES: dict[str, Case] = {
    "diagonal": Case(lambda: E.DiagonalGaussian(MEAN, VARIANCE), ("real", "real")),
    "spherical": Case(lambda: E.SphericalGaussian(MEAN, VARIANCE[:, 0]), ("real", "real")),
    "full": Case(lambda: E.FullGaussian(MEAN, FULL), ("real", "real")),
    "tied": Case(lambda: E.TiedGaussian(MEAN, FULL[0]), ("real", "real")),
    "low-rank": Case(lambda: E.LowRankGaussian(MEAN, FULL[..., :1], VARIANCE), ("real", "real")),
    "mixture-full": Case(
        lambda: E.Mixture(E.FullGaussian(FOUR, torch.cat([FULL, FULL])), WEIGHTS), ("real", "real")
    ),
    "mixture-poisson": Case(lambda: E.Mixture(E.Poisson(FOUR.exp()), WEIGHTS), ("count", "count")),
    "student": Case(lambda: E.StudentT(MEAN, VARIANCE, 6.0), ("real", "real")),
    "exponential": Case(lambda: E.Exponential(MEAN.exp()), ("positive", "positive")),
    "gamma": Case(lambda: E.Gamma(VARIANCE * 3, MEAN.exp()), ("positive", "positive")),
    "log-normal": Case(lambda: E.LogNormal(E.FullGaussian(MEAN, FULL)), ("positive", "positive")),
    "log-normal-diagonal": Case(
        lambda: E.LogNormal(E.DiagonalGaussian(MEAN, VARIANCE)), ("positive", "positive")
    ),
    "poisson": Case(lambda: E.Poisson(MEAN.exp()), ("count", "count")),
    "negative-binomial": Case(lambda: E.NegativeBinomial(MEAN.exp(), VARIANCE * 4), ("count", "count")),
    "zero-inflated": Case(lambda: E.ZeroInflated(E.Poisson(MEAN.exp()), WEIGHTS), ("count", "count")),
    "bernoulli": Case(lambda: E.Bernoulli(WEIGHTS), ("binary", "binary")),
    "multinomial": Case(lambda: E.Multinomial(WEIGHTS, 5), ("count", "count")),
    "product": Case(
        lambda: E.Product([E.Poisson(MEAN[:, :1].exp()), E.Gamma(VARIANCE[:, :1] + 1, MEAN[:, :1].exp())], [[1], [0]]),
        ("positive", "count"),
    ),
}  # fmt: skip
BUILT = {name: case.build() for name, case in CASES.items()}
every = pytest.mark.parametrize("name", CASES)
T_GRID = np.linspace(-1, 1, 4001)


def nodes(support: str) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a sum that stands for the integral over the support (the trapezoidal rule in a variable in
    which the integrand dies at both ends)."""
    if support == "binary":
        return np.arange(2.0), np.ones(2)
    if support == "count":
        return np.arange(400.0), np.ones(400)
    t, step = (
        (8 if support == "real" else 60) * T_GRID,
        (8 if support == "real" else 60) * np.diff(T_GRID[:2]),
    )
    if support == "real":
        return np.sinh(t), step * np.cosh(t)
    x = np.exp(t * 0.6)
    return x, 0.6 * step * x


def density(name: str, column: int, given: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (N,), weights (N,) and p(x_column, other = given | s) (N, K); the other integrated out without `given`."""
    x, w = nodes(CASES[name].support[column])
    frames, seen = torch.zeros(len(x), 2).double(), torch.zeros(len(x), 2, dtype=torch.bool)
    frames[:, column], seen[:, column] = torch.from_numpy(x), True
    if given is not None:
        frames[:, 1 - column], seen[:, 1 - column] = given, True
    with torch.no_grad():
        return x, w, BUILT[name].log_prob(frames, seen).exp().numpy()


@every
@pytest.mark.parametrize("column", [0, 1])
def test_moments_and_distribution_function_are_integrals_of_the_density(name: str, column: int) -> None:
    emission, support = BUILT[name], CASES[name].support[column]
    x, w, p = density(name, column, None)
    assert_allclose(w @ p, 1, rtol=1e-8)
    mean = (w * x) @ p
    variance = (w * x**2) @ p - mean**2
    found_mean, found_variance = (m.detach().numpy()[:, column] for m in moments(emission))
    assert_allclose(found_mean, mean, rtol=1e-7)
    assert_allclose(found_variance, variance, rtol=1e-5 if name == "student" else 1e-7)
    assert discrete(emission)[column] == (support in ("count", "binary"))
    if discrete(emission)[column]:
        q = np.array([-1.0, 0, 1, 3, 7])
        below = np.array([p[x <= value].sum(0) for value in q])
        grid = np.stack([q, q], 1)
    else:
        # the points of the grid themselves, and the sum up to them, half of the last
        at = np.arange(1500, 2600, 100)
        terms = w[:, None] * p
        below = np.cumsum(terms, 0)[at] - terms[at] / 2
        grid = np.stack([x[at], x[at]], 1)
    # half a step of a cumulated trapezoid is right to second order only
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if discrete(emission)[column] else {"rtol": 0, "atol": 3e-5}
    assert_allclose(cdf(emission, grid)[..., column], below, **tolerance)
    assert_allclose(
        cdf(emission, grid)[..., column] + cdf(emission, grid, upper=True)[..., column], 1, atol=1e-12
    )


GIVEN = {"real": 1.3, "positive": 0.7, "count": 1.0, "binary": 1.0}


@every
@pytest.mark.parametrize("column", [0, 1])
def test_the_expected_entry_is_the_integral_given_the_other(name: str, column: int) -> None:
    emission = BUILT[name]
    given = GIVEN[CASES[name].support[1 - column]]
    x, w, p = density(name, column, given)
    with np.errstate(invalid="ignore"):
        wanted = (w * x) @ p / (w @ p)
    frame, seen = torch.zeros(3, 2).double(), torch.ones(3, 2, dtype=torch.bool)
    frame[:, 1 - column], seen[0, column] = given, False
    frame[2], seen[2] = 0.0, False
    with torch.no_grad():
        found = expected(emission, frame, seen)
        assert_allclose(found[0, :, column], wanted, rtol=1e-7)
        assert torch.equal(likely(emission, frame, seen), found)
    assert (found[:2, :, 1 - column] == given).all() and (found[1] == frame[1]).all()
    assert_allclose(found[2], moments(emission)[0].detach(), rtol=1e-12)


@every
def test_completed_frames_have_the_conditional_mean_and_spread(name: str) -> None:
    emission, n = BUILT[name], 4000
    x, w, p = density(name, 1, given := GIVEN[CASES[name].support[0]])
    frame, seen = torch.full((n, 2), given, dtype=torch.float64), torch.tensor([True, False]).expand(n, 2)
    frame[:, 1] = 0
    for k in range(2):
        states, generator = torch.full((n,), k), torch.Generator().manual_seed(k)
        with torch.no_grad():
            drawn = complete(emission, states, frame, seen, generator)
        assert (drawn[:, 0] == given).all()
        q = w * p[:, k] / (w @ p[:, k])
        for power in (1, 2):
            value = drawn[:, 1].numpy() ** power
            if name != "student" or power == 1:  # its fourth moment is large
                assert abs(value.mean() - q @ x**power) < 4.5 * value.std() / np.sqrt(n) + 1e-9, (k, power)


def test_a_completed_full_gaussian_has_the_conditional_covariance_of_two_missing_entries() -> None:
    L = torch.tril(torch.from_numpy(G.normal(size=(1, 3, 3)))) + torch.eye(3)
    Sigma, n = L @ L.mT, 20000
    emission = E.FullGaussian(torch.zeros(1, 3).double(), Sigma)
    frame, seen = torch.zeros(n, 3).double(), torch.tensor([False, True, False]).expand(n, 3)
    with torch.no_grad():
        drawn = complete(emission, torch.zeros(n).long(), frame, seen, torch.Generator().manual_seed(0))
    S = Sigma[0][[0, 2]][:, [0, 2]] - Sigma[0][[0, 2], 1:2] @ Sigma[0][1:2, [0, 2]] / Sigma[0, 1, 1]
    assert_allclose(np.cov(drawn[:, [0, 2]].T), S, atol=0.05 * float(S.abs().max()))


def test_a_family_whose_entries_may_depend_on_each_other_is_not_filled_in_as_if_they_did_not() -> None:
    class Own(E.Emission):
        n_components, n_features = 2, 2

        def distribution(self) -> MultivariateNormal:
            return MultivariateNormal(MEAN, FULL)

        def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
            raise AssertionError("not asked here")

    x, seen = torch.zeros(1, 2).double(), torch.tensor([[True, False]])
    assert_allclose(moments(Own())[1], FULL.diagonal(dim1=1, dim2=2))
    for ask in (lambda: expected(Own(), x, seen), lambda: complete(Own(), torch.zeros(1).long(), x, seen)):
        with pytest.raises(NotImplementedError, match="entries of a frame of Own may depend on each other"):
            ask()


def test_the_most_probable_value_stands_in_where_there_is_no_mean() -> None:
    x, seen = torch.zeros(1, 1).double(), torch.zeros(1, 1, dtype=torch.bool)
    symbols = E.Categorical(torch.tensor([[0.2, 0.1, 0.7], [0.5, 0.3, 0.2]]).double())
    angles = E.VonMises(torch.tensor([[0.3], [-2.0]]).double(), torch.ones(2, 1).double())
    for emission, value in ((symbols, [2.0, 0.0]), (angles, [0.3, -2.0])):
        assert expected(emission, x, seen).isnan().all()
        assert_allclose(likely(emission, x, seen)[0, :, 0].detach(), value)
        with pytest.raises(NotImplementedError, match="has no distribution function"):
            cdf(emission, np.zeros((1, 1)))


@every
def test_gaussian_parts_are_the_distribution_function(name: str) -> None:
    emission = BUILT[name]
    parts = gaussian_parts(emission)
    assert (parts is None) == (
        name not in {"diagonal", "spherical", "full", "tied", "low-rank", "mixture-full"}
    )
    if parts is not None:
        weights, mean, scale = (p.detach() for p in parts)
        x = torch.tensor([[0.4, -0.2]]).double()
        phi = torch.special.ndtr((x[0] - mean) / scale)
        assert_allclose((weights[..., None] * phi).sum(1), cdf(emission, x.numpy())[0], atol=1e-12)


def sampled(emission: Emission) -> Tensor:
    with torch.no_grad():
        return emission.sample(torch.arange(40) % 2, torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", [*CASES, "categorical"])
def test_one_frame_at_a_time_has_the_density_of_all(name: str) -> None:
    emission = BUILT[name] if name in BUILT else E.Categorical(WEIGHTS)
    x = sampled(emission).numpy()
    x[3, -1] = x[5] = np.nan
    frames = torch.from_numpy(x)
    ask = frame_log_prob(emission)
    with torch.no_grad():
        wanted = emission.log_prob(frames.nan_to_num(), ~frames.isnan())
    assert_allclose(np.stack([ask(row) for row in x]), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "frame"),
    [("poisson", [1.5, 0]), ("poisson", [-1, 0]), ("categorical", [2]), ("categorical", [-1])],
)
def test_one_frame_outside_the_support_is_refused(name: str, frame: list[float]) -> None:
    emission = BUILT[name] if name in BUILT else E.Categorical(WEIGHTS)
    with pytest.raises(ValueError, match=r"data|X|hold"):
        frame_log_prob(emission)(np.array(frame, dtype=float))


def test_a_rate_of_zero_and_an_impossible_symbol_are_exact() -> None:
    still = frame_log_prob(E.Poisson(torch.tensor([[0.0], [2.0]]).double()))
    assert_allclose(still(np.array([0.0])), [0, -2])
    assert still(np.array([1.0]))[0] == -np.inf
    never = frame_log_prob(E.Categorical(torch.tensor([[1.0, 0.0]]).double()))
    assert never(np.array([1.0]))[0] == -np.inf
