"""Where training patches are centred: a density for each block of 32 x 32 pixels of an image."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.axes import Axes
from unetcli.image.source import Source
from unetcli.image.tiling import Box, Shape

BLOCK = 32
"""Side of a block in a plane, pixels."""


def blocks_shape(shape: Shape) -> Shape:
    """Return the shape of the blocks of an image, (t, 1, z, y, x); the last ones may be smaller."""
    t, _, z, y, x = shape
    return (t, 1, z, math.ceil(y / BLOCK), math.ceil(x / BLOCK))


def block_axes(axes: Axes) -> tuple[Axes, dict[str, float]]:
    """Return the axes of the blocks of an image, and where the centre of the first block lies."""
    return axes.scaled({"y": BLOCK, "x": BLOCK}), {a: axes.scale_of(a) * (BLOCK - 1) / 2 for a in "yx"}


def pixels_in(blocks: Shape, shape: Shape) -> NDArray[np.float64]:
    """Return the number of pixels (y, x) of each block of an image of a shape."""
    rows, columns = (
        np.minimum(BLOCK, n - BLOCK * np.arange(count)) for n, count in zip(shape[3:], blocks[3:], strict=True)
    )
    return np.outer(rows, columns).astype(np.float64)


class BlockCounts:
    """Pixels of objects and of background in each block, gathered tile by tile.

    They are counted in 16 bits, 4 bytes for 1,024 pixels, so that the counts of a whole plane of 100,000 x 100,000
    pixels are 40 MB.

    Parameters
    ----------
    shape
        Shape of the image, (t, c, z, y, x).
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._counts = np.zeros((2, *blocks_shape(shape)), np.uint16)

    def add(self, core: Box, counts: NDArray[np.uint16]) -> None:
        """Add what `count_blocks` found in a part of the image."""
        first = (*core.start[:3], core.start[3] // BLOCK, core.start[4] // BLOCK)
        part = tuple(slice(a, a + n) for a, n in zip(first, counts.shape[1:], strict=True))
        self._counts[(slice(None), *part)] += counts

    def density(self, background: float) -> NDArray[np.float32]:
        """Return the mean density (t, 1, z, y, x): 1 on objects, `background` on background, 0 elsewhere."""
        objects, rest = self._counts
        total: NDArray[np.float64] = objects + background * rest
        return (total / pixels_in(objects.shape, self.shape)).astype(np.float32)


def count_blocks(core: Box, is_object: NDArray[np.bool_], is_background: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Count the pixels of objects and of background of each block that a part of an image touches.

    Parameters
    ----------
    core
        Where the part lies in the image.
    is_object, is_background : (t, 1, z, y, x) bool

    Returns
    -------
    (2, t, 1, z, y, x) uint16
    """
    counts: NDArray[Any] = np.stack([is_object, is_background])
    for axis in (3, 4):
        start, stop = core.start[axis], core.stop[axis]
        edges = np.arange(start // BLOCK * BLOCK, stop, BLOCK).clip(min=start) - start
        counts = np.add.reduceat(counts, edges, axis=axis + 1, dtype=np.uint16)
    return counts


def count_classes(classes: NDArray[Any], counted: NDArray[np.bool_] | None, n_classes: int) -> NDArray[np.uint16]:
    """Count the pixels of each class in each block of a part of a plane that starts on a block.

    Parameters
    ----------
    classes : (y, x)
        Class of each pixel, below `n_classes`.
    counted : (y, x) bool
        Pixels that are counted; `None`: all.
    n_classes
        Number of classes.

    Returns
    -------
    (n_classes, rows, columns) uint16
    """
    rows, columns = (math.ceil(n / BLOCK) for n in classes.shape)
    row, column = (np.arange(n) // BLOCK for n in classes.shape)
    cell = (row[:, None] * columns + column) * n_classes + classes.astype(np.intp)
    counts = np.bincount(cell.ravel() if counted is None else cell[counted], minlength=rows * columns * n_classes)
    return counts.reshape(rows, columns, n_classes).transpose(2, 0, 1).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Density:
    """The density of an image, to draw pixels by.

    Parameters
    ----------
    blocks
        Mean density of each block.
    shape
        Shape of the image, (t, c, z, y, x).
    """

    blocks: Source
    shape: Shape

    @functools.cached_property
    def _sums(self) -> NDArray[np.float64]:
        """Running sums over the blocks of all planes, from 0 on: read once, 8 bytes a block."""
        blocks = self.blocks.read(Box.whole(self.blocks.shape))
        mass = blocks * pixels_in(blocks.shape, self.shape)
        return np.concatenate([[0.0], np.cumsum(mass)])

    def total(self, planes: slice) -> float:
        """Return the density of all pixels of some planes, counted through t and z."""
        first, last = self._ends(planes)
        return float(self._sums[last] - self._sums[first])

    def draw(self, rng: np.random.Generator, planes: slice) -> tuple[int, int, int]:
        """Draw a pixel (z, y, x) of some planes: a block by its density, and any pixel of it.

        Parameters
        ----------
        rng
            Three numbers are drawn of it.
        planes
            Of one time point, counted through t and z; their total density is above 0.
        """
        first, last = self._ends(planes)
        low, high = self._sums[first], self._sums[last]
        at = min(low + rng.random() * (high - low), np.nextafter(high, low))
        index = int(np.searchsorted(self._sums, at, side="right")) - 1  # its block has a density above 0
        _, _, z, y, x = np.unravel_index(index, self.blocks.shape)
        corner = (int(y) * BLOCK, int(x) * BLOCK)
        inside = [a + int(rng.integers(min(BLOCK, n - a))) for a, n in zip(corner, self.shape[3:], strict=True)]
        return int(z), inside[0], inside[1]

    def _ends(self, planes: slice) -> tuple[int, int]:
        _, _, _, y, x = self.blocks.shape
        return planes.start * y * x, planes.stop * y * x
