"""Scores of single pixels, each a function of a confusion table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetcli.metrics.tables import Counts, confusion_table, ratio
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, foreground


def iou(table: Counts, class_id: int = 1) -> float:
    """Compute intersection over union of one class.

    Parameters
    ----------
    table : (n_classes, n_classes) int64
        Pixels by truth (rows) and prediction (columns): `confusion_table`.
    class_id
        The class, against all others.

    Returns
    -------
    float
        0..1, 1 = perfect, and 1 where neither side has the class.

    Notes
    -----
    ``TP / (TP + FP + FN)``.

    Examples
    --------
    >>> iou(confusion_table(np.array([0, 1, 1]), np.array([0, 0, 1])))
    0.5
    """
    hit, false = _hits_and_errors(table, class_id)
    return hit / (hit + false) if hit + false else 1.0


def dice(table: Counts, class_id: int = 1) -> float:
    """Compute the Dice coefficient of one class, which is the F-score of its pixels.

    Parameters
    ----------
    table : (n_classes, n_classes) int64
        Pixels by truth (rows) and prediction (columns): `confusion_table`.
    class_id
        The class, against all others.

    Returns
    -------
    float
        0..1, 1 = perfect, and 1 where neither side has the class.

    Notes
    -----
    ``2 TP / (2 TP + FP + FN)``.
    """
    hit, false = _hits_and_errors(table, class_id)
    return 2 * hit / (2 * hit + false) if hit + false else 1.0


pixel_fscore = dice
"""The F-score of the pixels, cells being the positive class, as the challenge calls it."""


class ClassScores(NamedTuple):
    """How well the pixels of one class were found, each 0..1, 1 = perfect.

    Parameters
    ----------
    iou, dice
        Overlap; 1 where neither side has the class.
    precision
        Share of the predicted pixels that are of the class; nan where none is predicted.
    recall
        Share of the true pixels that were found; nan where the truth has none.
    """

    iou: float
    dice: float
    precision: float
    recall: float


def class_scores(table: Counts) -> list[ClassScores]:
    """Score each class against all others.

    Parameters
    ----------
    table : (n_classes, n_classes) int64
        Pixels by truth (rows) and prediction (columns): `confusion_table`.

    Returns
    -------
    list
        One for each class, background (0) included.
    """
    hits, true, predicted = np.diag(table).tolist(), table.sum(axis=1).tolist(), table.sum(axis=0).tolist()
    return [
        ClassScores(iou(table, k), dice(table, k), ratio(hits[k], predicted[k]), ratio(hits[k], true[k]))
        for k in range(len(table))
    ]


def pixel_error(table: Counts) -> float:
    """Compute the share of pixels whose class differs.

    Parameters
    ----------
    table : (n_classes, n_classes) int64
        Pixels by truth (rows) and prediction (columns): `confusion_table`.

    Returns
    -------
    float
        0..1, 0 = perfect; nan without a pixel.
    """
    n = int(table.sum())
    return ratio(n - int(np.trace(table)), n)


def max_pixel_fscore(
    truth: NDArray[Any],
    probabilities: NDArray[np.floating[Any]],
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
) -> float:
    """Find the best pixel F-score over thresholds.

    Parameters
    ----------
    truth : (...) int or bool
        Foreground is nonzero.
    probabilities : (...) float, 0..1
    thresholds
        At least one.

    Returns
    -------
    float
        0..1, 1 = perfect.

    Notes
    -----
    1 minus this is the "pixel error" of the first board of the ISBI 2012 challenge. It is not the least
    `pixel_error`.
    """
    tables = (confusion_table(truth != 0, foreground(probabilities, t)) for t in thresholds)
    return max(pixel_fscore(table) for table in tables)


def _hits_and_errors(table: Counts, class_id: int) -> tuple[int, int]:
    """Count the true positives of a class, and its false positives and negatives together."""
    hit = int(table[class_id, class_id])
    return hit, int(table[class_id].sum()) + int(table[:, class_id].sum()) - 2 * hit
