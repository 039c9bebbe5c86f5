"""Scores of objects: which of the truth were found, and how well; from a contingency table."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching

from unetcli.metrics.tables import ContingencyTable, ObjectPairs, ratio

AP_TWENTIETHS = range(10, 20)
"""The thresholds of the mean average precision, 0.5, 0.55 .. 0.95, in steps of 0.05."""


# --- one partner each -------------------------------------------------------------------------------------


def count_matches(objects: ObjectPairs, twentieths: int = 10) -> int:
    """Count the true positives at a threshold of the IoU.

    Parameters
    ----------
    objects
        Pairs of objects of an image.
    twentieths
        The threshold in steps of 0.05: 10 for 0.5. In integers, so that an IoU of exactly the threshold counts.

    Returns
    -------
    int

    Notes
    -----
    Two objects match if their IoU is at least the threshold. Above 0.5 none has two partners; up to 0.5 the matching
    with the most pairs counts.
    """
    close = 20 * objects.shared >= twentieths * objects.union
    if twentieths > 10 or not close.any():
        return int(np.count_nonzero(close))
    pairs = objects.truth[close], objects.prediction[close]
    graph = coo_array((np.ones(len(pairs[0]), np.int8), pairs)).tocsr()
    return int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))


def average_precision(table: ContingencyTable, twentieths: int = 10) -> float:
    """Compute the average precision at a threshold of the IoU, ``TP / (TP + FP + FN)``.

    Parameters
    ----------
    table
        Overlaps of the objects of an image.
    twentieths
        The threshold in steps of 0.05: 10 for 0.5.

    Returns
    -------
    float
        0 .. 1; nan if neither side has an object.

    Notes
    -----
    By `count_matches`. This is the AP of the Data Science Bowl 2018, StarDist and Cellpose.
    """
    return ratio(*match_totals(table, twentieths))


def match_totals(table: ContingencyTable, twentieths: int = 10) -> tuple[int, int]:
    """Count what `average_precision` divides: TP, and TP + FP + FN; those of several images add up."""
    matched = count_matches(table.objects, twentieths)
    return matched, table.objects.n_truth + table.objects.n_prediction - matched


def mean_average_precision(table: ContingencyTable) -> float:
    """Compute the mean of `average_precision` over the thresholds 0.5, 0.55 .. 0.95; nan as there."""
    return float(np.mean([average_precision(table, twentieths) for twentieths in AP_TWENTIETHS]))


class PanopticQuality(NamedTuple):
    """The panoptic quality of one image and its factors, each 0..1, 1 = perfect.

    Parameters
    ----------
    pq
        ``sq * rq``.
    sq
        Segmentation quality: mean IoU of the matched pairs; 0 without one.
    rq
        Recognition quality: ``TP / (TP + FP/2 + FN/2)``.
    """

    pq: float
    sq: float
    rq: float


def panoptic_quality(table: ContingencyTable) -> PanopticQuality:
    """Compute the panoptic quality.

    Parameters
    ----------
    table
        Overlaps of the objects of an image.

    Returns
    -------
    PanopticQuality
        nan if neither side has an object.

    Notes
    -----
    Two objects match if their IoU is **above** 0.5 [1]_; StarDist and panoptica count 0.5 too.

    References
    ----------
    .. [1] Kirillov et al., "Panoptic Segmentation", CVPR 2019.
    """
    return panoptic_of_totals(*panoptic_totals(table))


def panoptic_totals(table: ContingencyTable) -> tuple[float, int, int]:
    """Add up the IoU of the matches of `panoptic_quality`, and count them and the objects of both sides."""
    objects = table.objects
    ious = (objects.shared / objects.union)[2 * objects.shared > objects.union]
    return float(ious.sum()), len(ious), objects.n_truth + objects.n_prediction


def panoptic_of_totals(sum_of_ious: float, n_matched: int, n_objects: int) -> PanopticQuality:
    """Turn the totals of one image, or the sums of those of several, into the panoptic quality."""
    if n_objects == 0:
        return PanopticQuality(math.nan, math.nan, math.nan)
    rq = 2 * n_matched / n_objects
    sq = sum_of_ious / n_matched if n_matched else 0.0
    return PanopticQuality(sq * rq, sq, rq)


def aji(table: ContingencyTable) -> float:
    """Compute the aggregated Jaccard index in its one-to-one form, as Cellpose does.

    Parameters
    ----------
    table
        Overlaps of the objects of an image.

    Returns
    -------
    float
        0 .. 1; nan if neither side has an object.

    Notes
    -----
    Pixels shared by partners, of all pixels that are foreground on either side. Each object has one partner at most:
    as many pairs as can be have an IoU of 0.5 or more, and then the sum of the IoU is largest. In the original form
    [1]_ a predicted object may serve several true ones, and what is left over counts by its whole area.

    References
    ----------
    .. [1] Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for Computational Pathology",
       IEEE TMI 36, 2017.
    """
    shared = table.objects.shared[_partners(table.objects)]
    background = table.counts[(table.truth_ids == 0) & (table.prediction_ids == 0)]
    return ratio(int(shared.sum()), table.n_pixels - int(background.sum()))


def _partners(objects: ObjectPairs) -> NDArray[np.bool_]:
    """Tell which pairs the assignment of `aji` chooses."""
    chosen: NDArray[np.bool_] = 2 * objects.shared > objects.union  # each is its objects' only chance to reach 0.5
    is_taken = np.isin(objects.truth, objects.truth[chosen]) | np.isin(objects.prediction, objects.prediction[chosen])
    left = np.flatnonzero(~is_taken)
    if not len(left):
        return chosen
    rows, row = np.unique(objects.truth[left], return_inverse=True)
    columns, column = np.unique(objects.prediction[left], return_inverse=True)
    # Each true object may also take a column of its own, of weight 1: it stays alone.
    each = np.arange(len(rows))
    weights = 1 + objects.shared[left] / objects.union[left] / (2 * len(rows))
    weights[2 * objects.shared[left] == objects.union[left]] += 1
    ends = np.concatenate([row, each]), np.concatenate([column, len(columns) + each])
    graph = coo_array((np.concatenate([weights, np.ones(len(rows))]), ends)).tocsr()
    partner = min_weight_full_bipartite_matching(graph, maximize=True)[1]
    chosen[left] = partner[row] == column
    return chosen


# --- Cell Tracking Challenge: whatever covers more than half of a true object -----------------------------


def seg(table: ContingencyTable) -> float:
    """Compute the SEG score of the Cell Tracking Challenge: the mean over true objects of the IoU with their partner.

    Parameters
    ----------
    table
        Overlaps of the objects of an image.

    Returns
    -------
    float
        0 .. 1; nan if the truth has no object.

    Notes
    -----
    The partner of a true object is the predicted one that covers more than half of it; without one it adds 0.
    Predicted objects that are nobody's partner cost nothing.
    """
    return ratio(*seg_totals(table))


def seg_totals(table: ContingencyTable) -> tuple[float, int]:
    """Add up the IoU that `seg` is the mean of, and count the true objects; those of all frames are pooled."""
    objects = table.objects
    return float((objects.shared / objects.union)[_covers(objects)].sum()), objects.n_truth


def det(table: ContingencyTable) -> float:
    """Compute the DET score of the Cell Tracking Challenge: how much work it would be to mend the detections.

    Parameters
    ----------
    table
        Overlaps of the objects of an image.

    Returns
    -------
    float
        0 .. 1, 1 = nothing to mend; nan if the truth has no object.

    Notes
    -----
    ``1 - min(AOGM, AOGM0) / AOGM0``, ``AOGM = 5 NS + 10 FN + FP``, and ``AOGM0 = 10 n_truth`` is to draw all objects
    [1]_. A true object is found by the predicted one that covers more than half of it; one that finds k is to be
    split k - 1 times (NS), one that finds none is to be removed (FP).

    References
    ----------
    .. [1] Matula et al., "Cell Tracking Accuracy Measurement Based on Comparison of Acyclic Oriented Graphs", PLoS
       ONE 10(12), 2015.
    """
    return det_of_totals(*det_totals(table))


def det_totals(table: ContingencyTable) -> tuple[int, int]:
    """Count the work to mend the detections, and that to draw all objects; those of all frames are pooled."""
    objects = table.objects
    found = int(np.count_nonzero(_covers(objects)))
    used = len(np.unique(objects.prediction[_covers(objects)]))
    work = 5 * (found - used) + 10 * (objects.n_truth - found) + objects.n_prediction - used
    return work, 10 * objects.n_truth


def det_of_totals(work: int, all_work: int) -> float:
    """Turn the work in one image, or its sum over several, into DET."""
    return ratio(all_work - min(work, all_work), all_work)


def _covers(objects: ObjectPairs) -> NDArray[np.bool_]:
    """Tell which pairs are of a true object and the predicted one that covers more than half of it."""
    covers: NDArray[np.bool_] = 2 * objects.shared > objects.truth_sizes
    return covers
