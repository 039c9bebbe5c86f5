"""Gray-value statistics of a whole collection, streamed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.streaming import Progress, Work, reduce_tiles, silent
from unetcli.image.tiling import Tile

BINS = 65_536
PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)

Block = NDArray[Any]


def statistics(
    works: Iterable[Work], *, workers: int | None = None, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Measure mean, standard deviation, range and percentiles of each channel over all tiles.

    Integers of up to 16 bits are counted value by value, in one pass, and everything is exact. For other types
    a first pass takes moments and range, and a second one counts `BINS` bins of the range: percentiles
    are off by at most a bin, and ``percentile_error`` says how wide that is.

    Raises
    ------
    InputError
        If there are values that are not finite.
    """
    works = list(works)
    dtype = works[0].sources[0].dtype
    run = partial(reduce_tiles, works=works, workers=workers, progress=progress)
    exact = dtype.kind in "bui" and dtype.itemsize <= 2
    if exact:
        origin, width = int(np.iinfo(dtype).min) if dtype.kind == "i" else 0, 1.0
        counts = _sum(run(partial(_counts, origin=origin, width=None)))
        moments = np.stack([_moments_of_counts(c, origin + np.arange(BINS)) for c in counts])
    else:
        moments = reduce(_join_moments, run(_moments))
        origin = moments[:, 3].min()
        width = max((moments[:, 4].max() - origin) / (BINS - 1), 1e-30)
        counts = _sum(run(partial(_counts, origin=origin, width=width)))
    return [_describe(c, m, origin, width, 0.0 if exact else width) for c, m in zip(counts, moments, strict=True)]


def _sum(tables: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return reduce(np.add, tables)


def _channels(block: Block) -> list[Block]:
    """Return the pixels of each channel of a (t, c, z, y, x) block."""
    return [block[:, c].ravel() for c in range(block.shape[1])]


def _counts(_: Tile, block: Block, *, origin: float, width: float | None) -> NDArray[np.int64]:
    """Count the pixels in each bin, (c, BINS)."""
    return np.stack([np.bincount(_bins(values, origin, width), minlength=BINS) for values in _channels(block)])


def _bins(values: Block, origin: float, width: float | None) -> Block:
    if width is None:  # integers: a bin for each value
        return values.astype(np.int32) - int(origin)
    return ((values - np.float64(origin)) / width).astype(np.int32)


def check_finite(tile: Tile, block: Block) -> None:
    """Raise an `InputError` if a block holds NaN or infinity, which nothing can be learned from."""
    if block.dtype.kind == "f" and not (finite := np.isfinite(block)).all():
        raise InputError(
            f"{block.size - np.count_nonzero(finite)} values are NaN or infinite at {tile.core}; "
            "expected finite gray values",
            fix="replace them, for example with 0, before the image is prepared",
        )


def _moments(tile: Tile, block: Block) -> NDArray[np.float64]:
    """Return number, mean, sum of squared deviations, least and largest value of each channel, (c, 5)."""
    check_finite(tile, block)
    rows = []
    for values in _channels(block):
        mean = values.mean(dtype=np.float64)
        rows.append((values.size, mean, np.square(values - mean).sum(), values.min(), values.max()))
    return np.array(rows, dtype=np.float64)


def _join_moments(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join the moments of two parts without the cancellation of plain sums (Chan, Golub, LeVeque 1979)."""
    n = a[:, 0] + b[:, 0]
    shift = b[:, 1] - a[:, 1]
    mean = a[:, 1] + shift * b[:, 0] / n
    deviations = a[:, 2] + b[:, 2] + shift**2 * a[:, 0] * b[:, 0] / n
    return np.column_stack([n, mean, deviations, np.minimum(a[:, 3], b[:, 3]), np.maximum(a[:, 4], b[:, 4])])


def _moments_of_counts(counts: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the same as `_moments` from a histogram with a bin for each value."""
    n, present = counts.sum(), values[counts > 0]
    mean = (counts * values).sum() / n
    return np.array([n, mean, (counts * (values - mean) ** 2).sum(), present.min(), present.max()], dtype=np.float64)


def _describe(
    counts: NDArray[np.int64], moments: NDArray[np.float64], origin: float, width: float, error: float
) -> dict[str, Any]:
    n, mean, deviations, low, high = moments.tolist()
    cumulative = np.cumsum(counts)
    at = [int(np.searchsorted(cumulative, p / 100 * n)) for p in PERCENTILES]
    return {
        "mean": mean,
        "std": float(np.sqrt(deviations / n)),
        "min": low,
        "max": high,
        "percentiles": {f"{p:g}": float(origin + width * b) for p, b in zip(PERCENTILES, at, strict=True)},
        "percentile_error": error,
        "pixels": int(n),
    }
