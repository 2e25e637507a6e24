"""Every family of p(x_t | s_t = k) by one table: its density, what missing entries do, and its M-step."""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dbn_vae.emissions import (
    Autoregressive,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Emission,
    Exponential,
    FullGaussian,
    Gamma,
    GaussianPrior,
    LinearRegression,
    LogNormal,
    LowRankGaussian,
    Mixture,
    Multinomial,
    NegativeBinomial,
    Poisson,
    Product,
    SphericalGaussian,
    StudentT,
    TiedGaussian,
    VonMises,
    ZeroInflated,
)

K, D, N = 3, 2, 40
EXACT = {"rtol": 1e-10, "atol": 1e-10}
close = torch.testing.assert_close


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MEAN = numbers(K, D, seed=1)
VARIANCE = 0.3 + numbers(K, D, seed=2).square()
_FACTOR = numbers(K, D, D, seed=3)
COVARIANCE = _FACTOR @ _FACTOR.mT + 0.4 * torch.eye(D, dtype=torch.float64)
PROBS = numbers(K, D, seed=4).sigmoid()
TABLE = numbers(K, 4, seed=5).softmax(-1)
RATES = numbers(K, D, seed=6).exp() * 2
POSITIVE = 0.7 + numbers(K, D, seed=15).square()
M = 2  # components of a mixture
MIXING = numbers(K, M, seed=16).softmax(-1)
MEANS = 2 * numbers(K * M, D, seed=17)
VARIANCES = 0.3 + numbers(K * M, D, seed=18).square()
_FACTORS = numbers(K * M, D, D, seed=19)
COVARIANCES = _FACTORS @ _FACTORS.mT + 0.4 * torch.eye(D, dtype=torch.float64)
LOADING = numbers(K, D, 1, seed=22)
LOW_RANK = LOADING @ LOADING.mT + torch.diag_embed(VARIANCE)
SLOPE = numbers(K, D, 2, seed=23)
COEFFICIENTS = 0.3 * numbers(K, 1, D, D, seed=24)
SHARES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], dtype=torch.float64)


def gaussian_oracle(covariance: Tensor) -> Callable:
    def log_prob(x, k, seen):
        if not seen.any():
            return 0.0
        at = np.ix_(seen, seen)
        return stats.multivariate_normal(MEAN[k].numpy()[seen], covariance[k].numpy()[at]).logpdf(x[seen])

    return log_prob


def mixed(covariances: Tensor) -> Callable:
    def log_prob(x, k, seen):
        terms = [
            MIXING[k, m].log().item()
            + stats.multivariate_normal(
                MEANS[k * M + m].numpy()[seen], covariances[k * M + m].numpy()[np.ix_(seen, seen)]
            ).logpdf(x[seen])
            for m in range(M)
        ]
        return np.logaddexp.reduce(terms)

    return lambda x, k, seen: log_prob(x, k, seen) if seen.any() else 0.0


def regressed(x, k, seen):
    """Columns 2 and 3 are inputs, always known."""
    seen = seen[:D]
    mean = (MEAN[k] + SLOPE[k] @ torch.as_tensor(x[D:])).numpy()[seen]
    if not seen.any():
        return 0.0
    return stats.multivariate_normal(mean, COVARIANCE[k].numpy()[np.ix_(seen, seen)]).logpdf(x[:D][seen])


def lagged(x, k, seen):
    """Columns 2 and 3 are the frame before."""
    if not seen[D:].all() or not seen[:D].any():
        return 0.0
    mean = (MEAN[k] + COEFFICIENTS[k, 0] @ torch.as_tensor(x[D:])).numpy()[seen[:D]]
    return stats.multivariate_normal(mean, COVARIANCE[k].numpy()[np.ix_(seen[:D], seen[:D])]).logpdf(
        x[:D][seen[:D]]
    )


def drawn_among(x, k, seen):
    """Three symbols, four trials; what nobody saw is a fourth symbol with the rest."""
    if not seen.any():
        return 0.0
    p = np.append(SHARES[k].numpy()[seen], SHARES[k].numpy()[~seen].sum())
    counts = np.append(x[seen], 4 - x[seen].sum()).astype(int)
    return float(stats.multinomial.logpmf(counts, 4, p))


def negative_binomial(v, k, d):
    r = POSITIVE[k, d].item()
    return stats.nbinom(r, r / (r + RATES[k, d].item())).logpmf(v)


def inflated(v, k, d):
    log_p = np.log1p(-PROBS[k, d].item()) + stats.poisson(RATES[k, d].item()).logpmf(v)
    return np.logaddexp(log_p, PROBS[k, d].log().item()) if v == 0 else log_p


def entrywise(log_pmf: Callable) -> Callable:
    return lambda x, k, seen: sum(log_pmf(x[d], k, d) for d in np.flatnonzero(seen))


class Family(NamedTuple):
    make: Callable[..., Emission]  # a fresh emission; keyword arguments are its prior and floor
    oracle: Callable  # (x, k, seen) to log p of the entries seen, by scipy
    x: Tensor  # (N, D) frames in the support
    values: Tensor  # every value of an entry, or a fine grid of them
    width: float | Tensor  # what a value of that grid stands for
    n_free: int
    priors: tuple[dict, ...] = ({},)
    frozen: Mapping[str, tuple[str, int]] = MappingProxyType(
        {}
    )  # part: its parameters, and how many of n_free they are
    exact: bool = True  # the M-step on complete frames is the maximum; otherwise a step of EM towards it
    context: int = 0  # columns that the density is conditional on


GAUSSIAN_PRIORS = (
    {},
    {"prior": GaussianPrior(mean=0.5, weight=2.0, scale=0.7, dof=3.0)},
    {"prior": GaussianPrior(mean=torch.tensor([1.0, -1.0]).double(), weight=0.5)},
    {"prior": GaussianPrior(scale=torch.tensor([0.1, 0.4]).double(), dof=1.0)},
)
NO_PRIOR, PROPER = (
    GaussianPrior(),
    GAUSSIAN_PRIORS[1]["prior"],
)  # a mixture without one collapses on single frames
REALS = torch.linspace(-25, 25, 5001, dtype=torch.float64)
FRAMES = 1.5 * numbers(N, D, seed=7)
# double exponential quadrature (Takahasi and Mori 1974): of all numbers, and of the positive ones
_H = torch.linspace(-4.4, 4.4, 2001, dtype=torch.float64)
_S, _W = torch.pi / 2 * _H.sinh(), 0.0044 * torch.pi / 2 * _H.cosh()
TAILS, TAIL_WIDTHS = _S.sinh(), _W * _S.cosh()
POSITIVES, POSITIVE_WIDTHS = _S.exp(), _W * _S.exp()
CIRCLE = -torch.pi + torch.arange(400, dtype=torch.float64) * torch.pi / 200
HEAVY = FRAMES * (1 + 0.6 * FRAMES.square())
WAITS = 0.1 + FRAMES.square()


def gaussian(make: Callable[..., Emission], covariance: Tensor, n_free: int) -> Family:
    frozen = {"mean": ("mean", K * D), "covariance": ("log_scale factor", n_free - K * D)}
    oracle = gaussian_oracle(covariance)
    return Family(make, oracle, FRAMES, REALS, 0.01, n_free, GAUSSIAN_PRIORS, frozen)


def counts(p: Tensor, seed: int) -> Tensor:
    return torch.poisson(p, generator=torch.Generator().manual_seed(seed))


TIED = COVARIANCE[:1].expand(K, D, D)
FAMILIES = {
    "diagonal": gaussian(
        lambda **options: DiagonalGaussian(MEAN, VARIANCE, **options),
        torch.diag_embed(VARIANCE),
        2 * K * D,
    ),
    "spherical": gaussian(
        lambda **options: SphericalGaussian(MEAN, VARIANCE[:, 0], **options),
        torch.diag_embed(VARIANCE[:, :1].expand(K, D)),
        K * D + K,
    ),
    "full": gaussian(
        lambda **options: FullGaussian(MEAN, COVARIANCE, **options),
        COVARIANCE,
        K * D + K * D * (D + 1) // 2,
    ),
    "tied": gaussian(
        lambda **options: TiedGaussian(MEAN, COVARIANCE[0], **options),
        TIED,
        K * D + D * (D + 1) // 2,
    ),
    "categorical": Family(
        lambda **options: Categorical(TABLE, **options),
        entrywise(lambda v, k, d: float(TABLE[k, int(v)].log())),
        torch.randint(4, (N, 1), generator=torch.Generator().manual_seed(8)).double(),
        torch.arange(4).double(),
        1.0,
        K * 3,
        ({}, {"concentration": 2.5}, {"concentration": 1 + torch.arange(4).double()}),
        {"probs": ("logits", K * 3)},
    ),
    "poisson": Family(
        lambda **options: Poisson(RATES, **options),
        entrywise(lambda v, k, d: stats.poisson(RATES[k, d].item()).logpmf(v)),
        counts(torch.full((N, D), 3.0, dtype=torch.float64), seed=9),
        torch.arange(120).double(),
        1.0,
        K * D,
        ({}, {"shape": 2.0, "rate": 0.5}),
        {"rates": ("log_rates", K * D)},
    ),
    "bernoulli": Family(
        lambda **options: Bernoulli(PROBS, **options),
        entrywise(lambda v, k, d: stats.bernoulli(PROBS[k, d].item()).logpmf(v)),
        counts(torch.full((N, D), 0.7, dtype=torch.float64), seed=10).clamp_max(1),
        torch.arange(2).double(),
        1.0,
        K * D,
        ({}, {"ones": 2.0, "zeros": 3.5}),
        {"probs": ("logits", K * D)},
    ),
    "multinomial": Family(
        lambda **options: Multinomial(SHARES, 4, **options),
        drawn_among,
        torch.nn.functional.one_hot(torch.randint(3, (N, 4), generator=torch.Generator().manual_seed(25)), 3)
        .sum(1)
        .double(),
        torch.arange(5).double(),
        1.0,
        K * 2,
        ({}, {"concentration": 2.5}),
        {"probs": ("logits", K * 2)},
    ),
    "exponential": Family(
        lambda **options: Exponential(POSITIVE, **options),
        entrywise(lambda v, k, d: stats.expon(scale=1 / POSITIVE[k, d].item()).logpdf(v)),
        WAITS,
        POSITIVES,
        POSITIVE_WIDTHS,
        K * D,
        ({}, {"shape": 2.0, "rate": 0.5}),
        {"rates": ("log_rates", K * D)},
    ),
    "gamma": Family(
        lambda: Gamma(POSITIVE, RATES),
        entrywise(lambda v, k, d: stats.gamma(POSITIVE[k, d].item(), scale=1 / RATES[k, d].item()).logpdf(v)),
        WAITS,
        POSITIVES,
        POSITIVE_WIDTHS,
        2 * K * D,
        frozen={"shape": ("log_shape", K * D), "rate": ("log_rate", K * D)},
    ),
    "log-normal": Family(
        lambda **options: LogNormal(DiagonalGaussian(MEAN, VARIANCE, **options)),
        entrywise(
            lambda v, k, d: stats.lognorm(VARIANCE[k, d].sqrt().item(), scale=MEAN[k, d].exp().item()).logpdf(
                v
            )
        ),
        WAITS,
        POSITIVES,
        POSITIVE_WIDTHS,
        2 * K * D,
        GAUSSIAN_PRIORS[:2],
    ),
    "von-mises": Family(
        lambda: VonMises(MEAN, POSITIVE),
        entrywise(lambda v, k, d: stats.vonmises(POSITIVE[k, d].item(), loc=MEAN[k, d].item()).logpdf(v)),
        FRAMES.atan() * 2,
        CIRCLE,
        torch.pi / 200,
        2 * K * D,
        frozen={"loc": ("loc", K * D), "concentration": ("log_concentration", K * D)},
    ),
    "student-t": Family(
        lambda: StudentT(MEAN, POSITIVE, 2 + RATES),
        entrywise(
            lambda v, k, d: stats.t(2 + RATES[k, d].item(), MEAN[k, d].item(), POSITIVE[k, d].item()).logpdf(
                v
            )
        ),
        HEAVY,
        TAILS,
        TAIL_WIDTHS,
        3 * K * D,
        frozen={"loc": ("loc", K * D), "scale": ("log_scale", K * D), "dof": ("log_dof", K * D)},
        exact=False,
    ),
    "negative-binomial": Family(
        lambda: NegativeBinomial(RATES, POSITIVE),
        entrywise(negative_binomial),
        (FRAMES.square() * 3).round(),
        torch.arange(800).double(),
        1.0,
        2 * K * D,
        frozen={"mean": ("log_mean", K * D), "size": ("log_size", K * D)},
        exact=False,
    ),
    "zero-inflated": Family(
        lambda **options: ZeroInflated(Poisson(RATES, **options), PROBS),
        entrywise(inflated),
        counts(torch.full((N, D), 3.0, dtype=torch.float64), seed=9) * (FRAMES > -1),
        torch.arange(120).double(),
        1.0,
        2 * K * D,
        ({}, {"shape": 2.0, "rate": 0.5}),
        {"inflation": ("logits", K * D)},
        exact=False,
    ),
    "mixture": Family(
        lambda prior=NO_PRIOR, concentration=1.0: Mixture(
            DiagonalGaussian(MEANS, VARIANCES, prior), MIXING, concentration
        ),
        mixed(torch.diag_embed(VARIANCES)),
        FRAMES,
        REALS,
        0.01,
        2 * K * M * D + K * (M - 1),
        ({"prior": PROPER}, {"prior": PROPER, "concentration": 2.5}),
        {"weights": ("logits", K * (M - 1))},
        exact=False,
    ),
    "mixture-full": Family(
        lambda **options: Mixture(FullGaussian(MEANS, COVARIANCES, **options), MIXING),
        mixed(COVARIANCES),
        FRAMES,
        REALS,
        0.01,
        5 * K * M + K * (M - 1),
        GAUSSIAN_PRIORS[1:2],
        {"weights": ("logits", K * (M - 1))},
        exact=False,
    ),
    "mixture-tied": Family(
        lambda concentration=1.0, **options: Mixture(
            TiedGaussian(MEANS, COVARIANCES[::M], **options), MIXING, concentration
        ),
        mixed(COVARIANCES[::M].repeat_interleave(M, 0)),
        FRAMES,
        REALS,
        0.01,
        2 * K * M + 3 * K + K * (M - 1),
        ({"prior": PROPER, "concentration": 2.0},),
        exact=False,
    ),
    "product": Family(
        lambda: Product(
            [DiagonalGaussian(MEAN[:, :1], VARIANCE[:, :1]), StudentT(MEAN[:, 1:], POSITIVE[:, 1:], 30.0)],
            [[1], [0]],
        ),
        entrywise(
            lambda v, k, d: (
                stats.norm(MEAN[k, 0].item(), VARIANCE[k, 0].sqrt().item())
                if d == 1
                else stats.t(30.0, MEAN[k, 1].item(), POSITIVE[k, 1].item())
            ).logpdf(v)
        ),
        HEAVY,
        TAILS,
        TAIL_WIDTHS,
        5 * K,
        exact=False,
    ),
    "low-rank": Family(
        lambda **options: LowRankGaussian(MEAN, LOADING, VARIANCE, **options),
        gaussian_oracle(LOW_RANK),
        FRAMES @ torch.tensor([[1.0, 0.8], [0.3, 1.0]], dtype=torch.float64),
        REALS,
        0.01,
        K * D + 3 * K,  # two columns leave no room for fewer numbers than a full covariance has
        frozen={"mean": ("mean", K * D), "covariance": ("loading log_noise", 3 * K)},
        exact=False,
    ),
    "linear-regression": Family(
        lambda **options: LinearRegression(MEAN, SLOPE, COVARIANCE, **options),
        regressed,
        torch.cat([FRAMES, numbers(N, 2, seed=26)], 1),
        REALS,
        0.01,
        K * D + 2 * K * D + 3 * K,
        frozen={
            "mean": ("mean", K * D),
            "slope": ("slope", 2 * K * D),
            "covariance": ("factor", 3 * K),
        },
        context=2,
    ),
    "autoregressive": Family(
        lambda **options: Autoregressive(MEAN, COEFFICIENTS, COVARIANCE, **options),
        lagged,
        torch.cat([FRAMES, FRAMES.roll(1, 0)], 1),
        REALS,
        0.01,
        K * D + K * D * D + 3 * K,
        frozen={"mean": ("mean", K * D), "slope": ("slope", K * D * D), "covariance": ("factor", 3 * K)},
        context=2,
    ),
}
GAUSSIANS = ["diagonal", "spherical", "full", "tied"]
drawable = pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.context])
every_family = pytest.mark.parametrize("name", FAMILIES)
PRIORS = [
    pytest.param(name, prior, id=f"{name}-prior{i}")
    for name, family in FAMILIES.items()
    for i, prior in enumerate(family.priors)
]
every_prior = pytest.mark.parametrize(("name", "prior"), PRIORS)


def observed_pattern(family: Family, share: float = 0.35, seed: int = 11) -> Tensor:
    """Some entries missing at random; the first frame whole, the second wholly missing; of context, none."""
    x = family.x
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > share
    observed[0], observed[1] = True, False
    observed[:, x.shape[1] - family.context :] = True
    return observed


def responsibilities(n: int) -> Tensor:
    return 3 * numbers(n, K, seed=12).softmax(-1)


def hidden(x: Tensor, observed: Tensor) -> Tensor:
    return torch.where(observed, x, 0.0)


def objective(emission: Emission, x: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """What the M-step maximises: Σ w log p + log prior."""
    return (weights * emission.log_prob(x, observed)).sum() + emission.log_prior()


def settle(emission: Emission, *data: Tensor, held: Sequence[str] = ()) -> None:
    """M-steps until the gradient vanishes, but for that of parameters that are held.

    Near its end EM goes on in a straight line, ever slower: from the last steps Anderson (1965) tells where to.
    """
    parameters, before, after = list(emission.parameters()), [], []
    for i in range(600):
        if i % 10 == 0:
            slopes = [g.abs().max() for name, g in gradients(emission, *data).items() if name not in held]
            if max(slopes) < 1e-7:
                return
        before.append(parameters_to_vector(parameters).detach())
        emission.maximize(*emission.statistics(*data))
        after.append(parameters_to_vector(parameters).detach())
        G = torch.stack(after[-8:])
        F = G - torch.stack(before[-8:])
        # not before a look, and not where a component's share has come to 0
        if i > 30 and i % 10 < 9 and F.isfinite().all():
            reached = objective(emission, *data)
            mix = torch.linalg.pinv(F.diff(dim=0).T, rtol=1e-6) @ F[-1]
            vector_to_parameters(G[-1] - mix @ G.diff(dim=0), parameters)
            if not objective(emission, *data) >= reached - 1e-9:  # too far
                vector_to_parameters(G[-1], parameters)


def gradients(emission: Emission, *data: Tensor) -> dict[str, Tensor]:
    parameters = dict(emission.named_parameters())
    grads = torch.autograd.grad(objective(emission, *data), list(parameters.values()))
    # of a Cholesky factor only the lower triangle is a parameter
    return {
        name: grad.tril() if name.endswith("factor") else grad
        for name, grad in zip(parameters, grads, strict=True)
    }


# Density


@every_family
def test_log_prob_is_scipys_with_missing_entries_integrated_out(name):
    family, n = FAMILIES[name], 16
    frames, observed = family.x[:n], observed_pattern(family)[:n]
    value = family.make().log_prob(hidden(frames, observed), observed)
    oracle = [
        [family.oracle(x, k, seen) for k in range(K)]
        for x, seen in zip(frames.numpy(), observed.numpy(), strict=True)
    ]
    close(value, torch.tensor(oracle, dtype=torch.float64), **EXACT)
    assert (value[1] == 0).all(), "a frame of which nothing was seen says nothing"


@every_family
def test_a_missing_entry_is_the_sum_over_its_values(name):
    family = FAMILIES[name]
    emission, x = family.make(), family.x[:5]
    for d in range(x.shape[1] - family.context):
        every = x.expand(len(family.values), *x.shape).clone()
        every[..., d] = family.values[:, None]
        complete = emission.log_prob(every, torch.ones_like(every, dtype=torch.bool))
        observed = torch.ones_like(x, dtype=torch.bool)
        observed[:, d] = False
        marginal = emission.log_prob(hidden(x, observed), observed)
        width = torch.as_tensor(family.width, dtype=torch.float64).expand(len(family.values))
        close(torch.einsum("v,vnk->nk", width, complete.exp()), marginal.exp(), **EXACT)


@every_family
def test_any_leading_shape(name):
    family = FAMILIES[name]
    observed = observed_pattern(family)
    flat = family.make().log_prob(family.x, observed)
    shaped = family.make().log_prob(family.x.view(4, 5, 2, -1), observed.view(4, 5, 2, -1))
    close(shaped, flat.view(4, 5, 2, K), **EXACT)


def moments(family: Family, d: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of an entry in every state, by summing over its values: (K,) each."""
    x = torch.zeros(len(family.values), family.x.shape[1], dtype=torch.float64)
    x[:, d] = family.values
    observed = torch.zeros_like(x, dtype=torch.bool)
    observed[:, d] = True
    mass = family.make().log_prob(x, observed).exp().detach() * torch.as_tensor(family.width).unsqueeze(-1)
    mean = family.values @ mass
    return mean, family.values.square() @ mass - mean.square()


@drawable
def test_samples_have_the_familys_moments(name):
    family = FAMILIES[name]
    emission = family.make()
    n = 8000
    states = torch.arange(K).repeat_interleave(n)
    drawn = emission.sample(states, torch.Generator().manual_seed(0)).detach().view(K, n, -1)
    again = emission.sample(states, torch.Generator().manual_seed(0)).detach().view(K, n, -1)
    assert torch.equal(drawn, again)
    for d in range(drawn.shape[-1]):
        mean, variance = moments(family, d)
        assert ((drawn[..., d].mean(1) - mean).abs() < 5 * (variance / n).sqrt()).all()
        if name not in (
            "student-t",
            "product",
            "log-normal",
            "negative-binomial",
        ):  # a fourth moment without bound, or large
            close(drawn[..., d].var(1), variance, rtol=0.15, atol=0)
    if name in (*GAUSSIANS, "low-rank"):
        for k in range(K):
            close(drawn[k].T.cov(), emission.covariance()[k].detach(), rtol=0.15, atol=0.1)
    # and the whole distribution, entry by entry, by counting how often it is exceeded
    for d in range(drawn.shape[-1]):
        x = torch.zeros(len(family.values), drawn.shape[-1], dtype=torch.float64)
        x[:, d] = family.values
        seen = torch.zeros_like(x, dtype=torch.bool)
        seen[:, d] = True
        mass = emission.log_prob(x, seen).exp().detach() * torch.as_tensor(family.width).unsqueeze(-1)
        for cut in drawn[0, :5, d]:
            below = mass[family.values <= cut].sum(0)
            share = (drawn[..., d] <= cut).double().mean(1)
            assert ((share - below).abs() < 5 * (0.25 / n) ** 0.5 + 0.01).all()


@drawable
def test_samples_keep_the_shape_of_the_states(name):
    emission = FAMILIES[name].make()
    states = torch.tensor([[0, 2, 1], [1, 1, 0]])
    drawn = emission.sample(states, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 3, FAMILIES[name].x.shape[1])
    emission.check(drawn, torch.ones_like(drawn, dtype=torch.bool))


# The M-step


@pytest.mark.some(4)
@every_prior
def test_the_m_step_is_the_maximum(name, prior):
    """On complete frames at once; where more is hidden than the state, after many steps."""
    family = FAMILIES[name]
    data = family.x, torch.ones_like(family.x, dtype=torch.bool), responsibilities(N)
    emission = family.make(**prior)
    before = objective(emission, *data)
    start = max(g.abs().max().item() for g in gradients(emission, *data).values())
    emission.maximize(*emission.statistics(*data))
    assert start > 0.1, "the start must not already be the maximum"
    assert objective(emission, *data) > before
    if not family.exact:
        settle(emission, *data)
    for parameter, gradient in gradients(emission, *data).items():
        limit = 1e-9 if family.exact else 1e-6
        assert gradient.abs().max() < limit, f"∂ objective / ∂ {parameter} is {gradient}"
    best = objective(emission, *data)
    for i in range(8):
        rival = copy.deepcopy(emission)
        for j, parameter in enumerate(rival.parameters()):
            parameter.data += 0.03 * numbers(*parameter.shape, seed=1000 * i + j)
        assert objective(rival, *data) < best, f"perturbation {i} is better"


@pytest.mark.some(4)
@every_prior
def test_em_with_missing_entries_climbs_to_a_maximum(name, prior):
    """Fixed responsibilities, so this is the M-step's own EM: monotone, and stationary where it ends."""
    family = FAMILIES[name]
    observed = observed_pattern(family)
    data = hidden(family.x, observed), observed, responsibilities(N)
    emission = family.make(**prior)
    values = [objective(emission, *data).item()]
    for _ in range(20):
        emission.maximize(*emission.statistics(*data))
        values.append(objective(emission, *data).item())
    assert min(np.diff(values)) > -1e-9, f"the objective fell: {np.diff(values)}"
    settle(emission, *data)
    for parameter, gradient in gradients(emission, *data).items():
        assert gradient.abs().max() < 1e-6, f"∂ objective / ∂ {parameter} is {gradient}"


@pytest.mark.parametrize("name", GAUSSIANS)
def test_the_priors_mean_and_scale_may_differ_by_state(name):
    """GaussianPrior promises that both broadcast to (K, D); the tied matrix has no state of its own."""
    mean = numbers(K, D, seed=20)
    scale = 1.0 if name == "tied" else 0.2 + numbers(K, D, seed=21).square()
    emission = FAMILIES[name].make(prior=GaussianPrior(mean=mean, weight=1.5, scale=scale, dof=2.0))
    data = FAMILIES[name].x, torch.ones(N, D, dtype=torch.bool), responsibilities(N)
    emission.maximize(*emission.statistics(*data))
    for parameter, gradient in gradients(emission, *data).items():
        assert gradient.abs().max() < 1e-9, f"∂ objective / ∂ {parameter} is {gradient}"


@every_family
def test_statistics_add_over_batches(name):
    family = FAMILIES[name]
    observed, weights = observed_pattern(family), responsibilities(N)
    x, emission = hidden(family.x, observed), family.make()
    whole = emission.statistics(x, observed, weights)
    first, second = slice(0, 13), slice(13, None)
    parts = [emission.statistics(x[s], observed[s], weights[s]) for s in (first, second)]
    for a, b, c in zip(whole, *parts, strict=True):
        close(a, b + c, **EXACT)


@every_family
def test_weight_two_is_a_duplicate_and_weight_zero_an_absence(name):
    family = FAMILIES[name]
    observed, weights = observed_pattern(family), responsibilities(N)
    x, emission = hidden(family.x, observed), family.make()
    scaled = weights.clone()
    scaled[:5] *= 2
    scaled[-5:] = 0
    index = torch.tensor([*range(5), *range(N - 5)])
    twice = emission.statistics(x[index], observed[index], weights[index])
    for a, b in zip(emission.statistics(x, observed, scaled), twice, strict=True):
        close(a, b, **EXACT)


@every_family
def test_a_state_nobody_visits_keeps_its_parameters(name):
    family = FAMILIES[name]
    observed, weights = torch.ones_like(family.x, dtype=torch.bool), responsibilities(N)
    weights[:, 1] = 0
    emission = family.make()
    before = emission.log_prob(family.x, observed)[:, 1]
    emission.maximize(*emission.statistics(family.x, observed, weights))
    if name == "tied":  # its covariance is shared with those that were visited
        close(emission.mean[1], MEAN[1], **EXACT)
    else:
        close(emission.log_prob(family.x, observed)[:, 1], before, **EXACT)


ENTRYWISE = [
    "diagonal",
    "poisson",
    "bernoulli",
    "exponential",
    "gamma",
    "student-t",
    "negative-binomial",
    "von-mises",
]


@pytest.mark.parametrize("name", ENTRYWISE)
def test_an_entry_nobody_saw_keeps_its_parameters(name):
    family = FAMILIES[name]
    observed = torch.ones_like(family.x, dtype=torch.bool)
    observed[:, 1] = False
    emission = family.make()
    before = emission.log_prob(family.x, ~observed)
    emission.maximize(*emission.statistics(hidden(family.x, observed), observed, responsibilities(N)))
    close(emission.log_prob(family.x, ~observed), before, **EXACT)
    assert all(p.isfinite().all() for p in emission.parameters())


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, f in FAMILIES.items() for part in f.frozen]
)
def test_frozen_parameters_stay_and_are_not_counted(name, part):
    family = FAMILIES[name]
    emission = family.make()
    emission.frozen = frozenset({part})
    before = {k: v.clone() for k, v in emission.named_parameters()}
    data = family.x, torch.ones_like(family.x, dtype=torch.bool), responsibilities(N)
    emission.maximize(*emission.statistics(*data))
    names, size = family.frozen[part]
    if not family.exact:
        settle(emission, *data, held=names.split())
    grads = gradients(emission, *data)
    for parameter, value in emission.named_parameters():
        if parameter in names.split():
            assert torch.equal(value, before[parameter]), parameter
        else:
            # given the frozen ones, the rest is at its maximum
            assert grads[parameter].abs().max() < (1e-9 if family.exact else 1e-6), parameter
    assert emission.n_free() == family.n_free - size


@every_family
def test_n_free_counts_the_free_parameters(name):
    assert FAMILIES[name].make().n_free() == FAMILIES[name].n_free


@pytest.mark.parametrize("D", [1, 2, 3, 5])
@pytest.mark.parametrize("R", [1, 2, 3, 4, 7, 12])
def test_n_free_of_low_rank_is_the_dimension_of_its_covariances(D: int, R: int) -> None:
    """The rank of what the numbers of W and ψ do to Σ, rotations and surplus of factors left out by themselves."""
    g = torch.Generator().manual_seed(D * R)
    W = torch.randn(1, D, R, generator=g, dtype=torch.float64)
    psi = torch.rand(1, D, generator=g, dtype=torch.float64) + 0.5
    emission = LowRankGaussian(torch.zeros(1, D, dtype=torch.float64), W, psi)

    def covariance(numbers: Tensor) -> Tensor:
        loading, noise = numbers[: D * R].view(D, R), numbers[D * R :]
        return (loading @ loading.T + torch.diag(noise))[tuple(torch.tril_indices(D, D))]

    J = torch.autograd.functional.jacobian(covariance, torch.cat([W.flatten(), psi.flatten()]))
    emission.frozen = frozenset({"mean"})
    assert int(torch.linalg.matrix_rank(J, tol=1e-8)) == emission.n_free() <= D * (D + 1) // 2


def test_structural_zeros_of_a_categorical_are_not_free_and_stay_zero():
    emission = Categorical(torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64))
    assert emission.n_free() == 1 + 2
    symbols = torch.tensor([[0.0], [1.0], [2.0], [2.0]], dtype=torch.float64)
    seen = torch.ones_like(symbols, dtype=torch.bool)
    emission.maximize(*emission.statistics(symbols, seen, torch.ones(4, 2, dtype=torch.float64)))
    close(emission.probs().detach(), torch.tensor([[0.5, 0.5, 0], [0.25, 0.25, 0.5]]).double())


# Numbers that ask for care


@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_large_offset_costs_no_digits(name):
    """x + 1e8 is stored to 1.5e-8, so the offset data minus 1e8 are exact: the oracle is the same fit there."""
    offset = 2.0**27
    x = (offset + numbers(N, D, seed=13)) - offset
    seen, weights = torch.ones_like(x, dtype=torch.bool), responsibilities(N)
    near, far = FAMILIES[name].make(), FAMILIES[name].make()
    with torch.no_grad():
        near.mean.copy_(near.mean + offset - offset)
        far.mean.copy_(near.mean + offset)
    for emission, frames in ((near, x), (far, x + offset)):
        emission.maximize(*emission.statistics(frames, seen, weights))
    close(far.covariance(), near.covariance(), rtol=1e-7, atol=1e-9)
    close(far.mean.detach() - offset, near.mean.detach(), rtol=0, atol=3e-8)
    close(far.log_prob(x + offset, seen), near.log_prob(x, seen), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_the_floor_holds_and_is_reported(name):
    """State 2 meets one value only; its variance would be 0."""
    floor = torch.full((D,), 0.05, dtype=torch.float64)
    emission = FAMILIES[name].make(floor=floor)
    x, weights = FAMILIES[name].x.clone(), responsibilities(N)
    x[:4] = 1.0
    weights[:, 2] = 0
    weights[:4] = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    if name == "tied":
        x = torch.ones_like(x)
    data = x, torch.ones_like(x, dtype=torch.bool), weights
    emission.maximize(*emission.statistics(*data))
    close(emission.covariance()[2].detach(), torch.diag(floor), **EXACT)
    assert emission.floored == ([0] if name == "tied" else [2])
    if name != "tied":
        emission.maximize(*emission.statistics(data[0], data[1], responsibilities(N)))
        assert emission.floored == [], "the report must be of the last M-step"


@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_floor_holds_in_each_direction_by_itself(name):
    floor = torch.tensor([0.01, 4.0], dtype=torch.float64)
    emission = FAMILIES[name].make(floor=floor)
    x = 0.5 * FAMILIES[name].x
    seen, weights = torch.ones_like(x, dtype=torch.bool), responsibilities(N)
    emission.maximize(*emission.statistics(x, seen, weights))
    slack = torch.linalg.eigvalsh(emission.covariance().detach() - torch.diag(floor))
    assert (slack > -1e-9).all(), f"Σ − diag(floor) has eigenvalues {slack.tolist()}"


@pytest.mark.parametrize("name", ["diagonal", "full", "tied"])
def test_the_floored_m_step_is_the_constrained_maximum(name):
    """No feasible covariance, however drawn, beats it."""
    floor = torch.tensor([0.3, 4.0], dtype=torch.float64)
    emission = FAMILIES[name].make(floor=floor)
    data = FAMILIES[name].x, torch.ones(N, D, dtype=torch.bool), responsibilities(N)
    emission.maximize(*emission.statistics(*data))
    best, found = objective(emission, *data), emission.covariance().detach()
    for i in range(200):
        bump = numbers(*found.shape, seed=100 + i)
        if name == "diagonal":
            bump = torch.diag_embed(bump.diagonal(dim1=-2, dim2=-1))
        if name == "tied":
            bump = bump[:1].expand_as(bump)
        # any matrix above the floor is the floor plus a square
        root = torch.linalg.cholesky(found - torch.diag(floor) + 1e-9 * torch.eye(D).double())
        root = root + 0.3 * bump
        other = torch.diag(floor) + root @ root.mT
        if name == "diagonal":
            other = torch.diag_embed(other.diagonal(dim1=-2, dim2=-1))
        rival = FullGaussian(emission.mean.detach(), other)
        assert (data[2] * rival.log_prob(*data[:2])).sum() <= best + 1e-6, f"draw {i} is better"


COLLAPSING = {
    "student-t": (lambda **floor: StudentT(MEAN, POSITIVE, 2 + RATES, **floor), lambda e: e.scale().square()),
    "gamma": (lambda **floor: Gamma(POSITIVE, RATES, **floor), lambda e: 1 / e.shape()),
    "von-mises": (lambda **floor: VonMises(MEAN, POSITIVE, **floor), lambda e: 1 / e.concentration()),
}


def repeated(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """State 2 meets one value only, whose likelihood has no bound."""
    x, weights = FAMILIES[name].x.clone(), responsibilities(N)
    x[:6] = 1.3
    weights[:, 2] = 0
    weights[:6] = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    return x, torch.ones_like(x, dtype=torch.bool), weights


@pytest.mark.parametrize("name", COLLAPSING)
def test_a_floor_keeps_a_state_from_collapsing_and_is_reported(name):
    """The M-step is then the maximum under the constraint: it would go on falling if it could."""
    make, spread = COLLAPSING[name]
    floor, data = torch.tensor([0.05, 0.3], dtype=torch.float64), repeated(name)
    emission = make(floor=floor)
    values = []
    for _ in range(300 if name == "student-t" else 3):  # the others are there at once
        emission.maximize(*emission.statistics(*data))
        values.append(objective(emission, *data).item())
    assert min(np.diff(values)) > -1e-9 * abs(values[-1]), np.diff(values).min()
    close(spread(emission)[2].detach(), floor, **EXACT)
    assert 2 in emission.floored
    parameter = {"student-t": "log_scale", "gamma": "log_shape", "von-mises": "log_concentration"}[name]
    push = gradients(emission, *data)[parameter][2] * (-1 if name == "student-t" else 1)
    assert (push > 1).all(), f"the objective does not ask for a smaller spread: {push}"
    free = ~emission.held
    assert free.any() and max(g[free].abs().max() for g in gradients(emission, *data).values()) < 1e-3


@pytest.mark.parametrize("name", COLLAPSING)
def test_without_a_floor_rounding_is_one(name):
    """Nothing infinite, nothing NaN, and EM climbs still."""
    make, spread = COLLAPSING[name]
    emission, data = make(), repeated(name)
    values = []
    for _ in range(100 if name == "student-t" else 10):
        emission.maximize(*emission.statistics(*data))
        values.append(objective(emission, *data).item())
        assert all(g.isfinite().all() for g in gradients(emission, *data).values())
    assert min(np.diff(values)) > -1e-9 * abs(values[-1]), np.diff(values).min()
    assert (spread(emission)[2] < 2e-9).all() and emission.floored == [2]


@pytest.mark.parametrize(
    ("emission", "centre"),
    [
        (Gamma(torch.full((1, 1), 1e9).double(), torch.full((1, 1), 5e8).double()), 2.0),
        (VonMises(torch.full((1, 1), 2.0).double(), torch.full((1, 1), 2.5e8).double()), 2.0),
    ],
    ids=["gamma", "von-mises"],
)
def test_a_narrow_density_keeps_its_digits(emission, centre):
    """Its integral is 1 to ten digits; the usual form of a gamma of shape 1e9 is wrong in the fifth."""
    width = centre * 1e9**-0.5
    grid = torch.linspace(-10, 10, 2001, dtype=torch.float64)[:, None]
    density = emission.log_prob(centre + width * grid, torch.ones_like(grid, dtype=torch.bool)).exp()
    close(density.sum() * width * 0.01, torch.ones(()).double(), **EXACT)


@pytest.mark.parametrize("tied", [False, True])
def test_a_state_made_of_components_reports_their_floors(tied):
    """Components of a state stand together; a matrix that the components share counts once."""
    family, covariances = (TiedGaussian, COVARIANCES[::M]) if tied else (FullGaussian, COVARIANCES)
    component = family(MEANS, covariances)
    emission = Product([Mixture(component, MIXING), DiagonalGaussian(MEAN, VARIANCE)])
    component.held = torch.zeros(K if tied else K * M, 1, dtype=torch.bool)
    component.held[-1] = True
    assert emission.floored == [2]


def test_a_constant_feature_neither_breaks_nor_explodes():
    x = numbers(N, 2, seed=14)
    x[:, 1] = 715.0
    data = x, torch.ones_like(x, dtype=torch.bool), responsibilities(N)
    for make in (
        lambda m: DiagonalGaussian(m, torch.ones_like(m)),
        lambda m: FullGaussian(m, torch.eye(2, dtype=torch.float64).expand(K, 2, 2)),
    ):
        emission = make(x[:K].clone())
        for _ in range(3):
            emission.maximize(*emission.statistics(*data))
        assert emission.log_prob(*data[:2]).isfinite().all(), type(emission).__name__


@pytest.mark.parametrize("family", [Poisson, Bernoulli, Categorical])
def test_probabilities_of_exactly_zero_are_exact_and_have_finite_gradients(family):
    """What an M-step makes of an event it never saw."""
    emission = family(torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    if family is Categorical:
        x, impossible = torch.tensor([[1.0]]).double(), torch.tensor([[0.0]]).double()
    else:
        x, impossible = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    seen = torch.ones_like(x, dtype=torch.bool)
    log_prob = emission.log_prob(x, seen)
    close(log_prob, torch.tensor([[-1.0 if family is Poisson else 0.0]]).double())
    assert (emission.log_prob(impossible, seen) == -torch.inf).all()
    (parameter,) = emission.parameters()
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameter)
    assert gradient.isfinite().all(), gradient
    emission.maximize(*emission.statistics(x, seen, torch.ones(1, 1).double()))
    assert emission.log_prior() == 0


@pytest.mark.parametrize("family", [Poisson, lambda rates: NegativeBinomial(rates, 2.0)])
def test_an_impossible_count_nobody_saw_says_nothing(family):
    """Zero inflation asks its base for one entry at a time, the others standing there unobserved."""
    base = family(torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    x, second = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[False, True]])
    close(base.log_prob(x, second), base.log_prob(torch.tensor([[0.0, 1.0]]).double(), second), **EXACT)
    emission = ZeroInflated(base, torch.full((1, 2), 0.5).double())
    assert emission.log_prob(x, ~second | second).item() == -torch.inf
    assert emission.log_prob(x, second).isfinite().all()


# Families that must agree


def equal_in_every_way(a: Emission, b: Emission, *data: Tensor) -> None:
    close(a.log_prob(*data[:2]), b.log_prob(*data[:2]), **EXACT)
    close(a.log_prior(), b.log_prior(), **EXACT)
    a.maximize(*a.statistics(*data))
    b.maximize(*b.statistics(*data))
    close(a.distribution().mean, b.distribution().mean, **EXACT)


COMPLETE = (FAMILIES["full"].x, torch.ones(N, D, dtype=torch.bool), responsibilities(N))


@pytest.mark.parametrize("prior", GAUSSIAN_PRIORS[:1] + GAUSSIAN_PRIORS[2:])
def test_diagonal_is_full_with_a_diagonal_covariance(prior):
    diagonal = FAMILIES["diagonal"].make(**prior)
    full = FullGaussian(MEAN, torch.diag_embed(VARIANCE), **prior)
    observed = observed_pattern(FAMILIES["full"])
    some = hidden(COMPLETE[0], observed), observed
    close(diagonal.log_prob(*some), full.log_prob(*some), **EXACT)
    equal_in_every_way(diagonal, full, *COMPLETE)
    variance = full.covariance().diagonal(dim1=-2, dim2=-1)
    close(diagonal.variance(), variance, **EXACT)


def test_spherical_is_diagonal_with_equal_variances():
    spherical = FAMILIES["spherical"].make()
    diagonal = DiagonalGaussian(MEAN, VARIANCE[:, :1].expand(K, D))
    equal_in_every_way(spherical, diagonal, *COMPLETE)
    close(spherical.variance()[:, 0], diagonal.variance().mean(1), **EXACT)


def test_tied_is_full_with_equal_matrices():
    tied, full = FAMILIES["tied"].make(), FullGaussian(MEAN, TIED)
    observed = observed_pattern(FAMILIES["full"])
    some = hidden(COMPLETE[0], observed), observed
    close(tied.log_prob(*some), full.log_prob(*some), **EXACT)
    equal_in_every_way(tied, full, *COMPLETE)
    share = COMPLETE[2].sum(0) / COMPLETE[2].sum()
    close(tied.covariance()[0], (share[:, None, None] * full.covariance()).sum(0), **EXACT)


def test_one_column_makes_diagonal_spherical_and_full_one_family():
    mean, variance, x = MEAN[:, :1], VARIANCE[:, :1], COMPLETE[0][:, :1]
    data = x, torch.ones_like(x, dtype=torch.bool), COMPLETE[2]
    prior = GAUSSIAN_PRIORS[1]
    equal_in_every_way(
        DiagonalGaussian(mean, variance, **prior), FullGaussian(mean, variance[..., None], **prior), *data
    )
    equal_in_every_way(
        DiagonalGaussian(mean, variance, **prior), SphericalGaussian(mean, variance[:, 0], **prior), *data
    )


def test_a_bernoulli_entry_is_a_categorical_of_two_symbols():
    p, x = PROBS[:, :1], FAMILIES["bernoulli"].x[:, :1]
    seen = torch.ones_like(x, dtype=torch.bool)
    bernoulli, categorical = Bernoulli(p), Categorical(torch.cat([1 - p, p], 1))
    close(bernoulli.log_prob(x, seen), categorical.log_prob(x, seen), **EXACT)
    for emission in (bernoulli, categorical):
        emission.maximize(*emission.statistics(x, seen, COMPLETE[2]))
    close(bernoulli.probs(), categorical.probs()[:, 1:], **EXACT)


def test_a_bernoulli_prior_of_its_own_for_every_entry_is_that_of_each_alone():
    ones, zeros = torch.tensor([[1.0, 2.5], [3.0, 1.0]]).double()
    x = torch.tensor([[0, 0], [1, 1], [0, 1], [0, 1]]).double()
    weights, seen = COMPLETE[2][:4], torch.ones_like(x, dtype=torch.bool)
    both = Bernoulli(PROBS[:, :2], ones, zeros)
    alone = [Bernoulli(PROBS[:, [d]], ones[d].item(), zeros[d].item()) for d in range(2)]
    close(both.log_prior(), alone[0].log_prior() + alone[1].log_prior(), **EXACT)
    for emission, columns in ((both, [0, 1]), (alone[0], [0]), (alone[1], [1])):
        emission.maximize(*emission.statistics(x[:, columns], seen[:, columns], weights))
    close(both.probs(), torch.cat([e.probs() for e in alone], 1), **EXACT)


# Support

REFUSED = [
    ("categorical", [[4.0]], "4", "0 to 3"),
    ("categorical", [[-1.0]], "-1", "0 to 3"),
    ("categorical", [[0.5]], "0.5", "0 to 3"),
    ("categorical", [[0.0, 1.0]], "2 columns", "one column"),
    ("poisson", [[1.0, -2.0]], "-2", "whole numbers"),
    ("poisson", [[1.5, 2.0]], "1.5", "whole numbers"),
    ("bernoulli", [[0.0, 0.25]], "0.25", "0 and 1"),
    ("bernoulli", [[2.0, 0.0]], "2", "0 and 1"),
    ("multinomial", [[1.0, 1.5, 1.5]], "1.5", "whole numbers"),
    ("multinomial", [[1.0, 1.0, 1.0]], "sums to 3", "n_trials it is 4"),
    ("negative-binomial", [[1.0, -2.0]], "-2", "whole numbers"),
    ("zero-inflated", [[1.0, -2.0]], "-2", "whole numbers"),
    ("exponential", [[1.0, -2.0]], "-2", "not negative"),
    ("gamma", [[1.0, 0.0]], "0", "positive"),
    ("log-normal", [[1.0, 0.0]], "0", "positive"),
    ("von-mises", [[1.0, 180.0]], "180", "radians"),
]


@pytest.mark.parametrize(("name", "x", "value", "remedy"), REFUSED)
def test_values_outside_the_support_are_refused_where_observed(name, x, value, remedy):
    x = torch.tensor(x)
    with pytest.raises(ValueError, match=value) as error:
        FAMILIES[name].make().check(x, torch.ones_like(x, dtype=torch.bool))
    assert remedy in str(error.value)
    if "columns" not in value:
        FAMILIES[name].make().check(x, torch.zeros_like(x, dtype=torch.bool))


@every_family
def test_values_in_the_support_are_accepted(name):
    x = FAMILIES[name].x
    FAMILIES[name].make().check(x, torch.ones_like(x, dtype=torch.bool))
