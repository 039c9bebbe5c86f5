"""The overlap-tile strategy: a network over a region that is larger than what it takes at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.models.losses import class_probabilities


def aligned(axis: AxisGeometry, core: int) -> int:
    """Round the extent of a core along an axis up to the network's stride."""
    return math.ceil(core / axis.stride) * axis.stride


def read_extent(geometry: Geometry, core: Sequence[int], step: Sequence[int]) -> tuple[int, ...]:
    """Return how many pixels along each axis, from `halo` before a core on, `predict_core` needs for it.

    Parameters
    ----------
    geometry
        Of the network.
    core
        Extent of the core along each axis.
    step
        Extent of the core of one tile along each axis.
    """
    return tuple(_read_extent(axis, n, s) for axis, n, s in zip(geometry.axes, core, step, strict=True))


def _read_extent(axis: AxisGeometry, core: int, step: int) -> int:
    last = range(0, core, step)[-2:]  # of the tiles, all but the last of one size, these reach furthest
    return max(a + axis.read_size(aligned(axis, min(step, core - a))) for a in last)


def predict_core(
    network: nn.Module, geometry: Geometry, block: Tensor, core: Sequence[int], step: Sequence[int], batch: int = 1
) -> Tensor:
    """Return the class probabilities of a core, computed tile by tile, or several of equal size at once.

    Parameters
    ----------
    network
        Takes ``(n, channels, [z,] y, x)``.
    geometry
        Of the network.
    block : ([n,] channels, [z,] y, x) float32
        The core with its context: from `halo` before it on, `read_extent` pixels along each axis. The core
        starts on the network's stride, counted from the edge of the image. Of several images: each has its own.
    core
        Extent of the core along each axis.
    step
        Extent of the core of one tile along each axis; multiples of the stride.
    batch
        Tiles that go through the network at once, at most.

    Returns
    -------
    ([n,] classes, [z,] y, x) float32

    Notes
    -----
    Each tile has its own context, so it is what a pass over the whole image gives at this place: sizes and
    origins of all tiles lie on the stride, and what padding spoils is cut off. ::

        |<- halo ->|<- step ->|            |  first tile
                   |<- halo ->|<- step ->| |  second tile
    """
    images = block if block.ndim == len(core) + 2 else block[None]
    result = torch.empty(0)
    for places in _batches(len(images), core, step, batch):
        tiles = [images[k : k + 1, :, *_read(geometry, spans)] for k, spans in places]
        extent = [b - a for a, b in places[0][1]]
        parts = _valid_part(network(tiles[0] if len(tiles) == 1 else torch.cat(tiles)), geometry, extent)
        if not result.numel():
            result = parts.new_empty((len(images), parts.shape[1], *core))
        for (k, spans), part in zip(places, parts, strict=True):
            result[k][(slice(None), *(slice(a, b) for a, b in spans))] = part
    return result if images is block else result[0]


def context(geometry: Geometry, core: Sequence[int], step: Sequence[int]) -> tuple[int, ...]:
    """Return how many pixels to read on each side of a core, rounded up to the stride, for any view of it.

    A quarter turn changes y and x, so these two have the context of the one that needs more.
    """
    extents = [aligned(axis, n) for axis, n in zip(geometry.axes, core, strict=True)]
    y, x = geometry.axes[-2:]
    turned = max(_context(axis, n, s) for axis in (y, x) for n in extents[-2:] for s in step[-2:])
    depth = [_context(geometry.axes[i], extents[i], step[i]) for i in range(len(extents) - 2)]
    return (*depth, turned, turned)


def _context(axis: AxisGeometry, core: int, step: int) -> int:
    return max(axis.halo, _read_extent(axis, core, step) - axis.halo - core)


Span = tuple[int, int]
Place = tuple[int, tuple[Span, ...]]
"""Number of the image, and where the core of the tile begins and ends along each axis."""


def _batches(n_images: int, core: Sequence[int], step: Sequence[int], batch: int) -> Iterator[list[Place]]:
    """Yield the tiles of all images, up to `batch` with cores of one size together; in the same order each time."""
    by_extent: dict[tuple[int, ...], list[Place]] = {}
    for k, spans in itertools.product(
        range(n_images), itertools.product(*(_steps(n, s) for n, s in zip(core, step, strict=True)))
    ):
        by_extent.setdefault(tuple(b - a for a, b in spans), []).append((k, spans))
    for places in by_extent.values():
        yield from (places[i : i + batch] for i in range(0, len(places), batch))


def _read(geometry: Geometry, spans: tuple[Span, ...]) -> list[slice]:
    """Return what a tile reads of its image, along each axis."""
    return [
        slice(a, a + axis.read_size(aligned(axis, b - a))) for axis, (a, b) in zip(geometry.axes, spans, strict=True)
    ]


def _valid_part(logits: Tensor, geometry: Geometry, core: Sequence[int]) -> Tensor:
    """Cut the cores out of the output of tiles, as probabilities."""
    firsts = [axis.halo - axis.margin for axis in geometry.axes]
    inside = (slice(a, a + n) for a, n in zip(firsts, core, strict=True))
    return class_probabilities(logits[(slice(None), slice(None), *inside)])


def _steps(core: int, step: int) -> Iterator[Span]:
    return ((a, min(a + step, core)) for a in range(0, core, step))
