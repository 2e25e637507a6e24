"""Pictures: what is drawn is what was given, every axis is labelled, and files appear whole or not at all."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import norm

from dbn_vae import grids, plotting

RNG = np.random.default_rng(0)
T, K = 40, 3
VALUES = RNG.normal(size=T)
STATES = np.repeat([2, 0, 1, 0], 10)
GAMMA = RNG.dirichlet(np.ones(K), T)
DATES = np.arange("2004-08-19", "2004-09-28", dtype="datetime64[D]")
PICTURES = RNG.random((7, 5, 4))

FIGURES: dict[str, Any] = {
    "series_by_state": lambda: plotting.series_by_state(DATES, VALUES, STATES, ylabel="return (%)"),
    "gammas": lambda: plotting.gammas(np.arange(T), GAMMA),
    "transition_matrix": lambda: plotting.transition_matrix(GAMMA[:K]),
    "learning_curves": lambda: plotting.learning_curves({"KL": [3.0, 2.0]}, ylabel="nats per image"),
    "manifold_grid": lambda: grids.manifold_grid(lambda z: np.zeros((len(z), 2, 2)), n=3),
    "held_out_table": lambda: plotting.held_out_table(["a"], [1.0], [0.1], ["exact"]),
}


def drawn_lines(figure: Figure, label: str) -> list[np.ndarray]:
    lines = [line for line in figure.axes[0].get_lines() if line.get_label() == label]
    return [np.asarray(line.get_ydata(), dtype=float) for line in lines]


def picture(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].get_images()[0].get_array().filled(np.nan))


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_is_labelled_and_the_figure_renders(name: str) -> None:
    figure = FIGURES[name]()
    axes = figure.axes[0]
    assert axes.get_xlabel(), name
    assert axes.get_ylabel(), name
    png = base64.b64decode(plotting.png_base64(figure))
    assert Image.open(io.BytesIO(png)).size[0] > 200


def test_no_figure_is_left_with_pyplot() -> None:
    import matplotlib.pyplot as plt

    FIGURES["gammas"]()
    assert plt.get_fignums() == []


def test_a_series_is_drawn_whole_and_once_more_by_state() -> None:
    figure = plotting.series_by_state(np.arange(T), VALUES, STATES, ylabel="x (V)")
    (whole,) = drawn_lines(figure, "_series")
    np.testing.assert_array_equal(whole, VALUES)
    for k in range(K):
        (line,) = drawn_lines(figure, f"state {k}")
        np.testing.assert_array_equal(line, np.where(k == STATES, VALUES, np.nan))


def test_a_state_keeps_its_colour_when_another_is_absent() -> None:
    figure = plotting.series_by_state(np.arange(T), VALUES, np.full(T, 2), ylabel="x")
    line = next(x for x in figure.axes[0].get_lines() if x.get_label() == "state 2")
    assert line.get_color() == plotting.state_colour(2)
    assert len({plotting.state_colour(k) for k in range(20)}) == 20


def test_each_stretch_held_out_is_shaded_to_halfway() -> None:
    held_out = np.isin(np.arange(T), [0, 1, 2, 20, 39])
    figure = plotting.series_by_state(np.arange(T), VALUES, STATES, ylabel="x", held_out=held_out)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in figure.axes[0].patches]
    assert spans == [(0, 2.5), (19.5, 20.5), (38.5, 39)]


def test_dates_stand_on_the_axis_as_dates() -> None:
    held_out = np.arange(T) >= 30
    figure = plotting.series_by_state(DATES, VALUES, STATES, ylabel="x", held_out=held_out)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "date"
    assert axes.patches[0].get_x() == pytest.approx(mdates.date2num(DATES[29]) + 0.5)


def test_gamma_is_stacked_to_one() -> None:
    figure = plotting.gammas(np.arange(T), GAMMA)
    areas = figure.axes[0].collections
    assert len(areas) == K
    top = areas[-1].get_paths()[0].vertices[:, 1]
    assert top.max() == pytest.approx(1)


def test_the_matrix_shows_its_numbers_without_false_certainty() -> None:
    A = np.array([[0.999, 0.001], [0.25, 0.75]])
    figure = plotting.transition_matrix(A, ["calm", "wild"])
    axes = figure.axes[0]
    np.testing.assert_array_equal(picture(figure), A)
    assert [text.get_text() for text in axes.texts] == [">.99", "<.01", "0.25", "0.75"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["calm", "wild"]


def test_learning_curves_pair_train_with_test() -> None:
    curves = {"KL, train": [1.0, 2.0, 3.0], "KL, test": [2.0, 3.0, 4.0], "total, train": [9.0, 8.0, 7.0]}
    figure = plotting.learning_curves(curves, ylabel="nats", xlabel="epoch")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    for name, values in curves.items():
        np.testing.assert_array_equal(lines[name].get_xydata(), np.stack([[1, 2, 3], values], 1))
    assert lines["KL, train"].get_color() == lines["KL, test"].get_color()
    assert lines["KL, train"].get_linestyle() != lines["KL, test"].get_linestyle()
    assert lines["KL, train"].get_color() != lines["total, train"].get_color()


def test_an_image_grid_holds_every_picture_in_reading_order() -> None:
    figure = grids.image_grid(PICTURES, columns=3, titles=[f"no. {i}" for i in range(7)])
    whole = picture(figure)
    assert np.isfinite(whole).sum() == PICTURES.size
    np.testing.assert_array_equal(whole[:5, 5:9], PICTURES[1])
    np.testing.assert_array_equal(whole[-5:, :4], PICTURES[6])
    assert [text.get_text() for text in figure.axes[0].texts] == [f"no. {i}" for i in range(7)]


def test_originals_stand_above_their_reconstructions() -> None:
    figure = grids.reconstruction_grid(PICTURES, 1 - PICTURES, columns=4)
    whole, gap = picture(figure), 1
    for i, left in enumerate(range(0, 20, 5)):
        np.testing.assert_array_equal(whole[:5, left : left + 4], PICTURES[i])
        np.testing.assert_array_equal(whole[5 + gap : 10 + gap, left : left + 4], 1 - PICTURES[i])
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["original", "reconstruction"] * 2


def test_the_manifold_is_the_normal_quantiles_of_a_regular_grid() -> None:
    seen: list[np.ndarray] = []

    def decode(z: np.ndarray) -> np.ndarray:
        seen.append(z)
        return np.broadcast_to(norm.cdf(z[:, 0])[:, None, None], (len(z), 1, 1))

    figure = grids.manifold_grid(decode, n=4)
    np.testing.assert_allclose(picture(figure), np.tile([0.125, 0.375, 0.625, 0.875], (4, 1)))
    z = seen[0].reshape(4, 4, 2)
    assert (np.diff(z[:, 0, 1]) < 0).all(), "z₂ must rise upwards"


def test_bounds_are_told_apart_from_exact_numbers() -> None:
    kinds = ["exact", "ELBO", "importance bound, S = 100", "ELBO"]
    figure = plotting.held_out_table(list("abcd"), [1, 2, 3, 4], [0.1] * 4, kinds)
    axes = figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "exact log p(x)",
        "importance bound, at most log p(x)",
        "ELBO, at most log p(x)",
    ]
    points = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert points["ELBO, at most log p(x)"] == [[2, 1], [4, 3]]
    styles = {(c.lines[0].get_marker(), c.lines[0].get_markerfacecolor()) for c in axes.containers}
    assert len(styles) == 3
    with pytest.raises(ValueError, match="kinds holds 'bic'"):
        plotting.held_out_table(["a"], [1], [0], ["bic"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plotting.series_by_state(range(3), [1, 2], [0, 0, 0], ylabel=""),
            r"values has shape \(2,\)",
        ),
        (lambda: plotting.gammas(range(3), [0.5, 0.5, 0.0]), "gamma has shape"),
        (lambda: plotting.transition_matrix(np.eye(3)[:2]), "A has shape"),
        (lambda: grids.image_grid(np.eye(3), columns=2), "images has shape"),
        (lambda: grids.image_grid(PICTURES, columns=0), "columns=0"),
        (lambda: grids.reconstruction_grid(PICTURES, PICTURES[:3]), "reconstructions has shape"),
    ],
)
def test_errors_name_the_argument_and_its_shape(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "gamma.png"
    plotting.save(FIGURES["gammas"](), path)
    before = path.read_bytes()
    with Image.open(path) as image:
        assert image.format == "PNG"

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plotting.save(FIGURES["transition_matrix"](), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["gamma.png"]
    with pytest.raises(ValueError, match="no known picture format"):
        plotting.save(FIGURES["gammas"](), tmp_path / "picture.xyz")
