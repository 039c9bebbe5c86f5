"""Pictures as arrays: gray images, labels in colour, and overlays that show where a prediction errs.

Colours are those of Okabe and Ito, told apart by nearly everyone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetcli.errors import InputError

Picture = NDArray[np.uint8]

MISSED = "#D55E00"
"""Vermillion: foreground of the truth that the prediction lacks."""
ADDED = "#56B4E9"
"""Sky blue: foreground of the prediction that the truth lacks."""
OUTLINE = "#F0E442"
"""Yellow: outline of the truth."""
CONFUSED = "#CC79A7"
"""Reddish purple: foreground of both, of another class."""
SPLIT, MERGED = "#F0E442", "#7F3C8D"
"""Yellow and violet, over gray as far from one another and from `MISSED` and `ADDED` as Okabe's and Ito's are, also
for readers who do not tell red from green, or blue from yellow."""
OVERLAP_SHARE = 0.1
"""An object of the truth and one of the prediction cover one another if they share more than this part of the smaller
of the two: rims that touch by a few pixels are no split, and a crumb inside an object is one."""
LEGEND = (
    (SPLIT, "split", "a true object covered by several predictions"),
    (MERGED, "merge", "a prediction that covers several true objects"),
    (ADDED, "false positive", "in the prediction only"),
    (MISSED, "missed", "in the truth only"),
    ("#FFFFFF", "outline", "of the truth"),
)
"""Colour, name and meaning of what `draw_error_types` shows."""
BLUE, GREEN, GRAY, INK, FAINT = "#0072B2", "#009E73", "#8A8A8A", "#222222", "#E4E4E4"

CLASS_COLOURS = (
    "#000000", "#FFFFFF", "#E69F00", "#009E73", "#0072B2", "#8C564B", "#7F3C8D", "#F7A6B9", "#A6D854", "#E5C494",
)  # fmt: skip
"""Of class 0, 1, ..., none of them that of an error; beyond the last they begin again at class 1."""
UNKNOWN = "#6B6B6B"
"""Gray: pixels of which no truth is known."""
ERROR_OPACITY = 0.75
"""Enough to see single pixels, and still the image beneath, which often tells why."""
OUTLINE_OPACITY = 0.85
OBJECT_OPACITY = 0.55
"""Of whole objects: less than of single pixels."""
STRETCH = (0.2, 99.8)
"""Percentiles of an image that become black and white: hot pixels do not darken the rest."""


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


def class_legend(names: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Return colour, name and meaning of what `draw_errors` and `draw_classes` show of several classes."""
    return (
        (CONFUSED, "another class", "than in the truth"),
        (ADDED, "added", f"where the truth is {names[0]}"),
        (MISSED, "missed", f"predicted as {names[0]}"),
        (OUTLINE, "outline", "of the truth"),
        *((class_colour(k), name, "") for k, name in enumerate(names)),
    )


def class_colour(k: int) -> str:
    """Return the colour of a class; a class below 0 is not known."""
    return UNKNOWN if k < 0 else CLASS_COLOURS[k if k == 0 else (k - 1) % (len(CLASS_COLOURS) - 1) + 1]


def draw_classes(classes: NDArray[Any]) -> Picture:
    """Show the class of each pixel by its colour: of two, white on black.

    Parameters
    ----------
    classes : (y, x) int
        0 = background; below 0 = not known.

    Returns
    -------
    (y, x, 3) uint8
    """
    values, index = np.unique(classes, return_inverse=True)
    colours = np.array([_red_green_blue(class_colour(int(value))) for value in values], np.uint8)
    return colours[index.reshape(classes.shape)]


def draw_errors(image: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any]) -> Picture:
    """Show on the gray image where a prediction of classes errs.

    Parameters
    ----------
    image : (y, x) or (c, y, x) int or float
    truth, prediction : (y, x) int
        Class of each pixel, 0 = background. Where the truth is below 0, nothing is an error.

    Returns
    -------
    (y, x, 3) uint8
        As `overlay`; foreground of both but of another class is tinted `CONFUSED`.
    """
    known = truth >= 0
    picture = overlay(image, truth * known, prediction * known)
    confused = known & (truth > 0) & (prediction > 0) & (truth != prediction)
    tinted = picture.astype(np.float32)
    tinted[confused] = to_gray(image)[confused][:, None]
    _tint(tinted, confused, CONFUSED, ERROR_OPACITY)
    return np.rint(tinted).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ErrorTypes:
    """Pixels by the type of error, and objects.

    Parameters
    ----------
    split, merged, added, missed : (y, x) bool
        No pixel is in two. `added` and `missed` are foreground of one side only; the other two are foreground of both:
        `merged` where the prediction covers several objects of the truth, else `split` where the object of the
        truth is covered by several predictions.
    n_truth, n_prediction
        Objects.
    n_split, n_missed
        Objects of the truth that several predictions cover, and that none covers.
    n_merged, n_added
        Objects of the prediction that cover several of the truth, and that cover none.
    """

    split: NDArray[np.bool_]
    merged: NDArray[np.bool_]
    added: NDArray[np.bool_]
    missed: NDArray[np.bool_]
    n_truth: int
    n_prediction: int
    n_split: int
    n_merged: int
    n_added: int
    n_missed: int

    def describe(self) -> str:
        """Say how many objects there are of each type."""
        return (
            f"Objects: {self.n_truth} true, {self.n_prediction} predicted; {self.n_split} split, "
            f"{self.n_merged} merging, {self.n_added} false positive, {self.n_missed} missed"
        )


def find_error_types(truth: NDArray[Any], prediction: NDArray[Any]) -> ErrorTypes:
    """Find the types of error of predicted objects.

    Parameters
    ----------
    truth, prediction : (y, x) int
        Object ids, 0 = background. Ids may have gaps.

    Returns
    -------
    ErrorTypes

    Raises
    ------
    InputError
        Shapes differ.

    Notes
    -----
    Two objects cover one another if they share more than `OVERLAP_SHARE` of the smaller of them.

    Examples
    --------
    >>> truth = np.array([[1, 1, 1, 1, 1, 0, 2, 2]])
    >>> prediction = np.array([[7, 7, 0, 8, 8, 8, 8, 8]])
    >>> found = find_error_types(truth, prediction)
    >>> found.split.nonzero()[1].tolist(), found.merged.nonzero()[1].tolist()
    ([0, 1], [3, 4, 6, 7])
    >>> found.describe()
    'Objects: 2 true, 2 predicted; 1 split, 1 merging, 0 false positive, 0 missed'
    """
    if truth.shape != prediction.shape:
        raise InputError(f"truth and prediction: shapes are {truth.shape} and {prediction.shape}; expected the same")
    t, p = _number_objects(truth), _number_objects(prediction)
    area_t, area_p = np.bincount(t.ravel()), np.bincount(p.ravel())
    pairs, shared = np.unique(t * len(area_p) + p, return_counts=True)
    pair_t, pair_p = np.divmod(pairs, len(area_p))
    is_cover = (pair_t > 0) & (pair_p > 0) & (shared > OVERLAP_SHARE * np.minimum(area_t[pair_t], area_p[pair_p]))
    covers_t = np.bincount(pair_t[is_cover], minlength=len(area_t))
    covers_p = np.bincount(pair_p[is_cover], minlength=len(area_p))
    both = (t > 0) & (p > 0)
    merged = both & (covers_p[p] > 1)
    return ErrorTypes(
        split=both & ~merged & (covers_t[t] > 1),
        merged=merged,
        added=(t == 0) & (p > 0),
        missed=(t > 0) & (p == 0),
        n_truth=len(area_t) - 1,
        n_prediction=len(area_p) - 1,
        n_split=int((covers_t > 1).sum()),
        n_merged=int((covers_p > 1).sum()),
        n_added=int((covers_p[1:] == 0).sum()),
        n_missed=int((covers_t[1:] == 0).sum()),
    )


def draw_error_types(found: ErrorTypes, truth: NDArray[Any], image: NDArray[Any] | None = None) -> Picture:
    """Show the types of error of predicted objects on the gray image.

    Parameters
    ----------
    found
        From `find_error_types`.
    truth : (y, x) int
        Object ids, 0 = background.
    image : (y, x) or (c, y, x) int or float, optional
        What lies beneath; the objects of the truth in gray if not given.

    Returns
    -------
    (y, x, 3) uint8
        Tinted as `LEGEND` says; what is right is untouched, but for the outline of the truth.

    Raises
    ------
    InputError
        Shapes differ.
    """
    gray = draw_labels(truth) // 2 if image is None else to_gray(image)
    if gray.shape != truth.shape:
        raise InputError(f"image and truth: shapes are {gray.shape} and {truth.shape}; expected the same (y, x)")
    picture = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    _tint(picture, found.split, SPLIT, OBJECT_OPACITY)
    _tint(picture, found.merged, MERGED, OBJECT_OPACITY)
    _tint(picture, _inner_outline(truth), "#FFFFFF", OUTLINE_OPACITY)
    _tint(picture, found.added, ADDED, ERROR_OPACITY)
    _tint(picture, found.missed, MISSED, ERROR_OPACITY)
    return np.rint(picture).astype(np.uint8)


def to_colours(image: NDArray[Any]) -> Picture:
    """Show three channels as red, green and blue, any other number as gray.

    Parameters
    ----------
    image : (c, y, x) int or float

    Returns
    -------
    (y, x, 3) uint8
        Stretched as by `to_gray`, all channels alike.
    """
    c, _, x = image.shape
    if c == 3:
        return np.moveaxis(to_gray(image.reshape(-1, x)).reshape(image.shape), 0, -1)
    return np.repeat(to_gray(image)[..., None], 3, axis=2)


def to_png_data_uri(array: NDArray[Any], max_side: int = 512) -> str:
    """Encode a picture for an HTML page that holds all it shows; see `to_png`."""
    return "data:image/png;base64," + base64.b64encode(to_png(array, max_side)).decode("ascii")


def to_png(array: NDArray[Any], max_side: int = 512) -> bytes:
    """Encode a picture.

    Parameters
    ----------
    array : (y, x) or (y, x, 3) uint8, bool, or float 0..1
        Bool and float become black to white.
    max_side
        Pixels; a larger picture is reduced, keeping its aspect.

    Returns
    -------
    bytes
        A PNG file.

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
    return stream.getvalue()


def read_picture(path: Path) -> Picture:
    """Return the pixels (y, x, 3) of a PNG."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


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


def _number_objects(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Replace object ids by 1, 2, ...; 0 stays."""
    values, index = np.unique(labels, return_inverse=True)
    numbers: NDArray[np.int64] = index.reshape(labels.shape).astype(np.int64) + int(values[0] != 0)
    return numbers


def _tint(picture: NDArray[np.float32], mask: NDArray[np.bool_], colour: str, opacity: float) -> None:
    """Lay a colour over the pixels of a mask, in place."""
    picture[mask] += opacity * (_red_green_blue(colour) - picture[mask])


def _red_green_blue(colour: str) -> NDArray[np.float32]:
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.float32)
