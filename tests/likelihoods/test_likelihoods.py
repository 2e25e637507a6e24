"""p(x_t | z_t): densities by scipy, and values no such distribution can give are refused."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from dbn_vae import likelihoods
from dbn_vae.distributions import sample
from dbn_vae.likelihoods import (
    MADE,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
)

D = 3
GENERATOR = torch.Generator().manual_seed(0)


def outputs(per_entry: int) -> torch.Tensor:
    """What a decoder might say: (4, 5, D · n_parameters)."""
    return torch.randn(4, 5, D * per_entry, generator=GENERATOR, dtype=torch.float64)


def softplus(a: np.ndarray) -> np.ndarray:
    return np.logaddexp(a, 0)


def symbols(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    table = special.log_softmax(a.reshape(4, 5, D, 4), axis=-1)
    return np.take_along_axis(table, x[..., None].astype(int), -1)[..., 0]


def tilted_mean(a: np.ndarray) -> np.ndarray:
    """∫ x exp(a x) / ∫ exp(a x) over [0, 1], by quadrature: scipy's closed form loses digits near a = 0."""
    x, w = np.polynomial.legendre.leggauss(40)
    weights = w * np.exp(a[..., None] * (x + 1) / 2)
    return (weights * (x + 1) / 2).sum(-1) / weights.sum(-1)


def negative_binomial(a: np.ndarray):
    mean, size = softplus(a[..., :D]) + 1e-6, softplus(a[..., D:]) + 1e-3
    return stats.nbinom(size, size / (size + mean))


# family, values of x, scipy's log-density of x given the decoder's output, E x or the value to show
FAMILIES = {
    "bernoulli": (
        Bernoulli(),
        torch.randint(2, (4, 5, D), generator=GENERATOR).double(),
        lambda a, x: stats.bernoulli(special.expit(a)).logpmf(x),
        special.expit,
    ),
    "gaussian": (
        Gaussian(min_scale=0.1),
        torch.randn(4, 5, D, generator=GENERATOR, dtype=torch.float64),
        lambda a, x: stats.norm(a[..., :D], softplus(a[..., D:]) + 0.1).logpdf(x),
        lambda a: a[..., :D],
    ),
    "continuous-bernoulli": (
        ContinuousBernoulli(),
        torch.rand(4, 5, D, generator=GENERATOR, dtype=torch.float64),
        lambda a, x: stats.truncexpon(abs(a), scale=1 / abs(a)).logpdf(np.where(a > 0, 1 - x, x)),
        tilted_mean,
    ),
    "gaussian, shared scale": (
        Gaussian(min_scale=0.1, shared=True).double(),
        torch.randn(4, 5, D, generator=GENERATOR, dtype=torch.float64),
        lambda a, x: stats.norm(a, np.log(2) + 0.1).logpdf(x),
        lambda a: a,
    ),
    "poisson": (
        Poisson(),
        torch.randint(9, (4, 5, D), generator=GENERATOR).double(),
        lambda a, x: stats.poisson(softplus(a) + 1e-6).logpmf(x),
        lambda a: softplus(a) + 1e-6,
    ),
    "categorical": (
        Categorical(4),
        torch.randint(4, (4, 5, D), generator=GENERATOR).double(),
        symbols,
        lambda a: a.reshape(4, 5, D, 4).argmax(-1),
    ),
    "student-t": (
        StudentT(min_scale=0.1, dof=2.0).double(),
        torch.randn(4, 5, D, generator=GENERATOR, dtype=torch.float64),
        lambda a, x: stats.t(2.0, a[..., :D], softplus(a[..., D:]) + 0.1).logpdf(x),
        lambda a: a[..., :D],
    ),
    "negative-binomial": (
        NegativeBinomial(),
        torch.randint(9, (4, 5, D), generator=GENERATOR).double(),
        lambda a, x: negative_binomial(a).logpmf(x),
        lambda a: softplus(a[..., :D]) + 1e-6,
    ),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@every_family
@torch.no_grad()
def test_log_prob_and_mean_are_scipys(name):
    likelihood, x, log_prob, mean = FAMILIES[name]
    a = outputs(likelihood.n_parameters)
    distribution = likelihood(a)
    assert distribution.batch_shape == (4, 5, D)
    np.testing.assert_allclose(distribution.log_prob(x), log_prob(a.numpy(), x.numpy()), 1e-10, 1e-12)
    np.testing.assert_allclose(likelihood.mean(distribution), mean(a.numpy()), 1e-12)


@every_family
def test_extreme_outputs_have_finite_densities_and_gradients(name):
    likelihood, x, _, _ = FAMILIES[name]
    for size in (1e3, -1e3):
        a = torch.full((4, 5, D * likelihood.n_parameters), size, dtype=torch.float64, requires_grad=True)
        value = likelihood(a).log_prob(x).sum()
        value.backward()
        assert value.isfinite(), size
        assert a.grad.isfinite().all(), size


@every_family
def test_features_are_as_many_as_announced_and_finite(name):
    likelihood, x, _, _ = FAMILIES[name]
    features = likelihood.features(x)
    assert features.shape == (4, 5, likelihood.n_features(D))
    assert features.dtype == x.dtype
    assert features.isfinite().all()


def test_categorical_features_are_one_hot():
    x = torch.tensor([[2.0, 0.0]])
    assert Categorical(3).features(x).tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("family", [Poisson, NegativeBinomial])
def test_counts_features_are_logs_of_counts_and_one(family):
    x = torch.tensor([[0.0, 999.0]], dtype=torch.float64)
    assert family().features(x)[0].tolist() == pytest.approx([0, np.log(1000)], rel=1e-14)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "student-t"])
def test_real_and_binary_features_are_the_data(name):
    likelihood, x, _, _ = FAMILIES[name]
    assert torch.equal(likelihood.features(x), x)


REFUSED = [
    (Bernoulli(), 0.5, "binarise"),
    (Bernoulli(), -1.0, "binarise"),
    (Bernoulli(grey=True), 1.25, "scale X to [0, 1]"),
    (Bernoulli(grey=True), -0.25, "scale X to [0, 1]"),
    (Categorical(3), 3.0, "0 to 2"),
    (Categorical(3), -1.0, "0 to 2"),
    (Categorical(3), 1.5, "0 to 2"),
    (MADE(2), 0.5, "binarise"),
    (NegativeBinomial(), -2.0, "whole numbers"),
    (NegativeBinomial(), 0.75, "whole numbers"),
    (Poisson(), -2.0, "whole numbers"),
    (Poisson(), 0.75, "whole numbers"),
]


@pytest.mark.parametrize(("likelihood", "value", "remedy"), REFUSED)
def test_values_outside_the_support_are_refused_where_observed(likelihood, value, remedy):
    x = torch.tensor([[[0.0, 1.0], [1.0, value]]])
    observed = torch.ones_like(x, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"X holds {value:g}, which a") as error:
        likelihood.check(x, observed)
    assert remedy in str(error.value)
    observed[0, 1, 1] = False
    likelihood.check(x, observed)


@every_family
def test_values_in_the_support_are_accepted(name):
    likelihood, x, _, _ = FAMILIES[name]
    likelihood.check(x, torch.ones_like(x, dtype=torch.bool))


def test_grey_levels_are_accepted_on_demand_and_called_no_density():
    grey = torch.tensor([[0.0, 0.3, 1.0]])
    likelihood = Bernoulli(grey=True)
    likelihood.check(grey, torch.ones_like(grey, dtype=torch.bool))
    assert not likelihood.is_density
    assert Bernoulli().is_density
    # the cross-entropy of a grey level: its best value is not 0, so it is no log-likelihood
    a = torch.tensor([[0.3]], dtype=torch.float64).logit()
    best = likelihood(a).log_prob(a.sigmoid()).item()
    assert best == pytest.approx(0.3 * np.log(0.3) + 0.7 * np.log(0.7))


@every_family
def test_a_family_is_found_by_its_name(name):
    options = {"categorical": {"n_symbols": 4}}.get(name, {})
    assert type(likelihoods.named(name.partition(",")[0], **options)) is type(FAMILIES[name][0])


def test_an_unknown_family_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"likelihood='gauss'.*bernoulli.*gaussian"):
        likelihoods.named("gauss")


@torch.no_grad()
def test_a_t_of_many_degrees_is_gaussian_and_of_one_is_refused():
    a, x = outputs(2), FAMILIES["gaussian"][1]
    wide, gaussian = StudentT(0.1, dof=1e7).double()(a), Gaussian(0.1)(a)
    np.testing.assert_allclose(wide.log_prob(x), gaussian.log_prob(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="dof=1"):
        StudentT(dof=1.0)


# Entries that depend on each other

EVERY = torch.tensor(list(np.ndindex(2, 2, 2, 2))).double()  # all frames of four bits


def made() -> tuple[MADE, torch.Tensor]:
    """A random one, and what a decoder might say of three frames."""
    generator = torch.Generator().manual_seed(5)
    family = MADE(4, 7).double()
    with torch.no_grad():
        for weight in family.parameters():
            weight.copy_(1.5 * torch.randn(weight.shape, generator=generator))
    return family, torch.randn(3, 1, family.n_outputs(4), generator=generator, dtype=torch.float64)


def log_probs(observed=(1, 1, 1, 1)) -> torch.Tensor:
    """Of every frame of four bits under each of three z: (3, 16)."""
    family, a = made()
    return family.log_prob(family(a), EVERY, torch.tensor(observed).bool()).detach()


def test_made_sums_to_one_and_its_factors_to_its_log_probability():
    family, a = made()
    np.testing.assert_allclose(log_probs().exp().sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(family(a).log_prob(EVERY).sum(-1).detach(), log_probs(), rtol=1e-12)


@pytest.mark.parametrize("observed", [(0, 1, 1, 1), (1, 0, 0, 1), (1, 1, 1, 0), (0, 0, 0, 0)])
def test_made_is_a_density_of_what_was_observed(observed):
    """Whatever stands in the missing places; each observed frame then counts 2^missing times."""
    probs = log_probs(observed).exp()
    np.testing.assert_allclose(probs.sum(1), 2 ** (4 - sum(observed)), rtol=1e-12)
    same = (EVERY[:, None] == EVERY)[..., torch.tensor(observed).bool()].all(-1)
    assert ((probs[:, :, None] - probs[:, None]).abs() < 1e-14)[:, same].all()


def test_made_looks_back_at_every_entry_and_never_ahead():
    family, a = made()
    signs = torch.full((4,), 0.3, dtype=torch.float64)
    for conditional in torch.autograd.functional.jacobian(
        lambda s: family(a).conditional_logits(s)[:, 0], signs
    ):
        reach = conditional != 0
        assert torch.equal(reach, reach.tril(-1)), "an entry saw itself or one after it"
    together = torch.autograd.functional.jacobian(
        lambda s: family(a).conditional_logits(s).sum((0, 1)), signs
    )
    assert torch.equal(together != 0, torch.ones(4, 4).tril(-1).bool()), "an entry before was not seen"


def test_made_entries_are_not_independent_given_z():
    probs = log_probs().exp()
    marginal = probs @ EVERY
    product = (marginal[:, None] * EVERY + (1 - marginal[:, None]) * (1 - EVERY)).prod(-1)
    assert ((probs - product).abs().amax(1) > 0.02).all()


@torch.no_grad()
def test_made_samples_and_means_are_those_of_its_probabilities():
    family, a = made()
    n, probs = 20_000, log_probs().exp()
    draws = sample(family(a.expand(3, n, -1)), torch.Generator().manual_seed(0))
    code = (draws @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    frequency = torch.stack([c.bincount(minlength=16) for c in code]) / n
    assert ((frequency - probs).abs() < 4.5 * (probs * (1 - probs) / n).sqrt() + 1e-9).all()
    mean = family.mean(family(a))[:, 0]
    assert ((mean - probs @ EVERY).abs() < 4.5 * 0.5 / 16**0.5).all()  # a probability varies by 1/2 at most
    assert torch.equal(mean[:, 0], torch.sigmoid(a[:, 0, 0])), "nothing is before the first entry"


@pytest.mark.parametrize("a", [-500.0, -3.0, -1e-2, -1e-3, 0.0, 9e-3, 1.1e-2, 2.0, 500.0])
@torch.no_grad()
def test_grey_levels_have_a_density_that_integrates_to_one(a):
    """By quadrature, for tilts on both sides of the series too; so do the mean and the quantiles fit it."""
    p = ContinuousBernoulli()(torch.tensor([a], dtype=torch.float64))
    edge, width = float(a > 0), 40 / max(abs(a), 40)  # where the mass is
    x, w = np.polynomial.legendre.leggauss(200)
    x, w = abs(edge - width * (x + 1) / 2), width * w / 2
    density = p.log_prob(torch.tensor(x)).exp().numpy()
    assert w @ density == pytest.approx(1, abs=1e-10)
    assert w @ (density * x) == pytest.approx(float(p.mean), abs=1e-10)
    level = torch.linspace(0, 1, 9, dtype=torch.float64)
    quantile = p.quantile(level).numpy()
    reached = np.expm1(-abs(a) * (1 - quantile if a > 0 else quantile)) / np.expm1(-abs(a)) if a else quantile
    np.testing.assert_allclose(reached, 1 - level if a > 0 else level, atol=1e-6 if a == 0 else 1e-12)
