"""Networks that see an image at several scales, or at a coarser one: full size in, full size out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unetcli.models.blocks import AVERAGE_POOL, Down, window


class WithPyramid(nn.Module):
    """A network that also sees, as more channels, what the image looks like at coarser scales.

    Parameters
    ----------
    network
        Takes ``channels * (1 + levels)`` channels.
    ndim
        2 or 3.
    levels
        Level k is the mean over blocks of ``2**k`` pixels along each axis, given to every pixel of its block.
    flat_levels
        So many levels leave z as it is.

    Notes
    -----
    Blocks count from the edge of what the network reads, so its size must be a multiple of the largest, and tiles must
    lie on it: both are found with the stride of the network.
    """

    def __init__(self, network: nn.Module, ndim: int, levels: int, *, flat_levels: int) -> None:
        super().__init__()
        self.network = network
        halves = [window(ndim, 2, flat=level < flat_levels) for level in range(levels)]
        blocks = [tuple(map(math.prod, zip(*halves[: k + 1], strict=True))) for k in range(levels)]
        self.shrink = nn.ModuleList(Down(AVERAGE_POOL[ndim](half)) for half in halves)
        self.enlarge = nn.ModuleList(nn.Upsample(scale_factor=block, mode="nearest") for block in blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ``(n, channels, [z,] y, x)`` images."""
        scales, coarse = [image], image
        for shrink, enlarge in zip(self.shrink, self.enlarge, strict=True):
            coarse = shrink(coarse)
            scales.append(enlarge(coarse))
        return self.network(torch.cat(scales, dim=1))  # type: ignore[no-any-return]


class Downsampled(nn.Module):
    """A network that works on means over blocks of pixels; its logits are brought back to full size.

    Parameters
    ----------
    network
        Takes the same channels.
    ndim
        2 or 3.
    factor
        Pixels along each axis that become one.
    upsample
        ``bilinear`` (in 3D, linear along z too) or ``nearest``.
    flat
        Leave z as it is.
    """

    def __init__(self, network: nn.Module, ndim: int, factor: int, upsample: str, *, flat: bool) -> None:
        super().__init__()
        block = window(ndim, factor, flat=flat)
        mode = {"bilinear": {2: "bilinear", 3: "trilinear"}[ndim], "nearest": "nearest"}[upsample]
        self.shrink = Down(AVERAGE_POOL[ndim](block))
        self.network = network
        self.enlarge = nn.Upsample(scale_factor=block, mode=mode)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Return the logits of ``(n, channels, [z,] y, x)`` images."""
        logits: Tensor | list[Tensor] = self.network(self.shrink(image))
        if isinstance(logits, list):  # deep supervision, in training
            return [self.enlarge(part) for part in logits]
        return self.enlarge(logits)  # type: ignore[no-any-return]
