"""Holes of objects, filled: background that one object alone encloses, however many tiles it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.ledger import Ledger
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, map_tiles, reduce_tiles, silent, work_on
from unetcli.image.tiling import Tile
from unetcli.kernels.labels import merge
from unetcli.labelling import (
    NO_PAIRS,
    Parts,
    Seam,
    connected_axes,
    connected_parts,
    grid_over,
    pairs_across,
    rename,
    scratch_level,
    seams,
)

Block = NDArray[Any]
Ids = NDArray[np.int64]


def fill_holes(
    name: str,
    classes: Source,
    ledger: Ledger,
    ndim: int,
    *,
    full: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Level:
    """Give the holes of each object its class.

    A hole is a part of the background, connected across faces, that does not touch the edge of the image and
    touches (across faces) a single object. So a hole with another object in it stays, as does one between two.

    Parameters
    ----------
    name
        Names the image in the ledger.
    classes
        Class of each pixel, 0 = background (uint8).
    ledger
        Where finished tiles, and the result, are kept.
    ndim
        2: in planes, 3: in volumes.
    full
        Whether the pixels of an object are connected across edges and corners, too.

    Returns
    -------
    Level
        Class of each pixel, holes filled.
    """
    regions = _cut_into_regions(name, classes, ledger, ndim, full, workers, progress)
    tables = list(_look_at_tiles(name, regions, classes, ndim, workers))
    faces = list(_look_at_faces(name, regions, classes, ndim, full, workers))
    same = np.concatenate([NO_PAIRS, *(pairs for pairs, _ in faces)])
    beside = np.concatenate([NO_PAIRS, *(table.beside for table in tables), *(pairs for _, pairs in faces)])
    of_class = np.concatenate([[0], *(table.of_class for table in tables)])
    at_edge = np.concatenate([[False], *(table.at_edge for table in tables)])
    filled = scratch_level(f"{name}.filled", classes.axes, classes.shape, "uint8", ndim, ledger)
    lookup = _filled_classes(merge(len(regions), same, regions.first), of_class, at_edge, beside)
    rename(f"{name}/filled", regions, lookup, filled, ledger, workers=workers, progress=progress)
    return filled


@dataclass(frozen=True)
class _Table:
    """What is known of the regions of a tile.

    Parameters
    ----------
    of_class : (n,)
        Their classes.
    at_edge : (n,)
        Whether they touch the edge of the image.
    beside : (n_pairs, 2)
        Which regions of the background, and of an object, touch; numbered through the image.
    """

    of_class: NDArray[np.uint8]
    at_edge: NDArray[np.bool_]
    beside: Ids


def _cut_into_regions(
    name: str, classes: Source, ledger: Ledger, ndim: int, full: bool, workers: int | None, progress: Progress
) -> Parts:
    """Label the objects and the parts of the background of each tile."""

    def cut(_: Tile, classes: Block) -> Block:
        objects = connected_parts(classes, ndim, full=full)
        return np.where(classes > 0, objects, connected_parts(classes == 0, ndim) + objects.max())

    grid = grid_over(classes.shape, ndim)
    level = scratch_level(f"{name}.regions", classes.axes, classes.shape, "uint32", ndim, ledger)
    works = work_on(f"{name}/regions", grid, [classes], [level])
    map_tiles(cut, works, ledger, workers=workers, progress=progress)
    return Parts.of(name, level, grid, workers)


def _look_at_tiles(name: str, regions: Parts, classes: Source, ndim: int, workers: int | None) -> list[_Table]:
    axes = connected_axes(ndim)

    def look(tile: Tile, ids: Block, classes: Block) -> _Table:
        n = int(ids.max())
        of_class, at_edge = np.zeros(n + 1, np.uint8), np.zeros(n + 1, np.bool_)
        of_class[ids] = classes
        for axis in axes:
            if tile.core.start[axis] == 0:
                at_edge[ids.take(0, axis)] = True
            if tile.core.stop[axis] == regions.grid.shape[axis]:
                at_edge[ids.take(-1, axis)] = True
        numbered = regions.numbered(tile.core, ids)
        pairs = [_beside(numbered, classes, axis) for axis in axes]
        return _Table(of_class[1:], at_edge[1:], np.unique(np.concatenate(pairs), axis=0))

    return list(reduce_tiles(look, work_on(name, regions.grid, [regions.level, classes]), workers=workers))


def _look_at_faces(
    name: str, regions: Parts, classes: Source, ndim: int, full: bool, workers: int | None
) -> list[tuple[Ids, Ids]]:
    """Return for each face the regions that are one across it, and those of background and object that touch."""
    axes = connected_axes(ndim)

    def look(seam: Seam, ids: Block, classes: Block) -> tuple[Ids, Ids]:
        numbered = regions.numbered(seam.core, ids)
        objects = pairs_across(seam, numbered, classes, axes, full=full)
        background = pairs_across(seam, numbered, classes == 0, axes, full=False)
        middle = [slice(None)] * 5
        middle[seam.axis] = slice(seam.face - 1, seam.face + 1)
        beside = _beside(numbered[tuple(middle)], classes[tuple(middle)], seam.axis)
        return np.concatenate([objects, background]), beside

    works = work_on(f"{name}/faces", seams(regions.grid, ndim), [regions.level, classes])
    return list(reduce_tiles(look, works, workers=workers))


def _beside(ids: Ids, classes: Block, axis: int) -> Ids:
    """Return the unique pairs (background, object) of ids that are neighbours along an axis."""
    n = ids.shape[axis]
    first, second = (tuple(slice(*s) if a == axis else slice(None) for a in range(5)) for s in ((0, n - 1), (1, n)))
    found = [NO_PAIRS]
    for a, b in ((first, second), (second, first)):
        is_edge = (classes[a] == 0) & (classes[b] != 0)
        found.append(np.stack([ids[a][is_edge], ids[b][is_edge]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _filled_classes(lookup: Block, of_class: Block, at_edge: Block, beside: Ids) -> NDArray[np.uint8]:
    """Return the class of each region, (n + 1,), holes filled.

    Parameters
    ----------
    lookup : (n + 1,)
        Which regions are one.
    of_class, at_edge : (n + 1,)
        Of the regions before they were joined.
    beside : (n_pairs, 2)
        Regions of background and object that touch.
    """
    n = int(lookup.max()) + 1
    joined_class, is_outside = np.zeros(n, np.uint8), np.zeros(n, np.bool_)
    joined_class[lookup] = of_class
    np.logical_or.at(is_outside, lookup, at_edge)
    least, greatest = np.full(n, n, np.int64), np.zeros(n, np.int64)
    background, objects = lookup[beside].astype(np.int64).T
    np.minimum.at(least, background, objects)
    np.maximum.at(greatest, background, objects)
    is_hole = (joined_class == 0) & ~is_outside & (least == greatest)
    joined_class[is_hole] = joined_class[greatest[is_hole]]
    filled: NDArray[np.uint8] = joined_class[lookup]
    return filled
