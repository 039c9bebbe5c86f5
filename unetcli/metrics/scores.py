"""What `evaluate` offers: one table of scores, and how the slices of an image are scored by it.

A new score is one function of arrays or of a table in its module, and one line in `SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError, InputError
from unetcli.metrics.objects import average_precision, seg
from unetcli.metrics.partitions import (
    Vi,
    VRand,
    adapted_rand_error,
    components,
    fg_rand_fscore,
    rand_error,
    thin_borders,
    v_info,
    v_rand,
    vi,
)
from unetcli.metrics.pixels import dice, iou, pixel_error, pixel_fscore
from unetcli.metrics.tables import ContingencyTable, Counts, Ids, confusion_table, contingency_table
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, HALF, foreground
from unetcli.metrics.topology import warping_error


@dataclass(frozen=True, eq=False)
class SlicePair:
    """One slice at one threshold, with what several scores share: computed once, when first asked for.

    Parameters
    ----------
    truth_mask : (y, x) bool
        Foreground of the truth.
    truth_segments : (y, x) int64
        Its segments, 0 = background.
    prediction : (y, x) float, 0..1
        Probability of foreground; 0 or 1 for a mask or labels.
    prediction_ids : (y, x) int or None
        Object ids, if the prediction is labels.
    threshold
        Foreground of the prediction is above it.
    connectivity
        Axes along which pixels of one component may differ at once: 1 = they share an edge (in 3D, a face).
    counted : (y, x) bool or None
        Pixels that count; the others are background of both sides here. None: all count.
    uncut
        The same slice with the pixels that do not count as they are; None where all count.
    """

    truth_mask: NDArray[np.bool_]
    truth_segments: Ids
    prediction: NDArray[np.floating[Any]]
    prediction_ids: NDArray[Any] | None
    threshold: float
    connectivity: int = 1
    counted: NDArray[np.bool_] | None = None
    uncut: SlicePair | None = None

    @cached_property
    def prediction_mask(self) -> NDArray[np.bool_]:
        """(y, x) Foreground of the prediction."""
        return foreground(self.prediction, self.threshold)

    @cached_property
    def prediction_segments(self) -> NDArray[Any]:
        """(y, x) Segments of the prediction: its ids, else the components of its foreground."""
        if self.prediction_ids is not None:
            return self.prediction_ids
        return components(self.prediction_mask, self.connectivity)

    @cached_property
    def confusion(self) -> Counts:
        """(2, 2) Pixels by truth and prediction."""
        return confusion_table(self._kept(self.truth_mask), self._kept(self.prediction_mask))

    @cached_property
    def overlaps(self) -> ContingencyTable:
        """Overlaps of the segments."""
        return contingency_table(self._kept(self.truth_segments), self._kept(self.prediction_segments))

    @cached_property
    def thinned_overlaps(self) -> ContingencyTable:
        """Overlaps of the segments, the prediction thinned."""
        return contingency_table(self._kept(self.truth_segments), self._kept(thin_borders(self.prediction_segments)))

    @cached_property
    def v_rand(self) -> VRand:
        """V_Rand of the thinned prediction."""
        return v_rand(self.thinned_overlaps)

    @cached_property
    def vi(self) -> Vi:
        """Variation of information."""
        return vi(self.overlaps)

    @cached_property
    def warping_error(self) -> float:
        """Warping error at the threshold: only pixels that count flip, and their surroundings are as they are."""
        whole = self.uncut or self
        return warping_error(whole.truth_mask, whole.prediction, threshold=self.threshold, mask=self.counted)

    def _kept(self, array: NDArray[Any]) -> NDArray[Any]:
        """Keep the pixels that count."""
        return array if self.counted is None else array[self.counted]


def mean_defined(values: Sequence[float]) -> float:
    """Take the plain mean over slices, without those on which the score is undefined.

    Parameters
    ----------
    values
        One per slice; nan = undefined.

    Returns
    -------
    float
        nan if all are.
    """
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


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
        Whether it is a function of the confusion table or the contingency table alone, which add up over tiles.
    """

    measure: Callable[[SlicePair], Any]
    better: Literal["higher", "lower"]
    convention: str
    undefined: str = ""
    combine: Callable[[Sequence[Any]], float] = mean_defined
    search: str | None = None
    last_threshold: float = 1.0
    streams: bool = False


_NO_TRUTH = "the truth has no foreground"
_MEAN = "mean over slices"
_AT_HALF = f"foreground > 0.5, {_MEAN}"
_THINNED = f"Fiji, prediction thinned, truth foreground only, {_MEAN}"
_SEGMENTS = "ids of labels, else 4-connected components of foreground > 0.5"

SCORES: dict[str, Score] = {
    "iou": Score(
        lambda pair: iou(pair.confusion), "higher", f"TP/(TP+FP+FN), 1 if both are empty, {_AT_HALF}", streams=True
    ),
    "dice": Score(
        lambda pair: dice(pair.confusion), "higher", f"2TP/(2TP+FP+FN), 1 if both are empty, {_AT_HALF}", streams=True
    ),
    "pixel_error": Score(
        lambda pair: pixel_error(pair.confusion), "lower", f"share of differing pixels, {_AT_HALF}", streams=True
    ),
    "max_pixel_fscore": Score(
        lambda pair: pair.confusion,
        "higher",
        "F-score of foreground pixels, pooled over slices, best threshold",
        combine=lambda tables: pixel_fscore(np.sum(tables, axis=0)),
        search="max_pixel_fscore",
        streams=True,
    ),
    "warping_error": Score(
        lambda pair: pair.warping_error,
        "lower",
        f"Fiji: the truth is warped, foreground 4-connected, share of all pixels, {_AT_HALF}",
    ),
    "min_warping_error": Score(
        lambda pair: pair.warping_error,
        "lower",
        f"Fiji: the truth is warped, share of all pixels, {_MEAN}, best threshold up to 0.9",
        "no threshold is 0.9 or less",
        search="min_warping_error",
        last_threshold=0.9,
    ),
    "rand_error": Score(
        lambda pair: rand_error(pair.overlaps),
        "lower",
        f"1 - Rand index, background a segment; {_SEGMENTS}, {_MEAN}",
        "there are fewer than two pixels",
        streams=True,
    ),
    "v_rand": Score(
        lambda pair: pair.v_rand.fscore, "higher", f"{_THINNED}, best threshold", _NO_TRUTH, search="v_rand"
    ),
    "v_rand_split": Score(
        lambda pair: pair.v_rand.split,
        "higher",
        f"recall; {_THINNED}, at the threshold of the best v_rand",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_rand_merge": Score(
        lambda pair: pair.v_rand.merge,
        "higher",
        f"precision; {_THINNED}, at the threshold of the best v_rand",
        _NO_TRUTH,
        search="v_rand",
    ),
    "v_info": Score(
        lambda pair: v_info(pair.thinned_overlaps),
        "higher",
        f"0 if a side has one segment; {_THINNED}, best threshold",
        _NO_TRUTH,
        search="v_info",
    ),
    "fg_rand_fscore": Score(
        lambda pair: pair.overlaps,
        "higher",
        f"not thinned, truth foreground only; {_SEGMENTS}, pairs pooled over slices",
        _NO_TRUTH,
        combine=lambda tables: fg_rand_fscore(*tables),
        streams=True,
    ),
    "vi_split": Score(
        lambda pair: pair.vi.split,
        "lower",
        f"H(prediction | truth), bits, background a segment; {_SEGMENTS}, {_MEAN}",
        streams=True,
    ),
    "vi_merge": Score(
        lambda pair: pair.vi.merge,
        "lower",
        f"H(truth | prediction), bits, background a segment; {_SEGMENTS}, {_MEAN}",
        streams=True,
    ),
    "adapted_rand_error": Score(
        lambda pair: adapted_rand_error(pair.overlaps),
        "lower",
        f"CREMI's code, truth foreground only; {_SEGMENTS}, {_MEAN}",
        _NO_TRUTH,
        streams=True,
    ),
    "ap50": Score(
        lambda pair: average_precision(pair.overlaps),
        "higher",
        f"TP/(TP+FP+FN), objects match at IoU >= 0.5; {_SEGMENTS}, {_MEAN}",
        "neither side has an object",
        streams=True,
    ),
    "seg": Score(
        lambda pair: seg(pair.overlaps),
        "higher",
        f"Cell Tracking Challenge: IoU with what covers more than half of a true object; {_SEGMENTS}, {_MEAN}",
        _NO_TRUTH,
        streams=True,
    ),
}
"""Name of each score to how it is computed; the names are those of `metrics.json`."""

LABELS = {
    "iou": "IoU", "dice": "Dice", "pixel_error": "Pixel error", "max_pixel_fscore": "Best pixel F-score",
    "warping_error": "Warping error", "min_warping_error": "Least warping error", "rand_error": "Rand error",
    "v_rand": "V_Rand", "v_rand_split": "V_Rand split", "v_rand_merge": "V_Rand merge", "v_info": "V_Info",
    "fg_rand_fscore": "Foreground Rand F-score", "vi_split": "VI split", "vi_merge": "VI merge",
    "adapted_rand_error": "Adapted Rand error",
}  # fmt: skip
"""How each score is called where people read it."""

OF_PIXELS = ("iou", "dice", "pixel_error", "max_pixel_fscore")
"""Scores of the confusion table: unlike those of segments, they stream whatever these are."""

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
    connectivity: int = 1,
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
        Axes along which pixels of one component of a mask may differ at once.

    Returns
    -------
    dict
        Value of each name; None = undefined, for the reason in ``SCORES[name].undefined``.

    Raises
    ------
    ConfigError
        A name is unknown, or there is no threshold.
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
    connectivity: int = 1,
) -> Measured:
    """Measure some of the slices of an image; takes and raises what `score_image` does."""
    _check(truth, prediction, names, thresholds)
    has_levels = prediction.dtype.kind == "f"
    wanted = thresholds_of(names, threshold if has_levels else HALF, thresholds if has_levels else (HALF,))
    return measure(truth, prediction, wanted, counted=counted, connectivity=connectivity)


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

    Returns
    -------
    dict
        Value of each name at each threshold, combined over slices; None = undefined.

    Raises
    ------
    ConfigError, InputError
        As in `score_image`.
    """
    _check(truth, prediction, names, thresholds)
    if prediction.dtype.kind != "f":
        raise InputError(f"prediction: type is {prediction.dtype}; expected probabilities for a curve")
    measured = measure(truth, prediction, dict.fromkeys(names, tuple(thresholds)))
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


def _check(truth: NDArray[Any], prediction: NDArray[Any], names: Sequence[str], thresholds: Sequence[float]) -> None:
    """Refuse what can not be scored."""
    if unknown := [name for name in names if name not in SCORES]:
        raise ConfigError(f"metrics: {', '.join(unknown)} unknown", fix=f"choose from {', '.join(SCORES)}")
    if not thresholds:
        raise ConfigError("thresholds: none given; expected at least one")
    if truth.ndim not in (3, 4) or truth.shape != prediction.shape or truth.size == 0:
        found = f"shapes are {truth.shape} and {prediction.shape}"
        raise InputError(f"truth and prediction: {found}; expected the same (n, y, x), or (n, z, y, x) of volumes")
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
    wanted = {}
    for name in SCORES:  # in a fixed order
        if name in _needed(names):
            score = SCORES[name]
            wanted[name] = tuple(t for t in searched if t <= score.last_threshold) if score.search else (threshold,)
    return wanted


def _at_best(name: str, values: dict[str, list[float]]) -> float:
    """Take the value of a score where the score that it searches is best; nan without a threshold."""
    search = SCORES[name].search or name
    sign = 1 if SCORES[search].better == "higher" else -1
    curve = [-math.inf if math.isnan(value) else sign * value for value in values[search]]
    return values[name][curve.index(max(curve))] if curve else math.nan


def measure(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    wanted: dict[str, tuple[float, ...]],
    *,
    counted: NDArray[np.bool_] | None = None,
    connectivity: int = 1,
) -> Measured:
    """Measure scores at their thresholds, slice after slice; takes what `score_image` does."""
    thresholds = sorted({t for ts in wanted.values() for t in ts})
    measured: Measured = {(name, t): [] for name, ts in wanted.items() for t in ts}
    kept = repeat(None) if counted is None else iter(counted)
    for truth_slice, slice_, counted_slice in zip(truth, prediction, kept, strict=False):
        for pair in slice_pairs(truth_slice, slice_, thresholds, counted=counted_slice, connectivity=connectivity):
            for name in wanted:
                if (name, pair.threshold) in measured:
                    measured[name, pair.threshold].append(SCORES[name].measure(pair))
    return measured


def slice_pairs(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    thresholds: Sequence[float],
    *,
    counted: NDArray[np.bool_] | None = None,
    connectivity: int = 1,
) -> Iterator[SlicePair]:
    """Yield a slice (y, x), or a volume (z, y, x), at each threshold; takes what `score_image` does of one."""
    uncut: SlicePair | None = None
    if counted is not None:
        (uncut,) = slice_pairs(truth, prediction, [HALF])
        truth, prediction = (np.where(counted, side, side.dtype.type(0)) for side in (truth, prediction))
    truth_mask = truth != 0
    segments = components(truth_mask, connectivity) if truth.dtype == np.bool_ else truth
    probabilities = prediction if prediction.dtype.kind == "f" else (prediction != 0).astype(np.float32)
    ids = prediction if prediction.dtype.kind in "iu" else None
    for threshold in thresholds:
        yield SlicePair(truth_mask, segments, probabilities, ids, threshold, connectivity, counted, uncut)


def _none_if_nan(value: float) -> float | None:
    """Write undefined as None, as JSON does."""
    return None if math.isnan(value) else value
