"""The part of an image that is worth computing: blocks on a grid that is fixed, so that no tiling shows.

A block is computed if any pixel of the region lies in it, and is left out whole otherwise: what is computed is not cut
at the outline of a region that may be coarse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.axes import describe_shape
from unetcli.image.resample import SPACE
from unetcli.image.store import Level
from unetcli.image.streaming import reduce_tiles, work_on
from unetcli.image.tiling import Box, Shape, Tile, TileGrid

BLOCKS: dict[bool, Shape] = {False: (1, 1, 1, 512, 512), True: (1, 1, 64, 256, 256)}
"""Pixels of a block, (t, c, z, y, x), of planes and of volumes."""
READ = 2048
"""About so many pixels of a region along y and x are read at once."""

Inside = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""Which pixels (t, 1, z, y, x) of a block (t, c, z, y, x) lie in the region."""


@dataclass(frozen=True)
class Region:
    """Which blocks of an image are computed.

    Parameters
    ----------
    block
        Pixels of a block, (t, c, z, y, x).
    covered : (t, 1, z, y, x) bool
        Of each block, whether it is computed.
    """

    block: Shape
    covered: NDArray[np.bool_]

    def part(self, core: Box) -> Box | None:
        """Return the smallest box of a core that holds all of it that is computed; None if nothing is."""
        blocks = self._blocks(core)
        found = self.covered[blocks.slices]
        if not found.any():
            return None
        part = core
        for axis in (0, 2, 3, 4):
            at = np.flatnonzero(found.any(tuple(a for a in range(5) if a != axis))) + blocks.start[axis]
            first, last = int(at[0]) * self.block[axis], (int(at[-1]) + 1) * self.block[axis]
            part = part.replace(axis, max(core.start[axis], first), min(core.stop[axis], last))
        return part

    def clear(self, pixels: NDArray[Any], core: Box) -> None:
        """Set what is not computed of a core to 0; `pixels` (t, c, z, y, x) cover it."""
        blocks = self._blocks(core)
        for index in np.argwhere(~self.covered[blocks.slices]):
            start = [(i + a) * n for i, a, n in zip(index, blocks.start, self.block, strict=True)]
            left_out = Box(tuple(start), tuple(a + n for a, n in zip(start, self.block, strict=True)))
            here = left_out.relative_to(core.start).clip(core.shape).replace(1, 0, pixels.shape[1])
            pixels[here.slices] = 0

    def count(self, shape: Shape) -> int:
        """Return how many pixels are computed of one channel of an image (t, c, z, y, x): blocks end at its rim."""
        sizes = [np.minimum(m, n - m * np.arange(-(-n // m))) for n, m in zip(shape, self.block, strict=True)]
        return int(np.einsum("tczyx,t,z,y,x->", self.covered, *(sizes[axis] for axis in (0, 2, 3, 4)), dtype=np.int64))

    def _blocks(self, core: Box) -> Box:
        start = tuple(a // n for a, n in zip(core.start, self.block, strict=True))
        stop = tuple(math.ceil(b / n) for b, n in zip(core.stop, self.block, strict=True))
        return Box(start, stop).replace(1, 0, 1)


def region_of(level: Level, is_inside: Inside, shape: Shape, scale: tuple[float, ...], *, deep: bool) -> Region:
    """Find the blocks of an image that a region touches, in one pass and flat memory.

    Parameters
    ----------
    level
        What tells the region: labels of the same field in any size, or a level of the image.
    is_inside
        Which of its pixels do.
    shape, scale
        Of the image, and the size of its pixels along (z, y, x), in the unit of the level's.
    deep
        Whether it is computed in volumes.

    Raises
    ------
    InputError
        If the level can not show the same field.
    """
    factors = _factors(level, shape, scale)
    block = BLOCKS[deep]
    counts = (shape[0], 1, *(math.ceil(n / b) for n, b in zip(shape[2:], block[2:], strict=True)))
    covered = np.zeros(counts, dtype=bool)
    z, *yx = level.chunk[2:]
    cores = (1, level.shape[1], z, *(n * max(1, READ // n) for n in yx))

    def touched(tile: Tile, pixels: NDArray[Any]) -> tuple[list[slice], NDArray[np.bool_]]:
        found, where = is_inside(pixels), [slice(None)] * 5
        for axis in (2, 3, 4):
            span = tile.core.start[axis], tile.core.stop[axis]
            found, first = _blocks_along(found, axis, span, factors[axis], block[axis], level.shape[axis], shape[axis])
            where[axis] = slice(first, first + found.shape[axis])
        if factors[0] == 1:
            where[0] = slice(tile.core.start[0], tile.core.stop[0])
        return where, found

    for where, found in reduce_tiles(touched, work_on("region", TileGrid(level.shape, cores), [level])):
        covered[tuple(where)] |= found
    return Region(block, covered)


def _blocks_along(
    found: NDArray[np.bool_], axis: int, span: tuple[int, int], factor: float, block: int, size: int, full: int
) -> tuple[NDArray[np.bool_], int]:
    """Return which blocks along an axis hold some of the pixels of a span, and the first of these blocks.

    Pixel `j` of the region covers ``[j * factor, (j + 1) * factor)`` of the image, the last one all that is left.
    """
    j = np.arange(*span)
    ends = np.where(j + 1 == size, full, np.ceil((j + 1) * factor - 1e-6)).clip(1, full)
    firsts = np.floor(j * factor + 1e-6).clip(max=full - 1).astype(int) // block
    lasts = (ends.astype(int) - 1) // block
    blocks = range(int(firsts[0]), int(lasts[-1]) + 1)
    parts = [
        np.take(found, range(int(np.searchsorted(lasts, k)), int(np.searchsorted(firsts, k, "right"))), axis).any(axis)
        for k in blocks
    ]
    return np.stack(parts, axis), blocks.start


def _factors(level: Level, shape: Shape, scale: tuple[float, ...]) -> tuple[float, ...]:
    """Return how many pixels of the image are one of the level, along each axis; it may have a single t and z."""
    found = [shape[0] / level.shape[0], 1.0]
    for (axis, name), size in zip(SPACE.items(), scale, strict=True):
        n, m, stated = shape[axis], level.shape[axis], level.axes.scale_of(name) / size
        # Pixel sizes know of a dropped last row; where they speak against the shape, nobody wrote them down.
        found.append(stated if abs(n / stated - m) <= 1 < m else n / m)
    alike = all(abs(shape[axis] / max(found[3:]) - level.shape[axis]) <= 1 for axis in (3, 4))
    if not alike or level.shape[0] not in (1, shape[0]) or level.shape[2] > shape[2]:
        raise InputError(
            f"{level.path}: is {describe_shape(level.shape)}; expected the same field as the image, "
            f"{describe_shape(shape)}, in pixels of any size",
            fix="--where with labels that were made of this image, or of a level of it",
        )
    return tuple(found)
