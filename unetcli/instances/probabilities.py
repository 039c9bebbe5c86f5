"""Stored probabilities, as whole numbers: sums and comparisons of these are the same in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.source import Source, View
from unetcli.image.tiling import Box, Shape
from unetcli.kernels.heights import FULL


@dataclass(frozen=True)
class OfAllClasses(View):
    """Stored probabilities of some classes, in any order, as a source of those of all classes: 0 where there are none.

    Parameters
    ----------
    stored
        The class of each channel.
    n_classes
        How many there are.
    """

    stored: Sequence[int]
    n_classes: int

    @property
    def shape(self) -> Shape:
        """As many channels as classes."""
        t, _, *zyx = self.source.shape
        return (t, self.n_classes, *zyx)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the probabilities of all classes in a box."""
        found = np.zeros(box.replace(1, 0, self.n_classes).shape, self.dtype)
        found[:, list(self.stored)] = read_all_channels(self.source, box)
        return found


def quantized(probabilities: NDArray[Any]) -> NDArray[np.int64]:
    """Return stored probabilities as 0..65535: as uint8 they are 255 times what they are."""
    if probabilities.dtype == np.uint8:
        return probabilities.astype(np.int64) * (FULL // 255)
    return np.rint(probabilities.astype(np.float32) * FULL).astype(np.int64)


def read_all_channels(source: Source, box: Box) -> NDArray[Any]:
    """Read a box of an image with all channels that there are."""
    return source.read(box.replace(1, 0, source.shape[1]))
