"""The start of switching deep Markov models: what the autoregressive HMM has found is what the model begins with."""

import numpy as np
import pytest
import torch

from dbn_vae import SwitchingDMM
from dbn_vae.datasets import bouncing_ball
from dbn_vae.evaluation import matched_accuracy

BALL, RISING = bouncing_ball(40, 50, random_state=0)


def begun(**options):
    return SwitchingDMM(2, 3, n_updates=0, n_pretrain=300, validation=0, random_state=0, **options)


@pytest.mark.parametrize("transition", ["linear", "gated"])
def test_directions_are_found_before_any_joint_training(transition):
    """A single frame tells nothing of them, and moves near W = I do not either."""
    found = begun(transition=transition).fit(BALL).predict(BALL)
    assert matched_accuracy(RISING.reshape(-1), found) > 0.85
    lost = begun(init="random").fit(BALL).predict(BALL)
    assert matched_accuracy(RISING.reshape(-1), lost) < 0.65


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
