"""Stride, halo and legal input sizes of a network, derived from its layers.

Nothing here knows any architecture: legal sizes are found by trying, reach by asking which input pixels
an output pixel depends on. Both are asked of a twin with one channel per level, which has the same
geometry and costs milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unetcli.errors import GeometryError
from unetcli.models import build_model
from unetcli.models.blocks import MAX_POOL

LARGEST_SIZE_TRIED = 2048


@dataclass(frozen=True)
class Geometry:
    """How the output of a network lies on its input, in pixels along each axis.

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
        least = self.next_legal(least or self.smallest)
        if self.is_legal(size) and size >= least:
            return
        above = max(self.next_legal(size), least)
        below = above - self.stride
        raise GeometryError(
            f"{option} {size}: the network takes {self.stride}*k + {self.smallest % self.stride}, from {least} on",
            fix=f"{option} {above}" if below < least else f"{option} {below} or {option} {above}",
        )


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
    twin = {
        **parameters,
        "features": (2,) * len(parameters["features"]),
        "channels": 1,
        "classes": 1,
        "dropout": 0.0,
    }
    with torch.device("meta"):
        shapes_only = build_model(arch, {**twin, "norm": "none"})
    ndim = int(parameters["ndim"])
    sizes = legal_sizes(shapes_only, ndim)
    smallest, stride = sizes[0], sizes[1] - sizes[0]
    margin = _margin(shapes_only, ndim, smallest)
    before, after = _reach(build_model(arch, {**twin, "norm": "none"}), ndim, stride, margin, smallest)
    halo = margin + math.ceil((before - margin) / stride) * stride
    return Geometry(stride=stride, margin=margin, halo=halo, reach=after, smallest=smallest)


def legal_sizes(network: nn.Module, ndim: int, count: int = 2) -> list[int]:
    """Return the smallest input sizes that fit through a network (on the meta device), by trying each."""
    found: list[int] = []
    for size in range(1, LARGEST_SIZE_TRIED + 1):
        try:
            _margin(network, ndim, size)
        except (GeometryError, RuntimeError):  # a size that a convolution or a crop can not take
            continue
        found.append(size)
        if len(found) == count:
            return found
    raise GeometryError(f"no input of up to {LARGEST_SIZE_TRIED} pixels fits through the network")


def _margin(network: nn.Module, ndim: int, size: int) -> int:
    output = network(torch.empty((1, 1, *(size,) * ndim), device="meta"))
    return (size - int(output.shape[-1])) // 2


def _reach(network: nn.Module, ndim: int, stride: int, margin: int, smallest: int) -> tuple[int, int]:
    """Return how far before and after an output core, which lies on the stride, the network looks.

    With positive weights and averages in place of maxima no path can cancel or hide another, so an input
    pixel matters to the core if and only if its gradient is not zero.
    """
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, tuple(MAX_POOL.values())):
                setattr(module, name, nn.AvgPool2d(2) if ndim == 2 else nn.AvgPool3d(2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
    network.double().eval()
    for size in range(smallest, LARGEST_SIZE_TRIED, 4 * stride):
        image = torch.ones((1, 1, *(size,) * ndim), dtype=torch.float64, requires_grad=True)
        output = network(image)
        core = (size // 2 - margin) // stride * stride
        # A row of cores along x; the other axes are summed, as all axes are alike.
        output[..., core : core + stride].sum().backward()
        assert image.grad is not None
        seen = torch.nonzero(image.grad.abs().flatten(0, -2).sum(0)).flatten()
        first, last = int(seen[0]), int(seen[-1])
        if first > 0 and last < size - 1:  # else the edge of the image may hide a longer reach
            # Input pixel of output pixel i is i + margin.
            return core + margin - first, last + 1 - (core + stride + margin)
    raise GeometryError(f"the network sees more than {LARGEST_SIZE_TRIED} pixels")
