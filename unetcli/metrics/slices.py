"""What a score is measured on: one slice at one threshold, with what several scores share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.metrics.distances import EdgeDistances, edge_distances
from unetcli.metrics.partitions import VRand, components, thin_borders, v_rand
from unetcli.metrics.tables import ContingencyTable, Counts, confusion_table, contingency_table
from unetcli.metrics.thresholds import HALF, foreground
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
    counted : ([z,] y, x) bool or None
        Pixels that count; the others are background of both sides here. None: all count.
    uncut
        The same slice with the pixels that do not count as they are; None where all count.
    """

    truth_mask: NDArray[np.bool_]
    truth_segments: NDArray[Any]
    prediction: NDArray[np.floating[Any]]
    prediction_ids: NDArray[Any] | None
    threshold: float
    connectivity: int | None = None
    counted: NDArray[np.bool_] | None = None
    uncut: SlicePair | None = None

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
    def warping(self) -> Warping:
        """The truth, warped towards the prediction: only pixels that count flip, and what is around them stays."""
        whole = self.uncut or self
        return warp(whole.truth_mask, whole.prediction, threshold=self.threshold, mask=self.counted)

    @cached_property
    def edge_distances(self) -> EdgeDistances:
        """Distances between the edges of the foreground."""
        return edge_distances(self.truth_mask, self.prediction_mask)

    def _kept(self, array: NDArray[Any]) -> NDArray[Any]:
        """Keep the pixels that count."""
        return array if self.counted is None else array[self.counted]


class SummedPair(SlicePair):
    """A slice of which only the tables are there, summed over its tiles: all that a score that streams asks for.

    Parameters
    ----------
    confusion : (2, 2) int64
        Pixels by truth and prediction.
    overlaps
        Overlaps of the segments; None where these are not known from a tile alone.
    threshold
        Foreground of the prediction is above it.
    """

    def __init__(self, confusion: Counts, overlaps: ContingencyTable | None, threshold: float) -> None:
        nothing = np.zeros((0, 0), np.int64)
        super().__init__(nothing != 0, nothing, nothing.astype(np.float32), nothing, threshold)
        self.__dict__["confusion"] = confusion  # in place of what the class computes from pixels
        if overlaps is not None:
            self.__dict__["overlaps"] = overlaps


def slice_pairs(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    thresholds: Sequence[float],
    *,
    counted: NDArray[np.bool_] | None = None,
    connectivity: int | None = None,
) -> Iterator[SlicePair]:
    """Yield a slice, or a volume, at each threshold.

    Parameters
    ----------
    truth : ([z,] y, x) bool or int
        A mask, or object ids.
    prediction : ([z,] y, x) bool, int or float
        The same, or probabilities.
    thresholds
        Foreground is above.
    counted : ([z,] y, x) bool or None
        Pixels that count; None: all.
    connectivity
        Of the components of a mask.
    """
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
