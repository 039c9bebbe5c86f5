"""A slice that was measured tile by tile: its tables without its pixels."""

from __future__ import annotations

import numpy as np

from unetcli.metrics.scores import SlicePair
from unetcli.metrics.tables import ContingencyTable, Counts


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
