"""Gray-value statistics of a whole collection, in one streamed pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.streaming import Progress, Work, reduce_tiles, silent
from unetcli.image.tiling import Tile

BINS = 65_536
PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)


@dataclass(frozen=True)
class Table:
    """Histogram and moments of some pixels, for each channel; tables add up.

    Parameters
    ----------
    counts : (c, BINS) int64
        Histogram.
    total, squares : (c,) float64
        Sums of values and of squared values.
    low, high : (c,) float64
        Smallest and largest value.
    """

    counts: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __add__(self, other: Table) -> Table:
        return Table(
            self.counts + other.counts,
            self.total + other.total,
            self.squares + other.squares,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


def statistics(
    works: Iterable[Work], *, workers: int | None = None, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Measure mean, standard deviation, range and percentiles of each channel over all tiles.

    Integers of up to 16 bits have exact percentiles. For other types the first pass finds the range and a
    second one counts `BINS` bins in it: percentiles are off by at most a `BINS`-th of the range, and
    ``percentile_error`` says how much that is.

    Raises
    ------
    InputError
        If there are values that are not finite.
    """
    works = list(works)
    dtype = works[0].sources[0].dtype
    exact = dtype.kind in "bui" and dtype.itemsize <= 2
    origin, width = (float(np.iinfo(dtype).min), 1.0) if exact and dtype.kind != "b" else (0.0, 1.0)
    if not exact:
        rough = _measure(works, origin, np.inf, workers, progress)
        origin, width = (
            float(rough.low.min()),
            max(float(rough.high.max() - rough.low.min()) / (BINS - 1), 1e-30),
        )
    table = _measure(works, origin, width, workers, progress)
    return [_describe(table, c, origin, width, exact) for c in range(len(table.total))]


def _measure(works: list[Work], origin: float, width: float, workers: int | None, progress: Progress) -> Table:
    def measure(tile: Tile, block: NDArray[Any]) -> Table:
        channels = block.swapaxes(0, 1).reshape(block.shape[1], -1)
        if channels.dtype.kind == "f" and not (finite := np.isfinite(channels)).all():
            raise InputError(
                f"{works[0].sources[0].name}: {int((~finite).sum())} values are NaN or infinite at {tile.core}; "
                "expected finite gray values"
            )
        values = channels.astype(np.float64)
        bins = ((values - origin) / width).astype(np.int64)
        return Table(
            np.stack([np.bincount(b, minlength=BINS) for b in bins]),
            values.sum(axis=1),
            (values**2).sum(axis=1),
            values.min(axis=1),
            values.max(axis=1),
        )

    tables = reduce_tiles(measure, works, workers=workers, progress=progress)
    result = next(tables)
    for table in tables:
        result = result + table
    return result


def _describe(table: Table, channel: int, origin: float, width: float, exact: bool) -> dict[str, Any]:
    counts = table.counts[channel]
    n = int(counts.sum())
    mean = table.total[channel] / n
    variance = max(table.squares[channel] / n - mean**2, 0.0)
    cumulative = np.cumsum(counts)
    at = [int(np.searchsorted(cumulative, p / 100 * n)) for p in PERCENTILES]
    return {
        "mean": float(mean),
        "std": float(np.sqrt(variance)),
        "min": float(table.low[channel]),
        "max": float(table.high[channel]),
        "percentiles": {f"{p:g}": origin + width * b for p, b in zip(PERCENTILES, at, strict=True)},
        "percentile_error": 0.0 if exact else width,
        "pixels": n,
    }
