"""What is suspicious in the values of label images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

MIXTURES = 8
"""So many different values at least are taken as mixtures of two others; fewer may be classes."""
RARE = 100
"""Fewer are mixtures too, where each is so many times rarer than the values it lies between."""
GAP = 32
"""Mixtures lie between values at least so far apart, such as 0 and 255; nearer ones may be ids of objects."""
LARGEST_SHARE = 0.3
"""Mixtures lie at edges, which hold a smaller part of the pixels than this."""


def interpolated(values: ArrayLike, counts: ArrayLike) -> tuple[int, ...]:
    """Tell from a histogram whether labels were resized with interpolation, smoothed, or stored as JPEG.

    Parameters
    ----------
    values, counts : (n,) int
        The different values, in any order, and the number of pixels of each.

    Returns
    -------
    tuple of int
        The two or three values that the labels were made of, in order; empty if nothing points to interpolation.

    Notes
    -----
    Interpolation mixes neighbouring values, so a mask of 0 and 255 gets edges of many values between them. It
    is found where two or three values hold at least 70 % of the pixels, and all others (eight or more) lie
    between them, at most half as frequent as the rarest of them; or fewer, each a hundred times rarer: the few
    antialiased pixels of a drawing. Object ids do not look so: their largest object is
    hardly ever that of the highest id, and twice as large as the next. Mixtures of ids can not be told from ids.

    Examples
    --------
    >>> interpolated([0, 255, 31, 47, 64, 100, 128, 191, 200, 223], [9000, 5000, 80, 9, 90, 90, 90, 80, 70, 80])
    (0, 255)
    >>> interpolated([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9000, 80, 90, 90, 90, 90, 80, 70, 60, 500])
    ()
    """
    order = np.argsort(counts)[::-1]
    found, number = np.asarray(values)[order].astype(np.float64), np.asarray(counts)[order]
    for n in (2, 3):
        main, mixed = found[:n], found[n:]
        if (
            (mixed.size >= MIXTURES or (mixed.size > 0 and RARE * number[n] <= number[n - 1]))
            and main.max() - main.min() >= GAP
            and main.min() < mixed.min()
            and mixed.max() < main.max()
            and 2 * number[n] <= number[n - 1]
            and number[n:].sum() <= LARGEST_SHARE * number.sum()
        ):
            return tuple(sorted(int(value) for value in main))
    return ()
