"""HSMM: the verbs agree with the module, files with what was written, and the HMM with geometric stays."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

import dbn_vae
from dbn_vae import HSMM, GaussianHMM, Sequences, emissions
from dbn_vae.evaluation import match_states

KINDS = ["categorical", "poisson", "negative_binomial", "geometric"]


def stays(seed: int, n: int = 12, noise: float = 1.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three states in turn of 6 to 10, 3 to 5 and 12 to 16 steps, at three levels."""
    rng = np.random.default_rng(seed)
    X, states = [], []
    for _ in range(n):
        path: list[int] = []
        k = rng.integers(3)
        while len(path) < 80:
            path += [k] * (rng.integers(6, 11), rng.integers(3, 6), rng.integers(12, 17))[k]
            k = (k + rng.integers(1, 3)) % 3
        states.append(np.array(path[:80]))
        X.append(rng.normal(np.array([-1.5, 0.0, 1.5])[states[-1]], noise)[:, None])
    return X, states


def gaussian(K: int = 3) -> emissions.DiagonalGaussian:
    return emissions.DiagonalGaussian(
        torch.zeros(K, 1).double(), torch.ones(K, 1).double(), floor=torch.tensor([1e-2]).double()
    )


@pytest.fixture(scope="module")
def fitted() -> dict[str, HSMM]:
    X, _ = stays(0, noise=0.6)
    return {
        kind: HSMM(gaussian(), kind, max_duration=25, random_state=0, n_init=1, n_iter=15).fit(X)
        for kind in KINDS
    }


@pytest.mark.some(2)
@pytest.mark.parametrize("kind", KINDS)
def test_the_verbs_are_the_modules(kind: str, fitted: dict[str, HSMM], tmp_path: Path) -> None:
    model = fitted[kind]
    X, _ = stays(1, n=3, noise=0.6)
    X[1] = X[1][:37]
    X[0][5] = np.nan
    batch = Sequences.from_any(X).batch()
    with torch.no_grad():
        objective = model.model_.objective(batch)
    assert model.score(X) == pytest.approx(float(objective.sum()), rel=1e-12)
    gamma, online = model.predict_proba(X), model.filter(X)
    assert gamma.shape == (197, 3) and np.allclose(gamma.sum(1), 1) and np.allclose(online.sum(1), 1)
    ends = np.cumsum([80, 37, 80]) - 1
    np.testing.assert_allclose(gamma[ends], online[ends], atol=1e-10)
    log_prob, path = model.decode(X)
    log_map, steps = model.decode(X, algorithm="map")
    assert log_map <= log_prob + 1e-9 < model.score(X)
    assert (steps == gamma.argmax(1)).all()
    assert np.array_equal(model.predict(X), path)
    for part in np.split(path, ends[:-1] + 1):
        assert max(len(list(run)) for _, run in groupby(part)) <= 25
    assert np.allclose(model.durations_.sum(1), 1) and (np.diag(model.transmat_) == 0).all()
    x, states = model.sample(50, random_state=1)
    assert x.shape == (50, 1) and states.shape == (50,)

    model.save(tmp_path / "m.dbn")
    again = dbn_vae.load(tmp_path / "m.dbn")
    assert again.score(X) == model.score(X) and np.array_equal(again.predict(X), path)
    assert again.n_parameters() == model.n_parameters() and again.monitor_.history == model.monitor_.history
    assert again.get_params()["durations"] == kind
    X0, _ = stays(0, n=3)
    refits = [clone(m).set_params(n_iter=3).fit(X0).score(X0) for m in (model, again)]
    assert refits[0] == refits[1], "the emission comes back with its floor and priors"


def test_free_parameters(fitted: dict[str, HSMM]) -> None:
    """π 2, A 3 · 1, Gaussians 6, and the durations."""
    assert [fitted[kind].n_parameters() for kind in KINDS] == [11 + 3 * 24, 11 + 3, 11 + 6, 11 + 3]


def test_durations_that_are_not_geometric_are_found_and_pay() -> None:
    """Held out, in nats and in states, against the HMM and against the same code with geometric stays."""
    (X, _), (test, states) = stays(2), stays(3)
    truth = np.concatenate(states)
    rows = {}
    for name, model in {
        "hmm": GaussianHMM(3, random_state=0, n_iter=100),
        **{
            k: HSMM(gaussian(), k, max_duration=25, random_state=0)
            for k in ("geometric", "categorical", "poisson")
        },
    }.items():
        model.fit(X)
        matched = match_states(truth, model.predict(test))
        accuracy = np.mean([matched[s] == t for s, t in zip(model.predict(test), truth, strict=True)])
        rows[name] = model.score(test), accuracy
        if name in ("categorical", "poisson"):
            np.testing.assert_allclose(np.sort(model.mean_durations_), [4, 8, 14], rtol=0.2)
    assert rows["hmm"][0] == pytest.approx(rows["geometric"][0], abs=3), "all but the cut at 25 steps"
    for kind in ("categorical", "poisson"):
        assert rows[kind][0] > rows["hmm"][0] + 20 and rows[kind][1] > rows["hmm"][1] + 0.02, rows


def test_minimum_and_labels() -> None:
    X, states = stays(4, n=6, noise=0.6)
    known = HSMM(gaussian(), min_duration=3, max_duration=20, random_state=0, n_init=1, n_iter=5)
    known.fit(X, labels=[s[:].astype(float) for s in states])
    assert np.mean(known.predict(X) == np.concatenate(states)) > 0.95, "labels name the states"
    assert (known.durations_[:, :2] == 0).all()
    for path in np.split(known.predict(X), 6):
        assert all(n >= 3 for n in [len(list(run)) for _, run in groupby(path)][:-1])


def test_data_frames_and_symbols() -> None:
    X, states = stays(5, n=4)
    frame = pd.DataFrame({"x": np.concatenate(X)[:, 0]}, index=pd.RangeIndex(100, 420))
    model = HSMM(gaussian(), "poisson", max_duration=20, random_state=0, n_init=1, n_iter=3)
    gamma = model.fit(frame, lengths=[80] * 4).predict_proba(frame, lengths=[80] * 4)
    assert list(gamma.index[:2]) == [100, 101] and list(model.feature_names_in_) == ["x"]
    symbols = np.concatenate(states)[:, None]
    family = emissions.Categorical(torch.full((3, 3), 1 / 3).double(), 1.1)
    model = HSMM(family, "poisson", max_duration=20, random_state=0, n_iter=20).fit(symbols, lengths=[80] * 4)
    found = pd.crosstab(model.predict(symbols, lengths=[80] * 4), symbols[:, 0])
    assert (found.max(axis=1) / found.sum(axis=1)).min() > 0.95


def test_errors_name_the_argument_and_the_remedy(fitted: dict[str, HSMM]) -> None:
    X, _ = stays(0, n=2)
    with pytest.raises(TypeError, match="emission is a str; it is a family"):
        HSMM("gaussian").fit(X)
    with pytest.raises(ValueError, match="durations='gamma'; it is one of"):
        HSMM(gaussian(), "gamma").fit(X)
    with pytest.raises(ValueError, match="n_components=1; it must be a whole number from 2"):
        HSMM(gaussian(1)).fit(X)
    with pytest.raises(ValueError, match="min_duration=9, max_duration=5"):
        HSMM(gaussian(), min_duration=9, max_duration=5).fit(X)
    with pytest.raises(ValueError, match=r"concentration=0\.5"):
        HSMM(gaussian(), duration_prior=0.5).fit(X)
    with pytest.raises(ValueError, match="labels hold one state for 9 steps, but max_duration=5; raise it"):
        HSMM(gaussian(), max_duration=5).fit(X[0][:20], labels=np.repeat([0, -1, 2], [9, 4, 7]))
    with pytest.raises(Exception, match="has no parameters yet"):
        HSMM(gaussian()).predict(X)
    with pytest.raises(ValueError, match="expecting 1 features"):
        fitted["poisson"].score(np.zeros((5, 2)))
