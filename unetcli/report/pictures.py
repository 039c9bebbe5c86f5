"""Pictures: training curves, sheets of samples, and overlays that show where a prediction errs.

The same input gives the same bytes: no dates, no versions, and no settings of the user's matplotlib.
Colours are those of Okabe and Ito, told apart by nearly everyone.
"""

from __future__ import annotations

import atexit
import base64
import io
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetcli.atomic import write_atomically
from unetcli.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]

MISSED = "#D55E00"
"""Vermillion: foreground of the truth that the prediction lacks."""
ADDED = "#56B4E9"
"""Sky blue: foreground of the prediction that the truth lacks."""
OUTLINE = "#F0E442"
"""Yellow: outline of the truth."""
BLUE, GREEN, GRAY, INK, FAINT = "#0072B2", "#009E73", "#8A8A8A", "#222222", "#E4E4E4"

ERROR_OPACITY = 0.75
"""Enough to see single pixels, and still the image beneath, which often tells why."""
OUTLINE_OPACITY = 0.85
STRETCH = (0.2, 99.8)
"""Percentiles of an image that become black and white: hot pixels do not darken the rest."""

MAX_SAMPLES = 12
GRID_LINES = 8
"""Squares of the drawn grid along the longer side of an image."""
PANEL_INCHES = 2.3
DPI = 160

_RC: dict[str, Any] = {
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3,
    "lines.solid_capstyle": "round",
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
}


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


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses and validation scores of a training run as a PNG.

    Parameters
    ----------
    rows
        In the order of training, each with `step` and `loss`, and with `validation_loss`,
        `validation_iou` and `validation_pixel_error` where it was validated.
    path
        The PNG.

    Raises
    ------
    InputError
        There is no row.

    Notes
    -----
    The loss is drawn on a logarithmic axis where it spans more than a factor of ten.
    """
    if not rows:
        raise InputError(f"{path}: there is nothing to draw; expected at least one row of training")
    validated = any("validation_iou" in row for row in rows)
    with _figure((10.4, 4.0) if validated else (5.6, 4.0)) as figure:
        if validated:
            panels = figure.subplot_mosaic([["loss", "iou"], ["loss", "error"]])
            _draw_score(panels["iou"], rows, "validation_iou", "Validation IoU", BLUE, max)
            _draw_score(panels["error"], rows, "validation_pixel_error", "Validation pixel error", MISSED, min)
            panels["iou"].tick_params(labelbottom=False)
            panels["error"].set_xlabel("step")
            _draw_loss(panels["loss"], rows)
            panels["iou"].sharex(panels["loss"])
            panels["error"].sharex(panels["loss"])
        else:
            _draw_loss(figure.subplots(), rows)
        _save(figure, path)


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
    with _figure(size, layout="compressed") as figure:
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
        _save(figure, path)


def overlay(image: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any]) -> Picture:
    """Show on the gray image where a prediction errs.

    Parameters
    ----------
    image : (y, x) or (c, y, x) int or float
        Channels are averaged.
    truth, prediction : (y, x) bool or int
        Foreground is nonzero. Ids of the truth are outlined one by one.

    Returns
    -------
    (y, x, 3) uint8
        Foreground of the truth only is tinted `MISSED`, of the prediction only `ADDED`. Where they agree the
        image is untouched, but for the outline of the truth, one pixel inside its objects.

    Raises
    ------
    InputError
        Shapes differ.

    Examples
    --------
    >>> mask = np.zeros((4, 4), dtype=bool)
    >>> bool((overlay(np.eye(4), mask, mask)[..., 0] == to_gray(np.eye(4))).all())
    True
    """
    gray = to_gray(image)
    if not gray.shape == truth.shape == prediction.shape:
        shapes = f"{gray.shape}, {truth.shape} and {prediction.shape}"
        raise InputError(f"image, truth and prediction: shapes are {shapes}; expected the same (y, x)")
    picture = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    _tint(picture, _inner_outline(truth), OUTLINE, OUTLINE_OPACITY)
    for mask, colour in (
        ((truth != 0) & (prediction == 0), MISSED),
        ((truth == 0) & (prediction != 0), ADDED),
    ):
        picture[mask] = gray[mask][:, None]  # an error hides the outline: thin ones would be lost beneath it
        _tint(picture, mask, colour, ERROR_OPACITY)
    return np.rint(picture).astype(np.uint8)


def to_gray(image: NDArray[Any], *, like: NDArray[Any] | None = None) -> Picture:
    """Stretch an image to gray levels that fill the range.

    Parameters
    ----------
    image : (y, x) or (c, y, x) int or float
        Channels are averaged.
    like : (y, x) or (c, y, x) int or float, optional
        Image whose stretch is used, so that two can be compared; the image itself if not given.

    Returns
    -------
    (y, x) uint8
        A flat image is mid-gray.

    Raises
    ------
    InputError
        It has not two or three axes.
    """
    plane = _average_channels(image)
    dark, bright = np.nanpercentile(plane if like is None else _average_channels(like), STRETCH)
    if not bright > dark:
        return np.full(plane.shape, 128, np.uint8)
    return _to_bytes(np.nan_to_num(np.clip((plane - dark) / (bright - dark), 0, 1)))


def draw_labels(labels: NDArray[Any]) -> Picture:
    """Show labels or a mask white on black, with a black line between objects that touch.

    Parameters
    ----------
    labels : (y, x) bool or int
        Object ids, or a mask; 0 = background.

    Returns
    -------
    (y, x) uint8
    """
    white = labels != 0
    below, right = (labels[:-1] != labels[1:]), (labels[:, :-1] != labels[:, 1:])
    picture = white.copy()
    picture[1:] &= ~(below & white[:-1])
    picture[:, 1:] &= ~(right & white[:, :-1])
    return _to_bytes(picture)


def to_png_data_uri(array: NDArray[Any], max_side: int = 512) -> str:
    """Encode a picture for an HTML page that holds all it shows.

    Parameters
    ----------
    array : (y, x) or (y, x, 3) uint8, bool, or float 0..1
        Bool and float become black to white.
    max_side
        Pixels; a larger picture is reduced, keeping its aspect.

    Returns
    -------
    str
        ``data:image/png;base64,...``

    Raises
    ------
    InputError
        The type is none of these, or a float is not 0..1.
    """
    picture = Image.fromarray(_to_bytes(array))
    scale = max_side / max(picture.size)
    if scale < 1:
        size = [max(1, round(scale * side)) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.HAMMING)  # no ringing at mask edges
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _to_bytes(array: NDArray[Any]) -> Picture:
    """Return the picture as uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        raise InputError(f"picture: type is {array.dtype}; expected uint8, bool or float")
    if not (array.min() >= 0 and array.max() <= 1):  # nan fails both
        raise InputError(f"picture: values are {array.min()} to {array.max()}; expected 0 to 1")
    levels: Picture = np.rint(255 * array).astype(np.uint8)
    return levels


def _average_channels(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return one plane."""
    if image.ndim not in (2, 3):
        raise InputError(f"image: shape is {image.shape}; expected (y, x) or (c, y, x)")
    plane: NDArray[np.float32] = image.astype(np.float32).reshape(-1, *image.shape[-2:]).mean(axis=0)
    return plane


def _inner_outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the pixels of objects with another id above, below, left or right."""
    outline = np.zeros(labels.shape, dtype=bool)
    below, right = (labels[:-1] != labels[1:]), (labels[:, :-1] != labels[:, 1:])
    outline[:-1] |= below
    outline[1:] |= below
    outline[:, :-1] |= right
    outline[:, 1:] |= right
    outline &= labels != 0
    return outline


def _tint(picture: NDArray[np.float32], mask: NDArray[np.bool_], colour: str, opacity: float) -> None:
    """Lay a colour over the pixels of a mask, in place."""
    red_green_blue = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.float32)
    picture[mask] += opacity * (red_green_blue - picture[mask])


@contextmanager
def _figure(
    inches: tuple[float, float], layout: Literal["constrained", "compressed"] = "constrained"
) -> Iterator[Figure]:
    """Give a figure in the style of this package, whatever the user's matplotlib is set to."""
    if "MPLCONFIGDIR" not in os.environ and not os.access(Path("~").expanduser(), os.W_OK):
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _RC]):
        yield Figure(figsize=inches, layout=layout)


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG, without what would change from run to run."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, stream.getvalue())


def _series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of the rows that have the key."""
    return [row["step"] for row in rows if key in row], [row[key] for row in rows if key in row]


def _draw_line(axis: Axes, steps: Sequence[float], values: Sequence[float], **style: Any) -> None:  # noqa: ANN401
    """Draw a curve over steps; few points are marked one by one."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.plot(steps, values, marker="o" if len(steps) <= 40 else None, **style)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw_loss(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw the losses."""
    drawn: list[float] = []
    last: list[str] = []
    for key, name, colour in (("loss", "training", INK), ("validation_loss", "validation", GREEN)):
        steps, values = _series(rows, key)
        if values:
            _draw_line(axis, steps, values, color=colour, label=name)
            last.append(f"{name} {values[-1]:.4g}")
            drawn += [value for value in values if math.isfinite(value)]
    axis.set_title("Loss")
    _annotate(axis, ", ".join(last))
    axis.set_xlabel("step")
    if drawn and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        _set_log(axis, max(drawn) / min(drawn))
    if len(last) > 1:
        axis.legend(loc="upper right")


def _set_log(axis: Axes, span: float) -> None:
    """Make the y axis logarithmic, with ticks one can read."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1000 else (1,)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _draw_score(
    axis: Axes,
    rows: Sequence[Mapping[str, float]],
    key: str,
    title: str,
    colour: str,
    better: Callable[[list[float]], float],
) -> None:
    """Draw a validation score, its best value ringed."""
    steps, values = _series(rows, key)
    _draw_line(axis, steps, values, color=colour)
    axis.set_title(title)
    if values:
        best = better(values)
        at = steps[values.index(best)]
        axis.plot([at], [best], "o", markersize=7, markerfacecolor="none", markeredgecolor=colour)
        _annotate(axis, f"last {values[-1]:.4g}, best {best:.4g} at step {at:,.0f}")


def _annotate(axis: Axes, text: str) -> None:
    """Write values at the right end of the title's line."""
    axis.set_title(text, loc="right", fontsize=8, fontweight="normal", color="#555555")


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
