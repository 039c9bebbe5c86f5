"""U-Net++: U-Nets of every depth in one, joined by nested, dense skip connections."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unetcli.models.blocks import (
    MAX_POOL,
    ConvBlock,
    Down,
    Norm,
    Padding,
    Window,
    center_crop,
    he_init,
    up_convolution,
)
from unetcli.models.plan import Plan
from unetcli.models.unet import dropout_at_the_end


class Node(nn.Module):
    """A block that sees all before it on its level, and an enlarged one of the level below.

    Parameters
    ----------
    kernel, padding, norm
        As in `ConvBlock`.
    pool
        Window that a pixel of the level below becomes.
    channels_in, channels_out
        Channels of the level below, and of this one.
    before
        How many blocks of its level it sees.
    """

    def __init__(
        self,
        kernel: Window,
        pool: Window,
        channels_in: int,
        channels_out: int,
        before: int,
        *,
        padding: Padding,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.up = up_convolution(pool, channels_in, channels_out)
        self.block = ConvBlock(kernel, (before + 1) * channels_out, channels_out, padding=padding, norm=norm)

    def forward(self, level: list[Tensor], below: Tensor) -> Tensor:
        """Join the features of the level, cropped to size, with those from below."""
        up = self.up(below)
        return self.block(torch.cat([*(center_crop(f, up.shape[2:]) for f in level), up], dim=1))  # type: ignore[no-any-return]


class NestedUNet(nn.Module):
    """A triangle of blocks: block (i, j) sees all before it on its level, and the enlarged block (i + 1, j - 1).

    With deep supervision each block of full resolution but the first has a head of its own: in training their logits
    are returned one by one, in evaluation their mean is. Without it the last block alone has a head.

    Notes
    -----
    Fig. 1 of [1]_. With ``features=(32, 64, 128, 256, 512), channels=1, classes=1, padding="same", norm="none",
    deep_supervision=True`` it has 9.04 M parameters, as the paper says. The paper averages probabilities; here logits
    are averaged, so that a network has one output to which every loss and every export applies. With `valid` padding,
    which the paper does not have, everything is cropped to what comes from below, and all logits to the smallest.

    References
    ----------
    .. [1] Zhou et al., "UNet++", DLMIA 2018. arXiv:1807.10165
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        kernels, pools, norm, features = plan.kernels(3), plan.pools(), plan.make_norm(), plan.features
        self.contracting = nn.ModuleList(
            ConvBlock(kernel, a, b, padding=plan.padding, norm=norm)
            for kernel, (a, b) in zip(kernels, pairwise((plan.channels, *features)), strict=True)
        )
        self.down = nn.ModuleList([nn.Identity(), *(Down(MAX_POOL[plan.ndim](pool)) for pool in pools)])
        self.dropout = dropout_at_the_end(plan.dropout, len(features))
        self.nodes = nn.ModuleList(  # column by column, each from full resolution down
            Node(kernels[i], pools[i], features[i + 1], features[i], j, padding=plan.padding, norm=norm)
            for j in range(1, len(features))
            for i in range(len(features) - j)
        )
        n_heads = len(pools) if plan.deep_supervision else 1
        self.heads = nn.ModuleList(plan.head(features[0]) for _ in range(n_heads))
        he_init(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Return the logits ``(n, classes, y, x)`` of ``(n, channels, y, x)`` images; several in deep supervision."""
        rows: list[list[Tensor]] = []  # of each level: blocks (i, 0), (i, 1), ...
        x = image
        for down, block, dropout in zip(self.down, self.contracting, self.dropout, strict=True):
            x = dropout(block(down(x)))
            rows.append([x])
        nodes = iter(self.nodes)
        for j in range(1, len(rows)):
            for i in range(len(rows) - j):
                rows[i].append(next(nodes)(rows[i], rows[i + 1][-1]))
        last = rows[0][-1]
        finest = [center_crop(node, last.shape[2:]) for node in rows[0][-len(self.heads) :]]
        logits = [head(node) for head, node in zip(self.heads, finest, strict=True)]
        if self.training and len(logits) > 1:
            return logits
        return torch.stack(logits).mean(dim=0) if len(logits) > 1 else logits[0]
