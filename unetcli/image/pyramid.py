"""Pyramids: each level half as large as the one before along y and x."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unetcli.image.axes import Axes
from unetcli.image.location import Location
from unetcli.image.new_store import NewStore
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, Work, map_tiles, silent, work_name
from unetcli.image.tiling import Box, Shape, Tile, TileGrid, spans

SMALLEST = 1024
"""The last level has at most so many pixels along y and x."""

BAND = 64
"""Rows that are averaged at once, so that they stay in the processor's cache."""

Block = NDArray[Any]


def level_shapes(shape: Shape, n_levels: int | None = None) -> list[Shape]:
    """Return the shapes of all levels; an odd last row or column is dropped, as other writers do.

    Parameters
    ----------
    shape
        Of level 0.
    n_levels
        How many there are; by default as many as it takes to end at one screen.
    """

    def is_done(shapes: list[Shape]) -> bool:
        return max(shapes[-1][3:]) <= SMALLEST or min(shapes[-1][3:]) == 1

    shapes = [shape]
    while len(shapes) < n_levels if n_levels else not is_done(shapes):
        *rest, y, x = shapes[-1]
        shapes.append((*rest, max(1, y // 2), max(1, x // 2)))
    return shapes


def mean_2x2(block: Block) -> Block:
    """Average 2x2 pixels; integers are rounded half to even, so that levels grow neither darker nor brighter."""
    *outer, y, x = block.shape
    mean = np.empty((*outer, y // 2, x // 2), np.float32 if block.dtype == np.float16 else block.dtype)
    for a, b in spans(0, y, BAND):
        mean[..., a // 2 : b // 2, :] = _mean_2x2(block[..., a:b, :])
    return mean


def _mean_2x2(block: Block) -> Block:
    kind, itemsize = block.dtype.kind, block.dtype.itemsize
    if kind == "f":
        return _sum_2x2(block, np.float32) / np.float32(4)
    total = _sum_2x2(block, f"{kind}{2 * itemsize}" if itemsize < 4 else np.int64)
    half_to_even = total >> 2
    half_to_even &= 1
    half_to_even += 1
    total += half_to_even
    total >>= 2
    return total


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


def _sum_2x2(block: Block, dtype: DTypeLike) -> Block:
    total: Block = np.add(block[..., ::2, ::2], block[..., ::2, 1::2], dtype=dtype)
    total += block[..., 1::2, ::2]
    total += block[..., 1::2, 1::2]
    return total


@dataclass(frozen=True)
class TwoLevels:
    """The two finest levels of an image as one target, so that the finest need not be read again.

    Parameters
    ----------
    finer
        Level 0.
    coarser
        Level 1; None where the image is small.
    reduce_2x2
        What makes level 1 of level 0.
    """

    finer: Level
    coarser: Level | None
    reduce_2x2: Callable[[Block], Block]

    @property
    def path(self) -> Location:
        """Where level 0 is."""
        return self.finer.path

    @property
    def shape(self) -> Shape:
        """Shape of level 0."""
        return self.finer.shape

    @property
    def grid(self) -> TileGrid:
        """Tiles whose cores are whole shards on both levels."""
        shards = [self.finer.shard]
        if self.coarser is not None:
            *outer, y, x = self.coarser.shard
            shards.append((*outer, 2 * y, 2 * x))
        return TileGrid(self.shape, tuple(math.lcm(*sizes) for sizes in zip(*shards, strict=True)))

    def read(self, box: Box) -> Block:
        """Return the pixels of a box of level 0."""
        return self.finer.read(box)

    def write(self, box: Box, block: Block) -> None:
        """Write a core to level 0, and reduced to level 1."""
        self.finer.write(box, block)
        if self.coarser is not None:
            start, stop = ((*p[:3], p[3] // 2, p[4] // 2) for p in (box.start, box.stop))
            y, x = (n // 2 * 2 for n in block.shape[3:])
            if y and x:
                self.coarser.write(Box(start, stop), self.reduce_2x2(block[..., :y, :x]))


def create_two_levels(
    store: NewStore,
    group: str,
    axes: Axes,
    shape: Shape,
    dtype: np.dtype[Any],
    reduce_2x2: Callable[[Block], Block],
    *,
    is_label: bool = False,
) -> TwoLevels:
    """Create level 0 of an image, and level 1 if it gets one."""
    shapes = level_shapes(shape, store.n_levels)[:2]
    finer, *coarser = (store.level(group, k, axes, s, dtype, is_label=is_label) for k, s in enumerate(shapes))
    return TwoLevels(finer, coarser[0] if coarser else None, reduce_2x2)


def build_pyramids(
    store: NewStore,
    levels: dict[str, Level],
    reduce_2x2: Callable[[Block], Block],
    *,
    above: int = 0,
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
    above
        The coarsest level that is complete: 1 after `TwoLevels` was written.
    """
    depth = max((len(level_shapes(level.shape, store.n_levels)) for level in levels.values()), default=1)
    current = dict(levels)
    is_label = reduce_2x2 is not mean_2x2
    for k in range(1, depth):
        works: list[Work] = []
        for group, finer in list(current.items()):
            shapes = level_shapes(levels[group].shape, store.n_levels)
            if k < len(shapes):
                current[group] = store.level(group, k, finer.axes, shapes[k], finer.dtype, is_label=is_label)
                works += _halving(f"{group}/{k}", finer, current[group]) if k > above else ()
        with store.ledger.present():
            map_tiles(lambda _, block: reduce_2x2(block), works, store.ledger, workers=workers, progress=progress)


def _halving(name: str, finer: Level, coarser: Level) -> Iterator[Work]:
    for tile in TileGrid(coarser.shape, coarser.shard):
        start, stop = ((*p[:3], 2 * p[3], 2 * p[4]) for p in (tile.core.start, tile.core.stop))
        yield Work(work_name(name, tile.index), Tile(tile.index, tile.core, Box(start, stop)), (finer,), (coarser,))
