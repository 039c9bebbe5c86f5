"""The table of objects: one row each, of sums of whole numbers, so that its bytes do not depend on tiles."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.atomic import writing_atomically
from unetcli.errors import ConfigError
from unetcli.image.axes import AXES, Axes
from unetcli.image.source import Source
from unetcli.image.streaming import Progress, reduce_tiles, silent, work_on
from unetcli.image.tiling import Tile
from unetcli.instances.find import Segmented, likeliest_class
from unetcli.instances.probabilities import quantized, read_all_channels
from unetcli.kernels.heights import FULL
from unetcli.kernels.measure import CLASS, PROBABILITY, SIZE, START, STOP, TOTAL, add_up, measure, nothing
from unetcli.labelling import grid_over

Block = NDArray[Any]
ROWS = 10_000
"""So many are made at once."""


@dataclass(frozen=True)
class Objects:
    """What was measured of the objects of an image.

    Parameters
    ----------
    image
        Its name.
    axes
        Of the ids.
    ndim
        2: objects lie in planes, 3: in volumes.
    classes
        Names.
    stored
        The classes whose probability is known.
    measured : (n + 1, k) int64
        See `unetcli.kernels.measure`; the first row is that of no object.
    """

    image: str
    axes: Axes
    ndim: int
    classes: Sequence[str]
    stored: Sequence[int]
    measured: NDArray[np.int64]

    def columns(self) -> list[str]:
        """Name the columns of the table."""
        space = "zyx"[3 - self.ndim :]
        outer = [a for a in AXES[: 5 - self.ndim] if a in self.axes.names and a != "c"]
        size = "area" if self.ndim == 2 else "volume"
        return [
            *("image", "id", "class", *outer, f"{size}_px"),
            *([f"{size}_um{self.ndim}"] if self._micrometers else []),
            *(f"centroid_{a}_px" for a in space),
            *(f"{a}_{end}" for end in ("start", "stop") for a in space),
            *(["mean_probability"] if self.measured.shape[1] > PROBABILITY else []),
        ]

    @property
    def _micrometers(self) -> float:
        """Area, or volume, of a pixel in µm to the power of `ndim`; 0 where it is not known."""
        return math.prod(self.axes.micrometers_of(a) or 0.0 for a in "zyx"[3 - self.ndim :])

    def row(self, number: int) -> dict[str, Any]:
        """Return the row of an object."""
        found = [int(n) for n in self.measured[number]]
        size, which = found[SIZE], found[CLASS]
        at = dict(
            zip("tzyx", zip(found[START:STOP], found[STOP:TOTAL], found[TOTAL:PROBABILITY], strict=True), strict=True)
        )
        name = "area" if self.ndim == 2 else "volume"
        values: dict[str, Any] = {"image": self.image, "id": number, "class": self.classes[which]}
        values |= {axis: start for axis, (start, _, _) in at.items()}
        values |= {f"{name}_px": size, f"{name}_um{self.ndim}": size * self._micrometers}
        for axis, (start, stop, total) in at.items():
            values |= {f"centroid_{axis}_px": total / size, f"{axis}_start": start, f"{axis}_stop": stop}
        if len(found) > PROBABILITY:
            values["mean_probability"] = found[PROBABILITY + which] / (size * FULL) if which in self.stored else None
        return {column: values[column] for column in self.columns()}

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows, some at a time, by id."""
        n = len(self.measured)
        for first in range(1, n, ROWS):
            yield [self.row(number) for number in range(first, min(first + ROWS, n))]


def measure_objects(
    segmented: Segmented,
    ids: Source,
    *,
    n: int,
    image: str,
    classes: Sequence[str],
    stored: Sequence[int],
    threshold: float | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Objects:
    """Measure the objects of an image, tile by tile.

    Parameters
    ----------
    segmented
        What they were made of.
    ids
        Their complete ids, 1..n.
    n, image, classes
        Number of objects; names of the image, and of the classes.
    stored
        The classes whose probability is known.
    threshold
        Of probability, where classes follow from it.
    """
    by_threshold = threshold if segmented.probabilities is not None else None

    def look(tile: Tile, ids: Block, mask: Block, *probabilities: Block) -> tuple[Block, Block]:
        t, _, z, y, x = ids.shape
        found = quantized(probabilities[0]) if probabilities else np.zeros((t, 0, z, y, x), np.int64)
        of_class = mask if by_threshold is None else likeliest_class(found, by_threshold)
        start = (tile.core.start[0], *tile.core.start[2:])
        return measure(ids[:, 0], of_class[:, 0], np.moveaxis(found, 1, 0), start)

    sources = [ids, segmented.mask, *([segmented.probabilities] if segmented.probabilities is not None else [])]
    works = work_on(segmented.name, grid_over(ids.shape, segmented.ndim), sources)
    total = nothing(n, 0 if segmented.probabilities is None else segmented.probabilities.shape[1])
    for found, table in reduce_tiles(look, works, read=read_all_channels, workers=workers, progress=progress):
        add_up(total, found, table)
    return Objects(image, ids.axes, segmented.ndim, classes, stored, total)


def check_table(path: Path) -> None:
    """Refuse a table that can not be written.

    Raises
    ------
    ConfigError
        If its name does not end in .csv or .parquet, or what writes Parquet is not installed.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(f"--table {path}: expected a name that ends in .csv or .parquet", fix="--table objects.csv")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"--table {path}: Parquet needs pyarrow, which is not installed",
                fix="pip install 'unetcli[parquet]', or --table objects.csv",
            ) from error


def write_table(path: Path, objects: Sequence[Objects]) -> None:
    """Write the table of the objects of all images, as CSV or Parquet; the file appears whole.

    A single image has no column of its name.
    """
    columns = list(dict.fromkeys(column for image in objects for column in image.columns()))
    columns = columns[1:] if len(objects) == 1 else columns
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_csv if path.suffix.lower() == ".csv" else _write_parquet
    write(path, columns, objects)


def _write_csv(path: Path, columns: Sequence[str], objects: Sequence[Objects]) -> None:
    with writing_atomically(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for image in objects:
            for rows in image.rows():
                writer.writerows(rows)
        text.detach()  # which flushes it, and leaves the file open


def _write_parquet(path: Path, columns: Sequence[str], objects: Sequence[Objects]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = {"image": pa.string(), "class": pa.string()}
    fractions = ("centroid", "mean", "area_um", "volume_um")
    types = [texts.get(c, pa.float64() if c.startswith(fractions) else pa.int64()) for c in columns]
    schema = pa.schema(list(zip(columns, types, strict=True)))
    with writing_atomically(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for image in objects:
            for rows in image.rows():
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
