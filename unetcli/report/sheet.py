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
from unetcli.report.pictures import ADDED, OUTLINE, to_gray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SAMPLES = 12
GRID_LINES = 8
"""Squares of the drawn grid along the longer side of an image."""
PANEL_INCHES = 2.3


@dataclass(frozen=True, eq=False)
class SheetSample:
    """One augmented sample on a picture sheet.

    Parameters
    ----------
    name
        Written beside it.
    image : (y, x) or (c, y, x) int or float
        Shown gray.
    labels : (y, x) int
        Object ids or classes, 0 = background; outlined.
    weights : (y, x) float, optional
        Weight map.
    grid : (2, gy, gx) float, optional
        Where the sample came from: source position (y, x) in pixels of the original, at nodes evenly spaced
        from the first to the last pixel of the image. The finer, the smoother the lines drawn.
    original : (y, x) or (c, y, x) int or float, optional
        The image before it was deformed.
    """

    name: str
    image: NDArray[Any]
    labels: NDArray[Any]
    weights: NDArray[Any] | None = None
    grid: NDArray[np.floating[Any]] | None = None
    original: NDArray[Any] | None = None


def draw_sheet(samples: Sequence[SheetSample], path: Path) -> None:
    """Draw augmented samples side by side as a PNG, to be judged by eye before training.

    Parameters
    ----------
    samples
        Up to 12. A column is drawn if any sample has what it shows: the original, the deformed image with
        the grid that was regular on the original, the outlines of the truth, and the weight map.
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
    abreast = min(len(samples), max(1, 4 // len(columns)))
    n_rows = math.ceil(len(samples) / abreast)
    y, x = samples[0].labels.shape
    panel = (PANEL_INCHES, PANEL_INCHES * min(2.0, max(0.5, y / x)))
    size = (
        (panel[0] * len(columns) + 0.25) * abreast,
        panel[1] * n_rows + (0.6 if "weight map" in columns else 0.25),
    )
    with styled_figure(size, layout="compressed") as figure:
        axes = figure.subplots(n_rows, abreast * len(columns), squeeze=False)
        for panel_axes in axes.flat:
            panel_axes.set_axis_off()
        for k, sample in enumerate(samples):
            row, first = k // abreast, k % abreast * len(columns)
            for axis, (title, draw) in zip(axes[row, first:], columns.items(), strict=False):
                draw(axis, sample)
                axis.set_title(title if row == 0 else "", fontsize=8, fontweight="normal")
            _name_row(axes[row, first], sample.name)
        if "weight map" in columns:
            _add_colour_bar(figure, axes[:, list(columns).index("weight map") :: len(columns)])
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
        columns["deformed grid"] = _draw_grid
    columns["truth"] = _draw_truth
    if weights:
        columns["weight map"] = draw_weights
    return columns


def _draw_gray(axis: Axes, image: NDArray[Any], like: NDArray[Any] | None) -> None:
    """Draw an image, with the stretch of another."""
    axis.imshow(to_gray(image, like=like), cmap="gray", vmin=0, vmax=255)


def _grid_positions(image: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y and x of the lines of a grid that is square and regular on an original image."""
    y, x = image.shape[-2:]
    spacing = max(y, x) / GRID_LINES
    return np.arange(spacing / 2, y, spacing), np.arange(spacing / 2, x, spacing)


def _draw_original(axis: Axes, sample: SheetSample) -> None:
    """Draw the original under the regular grid."""
    if sample.original is None:
        return
    _draw_gray(axis, sample.original, None)
    if sample.grid is not None:
        y, x = sample.original.shape[-2:]
        line_ys, line_xs = _grid_positions(sample.original)
        axis.hlines(line_ys, -0.5, x - 0.5, colors=ADDED, linewidth=0.7)
        axis.vlines(line_xs, -0.5, y - 0.5, colors=ADDED, linewidth=0.7)


def _draw_grid(axis: Axes, sample: SheetSample) -> None:
    """Draw the deformed image under the grid, deformed with it.

    A line that was straight on the original, such as source y = 32, is now the contour along which the source
    position is 32.
    """
    if sample.grid is None:
        return
    _draw_gray(axis, sample.image, sample.original)
    y, x = sample.image.shape[-2:]
    node_ys, node_xs = (
        np.linspace(0, y - 1, sample.grid.shape[1]),
        np.linspace(0, x - 1, sample.grid.shape[2]),
    )
    original = sample.image if sample.original is None else sample.original
    for source, positions in zip(sample.grid, _grid_positions(original), strict=True):
        inside = positions[(positions > source.min()) & (positions < source.max())]
        if inside.size:  # matplotlib warns of a contour that is nowhere
            axis.contour(node_xs, node_ys, source, levels=inside, colors=[ADDED], linewidths=0.7)


def _draw_truth(axis: Axes, sample: SheetSample) -> None:
    """Draw the image and the outlines of its objects, along the edges of pixels."""
    from matplotlib.collections import LineCollection

    _draw_gray(axis, sample.image, sample.original)
    labels = sample.labels
    ys, xs = np.nonzero(labels[:-1] != labels[1:])
    flat = np.stack([np.stack([xs - 0.5, ys + 0.5], 1), np.stack([xs + 0.5, ys + 0.5], 1)], 1)
    ys, xs = np.nonzero(labels[:, :-1] != labels[:, 1:])
    upright = np.stack([np.stack([xs + 0.5, ys - 0.5], 1), np.stack([xs + 0.5, ys + 0.5], 1)], 1)
    axis.add_collection(LineCollection([*flat, *upright], colors=OUTLINE, linewidths=0.8), autolim=False)


def _name_row(axis: Axes, name: str) -> None:
    """Write the name of a sample left of its first panel."""
    axis.text(-0.04, 0.5, name, transform=axis.transAxes, rotation=90, ha="right", va="center", fontsize=8)


def _add_colour_bar(figure: Figure, panels: NDArray[Any]) -> None:
    """Draw the scale of the weight maps, the same for all, below their columns."""
    drawn = [image for axis in panels.flat for image in axis.images]
    bar = figure.colorbar(drawn[0], ax=list(panels[-1]), location="bottom", pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7)
