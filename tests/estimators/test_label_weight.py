"""label_weight: what is ascended, what chooses the best parameters, and what it is for."""

from typing import Any

import numpy as np
import pytest
import torch

from dbn_vae import VAEHMM, GaussianHMM, SwitchingDMM
from dbn_vae.evaluation.likelihood import iwae
from dbn_vae.models.chains import log_p_labels

B, T = 12, 30
MODELS = {"vae-hmm": VAEHMM, "switching": SwitchingDMM}
TINY: dict[str, Any] = {"hidden": (4,), "n_updates": 0, "n_pretrain": 5, "random_state": 0, "device": "cpu"}


def two_causes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (B, T, 2) of two chains: the second column and its chain, which is the loud one, have no labels; of the
    first, the states and 3 % of them as labels."""
    rng = np.random.default_rng(0)

    def chain() -> np.ndarray:
        change = rng.random((B, T)) < np.r_[0.5, np.full(T - 1, 0.1)]
        return change.cumsum(1) % 2

    loud, quiet = chain(), chain()
    x = np.stack([2 * quiet, 10 * loud], -1) + rng.normal(size=(B, T, 2))
    return x, quiet, np.where(rng.random((B, T)) < 0.03, quiet, -1)


def test_states_serve_the_labels_where_frames_alone_would_have_them_otherwise() -> None:
    x, truth, labels = two_causes()

    def accuracy(model: Any) -> float:
        states = model.fit(x, labels=labels).predict(x).reshape(B, T)
        return float((states == truth)[labels < 0].mean())

    short = {"hidden": (8,), "n_updates": 60, "n_pretrain": 100, "warm_up": 20, "learning_rate": 1e-2}
    found = [accuracy(VAEHMM(2, 2, **short, label_weight=w, random_state=2)) for w in (0, 10)]
    assert found[0] < 0.65
    assert found[1] > 0.8
    assert accuracy(GaussianHMM(2, random_state=0, n_iter=100)) < 0.65


@pytest.mark.parametrize("name", MODELS)
def test_log_p_of_the_labels_is_ascended_beside_the_bound(name: str) -> None:
    x, _, labels = two_causes()
    model = MODELS[name](2, 2, label_weight=3.0, **TINY).fit(x, labels=labels)
    data = model.prepared(model.read(x, labels=labels))
    run = model.joint(data, data, torch.Generator().manual_seed(0))
    batch = data.batch()
    with torch.no_grad():
        ascended = run.objective(batch, 1.0, torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(1)
        own = model.module_.objective(batch, generator=generator)
        sampled, told = log_p_labels(model.module_, batch, generator), log_p_labels(model.module_, batch)
    assert told.min() < -1
    torch.testing.assert_close(ascended, own + 3 * sampled)
    run.recent.append((0.0, 0.0))
    run.look()
    bound = iwae(model.module_, data, torch.Generator().manual_seed(0), 8).per_frame
    assert run.curve[-1].validation == pytest.approx(bound + 3 * float(told.sum()) / data.n_frames, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_without_labels_it_changes_nothing(name: str) -> None:
    x = two_causes()[0]
    short = TINY | {"n_updates": 2}
    plain, weighed = (MODELS[name](2, 2, label_weight=w, **short).fit(x) for w in (0, 5))
    for one, other in zip(plain.module_.parameters(), weighed.module_.parameters(), strict=True):
        assert torch.equal(one, other)
