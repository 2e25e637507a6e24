"""Every family of p(x_t | s_t = k) by one table: its density, what missing entries do, and its M-step."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dbn_vae.emissions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Emission,
    FullGaussian,
    GaussianPrior,
    Poisson,
    SphericalGaussian,
    TiedGaussian,
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


def gaussian_oracle(covariance: Tensor) -> Callable:
    def log_prob(x, k, seen):
        if not seen.any():
            return 0.0
        at = np.ix_(seen, seen)
        return stats.multivariate_normal(MEAN[k].numpy()[seen], covariance[k].numpy()[at]).logpdf(x[seen])

    return log_prob


def entrywise(log_pmf: Callable) -> Callable:
    return lambda x, k, seen: sum(log_pmf(x[d], k, d) for d in np.flatnonzero(seen))


class Family(NamedTuple):
    make: Callable[..., Emission]  # a fresh emission; keyword arguments are its prior and floor
    oracle: Callable  # (x, k, seen) to log p of the entries seen, by scipy
    x: Tensor  # (N, D) frames in the support
    values: Tensor  # every value of an entry, or a fine grid of them
    width: float  # what a value of that grid stands for
    n_free: int
    priors: tuple[dict, ...] = ({},)
    frozen: tuple[str, ...] = ()


GAUSSIAN_PRIORS = (
    {},
    {"prior": GaussianPrior(mean=0.5, weight=2.0, scale=0.7, dof=3.0)},
    {"prior": GaussianPrior(mean=torch.tensor([1.0, -1.0]).double(), weight=0.5)},
    {"prior": GaussianPrior(scale=torch.tensor([0.1, 0.4]).double(), dof=1.0)},
)
REALS = torch.linspace(-25, 25, 5001, dtype=torch.float64)


def gaussian(make: Callable[..., Emission], covariance: Tensor, n_free: int) -> Family:
    x = 1.5 * numbers(N, D, seed=7)
    oracle = gaussian_oracle(covariance)
    return Family(
        make, oracle, x, REALS, 0.01, n_free, GAUSSIAN_PRIORS, ("mean", "covariance")
    )  # fmt: skip


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
        ("probs",),
    ),
    "poisson": Family(
        lambda **options: Poisson(RATES, **options),
        entrywise(lambda v, k, d: stats.poisson(RATES[k, d].item()).logpmf(v)),
        counts(torch.full((N, D), 3.0, dtype=torch.float64), seed=9),
        torch.arange(120).double(),
        1.0,
        K * D,
        ({}, {"shape": 2.0, "rate": 0.5}),
        ("rates",),
    ),
    "bernoulli": Family(
        lambda **options: Bernoulli(PROBS, **options),
        entrywise(lambda v, k, d: stats.bernoulli(PROBS[k, d].item()).logpmf(v)),
        counts(torch.full((N, D), 0.7, dtype=torch.float64), seed=10).clamp_max(1),
        torch.arange(2).double(),
        1.0,
        K * D,
        ({}, {"ones": 2.0, "zeros": 3.5}),
        ("probs",),
    ),
}
GAUSSIANS = ["diagonal", "spherical", "full", "tied"]
every_family = pytest.mark.parametrize("name", FAMILIES)
every_prior = pytest.mark.parametrize(
    ("name", "prior"),
    [
        pytest.param(name, prior, id=f"{name}-prior{i}")
        for name, family in FAMILIES.items()
        for i, prior in enumerate(family.priors)
    ],
)


def observed_pattern(x: Tensor, share: float = 0.35, seed: int = 11) -> Tensor:
    """Some entries missing at random; the first frame whole, the second wholly missing."""
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > share
    observed[0], observed[1] = True, False
    return observed


def responsibilities(n: int) -> Tensor:
    return 3 * numbers(n, K, seed=12).softmax(-1)


def hidden(x: Tensor, observed: Tensor) -> Tensor:
    return torch.where(observed, x, 0.0)


def objective(emission: Emission, x: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """What the M-step maximises: Σ w log p + log prior."""
    return (weights * emission.log_prob(x, observed)).sum() + emission.log_prior()


def gradients(emission: Emission, *data: Tensor) -> dict[str, Tensor]:
    parameters = dict(emission.named_parameters())
    grads = torch.autograd.grad(objective(emission, *data), list(parameters.values()))
    return dict(zip(parameters, grads, strict=True))


# Density


@every_family
def test_log_prob_is_scipys_with_missing_entries_integrated_out(name):
    family = FAMILIES[name]
    observed = observed_pattern(family.x)
    value = family.make().log_prob(hidden(family.x, observed), observed)
    oracle = [
        [family.oracle(x, k, seen) for k in range(K)]
        for x, seen in zip(family.x.numpy(), observed.numpy(), strict=True)
    ]
    close(value, torch.tensor(oracle, dtype=torch.float64), **EXACT)
    assert (value[1] == 0).all(), "a frame of which nothing was seen says nothing"


@every_family
def test_a_missing_entry_is_the_sum_over_its_values(name):
    family = FAMILIES[name]
    emission, x = family.make(), family.x[:5]
    for d in range(x.shape[1]):
        every = x.expand(len(family.values), *x.shape).clone()
        every[..., d] = family.values[:, None]
        complete = emission.log_prob(every, torch.ones_like(every, dtype=torch.bool))
        observed = torch.ones_like(x, dtype=torch.bool)
        observed[:, d] = False
        marginal = emission.log_prob(hidden(x, observed), observed)
        close(complete.exp().sum(0) * family.width, marginal.exp(), **EXACT)


@every_family
def test_any_leading_shape(name):
    family = FAMILIES[name]
    observed = observed_pattern(family.x)
    flat = family.make().log_prob(family.x, observed)
    shaped = family.make().log_prob(family.x.view(4, 5, 2, -1), observed.view(4, 5, 2, -1))
    close(shaped, flat.view(4, 5, 2, K), **EXACT)


@every_family
def test_samples_have_the_familys_moments(name):
    emission = FAMILIES[name].make()
    n = 4000
    states = torch.arange(K).repeat_interleave(n)
    drawn = emission.sample(states, torch.Generator().manual_seed(0)).detach().view(K, n, -1)
    again = emission.sample(states, torch.Generator().manual_seed(0)).detach().view(K, n, -1)
    assert torch.equal(drawn, again)
    if name == "categorical":
        frequency = torch.stack([(drawn[..., 0] == v).double().mean(1) for v in range(4)], 1)
        assert ((frequency - TABLE).abs() < 5 * (TABLE * (1 - TABLE) / n).sqrt()).all()
        return
    distribution = emission.distribution()
    mean = distribution.mean.detach()
    variance = distribution.variance.detach().expand_as(mean)
    assert ((drawn.mean(1) - mean).abs() < 5 * (variance / n).sqrt()).all()
    close(drawn.var(1), variance, rtol=0.15, atol=0)
    if name in GAUSSIANS:
        for k in range(K):
            close(drawn[k].T.cov(), emission.covariance()[k].detach(), rtol=0.15, atol=0.1)


@every_family
def test_samples_keep_the_shape_of_the_states(name):
    emission = FAMILIES[name].make()
    states = torch.tensor([[0, 2, 1], [1, 1, 0]])
    drawn = emission.sample(states, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 3, FAMILIES[name].x.shape[1])
    emission.check(drawn, torch.ones_like(drawn, dtype=torch.bool))


# The M-step


@every_prior
def test_the_m_step_is_the_maximum(name, prior):
    family = FAMILIES[name]
    data = family.x, torch.ones_like(family.x, dtype=torch.bool), responsibilities(N)
    emission = family.make(**prior)
    before = objective(emission, *data)
    start = max(g.abs().max().item() for g in gradients(emission, *data).values())
    emission.maximize(*emission.statistics(*data))
    assert start > 0.1, "the start must not already be the maximum"
    assert objective(emission, *data) > before
    for parameter, gradient in gradients(emission, *data).items():
        assert gradient.tril().abs().max() < 1e-9, f"∂ objective / ∂ {parameter} is {gradient}"


@every_prior
def test_em_with_missing_entries_climbs_to_a_maximum(name, prior):
    """Fixed responsibilities, so this is the M-step's own EM: monotone, and stationary where it ends."""
    family = FAMILIES[name]
    observed = observed_pattern(family.x)
    data = hidden(family.x, observed), observed, responsibilities(N)
    emission = family.make(**prior)
    values = [objective(emission, *data).item()]
    for _ in range(20):
        emission.maximize(*emission.statistics(*data))
        values.append(objective(emission, *data).item())
    assert min(np.diff(values)) > -1e-9, f"the objective fell: {np.diff(values)}"
    for _ in range(150):
        emission.maximize(*emission.statistics(*data))
    for parameter, gradient in gradients(emission, *data).items():
        assert gradient.tril().abs().max() < 1e-6, f"∂ objective / ∂ {parameter} is {gradient}"


@pytest.mark.parametrize("name", GAUSSIANS)
def test_the_priors_mean_and_scale_may_differ_by_state(name):
    """GaussianPrior promises that both broadcast to (K, D); the tied matrix has no state of its own."""
    mean = numbers(K, D, seed=20)
    scale = 1.0 if name == "tied" else 0.2 + numbers(K, D, seed=21).square()
    emission = FAMILIES[name].make(prior=GaussianPrior(mean=mean, weight=1.5, scale=scale, dof=2.0))
    data = FAMILIES[name].x, torch.ones(N, D, dtype=torch.bool), responsibilities(N)
    emission.maximize(*emission.statistics(*data))
    for parameter, gradient in gradients(emission, *data).items():
        assert gradient.tril().abs().max() < 1e-9, f"∂ objective / ∂ {parameter} is {gradient}"


@every_family
def test_statistics_add_over_batches(name):
    family = FAMILIES[name]
    observed, weights = observed_pattern(family.x), responsibilities(N)
    x, emission = hidden(family.x, observed), family.make()
    whole = emission.statistics(x, observed, weights)
    first, second = slice(0, 13), slice(13, None)
    parts = [emission.statistics(x[s], observed[s], weights[s]) for s in (first, second)]
    for a, b, c in zip(whole, *parts, strict=True):
        close(a, b + c, **EXACT)


@every_family
def test_weight_two_is_a_duplicate_and_weight_zero_an_absence(name):
    family = FAMILIES[name]
    observed, weights = observed_pattern(family.x), responsibilities(N)
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
    mean = emission.distribution().mean[1].clone()
    emission.maximize(*emission.statistics(family.x, observed, weights))
    if name == "tied":  # its covariance is shared with those that were visited
        close(emission.distribution().mean[1], mean, **EXACT)
    else:
        close(emission.log_prob(family.x, observed)[:, 1], before, **EXACT)


@pytest.mark.parametrize("name", ["diagonal", "poisson", "bernoulli"])
def test_an_entry_nobody_saw_keeps_its_parameters(name):
    family = FAMILIES[name]
    observed = torch.ones_like(family.x, dtype=torch.bool)
    observed[:, 1] = False
    emission = family.make()
    before = emission.distribution().mean[:, 1].clone()
    emission.maximize(*emission.statistics(hidden(family.x, observed), observed, responsibilities(N)))
    close(emission.distribution().mean[:, 1], before, **EXACT)
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
    belongs = {"mean": ["mean"], "covariance": ["log_scale", "factor"]}.get(part, list(before))
    grads = gradients(emission, *data)
    for parameter, value in emission.named_parameters():
        if parameter in belongs:
            assert torch.equal(value, before[parameter]), parameter
        else:
            # given the frozen ones, the rest is at its maximum
            assert grads[parameter].tril().abs().max() < 1e-9, parameter
    size = sum(v.numel() for k, v in before.items() if k in belongs)
    size = {("full", "covariance"): 9, ("tied", "covariance"): 3, ("categorical", "probs"): 9}.get(
        (name, part), size
    )
    assert emission.n_free() == family.n_free - size


@every_family
def test_n_free_counts_the_free_parameters(name):
    assert FAMILIES[name].make().n_free() == FAMILIES[name].n_free


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
    assert emission.floored if name == "tied" else emission.floored == [2]
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
    observed = observed_pattern(COMPLETE[0])
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
    observed = observed_pattern(COMPLETE[0])
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
