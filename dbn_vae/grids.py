"""Many small pictures on one canvas: samples of a model, its reconstructions, what it decodes along a plane.

Plain arrays in, a matplotlib Figure out, as in plotting.py.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dbn_vae.plotting import Array, canvas, require_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def image_grid(images: Any, *, columns: int, titles: Sequence[str] | None = None) -> "Figure":
    """Pictures (n, H, W) row by row, all on one grey scale."""
    pictures = check_images("images", images)
    n, _, W = pictures.shape
    if titles is not None:
        require_shape("titles", np.asarray(titles), (n,))
    gap = spacing(W)
    whole, corners = mosaic(pictures, columns, gap, gap if titles is None else gap + round(0.35 * W))
    figure, axes = picture_canvas(whole, pictures, columns)
    for (top, left), title in zip(corners, titles or (), strict=titles is not None):
        axes.text(left + W / 2 - 0.5, top - 0.05 * W - 0.5, title, ha="center", va="bottom", fontsize=8)
    return figure


def reconstruction_grid(originals: Any, reconstructions: Any, *, columns: int = 10) -> "Figure":
    """Rows of originals (n, H, W), each above the row of their reconstructions."""
    above, below = check_images("originals", originals), check_images("reconstructions", reconstructions)
    require_shape("reconstructions", below, above.shape)
    n, H, W = above.shape
    columns = min(columns, n)
    gap = spacing(W)
    pairs = np.concatenate([above, np.full((n, gap, W), np.nan), below], 1)
    whole, corners = mosaic(pairs, columns, gap, 3 * gap)
    figure, axes = picture_canvas(whole, pairs, columns)
    tops = np.asarray([top for top, left in corners if left == 0])
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks(
        np.stack([tops, tops + H + gap], 1).reshape(-1) + (H - 1) / 2,
        ["original", "reconstruction"] * len(tops),
        fontsize=9,
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def manifold_grid(decode: Callable[[Array], Any], n: int = 20) -> "Figure":
    """What decode, (n², 2) to (n², H, W), shows along a plane of latents, z₁ to the right and z₂ upwards.

    The plane is the inverse normal distribution function of a regular grid of the unit square, so that equal
    areas of the picture hold equal probability under N(0, I) (Kingma and Welling 2014, fig. 4).
    """
    from scipy.special import ndtri

    z = ndtri((np.arange(n) + 0.5) / n)
    plane = np.stack(np.meshgrid(z, z[::-1]), -1).reshape(-1, 2)
    pictures = check_images("decode(z)", decode(plane))
    H, W = pictures.shape[1:]
    figure, axes = picture_canvas(mosaic(pictures, n, 0, 0)[0], pictures, n)
    every = np.unique(np.linspace(0, n - 1, 6).round().astype(int))
    axes.set_axis_on()
    axes.set_xticks(every * W + (W - 1) / 2, [f"{v:.2f}".replace("-", "−") for v in z[every]])
    axes.set_yticks((n - 1 - every) * H + (H - 1) / 2, [f"{v:.2f}".replace("-", "−") for v in z[every]])
    axes.set_xlabel("z₁ (prior standard deviations)")
    axes.set_ylabel("z₂ (prior standard deviations)")
    figure.set_size_inches(7.0, 7.0 * H / W)
    return figure


def mosaic(pictures: Array, columns: int, gap: int, row_gap: int) -> tuple[Array, list[tuple[int, int]]]:
    """All pictures in one image, NaN between them, and each one's top left corner.

    One image rather than a subplot a picture: a hundred subplots take seconds.
    """
    if columns < 1:
        raise ValueError(f"columns={columns} must be at least 1")
    n, H, W = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    whole = np.full((rows * (H + row_gap) - row_gap, columns * (W + gap) - gap), np.nan)
    corners = [(i // columns * (H + row_gap), i % columns * (W + gap)) for i in range(n)]
    for (top, left), picture in zip(corners, pictures, strict=True):
        whole[top : top + H, left : left + W] = picture
    return whole, corners


def picture_canvas(whole: Array, pictures: Array, columns: int) -> tuple["Figure", "Axes"]:
    """One grey scale, 0 to 1 unless the values reach further."""
    width = float(np.clip(0.75 * columns, 2.0, 9.0))
    figure, axes = canvas(width, width * whole.shape[0] / whole.shape[1])
    low, high = min(0.0, float(np.nanmin(pictures))), max(1.0, float(np.nanmax(pictures)))
    axes.imshow(whole, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_axis_off()
    return figure, axes


def spacing(width: int) -> int:
    return max(1, round(width / 14))


def check_images(name: str, images: Any) -> Array:
    pictures = np.asarray(images, dtype=np.float64)
    require_shape(name, pictures, (None, None, None))
    if pictures.size == 0:
        raise ValueError(f"{name} of shape {pictures.shape} holds no picture")
    return pictures
