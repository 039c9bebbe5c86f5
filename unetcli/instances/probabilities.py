"""Stored probabilities, as whole numbers: sums and comparisons of these are the same in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.source import Source
from unetcli.image.tiling import Box
from unetcli.kernels.heights import FULL


def quantized(probabilities: NDArray[Any]) -> NDArray[np.int64]:
    """Return stored probabilities as 0..65535: as uint8 they are 255 times what they are."""
    if probabilities.dtype == np.uint8:
        return probabilities.astype(np.int64) * (FULL // 255)
    return np.rint(probabilities.astype(np.float32) * FULL).astype(np.int64)


def read_all_channels(source: Source, box: Box) -> NDArray[Any]:
    """Read a box of an image with all channels that there are."""
    return source.read(box.replace(1, 0, source.shape[1]))
