"""The parts that networks are composed of; each works in 2D and 3D.

Shapes are written ``(n, c, y, x)``; in 3D there is a ``z`` before ``y``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from unetcli.errors import GeometryError

Padding = Literal["valid", "same"]
Norm = Callable[[int], nn.Module]
"""Makes the normalization layer of a number of channels."""

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONV: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORMS: dict[str, Callable[[int], Norm]] = {
    "none": lambda _: nn.Identity,
    "batch": lambda ndim: {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim],
    "instance": lambda ndim: {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[ndim],
    "group": lambda _: lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
}
"""Normalization by name: the number of axes to what makes a layer for a number of channels."""


class ConvBlock(nn.Sequential):
    """Two times 3x3 convolution, normalization, ReLU.

    Parameters
    ----------
    ndim
        2 or 3.
    channels_in, channels_out
        Channels before and after.
    padding
        ``valid`` loses one pixel a side with each convolution (the paper); ``same`` pads with zeros.
    norm
        Makes the normalization layer; a convolution followed by one needs no bias, but keeps it,
        so that parameters do not change their names with the normalization.
    """

    def __init__(self, ndim: int, channels_in: int, channels_out: int, *, padding: Padding, norm: Norm) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            layers += [
                CONV[ndim](channels, channels_out, kernel_size=3, padding=padding),
                norm(channels_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Down(nn.Module):
    """Max-pooling by 2, of even sizes only."""

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.pool = MAX_POOL[ndim]((2,) * ndim)

    def forward(self, features: Tensor) -> Tensor:
        """Halve the size of ``(n, c, y, x)`` features."""
        check_divisible(features, per_axis(self.pool.kernel_size, features.ndim - 2))
        return self.pool(features)  # type: ignore[no-any-return]


def per_axis(value: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Return a number for each axis."""
    return (value,) * ndim if isinstance(value, int) else value


def check_divisible(features: Tensor, window: Sequence[int]) -> None:
    """Refuse features whose size is no multiple of a window, where they are not being traced.

    What is left over would be dropped, which shifts what follows against the skip connection: it is an error
    here, so that legal sizes can be told from illegal ones by trying.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
        return
    if any(size % n or size < n for size, n in zip(features.shape[2:], window, strict=True)):
        by = "x".join(map(str, window)) if len(set(window)) > 1 else window[0]
        raise GeometryError(f"features of {tuple(features.shape[2:])} can not be pooled by {by}")


class Up(nn.Module):
    """2x2 up-convolution to the channels of the level above, then the skip connection.

    Parameters
    ----------
    skip
        Joins features of the contracting path, cropped to size, with the up-convolved ones.
    """

    def __init__(
        self, ndim: int, channels_in: int, channels_out: int, *, skip: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.up = UP_CONV[ndim](channels_in, channels_out, kernel_size=2, stride=2)
        self.skip = skip

    def forward(self, features: Tensor, contracting: Tensor) -> Tensor:
        """Double the size and join with the features of the contracting path."""
        up = self.up(features)
        return self.skip(center_crop(contracting, up.shape[2:]), up)


def concatenate(contracting: Tensor, up: Tensor) -> Tensor:
    """Join both along the channels: the paper's skip connection."""
    return torch.cat([contracting, up], dim=1)


def add(contracting: Tensor, up: Tensor) -> Tensor:
    """Add both: the skip connection of fully convolutional networks (Long et al. 2015)."""
    return contracting + up


def center_crop(features: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cut the middle of a shape out of ``(n, c, y, x)`` features."""
    for axis, size in enumerate(shape, start=2):
        features = features.narrow(axis, (features.shape[axis] - size) // 2, size)
    return features


def he_init(network: nn.Module) -> None:
    """Draw convolutions from a Gaussian of std ``sqrt(2 / N)``, N = incoming nodes of a neuron; biases are 0.

    The 1x1 convolution at the end has no ReLU after it, but the paper makes no exception for it.
    An output pixel of a 2x2 up-convolution of stride 2 has one input pixel: N = its input channels.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.normal_(module.weight, std=(2 / module.in_channels) ** 0.5)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
