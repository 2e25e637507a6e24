"""topology= puts structural zeros into every classical family: kept by EM, counted, saved, and found by the start."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import dbn_vae
from dbn_vae import (
    GMMHMM,
    HMM,
    BernoulliHMM,
    CategoricalHMM,
    GaussianHMM,
    PoissonHMM,
    Sequences,
    VariationalGaussianHMM,
)
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.training.initialise import arranged
from dbn_vae.transitions import cyclic, left_to_right

MEANS = np.array([3.0, -1.0, 4.0, 0.0, -4.0])
K = len(MEANS)
UPWARDS = np.triu(np.ones((K, K), bool)) & ~np.triu(np.ones((K, K), bool), 2)
CIRCLE = np.roll(np.eye(K, dtype=bool), 1, axis=1) | np.eye(K, dtype=bool)


def passes(seed: int, cyclic: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames and states of sequences that visit the states in turn."""
    rng = np.random.default_rng(seed)
    if cyclic:
        states = [(np.arange(60) // 7 + rng.integers(K)) % K for _ in range(10)]
    else:
        states = [np.repeat(np.arange(K), rng.integers(4, 15, K)) for _ in range(12)]
    return [rng.normal(MEANS[s], 0.3)[:, None] for s in states], states


@pytest.mark.parametrize(
    "family",
    [
        lambda t: GaussianHMM(3, topology=t, random_state=0),
        lambda t: GMMHMM(3, 2, topology=t, random_state=0, n_init=1),
        lambda t: PoissonHMM(3, topology=t, random_state=0),
        lambda t: CategoricalHMM(3, topology=t, random_state=0),
        lambda t: BernoulliHMM(3, topology=t, random_state=0),
    ],
)
def test_every_family_keeps_and_counts_the_zeros(family) -> None:
    X = np.random.default_rng(0).integers(0, 2, (60, 1)).astype(float)
    table = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
    free = family("ergodic").fit(X).n_parameters()
    for topology, zeros, start_zeros in (
        ("left-to-right", ~np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]], bool), 2),
        ("cyclic", ~np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], bool), 0),
        (table, ~table, 0),
    ):
        model = family(topology).fit(X)
        assert (model.transmat_[zeros] == 0).all() and np.allclose(model.transmat_.sum(1), 1)
        assert (model.startprob_ == 0).sum() >= start_zeros
        assert model.n_parameters() == free - zeros.sum() - start_zeros


@pytest.mark.parametrize(
    "topology", ["left-to-right", "cyclic", CIRCLE], ids=["left-to-right", "cyclic", "array"]
)
def test_the_start_finds_the_order_of_the_states(topology) -> None:
    """Every state has its own frames, so the right order is the one in which they were made."""
    X, states = passes(1, cyclic=topology != "left-to-right" if isinstance(topology, str) else True)
    model = GaussianHMM(K, topology=topology, n_iter=100, random_state=0).fit(X)
    path = np.split(model.predict(X), np.cumsum([len(x) for x in X])[:-1])
    shifts = range(K) if not isinstance(topology, str) or topology == "cyclic" else [0]
    right = max(np.mean(np.concatenate(path) == (np.concatenate(states) + d) % K) for d in shifts)
    assert right > 0.97
    allowed = CIRCLE if len(shifts) > 1 else UPWARDS
    assert all(allowed[i, j] for p in path for i, j in itertools.pairwise(p))


@pytest.mark.parametrize("cyclic_", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_renamed_as_the_moves_allow(cyclic_: bool, seed: int) -> None:
    """The true states under wrong names get names under which every move is possible; on a line, their own."""
    X, states = passes(seed, cyclic_)
    data = Sequences.from_any(X)
    chain = cyclic(K) if cyclic_ else left_to_right(K)
    model = HMM(chain, DiagonalGaussian(torch.zeros(K, 1).double(), torch.ones(K, 1).double()))
    truth = torch.as_tensor(np.concatenate(states))
    wrong = torch.randperm(K, generator=torch.Generator().manual_seed(seed))[truth]
    named = arranged(model, data, torch.eye(K, dtype=torch.float64)[wrong]).argmax(1)
    shift = int(named[0] - truth[0])
    assert torch.equal(named, (truth + shift) % K) and (cyclic_ or shift == 0)


def test_ergodic_is_the_default_and_the_full_array_is_the_same() -> None:
    X, _ = passes(2)
    plain, full = (
        GaussianHMM(3, random_state=0, n_init=4, **options).fit(X)
        for options in ({}, {"topology": "ergodic"})
    )
    assert np.array_equal(plain.transmat_, full.transmat_)
    every = GaussianHMM(3, topology=np.ones((3, 3), bool), random_state=0, n_iter=200, tol=1e-8).fit(X)
    plain = GaussianHMM(3, random_state=0, n_iter=200, tol=1e-8).fit(X)
    assert every.score(X) == pytest.approx(plain.score(X), abs=1e-3)
    assert every.n_parameters() == plain.n_parameters()


def test_saved_and_loaded(tmp_path: Path) -> None:
    X, _ = passes(3)
    for topology in ("left-to-right", UPWARDS):
        model = GaussianHMM(K, topology=topology, random_state=0, n_init=1).fit(X)
        model.save(tmp_path / "m.dbn")
        again = dbn_vae.load(tmp_path / "m.dbn")
        assert again.score(X) == model.score(X) and again.n_parameters() == model.n_parameters()
        assert np.array_equal(again.topology, topology)
        again.fit(X)
        assert np.array_equal(again.transmat_, model.transmat_)


def test_errors_name_the_argument_and_the_remedy() -> None:
    X, _ = passes(4)
    with pytest.raises(ValueError, match="topology='bakis'; it is one of"):
        GaussianHMM(2, topology="bakis").fit(X)
    with pytest.raises(ValueError, match=r"topology has shape \(2, 2\).*n_components=3"):
        GaussianHMM(3, topology=np.eye(2)).fit(X)
    with pytest.raises(ValueError, match=r"topology has shape \(2, 2\) and type float64"):
        GaussianHMM(2, topology=np.full((2, 2), 0.5)).fit(X)
    with pytest.raises(ValueError, match=r"states \[1\] without a move"):
        GaussianHMM(2, topology=[[1, 1], [0, 0]]).fit(X)
    with pytest.raises(ValueError, match="no structural zeros"):
        VariationalGaussianHMM(2, topology="cyclic").fit(X)
    model = GaussianHMM(2, topology="left-to-right", init_params="smc")
    model.transmat_ = np.full((2, 2), 0.5)
    with pytest.raises(
        ValueError, match=r"transmat_\[1, 0\]=0\.5 is a move that topology='left-to-right' forbids"
    ):
        model.fit(X)
    with pytest.raises(TypeError):
        GaussianHMM(
            2, "diag", 1e-3, 1, 1, 0, 0, 1e-2, 1, "viterbi", 0, 9, 0.1, False, "stmc", "stmc", "log", "cyclic"
        )
