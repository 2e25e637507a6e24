"""Options of the deep estimators: frames that read the frame before, stays with a distribution of their own."""

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from dbn_vae import DeepMarkovModel, load

TINY: dict[str, Any] = {
    "hidden": (6,), "n_updates": 3, "n_pretrain": 3, "warm_up": 1, "batch_size": 4, "n_samples": 3, "random_state": 0,
    "device": "cpu",
}  # fmt: skip


def test_an_emission_that_reads_the_frame_before_follows_data_that_remember_it(tmp_path: Any) -> None:
    """Notes that are held or struck at random, twelve of them, are more than two latents can carry."""
    rng = np.random.default_rng(0)
    flips = rng.random((40, 10, 12)) < 0.08
    X = (np.cumsum(flips, 1) + rng.integers(0, 2, (40, 1, 12))) % 2.0
    X[3, 5:8] = np.nan
    X[4, :, 2] = np.nan
    options = TINY | {
        "n_updates": 100,
        "n_pretrain": 20,
        "learning_rate": 2e-2,
        "likelihood": "bernoulli",
        "n_samples": 20,
    }
    scores = {}
    for autoregressive in (False, True):
        model = DeepMarkovModel(
            2, n_hidden=4, inference="mean-field", autoregressive=autoregressive, **options
        ).fit(X)
        scores[autoregressive] = model.evaluate(X).per_frame
    assert scores[True] > scores[False] + 1, scores
    filled = model.reconstruct(X)
    assert filled.shape == (400, 12)
    assert not np.isnan(filled).any()
    assert model.sample(5, random_state=0)[0].shape == (5, 12)
    model.save(tmp_path / "m.dbn")
    assert_allclose(load(tmp_path / "m.dbn").reconstruct(X), filled, atol=1e-6)
