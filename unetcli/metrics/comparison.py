"""How sure a mean over images is, and how two predictions of the same images differ: bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError

N_RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
_AT_ONCE = 2**22
"""Numbers drawn at once: of many images the resamples are drawn in parts."""


@dataclass(frozen=True)
class Difference:
    """How the mean of a score changes from a prediction A to a prediction B of the same images.

    Parameters
    ----------
    difference
        Mean over images of B - A; nan if no image has both.
    low, high
        Its 95 % interval; nan with fewer than two images.
    better
        ``a`` or ``b`` if 0 is outside of the interval, else None: these images do not tell.
    """

    difference: float
    low: float
    high: float
    better: Literal["a", "b"] | None


def bootstrap_interval(values: Sequence[float | None] | NDArray[np.float64]) -> tuple[float, float]:
    """Compute the 95 % interval of the mean over images: what other images of the same kind might have given.

    Parameters
    ----------
    values : (n_images,)
        One per image; None or nan = undefined, left out.

    Returns
    -------
    low, high : float
        nan with fewer than two images.

    Notes
    -----
    Percentile bootstrap [1]_: the images are drawn again with replacement 2,000 times, and 2.5 % of the means lie
    below the interval, 2.5 % above it. The draws depend on nothing but the number of images. An image is a draw, so
    images of the same specimen make it too narrow.

    References
    ----------
    .. [1] Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Examples
    --------
    >>> low, high = bootstrap_interval([0.7, 0.8, 0.9, None])
    >>> 0.7 <= low < 0.8 < high <= 0.9
    True
    """
    defined = np.array([v for v in values if v is not None and not math.isnan(v)])
    n = defined.size
    if n < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(SEED)
    step = max(1, _AT_ONCE // n)
    parts = [min(step, N_RESAMPLES - first) for first in range(0, N_RESAMPLES, step)]
    means = np.concatenate([defined[rng.integers(n, size=(part, n))].mean(axis=1) for part in parts])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(
    a: Sequence[float | None], b: Sequence[float | None], *, better: Literal["higher", "lower"]
) -> Difference:
    """Compare a score of two predictions, image by image.

    Parameters
    ----------
    a, b : (n_images,)
        Of the same images in the same order; None or nan = undefined. Images on which one is are left out.
    better
        Which direction is better.

    Returns
    -------
    Difference

    Raises
    ------
    InputError
        If there are not as many of one as of the other.

    Notes
    -----
    `bootstrap_interval` of the differences: what makes an image easy or hard for both cancels out.

    Examples
    --------
    >>> paired_difference([0.5, 0.9], [0.6, 1.0], better="higher").better
    'b'
    """
    if len(a) != len(b):
        raise InputError(f"scores are of {len(a)} and of {len(b)} images; expected the same images")
    differences = np.array([math.nan if x is None or y is None else y - x for x, y in zip(a, b, strict=True)])
    defined = differences[~np.isnan(differences)]
    low, high = bootstrap_interval(defined)
    rises, falls = low > 0, high < 0
    wins: Literal["a", "b"] | None = None
    if rises or falls:
        wins = "b" if rises == (better == "higher") else "a"
    return Difference(float(defined.mean()) if defined.size else math.nan, low, high, wins)


def mean_over_images(values: Sequence[float | None]) -> float | None:
    """Take the mean of the images on which a score is defined; None if it is on none."""
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def columns_of(rows: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    """Turn scores by image into a list of values for each score."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
