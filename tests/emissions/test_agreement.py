"""Families that meet: a mixture of one, a product of one, no inflation, no lags, a limit.  In density and in M-step."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dbn_vae import emissions as e
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em
from dbn_vae.training.gradient_em import collect, maximize
from dbn_vae.training.initialise import frames
from dbn_vae.transitions import Stationary

K, D, N = 3, 2, 40
EXACT = {"rtol": 1e-10, "atol": 1e-10}
close = torch.testing.assert_close


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def poisson(rate: float, seed: int) -> Tensor:
    return torch.poisson(
        torch.full((N, D), rate, dtype=torch.float64), generator=torch.Generator().manual_seed(seed)
    )


MEAN, VARIANCE = numbers(K, D, seed=1), 0.4 + numbers(K, D, seed=2).square()
ROOT = numbers(K, D, D, seed=3)
COVARIANCE = ROOT @ ROOT.mT + 0.4 * torch.eye(D).double()
RATES = 1 + numbers(K, D, seed=4).square()
REAL, COUNTS = 1.5 * numbers(N, D, seed=5), poisson(3.0, 6)
SEEN = torch.rand(N, D, generator=torch.Generator().manual_seed(7)) > 0.3
SEEN[0], SEEN[1] = True, False
WEIGHTS = 2 * numbers(N, K, seed=8).softmax(-1)
NONE, ONE = torch.zeros(K, D).double(), torch.ones(K, 1).double()


def diagonal() -> e.DiagonalGaussian:
    return e.DiagonalGaussian(MEAN, VARIANCE)


def full() -> e.FullGaussian:
    return e.FullGaussian(MEAN, COVARIANCE)


def two_columns() -> e.Product:
    blocks = [e.DiagonalGaussian(MEAN[:, d : d + 1], VARIANCE[:, d : d + 1]) for d in (1, 0)]
    return e.Product(blocks, [[1], [0]])


# name: one family, the family that it is, its data; both before and after an M-step
SAME = {
    "a mixture of one": (lambda: e.Mixture(full(), ONE), full, REAL),
    "a mixture of equals": (
        lambda: e.Mixture(
            e.DiagonalGaussian(MEAN.repeat_interleave(2, 0), VARIANCE.repeat_interleave(2, 0)),
            torch.tensor([[0.3, 0.7]] * K).double(),
        ),
        diagonal,
        REAL,
    ),
    "a product of one": (lambda: e.Product([full()]), full, REAL),
    "a product of columns": (two_columns, diagonal, REAL),
    "a mixture of products": (lambda: e.Mixture(two_columns(), ONE), diagonal, REAL),
    "a product of mixtures": (lambda: e.Product([e.Mixture(full(), ONE)]), full, REAL),
    "no inflation": (lambda: e.ZeroInflated(e.Poisson(RATES), NONE), lambda: e.Poisson(RATES), COUNTS),
    "tied in groups of one": (lambda: e.TiedGaussian(MEAN, COVARIANCE), full, REAL),
}
same = pytest.mark.parametrize("name", SAME)


@same
def test_two_families_are_one(name: str) -> None:
    make, other, x = SAME[name]
    a, b = make(), other()
    data = torch.where(SEEN, x, 0.0), SEEN
    for _ in range(3):
        close(a.log_prob(*data), b.log_prob(*data), **EXACT)
        for emission in (a, b):
            emission.maximize(*emission.statistics(*data, WEIGHTS))
    assert e.closed_form(a)


def test_tying_in_groups_is_tying_each_group() -> None:
    """Two groups of two states: the same as two tied families of their own."""
    mean, weights = numbers(4, D, seed=9), numbers(N, 4, seed=10).softmax(-1)
    whole = e.TiedGaussian(mean, COVARIANCE[:2])
    parts = [e.TiedGaussian(mean[i : i + 2], COVARIANCE[i // 2]) for i in (0, 2)]
    for emission, w in ((whole, weights), (parts[0], weights[:, :2]), (parts[1], weights[:, 2:])):
        emission.maximize(*emission.statistics(torch.where(SEEN, REAL, 0.0), SEEN, w))
    close(whole.covariance(), torch.cat([p.covariance() for p in parts]), **EXACT)
    assert whole.n_free() == sum(p.n_free() for p in parts)


def test_one_trial_is_a_categorical() -> None:
    probs = numbers(K, 4, seed=11).softmax(-1)
    symbols = torch.randint(4, (N, 1), generator=torch.Generator().manual_seed(12))
    code, seen = torch.nn.functional.one_hot(symbols[:, 0], 4).double(), SEEN[:, :1]
    multinomial, categorical = e.Multinomial(probs, 1), e.Categorical(probs)
    for emission, x, o in ((multinomial, code, seen.expand(N, 4)), (categorical, symbols.double(), seen)):
        emission.maximize(*emission.statistics(x * o, o, WEIGHTS))
    close(multinomial.probs(), categorical.probs(), **EXACT)
    close(
        multinomial.log_prob(code * seen, seen.expand(N, 4)),
        categorical.log_prob(symbols.double() * seen, seen),
        **EXACT,
    )


def test_many_degrees_of_freedom_are_a_gaussian_and_many_sizes_a_poisson() -> None:
    for large in (1e6, 1e9, 1e12):
        t = e.StudentT(MEAN, VARIANCE.sqrt(), large)
        close(t.log_prob(REAL, SEEN), diagonal().log_prob(REAL, SEEN), rtol=0, atol=1e3 / large + 1e-11)
        nb = e.NegativeBinomial(RATES, large)
        close(
            nb.log_prob(COUNTS, SEEN),
            e.Poisson(RATES).log_prob(COUNTS, SEEN),
            rtol=0,
            atol=1e3 / large + 1e-11,
        )


def test_a_gamma_of_shape_one_is_exponential_and_with_it_frozen_learns_as_one() -> None:
    gamma, exponential = e.Gamma(torch.ones(K, D).double(), RATES), e.Exponential(RATES)
    gamma.frozen = frozenset({"shape"})
    x = torch.where(SEEN, REAL.square(), 0.0)
    for _ in range(2):
        close(gamma.log_prob(x, SEEN), exponential.log_prob(x, SEEN), **EXACT)
        for emission in (gamma, exponential):
            emission.maximize(*emission.statistics(x, SEEN, WEIGHTS))


@pytest.mark.parametrize("make", [diagonal, full])
def test_a_log_normal_is_the_gaussian_of_the_logarithms(make) -> None:
    log_normal, gaussian = e.LogNormal(make()), make()
    x = torch.where(SEEN, REAL.exp(), 0.0)
    for _ in range(2):
        jacobian = (REAL * SEEN).sum(1, keepdim=True)
        close(log_normal.log_prob(x, SEEN), gaussian.log_prob(REAL * SEEN, SEEN) - jacobian, **EXACT)
        log_normal.maximize(*log_normal.statistics(x, SEEN, WEIGHTS))
        gaussian.maximize(*gaussian.statistics(REAL * SEEN, SEEN, WEIGHTS))


def test_von_mises_is_the_same_a_turn_on_and_uniform_without_concentration() -> None:
    make = lambda kappa: e.VonMises(MEAN, kappa)  # noqa: E731
    a = make(RATES)
    close(a.log_prob(REAL + 2 * math.pi, SEEN), a.log_prob(REAL, SEEN), **EXACT)
    uniform = make(torch.zeros(K, D).double()).log_prob(REAL, SEEN)
    close(uniform, -math.log(2 * math.pi) * SEEN.sum(1, keepdim=True).double().expand(N, K), **EXACT)
    sharp = make(torch.full((K, D), 1e6).double()).log_prob(MEAN + 1e-3, SEEN[:1].expand(K, D)).diagonal()
    normal = torch.distributions.Normal(0.0, 1e-3).log_prob(torch.tensor(1e-3).double()) * D
    close(sharp, normal.double().expand(K), rtol=1e-5, atol=0)


@pytest.mark.thorough
def test_as_many_factors_as_needed_are_the_full_gaussian() -> None:
    """A loading that is the Cholesky factor of Σ − ψ gives the full density; and its M-step tends to the full one's."""
    noise = torch.full((K, D), 0.2).double()
    loading = torch.linalg.cholesky(COVARIANCE - torch.diag_embed(noise))
    low = e.LowRankGaussian(MEAN, loading, noise)
    close(low.log_prob(REAL, SEEN), full().log_prob(REAL, SEEN), **EXACT)
    everything, gaussian = torch.ones_like(SEEN), full()
    gaussian.maximize(*gaussian.statistics(REAL, everything, WEIGHTS))
    for _ in range(400):
        low.maximize(*low.statistics(REAL, everything, WEIGHTS))
    close(low.covariance(), gaussian.covariance(), rtol=1e-6, atol=1e-6)


# -- context


def hmm(emission: e.Emission) -> HMM:
    chain = Stationary(torch.full((K,), 1 / K).double(), torch.full((K, K), 1 / K).double())
    return HMM(chain, emission)


def sequences(inputs: Tensor | None = None) -> Sequences:
    x = torch.where(SEEN, REAL, math.nan).numpy()
    return Sequences.from_any(x, [15, 1, 24], inputs=None if inputs is None else inputs.numpy())


def climb(emission: e.Emission, data: Sequences, n: int = 5) -> list[float]:
    return [step.objective for step, _ in zip(em(hmm(emission), data), range(n), strict=False)]


def test_inputs_of_zero_make_a_gaussian_and_leave_the_slope() -> None:
    slope = numbers(K, D, 2, seed=13)
    regression = e.LinearRegression(MEAN, slope, COVARIANCE)
    a = climb(regression, sequences(torch.zeros(N, 2).double()))
    assert a == pytest.approx(climb(full(), sequences()), rel=1e-10)
    close(regression.slope.detach(), slope, **EXACT)


def test_a_regression_is_least_squares() -> None:
    u, seen = numbers(N, 2, seed=14), torch.ones(N, D + 2, dtype=torch.bool)
    regression = e.LinearRegression(MEAN, numbers(K, D, 2, seed=13), COVARIANCE)
    regression.maximize(*regression.statistics(torch.cat([REAL, u], 1), seen, WEIGHTS))
    design = torch.cat([torch.ones(N, 1).double(), u], 1)
    for k in range(K):
        root = WEIGHTS[:, k : k + 1].sqrt()
        solution = torch.linalg.lstsq(root * design, root * REAL).solution.T
        close(torch.cat([regression.mean[k, :, None], regression.slope[k]], 1).detach(), solution, **EXACT)


def test_no_coefficients_make_a_gaussian_from_the_second_frame_on() -> None:
    emission = e.Autoregressive(MEAN, torch.zeros(K, 2, D, D).double(), COVARIANCE)
    data = Sequences.from_any(REAL.numpy(), [15, 1, 24])
    x, seen = frames(hmm(emission), data)
    found, plain = emission.log_prob(x, seen), full().log_prob(REAL, torch.ones_like(SEEN))
    first = [0, 1, 15, 16, 17]
    for n in range(N):
        close(found[n], torch.zeros(K).double() if n in first else plain[n], **EXACT)


def test_lags_are_the_frames_before_and_never_those_of_another_sequence() -> None:
    emission = e.Autoregressive(MEAN, 0.3 * numbers(K, 2, 2, D, D, seed=15)[:, 0], COVARIANCE)
    data = sequences()
    x, seen = frames(hmm(emission), data)
    starts = {0, 15, 16}
    for n in range(N):
        for lag in (1, 2):
            columns = slice(D * lag, D * (lag + 1))
            crossed = any(start in starts for start in range(n - lag + 1, n + 1))
            assert seen[n, columns].tolist() == ([False] * D if crossed else SEEN[n - lag].tolist())
            if not crossed:
                close(x[n, columns], torch.where(SEEN[n - lag], REAL[n - lag], 0.0))
    alone = data.subset([2])
    close(frames(hmm(emission), alone)[0], x[16:], **EXACT)


def test_an_autoregression_is_a_regression_on_the_frames_before() -> None:
    A = 0.3 * numbers(K, 1, D, D, seed=16)
    lagged, regression = e.Autoregressive(MEAN, A, COVARIANCE), e.LinearRegression(MEAN, A[:, 0], COVARIANCE)
    x = REAL.numpy()
    a = climb(lagged, Sequences.from_any(x))
    before = torch.cat([torch.zeros(1, D).double(), REAL[:-1]])
    hidden = REAL.clone()
    hidden[0] = math.nan  # of the first frame neither says anything
    b = climb(regression, Sequences.from_any(hidden.numpy(), inputs=before.numpy()))
    assert a == pytest.approx(b, rel=1e-10)


@pytest.mark.thorough
def test_a_sampled_autoregression_has_its_lags() -> None:
    A = torch.tensor([[[[0.9, 0.0], [0.3, -0.5]]]]).double()
    emission = e.Autoregressive(torch.tensor([[1.0, -2.0]]).double(), A, 0.1 * torch.eye(2).double()[None])
    x = emission.sample(torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(0)).detach()
    design = torch.cat([torch.ones(len(x) - 1, 1).double(), x[:-1]], 1)
    solution = torch.linalg.lstsq(design, x[1:]).solution.T
    close(solution[:, 1:], A[0, 0], rtol=0, atol=0.03)
    settled = torch.linalg.solve(torch.eye(2).double() - A[0, 0], emission.mean[0].detach())
    close(x.mean(0), settled, rtol=0.05, atol=0.05)


def test_samples_of_regressions_follow_their_inputs() -> None:
    n = 20_000
    g = torch.Generator().manual_seed(0)
    u, states = numbers(n, 2, seed=17), torch.zeros(n, dtype=torch.int64)
    linear = e.LinearRegression(MEAN, numbers(K, D, 2, seed=13), COVARIANCE)
    x = linear.sample(states, g, u).detach()
    rest = x - linear.mean[0].detach() - u @ linear.slope[0].detach().T
    close(rest.mean(0), torch.zeros(D).double(), rtol=0, atol=0.05)
    close(rest.T.cov(), COVARIANCE[0], rtol=0.05, atol=0.05)
    logistic = e.LogisticRegression(MEAN, numbers(K, D, 2, seed=13))
    x = logistic.sample(states, g, u).detach()
    probs = logistic.logits(u)[:, 0].sigmoid().detach()
    assert ((x - probs).mean(0).abs() < 0.02).all()
    assert (((x - probs)[:, :, None] * u[:, None]).mean(0).abs() < 0.02).all()


def test_a_logistic_regression_without_slope_is_bernoulli_and_its_m_step_the_maximum() -> None:
    u, x = numbers(N, 2, seed=18), (REAL > 0).double()
    wide = torch.cat([x, u], 1), torch.cat([SEEN, torch.ones(N, 2, dtype=torch.bool)], 1)
    logistic, bernoulli = (
        e.LogisticRegression(MEAN, torch.zeros(K, D, 2).double()),
        e.Bernoulli(MEAN.sigmoid()),
    )
    close(logistic.log_prob(*wide), bernoulli.log_prob(x, SEEN), **EXACT)
    logistic.frozen = frozenset({"slope"})
    maximize(logistic, collect(logistic, *wide, WEIGHTS))
    bernoulli.maximize(*bernoulli.statistics(x * SEEN, SEEN, WEIGHTS))
    close(logistic.intercept.sigmoid(), bernoulli.probs(), rtol=1e-6, atol=1e-6)
    logistic.frozen = frozenset()
    logistic.precision = 0.5
    maximize(logistic, collect(logistic, *wide, WEIGHTS))
    objective = (WEIGHTS * logistic.log_prob(*wide)).sum() + logistic.log_prior()
    for gradient in torch.autograd.grad(objective, list(logistic.parameters())):
        assert gradient.abs().max() < 1e-5, "concave: where the gradient vanishes is the maximum"


def test_inputs_that_are_missing_or_misshapen_are_asked_for() -> None:
    regression = e.LinearRegression(MEAN, numbers(K, D, 2, seed=13), COVARIANCE)
    with pytest.raises(ValueError, match=r"inputs of shape None.*2 inputs a frame.*Sequences.from_any"):
        next(em(hmm(regression), sequences()))
    with pytest.raises(ValueError, match=r"inputs of shape \(3, 24, 3\)"):
        next(em(hmm(regression), sequences(torch.zeros(N, 3).double())))


# -- compounds of families without a closed form


class Logistic(e.Emission):
    """One method."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_features = centre.shape
        self.centre = torch.nn.Parameter(centre.clone())

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        z = x[..., None, :] - self.centre
        return ((-z - 2 * torch.nn.functional.softplus(-z)) * observed[..., None, :]).sum(-1)


def test_a_users_family_goes_into_products_and_mixtures() -> None:
    product = e.Product([Logistic(MEAN[:, :1]), e.DiagonalGaussian(MEAN[:, 1:], VARIANCE[:, 1:])])
    mixture = e.Mixture(Logistic(numbers(2 * K, D, seed=19)), numbers(K, 2, seed=20).softmax(-1))
    for emission in (product, mixture):
        assert not e.closed_form(emission)
        values = climb(emission, sequences(), 15)
        assert all(b >= a - 1e-9 for a, b in pairwise(values)), values
        assert values[-1] > values[0] + 0.5
    gaussian = e.DiagonalGaussian(MEAN[:, 1:], VARIANCE[:, 1:])
    together = e.Product([Logistic(MEAN[:, :1]), e.DiagonalGaussian(MEAN[:, 1:], VARIANCE[:, 1:])])
    x = REAL * SEEN
    maximize(together, collect(together, x, SEEN, WEIGHTS))
    gaussian.maximize(*gaussian.statistics(x[:, 1:], SEEN[:, 1:], WEIGHTS))
    block = together.blocks[1]
    close(block.mean, gaussian.mean, **EXACT)
    close(block.log_scale, gaussian.log_scale, **EXACT)


def test_a_product_holds_context_of_its_blocks_apart() -> None:
    """An autoregression of one column beside a regression of the other, with columns crossed."""
    u = numbers(N, 2, seed=21)
    lagged = e.Autoregressive(MEAN[:, :1], torch.full((K, 1, 1, 1), 0.4).double(), VARIANCE[:, :1, None])
    regression = e.LinearRegression(MEAN[:, 1:], numbers(K, 1, 2, seed=22), VARIANCE[:, 1:, None])
    product = e.Product([lagged, regression], [[1], [0]])
    data = sequences(u)
    x, seen = frames(hmm(product), data)
    one = Sequences.from_any(torch.where(SEEN, REAL, math.nan)[:, 1:].numpy(), [15, 1, 24])
    other = Sequences.from_any(
        torch.where(SEEN, REAL, math.nan)[:, :1].numpy(), [15, 1, 24], inputs=u.numpy()
    )
    apart = lagged.log_prob(*frames(hmm(lagged), one)) + regression.log_prob(*frames(hmm(regression), other))
    close(product.log_prob(x, seen), apart, **EXACT)
    values = climb(product, data, 8)
    assert all(b >= a - 1e-9 for a, b in pairwise(values))


def test_samples_of_a_product_stand_in_their_columns() -> None:
    """Three columns, whose permutation is not its own inverse."""
    mean = torch.tensor([[10.0, 20.0, 30.0]]).double()
    first = e.DiagonalGaussian(mean[:, [2, 0]], torch.full((1, 2), 0.01).double())
    second = e.DiagonalGaussian(mean[:, [1]], torch.full((1, 1), 0.01).double())
    product = e.Product([first, second], [[2, 0], [1]])
    x = product.sample(torch.zeros(5, dtype=torch.int64), torch.Generator().manual_seed(0))
    close(x.detach(), mean.expand(5, 3), rtol=0, atol=0.6)


def test_a_step_of_student_t_is_weighted_least_squares() -> None:
    """Liu and Rubin's M-step written out: weighted by u about the new location, over the plain weights."""
    dof, scale = 4.0, VARIANCE.sqrt()
    t = e.StudentT(MEAN, scale, dof)
    t.maximize(*t.statistics(torch.where(SEEN, REAL, 0.0), SEEN, WEIGHTS))
    for k in range(K):
        for d in range(D):
            x, w = REAL[SEEN[:, d], d], WEIGHTS[SEEN[:, d], k]
            u = (dof + 1) / (dof + ((x - MEAN[k, d]) / scale[k, d]).square())
            loc = (w * u * x).sum() / (w * u).sum()
            close(t.loc[k, d].detach(), loc, **EXACT)
            close(t.scale()[k, d].detach().square(), (w * u * (x - loc).square()).sum() / w.sum(), **EXACT)


def test_wrong_shapes_are_refused_in_words() -> None:
    with pytest.raises(
        ValueError, match=r"component holds 3 distributions; weights of shape \(3, 2\) need 6"
    ):
        e.Mixture(full(), torch.full((K, 2), 0.5))
    with pytest.raises(ValueError, match=r"blocks have \[3, 6\] states"):
        e.Product([full(), Logistic(numbers(6, 1, seed=1))])
    with pytest.raises(ValueError, match="must give each of 0 to 1 to one block"):
        e.Product([full()], [[0, 0]])
    with pytest.raises(ValueError, match=r"inflation has shape \(3, 1\)"):
        e.ZeroInflated(e.Poisson(RATES), ONE)
    with pytest.raises(ValueError, match="n_trials is None"):
        e.Multinomial(RATES).sample(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="define distribution or sample"):
        Logistic(MEAN).sample(torch.zeros(2, dtype=torch.int64))
