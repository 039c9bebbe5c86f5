"""Objects that touch, split where they are narrow or improbable: a watershed that is the same for any tiling."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import PredictConfig
from unetcli.image.ledger import Ledger
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, map_tiles, reduce_tiles, silent, work_on
from unetcli.image.tiling import Shape, Tile
from unetcli.instances.probabilities import quantized, read_all_channels
from unetcli.kernels.basins import (
    Saddles,
    Steps,
    climbs_across,
    find_saddles,
    label_basins,
    merge_basins,
    merge_inside,
    peaks,
    steps_to_neighbours,
)
from unetcli.kernels.heights import FULL, PER_PIXEL, TRUNCATE, depth_inside, smoothed
from unetcli.labelling import NO_PAIRS, Parts, Seam, connected_axes, grid_over, over_volumes, scratch_level, seams

Block = NDArray[Any]
Ids = NDArray[np.int64]
DEPTH = {"distance": 1.0, "probability": 0.05}
"""How far a peak rises above a saddle that splits, by default: in pixels, and in probability."""


@dataclass(frozen=True)
class Watershed:
    """How objects are split.

    Parameters
    ----------
    by
        ``distance`` to the edge of the object, or ``probability`` of its class, smoothed.
    depth
        How far both peaks rise above the saddle between them, at least, in the whole numbers of heights.
    reach
        Distances beyond it are all the same, pixels of x.
    sigma_px
        Width of the Gaussian that smooths probabilities, pixels.
    ndim
        2: objects lie in planes, 3: in volumes.
    spacing
        Distance of neighbouring pixels along z, y and x, in pixels of x.
    full
        Whether pixels of an object are connected across edges and corners, too.
    """

    by: str
    depth: int
    reach: float
    sigma_px: float
    ndim: int
    spacing: tuple[float, float, float]
    full: bool

    @classmethod
    def of(cls, config: PredictConfig, mask: Source, ndim: int) -> Watershed:
        """Take what settings and pixel size say; planes have square pixels."""
        unit = PER_PIXEL if config.split == "distance" else FULL
        depth = math.ceil((config.split_depth or DEPTH[config.split]) * unit)
        spacing = mask.axes.spacing if ndim == 3 else (1.0, 1.0, 1.0)
        full = config.connectivity == "full"
        return cls(config.split, depth, config.split_reach, config.split_sigma, ndim, spacing, full)

    @property
    def steps(self) -> Steps:
        """To the neighbours of a pixel."""
        return steps_to_neighbours(self.ndim, full=self.full)

    @property
    def halo(self) -> Shape:
        """What heights need around a pixel, and one pixel more: the heights of its neighbours."""
        radius = math.ceil(TRUNCATE * self.sigma_px)
        near = [radius if self.by == "probability" else math.ceil(self.reach / s) for s in self.spacing]
        return (0, 0, *(n + 1 if axis in connected_axes(self.ndim) else 0 for axis, n in enumerate(near, start=2)))

    def heights(self, classes: Block, probabilities: Block | None) -> Block:
        """Return the heights (1, 1, z, y, x) of a block that is read with the halo."""
        if probabilities is None:

            def measure(volume: Block) -> tuple[Block]:
                return (depth_inside(volume, spacing=self.spacing, reach=self.reach),)

            return over_volumes(measure, self.ndim, classes)[0]
        heights = np.zeros(classes.shape, np.uint16)
        axes = tuple(axis - 2 for axis in connected_axes(self.ndim))
        for value in np.unique(classes[classes > 0]):
            found = smoothed(quantized(probabilities[0, value]), sigma_px=self.sigma_px, axes=axes)
            heights[0, 0] = np.where(classes[0, 0] == value, found, heights[0, 0])
        return heights


def split_objects(
    name: str,
    classes: Source,
    probabilities: Source | None,
    watershed: Watershed,
    ledger: Ledger,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> tuple[Parts, Ids]:
    """Cut objects into the basins of a watershed.

    Parameters
    ----------
    name
        Names the image in the ledger.
    classes
        Class of each pixel, 0 = background.
    probabilities
        Of each class; None where distances are the heights.
    ledger
        Where finished tiles, their parts and heights are kept.

    Returns
    -------
    parts
        What each tile was cut into.
    pairs : (n_pairs, 2) int64
        Parts that are one, numbered through the image.
    """
    grid = grid_over(classes.shape, watershed.ndim)
    made = [
        scratch_level(f"{name}.{role}", classes.axes, classes.shape, dtype, watershed.ndim, ledger)
        for role, dtype in (("parts", "uint32"), ("heights", "uint16"))
    ]

    def cut(tile: Tile, classes: Block, probabilities: Block | None = None) -> tuple[Block, Block]:
        heights = watershed.heights(classes, probabilities)
        return _cut(tile, classes, heights, watershed, grid.shape), tile.crop_core(heights)

    tiles = (replace(tile, read=tile.core.grow(watershed.halo).clip(grid.shape)) for tile in grid)
    works = work_on(f"{name}/basins", tiles, [classes, *([probabilities] if probabilities else [])], made)
    map_tiles(cut, works, ledger, read=read_all_channels, workers=workers, progress=progress)
    parts = Parts.of(name, made[0], grid, workers)
    return parts, _merged(name, parts, made[1], classes, watershed, workers)


def _cut(tile: Tile, classes: Block, heights: Block, watershed: Watershed, shape: Shape) -> Block:
    """Cut the objects of a tile into basins, and merge those of which no other tile can know more.

    Parameters
    ----------
    classes, heights : (1, 1, z, y, x)
        Of the read box.
    shape
        Of the image.

    Returns
    -------
    (1, 1, z, y, x) uint32
        Ids 1..n of the core.
    """
    core = tile.core.relative_to(tile.read.start)
    near = core.grow((0, 0, 1, 1, 1)).clip(tile.read.shape)
    within = core.relative_to(near.start)
    around, objects = heights[near.slices][0, 0], classes[near.slices][0, 0]
    ids = label_basins(around, objects, watershed.steps, within.start[2:], within.stop[2:])
    inside, objects = heights[core.slices][0, 0], classes[core.slices][0, 0]
    saddles = find_saddles(ids, inside, objects, watershed.steps, tile.core.start[2:], shape[2:])
    is_open = np.zeros(int(ids.max()) + 1, np.bool_)
    for axis in connected_axes(watershed.ndim):
        if tile.core.start[axis] > 0:
            is_open[ids.take(0, axis - 2)] = True
        if tile.core.stop[axis] < shape[axis]:
            is_open[ids.take(-1, axis - 2)] = True
    merged = merge_inside(peaks(ids, inside), is_open, saddles, watershed.depth)
    _, dense = np.unique(merged, return_inverse=True)  # 0, the background, comes first
    return dense.astype(np.uint32)[ids].reshape(tile.core.shape)


def _merged(name: str, parts: Parts, heights: Level, classes: Source, watershed: Watershed, workers: int | None) -> Ids:
    """Return the pairs of parts that are one: across faces, and over shallow saddles."""
    steps, shape = watershed.steps, parts.grid.shape
    sources = [parts.level, heights, classes]

    def look(tile: Tile, ids: Block, heights: Block, classes: Block) -> tuple[Ids, Saddles]:
        start, before = tile.core.start, tile.core.start[0] * math.prod(shape[2:])
        volumes = (ids[0, 0], heights[0, 0], classes[0, 0])
        saddles = find_saddles(*volumes, steps, start[2:], shape[2:], before=before)
        numbers = np.arange(int(ids.max()) + 1) + parts.offsets[tile.index]
        return peaks(ids, heights)[1:], saddles.renamed(numbers)

    def look_across(seam: Seam, ids: Block, heights: Block, classes: Block) -> tuple[Ids, Saddles]:
        start, before = seam.core.start, seam.core.start[0] * math.prod(shape[2:])
        volumes = (parts.numbered(seam.core, ids)[0, 0], heights[0, 0], classes[0, 0])
        face = (seam.axis - 2, seam.face)
        pairs = climbs_across(*volumes, steps, face, seam.inner[2:])
        return pairs, find_saddles(*volumes, steps, start[2:], shape[2:], before=before, across=face)

    tiles = list(reduce_tiles(look, work_on(name, parts.grid, sources), workers=workers))
    faces = seams(parts.grid, watershed.ndim, depth=2)
    across = list(reduce_tiles(look_across, work_on(f"{name}/faces", faces, sources), workers=workers))
    tops = np.concatenate([[0], *(top for top, _ in tiles)])
    same = np.concatenate([NO_PAIRS, *(pairs for pairs, _ in across)])
    saddles = Saddles.joined([found for _, found in (*tiles, *across)])
    return merge_basins(tops, same, saddles, watershed.depth)
