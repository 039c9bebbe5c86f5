"""Gray-value statistics of a whole collection: tables of each tile that add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.tiling import Tile, spans

BINS = 65_536
PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)
PIECE = 2**18
"""Pixels that are counted at once, so that they stay in the processor's cache."""
SMALLEST_EXPONENT = -1000
"""Of the width of a bin: values that are all 0 would ask for less than a float64 can be divided by."""

Block = NDArray[Any]


@dataclass(frozen=True)
class Tally:
    """Moments and histogram of some gray values; two of them join to that of all their values.

    Parameters
    ----------
    n, mean, deviations, low, high
        Number of values, mean, sum of squared deviations from it, least and largest value.
    exponent
        Bins are ``2**exponent`` wide and lie on multiples of that, so that those of any two tallies nest.
    first
        Number of the first bin: values from ``first * 2**exponent`` on.
    counts : (n_bins,) int64
        Values in each bin; at most `BINS` bins.
    is_exact
        Whether a bin stands for a single value: integers, ``exponent`` 0.
    """

    n: int
    mean: float
    deviations: float
    low: float
    high: float
    exponent: int
    first: int
    counts: NDArray[np.int64]
    is_exact: bool


def statistics(tallies: Iterable[Mapping[int, Tally]]) -> list[dict[str, Any]]:
    """Join the tallies of all tiles, each of some channels, and describe each channel.

    Returns
    -------
    list of dict
        Of each channel ``mean``, ``std``, ``min``, ``max``, ``percentiles``, number of ``pixels``, and
        ``percentile_error``: how far off a percentile can be. It is 0 for integers that span less than 65,536
        values, and at most a 65,535th of the range for others, so one pass over the pixels is enough.
    """
    channels: dict[int, Tally] = {}
    for tallied in tallies:
        for c, found in tallied.items():
            channels[c] = join(channels[c], found) if c in channels else found
    return [_describe(channels[c]) for c in sorted(channels)]


def tally_channels(tile: Tile, block: Block) -> dict[int, Tally]:
    """Count the gray values of each channel of a (t, c, z, y, x) block, by the channel's number in the image.

    Raises
    ------
    InputError
        If there are values that are not finite.
    """
    check_finite(tile, block)
    first = tile.core.start[1]
    return {first + c: tally(np.ascontiguousarray(block[:, c]).ravel()) for c in range(block.shape[1])}


def check_finite(tile: Tile, block: Block) -> None:
    """Raise an `InputError` if a block holds NaN or infinity, which nothing can be learned from."""
    if block.dtype.kind == "f" and not (finite := np.isfinite(block)).all():
        raise InputError(
            f"{block.size - np.count_nonzero(finite)} values are NaN or infinite at {tile.core}; "
            "expected finite gray values",
            fix="replace them, for example with 0, before the image is prepared",
        )


def tally(values: Block) -> Tally:
    """Count values, (n,) of any integer or float type, at least one and all finite."""
    is_float = values.dtype.kind == "f"
    low, high = values.min().item(), values.max().item()
    exponent = _exponent(low, high) if is_float else max(0, _exponent(low, high))
    first = _bin_of(low, exponent)
    counts = np.zeros(_bin_of(high, exponent) - first + 1, np.int64)
    for a, b in spans(0, values.size, PIECE):
        counts += np.bincount(_bins(values[a:b], exponent, first), minlength=counts.size)
    is_exact = not is_float and exponent == 0
    if is_exact:
        present = first + np.arange(counts.size)
        mean = float((counts * present).sum() / values.size)
        deviations = float((counts * (present - mean) ** 2).sum())
    else:
        mean = float(values.mean(dtype=np.float64))
        deviations = float(np.square(values - np.float64(mean)).sum())
    return Tally(values.size, mean, deviations, float(low), float(high), exponent, first, counts, is_exact)


def join(a: Tally, b: Tally) -> Tally:
    """Join two tallies, without the cancellation of plain sums (Chan, Golub, LeVeque 1979)."""
    n, shift = a.n + b.n, b.mean - a.mean
    low, high = min(a.low, b.low), max(a.high, b.high)
    exponent = max(a.exponent, b.exponent, _exponent(low, high))
    first = _bin_of(low, exponent)
    counts = np.zeros(_bin_of(high, exponent) - first + 1, np.int64)
    for part in (a, b):
        bins = (part.first + np.arange(part.counts.size)) >> min(exponent - part.exponent, 62)
        counts += np.bincount(bins - first, weights=part.counts, minlength=counts.size).astype(np.int64)
    return Tally(
        n,
        a.mean + shift * b.n / n,
        a.deviations + b.deviations + shift**2 * a.n * b.n / n,
        low,
        high,
        exponent,
        first,
        counts,
        a.is_exact and b.is_exact and exponent == 0,
    )


def _exponent(low: float, high: float) -> int:
    """Return the least exponent whose bins are not too many.

    Bins are at least as wide as the steps of a float64 of that size: the numbers of bins stay exact.
    """
    step = math.frexp(max(abs(low), abs(high)))[1] - 52
    span = math.frexp(high / BINS - low / BINS)[1] - 1 if high > low else step
    exponent = max(step, span, SMALLEST_EXPONENT)
    while _bin_of(high, exponent) - _bin_of(low, exponent) >= BINS:
        exponent += 1
    return exponent


def _bins(values: Block, exponent: int, first: int) -> Block:
    if values.dtype.kind == "f":
        return np.floor(values.astype(np.float64) / 2.0**exponent).astype(np.int64) - first
    if values.dtype.kind == "u" and exponent == 0:
        bins: Block = values - values.dtype.type(first)
        return bins
    bins = values.astype(np.int64)
    bins >>= exponent
    bins -= first
    return bins


def _bin_of(value: float, exponent: int) -> int:
    return math.floor(value / 2.0**exponent)


def _describe(tally: Tally) -> dict[str, Any]:
    cumulative = np.cumsum(tally.counts)
    at = [tally.first + int(np.searchsorted(cumulative, p / 100 * tally.n)) for p in PERCENTILES]
    width = 2.0**tally.exponent
    values = [float(i) if tally.is_exact else min(max((i + 0.5) * width, tally.low), tally.high) for i in at]
    return {
        "mean": tally.mean,
        "std": math.sqrt(tally.deviations / tally.n),
        "min": tally.low,
        "max": tally.high,
        "percentiles": {f"{p:g}": value for p, value in zip(PERCENTILES, values, strict=True)},
        "percentile_error": 0.0 if tally.is_exact else width / 2,
        "pixels": tally.n,
    }
