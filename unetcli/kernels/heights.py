"""How far inside of its object a pixel lies, as whole numbers: the same in any tile that has the halo."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.kernels.distance import nearest_two

PER_PIXEL = 16
"""Heights of a distance of one pixel."""
FULL = 65535
"""The height of a probability of 1."""
WEIGHTS = 4096
"""Sum of the whole weights of a truncated Gaussian: sums over three axes stay exact in float64."""
TRUNCATE = 3.0
"""Where a Gaussian is cut off, in widths."""


def depth_inside(
    classes: NDArray[np.unsignedinteger], *, spacing: tuple[float, float, float], reach: float
) -> NDArray[np.uint16]:
    """Measure the distance of each pixel to the nearest one of another class.

    Parameters
    ----------
    classes : (z, y, x) uint
        0 = background. What lies outside of the array is not known, and is no other class.
    spacing
        Distance of neighbouring pixels along z, y, x; > 0.
    reach
        Larger distances count as this one; at most 4095.

    Returns
    -------
    (z, y, x) uint16
        Sixteenths of a pixel of x, rounded; 0 in the background.

    Notes
    -----
    Exact with a halo of ``ceil(reach / spacing)``: see `nearest_two`.
    """
    heights = np.zeros(classes.shape, np.uint16)
    for value in np.unique(classes[classes > 0]):
        of_class = classes == value
        distance, _ = nearest_two((~of_class).view(np.uint8), spacing=spacing, reach=reach)
        sixteenths = np.rint(np.minimum(distance, np.float32(reach)) * np.float32(PER_PIXEL))
        heights[of_class] = sixteenths[of_class].astype(np.uint16)
    return heights


def gaussian_weights(sigma_px: float) -> NDArray[np.int64]:
    """Return the whole weights of a Gaussian, cut off at three widths; their sum is `WEIGHTS`.

    Examples
    --------
    >>> gaussian_weights(0.5).tolist()
    [1, 436, 3222, 436, 1]
    """
    radius = math.ceil(TRUNCATE * sigma_px)
    at = np.arange(-radius, radius + 1)
    weights = np.exp(-(at**2) / (2 * sigma_px**2)) if sigma_px else np.ones(1)
    whole: NDArray[np.int64] = np.rint(WEIGHTS * weights / weights.sum()).astype(np.int64)
    whole[radius] += WEIGHTS - whole.sum()
    return whole


def smoothed(values: NDArray[np.integer], *, sigma_px: float, axes: tuple[int, ...]) -> NDArray[np.uint16]:
    """Smooth whole numbers by a truncated Gaussian along some axes; what is outside mirrors the inside.

    Parameters
    ----------
    values : (z, y, x) int
        0..65535.
    sigma_px
        Width, pixels; 0 leaves them as they are.
    axes
        Along which they are smoothed.

    Returns
    -------
    (z, y, x) uint16
        Rounded once, at the end: sums of whole numbers below 2^53 are exact, whatever their order.

    Notes
    -----
    Exact with a halo of ``ceil(3 * sigma_px)``.
    """
    total, weights = values.astype(np.float64), gaussian_weights(sigma_px)
    for axis in axes:
        total = ndimage.correlate1d(total, weights, axis=axis, mode="mirror")
    found: NDArray[np.uint16] = np.floor(total / float(WEIGHTS) ** len(axes) + 0.5).astype(np.uint16)
    return found
