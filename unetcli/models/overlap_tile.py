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
    return max(a + axis.read_size(aligned(axis, b - a)) for a, b in _steps(core, step))


def predict_core(
    network: nn.Module, geometry: Geometry, block: Tensor, core: Sequence[int], step: Sequence[int]
) -> Tensor:
    """Return the class probabilities of a core, computed tile by tile.

    Parameters
    ----------
    network
        Takes ``(n, channels, [z,] y, x)``.
    geometry
        Of the network.
    block : (channels, [z,] y, x) float32
        The core with its context: from `halo` before it on, `read_extent` pixels along each axis. The core
        starts on the network's stride, counted from the edge of the image.
    core
        Extent of the core along each axis.
    step
        Extent of the core of one tile along each axis; multiples of the stride.

    Returns
    -------
    (classes, [z,] y, x) float32

    Notes
    -----
    Each tile has its own context, so it is what a pass over the whole image gives at this place: sizes and
    origins of all tiles lie on the stride, and what padding spoils is cut off. ::

        |<- halo ->|<- step ->|            |  first tile
                   |<- halo ->|<- step ->| |  second tile
    """
    result = torch.empty(0)
    for spans in itertools.product(*(_steps(n, s) for n, s in zip(core, step, strict=True))):
        read = [
            slice(a, a + axis.read_size(aligned(axis, b - a)))
            for axis, (a, b) in zip(geometry.axes, spans, strict=True)
        ]
        part = _valid_part(network(block[(None, slice(None), *read)]), geometry, [b - a for a, b in spans])
        if not result.numel():
            result = part.new_empty((len(part), *core))
        result[(slice(None), *(slice(a, b) for a, b in spans))] = part
    return result


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


def _valid_part(logits: Tensor, geometry: Geometry, core: Sequence[int]) -> Tensor:
    """Cut the core out of the output of a tile, as probabilities."""
    firsts = [axis.halo - axis.margin for axis in geometry.axes]
    inside = (slice(a, a + n) for a, n in zip(firsts, core, strict=True))
    return class_probabilities(logits[(slice(None), slice(None), *inside)])[0]


def _steps(core: int, step: int) -> Iterator[tuple[int, int]]:
    return ((a, min(a + step, core)) for a in range(0, core, step))
