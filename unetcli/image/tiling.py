"""Boxes, tiles and grids of tiles: pure integer geometry.

A tile is read with its halo and written without it. Cores cover the image once; what a read box has past
the image edge is filled by the mirror image::

        halo   core    halo
      |<---->|<----->|<---->|
      +---------------------+   read box, perhaps past the image edge
      |      +-------+      |
      |      | core  |      |   written exactly once
      |      +-------+      |
      +---------------------+

Boxes and shapes are 5-tuples in the order t, c, z, y, x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """A box of pixels, ``start`` included and ``stop`` not; it may reach past an image."""

    start: Shape
    stop: Shape

    @classmethod
    def whole(cls, shape: Shape) -> Box:
        """Return the box of a whole image."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> Shape:
        """Number of pixels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index of an array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def grow(self, halo: Shape) -> Box:
        """Return the box with a halo on both sides of each axis."""
        return Box(
            tuple(a - h for a, h in zip(self.start, halo, strict=True)),
            tuple(b + h for b, h in zip(self.stop, halo, strict=True)),
        )

    def clip(self, shape: Shape) -> Box:
        """Return the part of the box that lies inside an image of a shape."""
        return Box(
            tuple(min(max(a, 0), n) for a, n in zip(self.start, shape, strict=True)),
            tuple(min(max(b, 0), n) for b, n in zip(self.stop, shape, strict=True)),
        )

    def relative_to(self, origin: Shape) -> Box:
        """Return the same box as seen from another origin."""
        return Box(
            tuple(a - o for a, o in zip(self.start, origin, strict=True)),
            tuple(b - o for b, o in zip(self.stop, origin, strict=True)),
        )

    def replace(self, axis: int, start: int, stop: int) -> Box:
        """Return the box with another extent along one axis."""
        return Box(
            (*self.start[:axis], start, *self.start[axis + 1 :]),
            (*self.stop[:axis], stop, *self.stop[axis + 1 :]),
        )

    def __str__(self) -> str:
        extents = zip("tczyx", self.start, self.stop, strict=False)
        return " ".join(f"{name} {a}:{b}" for name, a, b in extents if (a, b) != (0, 1))


@dataclass(frozen=True)
class Tile:
    """One unit of computing: the core that it writes and the read box that it needs."""

    index: int
    core: Box
    read: Box

    def crop_core(self, block: NDArray[np.generic]) -> NDArray[np.generic]:
        """Cut the core out of an array that covers the read box (leading axes may be left out)."""
        core = self.core.relative_to(self.read.start)
        return block[core.slices[-block.ndim :]]


@dataclass(frozen=True)
class TileGrid:
    """Cores that cover an image once, in raster order, each with the same halo.

    Parameters
    ----------
    shape
        Shape of the image, (t, c, z, y, x).
    core
        Shape of a core; cores at the far edges are cut to the image.
    halo
        Context on each side, in pixels along each axis.
    """

    shape: Shape
    core: Shape
    halo: Shape = (0, 0, 0, 0, 0)

    @property
    def counts(self) -> Shape:
        """Number of tiles along each axis."""
        return tuple(math.ceil(n / c) for n, c in zip(self.shape, self.core, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = np.unravel_index(index, self.counts)
        start = tuple(int(p) * c for p, c in zip(position, self.core, strict=True))
        core = Box(start, tuple(a + c for a, c in zip(start, self.core, strict=True))).clip(self.shape)
        return Tile(index, core, core.grow(self.halo))

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def faces(self) -> Iterator[tuple[int, Tile, Tile]]:
        """Yield each pair of neighbouring tiles with the axis along which they touch."""
        for position in itertools.product(*map(range, self.counts)):
            for axis, count in enumerate(self.counts):
                if position[axis] + 1 < count:
                    after = (*position[:axis], position[axis] + 1, *position[axis + 1 :])
                    yield axis, self[self._index(position)], self[self._index(after)]

    def _index(self, position: Shape) -> int:
        return int(np.ravel_multi_index(position, self.counts))


def spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut a range into pieces of `step`; the last one may be shorter."""
    for a in range(start, stop, step):
        yield a, min(a + step, stop)


def mirror_index(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the pixels that a range shows when the image is mirrored at its edges.

    The edge pixel itself is not repeated (``np.pad(mode="reflect")``), and a range may reach past an
    image that is smaller than the halo: the mirror images repeat with a period of ``2 * (size - 1)``.

    Examples
    --------
    >>> mirror_index(-2, 6, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (size - 1)
    wrapped = np.arange(start, stop) % period
    return np.minimum(wrapped, period - wrapped)
