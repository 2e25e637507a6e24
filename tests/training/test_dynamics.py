"""The start of deep Markov models: what the autoregressive HMM has found is what the model begins with."""

import numpy as np
import pytest
import torch

from dbn_vae import DeepMarkovModel, SwitchingDMM
from dbn_vae.datasets import bouncing_ball
from dbn_vae.estimators import EmissionHMM
from dbn_vae.evaluation import matched_accuracy
from dbn_vae.sequences import Sequences
from dbn_vae.training.dynamics import SHIFT, autoregression, small_step
from dbn_vae.training.dynamics import begun as begun_from
from dbn_vae.training.reseed import fit_move, heard, rise
from dbn_vae.transitions import Gated

BALL, RISING = bouncing_ball(40, 50, random_state=0)


def begun(**options):
    return SwitchingDMM(2, 3, n_updates=0, n_pretrain=300, validation=0, random_state=0, **options)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("start", "found"),
    [
        pytest.param({"transition": "linear"}, True, marks=pytest.mark.thorough),
        ({"transition": "gated"}, True),
        ({"init": "random"}, False),
    ],
)
def test_directions_are_found_before_any_joint_training(start, found):
    """A single frame tells nothing of them, and moves near W = I do not either."""
    accuracy = matched_accuracy(RISING.reshape(-1), begun(**start).fit(BALL).predict(BALL))
    assert accuracy > 0.85 if found else accuracy < 0.65


@pytest.mark.thorough
@pytest.mark.parametrize("init", ["dynamics", "random"])
def test_moves_that_em_has_found_are_moved_in_small_steps(init):
    """Adam's first step has the length of the step size, whatever the gradient."""
    rate = 0.1
    options = {"n_pretrain": 5, "validation": 0, "random_state": 0, "init": init, "learning_rate": rate}
    still, moved = (SwitchingDMM(2, 3, n_updates=n, **options).fit(BALL) for n in (0, 1))
    small = min(rate, moved.step_size_)
    assert (small < rate / 2) == (init == "dynamics")
    before, after = still.module_.state_dict(), moved.module_.state_dict()
    for name in before:
        longest = float((after[name] - before[name]).abs().max())
        step = (small if name.startswith("moves") else rate) / 20  # it rises in twenty updates
        assert longest == pytest.approx(step, rel=0.05), name


def test_a_small_step_shifts_the_quietest_state_by_a_share_of_its_innovations():
    """Every coefficient a step off, all in the worst direction: the shift of a frame's expectation, on average."""
    y = Sequences.from_any(np.random.default_rng(0).normal(size=(4, 9, 2)))
    hmm = EmissionHMM(autoregression(3, 2, 2), random_state=0, n_iter=5).fit(y).model_
    start = begun_from(hmm, y)
    step = small_step(start)
    worst = step * (1 + 2 * y.x.abs().sum(1))  # the intercept, and two frames before
    assert float(worst.mean() / start.variance.min().sqrt()) == pytest.approx(SHIFT)


def test_labels_name_the_states_and_holes_and_lengths_change_nothing_of_it():
    x, lengths = BALL.reshape(-1, 1).copy(), [30, 20] * 40
    labels = np.where(np.arange(len(x)) % 5 == 0, RISING.reshape(-1), -1)
    x[7::50] = np.nan
    model = begun().fit(x, lengths=lengths, labels=labels)
    assert np.mean(model.predict(x, lengths) == RISING.reshape(-1)) > 0.85


def test_a_frozen_core_stays_as_pre_training_left_it():
    one, other = (begun(freeze_core=True, init=i).fit(BALL).module_.core for i in ("dynamics", "random"))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_start_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="init='kmeans'"):
        begun(init="kmeans").fit(BALL)
    with pytest.raises(ValueError, match="init='random'"):
        walker(init="random").fit(BALL)


STEP = 0.02


def slow_walks() -> tuple[np.ndarray, np.ndarray]:
    """Two columns that hardly move between frames, whole and with a fifth of their entries missing: (12, 80, 2)."""
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(12, 1, 2)) + STEP * rng.normal(size=(12, 80, 2)).cumsum(1)
    return whole, np.where(rng.random(whole.shape) < 0.2, np.nan, whole)


def walker(**options):
    options = {"n_updates": 0, "n_pretrain": 300, "read_missing": True, "validation": 0} | options
    return DeepMarkovModel(2, transition="linear", inference="product-filter", random_state=0, **options)


@pytest.mark.thorough
def test_slow_columns_are_filled_in_before_any_joint_training():
    """As slow latents of sharp evidence: near what the frames beside a hole say, where a drift knows the mean alone."""
    whole, holes = slow_walks()
    gone = np.isnan(holes)
    error = {}
    for init in ("dynamics", "drift"):
        filled = walker(init=init).fit(holes).impute(holes, random_state=0).reshape(whole.shape)
        error[init] = np.sqrt(np.mean((filled - whole)[gone] ** 2))

    assert error["dynamics"] < 2 * STEP < 4 * STEP < error["drift"], error


def test_evidence_is_sharp_where_an_entry_was_seen_and_silent_where_not():
    _, holes = slow_walks()
    model = walker().fit(holes)
    batch = model.prepared(Sequences.from_any(holes)).batch()
    with torch.no_grad():
        J = model.module_.core.evidence(batch.x, batch.observed).J
    assert float(J[~batch.observed].quantile(0.9)) < 0.1 < 100 < float(J[batch.observed].quantile(0.1))


def test_a_move_is_the_regression_of_a_frame_on_the_one_before():
    """Whole frames, standardised: least squares written out."""
    whole, _ = slow_walks()
    model = walker().fit(whole)
    y = (whole - whole.mean((0, 1))) / whole.std((0, 1))
    before = np.c_[y[:, :-1].reshape(-1, 2), np.ones(12 * 79)]
    truth, *_ = np.linalg.lstsq(before, y[:, 1:].reshape(-1, 2), rcond=None)
    move = model.module_.transition
    found = torch.cat([move.weight, move.bias[:, None]], 1).detach().numpy()
    np.testing.assert_allclose(found, truth.T, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "drift"},
        {"inference": "ST-R"},
        {"autoregressive": True},
        {"n_pretrain": 0},
    ],
)
def test_where_no_dynamics_can_be_read_moves_begin_as_a_drift(options):
    _, holes = slow_walks()
    move = DeepMarkovModel(
        2, transition="linear", n_updates=0, random_state=0, **{"n_pretrain": 5} | options
    ).fit(holes)
    assert torch.equal(move.module_.transition.weight, torch.eye(2))


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", [range(4), range(4, 12)])
def test_a_gated_move_that_imitates_keeps_its_proposals_in_the_gradient(seeds):
    """Of a variance that never varies; by L-BFGS on everything some of these proposals end under their ReLU."""
    dead = []
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            before = 0.3 * torch.randn(200, 2)
            z = before + 0.02 * torch.randn(200, 2)
            move, everything = Gated(2, 4), Gated(2, 4)
        everything.load_state_dict(move.state_dict())
        first = heard(move, before)
        fit_move(move, before, z)
        rise(list(everything.parameters()), everything, before, z)
        assert heard(move, before)[first].all()
        dead.append(not bool(heard(everything, before)[first].all()))
        spread = (z - move(before).mean).std(0)
        assert (spread < 0.03).all(), "it imitates all the same"
    assert any(dead)
