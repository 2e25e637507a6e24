"""Decoded states against labels: hand-worked cases, invariances, and brute force as the oracle."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dbn_vae.evaluation.states import (
    StateReport,
    ari,
    boundary_f1,
    compare_states,
    effective_states,
    match_states,
    matched_accuracy,
    nmi,
    weighted_f1,
)

PAIRWISE: list[Callable[..., float]] = [matched_accuracy, weighted_f1, nmi, ari, boundary_f1]

# Worked by hand: state 2 -> label 0 (3 of its 4 frames), 0 -> 1 (3 of 3), 1 -> 2 (1 of 1).
LABELS = [0, 0, 0, 1, 1, 1, 1, 2]
STATES = [2, 2, 2, 2, 0, 0, 0, 1]


def random_paths(n_labels: int, n_states: int, seed: int, n: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_labels, size=n)
    states = np.where(rng.random(n) < 0.5, labels % n_states, rng.integers(n_states, size=n))
    return labels, states


def test_the_hand_worked_example() -> None:
    assert match_states(LABELS, STATES).tolist() == [1, 2, 0]
    assert matched_accuracy(LABELS, STATES) == pytest.approx(7 / 8)
    # F1 = 2 tp / (true + decoded): 6/7 for label 0, 6/7 for label 1, 1 for label 2.
    assert weighted_f1(LABELS, STATES) == pytest.approx((3 * 6 / 7 + 4 * 6 / 7 + 1) / 8)
    # H(y) and H(s) have the shares {3, 4, 1} / 8 in some order; the table is {3, 1, 3, 1} / 8.
    entropy = -sum(p * np.log(p) for p in (3 / 8, 4 / 8, 1 / 8))
    joint = -sum(p * np.log(p) for p in (3 / 8, 1 / 8, 3 / 8, 1 / 8))
    assert nmi(LABELS, STATES) == pytest.approx((2 * entropy - joint) / entropy)
    # Pairs: together in both 3 + 3, in y 3 + 6, in s 6 + 3, of 28; expected 81 / 28.
    assert ari(LABELS, STATES) == pytest.approx((6 - 81 / 28) / (9 - 81 / 28))


@pytest.mark.parametrize(("n_labels", "n_states"), [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_hungarian_equals_brute_force(n_labels: int, n_states: int, seed: int) -> None:
    labels, states = random_paths(n_labels, n_states, seed)
    # Every one-to-one map: deal the labels, and blanks (-2) for states without one, to the states.
    deck = list(range(n_labels)) + [-2] * n_states
    best = max(
        np.mean(np.array(deal)[states] == labels) for deal in set(itertools.permutations(deck, n_states))
    )
    assert matched_accuracy(labels, states) == pytest.approx(best)


@pytest.mark.parametrize("measure", PAIRWISE)
def test_the_names_of_the_states_mean_nothing(measure: Callable[..., float]) -> None:
    labels, states = random_paths(3, 5, seed=0)
    value = measure(labels, states)
    for seed in range(5):
        names = np.random.default_rng(seed).choice(20, size=5, replace=False)
        assert measure(labels, names[states]) == pytest.approx(value), names


@pytest.mark.parametrize("measure", PAIRWISE)
def test_a_renamed_copy_is_perfect(measure: Callable[..., float]) -> None:
    labels, _ = random_paths(4, 1, seed=0)
    assert measure(labels, np.array([7, 0, 3, 5])[labels]) == pytest.approx(1.0)


def test_labels_need_not_be_consecutive() -> None:
    assert match_states([10, 10, 99, 99], [1, 1, 0, 0]).tolist() == [99, 10]


def test_a_state_without_a_label_of_its_own_maps_to_unknown() -> None:
    # State 1 is the smaller part of label 0; state 3 shares no frame with the free label 1.
    labels, states = [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 3, 0]
    assert match_states(labels, states).tolist() == [0, -1, -1, -1]
    assert matched_accuracy(labels, states) == pytest.approx(3 / 6)


@pytest.mark.parametrize("measure", PAIRWISE)
def test_what_is_decoded_where_the_label_is_unknown_has_no_effect(
    measure: Callable[..., float],
) -> None:
    labels, states = random_paths(3, 3, seed=1)
    labels[20:30] = -1
    value = measure(labels, states)
    for seed in range(5):
        states[20:30] = np.random.default_rng(seed).integers(9, size=10)
        assert measure(labels, states) == pytest.approx(value), seed


def test_leaving_out_unknown_frames_is_leaving_out_the_frames() -> None:
    labels, states = random_paths(3, 4, seed=2)
    hidden = np.random.default_rng(0).random(len(labels)) < 0.3
    for measure in (matched_accuracy, weighted_f1, nmi, ari):
        part = measure(labels[~hidden], states[~hidden])
        assert measure(np.where(hidden, -1, labels), states) == pytest.approx(part)


def path_with_changes(n: int, *changes: int) -> Any:
    """0 before the first change, then 1, 0, 1, ..."""
    return np.searchsorted(np.array(changes, dtype=np.int64), np.arange(n), side="right") % 2


@pytest.mark.parametrize(
    ("true", "found", "tolerance", "expected"),
    [
        ([10, 20], [10, 20], 0, 1.0),
        ([10, 20], [11, 20], 0, 0.5),
        ([10, 20], [12, 18], 2, 1.0),
        ([10, 20], [13, 18], 2, 0.5),
        ([10], [9, 11], 2, 2 / 3),  # one to one: the second finding is a false alarm
        ([9, 11], [10], 2, 2 / 3),
        ([10, 12], [12, 14], 2, 1.0),  # 12 must be left to 10 for 14 to find a partner
        ([10], [], 2, 0.0),
        ([], [10], 2, 0.0),
        ([], [], 2, 1.0),
    ],
)
def test_boundaries_by_hand(true: list[int], found: list[int], tolerance: int, expected: float) -> None:
    labels, states = path_with_changes(30, *true), path_with_changes(30, *found)
    assert boundary_f1(labels, states, tolerance=tolerance) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_boundaries_are_paired_as_well_as_can_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, found = (np.sort(rng.choice(np.arange(1, 40), 6, replace=False)) for _ in range(2))
    best = max(
        sum(abs(t - f) <= 3 for t, f in zip(true, order, strict=True))
        for order in itertools.permutations(found)
    )
    value = boundary_f1(path_with_changes(40, *true), path_with_changes(40, *found), tolerance=3)
    assert value == pytest.approx(best / 6)


def test_the_border_between_sequences_is_no_boundary() -> None:
    labels = [0, 0, 0, 1, 1, 1]
    states = [0, 0, 0, 0, 0, 0]
    assert boundary_f1(labels, states, tolerance=0) == 0.0
    assert boundary_f1(labels, states, [3, 3], tolerance=0) == 1.0


def test_boundaries_of_different_sequences_are_not_paired() -> None:
    labels = [0, 0, 0, 1, 0, 0, 0, 0]
    states = [0, 0, 0, 0, 0, 1, 1, 1]
    assert boundary_f1(labels, states, [4, 4], tolerance=5) == 0.0
    assert boundary_f1([0, 0, 0, 1, 1, 1, 1, 1], states, tolerance=5) == 1.0


def test_a_change_next_to_an_unknown_frame_is_left_out() -> None:
    assert boundary_f1([0, 0, -1, 1, 1], [0, 0, 1, 1, 1], tolerance=0) == 1.0
    assert boundary_f1([0, 0, -1, 1, 1], [0, 1, 1, 1, 1], tolerance=0) == 0.0
    assert boundary_f1([0, 0, -1, 0, 0], [0, 0, 0, 0, 0], tolerance=0) == 1.0


def test_effective_states_counts_the_states_in_use() -> None:
    assert effective_states(np.full((2, 7, 5), 0.2)) == pytest.approx(5.0)
    assert effective_states(np.eye(4)[[1, 1, 1]]) == pytest.approx(1.0)
    assert effective_states(np.eye(4)[[1, 3]]) == pytest.approx(2.0)  # sure at each step, two used
    assert effective_states([[0.5, 0.5], [1.0, 0.0]]) == pytest.approx(
        np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    )
    padded = np.concatenate([np.full((3, 2), 0.5), np.zeros((9, 2))])
    assert effective_states(padded) == pytest.approx(2.0)


def test_the_report_holds_every_measure() -> None:
    labels, states = random_paths(3, 4, seed=3)
    lengths = [25, 35]
    report = compare_states(labels, states, lengths, tolerance=1)
    assert report == StateReport(
        matched_accuracy=matched_accuracy(labels, states),
        weighted_f1=weighted_f1(labels, states),
        nmi=nmi(labels, states),
        ari=ari(labels, states),
        boundary_f1=boundary_f1(labels, states, lengths, tolerance=1),
        effective_states=effective_states(np.eye(4)[states]),
    )
    assert report.boundary_f1 != boundary_f1(labels, states, tolerance=1)


def test_short_paths_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare_states([0, 1, 2], [2, 0, 1]).matched_accuracy == 1.0


@pytest.mark.parametrize(
    ("labels", "states", "complaint"),
    [
        ([0, 1, 1], [0, 1], "labels has 3 frames and states has 2"),
        ([0, -2], [0, 1], "labels contains -2"),
        ([0, 1], [0, -1], "states contains -1"),
        ([0.0, 1.0], [0, 1], "labels has dtype float64"),
        ([[0, 1]], [[0, 1]], r"labels has shape \(1, 2\)"),
        ([], [], r"labels has shape \(0,\)"),
        ([-1, -1], [0, 1], "labels are all -1"),
    ],
)
def test_bad_paths_are_refused(labels: Any, states: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        compare_states(labels, states)


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [([3, 3], "add up to 6, but there are 8"), ([8, 0], "at least 1"), ([4.0, 4.0], "integers")],
)
def test_bad_lengths_are_refused(lengths: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        compare_states(LABELS, STATES, lengths)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance=-1"):
        boundary_f1(LABELS, STATES, tolerance=-1)
    for gamma in ([[0.5, -0.5]], [[0.0, 0.0]], [[np.nan, 1.0]], 1.0):
        with pytest.raises(ValueError, match="gamma of shape"):
            effective_states(gamma)
