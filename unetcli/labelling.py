"""Ids of what is connected, found tile by tile: the same as in the whole image, whatever the tiling.

Each tile is labelled alone, what touches across the faces between tiles is joined, and all is numbered by its first
pixel. The three steps stand alone: the first and the last are maps over tiles, which any process may do; between
them everything is looked at once, with memory for the parts and for the faces, not for the pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.axes import Axes
from unetcli.image.ledger import Ledger
from unetcli.image.new_store import Layout, create_level
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, map_tiles, reduce_tiles, silent, work_on
from unetcli.image.tiling import Box, Shape, Tile, TileGrid
from unetcli.kernels.labels import face_pairs, first_and_size, keep_large, label_components, merge

Block = NDArray[Any]
Ids = NDArray[np.int64]
NO_PAIRS: Ids = np.empty((0, 2), np.int64)


# ------------------------------------------------------------------------------------------- geometry


def over_volumes(kernel: Callable[..., Sequence[Block]], ndim: int, *blocks: Block) -> tuple[Block, ...]:
    """Run a kernel of (z, y, x) arrays over (t, 1, z, y, x) blocks: over each plane, or each volume."""
    t, _, z, y, x = blocks[0].shape
    volumes = (t * z, 1, y, x) if ndim == 2 else (t, z, y, x)
    results = zip(*(kernel(*parts) for parts in zip(*(b.reshape(volumes) for b in blocks), strict=True)), strict=True)
    return tuple(np.stack(r).reshape(t, 1, z, y, x) for r in results)


def grid_over(shape: Shape, ndim: int, halo: Shape = (0, 0, 0, 0, 0)) -> TileGrid:
    """Lay tiles on the shards of what is written, whatever those of the labels are: deep ones for volumes."""
    return TileGrid(shape, Layout.of(shape, deep=ndim == 3).shard, halo)


def connected_axes(ndim: int) -> tuple[int, ...]:
    """Return the axes of (t, c, z, y, x) along which pixels are connected: of planes, or of volumes."""
    return (3, 4) if ndim == 2 else (2, 3, 4)


@dataclass(frozen=True)
class Seam(Tile):
    """The pixels on both sides of the face between two tiles, and one more around these, within the image.

    Parameters
    ----------
    core, read
        The pixels, both the same.
    axis
        The axis that the face is across.
    face
        Index along this axis, within the box, of the first pixel behind the face.
    inner
        Which pixels, within the box, lie right before and behind the face and in one of the two tiles.
    """

    axis: int
    face: int
    inner: tuple[slice, ...]


def seams(grid: TileGrid, ndim: int, *, depth: int = 1) -> Iterator[Seam]:
    """Yield the seam of each face between tiles, `depth` pixels deep on either side."""
    axes = connected_axes(ndim)
    for number, (axis, _, after) in enumerate(face for face in grid.faces() if face[0] in axes):
        at = after.core.start[axis]
        around = tuple(int(a in axes and a != axis) for a in range(5))
        inner = after.core.replace(axis, at - 1, at + 1)
        box = after.core.replace(axis, at - depth, at + depth).grow(around).clip(grid.shape)
        yield Seam(number, box, box, axis, at - box.start[axis], inner.relative_to(box.start).slices)


# ------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class Parts:
    """What each tile was cut into, numbered through the image.

    Parameters
    ----------
    level
        Ids, 1..n within each tile (uint32).
    grid
        The tiles.
    offsets : (n_tiles + 1,)
        Number of parts in all tiles before.
    first, size
        Raster index in the image of the first pixel of each part, and how many it has.
    """

    level: Level
    grid: TileGrid
    offsets: Ids
    first: Ids
    size: Ids

    @classmethod
    def of(cls, name: str, level: Level, grid: TileGrid, workers: int | None) -> Parts:
        """Look at all tiles, and number their parts through the image."""

        def look(tile: Tile, ids: Block) -> tuple[Ids, Ids]:
            first, size = first_and_size(ids)
            return raster_index(first, tile.core, grid.shape), size

        found = list(reduce_tiles(look, work_on(name, grid, [level]), workers=workers))
        offsets = np.cumsum([0, *(len(first) for first, _ in found)])
        return cls(level, grid, offsets, *(np.concatenate(arrays) for arrays in zip(*found, strict=True)))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def numbered(self, box: Box, ids: Block) -> Ids:
        """Return ids as they are numbered through the image, 0 = none, of those in a box."""
        where = [np.arange(a, b) // core for a, b, core in zip(box.start, box.stop, self.grid.core, strict=True)]
        before = self.offsets[:-1].reshape(self.grid.counts)[np.ix_(*where)]
        return np.where(ids > 0, ids + before, 0)

    def joined(self, pairs: Ids, *, min_size: int = 1) -> NDArray[np.uint32]:
        """Return the id of each part in the whole image, (n + 1,): dense, by first pixel; 0 for what is too small."""
        return keep_large(merge(len(self), pairs, self.first), self.size, min_size)


def raster_index(flat: Ids, box: Box, shape: Shape) -> Ids:
    """Return the raster index in an image of pixels, given by their flat index in a box."""
    inside = np.unravel_index(flat, box.shape)
    return np.ravel_multi_index([i + a for i, a in zip(inside, box.start, strict=True)], shape).astype(np.int64)


def connected_parts(values: Block, ndim: int, *, full: bool = False) -> Block:
    """Give ids to the connected parts of equal value of a (t, 1, z, y, x) block: unique in the block, uint32."""
    (found,) = over_volumes(lambda volume: (label_components(volume, full=full)[0],), ndim, values)
    t, _, z, y, x = found.shape
    volumes = found.reshape(t * z if ndim == 2 else t, -1)
    before = np.cumsum([0, *volumes.max(axis=1)[:-1]], dtype=np.uint32)
    return np.where(volumes > 0, volumes + before[:, np.newaxis], 0).astype(np.uint32).reshape(t, 1, z, y, x)


def pairs_across(seam: Seam, ids: Ids, values: Block, axes: Sequence[int], *, full: bool) -> Ids:
    """Return the pairs of parts of equal value, 0 = none, that touch across the face of a seam."""
    found = [NO_PAIRS]
    others = [axis for axis in axes if axis != seam.axis]
    for shifts in itertools.product((-1, 0, 1) if full else (0,), repeat=len(others)):
        before, after = ([slice(None)] * 5 for _ in range(2))
        before[seam.axis], after[seam.axis] = slice(seam.face - 1, seam.face), slice(seam.face, seam.face + 1)
        for axis, shift in zip(others, shifts, strict=True):
            n = ids.shape[axis]
            before[axis] = slice(max(-shift, 0), n - max(shift, 0))
            after[axis] = slice(max(shift, 0), n + min(shift, 0))
        a, b = tuple(before), tuple(after)
        found.append(face_pairs(ids[a], values[a], ids[b], values[b]))
    return np.concatenate(found)


def touching(
    name: str, parts: Parts, values: Source, ndim: int, *, full: bool = False, workers: int | None = None
) -> Ids:
    """Return the pairs of parts of equal value that touch across the faces of tiles."""
    axes = connected_axes(ndim)

    def look(seam: Seam, ids: Block, values: Block) -> Ids:
        return pairs_across(seam, parts.numbered(seam.core, ids), values, axes, full=full)

    works = work_on(f"{name}/faces", seams(parts.grid, ndim), [parts.level, values])
    return np.concatenate([NO_PAIRS, *reduce_tiles(look, works, workers=workers)])


def rename(
    name: str,
    parts: Parts,
    lookup: Block,
    target: Level,
    ledger: Ledger,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Write what each part, numbered through the image, stands for."""

    def look_up(tile: Tile, ids: Block) -> Block:
        first, stop = parts.offsets[tile.index : tile.index + 2]
        found: Block = np.concatenate([lookup[:1], lookup[first + 1 : stop + 1]])[ids]
        return found

    works = work_on(name, parts.grid, [parts.level], [target])
    map_tiles(look_up, works, ledger, workers=workers, progress=progress)


def scratch_level(name: str, axes: Axes, shape: Shape, dtype: str, ndim: int, ledger: Ledger) -> Level:
    """Create an array that goes away with the ledger; its shards are the tiles of `grid_over`."""
    return create_level(ledger.scratch(name), axes, shape, dtype, is_label=True, deep=ndim == 3)


def label_parts(name: str, values: Level, ledger: Ledger, ndim: int, workers: int | None) -> Level:
    """Give ids to the connected parts of equal value, class or id, of an image.

    They are labelled tile by tile, joined where they touch across faces, and numbered by their first
    pixel: the ids are those of the whole image, whatever the tiling.

    Parameters
    ----------
    name
        Names the image in the ledger.
    values
        The labels; 0 = background.
    ledger
        Where finished tiles, and the ids, are kept until the store is complete.
    ndim
        2: parts lie in planes, 3: in volumes.
    """
    parts = cut_into_parts(name, values, ledger, ndim, workers=workers)
    pairs = touching(name, parts, values, ndim, workers=workers)
    ids = scratch_level(f"{name}.objects", values.axes, values.shape, "uint32", ndim, ledger)
    rename(f"{name}/objects", parts, parts.joined(pairs), ids, ledger, workers=workers)
    return ids


def cut_into_parts(
    name: str,
    values: Source,
    ledger: Ledger,
    ndim: int,
    *,
    full: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Parts:
    """Label the connected parts of equal value of each tile alone, and number them through the image."""
    grid = grid_over(values.shape, ndim)
    level = scratch_level(f"{name}.parts", values.axes, values.shape, "uint32", ndim, ledger)
    map_tiles(
        lambda _, block: connected_parts(block, ndim, full=full),
        work_on(f"{name}/parts", grid, [values], [level]),
        ledger,
        workers=workers,
        progress=progress,
    )
    return Parts.of(name, level, grid, workers)
