"""Sheets of augmented samples, to be judged by eye before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.report.figures import save_png, styled_figure
from unetcli.report.pictures import ADDED, GRAY, INK, OUTLINE, to_gray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect

MAX_SAMPLES = 12
GRID_LINES = 8
"""Squares of the drawn grid along the longer side of an image."""
CROWDED = 0.35
"""Edges between labels, per pixel, from which on outlines would hide the image."""
PANEL_INCHES = 2.3
GRID_POINTS, EDGE_POINTS = 0.7, 1.6
"""Widths of the lines of the grid, and of the edge of the original."""
LEGEND = "blue: lines that are straight on the original, thick at its edge; yellow: labels"


@dataclass(frozen=True, eq=False)
class SheetSample:
    """One augmented sample on a picture sheet.

    Parameters
    ----------
    name
        Written above it.
    image : (y, x) or (c, y, x) int or float
        Three channels are shown as red, green and blue, any other number as gray.
    labels : (y, x) int
        Object ids or classes, 0 = background; outlined.
    weights : (y, x) float, optional
        Weight map.
    grid : (2, gy, gx) float, optional
        Where the sample came from: source position (y, x) in pixels of the original, at nodes evenly spaced
        from the first to the last pixel of the image. The finer, the smoother the lines drawn.
    original : (y, x) or (c, y, x) int or float, optional
        The image before it was deformed.
    details
        Lines that say how it was made, below its name.
    """

    name: str
    image: NDArray[Any]
    labels: NDArray[Any]
    weights: NDArray[Any] | None = None
    grid: NDArray[np.floating[Any]] | None = None
    original: NDArray[Any] | None = None
    details: tuple[str, ...] = ()


def draw_sheet(samples: Sequence[SheetSample], path: Path) -> None:
    """Draw augmented samples one below the other as a PNG, to be judged by eye before training.

    Parameters
    ----------
    samples
        Up to 12. A column is drawn if any sample has what it shows: the original under a regular grid, the
        sample under the same grid deformed with it, the outlines of its labels, and its weight map.
    path
        The PNG.

    Raises
    ------
    InputError
        There is no sample, or more than 12.
    """
    if not 1 <= len(samples) <= MAX_SAMPLES:
        raise InputError(f"{path}: {len(samples)} samples to draw; expected 1 to {MAX_SAMPLES}")
    columns = _sheet_columns(samples)
    n_lines = 1 + max(len(sample.details) for sample in samples)
    abreast = 1 if n_lines > 1 else min(len(samples), max(1, 4 // len(columns)))
    n_rows = math.ceil(len(samples) / abreast)
    y, x = samples[0].labels.shape
    above = 0.17 * n_lines + 0.3
    panel_inches = PANEL_INCHES * min(2.0, max(0.5, y / x))
    size = (
        (PANEL_INCHES + 0.1) * len(columns) * abreast + 0.1,
        (panel_inches + above) * n_rows + (0.75 if "weight map" in columns else 0.3),
    )
    with styled_figure(size, layout="compressed") as figure:
        axes = figure.subplots(n_rows, abreast * len(columns), squeeze=False)
        for panel_axes in axes.flat:
            panel_axes.set_axis_off()
        for k, sample in enumerate(samples):
            row, first = k // abreast, k % abreast * len(columns)
            for axis, (title, draw) in zip(axes[row, first:], columns.items(), strict=False):
                draw(axis, sample)
                axis.set_title("\n" * (n_lines + 1) + title, fontsize=7.5, fontweight="normal", color=GRAY, pad=3)
            _write_caption(axes[row, first], sample)
        if "weight map" in columns:
            shown = axes[:, list(columns).index("weight map") :: len(columns)]
            _add_colour_bar(figure, axes, shown, 1 / (len(columns) * abreast))
        if any(sample.grid is not None for sample in samples):
            figure.supxlabel(LEGEND, x=0.01, ha="left", fontsize=7.5, color=GRAY)
        save_png(figure, path)


def _sheet_columns(samples: Sequence[SheetSample]) -> dict[str, Callable[[Axes, SheetSample], None]]:
    """Choose the columns of a sheet."""
    weights = [sample.weights for sample in samples if sample.weights is not None]
    low = min((float(w.min()) for w in weights), default=0.0)
    high = max((float(w.max()) for w in weights), default=1.0)

    def draw_weights(axis: Axes, sample: SheetSample) -> None:
        if sample.weights is not None:
            axis.imshow(sample.weights, cmap="viridis", vmin=low, vmax=high)

    columns: dict[str, Callable[[Axes, SheetSample], None]] = {}
    if any(sample.original is not None for sample in samples):
        columns["original"] = _draw_original
    if any(sample.grid is not None for sample in samples):
        columns["sample, grid deformed with it"] = _draw_grid
    columns["sample, labels"] = _draw_truth
    if weights:
        columns["weight map"] = draw_weights
    return columns


def _draw_image(axis: Axes, image: NDArray[Any], like: NDArray[Any] | None) -> None:
    """Draw an image, with the stretch of another."""
    if image.ndim == 3 and len(image) == 3:
        flat = None if like is None else like.reshape(-1, like.shape[-1])
        colours = to_gray(image.reshape(-1, image.shape[-1]), like=flat).reshape(image.shape)
        axis.imshow(np.moveaxis(colours, 0, -1))
    else:
        axis.imshow(to_gray(image, like=like), cmap="gray", vmin=0, vmax=255)


def _grid_positions(image: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y and x of the lines of a grid that is square and regular on an original image."""
    y, x = image.shape[-2:]
    spacing = max(y, x) / GRID_LINES
    return np.arange(spacing, y - 1, spacing) - 0.5, np.arange(spacing, x - 1, spacing) - 0.5


def _draw_original(axis: Axes, sample: SheetSample) -> None:
    """Draw the original under the regular grid."""
    if sample.original is None:
        return
    _draw_image(axis, sample.original, None)
    if sample.grid is not None:
        y, x = sample.original.shape[-2:]
        line_ys, line_xs = _grid_positions(sample.original)
        axis.hlines(line_ys, -0.5, x - 0.5, colors=ADDED, linewidth=GRID_POINTS, path_effects=_shadow(GRID_POINTS))
        axis.vlines(line_xs, -0.5, y - 0.5, colors=ADDED, linewidth=GRID_POINTS, path_effects=_shadow(GRID_POINTS))
        axis.plot(
            [-0.5, x - 0.5, x - 0.5, -0.5, -0.5], [-0.5, -0.5, y - 0.5, y - 0.5, -0.5], ADDED, linewidth=EDGE_POINTS
        )


def _draw_grid(axis: Axes, sample: SheetSample) -> None:
    """Draw the deformed image under the grid, deformed with it.

    A line that was straight on the original, such as source y = 32, is now the contour along which the source
    position is 32. Beyond the edge of the original there is none.
    """
    if sample.grid is None:
        return
    _draw_image(axis, sample.image, sample.original)
    if min(sample.grid.shape) < 2:  # one line of pixels has no contours
        return
    y, x = sample.image.shape[-2:]
    node_ys, node_xs = np.linspace(0, y - 1, sample.grid.shape[1]), np.linspace(0, x - 1, sample.grid.shape[2])
    original = sample.image if sample.original is None else sample.original
    n_y, n_x = original.shape[-2:]
    beyond_y, beyond_x = (np.abs(s - (n - 1) / 2) > n / 2 for s, n in zip(sample.grid, (n_y, n_x), strict=True))
    parts = zip(sample.grid, (beyond_x, beyond_y), (n_y, n_x), _grid_positions(original), strict=True)
    for source, beyond, n, positions in parts:
        line = np.ma.masked_array(source, beyond)
        for levels, points in ((positions, GRID_POINTS), (np.array([-0.5, n - 0.5]), EDGE_POINTS)):
            inside = levels[(levels > source.min()) & (levels < source.max())]
            if inside.size:  # matplotlib warns of a contour that is nowhere
                lines = axis.contour(
                    node_xs, node_ys, line, levels=inside, colors=[ADDED], linewidths=points, linestyles="solid"
                )
                lines.set_path_effects(_shadow(points))
    axis.set(xlim=(-0.5, x - 0.5), ylim=(y - 0.5, -0.5))


def _shadow(points: float) -> list[AbstractPathEffect]:
    """Set off a line of a width from bright images."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=points + 0.8, foreground=INK, alpha=0.35)]


def _draw_truth(axis: Axes, sample: SheetSample) -> None:
    """Draw the image and the outlines of its objects, along the edges of pixels; so many that they meet as areas."""
    from matplotlib.collections import LineCollection

    _draw_image(axis, sample.image, sample.original)
    labels = sample.labels
    below, right = labels[:-1] != labels[1:], labels[:, :-1] != labels[:, 1:]
    if below.sum() + right.sum() > CROWDED * labels.size:
        areas = np.ma.masked_equal(labels, 0) != 0
        axis.imshow(areas, cmap=_plain(OUTLINE), alpha=0.5, interpolation="nearest")
        return
    ys, xs = np.nonzero(below)
    flat = np.stack([np.stack([xs - 0.5, ys + 0.5], 1), np.stack([xs + 0.5, ys + 0.5], 1)], 1)
    ys, xs = np.nonzero(right)
    upright = np.stack([np.stack([xs + 0.5, ys - 0.5], 1), np.stack([xs + 0.5, ys + 0.5], 1)], 1)
    axis.add_collection(LineCollection([*flat, *upright], colors=OUTLINE, linewidths=0.8), autolim=False)


def _plain(colour: str) -> ListedColormap:
    """Return a map of all values to one colour."""
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])


def _write_caption(axis: Axes, sample: SheetSample) -> None:
    """Write name and details of a sample above its panels, starting over the first one."""
    for k, line in enumerate((sample.name, *sample.details)):
        above = 12.0 * (1 + len(sample.details) - k) + 4
        axis.annotate(
            line, (0, 1), (0, above), xycoords="axes fraction", textcoords="offset points", fontsize=9 if k == 0 else 8,
            fontweight="bold" if k == 0 else "normal", annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip


def _add_colour_bar(figure: Figure, axes: NDArray[Any], panels: NDArray[Any], width: float) -> None:
    """Draw the scale of the weight maps, the same for all, below the last column: a fraction of the sheet wide."""
    drawn = [image for axis in panels.flat for image in axis.images]
    bar = figure.colorbar(
        drawn[0], ax=list(axes.flat), location="bottom", pad=0.02, shrink=width, aspect=28, anchor=(1.0, 1.0)
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7)
    bar.set_label("weight of a pixel in the loss", fontsize=7.5, color=GRAY)
