"""What `evaluate` offers: one table of scores.

A new score is one function of arrays or of a table in its module, and one entry of `SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import numpy as np

from unetcli.errors import ConfigError
from unetcli.metrics.distances import BOUNDARY_TOLERANCE_PX, assd, boundary_f, hausdorff, hd95
from unetcli.metrics.objects import (
    AP_TWENTIETHS,
    aji,
    det_of_totals,
    det_totals,
    match_totals,
    panoptic_of_totals,
    panoptic_totals,
    seg_totals,
)
from unetcli.metrics.partitions import (
    adapted_rand_error,
    adapted_rand_error_paper,
    adapted_rand_error_scikit_image,
    foreground_pair_sums,
    fscore_of_sums,
    rand_error,
    v_info,
    vi,
)
from unetcli.metrics.pixels import dice, iou, pixel_error, pixel_fscore
from unetcli.metrics.slices import SlicePair, mean_defined
from unetcli.metrics.tables import Counts, ratio
from unetcli.metrics.topology import warping_types

Totals = tuple[Any, ...]
"""Numbers that add up over slices and images to those of all together."""


@dataclass(frozen=True)
class Score:
    """How a score is measured on a slice and becomes one number for an image.

    Parameters
    ----------
    measure
        Function of one slice at one threshold: the value, nan = undefined, or the totals that `of_totals` takes.
    better
        Which direction is better.
    convention
        One line to print beside the value: what tells it from others of its name; behind "; " what it has in common
        with many.
    undefined
        Why it may be None; empty if it never is.
    of_totals
        Function of what `measure` returns, and of its sum over slices: the value. None: there are no totals.
    pools_slices
        Whether the value of an image is that of the totals of its slices, and not the plain mean of their values.
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
    of_totals: Callable[..., float] | None = None
    pools_slices: bool = False
    search: str | None = None
    last_threshold: float = 1.0
    sums: Literal["pixels", "segments"] | None = None
    planes_only: bool = False

    @property
    def is_pooled(self) -> bool:
        """Whether all images together have a value that is not the mean of theirs."""
        return self.of_totals is not None or self.search is not None

    def add_up(self, slices: Sequence[Any]) -> Totals:
        """Sum what was measured on slices; of values, those that are defined, and how many these are."""
        if self.of_totals is not None:
            return add_totals(slices)
        defined = [value for value in slices if not math.isnan(value)]
        return math.fsum(defined), len(defined)

    def value(self, totals: Totals) -> float:
        """Turn totals into the value; nan = undefined."""
        return (self.of_totals or ratio)(*totals)

    def combine(self, slices: Sequence[Any]) -> float:
        """Turn what was measured on the slices of an image into its value."""
        if self.pools_slices:
            return self.value(self.add_up(slices))
        return mean_defined([self.value(self.add_up([one])) for one in slices])


def add_totals(parts: Sequence[Totals]) -> Totals:
    """Add up totals, number by number."""
    return tuple(sum(numbers) for numbers in zip(*parts, strict=True))


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
_OBJECTS = f"{_IDS}, objects of an image pooled over slices"
_EDGES = f"between edge pixels, the rim counts, foreground > 0.5, {_MEAN}"


def _of_pixels(score: Callable[[Counts], float], better: Literal["higher", "lower"], convention: str) -> Score:
    """Describe a function of the confusion table."""
    return Score(
        lambda pair: pair.confusion.ravel().tolist(),
        better,
        convention,
        of_totals=lambda *counts: score(np.array(counts).reshape(2, 2)),
        sums="pixels",
    )


def _average_precision(twentieths: int) -> Score:
    """Describe the average precision at one threshold of the IoU."""
    return _of_segments(
        lambda pair: match_totals(pair.overlaps, twentieths),
        "higher",
        f"TP/(TP+FP+FN), objects match at IoU >= {twentieths / 20}; {_SEGMENTS}",
        _NO_OBJECTS,
        of_totals=ratio,
    )


def _panoptic(part: Literal["pq", "sq", "rq"], convention: str) -> Score:
    """Describe the panoptic quality or a factor of it."""
    return _of_segments(
        lambda pair: panoptic_totals(pair.overlaps),
        "higher",
        f"{convention}; {_SEGMENTS}",
        _NO_OBJECTS,
        of_totals=lambda *totals: getattr(panoptic_of_totals(*totals), part),
    )


SCORES: dict[str, Score] = {
    "iou": _of_pixels(iou, "higher", f"TP/(TP+FP+FN), 1 if both are empty; {_AT_HALF}"),
    "dice": _of_pixels(dice, "higher", f"2TP/(2TP+FP+FN), 1 if both are empty; {_AT_HALF}"),
    "pixel_error": _of_pixels(pixel_error, "lower", f"share of differing pixels; {_AT_HALF}"),
    "max_pixel_fscore": replace(
        _of_pixels(
            pixel_fscore, "higher", "F-score of foreground pixels, pooled over slices, best threshold of the image"
        ),
        pools_slices=True,
        search="max_pixel_fscore",
    ),
    "warping_error": _planar(
        lambda pair: pair.warping.error,
        "lower",
        f"Fiji: the truth is warped, foreground 4-connected, share of all pixels; {_AT_HALF}",
    ),
    "min_warping_error": _planar(
        lambda pair: pair.warping.error,
        "lower",
        f"Fiji: the truth is warped, share of all pixels, {_MEAN}, best threshold of the image, up to 0.9",
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
        lambda pair: pair.v_rand.fscore,
        "higher",
        f"best threshold of the image; {_THINNED}",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_rand_split": _planar(
        lambda pair: pair.v_rand.split,
        "higher",
        f"recall at the threshold of the best v_rand; {_THINNED}",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_rand_merge": _planar(
        lambda pair: pair.v_rand.merge,
        "higher",
        f"precision at the threshold of the best v_rand; {_THINNED}",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_info": _planar(
        lambda pair: v_info(pair.thinned_overlaps),
        "higher",
        f"0 if a side has one segment, best threshold of the image; {_THINNED}",
        _NO_TRUTH,
        search="v_info",
    ),
    "fg_rand_fscore": _of_segments(
        lambda pair: foreground_pair_sums(pair.overlaps),
        "higher",
        f"not thinned, truth foreground only; {_IDS}, pairs pooled over slices",
        _NO_TRUTH,
        of_totals=fscore_of_sums,
        pools_slices=True,
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
        lambda pair: [n for k in AP_TWENTIETHS for n in match_totals(pair.overlaps, k)],
        "higher",
        f"mean of ap50, ap55 .. ap95; {_SEGMENTS}",
        _NO_OBJECTS,
        of_totals=lambda *totals: float(np.mean(list(map(ratio, totals[::2], totals[1::2])))),
    ),
    "pq": _panoptic("pq", "sq * rq, objects match at IoU > 0.5"),
    "sq": _panoptic("sq", "mean IoU of matches, IoU > 0.5, 0 without one"),
    "rq": _panoptic("rq", "TP/(TP+FP/2+FN/2), objects match at IoU > 0.5"),
    "seg": _of_segments(
        lambda pair: seg_totals(pair.overlaps),
        "higher",
        f"Cell Tracking Challenge: IoU with what covers more than half of a true object; {_OBJECTS}",
        _NO_TRUTH,
        of_totals=ratio,
        pools_slices=True,
    ),
    "det": _of_segments(
        lambda pair: det_totals(pair.overlaps),
        "higher",
        f"Cell Tracking Challenge: 1 - (5 splits + 10 missed + 1 spurious)/(10 true objects); {_OBJECTS}",
        _NO_TRUTH,
        of_totals=det_of_totals,
        pools_slices=True,
    ),
    "aji": _of_segments(
        lambda pair: aji(pair.overlaps),
        "higher",
        f"one-to-one, as Cellpose: shared pixels of partners, of all foreground; {_SEGMENTS}",
        _NO_OBJECTS,
    ),
    "hausdorff": Score(
        lambda pair: hausdorff(pair.edge_distances), "lower", f"largest distance, pixels; {_EDGES}", _NO_EDGE
    ),
    "hd95": Score(
        lambda pair: hd95(pair.edge_distances),
        "lower",
        f"MONAI: the larger of the 95th percentiles of both directions, pixels; {_EDGES}",
        _NO_EDGE,
    ),
    "assd": Score(lambda pair: assd(pair.edge_distances), "lower", f"mean distance, pixels; {_EDGES}", _NO_EDGE),
    "boundary_f": Score(
        lambda pair: boundary_f(pair.truth_mask, pair.prediction_mask),
        "higher",
        f"DAVIS: F-score of contour pixels at most {BOUNDARY_TOLERANCE_PX} pixels apart; {_AT_HALF}",
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

COUNTED_WITH = {"warping_types": "warping_error"}
"""The score with which each of them comes; whoever asks for one gets both."""

CURVES = ("v_rand", "v_info", "max_pixel_fscore", "pixel_error", "warping_error")
"""Scores worth plotting over thresholds."""


def parse_names(option: str, text: str) -> list[str]:
    """Read names of scores, separated by commas.

    Raises
    ------
    ConfigError
        If there is none, or one that is not known.
    """
    names = [COUNTED_WITH.get(n.strip(), n.strip()) for n in text.split(",") if n.strip()]
    unknown = [n for n in names if n not in SCORES]
    if unknown or not names:
        problem = f"does not know {', '.join(unknown)}" if unknown else "names no score"
        meant = [close for name in names for close in get_close_matches(name.lower(), SCORES, n=1)]
        raise ConfigError(
            f"{option} {text}: {problem}; expected some of {', '.join(SCORES)}",
            fix=f"{option} {','.join(meant)}" if names and len(meant) == len(names) else None,
        )
    return list(dict.fromkeys(names))
