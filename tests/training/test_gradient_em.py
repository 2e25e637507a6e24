"""A family that says only log_prob learns by the same EM: it never falls, and it meets the closed forms."""

import math
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor, nn

from dbn_vae import emissions
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training import cluster, em, start
from dbn_vae.training.gradient_em import climb, collect, maximize
from dbn_vae.transitions import Stationary

K, D = 3, 2
close = torch.testing.assert_close


class Logistic(emissions.Emission):
    """One class, one method."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_features = centre.shape
        self.centre = nn.Parameter(centre.clone())
        self.log_scale = nn.Parameter(torch.zeros_like(centre))

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        z = (x[..., None, :] - self.centre) * (-self.log_scale).exp()
        entry = -z - self.log_scale - 2 * nn.functional.softplus(-z)
        return (entry * observed[..., None, :]).sum(-1)


class ByHand(emissions.Emission):
    """A diagonal Gaussian of which nobody knows that it has a closed form."""

    def __init__(self, gaussian: emissions.DiagonalGaussian) -> None:
        super().__init__()
        self.n_components, self.n_features = gaussian.n_components, gaussian.n_features
        self.mean = nn.Parameter(gaussian.mean.detach().clone())
        self.log_scale = nn.Parameter(gaussian.log_scale.detach().clone())

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        normal = torch.distributions.Normal(self.mean, self.log_scale.exp())
        return (normal.log_prob(x[..., None, :]) * observed[..., None, :]).sum(-1)

    def log_prior(self) -> Tensor:
        return -0.5 * self.mean.square().sum()


def numbers(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def problem(seed: int, missing: float = 0.2) -> tuple[Stationary, Sequences, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    chain = Stationary(numbers(g, K).softmax(0), numbers(g, K, K).softmax(1))
    xs = []
    for n in (15, 1, 9, 22):
        x = 2 * numbers(g, n, D) + torch.randint(3, (n, 1), generator=g) * 3
        xs.append(torch.where(torch.rand(n, D, generator=g) < missing, torch.nan, x).numpy())
    weights = torch.rand(4, generator=g).add(0.2).numpy()
    return chain, Sequences.from_any(xs, weights=weights), g


def gradient(model: HMM, data: Sequences) -> float:
    batch = data.batch()
    value = batch.weights @ model.objective(batch) + model.log_parameter_prior()
    return max(float(d.abs().max()) for d in torch.autograd.grad(value, list(model.emission.parameters())))


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.thorough) for i in (1, 2))])
def test_one_method_is_enough_to_learn_and_the_objective_never_falls(seed: int) -> None:
    chain, data, g = problem(seed)
    model = HMM(chain, Logistic(numbers(g, K, D)))
    before = gradient(model, data)
    model.emission.log_prior = lambda: -0.5 * model.emission.log_scale.square().sum()  # type: ignore[method-assign]
    values: list[float] = []
    for step in islice(em(model, data), 1000):
        values.append(step.objective)
        if len(values) > 1 and values[-1] - values[-2] < 1e-9:
            break
    assert min(b - a for a, b in pairwise(values)) > -1e-9
    assert values[-1] > values[0] + 1
    assert gradient(model, data) < 1e-3 < 1 < before, f"stopped after {len(values)} updates"
    assert model.emission.n_free() == 2 * K * D
    assert all(p.grad is None for p in model.parameters()), "no gradient is left lying about"


@pytest.mark.parametrize("seed", range(5))
def test_the_climb_ends_at_the_maximum_of_the_closed_form(seed: int) -> None:
    _, data, g = problem(seed)
    gaussian = emissions.DiagonalGaussian(numbers(g, K, D), 1 + torch.rand(K, D, generator=g).double())
    flat = ByHand(gaussian)
    flat.log_prior = lambda: torch.zeros(())  # type: ignore[method-assign]
    weights = torch.rand(data.n_frames, K, generator=g, dtype=torch.float64)
    for emission in (gaussian, flat):
        maximize(emission, collect(emission, data.x, data.observed, weights))
    q = [(weights * e.log_prob(data.x, data.observed)).sum() for e in (gaussian, flat)]
    assert q[1].item() == pytest.approx(q[0].item(), rel=1e-12)
    close(flat.mean, gaussian.mean, rtol=1e-5, atol=1e-5)
    close(flat.log_scale, gaussian.log_scale, rtol=1e-5, atol=1e-5)


def test_a_prior_enters_the_objective_and_the_m_step() -> None:
    """N(0, 1) on the mean: the maximum is Σ w x / σ² over 1 + Σ w / σ² while the scale is frozen."""
    _, data, g = problem(3)
    emission = ByHand(emissions.DiagonalGaussian(numbers(g, K, D), torch.full((K, D), 2.0).double()))
    emission.frozen, before = frozenset({"log_scale"}), emission.log_scale.clone()
    weights = torch.rand(data.n_frames, K, generator=g, dtype=torch.float64)
    maximize(emission, collect(emission, data.x, data.observed, weights))
    count, total = weights.T @ data.observed.double(), weights.T @ data.x
    close(emission.mean.detach(), (total / 2) / (1 + count / 2), rtol=1e-7, atol=1e-7)
    assert torch.equal(emission.log_scale, before)
    assert emission.n_free() == K * D


@pytest.mark.parametrize("landing", [50.0, math.nan])
def test_a_step_that_fails_is_taken_back_and_a_shorter_one_tried(
    landing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever L-BFGS does, also where it lands on NaN, what is accepted is higher than before."""

    def astray(self: torch.optim.LBFGS, closure: object) -> None:
        for p in self.param_groups[0]["params"]:
            p.data.fill_(landing)

    monkeypatch.setattr(torch.optim.LBFGS, "step", astray)
    _, data, g = problem(4)
    emission = Logistic(numbers(g, K, D))
    weights = torch.rand(data.n_frames, K, generator=g, dtype=torch.float64)
    frames = data.x, data.observed
    values = [(weights * emission.log_prob(*frames)).sum().item()]
    for _ in range(5):
        climb(emission, *frames, weights)
        values.append((weights * emission.log_prob(*frames)).sum().item())
    assert all(b > a for a, b in pairwise(values)), values
    before = [p.clone() for p in emission.parameters()]
    emission.frozen = frozenset({"centre", "log_scale"})
    climb(emission, *frames, weights)
    assert all(torch.equal(a, b) for a, b in zip(before, emission.parameters(), strict=True))


def test_a_state_of_weight_zero_on_an_impossible_frame_does_no_harm() -> None:
    chain, data, g = problem(1, missing=0.0)
    model = HMM(Stationary(torch.ones(1).double(), torch.ones(1, 1).double()), Logistic(numbers(g, 1, D)))

    class Support(Logistic):
        def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
            inside = torch.ones(K, dtype=torch.bool)
            inside[0] = False
            return super().log_prob(x, observed).masked_fill(~inside, -torch.inf)

    model = HMM(chain, Support(numbers(g, K, D)))
    values = [step.objective for step in islice(em(model, data), 5)]
    assert all(math.isfinite(v) for v in values)
    assert all(b >= a for a, b in pairwise(values))


def test_starts_serve_every_family() -> None:
    chain, data, g = problem(2)
    model = HMM(chain, Logistic(torch.zeros(K, D).double()))
    start(model, data, cluster(data, K, g))
    assert model.emission.centre.detach().std(0).min() > 0.3, "the states must start apart"
