"""The overlap-tile strategy: a network over a region that is larger than what it takes at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unetcli.models.geometry import Geometry
from unetcli.models.losses import class_probabilities


def aligned(geometry: Geometry, core: int) -> int:
    """Round the extent of a core up to the network's stride."""
    return math.ceil(core / geometry.stride) * geometry.stride


def read_extent(geometry: Geometry, core: int, step: int) -> int:
    """Return how many pixels, from `halo` before a core on, `predict_core` needs for it.

    Parameters
    ----------
    geometry
        Of the network.
    core
        Extent of the core.
    step
        Extent of the core of one tile.
    """
    return max(a + geometry.read_size(aligned(geometry, b - a)) for a, b in _steps(core, step))


def predict_core(network: nn.Module, geometry: Geometry, block: Tensor, core: tuple[int, int], step: int) -> Tensor:
    """Return the class probabilities of a core, computed tile by tile.

    Parameters
    ----------
    network
        Takes ``(n, channels, y, x)``.
    geometry
        Of the network.
    block : (channels, y, x) float32
        The core with its context: from `halo` before it on, `read_extent` pixels along each axis. The core
        starts on the network's stride, counted from the edge of the image.
    core
        Extent of the core along y and x.
    step
        Extent of the core of one tile; a multiple of the stride.

    Returns
    -------
    (classes, y, x) float32

    Notes
    -----
    Each tile has its own context, so it is what a pass over the whole image gives at this place: sizes and
    origins of all tiles lie on the stride, and what padding spoils is cut off. ::

        |<- halo ->|<- step ->|            |  first tile
                   |<- halo ->|<- step ->| |  second tile
    """
    rows = []
    for y0, y1 in _steps(core[0], step):
        row = []
        for x0, x1 in _steps(core[1], step):
            size = [geometry.read_size(aligned(geometry, n)) for n in (y1 - y0, x1 - x0)]
            tile = block[None, :, y0 : y0 + size[0], x0 : x0 + size[1]]
            row.append(_valid_part(network(tile), geometry, (y1 - y0, x1 - x0)))
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


View = tuple[int, bool]
"""Quarter turns, then whether mirrored along x."""
VIEWS: dict[str, tuple[View, ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, flipped) for turns in range(4) for flipped in (False, True)),
}
"""What test-time augmentation averages over; these need no interpolation, so they keep the promise of no seams."""


def context(geometry: Geometry, core: tuple[int, int], step: int) -> int:
    """Return how many pixels to read on each side of a core, rounded up to the stride, for any view of it."""
    needs = [read_extent(geometry, n, step) - geometry.halo - n for n in (aligned(geometry, c) for c in core)]
    return max(geometry.halo, *needs)


def predict_views(
    network: nn.Module, geometry: Geometry, block: Tensor, core: tuple[int, int], step: int, views: tuple[View, ...]
) -> Tensor:
    """Return the mean over turned and mirrored views of the class probabilities of a core.

    Parameters
    ----------
    network, geometry, core, step
        As in `predict_core`.
    block : (channels, y, x) float32
        The core, rounded up to the stride, with `context` pixels on each side.
    views
        Which ones.

    Returns
    -------
    (classes, y, x) float32

    Notes
    -----
    A view of a rounded core starts on the stride again, counted from the other end, for every tile of an image.
    """
    first = context(geometry, core, step) - geometry.halo
    whole = (aligned(geometry, core[0]), aligned(geometry, core[1]))
    total = torch.zeros(())
    for turns, flipped in views:
        turned = torch.rot90(block, turns, (-2, -1))
        turned = turned.flip(-1) if flipped else turned
        extent = whole if turns % 2 == 0 else (whole[1], whole[0])
        result = predict_core(network, geometry, turned[:, first:, first:].contiguous(), extent, step)
        result = result.flip(-1) if flipped else result
        total = total.to(result.device) + torch.rot90(result, -turns, (-2, -1))
    return (total / len(views))[:, : core[0], : core[1]]


def _valid_part(logits: Tensor, geometry: Geometry, core: tuple[int, int]) -> Tensor:
    """Cut the core out of the output of a tile, as probabilities."""
    first = geometry.halo - geometry.margin
    return class_probabilities(logits[:, :, first : first + core[0], first : first + core[1]])[0]


def _steps(core: int, step: int) -> Iterator[tuple[int, int]]:
    return ((a, min(a + step, core)) for a in range(0, core, step))
