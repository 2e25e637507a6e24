"""The gradient loop: what a minibatch stands for, what β and the prior weigh, and where it leads."""

import itertools
import math
from itertools import islice

import pytest
import torch
from torch import Tensor

from dbn_vae import emissions
from dbn_vae.aevb import AEVB
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import HMM, VAE
from dbn_vae.models.base import Model
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training import Place, ascend, em, estimator_a, estimator_b, ramp
from dbn_vae.training.sgvb import clip
from dbn_vae.transitions import Stationary

close = torch.testing.assert_close
f64 = torch.float64


def hmm(prior: float = 2.0) -> HMM:
    chain = Stationary(
        torch.tensor([0.6, 0.4], dtype=f64), torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=f64), prior, prior
    )
    return HMM(chain, emissions.Poisson(torch.tensor([[1.0], [6.0]], dtype=f64), prior, prior - 1))


def counts(weights: list[float] | None = None) -> Sequences:
    """Five sequences of different lengths."""
    g = torch.Generator().manual_seed(4)
    xs = [torch.poisson(torch.full((n, 1), 3.0), generator=g).numpy() for n in (4, 7, 2, 9, 5)]
    return Sequences.from_any(xs, weights=weights)


def full_gradient(model: Model, data: Sequences) -> Tensor:
    """Of (Σ_b w_b L_b + log prior) / frames, all sequences at once."""
    batch = data.batch()
    value = batch.weights @ model.objective(batch) + model.log_parameter_prior()
    parts = torch.autograd.grad(value / data.n_frames, list(model.parameters()))
    return torch.cat([p.flatten() for p in parts])


def step_taken(model: Model, data: Sequences, batch_size: int, **options: object) -> Tensor:
    """How one plain gradient step of rate 1 moved the parameters: the gradient itself."""
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    steps = ascend(
        model, data, torch.optim.SGD(model.parameters(), lr=1.0), batch_size=batch_size,
        generator=torch.Generator().manual_seed(0), max_norm=math.inf, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    next(steps)
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0, 3.0]])
def test_the_minibatch_gradient_is_unbiased(size: int, weights: list[float] | None) -> None:
    """Over all minibatches of a size, written out, its mean is the full gradient, prior included."""
    data = counts(weights)
    steps = []
    for subset in itertools.combinations(range(5), size):
        steps.append(step_taken(hmm(), data, size, place=Place(left=torch.tensor(subset))))
    close(torch.stack(steps).mean(0), full_gradient(hmm(), data), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_prior_weighs_the_same_for_every_batch_size(size: int) -> None:
    """Where the data say nothing, the step is the prior's gradient over the frames, whatever the batch."""
    silent = Sequences.from_any([[[math.nan]] * n for n in (4, 7, 2, 9, 5)])
    model = hmm()
    prior = torch.autograd.grad(model.log_parameter_prior() / silent.n_frames, list(model.parameters()))
    close(step_taken(model, silent, size), torch.cat([p.flatten() for p in prior]), rtol=1e-10, atol=1e-14)


def test_shuffling_deals_every_sequence_once_an_epoch() -> None:
    data, seen = counts(), []

    def objective(batch: Batch, beta: float, g: torch.Generator) -> Tensor:
        seen.append(batch.which.tolist())
        return model.objective(batch)

    model = hmm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    g = torch.Generator().manual_seed(1)
    steps = list(islice(ascend(model, data, optimizer, batch_size=2, generator=g, objective=objective), 6))
    assert [s.epoch for s in steps] == [0, 0, 0, 1, 1, 1]
    assert [s.update for s in steps] == [1, 2, 3, 4, 5, 6]
    for epoch in (seen[:3], seen[3:]):
        assert [len(b) for b in epoch] == [2, 2, 1]
        assert sorted(itertools.chain(*epoch)) == [0, 1, 2, 3, 4]
    assert seen[:3] != seen[3:]


def test_the_reported_objective_is_that_of_the_minibatch_before_the_step() -> None:
    data, model = counts(), hmm()
    expected = float(model.objective(data.batch()).detach().sum()) / data.n_frames
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = next(ascend(model, data, optimizer, batch_size=5, generator=torch.Generator()))
    assert step.objective == pytest.approx(expected, rel=1e-12)


def test_ramp() -> None:
    beta = ramp(4, start=0.2)
    assert [beta(u) for u in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert ramp(0)(0) == 1.0
    assert ramp(100)(0) == 0.01


def core() -> AEVB:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AEVB(2, 2, Gaussian(), hidden=(5,)).double()


def frames(n: int = 6) -> Sequences:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=f64)
    return Sequences.from_any([[row] for row in x.tolist()])


def test_beta_is_asked_at_every_update_and_weighs_the_kl_alone() -> None:
    model, data = VAE(core()), frames()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    terms = model.elbo(data.batch(), 1, torch.Generator().manual_seed(3))
    fit, kl = float(terms.log_likelihood.detach().mean()), float(terms.kl.detach().mean())
    betas = (0.0, 0.5, 1.0)

    def objective(_: Batch, beta: float, g: torch.Generator) -> Tensor:
        return estimator_b(model)(data.batch(), beta, torch.Generator().manual_seed(3))

    steps = ascend(
        model,
        data,
        optimizer,
        batch_size=6,
        generator=torch.Generator(),
        beta=betas.__getitem__,
        objective=objective,
    )
    for beta, step in zip(betas, steps, strict=False):
        assert step.beta == beta
        assert step.objective == pytest.approx(fit - beta * kl, rel=1e-12), f"β = {beta}"


def test_estimators_a_and_b_have_one_expectation() -> None:
    """Their difference is noise, as small as many samples make it; at β = 0 they are the same number."""
    model, batch = VAE(core()), frames().batch()
    with torch.no_grad():
        seed = torch.Generator().manual_seed
        a, b = (e(model, 1)(batch, 0.0, seed(1)) for e in (estimator_a, estimator_b))
        close(a, b)
        S = 20_000
        a, b = (e(model, S)(batch, 1.0, seed(2)).sum() for e in (estimator_a, estimator_b))
        z, log_q = model.infer(batch, S, seed(2))
        error = float((log_q - model.log_prior(batch, z)).sum(1).std()) / math.sqrt(S)
    assert abs(float(a - b)) < 4 * error
    assert error < 0.05


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_not_finite_stops_the_loop_and_names_the_update(bad: float) -> None:
    model, data = hmm(), counts()
    calls = itertools.count()

    def objective(batch: Batch, beta: float, g: torch.Generator) -> Tensor:
        return model.objective(batch) + (bad if next(calls) == 3 else 0.0)

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    steps = ascend(model, data, optimizer, batch_size=5, generator=torch.Generator(), objective=objective)
    list(islice(steps, 3))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="at update 3; lower the learning rate"):
        next(steps)
    close(list(model.parameters()), before, msg="the parameters must stay as they were")


def test_a_gradient_that_is_not_finite_stops_the_loop_before_it_is_followed() -> None:
    """√0 is 0, and its slope boundless: 0 times that is not a number."""
    model, data = hmm(), counts()
    parameter = next(model.parameters())

    def objective(batch: Batch, beta: float, g: torch.Generator) -> Tensor:
        return model.objective(batch) + (0 * parameter).sum().sqrt()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="norm of the gradient is nan at update 0"):
        next(ascend(model, data, optimizer, batch_size=5, generator=torch.Generator(), objective=objective))
    close(list(model.parameters()), before, msg="the parameters must stay as they were")


def test_a_gradient_whose_squares_overflow_is_clipped_and_not_dropped() -> None:
    a, b, unused = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 3, 1))
    direction = torch.tensor([1.0, -2.0, 0.5, 4.0, -1.0])
    a.grad, b.grad = (1e25 * direction).split([2, 3])
    assert clip([a, b, unused], 5.0) == pytest.approx(1e25 * float(direction.norm()), rel=1e-6)
    close(torch.cat([a.grad, b.grad]), 5 * direction / direction.norm(), rtol=1e-5, atol=0)
    assert unused.grad is None


def test_the_gradient_is_clipped_and_its_own_norm_reported() -> None:
    data, model = counts(), hmm()
    norm = float(full_gradient(model, data).norm())
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    steps = ascend(model, data, optimizer, batch_size=5, generator=torch.Generator(), max_norm=norm / 2)
    assert next(steps).gradient_norm == pytest.approx(norm, rel=1e-6)
    moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(norm / 2, rel=1e-4)


def test_augment_sees_every_minibatch() -> None:
    data, model = counts(), hmm()
    blank = lambda batch, g: batch._replace(observed=torch.zeros_like(batch.observed))  # noqa: E731
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    steps = ascend(model, data, optimizer, batch_size=2, generator=torch.Generator(), augment=blank)
    assert all(abs(s.objective) < 1e-12 for s in islice(steps, 3)), "nothing observed has log-probability 0"


def test_gradient_and_em_climb_to_the_same_optimum() -> None:
    data = counts()
    by_em, by_gradient = hmm(), hmm()
    *_, last = islice(em(by_em, data), 300)
    optimizer = torch.optim.Adam(by_gradient.parameters(), lr=0.05)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    steps = ascend(by_gradient, data, optimizer, batch_size=5, generator=torch.Generator())
    for _ in islice(steps, 600):
        decay.step()
    batch = data.batch()
    reached = float((by_gradient.objective(batch).sum() + by_gradient.log_parameter_prior()).detach())
    assert reached == pytest.approx(last.objective, abs=1e-5)
    close(by_gradient.emission.rates(), by_em.emission.rates(), rtol=1e-2, atol=1e-2)
