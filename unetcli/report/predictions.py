"""Sheets of predictions: image, truth, prediction and errors side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.report.figures import save_png, styled_figure
from unetcli.report.pictures import (
    ADDED,
    CONFUSED,
    GRAY,
    MISSED,
    OUTLINE,
    class_colour,
    draw_classes,
    draw_errors,
    to_colours,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = 2.6
"""Of the longer side of a panel."""
GAP, CAPTION, TITLE, LEGEND_LINE = 0.1, 0.6, 0.3, 0.2
"""Inches between panels, above each row, above all rows, and of a line below."""
LEGEND_COLUMNS = 4
MAX_PREDICTIONS = 8


@dataclass(frozen=True, eq=False)
class Prediction:
    """One row of a sheet.

    Parameters
    ----------
    name
        Of the slice.
    rank
        Why it is shown: ``worst``, ``best``.
    corner
        First pixel (y, x) of what is shown.
    image : (c, y, x) int or float
        Three channels are shown as red, green and blue, any other number as gray.
    truth, prediction : (y, x) int
        Class of each pixel; a truth below 0 is not known.
    iou
        Of the foreground of the whole slice.
    """

    name: str
    rank: str
    corner: tuple[int, int]
    image: NDArray[Any]
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    iou: float


def draw_predictions(rows: Sequence[Prediction], classes: Sequence[str], title: str, path: Path) -> None:
    """Draw predictions one below the other as a PNG, each beside its image, its truth and its errors.

    Parameters
    ----------
    rows
        Up to 8.
    classes
        Name of each class, background first.
    title
        Written at the top.
    path
        The PNG.

    Raises
    ------
    InputError
        There is nothing to draw, or more than 8.
    """
    if not 1 <= len(rows) <= MAX_PREDICTIONS:
        raise InputError(f"{path}: {len(rows)} predictions to draw; expected 1 to {MAX_PREDICTIONS}")
    shapes = np.array([row.truth.shape for row in rows])
    inches = PANEL_INCHES * np.maximum(shapes / shapes.max(), 0.2)  # (rows, 2): height, width of a panel
    meant = _class_colours(rows, classes)
    lines = max(1, math.ceil(len(meant) / LEGEND_COLUMNS))
    width = 4 * (inches[:, 1].max() + GAP) + GAP
    height = TITLE + inches[:, 0].sum() + len(rows) * CAPTION + (lines + 1) * LEGEND_LINE
    with styled_figure((width, height), layout=None) as figure:
        figure.text(GAP / width, 1 - GAP / height, title, va="top", fontsize=10, fontweight="bold")
        top = height - TITLE
        for row, (n_y, n_x) in zip(rows, inches, strict=True):
            top -= CAPTION + n_y
            lefts = [GAP + k * (inches[:, 1].max() + GAP) for k in range(4)]
            places = [(left / width, top / height, n_x / width, n_y / height) for left in lefts]
            _draw_row([figure.add_axes(place) for place in places], row)
        _write_legend(figure, meant)
        save_png(figure, path)


def _class_colours(rows: Sequence[Prediction], classes: Sequence[str]) -> dict[str, str]:
    """Name the colours of truth and prediction that do not explain themselves."""
    meant = {name: class_colour(k) for k, name in enumerate(classes)} if len(classes) > 2 else {}
    return meant | ({"ignored": class_colour(-1)} if any((row.truth < 0).any() for row in rows) else {})


def _draw_row(axes: Sequence[Axes], row: Prediction) -> None:
    pictures = {
        "image": to_colours(row.image),
        "truth": draw_classes(row.truth),
        "prediction": draw_classes(row.prediction),
        "errors": draw_errors(row.image, row.truth, row.prediction),
    }
    for axis, (column, picture) in zip(axes, pictures.items(), strict=True):
        axis.set_axis_off()
        axis.imshow(picture, aspect="auto")
        axis.set_title(column, fontsize=7.5, fontweight="normal", color=GRAY, pad=3)
    (y, x), (n_y, n_x) = row.corner, row.truth.shape
    place = f"IoU {row.iou:.3f}; shown: y {y} to {y + n_y - 1}, x {x} to {x + n_x - 1}"
    for text, above, style in ((f"{row.rank}: {row.name}", 26, {"fontweight": "bold"}), (place, 15, {"color": GRAY})):
        axes[0].annotate(
            text, (0, 1), (0, above), xycoords="axes fraction", textcoords="offset points", fontsize=8, **style
        )


def _write_legend(figure: Figure, classes: dict[str, str]) -> None:
    """Say what the colours are: of classes at the left, of errors at the right."""
    from matplotlib.patches import Patch

    errors = {"missed": MISSED, "added": ADDED, "outline of the truth": OUTLINE}
    if len(classes) > 2:
        errors = {"missed": MISSED, "added": ADDED, "another class": CONFUSED, "outline of the truth": OUTLINE}
    for place, meant in (("lower left", classes), ("lower right", errors)):
        handles = [Patch(facecolor=c, edgecolor=GRAY, linewidth=0.5, label=name) for name, c in meant.items()]
        if handles:
            figure.legend(handles=handles, loc=place, ncols=LEGEND_COLUMNS, fontsize=7.5, handlelength=1.2)
