"""Scores in the right order, of the right kind, with errors that mean what they say."""

import math

import numpy as np
import pytest
import torch
from oracles import dense_gaussian_log_prob, kalman_log_prob, linear_gaussian_core

from dbn_vae import emissions
from dbn_vae.evaluation import elbo, exact, iwae, smc
from dbn_vae.evaluation.likelihood import Score, evaluate, ratio_error
from dbn_vae.evaluation.particles import particle_filter, systematic
from dbn_vae.models import DMM, HMM, STR, VAE, Filtering
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions import Linear, Stationary

f64 = torch.float64
LENGTHS = [3, 11, 1, 7, 5, 2]


def data(D: int = 3) -> Sequences:
    g = torch.Generator().manual_seed(0)
    return Sequences.from_any([torch.randn(n, D, generator=g).numpy() for n in LENGTHS])


# -- the error of a ratio


@pytest.mark.parametrize("seed", range(5))
def test_ratio_error_is_the_textbooks(seed: int) -> None:
    """Cochran, Sampling Techniques (1977), eq. 6.13 without the finite correction: √(n s²) / Σ x, s² of y − R x."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 20))
    y, x = rng.normal(size=n), rng.integers(1, 30, n)
    R = y.sum() / x.sum()
    expected = math.sqrt(n * ((y - R * x) ** 2).sum() / (n - 1)) / x.sum()
    assert ratio_error(torch.tensor(y), torch.tensor(x)) == pytest.approx(expected, rel=1e-12)


def test_ratio_error_is_what_drawing_again_would_vary() -> None:
    """The spread of Σ y / Σ x over bootstrap samples of the sequences."""
    rng = np.random.default_rng(0)
    x = rng.integers(5, 50, 200)
    y = -2.0 * x + rng.normal(size=200) * np.sqrt(x)
    index = rng.integers(200, size=(4000, 200))
    spread = (y[index].sum(1) / x[index].sum(1)).std()
    assert ratio_error(torch.tensor(y), torch.tensor(x)) == pytest.approx(spread, rel=0.05)


def test_equal_lengths_make_it_the_error_of_a_mean() -> None:
    y = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=f64)
    assert ratio_error(y, torch.full((12,), 4)) == pytest.approx(
        float(y.std()) / math.sqrt(12) / 4, rel=1e-12
    )


def test_one_sequence_has_no_error_to_show() -> None:
    assert math.isnan(ratio_error(torch.ones(1), torch.ones(1)))


def test_sequences_that_say_the_same_per_frame_leave_no_error() -> None:
    n = torch.tensor(LENGTHS)
    assert ratio_error(-1.5 * n.double(), n) < 1e-12


def test_a_score_adds_up() -> None:
    score = Score(torch.tensor([-3.0, -9.0], dtype=f64), torch.tensor([2, 4]), "exact")
    assert (score.total, score.per_frame) == (-12.0, -2.0)
    assert score.standard_error == ratio_error(score.per_sequence, score.lengths)


# -- evaluate


@pytest.mark.parametrize("max_frames", [1, 12, 25, 4096])
def test_every_sequence_gets_its_own_value(max_frames: int) -> None:
    """Batches go by length; the values must not."""
    sequences = data()
    values, error = evaluate(sequences, lambda b: b.x[..., 0].sum(1), repeats=1, max_frames=max_frames)
    owner = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    expected = torch.zeros(len(LENGTHS), dtype=f64).index_add(0, owner, sequences.x[:, 0])
    torch.testing.assert_close(values, expected)
    assert error == 0.0


def test_repeats_give_the_mean_and_the_error_of_the_total() -> None:
    totals = iter([10.0, 16.0, 13.0])

    def value(batch: Batch) -> torch.Tensor:
        return torch.full((len(batch.lengths),), next(totals) / len(LENGTHS))

    values, error = evaluate(data(), value, repeats=3)
    assert float(values.sum()) == pytest.approx(13.0, rel=1e-6)
    assert error == pytest.approx(3.0 / math.sqrt(3), rel=1e-5)


def test_evaluating_leaves_no_graph_behind() -> None:
    scale = torch.ones((), requires_grad=True)
    values, _ = evaluate(data(), lambda b: scale * b.x[..., 0].sum(1), repeats=1)
    assert not values.requires_grad


# -- kinds


def test_exact_is_the_models_objective() -> None:
    chain = Stationary(torch.tensor([0.5, 0.5], dtype=f64), torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=f64))
    model = HMM(chain, emissions.DiagonalGaussian(torch.randn(2, 3, dtype=f64), torch.ones(2, 3, dtype=f64)))
    score = exact(model, data())
    alone = [float(model.objective(data().subset([b]).batch()).detach()) for b in range(len(LENGTHS))]
    assert score.per_sequence.tolist() == pytest.approx(alone, rel=1e-12)
    assert (score.kind, score.monte_carlo_error, score.lengths.tolist()) == ("exact", 0.0, LENGTHS)


C = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=f64)
OFFSET, SCALE = torch.tensor([0.1, -0.2, 0.3], dtype=f64), torch.tensor([0.5, 1.0, 0.7], dtype=f64)


def linear_models() -> dict[str, VAE | DMM]:
    """Linear and Gaussian, so log p(x) is known; the DMM filters, which is not its true posterior."""
    core = linear_gaussian_core(C, OFFSET, SCALE)
    return {"vae": VAE(core), "dmm": DMM(core, Linear(2, scale=0.8).double(), Filtering()).double()}


def log_prob(name: str, x: torch.Tensor) -> float:
    T = len(x)
    walk = torch.minimum(torch.arange(T)[:, None], torch.arange(T)).double() * 0.8**2 + 1
    over_time = torch.eye(T, dtype=f64) if name == "vae" else walk
    covariance = torch.einsum("tu,zw->tzuw", over_time, torch.eye(2, dtype=f64))
    seen = torch.ones(T, dtype=torch.bool)
    return dense_gaussian_log_prob(x, seen, torch.zeros(T, 2, dtype=f64), covariance, (C, OFFSET, SCALE))


@pytest.mark.parametrize("name", ["vae", "dmm"])
def test_bounds_stand_in_order_under_the_exact_value(name: str) -> None:
    """ELBO ≤ importance bound of 5 ≤ of 300 ≤ log p(x), each the mean of 30 evaluations."""
    model, sequences = linear_models()[name], data()
    truth = sum(log_prob(name, x) for x in sequences.x.split(LENGTHS))
    means, errors = [], []
    for bound, S, kind in (
        (elbo, 20, "ELBO"),
        (iwae, 5, "importance bound, S = 5"),
        (iwae, 300, "importance bound, S = 300"),
    ):
        scores = [bound(model, sequences, torch.Generator().manual_seed(s), S) for s in range(30)]
        assert {s.kind for s in scores} == {kind}
        totals = np.array([s.total for s in scores])
        means.append(totals.mean())
        errors.append(totals.std() / math.sqrt(30))
    means.append(truth)
    errors.append(1e-6)
    for i in range(3):
        assert means[i] <= means[i + 1] + 4 * (errors[i] + errors[i + 1]), (i, means, errors)
    if name == "vae":  # its posterior is the true one: sampled or not, importance weights are constant
        assert means[1:3] == pytest.approx([truth, truth], abs=1e-6)
    else:
        assert means[0] < truth - 1, "filtering must cost something, or the test says little"
        assert means[2] == pytest.approx(truth, abs=1.5)


def test_the_monte_carlo_error_is_the_spread_of_repeated_evaluations() -> None:
    model, sequences = linear_models()["dmm"], data()
    scores = [elbo(model, sequences, torch.Generator().manual_seed(s), 5) for s in range(200)]
    spread = float(np.std([s.total for s in scores]))
    claimed = float(np.sqrt(np.mean([s.monte_carlo_error**2 for s in scores])))
    assert claimed == pytest.approx(spread, rel=0.25)


def test_the_same_generator_gives_the_same_score() -> None:
    model, sequences = linear_models()["dmm"], data()
    a, b = (iwae(model, sequences, torch.Generator().manual_seed(3), 4) for _ in range(2))
    assert torch.equal(a.per_sequence, b.per_sequence)


# -- the particle filter


WALK = torch.eye(2, dtype=f64), torch.zeros(2, dtype=f64), 0.8**2 * torch.eye(2, dtype=f64)
START = torch.zeros(2, dtype=f64), torch.eye(2, dtype=f64)


def kalman(sequences: Sequences) -> float:
    frames, lengths = sequences.stacked()
    parts = torch.from_numpy(frames).split(lengths.tolist())
    return sum(kalman_log_prob(x, START, WALK, (C, OFFSET, SCALE)) for x in parts)


def long_data() -> Sequences:
    x = torch.randn(4, 60, 3, generator=torch.Generator().manual_seed(1), dtype=f64)
    x[:, 20:24] = math.nan
    return Sequences.from_any(x.numpy())


def test_the_kalman_filter_is_the_dense_gaussian() -> None:
    assert kalman(data()) == pytest.approx(
        sum(log_prob("dmm", x) for x in data().x.split(LENGTHS)), rel=1e-10
    )


def test_smc_is_the_kalman_filters_likelihood_and_the_bounds_lie_below() -> None:
    """Sixty steps: whole-path weights have degenerated, and resampling has not."""
    model, sequences = linear_models()["dmm"], long_data()
    truth = kalman(sequences)
    bound, weighted, filtered = (
        f(model, sequences, torch.Generator().manual_seed(0), S)
        for f, S in ((elbo, 100), (iwae, 1000), (smc, 1000))
    )
    assert filtered.kind == "SMC bound, S = 1000"
    assert abs(filtered.total - truth) < 3 * filtered.monte_carlo_error < 3.0
    assert weighted.total < truth - 3 * weighted.monte_carlo_error
    assert bound.total < weighted.total < filtered.total


def test_a_poor_proposal_is_mended_by_particles_and_stays_a_bound() -> None:
    torch.manual_seed(0)
    model, sequences = linear_models()["dmm"], data()
    model.recognition = STR(3, 2, 4).double()
    with torch.no_grad():
        model.recognition.head.bias[2:] = 1.5  # wide: weights of finite variance
    truth = kalman(sequences)
    totals = [smc(model, sequences, torch.Generator().manual_seed(0), S).total for S in (1, 30, 1000)]
    assert totals[0] < totals[1] < totals[2] < truth + 1
    assert totals[2] == pytest.approx(truth, abs=1)


def test_systematic_resampling_keeps_every_particle_as_often_as_its_weight_says() -> None:
    """Each count is the whole part of S w or one more, and S w on average."""
    w = torch.rand(7, 5000, generator=torch.Generator().manual_seed(0), dtype=f64)
    w = w[:, :1].expand(-1, 5000) / w[:, 0].sum()
    ancestors = systematic(w, torch.Generator().manual_seed(1))
    counts = torch.stack([(ancestors == i).sum(0) for i in range(7)])
    assert ((counts - 7 * w).abs() < 1).all()
    error = 4 * counts.double().std(1) / math.sqrt(5000) + 1e-12
    assert ((counts.double().mean(1) - 7 * w[:, 0]).abs() <= error).all()


def test_a_particle_filter_with_the_true_proposal_is_exact_beside_longer_sequences() -> None:
    """The true proposal gives constant weights, so that neither noise nor the batch around a sequence has a say."""
    model, batch = linear_models()["vae"], data().batch()
    alone = [particle_filter(model, data().subset([b]).batch(), 1).item() for b in range(len(LENGTHS))]
    assert particle_filter(model, batch, 1).tolist() == pytest.approx(alone, rel=1e-9)


def test_a_score_tells_nats_a_sequence_too() -> None:
    score = Score(torch.tensor([-3.0, -9.0, -6.0], dtype=f64), torch.tensor([2, 4, 9]), "exact")
    assert score.mean == -6.0
    assert score.standard_error_of_mean == pytest.approx(3 / math.sqrt(3))
