"""The slices of an image, measured at thresholds and combined to one value of each score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError, InputError
from unetcli.metrics.partitions import NEIGHBOURS
from unetcli.metrics.scores import COUNTED, COUNTED_WITH, CURVES, SCORES, Totals, add_totals
from unetcli.metrics.slices import slice_pairs
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, HALF


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
ImageTotals = dict[tuple[str, float], Totals]
"""What a score, by name and threshold, adds up to over the slices of an image."""
TypeCounts = dict[str, dict[str, dict[str, int]]]
"""``{"warping_types": {"split": {"pixels": 31, "clusters": 2}}}``"""


def measure_slices(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    *,
    names: Sequence[str],
    threshold: float = HALF,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    counted: NDArray[np.bool_] | None = None,
    connectivity: int = 4,
    with_counts: bool = False,
) -> Measured:
    """Measure some of the slices of an image; takes and raises what `score_image` does. See also `add_up_counts`."""
    _check(truth, prediction, names, thresholds, connectivity)
    has_levels = prediction.dtype.kind == "f"
    wanted = thresholds_of(names, threshold if has_levels else HALF, thresholds if has_levels else (HALF,))
    wanted |= counts_of(wanted) if with_counts else {}
    return measure(*_as_slices(truth, prediction, counted, connectivity), wanted, connectivity)


def counts_of(wanted: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Tell at which thresholds is counted what comes with scores that are measured."""
    return {name: wanted[score] for name, score in COUNTED_WITH.items() if score in wanted}


def add_up_counts(measured: Measured) -> TypeCounts:
    """Add up over slices what is counted at one threshold, without what is not there."""
    found: TypeCounts = {}
    for (name, _), slices in measured.items():
        if name in COUNTED:
            kinds = {kind: np.sum([counts[kind] for counts in slices], axis=0) for kind in slices[0]}
            found[name] = {kind: {"pixels": int(n), "clusters": int(m)} for kind, (n, m) in kinds.items() if n}
    return found


def combine_slices(parts: Sequence[Measured], names: Sequence[str]) -> dict[str, float | None]:
    """Score an image of which parts were measured: as `score_image`, given all slices at once."""
    measured = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    values = {
        name: [SCORES[name].combine(values) for (of, _), values in measured.items() if of == name]
        for name in _needed(names)
    }
    return {name: _none_if_nan(_at_best(name, values)) for name in names}


def add_up_slices(measured: Measured, names: Sequence[str]) -> ImageTotals:
    """Sum what was measured on the slices of an image, as far as `pool_images` asks for it."""
    pooled = _needed([name for name in names if SCORES[name].is_pooled])
    return {(name, t): SCORES[name].add_up(values) for (name, t), values in measured.items() if name in pooled}


def pool_images(images: Sequence[ImageTotals], names: Sequence[str]) -> dict[str, float | None]:
    """Score all images together: pixels, pairs and objects are pooled, and one threshold is searched for all.

    Parameters
    ----------
    images
        From `add_up_slices`; at least one.
    names
        Those of `SCORES` that are not pooled are left out.

    Returns
    -------
    dict
        None = undefined. Without the scores that were measured at other thresholds on some images than on others.
    """
    keys = set.intersection(*(set(image) for image in images))
    apart = {name for image in images for name, t in image if (name, t) not in keys}
    values: dict[str, list[float]] = {}
    for name, t in images[0]:  # in the order of the thresholds
        if name not in apart:
            totals = add_totals([image[name, t] for image in images])
            values.setdefault(name, []).append(SCORES[name].value(totals))
    pooled = [name for name in names if SCORES[name].is_pooled and _needed([name]) <= values.keys()]
    return {name: _none_if_nan(_at_best(name, values)) for name in pooled}


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
        has_nan = bool(np.isnan(values).any())
        found = "values are nan in places" if has_nan else f"values are {values.min()} to {values.max()}"
        fix = None if has_nan or values.min() < 0 else "save object ids as integers, probabilities as shares of 1"
        raise InputError(f"{name}: {found}; expected probabilities, 0 to 1", fix=fix)


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
