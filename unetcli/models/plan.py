"""What a network is built from: plain values, as a model file keeps them, and the parts that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from unetcli.models.blocks import CONV, NORMS, SKIPS, Norm, Padding, Skip, Window, window


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The values that an architecture is built from.

    Parameters
    ----------
    ndim
        2 or 3.
    channels
        Channels of the image.
    classes
        Channels of the output, its logits.
    features
        Channels of each level, from full resolution to the bottleneck; one pooling less than its length.
    padding
        ``valid`` (the paper) or ``same``.
    norm
        One of `NORMS`; ``none`` is the U-Net's paper.
    dropout
        Probability of dropout at the end of the contracting path.
    skip
        One of `SKIPS`; ``concat`` is the U-Net's paper.
    flat_levels
        In 3D, so many levels from full resolution on convolve and pool plane by plane, for planes that lie further
        apart than their pixels.
    deep_supervision
        Whether results of shallower networks are trained, too; of `NestedUNet`.
    """

    ndim: int
    channels: int
    classes: int
    features: Sequence[int]
    padding: Padding
    norm: str
    dropout: float
    skip: str = "concat"
    flat_levels: int = 0
    deep_supervision: bool = False

    def kernels(self, size: int) -> list[Window]:
        """Return the window of the convolutions of each level."""
        return [window(self.ndim, size, flat=level < self.flat_levels) for level in range(len(self.features))]

    def pools(self) -> list[Window]:
        """Return the window that becomes one pixel, from each level to the next."""
        return self.kernels(2)[:-1]

    def make_norm(self) -> Norm:
        """Return what makes a normalization layer."""
        return NORMS[self.norm](self.ndim)

    def make_skip(self, contracting: int, up: int) -> Skip:
        """Make what joins so many channels of the contracting path with so many from below."""
        return SKIPS[self.skip](self.ndim, contracting, up)

    def joined(self, contracting: int, up: int) -> int:
        """Return how many channels `make_skip` gives."""
        return contracting if self.skip == "add" else contracting + up

    def head(self, channels: int) -> nn.Module:
        """Make the convolution from features of full resolution to logits."""
        head: nn.Module = CONV[self.ndim](channels, self.classes, kernel_size=1)
        return head
