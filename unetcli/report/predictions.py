"""Sheets of predictions: image, truth, prediction and errors side by side, pixel by pixel."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unetcli.atomic import write_atomically
from unetcli.errors import InputError
from unetcli.report.pictures import (
    ADDED,
    CONFUSED,
    GRAY,
    INK,
    MISSED,
    OUTLINE,
    class_colour,
    draw_classes,
    draw_errors,
    to_colours,
)

MAX_PREDICTIONS = 8
LARGE_PX = 300
"""Pictures are enlarged a whole number of times up to this, or more."""
MARGIN, LINE, TEXT_PX = 12, 19, 14


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
    times = max(1, -(-LARGE_PX // max(max(row.truth.shape) for row in rows)))
    sizes = [(times * row.truth.shape[0], times * row.truth.shape[1]) for row in rows]
    width = max(460, 4 * (max(x for _, x in sizes) + MARGIN)) + MARGIN
    legend = list(_legend_lines(_meanings(rows, classes), width))
    height = 2 * MARGIN + LINE + sum(y + 3 * LINE + MARGIN for y, _ in sizes) + len(legend) * LINE
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN), title, INK)
    top = MARGIN + LINE + MARGIN
    for row, (y, _) in zip(rows, sizes, strict=True):
        _draw_row(sheet, draw, row, top, times)
        top += y + 3 * LINE + MARGIN
    for line in legend:
        for left, name, colour in line:
            draw.rectangle((left, top + 2, left + TEXT_PX, top + 2 + TEXT_PX), colour, GRAY)
            _write(draw, (left + TEXT_PX + 6, top), name, INK)
        top += LINE
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Prediction, top: int, times: int) -> None:
    """Draw two lines of text, then the pictures of a prediction, each below its name."""
    (y, x), (n_y, n_x) = row.corner, row.truth.shape
    _write(draw, (MARGIN, top), f"{row.rank}: {row.name}", INK)
    place = f"IoU {row.iou:.3f}; shown: y {y} to {y + n_y - 1}, x {x} to {x + n_x - 1}"
    _write(draw, (MARGIN, top + LINE), place, GRAY)
    pictures = {
        "image": to_colours(row.image),
        "truth": draw_classes(row.truth),
        "prediction": draw_classes(row.prediction),
        "errors": draw_errors(row.image, row.truth, row.prediction),
    }
    for k, (name, picture) in enumerate(pictures.items()):
        left = MARGIN + k * (sheet.width - MARGIN) // 4
        _write(draw, (left, top + 2 * LINE), name, GRAY)
        sheet.paste(Image.fromarray(picture.repeat(times, axis=0).repeat(times, axis=1)), (left, top + 3 * LINE))


def _meanings(rows: Sequence[Prediction], classes: Sequence[str]) -> dict[str, str]:
    """Name the colours: of the errors, and where there are more than two, of the classes."""
    several = len(classes) > 2
    return {
        "missed": MISSED,
        "added": ADDED,
        **({"another class": CONFUSED} if several else {}),
        "outline of the truth": OUTLINE,
        **({f"class: {name}": class_colour(k) for k, name in enumerate(classes)} if several else {}),
        **({"ignored": class_colour(-1)} if any((row.truth < 0).any() for row in rows) else {}),
    }


def _legend_lines(meanings: Mapping[str, str], width: int) -> Iterator[list[tuple[int, str, str]]]:
    """Lay out (left, name, colour) of a legend in lines of a width."""
    line: list[tuple[int, str, str]] = []
    left = MARGIN
    for name, colour in meanings.items():
        needs = TEXT_PX + 6 + int(_font().getlength(name)) + 2 * MARGIN
        if line and left + needs > width:
            yield line
            line, left = [], MARGIN
        line.append((left, name, colour))
        left += needs
    yield line


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: str) -> None:
    draw.text(at, text, colour, _font())


def _font() -> Any:  # noqa: ANN401 - scalable or not, as Pillow was built
    return ImageFont.load_default(TEXT_PX)
