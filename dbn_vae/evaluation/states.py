r"""How well a path of decoded states matches a labelling, when the names of states mean nothing.

States are first named by the one-to-one map m that maximises sum_t [m(s_t) = y_t]: the assignment
problem on the contingency table (Kuhn, 1955). A frame whose label is -1 is unknown and is left out.

    matched accuracy   mean of [m(s_t) = y_t]
    weighted F1        sum over labels c of F1_c (frames of c) / (all frames), after m
    NMI                2 I(y; s) / (H(y) + H(s))
    ARI                Rand index, set to 0 at its expectation by chance (Hubert and Arabie, 1985)
    boundary F1        F1 of change points, matched one to one within a tolerance
    effective states   exp H(mean of gamma): K if all states share the frames, 1 if one has them all
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.special import entr

UNKNOWN = -1

# Five frames is the margin of van den Burg and Williams, "An evaluation of change point detection
# algorithms", 2020. Set it to what counts as the same instant at your frame rate.
DEFAULT_TOLERANCE = 5


class StateReport(NamedTuple):
    """Every measure of the module; higher is better, save `effective_states`, which has no best.

    Ranges: 0 to 1, but `ari` is below 0 for less agreement than chance gives, and
    `effective_states` is 1 to K, from the share of all frames that each state decodes.
    """

    matched_accuracy: float
    weighted_f1: float
    nmi: float
    ari: float
    boundary_f1: float
    effective_states: float


def compare_states(
    labels: npt.ArrayLike,
    states: npt.ArrayLike,
    lengths: npt.ArrayLike | None = None,
    *,
    tolerance: int = DEFAULT_TOLERANCE,
) -> StateReport:
    """All measures of `states` (n,) against `labels` (n,), for sequences of the given `lengths`."""
    labels, states = _paths(labels, states)
    share = np.bincount(states)
    return StateReport(
        matched_accuracy=matched_accuracy(labels, states),
        weighted_f1=weighted_f1(labels, states),
        nmi=nmi(labels, states),
        ari=ari(labels, states),
        boundary_f1=boundary_f1(labels, states, lengths, tolerance=tolerance),
        effective_states=effective_states(share / share.sum()),
    )


def match_states(labels: npt.ArrayLike, states: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The label of each state: `mapping[states]` is the path in the names of `labels`.

    With more states than labels, or where a state shares no frame with any label left to it, the
    state maps to -1, and its frames count as wrong.
    """
    labels, states = _paths(labels, states)
    mapping = np.full(states.max() + 1, UNKNOWN)
    labels, states = _known(labels, states)
    names, rows = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(mapping)), dtype=np.int64)
    np.add.at(counts, (rows, states), 1)
    matched_rows, matched_states = linear_sum_assignment(counts, maximize=True)
    shared = counts[matched_rows, matched_states] > 0
    mapping[matched_states[shared]] = names[matched_rows[shared]]
    return mapping


def matched_accuracy(labels: npt.ArrayLike, states: npt.ArrayLike) -> float:
    """The share of frames whose state, once matched, is the label."""
    mapping = match_states(labels, states)
    labels, states = _known(*_paths(labels, states))
    return float(np.mean(mapping[states] == labels))


def weighted_f1(labels: npt.ArrayLike, states: npt.ArrayLike) -> float:
    """F1 of each label after matching, averaged with the labels' shares of the frames."""
    from sklearn.metrics import f1_score

    mapping = match_states(labels, states)
    labels, states = _known(*_paths(labels, states))
    return float(f1_score(labels, mapping[states], average="weighted", zero_division=0))


def nmi(labels: npt.ArrayLike, states: npt.ArrayLike) -> float:
    """Normalised mutual information of labels and states."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_known(*_paths(labels, states))))


def ari(labels: npt.ArrayLike, states: npt.ArrayLike) -> float:
    """Adjusted Rand index of labels and states."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_known(*_paths(labels, states))))


def boundary_f1(
    labels: npt.ArrayLike,
    states: npt.ArrayLike,
    lengths: npt.ArrayLike | None = None,
    *,
    tolerance: int = DEFAULT_TOLERANCE,
) -> float:
    """2 hits / (true + found) over change points: a hit pairs two at most `tolerance` frames apart.

    A change point lies within a sequence, between two frames with known labels. It is 1 if neither
    path has a change point.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance} is a number of frames and must be at least 0")
    labels, states = _paths(labels, states)
    borders = np.cumsum(_checked_lengths(lengths, len(labels)))[:-1]
    hits, changes = 0, 0
    for y, s in zip(np.split(labels, borders), np.split(states, borders), strict=True):
        known = (y[1:] != UNKNOWN) & (y[:-1] != UNKNOWN)
        true = np.flatnonzero(known & (y[1:] != y[:-1]))
        found = np.flatnonzero(known & (s[1:] != s[:-1]))
        hits += _count_matches(true, found, tolerance)
        changes += len(true) + len(found)
    return 2.0 * hits / changes if changes else 1.0


def effective_states(gamma: npt.ArrayLike) -> float:
    """exp H(p) in states, for p the mean of `gamma` (..., K) over all its leading axes.

    Rows of zeros, as padding may have, count for nothing.
    """
    gamma = np.asarray(gamma, dtype=np.float64)
    if gamma.ndim == 0 or not (np.all(gamma >= 0.0) and 0.0 < gamma.sum() < np.inf):
        raise ValueError(
            f"gamma of shape {gamma.shape} must hold probabilities, states last: finite, none "
            "negative and not all zero"
        )
    share = gamma.reshape(-1, gamma.shape[-1]).sum(axis=0)
    return float(np.exp(entr(share / share.sum()).sum()))


def _count_matches(true: npt.NDArray[np.int64], found: npt.NDArray[np.int64], tolerance: int) -> int:
    """The most pairs within `tolerance`: in order, the earliest partner is never a bad choice."""
    i = j = hits = 0
    while i < len(true) and j < len(found):
        gap = true[i] - found[j]
        if abs(gap) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif gap < 0:
            i += 1
        else:
            j += 1
    return hits


def _known(
    labels: npt.NDArray[np.int64], states: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    known = labels != UNKNOWN
    if not known.any():
        raise ValueError("labels are all -1 (unknown): there is no frame to compare on")
    return labels[known], states[known]


def _paths(
    labels: npt.ArrayLike, states: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    checked_labels = _path("labels", labels, UNKNOWN)
    checked_states = _path("states", states, 0)
    if len(checked_labels) != len(checked_states):
        raise ValueError(
            f"labels has {len(checked_labels)} frames and states has {len(checked_states)}: "
            "give both one entry a frame"
        )
    return checked_labels, checked_states


def _path(name: str, values: npt.ArrayLike, lowest: int) -> npt.NDArray[np.int64]:
    path = np.asarray(values)
    if path.ndim != 1 or path.size == 0:
        raise ValueError(
            f"{name} has shape {path.shape}; give one dimension, sequences end to end, and their "
            "lengths apart"
        )
    if path.dtype.kind not in "biu":
        raise ValueError(f"{name} has dtype {path.dtype}; give integers")
    if path.min() < lowest:
        raise ValueError(f"{name} contains {path.min()}; the lowest value allowed is {lowest}")
    return path.astype(np.int64)


def _checked_lengths(lengths: npt.ArrayLike | None, n_frames: int) -> npt.NDArray[np.int64]:
    if lengths is None:
        return np.array([n_frames])
    checked = np.asarray(lengths)
    if checked.ndim != 1 or checked.dtype.kind not in "iu" or np.any(checked < 1):
        raise ValueError(f"lengths={lengths} must be a list of integers, each at least 1")
    if checked.sum() != n_frames:
        raise ValueError(f"lengths={lengths} add up to {checked.sum()}, but there are {n_frames} frames")
    return checked.astype(np.int64)
