"""What `evaluate` offers: one table of scores.

A new score is one function of arrays or of a table in its module, and one entry of `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from unetcli.errors import ConfigError
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
    adapted_rand_error,
    adapted_rand_error_paper,
    adapted_rand_error_scikit_image,
    fg_rand_fscore,
    rand_error,
    v_info,
    vi,
)
from unetcli.metrics.pixels import dice, iou, pixel_error, pixel_fscore
from unetcli.metrics.slices import SlicePair, mean_defined
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
    sums
        What it is a function of alone, if that adds up over tiles: the confusion table of ``pixels``, or the
        contingency table of ``segments``. Segments that are ids come in tiles; components need the whole image.
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
    sums: Literal["pixels", "segments"] | None = None
    planes_only: bool = False


_of_pixels = partial(Score, sums="pixels")
_of_segments = partial(Score, sums="segments")
_planar = partial(Score, planes_only=True)

_NO_TRUTH = "the truth has no foreground"
_NO_OBJECTS = "neither side has an object"
_NO_EDGE = "a side has no foreground"
_MEAN = "mean over slices"
_AT_HALF = f"foreground > 0.5, {_MEAN}"
_THINNED = f"Fiji, prediction thinned, truth foreground only, {_MEAN}"
_IDS = "ids of labels, else components of foreground > 0.5, 4-connected if not set"
_SEGMENTS = f"{_IDS}, {_MEAN}"
_OBJECTS = f"{_IDS}, objects pooled over slices"
_EDGES = f"pixels; between edge pixels, the rim counts, foreground > 0.5, {_MEAN}"


def _average_precision(twentieths: int) -> Score:
    """Describe the average precision at one threshold of the IoU."""
    return _of_segments(
        lambda pair: average_precision(pair.overlaps, twentieths),
        "higher",
        f"TP/(TP+FP+FN), objects match at IoU >= {twentieths / 20}; {_SEGMENTS}",
        _NO_OBJECTS,
    )


SCORES: dict[str, Score] = {
    "iou": _of_pixels(lambda pair: iou(pair.confusion), "higher", f"TP/(TP+FP+FN), 1 if both are empty, {_AT_HALF}"),
    "dice": _of_pixels(
        lambda pair: dice(pair.confusion), "higher", f"2TP/(2TP+FP+FN), 1 if both are empty, {_AT_HALF}"
    ),
    "pixel_error": _of_pixels(
        lambda pair: pixel_error(pair.confusion), "lower", f"share of differing pixels, {_AT_HALF}"
    ),
    "max_pixel_fscore": _of_pixels(
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
    "rand_error": _of_segments(
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
    "fg_rand_fscore": _of_segments(
        lambda pair: pair.overlaps,
        "higher",
        f"not thinned, truth foreground only; {_IDS}, pairs pooled over slices",
        _NO_TRUTH,
        combine=lambda tables: fg_rand_fscore(*tables),
    ),
    "vi_split": _of_segments(
        lambda pair: vi(pair.overlaps).split,
        "lower",
        f"H(prediction | truth), bits, background a segment; {_SEGMENTS}",
    ),
    "vi_merge": _of_segments(
        lambda pair: vi(pair.overlaps).merge,
        "lower",
        f"H(truth | prediction), bits, background a segment; {_SEGMENTS}",
    ),
    "adapted_rand_error": _of_segments(
        lambda pair: adapted_rand_error(pair.overlaps),
        "lower",
        f"CREMI's code, truth foreground only; {_SEGMENTS}",
        _NO_TRUTH,
    ),
    "adapted_rand_error_paper": _of_segments(
        lambda pair: adapted_rand_error_paper(pair.overlaps),
        "lower",
        f"1 - Rand F-score, each missed pixel a segment, truth foreground only; {_SEGMENTS}",
        _NO_TRUTH,
    ),
    "adapted_rand_error_scikit_image": _of_segments(
        lambda pair: adapted_rand_error_scikit_image(pair.overlaps),
        "lower",
        f"scikit-image, predicted background one segment, truth foreground only; {_SEGMENTS}",
        "no two pixels of the truth's foreground share a segment",
    ),
    **{f"ap{5 * k}": _average_precision(k) for k in AP_TWENTIETHS},
    "mean_ap": _of_segments(
        lambda pair: mean_average_precision(pair.overlaps),
        "higher",
        f"mean of ap50, ap55 .. ap95; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "pq": _of_segments(
        lambda pair: panoptic_quality(pair.overlaps).pq,
        "higher",
        f"sq * rq, objects match at IoU > 0.5; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "sq": _of_segments(
        lambda pair: panoptic_quality(pair.overlaps).sq,
        "higher",
        f"mean IoU of matches, IoU > 0.5, 0 without one; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "rq": _of_segments(
        lambda pair: panoptic_quality(pair.overlaps).rq,
        "higher",
        f"TP/(TP+FP/2+FN/2), objects match at IoU > 0.5; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "seg": _of_segments(
        lambda pair: pair.overlaps,
        "higher",
        f"Cell Tracking Challenge: IoU with what covers more than half of a true object; {_OBJECTS}",
        _NO_TRUTH,
        combine=lambda tables: seg(*tables),
    ),
    "det": _of_segments(
        lambda pair: pair.overlaps,
        "higher",
        f"Cell Tracking Challenge: 1 - (5 splits + 10 missed + 1 spurious)/(10 true objects); {_OBJECTS}",
        _NO_TRUTH,
        combine=lambda tables: det(*tables),
    ),
    "aji": _of_segments(
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

COUNTED: dict[str, Callable[[SlicePair], Any]] = {"warping_types": lambda pair: warping_types(pair.warping)}
"""What is counted beside the scores: by type, in pixels and clusters."""

CURVES = ("v_rand", "v_info", "max_pixel_fscore", "pixel_error", "warping_error")
"""Scores worth plotting over thresholds."""


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
