"""What a score is measured on: one slice at one threshold, with what several scores share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.metrics.distances import EdgeDistances, edge_distances
from unetcli.metrics.partitions import VRand, components, thin_borders, v_rand
from unetcli.metrics.tables import ContingencyTable, Counts, confusion_table, contingency_table
from unetcli.metrics.thresholds import foreground
from unetcli.metrics.topology import Warping, warp


@dataclass(frozen=True, eq=False)
class SlicePair:
    """One slice, or volume, at one threshold; what several scores share is computed once, when first asked for.

    Parameters
    ----------
    truth_mask : ([z,] y, x) bool
        Foreground of the truth.
    truth_segments : ([z,] y, x) int
        Its segments, 0 = background.
    prediction : ([z,] y, x) float, 0..1
        Probability of foreground; 0 or 1 for a mask or labels.
    prediction_ids : ([z,] y, x) int or None
        Object ids, if the prediction is labels.
    threshold
        Foreground of the prediction is above it.
    connectivity
        Neighbours of a pixel, where segments are components: `components`.
    """

    truth_mask: NDArray[np.bool_]
    truth_segments: NDArray[Any]
    prediction: NDArray[np.floating[Any]]
    prediction_ids: NDArray[Any] | None
    threshold: float
    connectivity: int | None = None

    @cached_property
    def prediction_mask(self) -> NDArray[np.bool_]:
        """([z,] y, x) Foreground of the prediction."""
        return foreground(self.prediction, self.threshold)

    @cached_property
    def prediction_segments(self) -> NDArray[Any]:
        """([z,] y, x) Segments of the prediction: its ids, else the components of its foreground."""
        if self.prediction_ids is not None:
            return self.prediction_ids
        return components(self.prediction_mask, self.connectivity)

    @cached_property
    def confusion(self) -> Counts:
        """(2, 2) Pixels by truth and prediction."""
        return confusion_table(self.truth_mask, self.prediction_mask)

    @cached_property
    def overlaps(self) -> ContingencyTable:
        """Overlaps of the segments."""
        return contingency_table(self.truth_segments, self.prediction_segments)

    @cached_property
    def thinned_overlaps(self) -> ContingencyTable:
        """Overlaps of the segments, the prediction thinned."""
        return contingency_table(self.truth_segments, thin_borders(self.prediction_segments))

    @cached_property
    def v_rand(self) -> VRand:
        """V_Rand of the thinned prediction."""
        return v_rand(self.thinned_overlaps)

    @cached_property
    def warping(self) -> Warping:
        """The truth, warped towards the prediction."""
        return warp(self.truth_mask, self.prediction, threshold=self.threshold)

    @cached_property
    def edge_distances(self) -> EdgeDistances:
        """Distances between the edges of the foreground."""
        return edge_distances(self.truth_mask, self.prediction_mask)


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
