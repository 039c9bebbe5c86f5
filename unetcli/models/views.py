"""Test-time augmentation: the mean of what a network says of an image that is turned, mirrored or rotated.

What a view shows, and on which of its pixels the tiles of the network start, follows from the position in the whole
image alone; so do the means, and any tiling gives the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from unetcli.models.geometry import Geometry
from unetcli.models.overlap_tile import aligned, context, predict_core, read_extent

Spans = list[tuple[int, int]]
"""First pixel and the one after the last, along (y, x) or (z, y, x), counted from the first pixel of the image."""
BAND_PIXELS = 2**20
"""Pixels that are interpolated at once."""


class Views(Protocol):
    """Ways to look at an image."""

    def read(self, geometry: Geometry, core: Spans, step: Sequence[int]) -> Spans:
        """Return what to read of an image for a core."""
        ...

    def seen(
        self, network: nn.Module, geometry: Geometry, block: Tensor, core: Spans, step: Sequence[int], batch: int
    ) -> Iterator[Tensor]:
        """Yield the class probabilities ([n,] classes, [z,] y, x) of a core as each view has them."""
        ...


def predict_views(
    network: nn.Module,
    geometry: Geometry,
    block: Tensor,
    core: Spans,
    step: Sequence[int],
    views: Views,
    batch: int = 1,
    *,
    variance: bool = False,
) -> Tensor:
    """Return the mean over the views of the class probabilities of a core.

    Parameters
    ----------
    network
        Takes ``(n, channels, [z,] y, x)``.
    geometry
        Of the network.
    block : ([n,] channels, [z,] y, x) float32
        What ``views.read`` asks for; of several images that of each.
    core
        What to predict; it starts on the network's stride.
    step
        Extent of the core of one tile along each axis; multiples of the stride.
    views
        Ways to look at the image.
    batch
        Tiles that go through the network at once, at most.
    variance
        Also return how far the views disagree.

    Returns
    -------
    ([n,] classes, [z,] y, x) float32
        With `variance` one channel more: the mean over the classes of the variance of their probability over the
        views, ``sum_c sum_v (p_vc - mean_v p_vc)**2 / (views * classes)``, which is 0 to 1/4.
    """
    seen, classes = views.seen(network, geometry, block, core, step, batch), -len(core) - 1
    first = next(seen)
    n, total, squares = 1, torch.zeros_like(first), torch.zeros_like(first.narrow(classes, 0, 1))
    for probabilities in seen:  # as differences from the first: their squares lose nothing to rounding
        difference = probabilities - first
        n, total = n + 1, total + difference
        if variance:
            squares += difference.square().mean(classes, keepdim=True)
    total /= n
    if not variance:
        return first + total
    spread = (squares / n - total.square().mean(classes, keepdim=True)).clamp(min=0)
    return torch.cat([first + total, spread], classes)


@dataclass(frozen=True)
class QuarterTurns:
    """Views that need no interpolation.

    A view of a core that is rounded up to the stride starts on the stride again, counted from the other end, for every
    tile of an image.

    Parameters
    ----------
    turns
        Quarter turns of y and x of each view, then whether it is mirrored along x.
    """

    turns: tuple[tuple[int, bool], ...]

    def read(self, geometry: Geometry, core: Spans, step: Sequence[int]) -> Spans:
        """Return the core, rounded up to the stride, with context on each side for any view of it."""
        around = context(geometry, [b - a for a, b in core], step)
        sides = zip(geometry.axes, core, around, strict=True)
        return [(a - n, a + aligned(axis, b - a) + n) for axis, (a, b), n in sides]

    def seen(
        self, network: nn.Module, geometry: Geometry, block: Tensor, core: Spans, step: Sequence[int], batch: int
    ) -> Iterator[Tensor]:
        """Yield the class probabilities of a core; see `Views`."""
        extent = [b - a for a, b in core]
        around = context(geometry, extent, step)
        every = (slice(None),) * (block.ndim - len(core))
        first = [slice(n - axis.halo, None) for axis, n in zip(geometry.axes, around, strict=True)]
        *depth, y, x = (aligned(axis, n) for axis, n in zip(geometry.axes, extent, strict=True))
        for turns, flipped in self.turns:
            turned = torch.rot90(block, turns, (-2, -1))
            turned = turned.flip(-1) if flipped else turned
            sizes = (*depth, y, x) if turns % 2 == 0 else (*depth, x, y)
            result = predict_core(network, geometry, turned[(*every, *first)].contiguous(), sizes, step, batch)
            result = result.flip(-1) if flipped else result
            yield torch.rot90(result, -turns, (-2, -1))[(*every, *(slice(n) for n in extent))]


@dataclass(frozen=True)
class Rotations:
    """Views that are rotated in the plane by equal parts of a full turn, about the first pixel of the image.

    Pixel ``(v, u)`` of a view shows the image at ``(v cos a - u sin a, v sin a + u cos a)``, between its pixels by
    bilinear interpolation, and the probabilities are brought back in the same way. The network works on the pixels of
    the view, in tiles that start on its stride there, over the box around the rotated core: that has
    ``1 + abs(sin 2a)`` times as many pixels.

    Parameters
    ----------
    n
        Number of views; the first is the image as it is.
    """

    n: int

    def read(self, geometry: Geometry, core: Spans, step: Sequence[int]) -> Spans:
        """Return the box around what all views show of the core and its context."""
        shown = []
        for angle in self._angles():
            inside = _of_view(geometry, core, angle)
            shown.append(_around(_with_context(geometry, inside, step), angle))
        return [(min(a for a, _ in spans), max(b for _, b in spans)) for spans in zip(*shown, strict=True)]

    def seen(
        self, network: nn.Module, geometry: Geometry, block: Tensor, core: Spans, step: Sequence[int], batch: int
    ) -> Iterator[Tensor]:
        """Yield the class probabilities of a core; see `Views`."""
        read = self.read(geometry, core, step)
        every = (slice(None),) * (block.ndim - len(core))
        for angle in self._angles():
            inside = _of_view(geometry, core, angle)
            outside = _with_context(geometry, inside, step)
            z = [slice(a - first, b - first) for (a, b), (first, _) in zip(outside[:-2], read[:-2], strict=True)]
            view = rotated(block[(*every, *z)], read[-2:], outside[-2:], angle)
            result = predict_core(network, geometry, view, [b - a for a, b in inside], step, batch)
            yield rotated(result, inside[-2:], core[-2:], -angle)

    def _angles(self) -> list[float]:
        return [2 * math.pi * k / self.n for k in range(self.n)]


def rotated(image: Tensor, spans: Spans, wanted: Spans, angle: float) -> Tensor:
    """Return a part of an image that is rotated about its first pixel.

    Parameters
    ----------
    image : (..., y, x) float32
        What is known of it.
    spans
        Where that lies along y and x.
    wanted
        Rows and columns of the result; what they show lies within `spans`.
    angle
        Radians; see `Rotations`.

    Returns
    -------
    (..., rows, columns) float32
    """
    (y, _), (x, _) = spans
    height, width = image.shape[-2:]
    pixels = image.reshape(-1, height * width)
    (first, last), columns = wanted
    u = torch.arange(*columns, dtype=torch.float64, device=image.device)
    result = image.new_empty((len(pixels), last - first, len(u)))
    band = max(1, BAND_PIXELS // len(u))
    for a in range(first, last, band):
        v = torch.arange(a, min(a + band, last), dtype=torch.float64, device=image.device)[:, None]
        # In double precision, from positions in the whole image: every tile has the same numbers.
        rows, row_part = _taps(v * math.cos(angle) - u * math.sin(angle) - y, height)
        cols, col_part = _taps(v * math.sin(angle) + u * math.cos(angle) - x, width)
        total = torch.zeros((), device=image.device)
        for (row, p), (col, q) in itertools.product(
            ((rows, 1 - row_part), ((rows + 1).clamp(max=height - 1), row_part)),
            ((cols, 1 - col_part), ((cols + 1).clamp(max=width - 1), col_part)),
        ):
            total = total + pixels.index_select(1, (row * width + col).flatten()) * (p * q).flatten()
        result[:, a - first : a - first + len(v)] = total.reshape(len(pixels), len(v), len(u))
    return result.reshape(*image.shape[:-2], last - first, len(u))


def _taps(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the pixel before a position, and which part of the way to the next one it lies."""
    before = position.floor().clamp(0, size - 1)
    return before.long(), (position - before).float()


def _of_view(geometry: Geometry, core: Spans, angle: float) -> Spans:
    """Return the box of a view around a core, from the stride on."""
    axes = geometry.axes
    return [(a // axis.stride * axis.stride, b) for axis, (a, b) in zip(axes, _around(core, -angle), strict=True)]


def _with_context(geometry: Geometry, core: Spans, step: Sequence[int]) -> Spans:
    extents = read_extent(geometry, [b - a for a, b in core], step)
    sides = zip(geometry.axes, core, extents, strict=True)
    return [(a - axis.halo, a - axis.halo + extent) for axis, (a, _), extent in sides]


def _around(spans: Spans, angle: float) -> Spans:
    """Return the box of an image around a box of its view; depth is not rotated."""
    *depth, (v, v_stop), (u, u_stop) = spans
    corners = list(itertools.product((v, v_stop - 1), (u, u_stop - 1)))
    ys = [v * math.cos(angle) - u * math.sin(angle) for v, u in corners]
    xs = [v * math.sin(angle) + u * math.cos(angle) for v, u in corners]
    return [*depth, *((math.floor(min(at)), math.ceil(max(at)) + 1) for at in (ys, xs))]


VIEWS: dict[str, Views] = {
    "none": QuarterTurns(((0, False),)),
    "flips": QuarterTurns(((0, False), (0, True), (2, False), (2, True))),
    "d4": QuarterTurns(tuple((turns, flipped) for turns in range(4) for flipped in (False, True))),
    "rotations": Rotations(7),
}
"""What test-time augmentation averages over."""
