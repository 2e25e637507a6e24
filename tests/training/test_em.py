"""EM climbs, stops where the gradient of the exact likelihood vanishes, and says truly where it stands."""

import copy
import math
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from dbn_vae import emissions
from dbn_vae.emissions import gaussian
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em, expect
from dbn_vae.transitions import Stationary

K, D = 3, 2
close = torch.testing.assert_close


def uniform(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def simplex(g: torch.Generator, *shape: int) -> Tensor:
    rows = 0.1 + uniform(g, *shape)
    return rows / rows.sum(-1, keepdim=True)


def covariances(g: torch.Generator, *shape: int) -> Tensor:
    root = torch.randn(*shape, D, 2 * D, generator=g, dtype=torch.float64)
    return root @ root.mT / D + 0.2 * torch.eye(D, dtype=torch.float64)


def prior(strength: float) -> gaussian.GaussianPrior:
    return gaussian.GaussianPrior(mean=0.3, weight=strength, scale=strength, dof=strength)


# One line a family: an emission with random parameters and a prior of a strength (0: none).
FAMILIES: dict[str, Callable[[torch.Generator, float], emissions.Emission]] = {
    "diagonal": lambda g, s: gaussian.DiagonalGaussian(
        2 * simplex(g, K, D), 0.5 + uniform(g, K, D), prior(s)
    ),
    "spherical": lambda g, s: gaussian.SphericalGaussian(2 * simplex(g, K, D), 0.5 + uniform(g, K), prior(s)),
    "full": lambda g, s: gaussian.FullGaussian(2 * simplex(g, K, D), covariances(g, K), prior(s)),
    "tied": lambda g, s: gaussian.TiedGaussian(2 * simplex(g, K, D), covariances(g), prior(s)),
    "categorical": lambda g, s: emissions.Categorical(simplex(g, K, 4), 1 + s),
    "bernoulli": lambda g, s: emissions.Bernoulli(0.1 + 0.8 * uniform(g, K, D), 1 + s, 1 + s),
    "poisson": lambda g, s: emissions.Poisson(1 + 4 * uniform(g, K, D), 1 + s, s),
    "exponential": lambda g, s: emissions.Exponential(0.2 + 2 * uniform(g, K, D), 1 + s, s),
    "gamma": lambda g, s: emissions.Gamma(0.5 + 2 * uniform(g, K, D), 0.5 + uniform(g, K, D)),
    "log-normal": lambda g, s: emissions.LogNormal(
        gaussian.FullGaussian(2 * simplex(g, K, D), covariances(g, K), prior(s + 0.1))
    ),
    "von-mises": lambda g, s: emissions.VonMises(6 * uniform(g, K, D), 0.2 + 3 * uniform(g, K, D)),
    "student-t": lambda g, s: emissions.StudentT(
        2 * simplex(g, K, D), 0.5 + uniform(g, K, D), 1 + 9 * uniform(g, K, D)
    ),
    "negative-binomial": lambda g, s: emissions.NegativeBinomial(
        1 + 4 * uniform(g, K, D), 0.3 + 3 * uniform(g, K, D)
    ),
    "multinomial": lambda g, s: emissions.Multinomial(simplex(g, K, 4), 6, 1 + s),
    "zero-inflated": lambda g, s: emissions.ZeroInflated(
        emissions.Poisson(1 + 4 * uniform(g, K, D), 1 + s, s), 0.1 + 0.7 * uniform(g, K, D)
    ),
    "mixture": lambda g, s: emissions.Mixture(
        gaussian.FullGaussian(3 * uniform(g, 2 * K, D), covariances(g, 2 * K), prior(s + 0.1)),
        simplex(g, K, 2),
        1 + s,
    ),
    "product": lambda g, s: emissions.Product(
        [
            gaussian.DiagonalGaussian(2 * simplex(g, K, 1), 0.5 + uniform(g, K, 1), prior(s + 0.1)),
            emissions.Poisson(1 + 4 * uniform(g, K, 1), 1 + s, s),
        ],
        [[1], [0]],
    ),
    "low-rank": lambda g, s: emissions.LowRankGaussian(
        2 * simplex(g, K, D), uniform(g, K, D, 1), 0.5 + uniform(g, K, D), torch.full((D,), 0.05).double()
    ),
    "linear-regression": lambda g, s: emissions.LinearRegression(
        2 * simplex(g, K, D), 2 * simplex(g, K, D, 2), covariances(g, K), torch.full((D,), 0.05).double()
    ),
    "autoregressive": lambda g, s: emissions.Autoregressive(
        2 * simplex(g, K, D), 0.3 * uniform(g, K, 2, D, D), covariances(g, K), torch.full((D,), 0.05).double()
    ),
    "logistic-regression": lambda g, s: emissions.LogisticRegression(
        2 * simplex(g, K, D) - 1, 2 * simplex(g, K, D, 2), 0.1 + s
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
summed = pytest.mark.parametrize("family", [f for f in FAMILIES if f != "logistic-regression"])
# so little data puts the others' maximum on a boundary, a floor or at infinity, or EM needs thousands of updates
INTERIOR = [
    f
    for f in FAMILIES
    if f not in ("student-t", "zero-inflated", "low-rank", "autoregressive") and not f.endswith("regression")
]


def random_model(family: str, g: torch.Generator, strength: float = 0.0) -> HMM:
    chain = Stationary(simplex(g, K), simplex(g, K, K), 1 + strength, 1 + strength * torch.eye(K))
    return HMM(chain, FAMILIES[family](g, strength))


def random_data(
    family: str, g: torch.Generator, n: int = 4, missing: float = 0.0, weights: bool = False, T: int = 14
) -> Sequences:
    """Ragged sequences of a random model; NaN at random, never weight 0 throughout."""
    truth = random_model(family, g)
    xs, us = [], []
    for _ in range(n):
        length = int(torch.randint(1, T + 1, (1,), generator=g))
        us.append(torch.randn(length, 2, generator=g, dtype=torch.float64))
        x, _ = truth.sample(length, g, us[-1])
        x = x.double()
        xs.append(torch.where(uniform(g, *x.shape) < missing, torch.nan, x).numpy())
    return Sequences.from_any(
        xs,
        weights=(0.2 + 2 * uniform(g, n)).numpy() if weights else None,
        inputs=[u.numpy() for u in us] if family.endswith("regression") else None,
    )


@every_family
@pytest.mark.parametrize("seed", range(8))
def test_the_objective_never_decreases(family: str, seed: int) -> None:
    """Random problems: NaN in half of them, weights and priors in others; log-likelihood plus prior only rises."""
    g = torch.Generator().manual_seed(seed)
    missing, weights, strength = 0.3 * (seed % 2), bool(seed // 2 % 2), 0.5 * (seed // 4 % 2)
    data = random_data(family, g, 6, missing, weights)
    model = random_model(family, g, strength)
    for part in model.emission.modules():
        if isinstance(part, gaussian.Gaussian):
            part.floor.fill_(0.05)
    values = torch.tensor([step.objective for step in islice(em(model, data), 15)])
    assert values.isfinite().all()
    worst = float(values.diff().min())
    assert worst > -1e-9 * float(values.abs().max()), f"fell by {-worst:.2e}: {values.tolist()}"
    assert values[-1] > values[0] + 1e-3, "nothing was learnt"


@pytest.mark.parametrize("family", INTERIOR)
@pytest.mark.parametrize(("missing", "weights"), [(0.0, False), (0.25, True)])
def test_where_em_stops_the_gradient_vanishes(family: str, missing: float, weights: bool) -> None:
    """EM and autograd know nothing of each other, and agree on what a maximum is."""
    g = torch.Generator().manual_seed(11)
    data = random_data(family, g, 8, missing, weights, T=20)
    model = random_model(family, g, strength=1.0)

    def gradient() -> float:
        batch = data.batch()
        value = batch.weights @ model.objective(batch) + model.log_parameter_prior()
        found = torch.autograd.grad(value, list(model.parameters()))
        return float(torch.cat([d.flatten() for d in found]).abs().max())

    before = gradient()
    last = -math.inf
    for step in islice(em(model, data), 2000):
        gain, last = step.objective - last, step.objective
        if gain < 1e-10:
            break
    else:
        pytest.fail(f"EM still gains {gain:.1e} after 2000 updates")
    assert gradient() < 1e-3 < 0.1 < before, f"gradient {gradient():.1e}, at the start {before:.1e}"


@every_family
def test_the_value_yielded_last_belongs_to_the_parameters_there_are(family: str) -> None:
    g = torch.Generator().manual_seed(3)
    data = random_data(family, g, weights=True)
    model = random_model(family, g, strength=0.5)
    batch = data.batch()
    for updates, step in enumerate(em(model, data)):
        now = float(batch.weights @ model.objective(batch).detach())
        assert step.log_likelihood == pytest.approx(now, rel=1e-12), f"after {updates} updates"
        assert step.objective == pytest.approx(now + float(model.log_parameter_prior().detach()), rel=1e-12)
        if updates == 4:
            break


@summed
def test_batches_do_not_change_the_e_step(family: str) -> None:
    g = torch.Generator().manual_seed(5)
    data = random_data(family, g, 7, 0.2, True)
    model = random_model(family, g)
    whole = expect(model, [data.batch()])
    for max_frames in (1, 20, 40):
        parts = expect(model, list(data.batches(max_frames)))
        close(parts.log_likelihood, whole.log_likelihood, rtol=1e-12, atol=1e-12)
        close(parts.visits, whole.visits, rtol=1e-12, atol=1e-12)
        for part, sum_of_all in zip(parts.transition, whole.transition, strict=True):
            close(part, sum_of_all, rtol=1e-12, atol=1e-12)
        close(parts.emission, whole.emission, rtol=1e-11, atol=1e-12)


@every_family
def test_weight_2_is_a_duplicate_and_weight_0_is_absence(family: str) -> None:
    g = torch.Generator().manual_seed(7)
    data = random_data(family, g, 4, 0.2)
    model = random_model(family, g, 0.3)
    weighted = data.replace(weights=torch.tensor([2.0, 1.0, 0.0, 1.0], dtype=torch.float64))
    written_out = data.subset([0, 0, 1, 3])
    for a, b in zip(
        islice(em(copy.deepcopy(model), weighted), 6), islice(em(model, written_out), 6), strict=True
    ):
        assert a[:2] == pytest.approx(b[:2], rel=1e-11)
        close(a.visits, b.visits, rtol=1e-9, atol=1e-12)


@every_family
def test_the_order_and_the_names_of_sequences_and_states_mean_nothing(family: str) -> None:
    g = torch.Generator().manual_seed(9)
    data = random_data(family, g, 5)
    model = random_model(family, g)
    shuffled = copy.deepcopy(model)
    p = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for name, parameter in shuffled.named_parameters():
            if name == "transition.transition_logits":
                parameter.copy_(parameter[p][:, p])
            elif len(parameter) == 2 * K:  # the components of a state stand together
                parameter.copy_(parameter.unflatten(0, (K, 2))[p].flatten(0, 1))
            elif family != "tied" or name != "emission.factor":
                parameter.copy_(parameter[p])
    other = data.subset([3, 1, 4, 0, 2])
    for a, b in zip(islice(em(model, data), 6), islice(em(shuffled, other), 6), strict=True):
        assert a[:2] == pytest.approx(b[:2], rel=1e-11)
        close(a.visits[p], b.visits, rtol=1e-9, atol=1e-12)
    close(
        shuffled.transition.log_transition(), model.transition.log_transition()[p][:, p], rtol=1e-9, atol=1e-9
    )


def test_known_labels_turn_em_into_counting() -> None:
    g = torch.Generator().manual_seed(2)
    truth = random_model("diagonal", g)
    drawn = [truth.sample(n, g) for n in (30, 1, 25)]
    data = Sequences.from_any([x.numpy() for x, _ in drawn], labels=[s.numpy() for _, s in drawn])
    model = random_model("diagonal", g)
    list(islice(em(model, data), 2))
    first, pairs = torch.zeros(K, dtype=torch.float64), torch.zeros(K, K, dtype=torch.float64)
    for _, s in drawn:
        first[s[0]] += 1
        pairs.index_put_((s[:-1], s[1:]), torch.ones(len(s) - 1, dtype=torch.float64), accumulate=True)
    close(model.transition.log_initial().exp(), first / 3)
    close(model.transition.log_transition().exp(), pairs / pairs.sum(1, keepdim=True))
    x, states = torch.cat([x for x, _ in drawn]), torch.cat([s for _, s in drawn])
    for k in range(K):
        close(model.emission.mean[k], x[states == k].mean(0), msg=f"mean of state {k}")
        close(model.emission.variance()[k], x[states == k].var(0, correction=0), msg=f"variance of state {k}")


def test_an_impossible_sequence_is_named() -> None:
    chain = Stationary(torch.tensor([1.0, 0.0]).double(), torch.eye(2).double())
    model = HMM(chain, emissions.Categorical(torch.eye(2).double()))
    data = Sequences.from_any([[[0.0], [0.0]], [[0.0], [1.0]]])
    with pytest.raises(ValueError, match="sequence 1 is impossible under the model"):
        next(em(model, data))
