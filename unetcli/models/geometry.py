"""Stride, halo and legal input sizes of a network along each axis, derived from its layers.

Nothing here knows any architecture: legal sizes are found by trying, reach by asking which input pixels
an output pixel depends on. Both are asked of a twin with two channels per level, which has the same geometry,
along one axis after the other: windows are separable, so every window can be one pixel wide along the others.
The twin works on a line of pixels and costs milliseconds, in 3D too.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from unetcli.errors import GeometryError
from unetcli.models import build_model
from unetcli.models.layers import all_seeing, on_one_axis

LARGEST_SIZE_TRIED = 4096
LARGEST_STRIDE = 1024


@dataclass(frozen=True)
class AxisGeometry:
    """How the output of a network lies on its input along one axis, in pixels.

    Parameters
    ----------
    stride
        A tile equals the whole-image pass only if its core starts on a multiple of this.
    margin
        Pixels that the output is smaller than the input, a side: 92 for the paper's network, 0 for `same`.
    halo
        Pixels to read before a core: >= its reach, and such that input and output lie on the same stride.
        92 for the paper's network; 96 for the same network with `same` padding, which reaches 94.
    reach
        Pixels after a core, which starts and ends on the stride, that it still depends on. 96 for the paper's
        network: max-pooling and up-convolution look to the far end of their 2x2 windows.
    smallest
        Smallest legal input size; the others follow at multiples of the stride.
    """

    stride: int
    margin: int
    halo: int
    reach: int
    smallest: int

    def is_legal(self, size: int) -> bool:
        """Tell whether the network takes an input of this size."""
        return size >= self.smallest and (size - self.smallest) % self.stride == 0

    def next_legal(self, size: int) -> int:
        """Return the smallest legal size that is not below `size`."""
        steps = max(0, math.ceil((size - self.smallest) / self.stride))
        return self.smallest + steps * self.stride

    def read_size(self, core: int) -> int:
        """Return the input size that yields a core: the core, what it depends on, and what makes it legal."""
        return self.next_legal(self.halo + core + self.reach)

    def core_size(self, size: int) -> int:
        """Return the largest core on the stride that an input of this size yields."""
        return (size - self.halo - self.reach) // self.stride * self.stride

    def sizes(self, least: int | None = None) -> str:
        """Say which sizes are legal: ``16*k + 12, from 188 on``."""
        return f"{self.stride}*k + {self.smallest % self.stride}, from {self.next_legal(least or self.smallest)} on"

    def neighbours(self, size: int, least: int | None = None) -> tuple[int, ...]:
        """Return the legal sizes next to a size, from `least` on: the size itself, or one or two others."""
        least = self.next_legal(least or self.smallest)
        above = max(self.next_legal(size), least)
        below = above - self.stride
        return (above,) if above == size or below < least else (below, above)

    def check_size(self, option: str, size: int, least: int | None = None) -> None:
        """Refuse an input size that the network does not take.

        Parameters
        ----------
        option, size
            The option that sets the size, for the message, and the size.
        least
            Smallest size that makes sense; by default the smallest that the network takes.

        Raises
        ------
        GeometryError
            With the next legal sizes.
        """
        nearest = self.neighbours(size, least)
        if nearest != (size,):
            raise GeometryError(
                f"{option} {size}: the network takes {self.sizes(least)}",
                fix=" or ".join(f"{option} {n}" for n in nearest),
            )


@dataclass(frozen=True)
class Geometry:
    """How the output of a network lies on its input along each axis: (y, x) or (z, y, x)."""

    axes: tuple[AxisGeometry, ...]

    def check_shape(self, option: str, shape: Sequence[int], least: Sequence[int] | None = None) -> None:
        """Refuse an input shape, one size for each axis, that the network does not take.

        Parameters
        ----------
        option, shape
            The option that sets the shape, for the message, and the shape.
        least
            Smallest shape that makes sense; by default the smallest that the network takes.

        Raises
        ------
        GeometryError
            With the next legal sizes.
        """
        least = least or [axis.smallest for axis in self.axes]
        if len(set(self.axes)) == len(set(shape)) == 1:
            self.axes[0].check_size(option, shape[0], least[0])
        nearest = [axis.neighbours(n, low) for axis, n, low in zip(self.axes, shape, least, strict=True)]
        if all(found == (n,) for found, n in zip(nearest, shape, strict=True)):
            return
        each = zip("zyx"[-len(self.axes) :], self.axes, least, strict=True)
        takes = "; ".join(f"{axis.sizes(low)} along {name}" for name, axis, low in each)
        shapes = dict.fromkeys(",".join(str(found[end]) for found in nearest) for end in (0, -1))
        raise GeometryError(
            f"{option} {','.join(map(str, shape))}: the network takes {takes}",
            fix=" or ".join(f"{option} {text}" for text in shapes),
        )

    def describe(self) -> str:
        """Say the geometry in one line; for each axis, where they differ."""
        lines = [f"stride {a.stride}, halo {a.halo}, inputs {a.sizes()}" for a in self.axes]
        if len(set(lines)) == 1:
            return lines[0]
        return "; ".join(f"{name}: {line}" for name, line in zip("zyx"[-len(lines) :], lines, strict=True))


def geometry_of(arch: str, parameters: Mapping[str, Any]) -> Geometry:
    """Derive the geometry of a network from its layers.

    Parameters
    ----------
    arch, parameters
        As for `build_model`; the widths and the number of channels and classes do not matter.

    Raises
    ------
    GeometryError
        If no input up to `LARGEST_SIZE_TRIED` pixels fits through the network.
    """
    return Geometry(tuple(along_axis(arch, parameters, axis)[0] for axis in range(parameters["ndim"])))


def receptive_field(arch: str, parameters: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many pixels along each axis one pixel of the output depends on; of the pixels that differ, the most.

    Parameters are those of `geometry_of`.
    """
    return tuple(along_axis(arch, parameters, axis)[1] for axis in range(parameters["ndim"]))


def along_axis(arch: str, parameters: Mapping[str, Any], axis: int) -> tuple[AxisGeometry, int]:
    """Return the geometry along an axis as in `geometry_of`, and the receptive field."""
    narrow = {"features": (2,) * len(parameters["features"]), "channels": 1, "classes": 1}
    return _of_twin(arch, tuple({**parameters, **narrow, "dropout": 0.0, "norm": "none"}.items()), axis)


@cache
def _of_twin(arch: str, values: tuple[tuple[str, Any], ...], axis: int) -> tuple[AxisGeometry, int]:
    """Derive geometry and receptive field; remembered, as networks of all widths have one twin."""
    twin = dict(values)
    ndim = int(twin["ndim"])
    with torch.device("meta"):
        shapes_only = on_one_axis(build_model(arch, twin), axis).eval()
    smallest, stride = legal_sizes(shapes_only, ndim, axis)
    margin = (smallest - _output_size(shapes_only, ndim, axis, smallest)) // 2
    network = on_one_axis(all_seeing(build_model(arch, twin)), axis).eval()
    before, after, field = _reach(network, ndim, axis, stride, margin, smallest)
    halo = margin + math.ceil((before - margin) / stride) * stride
    return AxisGeometry(stride=stride, margin=margin, halo=halo, reach=after, smallest=smallest), field


def legal_sizes(network: nn.Module, ndim: int, axis: int) -> tuple[int, int]:
    """Return the smallest size that a network `on_one_axis` (on the meta device) takes, and the stride, by trying.

    Two large sizes tell the stride; of the sizes that lie on it, all from the smallest on fit, which is bisected.
    """
    large = range(LARGEST_SIZE_TRIED, LARGEST_SIZE_TRIED + 2 * LARGEST_STRIDE)
    fitting = itertools.islice((n for n in large if _output_size(network, ndim, axis, n)), 2)
    found = list(fitting)
    if len(found) < 2:
        raise GeometryError(
            f"no input of {LARGEST_SIZE_TRIED} pixels or a few more fits through the network: its poolings, "
            "--downsample and --pyramid do not go together, or join too many pixels",
            fix="fewer --features, a smaller --pyramid or --downsample, or --padding same",
        )
    stride = found[1] - found[0]
    on_stride = range(found[0] % stride or stride, found[0] + 1, stride)
    return on_stride[bisect(on_stride, 0, key=lambda n: _output_size(network, ndim, axis, n))], stride


def _output_size(network: nn.Module, ndim: int, axis: int, size: int) -> int:
    """Return the size of the output, or 0 for a size that a pooling, a convolution or a crop can not take."""
    with torch.no_grad():
        try:
            output = network(torch.empty((1, 1, *_line(ndim, axis, size)), device="meta"))
        except (GeometryError, RuntimeError):
            return 0
    return int(output.shape[2 + axis])


def _line(ndim: int, axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if i == axis else 1 for i in range(ndim))


def _reach(network: nn.Module, ndim: int, axis: int, stride: int, margin: int, smallest: int) -> tuple[int, int, int]:
    """Return how far before and after a core of one stride a network looks, and how far one pixel of it does at most.

    With positive weights and averages in place of maxima no path can cancel or hide another, so an input
    pixel matters to an output pixel if and only if its gradient is not zero.
    """
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel())  # about an average: no overflow in deep networks
    network.double()
    size = smallest + 4 * stride
    while size < 8 * LARGEST_SIZE_TRIED:
        # One image for each pixel of the core.
        images = torch.ones((stride, 1, *_line(ndim, axis, size)), dtype=torch.float64, requires_grad=True)
        core = (size // 2 - margin) // stride * stride
        logits = network(images).flatten(1)
        logits.diagonal(offset=core).sum().backward()
        assert images.grad is not None
        seen = images.grad.flatten(1) != 0
        firsts, lasts = seen.int().argmax(1), size - 1 - seen.flip(1).int().argmax(1)
        first, last = int(firsts.min()), int(lasts.max())
        if first > 0 and last < size - 1:  # else the edge of the image may hide a longer reach
            # Input pixel of output pixel i is i + margin.
            return core + margin - first, last + 1 - (core + stride + margin), int((lasts - firsts).max()) + 1
        size += math.ceil(size / stride) * stride
    raise GeometryError(f"the network sees more than {LARGEST_SIZE_TRIED} pixels")
