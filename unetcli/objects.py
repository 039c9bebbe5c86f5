"""What the objects of labels are, and which class each pixel is to be trained on, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.ledger import Ledger
from unetcli.image.new_store import Layout, create_level
from unetcli.image.store import Level
from unetcli.image.streaming import map_tiles, reduce_tiles, work_on
from unetcli.image.tiling import Shape, Tile, TileGrid
from unetcli.kernels.labels import face_pairs, label_components, merge
from unetcli.kernels.weight_map import separation_border

Block = NDArray[Any]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image.

    Parameters
    ----------
    name, group
        Of the image, and of its group in the new store.
    truth
        Classes or ids.
    values
        What the objects are told from: ids, or classes.
    connected
        Whether each connected part of `values` is an object; else each value is one.
    """

    name: str
    group: str
    truth: Level
    values: Level
    connected: bool

    @property
    def key(self) -> str:
        """What the image is called in the ledger and in messages."""
        return self.group or "image"

    def spacing(self, ndim: int) -> Spacing:
        """Return the distance of neighbouring pixels along z, y, x in pixels of x; in planes all are 1."""
        return self.truth.axes.spacing if ndim == 3 else (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class TargetRule:
    """How labels become what a network is trained on.

    Parameters
    ----------
    is_classes
        Whether the truth holds a class per pixel; else ids of objects, which are all of class 1.
    ignored
        Value of the truth whose pixels count nowhere.
    border_width
        How deep objects that touch one of the same class turn to background, pixels.
    """

    is_classes: bool
    ignored: int | None
    border_width: int

    def __call__(self, truth: Block, objects: Block) -> tuple[Block, Block]:
        """Return class per pixel (uint8) and object ids of a volume, both cut where objects of one class touch.

        Parameters
        ----------
        truth, objects : (z, y, x) int
            The labels, and ids of objects: those outside of the classes are left out.
        """
        classes = truth if self.is_classes else truth > 0
        if self.ignored is not None:
            classes = np.where(self.is_ignored(truth), 0, classes)
        if self.ignored is not None or self.is_classes:
            objects = np.where(classes > 0, objects, 0)
        classes = classes.astype(np.uint8, copy=False)
        if not self.border_width:
            return classes, objects
        border = np.zeros(objects.shape, dtype=np.bool_)
        for of_one_class in self._by_class(classes, objects):
            border |= separation_border(of_one_class, width=self.border_width)
        return np.where(border, 0, classes), np.where(border, 0, objects)

    def _by_class(self, classes: Block, objects: Block) -> Iterator[Block]:
        if not self.is_classes:
            yield objects
            return
        for c in np.flatnonzero(np.bincount(classes.ravel())[1:]) + 1:
            yield np.where(classes == c, objects, 0)

    def is_ignored(self, truth: Block) -> NDArray[np.bool_]:
        """Return where pixels count nowhere."""
        if self.ignored is None:
            return np.zeros(truth.shape, dtype=np.bool_)
        found: NDArray[np.bool_] = truth == self.ignored
        return found

    def halo(self, reach: float, spacing: Spacing, ndim: int) -> tuple[int, int, int]:
        """Return how many pixels (z, y, x) around a tile count in it: the reach of distances, and what cuts objects."""
        z, y, x = (math.ceil(reach / s) + self.border_width for s in spacing)
        return (z if ndim == 3 else 0, y, x)


def over_volumes(kernel: Callable[..., Sequence[Block]], ndim: int, *blocks: Block) -> tuple[Block, ...]:
    """Run a kernel of (z, y, x) arrays over (t, 1, z, y, x) blocks: over each plane, or each volume."""
    t, _, z, y, x = blocks[0].shape
    volumes = (t * z, 1, y, x) if ndim == 2 else (t, z, y, x)
    results = zip(*(kernel(*parts) for parts in zip(*(b.reshape(volumes) for b in blocks), strict=True)), strict=True)
    return tuple(np.stack(r).reshape(t, 1, z, y, x) for r in results)


def grid_over(shape: Shape, ndim: int, halo: Shape = (0, 0, 0, 0, 0)) -> TileGrid:
    """Lay tiles on the shards of what is written, whatever those of the labels are: deep ones for volumes."""
    return TileGrid(shape, Layout.of(shape, deep=ndim == 3).shard, halo)


def connected_parts(values: Block, ndim: int) -> Block:
    """Give ids to the connected parts of equal value of a (t, 1, z, y, x) block: unique in the block, uint32."""
    (found,) = over_volumes(lambda volume: (label_components(volume)[0],), ndim, values)
    t, _, z, y, x = found.shape
    volumes = found.reshape(t * z if ndim == 2 else t, -1)
    before = np.cumsum([0, *volumes.max(axis=1)[:-1]], dtype=np.uint32)
    return np.where(volumes > 0, volumes + before[:, np.newaxis], 0).astype(np.uint32).reshape(t, 1, z, y, x)


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
    grid = grid_over(values.shape, ndim)

    def scratch(role: str) -> Level:
        path = ledger.scratch(f"{name}.{role}")
        return create_level(path, values.axes, values.shape, "uint32", is_label=True, deep=ndim == 3)

    parts, ids = scratch("parts"), scratch("objects")
    map_tiles(
        lambda _, block: connected_parts(block, ndim),
        work_on(f"{name}/parts", grid, [values], [parts]),
        ledger,
        workers=workers,
    )
    first = list(reduce_tiles(_first_pixels(values.shape), work_on(name, grid, [parts]), workers=workers))
    offsets = np.cumsum([0, *(len(f) for f in first)])
    axes = (2, 3, 4) if ndim == 3 else (3, 4)
    lookup = merge(int(offsets[-1]), _touching(grid, parts, values, offsets, axes), np.concatenate(first))

    def rename(tile: Tile, block: Block) -> Block:
        return lookup[np.where(block > 0, block + offsets[tile.index], 0)]

    map_tiles(rename, work_on(f"{name}/objects", grid, [parts], [ids]), ledger, workers=workers)
    return ids


def _first_pixels(shape: Shape) -> Callable[[Tile, Block], NDArray[np.int64]]:
    """Return a function that finds, for each part of a tile, the index of its first pixel in the image."""

    def find(tile: Tile, parts: Block) -> NDArray[np.int64]:
        ids, at = np.unique(parts, return_index=True)
        where = np.unravel_index(at[ids > 0], parts.shape)
        inside = tuple(w + a for w, a in zip(where, tile.core.start, strict=True))
        return np.ravel_multi_index(inside, shape).astype(np.int64)

    return find


def _touching(
    grid: TileGrid, parts: Level, values: Level, offsets: NDArray[np.int64], axes: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return the pairs of parts, numbered through the image, that touch across the faces of tiles."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for axis, before, after in grid.faces():
        if axis in axes:
            sides = [
                _side(tile, axis, at, parts, values, int(offsets[tile.index]))
                for tile, at in ((before, before.core.stop[axis] - 1), (after, after.core.start[axis]))
            ]
            found.append(face_pairs(*sides[0], *sides[1]))
    return np.concatenate(found)


def _side(tile: Tile, axis: int, at: int, parts: Level, values: Level, offset: int) -> tuple[Block, Block]:
    """Return ids, numbered through the image, and values on one side of a tile, as arrays of one row."""
    box = tile.core.replace(axis, at, at + 1)
    ids = parts.read(box).astype(np.int64).reshape(1, -1)
    return np.where(ids > 0, ids + offset, 0), values.read(box).reshape(1, -1)
