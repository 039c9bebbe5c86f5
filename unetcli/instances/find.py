"""From the class of each pixel to the ids of objects: thresholds, holes, parts of tiles, joined and numbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import PredictConfig
from unetcli.image.ledger import Ledger
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, map_tiles, silent, work_on
from unetcli.image.tiling import Tile
from unetcli.instances.holes import fill_holes
from unetcli.instances.probabilities import quantized, read_all_channels
from unetcli.instances.split import Watershed, split_objects
from unetcli.kernels.heights import FULL
from unetcli.labelling import cut_into_parts, grid_over, rename, scratch_level, touching

Block = NDArray[Any]


@dataclass(frozen=True)
class Segmented:
    """An image as the network segmented it.

    Parameters
    ----------
    name
        Names the image in the ledger.
    mask
        Class of each pixel, 0 = background.
    probabilities
        Of all classes, as they are stored, if they are.
    ndim
        2: its objects lie in planes, 3: in volumes.
    """

    name: str
    mask: Source
    probabilities: Source | None
    ndim: int


def find_objects(
    segmented: Segmented,
    target: Level,
    config: PredictConfig,
    ledger: Ledger,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> int:
    """Write the ids of the objects of an image; return how many there are.

    Ids are 1..n in the raster order of the objects' first pixels: those that the same steps on the whole image at
    once would give, for any tiling, number of workers and restart.

    Parameters
    ----------
    target
        Where the ids are written to, of the size of the mask (uint32).
    config
        Settings of instances.
    ledger
        Where finished tiles, and what lies between the mask and the ids, are kept.
    """
    name, ndim, full = segmented.name, segmented.ndim, config.connectivity == "full"
    shared: dict[str, Any] = {"workers": workers, "progress": progress}
    classes = foreground(segmented, config.threshold, ledger, **shared)
    if config.fill_holes:
        classes = fill_holes(name, classes, ledger, ndim, full=full, **shared)
    if config.split == "none":
        parts = cut_into_parts(name, classes, ledger, ndim, full=full, **shared)
        pairs = touching(name, parts, classes, ndim, full=full, workers=workers)
    else:
        watershed = Watershed.of(config, segmented.mask, ndim)
        probabilities = segmented.probabilities if config.split == "probability" else None
        parts, pairs = split_objects(name, classes, probabilities, watershed, ledger, **shared)
    lookup = parts.joined(pairs, min_size=config.min_size)
    rename(f"{name}/objects", parts, lookup, target, ledger, **shared)
    return int(lookup.max())


def foreground(
    segmented: Segmented, threshold: float | None, ledger: Ledger, *, workers: int | None, progress: Progress
) -> Source:
    """Return the class of each pixel that belongs to objects: of the mask, or where the background is improbable.

    With a threshold these are the pixels whose classes but the background have at least this probability together;
    the most probable of them is the pixel's.
    """
    probabilities = segmented.probabilities
    if threshold is None or probabilities is None:
        return segmented.mask

    def choose(_: Tile, block: Block) -> Block:
        return likeliest_class(quantized(block), threshold)

    mask, ndim = segmented.mask, segmented.ndim
    classes = scratch_level(f"{segmented.name}.classes", mask.axes, mask.shape, "uint8", ndim, ledger)
    works = work_on(f"{segmented.name}/classes", grid_over(mask.shape, ndim), [probabilities], [classes])
    map_tiles(choose, works, ledger, read=read_all_channels, workers=workers, progress=progress)
    return classes


def likeliest_class(probabilities: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return the likeliest class but the background, (t, 1, z, y, x), or 0 where the background is too probable.

    Where nothing was predicted no class has a probability, and there are no objects.

    Parameters
    ----------
    probabilities : (t, classes, z, y, x) int
        0..65535.
    threshold
        Least probability of not being background.
    """
    is_object = (FULL - probabilities[:, :1] >= threshold * FULL) & probabilities.any(axis=1, keepdims=True)
    return np.where(is_object, 1 + probabilities[:, 1:].argmax(axis=1)[:, np.newaxis], 0)
