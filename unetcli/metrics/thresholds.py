"""The thresholds of the challenge, and how a probability map becomes foreground."""

from __future__ import annotations

from itertools import accumulate, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError

HALF = 0.5
"""The threshold of every score that is not searched over thresholds."""

CHALLENGE_THRESHOLDS: tuple[float, ...] = tuple(accumulate(repeat(0.1, 10), initial=0.0))
"""0 to 1 by 0.1, summed in double as Fiji does: 11 values, the last 0.9999999999999999, below 1."""


def to_probabilities(values: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Scale a stored probability map to 0..1.

    Parameters
    ----------
    values : (...) float, integer or bool
        Floats are probabilities already; integers are fractions of the largest value of their type.

    Returns
    -------
    (...) float32, or float64 of what is float64: rounded, a value may cross a threshold

    Examples
    --------
    >>> to_probabilities(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    if values.dtype.kind in "fb":
        return values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32, copy=False)
    if values.dtype.kind not in "iu":
        raise InputError(f"probabilities: type is {values.dtype}; expected numbers")
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def foreground(probabilities: NDArray[np.floating[Any]], threshold: float) -> NDArray[np.bool_]:
    """Tell which pixels lie above a threshold, strictly, compared in double.

    Parameters
    ----------
    probabilities : (...) float, 0..1
    threshold
        0..1.

    Returns
    -------
    (...) bool

    Notes
    -----
    A float32 0.2 is 0.200000003, so it is above 0.2. NumPy would round a Python 0.2 to float32 and say it is
    not; a float64 scalar keeps the comparison in double, as in Fiji.

    Examples
    --------
    >>> foreground(np.array([0.2], np.float32), 0.2).tolist()
    [True]
    """
    above: NDArray[np.bool_] = probabilities > np.float64(threshold)
    return above
