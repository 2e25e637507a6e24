"""One data set in every form a user may have it, and batches that lose and invent nothing."""

import numpy as np
import pandas as pd
import pytest
import torch

from dbn_vae.sequences import Batch, Sequences

NAN = float("nan")
RNG = np.random.default_rng(0)
PARTS = [RNG.normal(size=(n, 2)) for n in (3, 1, 4)]
PARTS[0][1, 0] = NAN
PARTS[2][2] = NAN
FLAT = np.concatenate(PARTS)
LENGTHS = [3, 1, 4]
BLOCK = np.full((3, 4, 2), 77.0)  # what lies beyond a length is never read
for _b, _part in enumerate(PARTS):
    BLOCK[_b, : len(_part)] = _part


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"p": FLAT[:, 0], "q": FLAT[:, 1], **columns})


def multi_index() -> pd.DataFrame:
    index = pd.MultiIndex.from_arrays([list("cccaddd" + "d"), [0, 1, 2, 0, 0, 1, 2, 3]])
    return frame().set_index(index)


FORMS = {
    "stacked array": lambda: Sequences.from_any(FLAT, LENGTHS),
    "lengths as an array": lambda: Sequences.from_any(FLAT, np.array(LENGTHS, dtype=np.int32)),
    "lengths as floats": lambda: Sequences.from_any(FLAT, [3.0, 1.0, 4.0]),
    "lengths as a tensor": lambda: Sequences.from_any(FLAT, torch.tensor(LENGTHS)),
    "stacked tensor": lambda: Sequences.from_any(torch.tensor(FLAT), LENGTHS),
    "stacked tensor with a gradient": lambda: Sequences.from_any(
        torch.tensor(FLAT, requires_grad=True), LENGTHS
    ),
    "nested lists": lambda: Sequences.from_any([p.tolist() for p in PARTS]),
    "rows as lists": lambda: Sequences.from_any(FLAT.tolist(), LENGTHS),
    "list of arrays": lambda: Sequences.from_any(PARTS),
    "tuple of tensors": lambda: Sequences.from_any(tuple(torch.tensor(p) for p in PARTS)),
    "block with lengths": lambda: Sequences.from_any(BLOCK, LENGTHS),
    "block tensor with lengths": lambda: Sequences.from_any(torch.tensor(BLOCK), LENGTHS),
    "frame with lengths": lambda: Sequences.from_any(frame(), LENGTHS),
    "frame with a column": lambda: Sequences.from_any(frame(who=[9, 9, 9, 5, 7, 7, 7, 7]), sequence="who"),
    "frame with a text column": lambda: Sequences.from_any(frame(who=list("xxxyzzzz")), sequence="who"),
    "frame of nullable floats": lambda: Sequences.from_any(frame().astype("Float64"), LENGTHS),
    "frame with a MultiIndex": lambda: Sequences.from_any(multi_index()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_data_set(form):
    data = FORMS[form]()
    assert data.lengths.tolist() == LENGTHS
    assert data.lengths.dtype == torch.int64
    assert torch.equal(data.observed, torch.tensor(~np.isnan(FLAT)))
    assert torch.equal(data.x, torch.tensor(np.nan_to_num(FLAT)))
    assert not data.x.requires_grad
    assert data.weights.tolist() == [1, 1, 1]
    assert data.labels is None
    assert data.inputs is None
    assert (len(data), data.n_frames) == (3, 8)


def test_a_block_without_lengths_is_whole_sequences():
    data = Sequences.from_any(BLOCK)
    assert data.lengths.tolist() == [4, 4, 4]
    assert data.x.shape == (12, 2)


def test_an_array_without_lengths_is_one_sequence():
    assert Sequences.from_any(FLAT).lengths.tolist() == [8]


def test_missing_values_are_zero_and_unobserved():
    data = Sequences.from_any([[1.0, NAN], [NAN, NAN]])
    assert data.x.tolist() == [[1, 0], [0, 0]]
    assert data.observed.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_type_is_the_one_asked_for(dtype):
    data = Sequences.from_any(PARTS, inputs=PARTS_OF_INPUTS, dtype=dtype)
    assert {data.x.dtype, data.weights.dtype, data.inputs.dtype} == {dtype}
    other = torch.float32 if dtype == torch.float64 else torch.float64
    assert {v.dtype for v in (data.to(dtype=other).x, data.to(dtype=other).weights)} == {other}


def test_image_frames_keep_their_shape():
    films = [RNG.random((n, 3, 5, 2)) for n in (2, 4)]
    data = Sequences.from_any(films)
    assert data.x.shape == (6, 3, 5, 2)
    batch = data.batch()
    assert batch.x.shape == batch.observed.shape == (2, 4, 3, 5, 2)
    assert (batch.x[0, 2:] == 0).all()
    assert not batch.observed[0, 2:].any()
    assert torch.equal(batch.x[1], torch.tensor(films[1]))


# Labels, inputs, weights

PARTS_OF_INPUTS = [RNG.normal(size=(n, 3)) for n in LENGTHS]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, -1, 2, 0, 0, -1, 1],
        np.array([0, 1, NAN, 2, 0, 0, NAN, 1]),
        torch.tensor([0, 1, -1, 2, 0, 0, -1, 1]),
        [[0, 1, NAN], [2], [0, 0, -1, 1]],
        [np.array([0, 1, -1]), np.array([2]), np.array([0, 0, -1, 1])],
        pd.Series([0, 1, None, 2, 0, 0, None, 1]),
    ],
    ids=["list", "array with NaN", "tensor", "nested lists", "list of arrays", "series"],
)
def test_labels_in_every_form(labels):
    data = Sequences.from_any(PARTS, labels=labels)
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0, 1, -1, 2, 0, 0, -1, 1]
    assert data.batch().labels.tolist() == [[0, 1, -1, -1], [2, -1, -1, -1], [0, 0, -1, 1]]


def test_inputs_follow_their_frames():
    data = Sequences.from_any(PARTS, inputs=PARTS_OF_INPUTS)
    assert torch.equal(data.inputs, torch.tensor(np.concatenate(PARTS_OF_INPUTS)))
    batch = data.batch()
    for b, part in enumerate(PARTS_OF_INPUTS):
        assert torch.equal(batch.inputs[b, : len(part)], torch.tensor(part))
        assert (batch.inputs[b, len(part) :] == 0).all()


def full() -> Sequences:
    """Seven sequences with everything a sequence can carry, and a hole."""
    lengths = [5, 1, 3, 8, 1, 2, 8]
    x = torch.arange(56.0).reshape(28, 2).numpy().astype(float)
    x[4, 1] = NAN
    labels = np.arange(28) % 4 - 1
    inputs = np.arange(28.0)[:, None]
    return Sequences.from_any(x, lengths, labels=labels, inputs=inputs, weights=np.arange(1, 8))


def frames_of(batch: Batch) -> list[list[list[float]]]:
    return [x[:n].tolist() for x, n in zip(batch.x, batch.lengths, strict=True)]


@pytest.mark.parametrize("max_frames", [1, 7, 16, 10**6])
def test_batches_hold_every_sequence_once(max_frames):
    data = full()
    seen = []
    for batch in data.batches(max_frames):
        assert batch.x.shape[1] == batch.lengths.max(), "padded further than its longest"
        assert batch.x.shape[:2].numel() <= max_frames or len(batch.x) == 1
        assert_rows_agree(data, batch)
        seen += batch.which.tolist()
    assert sorted(seen) == list(range(7))


def assert_rows_agree(data: Sequences, batch: Batch) -> None:
    for row, b in enumerate(batch.which.tolist()):
        start, n = int(data.starts[b]), int(data.lengths[b])
        assert batch.lengths[row] == n
        assert batch.weights[row] == data.weights[b]
        for name, beyond in [("x", 0), ("observed", False), ("labels", -1), ("inputs", 0)]:
            values = getattr(batch, name)[row]
            assert torch.equal(values[:n], getattr(data, name)[start : start + n]), (b, name)
            assert (values[n:] == beyond).all(), (b, name)
        assert batch.mask[row].tolist() == [True] * n + [False] * (batch.x.shape[1] - n)


def test_shuffled_batches_hold_every_sequence_once_in_the_seeds_order():
    data = full()
    orders = []
    for seed in (0, 0, 1):
        batches = list(data.shuffled(3, torch.Generator().manual_seed(seed)))
        assert [len(b.x) for b in batches] == [3, 3, 1]
        for batch in batches:
            assert_rows_agree(data, batch)
        orders.append(torch.cat([b.which for b in batches]).tolist())
        assert sorted(orders[-1]) == list(range(7))
    assert orders[0] == orders[1] != orders[2]


def test_unbatch_undoes_batch():
    data = full()
    x, labels = torch.full_like(data.x, -1), torch.full_like(data.labels, 99)
    for batch in data.batches(9):
        data.unbatch(batch, batch.x, x)
        data.unbatch(batch, batch.labels, labels)
    assert torch.equal(x, data.x)
    assert torch.equal(labels, data.labels)


def test_subset_is_the_named_sequences_in_the_order_asked():
    data = full()
    index = [6, 1, 3]
    part = data.subset(index)
    wanted, got = data.batch(torch.tensor(index)), part.batch()
    for name in ("x", "observed", "lengths", "weights", "labels", "inputs"):
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name
    assert len(part) == 3
    assert got.which.tolist() == [0, 1, 2]


def test_frames_are_sequences_of_one_step():
    data = full()
    frames = data.frames()
    assert len(frames) == frames.n_frames == 28
    for name in ("x", "observed", "labels", "inputs"):
        assert torch.equal(getattr(frames, name), getattr(data, name)), name
    # a frame weighs what its sequence weighed
    by_sequence = [1] * 5 + [2] + [3] * 3 + [4] * 8 + [5] + [6] * 2 + [7] * 8
    assert frames.weights.tolist() == by_sequence
    assert frames.batch().x.shape == (28, 1, 2)


def test_the_caller_s_data_are_not_touched():
    x = FLAT.copy()
    data = Sequences.from_any(x, LENGTHS)
    data.x.add_(1)
    assert np.array_equal(x, FLAT, equal_nan=True)


# Refusals: each names the argument and the offending value

INFINITE = FLAT.copy()
INFINITE[5, 1] = np.inf

REFUSED = {
    "one-dimensional X": (dict(X=np.zeros(5)), ["X", "(5,)", "reshape(-1, 1)"]),
    "no sequences": (dict(X=[]), ["X", "(0,)"]),
    "no rows": (dict(X=np.zeros((0, 2))), ["lengths=[0]", "at least one frame"]),
    "an empty sequence": (
        dict(X=[np.zeros((2, 1)), np.zeros((0, 1))]),
        ["lengths=[2, 0]", "at least one frame"],
    ),
    "ragged rows": (dict(X=[[1.0, 2.0], [3.0]]), ["X", "regular shape"]),
    "text": (dict(X="data.csv"), ["X", "numbers"]),
    "an infinite value": (dict(X=INFINITE), ["X", "infinite", "row 5", "NaN"]),
    "frames of two shapes": (
        dict(X=[np.zeros((2, 1)), np.zeros((2, 3))]),
        ["X", "(1,)", "(3,)"],
    ),
    "lengths of the wrong sum": (dict(X=FLAT, lengths=[3, 4]), ["lengths", "7", "8 rows"]),
    "a length of zero": (dict(X=FLAT, lengths=[8, 0]), ["lengths=[8, 0]"]),
    "a negative length": (dict(X=FLAT, lengths=[9, -1]), ["lengths=[9, -1]"]),
    "half a frame": (dict(X=FLAT, lengths=[3.5, 4.5]), ["lengths", "3.5", "whole numbers"]),
    "a NaN length": (dict(X=FLAT, lengths=[8, NAN]), ["lengths", "nan", "whole numbers"]),
    "lengths in a table": (dict(X=FLAT, lengths=[[3, 5]]), ["lengths=[[3, 5]]"]),
    "lengths beyond the block": (dict(X=BLOCK, lengths=[3, 1, 5]), ["lengths=[3, 1, 5]", "(3, 4, 2)"]),
    "too few lengths for the block": (dict(X=BLOCK, lengths=[3, 1]), ["lengths=[3, 1]", "3 lengths"]),
    "lengths of a list": (dict(X=PARTS, lengths=LENGTHS), ["lengths", "list"]),
    "a column of an array": (dict(X=FLAT, sequence="who"), ["sequence='who'", "DataFrame"]),
    "an unknown column": (dict(X=frame(), sequence="who"), ["sequence='who'", "p", "q"]),
    "a text column": (dict(X=frame(kind=list("abababab"))), ["kind", "not numeric"]),
    "sequences torn apart": (
        dict(X=frame(who=[1, 1, 2, 2, 1, 1, 3, 3]), sequence="who"),
        ["stand together", "sort X"],
    ),
    "two keys": (
        dict(X=frame(who=[1] * 8), sequence="who", lengths=[8]),
        ["lengths", "DataFrame"],
    ),
    "too few weights": (dict(X=PARTS, weights=[1.0, 2.0]), ["weights", "(2,)", "3"]),
    "a negative weight": (dict(X=PARTS, weights=[1.0, -2.0, 1.0]), ["weights", "non-negative"]),
    "a NaN weight": (dict(X=PARTS, weights=[1.0, NAN, 1.0]), ["weights", "non-negative"]),
    "nothing but zero weights": (dict(X=PARTS, weights=[0, 0, 0]), ["weights", "not all zero"]),
    "too few labels": (dict(X=PARTS, labels=[0, 1]), ["labels", "8", "2"]),
    "half a label": (dict(X=PARTS, labels=[0.5] * 8), ["labels", "whole numbers"]),
    "a label below -1": (dict(X=PARTS, labels=[-2] * 8), ["labels", "−1"]),
    "too few inputs": (dict(X=FLAT, inputs=np.zeros((7, 1))), ["inputs", "7", "8"]),
    "missing inputs": (dict(X=FLAT, inputs=np.full((8, 1), NAN)), ["inputs", "NaN"]),
    "infinite inputs": (dict(X=FLAT, inputs=np.full((8, 1), np.inf)), ["inputs", "infinite"]),
    # unrefused, the next three would misalign or poison the data without a word
    "labels cut at other places than X": (
        dict(X=PARTS, labels=[[0] * 4, [1], [0] * 3]),
        ["labels"],
    ),
    "inputs cut at other places than X": (
        dict(X=PARTS, inputs=[np.zeros((4, 1)), np.zeros((1, 1)), np.zeros((3, 1))]),
        ["inputs"],
    ),
    "an infinite weight": (dict(X=PARTS, weights=[1.0, np.inf, 1.0]), ["weights"]),
    "lengths that are words": (dict(X=FLAT, lengths="three"), ["lengths", "three"]),
    "weights that are words": (dict(X=PARTS, weights=["a", "b", "c"]), ["weights"]),
    "labels that are words": (dict(X=PARTS, labels=list("abcabcab")), ["labels"]),
    "an infinite label": (dict(X=PARTS, labels=[np.inf] * 8), ["labels", "whole numbers"]),
    "inputs in one dimension": (dict(X=FLAT, inputs=np.zeros(8)), ["inputs", "(8,)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_argument_and_the_value(case):
    arguments, words = REFUSED[case]
    with pytest.raises(ValueError) as error:
        Sequences.from_any(**arguments)
    for word in words:
        assert word in str(error.value), f"{word!r} not in {str(error.value)!r}"


def test_inputs_of_a_frame_with_a_sequence_column_may_be_an_array():
    data = Sequences.from_any(frame(who=list("xxxyzzzz")), sequence="who", inputs=np.arange(8.0)[:, None])
    assert data.inputs.flatten().tolist() == list(range(8))
