"""Pictures of what a model found: every function takes plain arrays and returns a matplotlib Figure.

Nothing here knows a model, and no picture touches pyplot or any other state of the process: a Figure is
drawn by its own canvas when `png_base64` or `save` asks for it.  State k has the same colour in every picture,
from a palette that colour-blind readers can tell apart.

Source of the palette: Okabe and Ito (2008), Color Universal Design.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dbn_vae.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

# Okabe and Ito's, without yellow and black: a yellow line vanishes on white, and black is text.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
SHADE = "#9A9A9A"
DPI = 144


def state_colour(k: int) -> tuple[float, float, float]:
    """The colour of state k; beyond the palette the colours come round again, darker each time."""
    from matplotlib.colors import to_rgb

    turn, which = divmod(k, len(PALETTE))
    red, green, blue = (channel * 0.6**turn for channel in to_rgb(PALETTE[which]))
    return red, green, blue


def series_by_state(dates: Any, values: Any, states: Any, *, ylabel: str, held_out: Any = None) -> "Figure":
    """A series x_t over time, coloured by its decoded state; the steps where held_out is True are shaded."""
    t, x, s = time_axis(dates), np.asarray(values, dtype=np.float64), np.asarray(states)
    require_shape("values", x, (len(t),))
    require_shape("states", s, (len(t),))
    figure, axes = canvas(9.0, 3.6)
    axes.plot(t, x, color="#C8C8C8", linewidth=0.8, zorder=1, label="_series")
    for k in np.unique(s):
        axes.plot(
            t,
            np.where(s == k, x, np.nan),
            color=state_colour(int(k)),
            linewidth=1.2,
            marker="o",
            markersize=float(np.clip(400 / len(t), 1.2, 5.0)),
            zorder=2,
            label=f"state {k}",
        )
    shade(axes, t, held_out)
    label_time(axes, t)
    axes.margins(x=0.005)
    axes.set_ylabel(ylabel)
    legend_beside(axes)
    return figure


def gammas(dates: Any, gamma: Any) -> "Figure":
    """p(s_t = k | x_{1:T}), (T, K), stacked over time."""
    t, g = time_axis(dates), np.asarray(gamma, dtype=np.float64)
    require_shape("gamma", g, (len(t), None))
    figure, axes = canvas(9.0, 2.8)
    K = g.shape[1]
    axes.stackplot(
        t,
        g.T,
        colors=[state_colour(k) for k in range(K)],
        labels=[f"state {k}" for k in range(K)],
        linewidth=0,
    )
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    label_time(axes, t)
    axes.set_ylabel("p(state | all data)")
    legend_beside(axes)
    return figure


def transition_matrix(A: Any, labels: Sequence[str] | None = None) -> "Figure":
    """A heat map of A (K, K), rows to columns, with its numbers."""
    a = np.asarray(A, dtype=np.float64)
    require_shape("A", a, (len(a), len(a)))
    names = [f"{k}" for k in range(len(a))] if labels is None else list(labels)
    require_shape("labels", np.asarray(names), (len(a),))
    side = float(np.clip(1.6 + 0.55 * len(a), 3.0, 9.0))
    figure, axes = canvas(side + 1.0, side)
    image = axes.imshow(a, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*a.shape):
        ink = "white" if a[i, j] > 0.55 else "black"
        axes.text(j, i, short_probability(float(a[i, j])), ha="center", va="center", color=ink, fontsize=8)
    long = max(map(len, names)) > 3
    axes.set_xticks(range(len(a)), names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(a)), names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("to state at t")
    axes.set_ylabel("from state at t − 1")
    figure.colorbar(image, ax=axes, label="transition probability", fraction=0.046, pad=0.04)
    return figure


def learning_curves(curves: Mapping[str, Sequence[float]], *, ylabel: str, xlabel: str = "epoch") -> "Figure":
    """One line a curve, its first value at 1.

    "KL, train" and "KL, test" share a colour: what stands before the comma chooses it, and what stands after
    the comma chooses the dashes.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas(7.0, 4.2)
    parts = [name.partition(", ") for name in curves]
    quantities = list(dict.fromkeys(quantity for quantity, _, _ in parts))
    variants = list(dict.fromkeys(variant for _, _, variant in parts))
    dashes: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
    for (quantity, _, variant), (name, y) in zip(parts, curves.items(), strict=True):
        axes.plot(
            np.arange(1, len(y) + 1),
            np.asarray(y, dtype=np.float64),
            color=state_colour(quantities.index(quantity)),
            linestyle=dashes[variants.index(variant) % len(dashes)],
            marker="o" if len(y) < 3 else None,
            markersize=4,
            label=name,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if curves:
        legend_beside(axes)
    return figure


def held_out_table(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    kinds: Sequence[str],
    *,
    xlabel: str = "held-out log-likelihood (nats per step), ± 1 standard error",
) -> "Figure":
    """One row a model: its held-out number, its error, and by the marker what kind of number it is.

    A kind starts with "exact", "importance bound" or "ELBO", as evaluation's Score says it.  A bound's marker
    points to where the truth lies: to the right.
    """
    markers = {
        "exact": ("exact log p(x)", "o", PALETTE[0], PALETTE[0]),
        "importance bound": ("importance bound, at most log p(x)", ">", PALETTE[2], PALETTE[2]),
        "ELBO": ("ELBO, at most log p(x)", ">", PALETTE[5], "white"),
    }
    sort = [kind_of(kind, markers) for kind in kinds]
    figure, axes = canvas(8.0, 1.4 + 0.36 * len(names))
    for key in [key for key in markers if key in sort]:
        label, marker, colour, face = markers[key]
        rows = [i for i, k in enumerate(sort) if k == key]
        axes.errorbar(
            [values[i] for i in rows],
            rows,
            xerr=[errors[i] for i in rows],
            fmt=marker,
            color=colour,
            markerfacecolor=face,
            markersize=7,
            capsize=3,
            linewidth=1.2,
            label=label,
        )
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.set_ylabel("model")
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=3)
    return figure


def criteria(
    states: Any, curves: Mapping[str, Any], *, chosen: int, ylabel: str, errors: Any = None
) -> "Figure":
    """One line a criterion over numbers of states (n,), its error bars (n,) if given, and the chosen number."""
    from matplotlib.ticker import MaxNLocator

    k = np.asarray(states)
    figure, axes = canvas(6.0, 3.6)
    axes.axvline(chosen, color=SHADE, linewidth=1, linestyle=(0, (4, 2)), label=f"chosen: {chosen}")
    for i, (name, values) in enumerate(curves.items()):
        y = np.asarray(values, dtype=np.float64)
        require_shape(name, y, (len(k),))
        axes.errorbar(k, y, yerr=errors, color=state_colour(i), marker="o", capsize=3, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.set_xlabel("states")
    axes.set_ylabel(ylabel)
    legend_beside(axes)
    return figure


def png_base64(figure: "Figure") -> str:
    """The picture as PNG in base64, to stand inside an HTML page."""
    return base64.b64encode(rendered(figure, "png")).decode("ascii")


def save(figure: "Figure", path: Path | str) -> None:
    """Write the picture, whole or not at all, in the format its suffix names: .png, .svg or .pdf."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"path={str(path)!r} ends in no known picture format; use .png, .svg or .pdf")
    write_bytes(path, rendered(figure, kind))


def rendered(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()


def canvas(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def time_axis(dates: Any) -> Array:
    """Numbers as they are; dates, Timestamps and ISO texts in microseconds, so that half a day exists."""
    t = np.asarray(dates)
    return t.astype("datetime64[us]") if t.dtype.kind in "MOU" else t


def label_time(axes: "Axes", t: Array) -> None:
    if not np.issubdtype(t.dtype, np.datetime64):
        axes.set_xlabel("time step")
        return
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("date")


def shade(axes: "Axes", t: Array, held_out: Any) -> None:
    """Grey over each stretch of steps held out, to halfway to its neighbours."""
    if held_out is None:
        return
    out = np.asarray(held_out, dtype=bool)
    require_shape("held_out", out, (len(t),))
    change = np.flatnonzero(np.diff(np.concatenate([[False], out, [False]]).astype(int)))
    for i, (first, end) in enumerate(change.reshape(-1, 2)):
        left, right = between(t, first - 1, first), between(t, end - 1, end)
        label = "held out" if i == 0 else "_held out"
        axes.axvspan(left, right, color=SHADE, alpha=0.22, linewidth=0, zorder=0, label=label)


def between(t: Array, i: int, j: int) -> Any:
    """Halfway from step i to step j, or the end of the series."""
    i, j = max(i, 0), min(j, len(t) - 1)
    return t[i] + (t[j] - t[i]) / 2


def legend_beside(axes: "Axes") -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def short_probability(p: float) -> str:
    """Two decimals, and no false certainty: 0 and 1 only where they are exact."""
    if 0 < p < 0.005:
        return "<.01"
    if 0.995 <= p < 1:
        return ">.99"
    return f"{p:.2f}"


def kind_of(kind: str, known: dict[str, Any]) -> str:
    for start in known:
        if kind.lower().startswith(start.lower()):
            return start
    raise ValueError(f"kinds holds {kind!r}; a kind starts with one of {', '.join(known)}")


def require_shape(name: str, array: Array, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        wanted is None or wanted == found for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {array.shape}; it must be ({wanted})")
