"""Scores of objects: which of the truth were found, and how well; from a contingency table."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from unetcli.metrics.tables import ContingencyTable, Counts


class Overlaps(NamedTuple):
    """The pairs of a true and a predicted object that share pixels; background (0) is no object.

    Parameters
    ----------
    truth, prediction : (n_pairs,) int64
        Index of each object among those of its side.
    shared, union : (n_pairs,) int64
        Pixels that both have, and that either has.
    truth_sizes, prediction_sizes : (n_truth,), (n_prediction,) int64
        Pixels of each object.
    """

    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    shared: Counts
    union: Counts
    truth_sizes: Counts
    prediction_sizes: Counts


def overlaps(table: ContingencyTable) -> Overlaps:
    """List the pairs of objects that share pixels."""
    truth_ids, truth_index = np.unique(table.truth_ids, return_inverse=True)
    prediction_ids, prediction_index = np.unique(table.prediction_ids, return_inverse=True)
    truth_sizes, prediction_sizes = table.truth_sizes, table.prediction_sizes
    both = (table.truth_ids != 0) & (table.prediction_ids != 0)
    truth, prediction, shared = truth_index[both], prediction_index[both], table.counts[both]
    union = truth_sizes[truth] + prediction_sizes[prediction] - shared
    first_truth, first_prediction = (int(0 in ids) for ids in (truth_ids, prediction_ids))
    return Overlaps(
        truth - first_truth,
        prediction - first_prediction,
        shared,
        union,
        truth_sizes[truth_ids != 0],
        prediction_sizes[prediction_ids != 0],
    )


def average_precision(table: ContingencyTable, twentieths: int = 10) -> float:
    """Return the average precision at a threshold of the IoU, ``TP / (TP + FP + FN)``.

    Parameters
    ----------
    table
        Overlaps of the objects of an image.
    twentieths
        The threshold in steps of 0.05: 10 for 0.5. In integers, so that an IoU of exactly the threshold counts.

    Returns
    -------
    float
        0 .. 1; nan if neither side has an object.

    Notes
    -----
    Two objects match if their IoU is at least the threshold; above 0.5 no object has two partners, up to 0.5 the
    matching with the most pairs counts. This is the AP of the Data Science Bowl 2018, StarDist and Cellpose.
    """
    found = overlaps(table)
    n_truth, n_prediction = len(found.truth_sizes), len(found.prediction_sizes)
    if n_truth + n_prediction == 0:
        return math.nan
    close = 20 * found.shared >= twentieths * found.union
    pairs = found.truth[close], found.prediction[close]
    graph = coo_array((np.ones(len(pairs[0]), np.int8), pairs), shape=(n_truth, n_prediction)).tocsr()
    matched = int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum()) if graph.nnz else 0
    return matched / (n_truth + n_prediction - matched)


def seg(table: ContingencyTable) -> float:
    """Return the SEG score of the Cell Tracking Challenge: the mean over true objects of the IoU with their partner.

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
    found = overlaps(table)
    if not len(found.truth_sizes):
        return math.nan
    covers = 2 * found.shared > found.truth_sizes[found.truth]
    return float((found.shared[covers] / found.union[covers]).sum() / len(found.truth_sizes))
