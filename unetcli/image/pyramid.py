"""Pyramids: each level half as large as the one before along y and x."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.new_store import NewStore
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, Work, map_tiles, silent
from unetcli.image.tiling import Box, Shape, Tile, TileGrid

SMALLEST = 1024
"""The last level has at most so many pixels along y and x."""

Block = NDArray[Any]


def level_shapes(shape: Shape) -> list[Shape]:
    """Return the shapes of all levels; an odd last row or column is dropped, as other writers do."""
    shapes = [shape]
    while max(shapes[-1][3:]) > SMALLEST and min(shapes[-1][3:]) > 1:
        *rest, y, x = shapes[-1]
        shapes.append((*rest, y // 2, x // 2))
    return shapes


def mean_2x2(block: Block) -> Block:
    """Average 2x2 pixels; integers are rounded half to even, so that levels grow neither darker nor brighter."""
    if block.dtype.kind == "f":
        return _sum_2x2(block.astype(np.float32, copy=False)) / np.float32(4)
    total = _sum_2x2(block.astype(np.int64 if block.dtype.itemsize > 2 else np.int32))
    mean: Block = ((total + 1 + ((total >> 2) & 1)) >> 2).astype(block.dtype)
    return mean


def nearest_2x2(block: Block) -> Block:
    """Keep one pixel of 2x2: for labels and classes, whose values can not be averaged."""
    return block[..., ::2, ::2]


def mode_2x2(block: Block) -> Block:
    """Keep the most frequent of 2x2 pixels: for classes, whose outlines become smoother than with `nearest_2x2`.

    Of values that are equally frequent the upper left pixel has one, and it stays: no class, be it large or
    small, grows at the cost of others.
    """
    a, b, c, d = (block[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    is_alone = (a != b) & (a != c) & (a != d)
    mode: Block = np.where(is_alone & ((b == c) | (b == d)), b, np.where(is_alone & (c == d), c, a))
    return mode


def _sum_2x2(block: Block) -> Block:
    rows: Block = block[..., ::2, :] + block[..., 1::2, :]
    total: Block = rows[..., ::2] + rows[..., 1::2]
    return total


def build_pyramids(
    store: NewStore,
    levels: dict[str, Level],
    reduce_2x2: Callable[[Block], Block],
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Write the further levels of images.

    Parameters
    ----------
    levels
        Group of each image to its level 0, which is complete.
    reduce_2x2
        `mean_2x2`, `nearest_2x2` or `mode_2x2`.
    """
    depth = max((len(level_shapes(level.shape)) for level in levels.values()), default=1)
    current = dict(levels)
    is_label = reduce_2x2 is not mean_2x2
    for k in range(1, depth):
        works: list[Work] = []
        for group, finer in list(current.items()):
            shapes = level_shapes(levels[group].shape)
            if k < len(shapes):
                current[group] = store.level(group, k, finer.axes, shapes[k], finer.dtype, is_label=is_label)
                works += _halving(f"{group}/{k}", finer, current[group])
        map_tiles(lambda _, block: reduce_2x2(block), works, store.ledger, workers=workers, progress=progress)


def _halving(name: str, finer: Level, coarser: Level) -> Iterator[Work]:
    for tile in TileGrid(coarser.shape, coarser.shard):
        start, stop = ((*p[:3], 2 * p[3], 2 * p[4]) for p in (tile.core.start, tile.core.stop))
        yield Work(f"{name}/{tile.index}", Tile(tile.index, tile.core, Box(start, stop)), (finer,), (coarser,))
