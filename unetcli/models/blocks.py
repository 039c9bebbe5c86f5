"""The parts that networks are composed of; each works in 2D and 3D.

Shapes are written ``(n, c, y, x)``; in 3D there is a ``z`` before ``y``. A window has one size for each axis, so
``(1, 3, 3)`` is a convolution that works plane by plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unetcli.errors import GeometryError

Padding = Literal["valid", "same"]
Window = tuple[int, ...]
"""Size along each axis."""
Norm = Callable[[int], nn.Module]
"""Makes the normalization layer of a number of channels."""
Skip = Callable[[Tensor, Tensor], Tensor]
"""Joins features of the contracting path with those that come from below."""

# Layers by number of axes; without types, because torch's differ in the length of the tuples that they take.
CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONV: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORMS: dict[str, Callable[[int], Norm]] = {
    "none": lambda _: nn.Identity,
    "batch": lambda ndim: {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim],
    "instance": lambda ndim: {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[ndim],
    "group": lambda _: lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
}
"""Normalization by name: the number of axes to what makes a layer for a number of channels."""


def window(ndim: int, size: int, *, flat: bool = False) -> Window:
    """Return a window of one size along each axis; a flat one is one pixel wide along z."""
    return (1 if flat else size, size, size)[-ndim:]


def convolution(
    kernel: Window, channels_in: int, channels_out: int, *, padding: Padding, stride: Window | int = 1
) -> Any:  # noqa: ANN401 - as `CONV`
    """Make a convolution of odd windows; `same` pads each side with half a window of zeros."""
    pad = tuple(n // 2 if padding == "same" else 0 for n in kernel)
    return CONV[len(kernel)](channels_in, channels_out, kernel, stride=stride, padding=pad)


class ConvBlock(nn.Sequential):
    """Two times convolution, normalization, ReLU.

    Parameters
    ----------
    kernel
        Window of the convolutions.
    channels_in, channels_out
        Channels before and after.
    padding
        ``valid`` loses one pixel a side with each 3x3 convolution (the paper); ``same`` pads with zeros.
    norm
        Makes the normalization layer; a convolution followed by one needs no bias, but keeps it,
        so that parameters do not change their names with the normalization.
    middle
        Channels between the two convolutions, by default those after them.
    """

    def __init__(
        self,
        kernel: Window,
        channels_in: int,
        channels_out: int,
        *,
        padding: Padding,
        norm: Norm,
        middle: int | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        first = middle or channels_out
        for before, after in ((channels_in, first), (first, channels_out)):
            layers += [convolution(kernel, before, after, padding=padding), norm(after), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two times normalization, ReLU, convolution, added to what came in: full pre-activation.

    Parameters
    ----------
    kernel, channels_in, channels_out, padding, norm
        As in `ConvBlock`.
    down
        Window of the first convolution's stride: 1 along an axis, or 2, which takes even sizes only.
    first
        Leave out the first normalization and ReLU: there is nothing to activate in an image.

    Notes
    -----
    With `valid` padding the convolution of stride 2 gives ``n / 2 - 1`` pixels, of which pixel i lies on ``2 i + 1``;
    with `same` padding it lies on ``2 i``. The shortcut takes the same pixels.
    """

    def __init__(
        self,
        kernel: Window,
        channels_in: int,
        channels_out: int,
        *,
        padding: Padding,
        norm: Norm,
        down: Window,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.activation = nn.Identity() if first else nn.Sequential(norm(channels_in), nn.ReLU())
        self.entry = convolution(kernel, channels_in, channels_out, padding=padding, stride=down)
        self.rest = nn.Sequential(
            norm(channels_out),
            nn.ReLU(inplace=True),
            convolution(kernel, channels_out, channels_out, padding=padding),
        )
        # Pixels are picked before the convolution: the weight gradient of a 1x1 convolution with a stride writes past
        # its memory in oneDNN (torch 2.13 on a CPU, channels last, fewer than 16 channels in).
        self.pick = nn.Identity() if max(down) == 1 else AVERAGE_POOL[len(kernel)](1, stride=down)
        self.shortcut = CONV[len(kernel)](channels_in, channels_out, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(n, channels_out, y, x)``."""
        check_divisible(features, per_axis(self.entry.stride, features.ndim - 2))
        residual = self.rest(self.entry(self.activation(features)))
        lost = (k // 2 - p for k, p in zip(self.entry.kernel_size, self.entry.padding, strict=True))
        inner = [n - 2 * k for n, k in zip(features.shape[2:], lost, strict=True)]
        shortcut = self.shortcut(self.pick(center_crop(features, inner)))
        return residual + center_crop(shortcut, residual.shape[2:])  # type: ignore[no-any-return]


class Down(nn.Module):
    """Pooling over windows that do not overlap, of sizes that are multiples of them.

    Parameters
    ----------
    pool
        One of `MAX_POOL` (the paper) or `AVERAGE_POOL`.
    """

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - as `MAX_POOL`
        super().__init__()
        self.pool = pool

    def forward(self, features: Tensor) -> Tensor:
        """Make one pixel of each window of ``(n, c, y, x)`` features."""
        check_divisible(features, per_axis(self.pool.kernel_size, features.ndim - 2))
        return self.pool(features)  # type: ignore[no-any-return]


def up_convolution(pool: Window, channels_in: int, channels_out: int) -> nn.Module:
    """Make an up-convolution, in which each pixel becomes a window."""
    up: nn.Module = UP_CONV[len(pool)](channels_in, channels_out, kernel_size=pool, stride=pool)
    return up


class Up(nn.Module):
    """Enlarge features to the size of the level above, then the skip connection.

    Parameters
    ----------
    up
        Enlarges: an `up_convolution` in the paper.
    skip
        Joins features of the contracting path, cropped to size, with the enlarged ones.
    """

    def __init__(self, up: nn.Module, *, skip: Skip) -> None:
        super().__init__()
        self.up, self.skip = up, skip

    def forward(self, features: Tensor, contracting: Tensor) -> Tensor:
        """Enlarge and join with the features of the contracting path."""
        up = self.up(features)
        return self.skip(center_crop(contracting, up.shape[2:]), up)


def per_axis(value: int | Window, ndim: int) -> Window:
    """Return a number for each axis."""
    return (value,) * ndim if isinstance(value, int) else value


def check_divisible(features: Tensor, by: Sequence[int]) -> None:
    """Refuse features whose size is no multiple of a window, where they are not being traced.

    What is left over would be dropped, which shifts what follows against the skip connection: it is an error
    here, so that legal sizes can be told from illegal ones by trying.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
        return
    if any(size % n or size < n for size, n in zip(features.shape[2:], by, strict=True)):
        text = "x".join(map(str, by)) if len(set(by)) > 1 else by[0]
        raise GeometryError(f"features of {tuple(features.shape[2:])} can not be pooled by {text}")


def concatenate(contracting: Tensor, up: Tensor) -> Tensor:
    """Join both along the channels: the paper's skip connection."""
    return torch.cat([contracting, up], dim=1)


def add(contracting: Tensor, up: Tensor) -> Tensor:
    """Add both: the skip connection of fully convolutional networks (Long et al. 2015)."""
    return contracting + up


class AttentionGate(nn.Module):
    """Weight each pixel of the contracting path by additive attention, then join both along the channels.

    Parameters
    ----------
    ndim
        2 or 3.
    channels, gating
        Channels of the contracting path, and of the features that come from below.

    Notes
    -----
    Eq. 1 of [1]_: ``alpha = sigmoid(psi(relu(W_x x + W_g g)))``, with ``channels / 2`` in between. The paper takes g
    before it is enlarged, x shrunk to it, and interpolates alpha. Here g is the up-convolved features, which lie on x
    pixel by pixel: nothing is resampled. There is no normalization in the gate.

    References
    ----------
    .. [1] Oktay et al., "Attention U-Net", MIDL 2018. arXiv:1804.03999
    """

    def __init__(self, ndim: int, channels: int, gating: int) -> None:
        super().__init__()
        conv, inner = CONV[ndim], max(1, channels // 2)
        self.of_contracting = conv(channels, inner, kernel_size=1, bias=False)
        self.of_gating = conv(gating, inner, kernel_size=1)
        self.coefficient = nn.Sequential(nn.ReLU(), conv(inner, 1, kernel_size=1), nn.Sigmoid())

    def forward(self, contracting: Tensor, up: Tensor) -> Tensor:
        """Return ``(n, channels + gating, y, x)``."""
        attention = self.coefficient(self.of_contracting(contracting) + self.of_gating(up))
        return concatenate(contracting * attention, up)


SKIPS: dict[str, Callable[[int, int, int], Skip]] = {
    "concat": lambda *_: concatenate,
    "add": lambda *_: add,
    "attention": AttentionGate,
}
"""Skip connection by name: axes, channels of the contracting path and from below to what joins them."""


def center_crop(features: Tensor, shape: Sequence[int]) -> Tensor:
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
