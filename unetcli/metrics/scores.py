"""What `evaluate` offers: one table of scores, and how the slices of an image are scored by it.

A new score is one function of arrays or of a table in its module, and one line in `SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError, InputError
from unetcli.metrics.distances import BOUNDARY_TOLERANCE_PX, assd, boundary_f, hausdorff, hd95
from unetcli.metrics.objects import (
    AP_TWENTIETHS,
    aji,
    average_precision,
    det,
    mean_average_precision,
    panoptic_quality,
    seg,
)
from unetcli.metrics.partitions import (
    NEIGHBOURS,
    adapted_rand_error,
    adapted_rand_error_paper,
    adapted_rand_error_scikit_image,
    fg_rand_fscore,
    rand_error,
    v_info,
    vi,
)
from unetcli.metrics.pixels import dice, iou, pixel_error, pixel_fscore
from unetcli.metrics.slices import SlicePair, mean_defined, slice_pairs
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, HALF
from unetcli.metrics.topology import warping_types


@dataclass(frozen=True)
class Score:
    """How a score is measured on a slice and becomes one number for an image.

    Parameters
    ----------
    measure
        Function of one slice at one threshold; nan = undefined.
    better
        Which direction is better.
    convention
        One line to print beside the value: what tells it from others of its name.
    undefined
        Why it may be None; empty if it never is.
    combine
        Slices to one value: the plain mean, or a function that pools what `measure` returns.
    search
        None: at threshold 0.5. Else the score whose best value over thresholds picks the threshold.
    last_threshold
        Where the search ends.
    streams
        Whether it is a function of the confusion table or of the contingency table alone, which add up over tiles.
        Segments that are ids come in tiles; components need the whole image.
    planes_only
        Whether it is not defined for volumes.
    """

    measure: Callable[[SlicePair], Any]
    better: Literal["higher", "lower"]
    convention: str
    undefined: str = ""
    combine: Callable[[Sequence[Any]], float] = mean_defined
    search: str | None = None
    last_threshold: float = 1.0
    streams: bool = False
    planes_only: bool = False


_adds_up = partial(Score, streams=True)
_planar = partial(Score, planes_only=True)

_NO_TRUTH = "the truth has no foreground"
_NO_OBJECTS = "neither side has an object"
_NO_EDGE = "a side has no foreground"
_MEAN = "mean over slices"
_AT_HALF = f"foreground > 0.5, {_MEAN}"
_THINNED = f"Fiji, prediction thinned, truth foreground only, {_MEAN}"
_IDS = "ids of labels, else components of foreground > 0.5, 4-connected if not set"
_SEGMENTS = f"{_IDS}, {_MEAN}"
_EDGES = f"pixels; between edge pixels, the rim counts, foreground > 0.5, {_MEAN}"


def _average_precision(twentieths: int) -> Score:
    """Describe the average precision at one threshold of the IoU."""
    return _adds_up(
        lambda pair: average_precision(pair.overlaps, twentieths),
        "higher",
        f"TP/(TP+FP+FN), objects match at IoU >= {twentieths / 20}; {_SEGMENTS}",
        _NO_OBJECTS,
    )


SCORES: dict[str, Score] = {
    "iou": _adds_up(lambda pair: iou(pair.confusion), "higher", f"TP/(TP+FP+FN), 1 if both are empty, {_AT_HALF}"),
    "dice": _adds_up(lambda pair: dice(pair.confusion), "higher", f"2TP/(2TP+FP+FN), 1 if both are empty, {_AT_HALF}"),
    "pixel_error": _adds_up(
        lambda pair: pixel_error(pair.confusion), "lower", f"share of differing pixels, {_AT_HALF}"
    ),
    "max_pixel_fscore": _adds_up(
        lambda pair: pair.confusion,
        "higher",
        "F-score of foreground pixels, pooled over slices, best threshold",
        combine=lambda tables: pixel_fscore(np.sum(tables, axis=0)),
        search="max_pixel_fscore",
    ),
    "warping_error": _planar(
        lambda pair: pair.warping.error,
        "lower",
        f"Fiji: the truth is warped, foreground 4-connected, share of all pixels, {_AT_HALF}",
    ),
    "min_warping_error": _planar(
        lambda pair: pair.warping.error,
        "lower",
        f"Fiji: the truth is warped, share of all pixels, {_MEAN}, best threshold up to 0.9",
        "no threshold is 0.9 or less",
        search="min_warping_error",
        last_threshold=0.9,
    ),
    "rand_error": _adds_up(
        lambda pair: rand_error(pair.overlaps),
        "lower",
        f"1 - Rand index, background a segment; {_SEGMENTS}",
        "there are fewer than two pixels",
    ),
    "v_rand": _planar(
        lambda pair: pair.v_rand.fscore, "higher", f"{_THINNED}, best threshold", _NO_TRUTH, search="v_rand"
    ),
    "v_rand_split": _planar(
        lambda pair: pair.v_rand.split,
        "higher",
        f"recall; {_THINNED}, at the threshold of the best v_rand",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_rand_merge": _planar(
        lambda pair: pair.v_rand.merge,
        "higher",
        f"precision; {_THINNED}, at the threshold of the best v_rand",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_info": _planar(
        lambda pair: v_info(pair.thinned_overlaps),
        "higher",
        f"0 if a side has one segment; {_THINNED}, best threshold",
        _NO_TRUTH,
        search="v_info",
    ),
    "fg_rand_fscore": _adds_up(
        lambda pair: pair.overlaps,
        "higher",
        f"not thinned, truth foreground only; {_IDS}, pairs pooled over slices",
        _NO_TRUTH,
        combine=lambda tables: fg_rand_fscore(*tables),
    ),
    "vi_split": _adds_up(
        lambda pair: vi(pair.overlaps).split,
        "lower",
        f"H(prediction | truth), bits, background a segment; {_SEGMENTS}",
    ),
    "vi_merge": _adds_up(
        lambda pair: vi(pair.overlaps).merge,
        "lower",
        f"H(truth | prediction), bits, background a segment; {_SEGMENTS}",
    ),
    "adapted_rand_error": _adds_up(
        lambda pair: adapted_rand_error(pair.overlaps),
        "lower",
        f"CREMI's code, truth foreground only; {_SEGMENTS}",
        _NO_TRUTH,
    ),
    "adapted_rand_error_paper": _adds_up(
        lambda pair: adapted_rand_error_paper(pair.overlaps),
        "lower",
        f"1 - Rand F-score, each missed pixel a segment, truth foreground only; {_SEGMENTS}",
        _NO_TRUTH,
    ),
    "adapted_rand_error_scikit_image": _adds_up(
        lambda pair: adapted_rand_error_scikit_image(pair.overlaps),
        "lower",
        f"scikit-image, predicted background one segment, truth foreground only; {_SEGMENTS}",
        "no two pixels of the truth's foreground share a segment",
    ),
    **{f"ap{5 * k}": _average_precision(k) for k in AP_TWENTIETHS},
    "mean_ap": _adds_up(
        lambda pair: mean_average_precision(pair.overlaps),
        "higher",
        f"mean of ap50, ap55 .. ap95; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "pq": _adds_up(
        lambda pair: panoptic_quality(pair.overlaps).pq,
        "higher",
        f"sq * rq, objects match at IoU > 0.5; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "sq": _adds_up(
        lambda pair: panoptic_quality(pair.overlaps).sq,
        "higher",
        f"mean IoU of matches, IoU > 0.5, 0 without one; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "rq": _adds_up(
        lambda pair: panoptic_quality(pair.overlaps).rq,
        "higher",
        f"TP/(TP+FP/2+FN/2), objects match at IoU > 0.5; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "seg": _adds_up(
        lambda pair: pair.overlaps,
        "higher",
        f"Cell Tracking Challenge: IoU with what covers more than half of a true object; {_IDS}, objects pooled",
        _NO_TRUTH,
        combine=lambda tables: seg(*tables),
    ),
    "det": _adds_up(
        lambda pair: pair.overlaps,
        "higher",
        f"Cell Tracking Challenge: 1 - (5 splits + 10 missed + 1 spurious)/(10 true objects); {_IDS}, objects pooled",
        _NO_TRUTH,
        combine=lambda tables: det(*tables),
    ),
    "aji": _adds_up(
        lambda pair: aji(pair.overlaps),
        "higher",
        f"one-to-one, as Cellpose: shared pixels of partners, of all foreground; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "hausdorff": Score(lambda pair: hausdorff(pair.edge_distances), "lower", f"largest distance, {_EDGES}", _NO_EDGE),
    "hd95": Score(
        lambda pair: hd95(pair.edge_distances),
        "lower",
        f"MONAI: the larger of the 95th percentiles of both directions, {_EDGES}",
        _NO_EDGE,
    ),
    "assd": Score(lambda pair: assd(pair.edge_distances), "lower", f"mean distance, {_EDGES}", _NO_EDGE),
    "boundary_f": Score(
        lambda pair: boundary_f(pair.truth_mask, pair.prediction_mask),
        "higher",
        f"DAVIS: F-score of contour pixels at most {BOUNDARY_TOLERANCE_PX} pixels apart, {_AT_HALF}",
    ),
}
"""Name of each score to how it is computed; the names are those of `metrics.json`."""

LABELS = {
    "iou": "IoU", "dice": "Dice", "pixel_error": "Pixel error", "max_pixel_fscore": "Best pixel F-score",
    "warping_error": "Warping error", "min_warping_error": "Least warping error", "rand_error": "Rand error",
    "v_rand": "V_Rand", "v_rand_split": "V_Rand split", "v_rand_merge": "V_Rand merge", "v_info": "V_Info",
    "fg_rand_fscore": "Foreground Rand F-score", "vi_split": "VI split", "vi_merge": "VI merge",
    "adapted_rand_error": "Adapted Rand error", "adapted_rand_error_paper": "Adapted Rand error, paper",
    "adapted_rand_error_scikit_image": "Adapted Rand error, scikit-image",
    **{f"ap{5 * k}": f"AP at {k / 20:.2f}" for k in AP_TWENTIETHS}, "mean_ap": "Mean AP",
    "pq": "Panoptic quality", "sq": "Segmentation quality", "rq": "Recognition quality",
    "seg": "SEG", "det": "DET", "aji": "AJI, one-to-one",
    "hausdorff": "Hausdorff distance", "hd95": "Hausdorff distance, 95 %", "assd": "Mean surface distance",
    "boundary_f": "Boundary F-score",
}  # fmt: skip
"""How each score is called where people read it."""

OF_PIXELS = ("iou", "dice", "pixel_error", "max_pixel_fscore")
"""Scores of the confusion table: unlike those of segments, they stream whatever these are."""

COUNTED: dict[str, Callable[[SlicePair], Any]] = {"warping_types": lambda pair: warping_types(pair.warping)}
"""What is counted beside the scores: by type, in pixels and clusters."""

CURVES = ("v_rand", "v_info", "max_pixel_fscore", "pixel_error", "warping_error")
"""Scores worth plotting over thresholds."""


def score_image(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    *,
    names: Sequence[str] = tuple(SCORES),
    threshold: float = HALF,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    counted: NDArray[np.bool_] | None = None,
    connectivity: int = 4,
) -> dict[str, float | None]:
    """Score one image, slice by slice.

    Parameters
    ----------
    truth : (n, y, x) bool or int
        Foreground is nonzero. Bool: a mask, whose segments are its components. Int: object ids.
    prediction : (n, y, x) bool, int or float
        The same, or a probability map, 0..1 (`to_probabilities` scales a stored one).
    names
        Keys of `SCORES`.
    threshold
        Of the scores that search none; a probability above it is foreground.
    thresholds
        Of the scores that search a threshold; a mask and labels have only one.
    counted : (n, y, x) bool or None
        Pixels that count. The others are background of both sides; for the warping error they stay, and do not flip.
    connectivity
        Of the components of a mask. 4 or 8: each slice is scored alone; 6, 18 or 26: the stack is a volume, scored as
        a whole.

    Returns
    -------
    dict
        Value of each name; None = undefined, for the reason in ``SCORES[name].undefined``.

    Raises
    ------
    ConfigError
        A name is unknown, or not for volumes, or there is no threshold.
    InputError
        Shapes or types do not fit, or a float is not a probability.

    Examples
    --------
    >>> truth = np.array([[[1, 1, 0, 1]]], dtype=bool)
    >>> score_image(truth, truth, names=["iou", "v_rand"])
    {'iou': 1.0, 'v_rand': 1.0}
    """
    measured = measure_slices(
        truth,
        prediction,
        names=names,
        threshold=threshold,
        thresholds=thresholds,
        counted=counted,
        connectivity=connectivity,
    )
    return combine_slices([measured], names)


Measured = dict[tuple[str, float], list[Any]]
"""What a score, by name and threshold, is of each slice."""


def measure_slices(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    *,
    names: Sequence[str],
    threshold: float = HALF,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    counted: NDArray[np.bool_] | None = None,
    connectivity: int = 4,
) -> Measured:
    """Measure some of the slices of an image; takes and raises what `score_image` does."""
    _check(truth, prediction, names, thresholds, connectivity)
    has_levels = prediction.dtype.kind == "f"
    wanted = thresholds_of(names, threshold if has_levels else HALF, thresholds if has_levels else (HALF,))
    return measure(*_as_slices(truth, prediction, counted, connectivity), wanted, connectivity)


def combine_slices(parts: Sequence[Measured], names: Sequence[str]) -> dict[str, float | None]:
    """Score an image of which parts were measured: as `score_image`, given all slices at once."""
    measured = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    values = {
        name: [SCORES[name].combine(values) for (of, _), values in measured.items() if of == name]
        for name in _needed(names)
    }
    return {name: _none_if_nan(_at_best(name, values)) for name in names}


def score_curves(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    *,
    names: Sequence[str] = CURVES,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    connectivity: int = 4,
) -> dict[str, list[float | None]]:
    """Score one image at every threshold, for a plot.

    Parameters
    ----------
    truth : (n, y, x) bool or int
        As in `score_image`.
    prediction : (n, y, x) float
        A probability map, 0..1.
    names
        Keys of `SCORES`.
    thresholds
        Of the curve.
    connectivity
        As in `score_image`.

    Returns
    -------
    dict
        Value of each name at each threshold, combined over slices; None = undefined.

    Raises
    ------
    ConfigError, InputError
        As in `score_image`.
    """
    _check(truth, prediction, names, thresholds, connectivity)
    if prediction.dtype.kind != "f":
        raise InputError(f"prediction: type is {prediction.dtype}; expected probabilities for a curve")
    slices = _as_slices(truth, prediction, None, connectivity)
    measured = measure(*slices, dict.fromkeys(names, tuple(thresholds)), connectivity)
    return {name: combine_curve(measured, name, thresholds) for name in names}


def combine_curve(measured: Measured, name: str, thresholds: Sequence[float]) -> list[float | None]:
    """Combine the slices at each of some thresholds at which a score was measured; None = undefined."""
    return [_none_if_nan(SCORES[name].combine(measured[name, t])) for t in thresholds]


def parse_names(option: str, text: str) -> list[str]:
    """Read names of scores, separated by commas.

    Raises
    ------
    ConfigError
        If there is none, or one that is not known.
    """
    names = [n.strip() for n in text.split(",") if n.strip()]
    unknown = [n for n in names if n not in SCORES]
    if unknown or not names:
        raise ConfigError(f"{option} {text}: does not know {', '.join(unknown)}; expected some of {', '.join(SCORES)}")
    return list(dict.fromkeys(names))


def _check(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    names: Sequence[str],
    thresholds: Sequence[float],
    connectivity: int,
) -> None:
    """Refuse what can not be scored."""
    if unknown := [name for name in names if name not in SCORES]:
        raise ConfigError(f"metrics: {', '.join(unknown)} unknown", fix=f"choose from {', '.join(SCORES)}")
    if not thresholds:
        raise ConfigError("thresholds: none given; expected at least one")
    if connectivity not in (*NEIGHBOURS[2], *NEIGHBOURS[3]):
        raise ConfigError(f"connectivity: {connectivity}; expected 4 or 8 of slices, 6, 18 or 26 of a volume")
    if connectivity in NEIGHBOURS[3] and (planar := [name for name in names if SCORES[name].planes_only]):
        raise ConfigError(f"metrics: {', '.join(planar)}: not defined for volumes", fix="connectivity 4 or 8: by slice")
    if truth.ndim != 3 or truth.shape != prediction.shape or truth.size == 0:
        found = f"shapes are {truth.shape} and {prediction.shape}"
        raise InputError(f"truth and prediction: {found}; expected the same (n, y, x)")
    check_values("truth", truth, "biu")
    check_values("prediction", prediction, "biuf")


def check_values(name: str, values: NDArray[Any], kinds: str = "biuf") -> None:
    """Refuse what is no mask, no labels and no probability map.

    Raises
    ------
    InputError
        If the type is none of the kinds, an id is negative, or a float is outside of 0..1.
    """
    if values.dtype.kind not in kinds:
        raise InputError(f"{name}: type is {values.dtype}; expected one of the kinds {', '.join(kinds)}")
    if values.dtype.kind == "i" and values.min() < 0:
        raise InputError(f"{name}: ids go down to {values.min()}; expected 0 or more")
    if values.dtype.kind == "f" and not (values.min() >= 0 and values.max() <= 1):  # nan fails both
        found = f"values are {values.min()} to {values.max()}"
        raise InputError(f"{name}: {found}; expected probabilities, 0 to 1")


def _needed(names: Sequence[str]) -> set[str]:
    """Add the scores that pick the threshold of another."""
    return {*names, *(search for name in names if (search := SCORES[name].search))}


def thresholds_of(names: Sequence[str], threshold: float, searched: Sequence[float]) -> dict[str, tuple[float, ...]]:
    """Tell at which thresholds scores are measured, and those that pick the threshold of another."""
    needed = _needed(names)
    return {
        name: tuple(t for t in searched if t <= score.last_threshold) if score.search else (threshold,)
        for name, score in SCORES.items()
        if name in needed
    }


def _at_best(name: str, values: dict[str, list[float]]) -> float:
    """Take the value of a score where the score that it searches is best; nan without a threshold."""
    search = SCORES[name].search or name
    sign = 1 if SCORES[search].better == "higher" else -1
    curve = [-math.inf if math.isnan(value) else sign * value for value in values[search]]
    return values[name][curve.index(max(curve))] if curve else math.nan


def _as_slices(
    truth: NDArray[Any], prediction: NDArray[Any], counted: NDArray[np.bool_] | None, connectivity: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]:
    """Take a stack with the connectivity of a volume as one slice of three axes."""
    at = np.index_exp[None] if connectivity in NEIGHBOURS[3] else np.index_exp[:]
    return truth[at], prediction[at], None if counted is None else counted[at]


def measure(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    counted: NDArray[np.bool_] | None,
    wanted: dict[str, tuple[float, ...]],
    connectivity: int | None = None,
) -> Measured:
    """Measure scores at their thresholds, slice after slice.

    Parameters
    ----------
    truth, prediction, counted : (n, [z,] y, x)
        As in `score_image`; with z, volumes.
    wanted
        Name of each score, and of each of `COUNTED`, to its thresholds.
    connectivity
        Of the components of a mask; None: the least.
    """
    functions = {name: COUNTED.get(name) or SCORES[name].measure for name in wanted}
    thresholds = sorted({t for ts in wanted.values() for t in ts})
    measured: Measured = {(name, t): [] for name, ts in wanted.items() for t in ts}
    for k, (truth_slice, slice_) in enumerate(zip(truth, prediction, strict=True)):
        kept = None if counted is None else counted[k]
        for pair in slice_pairs(truth_slice, slice_, thresholds, counted=kept, connectivity=connectivity):
            for name in wanted:
                if (name, pair.threshold) in measured:
                    measured[name, pair.threshold].append(functions[name](pair))
    return measured


def _none_if_nan(value: float) -> float | None:
    """Write undefined as None, as JSON does."""
    return None if math.isnan(value) else value
