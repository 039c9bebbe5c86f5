"""Images read whole, tile by tile, to find what is damaged or can not be right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.inspect import interpolated
from unetcli.image.location import Location
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, reduce_tiles, silent, work_on
from unetcli.image.tiling import Box, Shape, Tile, TileGrid

FILE_TILE = (1, 16, 1, 2048, 2048)
"""Tiles of files, which have no chunks."""
SMALLEST_TILE = 1024
"""Small chunks are read together up to about so many pixels along y and x."""
MAX_TILE_BYTES = 256 * 2**20
"""Shards that are larger are read chunk by chunk."""
MAX_VALUES = 65_536
"""Labels of more values than this are ids of objects, and not counted further."""
MAX_LISTED = 5
"""Places of one kind of fault that are listed for each image."""

Block = NDArray[Any]


@dataclass
class Findings:
    """What was found by reading: faults, and what is worth knowing."""

    faults: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """What is to be read: pixels, their name for messages, and whether they are labels."""

    source: Source
    name: str
    is_label: bool = False


def check_pixels(subjects: Iterable[Subject], *, workers: int | None = None, progress: Progress = silent) -> Findings:
    """Read everything, in tiles and threads; memory does not grow with the images.

    Parameters
    ----------
    subjects
        Levels of stores, or files.
    workers, progress
        See `reduce_tiles`.

    Returns
    -------
    Findings
        Parts that can not be read, that are missing or empty, values that are not finite, and labels that were
        resized with interpolation. Chunks of others that are not stored stand for the fill value: they are counted.
    """
    found = Findings()
    grids = [(subject, TileGrid(subject.source.shape, _tile_of(subject.source))) for subject in subjects]
    _count_chunks([subject.source for subject, _ in grids if isinstance(subject.source, Level)], found)
    total, before = sum(len(grid) for _, grid in grids), 0
    for subject, grid in grids:
        _read(subject, grid, found, workers, partial(_shifted, progress, before, total))
        before += len(grid)
    return found


def _shifted(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    """Show the progress of one image as a part of all."""
    progress(before + done, total)


def _tile_of(source: Source) -> Shape:
    """Return tiles that cut no chunk of an array, and that no memory is too small for."""
    if not isinstance(source, Level):
        return FILE_TILE
    tile = source.shard
    if math.prod(tile) * source.dtype.itemsize > MAX_TILE_BYTES:
        tile = source.chunk
    if source.dense:  # one shard, one fault
        return tile
    return (*tile[:3], *(n * max(1, SMALLEST_TILE // n) for n in tile[3:]))


def _count_chunks(levels: Sequence[Level], found: Findings) -> None:
    """Count what is not stored of others, and list empty files, which some readers take for the fill value."""
    missing: dict[Location, int] = {}
    total = 0
    for level in levels:
        if level.dense:  # of our own, reading finds it
            continue
        for box, file in level.chunk_files():
            total += 1
            if not file.is_file():
                missing[level.path] = missing.get(level.path, 0) + 1
            elif isinstance(file, Path) and file.stat().st_size == 0:
                found.faults.append(InputError(f"{file}: is empty, at {box}; expected a chunk", fix=COPY))
    if missing:
        places = f"{next(iter(missing))}" + (f" and {len(missing) - 1} more arrays" if len(missing) > 1 else "")
        found.notes.append(
            f"{places}: {sum(missing.values())} of {total} chunks are not stored: read as the fill value"
        )


COPY = "copy or make it again"


def _read(subject: Subject, grid: TileGrid, found: Findings, workers: int | None, progress: Progress) -> None:
    """Read all tiles of an image, and say what is wrong with them."""
    unreadable: list[InputError] = []
    values: Counter[int] = Counter()
    bad, first_bad = 0, None
    source = subject.source
    counting = subject.is_label or source.dtype.itemsize == 1
    works = work_on(subject.name, grid, [source])
    tables = reduce_tiles(
        partial(_examine, counting=counting),
        works,
        read=partial(_read_or_note, unreadable=unreadable),
        workers=workers,
        progress=progress,
    )
    for tile_bad, where, counts in tables:
        bad += tile_bad
        first_bad = first_bad or where
        if len(values) <= MAX_VALUES:
            values.update(counts)
    found.faults += _shortened(subject.name, sorted(unreadable, key=str))  # threads found them in any order
    if bad:
        found.faults.append(
            InputError(
                f"{subject.name}: {bad} values are NaN or infinite, the first at {first_bad}; expected finite values",
                fix="replace them, for example with 0",
            )
        )
    if values and not unreadable and len(values) <= MAX_VALUES:
        _judge_values(subject, values, found)


def _read_or_note(source: Source, box: Box, *, unreadable: list[InputError]) -> Block:
    """Read a box; where that fails, note why and go on with zeros."""
    try:
        return source.read(box)
    except InputError as error:
        unreadable.append(error)
        return np.zeros(box.shape, source.dtype)


def _examine(tile: Tile, block: Block, *, counting: bool) -> tuple[int, Box | None, dict[int, int]]:
    """Return how many values are not finite, where, and how often each integer occurs."""
    if block.dtype.kind in "fc":
        bad = int(block.size - np.count_nonzero(np.isfinite(block)))
        return bad, tile.core if bad else None, {}
    if not counting:
        return 0, None, {}
    values, counts = np.unique(block, return_counts=True)
    return 0, None, dict(zip(values.tolist(), counts.tolist(), strict=True))


def _shortened(name: str, faults: list[InputError]) -> Iterator[InputError]:
    yield from faults[:MAX_LISTED]
    if len(faults) > MAX_LISTED:
        yield InputError(f"{name}: {len(faults) - MAX_LISTED} more parts can not be read", fix=COPY)


def _judge_values(subject: Subject, values: Counter[int], found: Findings) -> None:
    """Say whether labels were interpolated; of an image it is only a guess that it is a mask."""
    main = interpolated(list(values), list(values.values()))
    if main and subject.is_label:
        found.faults.append(
            InputError(
                f"{subject.name}: labels hold {len(values) - len(main)} rare values between {_listed(main)}, as after "
                "resizing with interpolation or storing as JPEG; expected values of classes or objects alone",
                fix="resize labels by nearest neighbour, and store them as PNG, TIFF or Zarr",
            )
        )
    elif main:
        found.notes.append(
            f"{subject.name}: if this is a mask, it was resized with interpolation or stored as JPEG: it holds "
            f"{len(values) - len(main)} rare values between {_listed(main)}"
        )
    elif subject.is_label and len(values) == 1:
        found.notes.append(f"{subject.name}: labels hold only the value {next(iter(values))}")


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:-1])) + f" and {values[-1]}"
