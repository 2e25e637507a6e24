"""Where joint training of a VAE-HMM begins."""

import numpy as np
import pytest

from dbn_vae import VAEHMM


@pytest.mark.parametrize("random_state", range(3))
def test_states_that_no_frame_needs_begin_no_wider_than_the_latents(random_state: int) -> None:
    rng = np.random.default_rng(random_state)
    level = np.repeat(rng.integers(0, 3, 300), 4)[:, None] * [3.0, -2.0, 1.0]
    X = level + 0.1 * rng.normal(size=level.shape)
    model = VAEHMM(12, 2, n_updates=0, n_pretrain=50, hidden=(8,), random_state=random_state).fit(X)
    widest = model.module_.components().scale.max()
    assert widest <= 1.0, "the static prior of z has scale 1, and so have states that were never begun"
