"""What is held out is held out, and the table adds up."""

import itertools
import math
from typing import Any

import hmmlearn.hmm
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import dbn_vae
from dbn_vae import GaussianHMM
from dbn_vae.evaluation import compare, hold_out
from dbn_vae.evaluation.comparison import Peer, Row, fit_and_score, table
from dbn_vae.evaluation.likelihood import Score, ratio_error

# -- hold_out

CASES = [
    ([100], 10, 3),
    ([103], 10, 2),
    ([100, 7, 55, 1, 200], 20, 3),
    ([5] * 12, 50, 4),
    ([49, 51, 74, 76, 149, 151], 50, 3),
    ([1, 1, 1], 1, 3),
]


@pytest.mark.parametrize(("lengths", "block", "every"), CASES)
def test_every_frame_is_in_exactly_one_part_and_no_part_crosses_a_border(
    lengths: list[int], block: int, every: int
) -> None:
    n = sum(lengths)
    X = np.arange(n, dtype=float)[:, None]  # a frame's value is its row
    split = hold_out(X, lengths, block=block, every=every)
    pieces = [*split.train, *split.test]
    assert sorted(np.concatenate(pieces)[:, 0].tolist()) == list(range(n))
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    for piece in pieces:
        rows = piece[:, 0].astype(int)
        assert_array_equal(np.diff(rows), 1, err_msg="a piece is contiguous")
        assert len(set(sequence[rows])) == 1, "a piece lies in one sequence"
    for part, starts in ((split.train, split.train_starts), (split.test, split.test_starts)):
        assert [int(p[0, 0]) for p in part] == starts


@pytest.mark.parametrize(("lengths", "block", "every"), CASES)
def test_train_neighbours_are_joined_and_test_blocks_keep_their_size(
    lengths: list[int], block: int, every: int
) -> None:
    X = np.arange(sum(lengths), dtype=float)[:, None]
    split = hold_out(X, lengths, block=block, every=every)
    borders = set(np.cumsum(lengths).tolist())
    ends = [int(p[-1, 0]) + 1 for p in split.train]
    for end, start in zip(ends, split.train_starts[1:], strict=False):
        assert end != start or end in borders, f"training pieces meet at row {end} within a sequence"
    assert all(len(p) <= max(1.5 * block, 1) for p in split.test)


def test_each_third_block_is_out() -> None:
    split = hold_out(np.zeros((90, 1)), block=10, every=3)
    assert split.test_starts == [20, 50, 80]
    assert [len(p) for p in split.test] == [10, 10, 10]
    assert split.train_starts == [0, 30, 60]
    assert [len(p) for p in split.train] == [20, 20, 20]


def test_every_form_of_x_is_split_alike() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    stacked = hold_out(X, [40, 20], block=10)
    for form in (
        [X[:40], X[40:]],
        pd.DataFrame(X, index=pd.MultiIndex.from_arrays([[0] * 40 + [1] * 20, range(60)])),
    ):
        other = hold_out(form, block=10)
        assert all(
            np.array_equal(a, b)
            for a, b in zip(stacked.test + stacked.train, other.test + other.train, strict=True)
        )


@pytest.mark.parametrize(
    ("n", "options", "words"),
    [
        (100, {"block": 50, "every": 3}, "only 2 blocks of 50 frames.*smaller block"),
        (100, {"block": 10, "every": 1}, "every"),
        (100, {"block": 10, "every": 0}, "every"),
        (100, {"block": 0, "every": 3}, "block"),
    ],
)
def test_a_split_that_leaves_nothing_is_refused(n: int, options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hold_out(np.zeros((n, 1)), **options)


# -- the table


class Candidate:
    """A model whose scores are given."""

    def __init__(self, values: list[float], lengths: list[int], n_states: int = 2) -> None:
        self.given = Score(torch.tensor(values, dtype=torch.float64), torch.tensor(lengths), "exact", 0.6)
        self.n_states = n_states

    def fit(self, X: Any, lengths: Any = None) -> "Candidate":
        self.fitted_to = X
        return self

    def evaluate(self, X: Any, lengths: Any = None) -> Score:
        self.scored_on = X
        return self.given

    def n_parameters(self) -> int:
        return 7


LENGTHS = [2, 4, 6]
A = Candidate([-2.0, -4.0, -6.0], LENGTHS)
B = Candidate([-1.0, -5.0, -3.0], LENGTHS, 3)
C = Candidate([-4.0, -8.0, -13.0], LENGTHS)


def rows() -> list[Row]:
    return [Row(n, m, m.given, 0.5) for n, m in (("a", A), ("b", B), ("c", C))]


def test_rows_stand_best_first_and_the_columns_agree() -> None:
    frame = table(rows())
    assert frame["model"].tolist() == ["b", "a", "c"]
    assert frame["per frame"].tolist() == pytest.approx([-9 / 12, -12 / 12, -25 / 12])
    level = frame.set_index("model")["per frame"]
    assert frame.attrs["reference"] == "a"
    assert_allclose(frame["gain"], frame["per frame"] - level["a"], atol=1e-15)
    gain = B.given.per_sequence - A.given.per_sequence
    row = frame.set_index("model").loc["b"]
    assert row["gain s.e."] == pytest.approx(ratio_error(gain, A.given.lengths))
    assert row["s.e."] == pytest.approx(ratio_error(B.given.per_sequence, B.given.lengths))
    assert row["Monte Carlo s.e."] == pytest.approx(0.6 / 12)
    assert (row["states"], row["parameters"], row["seconds"], row["kind"]) == (3, 7, 0.5, "exact")
    assert frame.set_index("model").loc["a", "gain s.e."] == 0.0


def test_the_reference_may_be_named() -> None:
    frame = table(rows(), "c").set_index("model")
    assert frame.loc["c", "gain"] == 0.0
    assert frame.loc["a", "gain"] == pytest.approx(13 / 12)


def test_ties_keep_the_order_given() -> None:
    nearly = Candidate([-2.0, -4.0, -6.0 + 1e-11], LENGTHS)
    tied = [Row("first", A, A.given, 0.0), Row("second", nearly, nearly.given, 0.0)]
    assert table(tied)["model"].tolist() == ["first", "second"]
    assert table(tied[::-1])["model"].tolist() == ["second", "first"]


def test_candidates_are_fitted_to_one_part_and_scored_on_the_other() -> None:
    split = hold_out(np.arange(90.0)[:, None], block=10)
    said: list[str] = []
    models = [Candidate([-1.0], [1]), Candidate([-1.0], [1])]
    result = fit_and_score([("x", models[0]), ("y", models[1])], split, said.append)
    assert said == ["x", "y"] == [r.name for r in result]
    for model in models:
        assert model.fitted_to is split.train
        assert model.scored_on is split.test


# -- compare and the peer


def series() -> np.ndarray:
    rng = np.random.default_rng(0)
    states = np.repeat(rng.integers(0, 2, 30), 10)
    return rng.normal(size=(300, 2)) + 3 * states[:, None]


def test_the_peers_numbers_are_hmmlearns_own() -> None:
    X = series()
    split = hold_out(X, block=30)
    peer = Peer(hmmlearn.hmm.GaussianHMM(2, random_state=0, n_iter=20)).fit(split.train)
    theirs = hmmlearn.hmm.GaussianHMM(2, random_state=0, n_iter=20)
    theirs.fit(np.concatenate(split.train), [len(x) for x in split.train])
    score = peer.evaluate(split.test)
    assert score.per_sequence.tolist() == [theirs.score(x) for x in split.test]
    assert score.lengths.tolist() == [len(x) for x in split.test]
    assert score.kind == "exact"
    assert peer.n_states == 2
    # π, A, two means and two variances a state
    assert peer.n_parameters() == 1 + 2 + 4 + 4


def test_compare_puts_hmmlearn_beside_each_size() -> None:
    X = series()
    models = [GaussianHMM(k, random_state=0, n_iter=20) for k in (1, 2, 2)]
    frame = compare(models, X, block=30)
    assert frame["per frame"].round(9).is_monotonic_decreasing
    names = frame["model"].tolist()
    assert sorted(n for n in names if n.startswith("hmmlearn")) == [
        "hmmlearn GaussianHMM(1)",
        "hmmlearn GaussianHMM(2)",
    ]
    split = hold_out(X, block=30)
    for k in (1, 2):
        theirs = hmmlearn.hmm.GaussianHMM(k, random_state=0, n_iter=100)
        theirs.fit(np.concatenate(split.train), [len(x) for x in split.train])
        per_frame = sum(theirs.score(x) for x in split.test) / sum(map(len, split.test))
        row = frame.set_index("model").loc[f"hmmlearn GaussianHMM({k})"]
        assert row["per frame"] == pytest.approx(per_frame, rel=1e-12), f"{k} states"
    ours = GaussianHMM(2, random_state=0, n_iter=20).fit(split.train).score(split.test) / sum(
        map(len, split.test)
    )
    assert frame["per frame"].to_numpy()[
        [not n.startswith("hmmlearn") for n in names]
    ].max() == pytest.approx(ours)
    level = dict(zip(names, frame["per frame"], strict=True))[frame.attrs["reference"]]
    assert_allclose(frame["gain"], frame["per frame"] - level, atol=1e-12)


def test_compare_takes_every_kind_of_model_and_names_twins_apart() -> None:
    """Also one to which every frame is a sequence of its own: gains stay paired, block by block."""
    tiny = {"hidden": (4,), "n_updates": 2, "n_pretrain": 0, "n_samples": 5, "random_state": 0}
    models = [
        GaussianHMM(1, random_state=0),
        dbn_vae.VAE(1, **tiny),
        dbn_vae.VAEHMM(2, 1, **tiny),
        dbn_vae.DeepMarkovModel(1, **tiny),
        GaussianHMM(1, random_state=0),
    ]
    frame = compare(models, series(), block=30, hmmlearn=False)
    assert len(set(frame["model"])) == 5
    reference = frame.set_index("model").loc[frame.attrs["reference"], "per frame"]
    assert_allclose(frame["gain"], frame["per frame"] - reference, atol=1e-9)
    twins = frame[frame["model"].str.startswith("GaussianHMM")]
    assert_allclose(twins["gain"], 0.0, atol=1e-12)


def test_compare_without_hmmlearn_and_from_the_package() -> None:
    frame = dbn_vae.compare([GaussianHMM(1, random_state=0)], series(), block=30, hmmlearn=False)
    assert len(frame) == 1
    assert math.isfinite(frame.loc[0, "per frame"])


def test_paired_differences_are_surer_than_levels() -> None:
    """Why the table has them: blocks differ more among themselves than two models on one block."""
    models = [GaussianHMM(2, c, random_state=0, n_iter=20) for c in ("diag", "full")]
    frame = compare(models, series(), block=30, hmmlearn=False)
    other = frame[frame["gain s.e."] > 0].iloc[0]
    assert other["gain s.e."] < 0.5 * other["s.e."]


def test_cases_hold_out_something_each() -> None:
    sizes = [len(hold_out(np.zeros((sum(n), 1)), n, block=b, every=e).test) for n, b, e in CASES]
    assert all(sizes), list(itertools.compress(CASES, [not s for s in sizes]))
