"""Scores of arrays in Python: what ``unetcli evaluate`` measures, an image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError, InputError
from unetcli.metrics.comparison import (
    Difference,
    bootstrap_interval,
    columns_of,
    mean_over_images,
    paired_difference,
)
from unetcli.metrics.measuring import (
    ImageTotals,
    TypeCounts,
    add_up_counts,
    add_up_slices,
    combine_slices,
    measure_slices,
    pool_images,
)
from unetcli.metrics.partitions import NEIGHBOURS
from unetcli.metrics.scores import COUNTED_WITH, SCORES
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, HALF


@dataclass(frozen=True)
class ImageScores:
    """The scores of one image.

    Parameters
    ----------
    values
        Name to value; None = undefined.
    undefined
        Why, for each that is None.
    conventions
        What tells each score from others of its name.
    totals
        What the image adds to the scores of several together.
    counts
        With the warping error what is left after warping, by type: ``{"warping_types": {"split": {"pixels": 31,
        "clusters": 2}}}``; types that are not there are left out.
    """

    values: dict[str, float | None]
    undefined: dict[str, str] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict, repr=False)
    totals: ImageTotals = field(default_factory=dict, repr=False)
    counts: TypeCounts = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Mean:
    """A score over images.

    Parameters
    ----------
    mean
        Of those on which it is defined; None if there are none.
    low, high
        The 95 % interval of the mean; nan with fewer than two images.
    pooled
        Of all images together; None if it is undefined, or the score can not be pooled.
    """

    mean: float | None
    low: float
    high: float
    pooled: float | None = None


def score(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    *,
    metrics: Sequence[str] | None = None,
    threshold: float = HALF,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    roi: NDArray[Any] | None = None,
    ignore_label: int | None = None,
    connectivity: int | None = None,
    as_volume: bool = False,
    are_ids: bool | None = None,
) -> ImageScores:
    """Score a prediction against the truth: the Python twin of ``unetcli evaluate PREDICTION TRUTH``.

    Parameters
    ----------
    prediction : (y, x) or (n, y, x) bool, int or float
        A mask, object ids, or probabilities of foreground, 0..1.
    truth : same shape, bool or int
        A mask, or object ids.
    metrics
        Names of `SCORES`; by default all that are defined for such arrays.
    threshold
        Probabilities above it are foreground, where no threshold is searched.
    thresholds
        Of the scores that search the best one.
    roi : same shape, or (y, x) for all planes
        Pixels where it is 0 do not count.
    ignore_label
        Pixels with this value in the truth do not count.
    connectivity
        Neighbours of a pixel in the components of a mask: 4 or 8, by default 4; of volumes 6, 18, 26, by default 6.
    as_volume
        Take (z, y, x) as one volume in place of planes that are scored alone.
    are_ids
        Whether integers are object ids, whose objects need not be connected, or masks; None: ids if there are several
        beside 0. Say True where an image may hold a single object.

    Returns
    -------
    ImageScores

    Raises
    ------
    InputError
        Shapes or values do not fit.
    ConfigError
        A name is unknown, or a setting does not fit.

    Examples
    --------
    >>> truth = np.array([[1, 1, 0, 2, 2]])
    >>> score(np.array([[1, 1, 0, 0, 2]]), truth, metrics=["iou", "ap50"]).values
    {'iou': 0.75, 'ap50': 1.0}
    """
    if truth.ndim not in (2, 3) or (as_volume and truth.ndim != 3):
        raise InputError(
            f"truth: has {truth.ndim} axes; expected {'(z, y, x)' if as_volume else '(y, x) or (n, y, x)'}"
        )
    known = NEIGHBOURS[3 if as_volume else 2]
    if connectivity not in (None, *known):
        raise ConfigError(f"connectivity {connectivity}: expected {' or '.join(map(str, known))}")
    defined = [name for name, score in SCORES.items() if not (as_volume and score.planes_only)]
    names = defined if metrics is None else list(dict.fromkeys(COUNTED_WITH.get(name, name) for name in metrics))
    if flat := [name for name in names if as_volume and name in SCORES and SCORES[name].planes_only]:
        raise ConfigError(f"metrics: {', '.join(flat)} is measured in planes", fix="leave out as_volume")
    if roi is not None and roi.shape not in (truth.shape, truth.shape[-2:]):
        raise InputError(f"roi: shape is {roi.shape}; expected the truth's, {truth.shape}, or that of a plane")
    counted = None if roi is None else np.broadcast_to(roi != 0, truth.shape)
    if ignore_label is not None:
        is_known = truth != ignore_label
        truth = np.where(is_known, truth, truth.dtype.type(0))
        counted = is_known if counted is None else counted & is_known
    at = np.index_exp[None] if truth.ndim == 2 else np.index_exp[:]
    measured = measure_slices(
        _mask_or_ids(truth, are_ids)[at],
        _mask_or_ids(prediction, are_ids)[at],
        names=names,
        threshold=threshold,
        thresholds=thresholds,
        counted=None if counted is None else counted[at],
        connectivity=connectivity or known[0],
        with_counts=True,
    )
    values = combine_slices([measured], names)
    undefined = {name: SCORES[name].undefined or "no pixel counts" for name, value in values.items() if value is None}
    conventions = {name: SCORES[name].convention for name in names}
    return ImageScores(values, undefined, conventions, add_up_slices(measured, names), add_up_counts(measured))


def summarize(images: Sequence[ImageScores]) -> dict[str, Mean]:
    """Take the mean of each score over images, with its bootstrap interval, and the score of all of them together.

    Examples
    --------
    >>> summarize([ImageScores({"iou": 0.8}), ImageScores({"iou": None})])["iou"].mean
    0.8
    """
    columns = columns_of([image.values for image in images])
    pooled = pool_images([image.totals for image in images], [n for n in columns if n in SCORES]) if images else {}
    return {
        name: Mean(mean_over_images(values), *bootstrap_interval(values), pooled.get(name))
        for name, values in columns.items()
    }


def compare(a: Sequence[ImageScores], b: Sequence[ImageScores]) -> dict[str, Difference]:
    """Compare two predictions of the same images: the Python twin of ``--compare``.

    Parameters
    ----------
    a, b
        Scores of the same images in the same order, with the same names.

    Returns
    -------
    dict
        Name of each score to the mean of b - a over the images, its interval, and which is better.

    Raises
    ------
    InputError
        If there are not as many of one as of the other, or the names differ.

    Examples
    --------
    >>> better = compare([ImageScores({"iou": v}) for v in (0.5, 0.7)], [ImageScores({"iou": v}) for v in (0.6, 0.9)])
    >>> better["iou"].better
    'b'
    """
    first, second = columns_of([image.values for image in a]), columns_of([image.values for image in b])
    if first.keys() != second.keys():
        raise InputError(f"scores are {', '.join(first)} and {', '.join(second)}; expected the same")
    return {name: paired_difference(first[name], second[name], better=SCORES[name].better) for name in first}


def _mask_or_ids(values: NDArray[Any], are_ids: bool | None) -> NDArray[Any]:
    """Take integers as a mask, if nothing else is said where they hold one value at most beside 0."""
    if values.dtype.kind in "iu" and are_ids is None:
        are_ids = bool(np.count_nonzero(np.unique(values)) > 1)
    return values != 0 if values.dtype.kind in "iu" and not are_ids else values
