"""The U-Net of Ronneberger, Fischer and Brox, and variants of it that differ by their blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from unetcli.models.blocks import MAX_POOL, ConvBlock, Down, ResidualBlock, Up, he_init, up_convolution
from unetcli.models.plan import Plan


class UNet(nn.Module):
    """A contracting path, an expansive path, and skip connections between them.

    Parameters
    ----------
    contracting
        Blocks of the contracting path, from full resolution to the bottleneck.
    down
        What shrinks features from each level to the next: one less.
    up
        What enlarges features, and joins them with those of the contracting path, from the bottleneck on.
    expansive
        Blocks of the expansive path, from the bottleneck on.
    head
        Features of full resolution to logits.
    dropout
        Probability of dropout at the end of the contracting path: after its last two levels, as in the
        authors' published network; 0 leaves it out.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    """

    def __init__(
        self,
        *,
        contracting: Sequence[nn.Module],
        down: Sequence[nn.Module],
        up: Sequence[nn.Module],
        expansive: Sequence[nn.Module],
        head: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.contracting, self.down = nn.ModuleList(contracting), nn.ModuleList([nn.Identity(), *down])
        self.dropout = dropout_at_the_end(dropout, len(contracting))
        self.up, self.expansive = nn.ModuleList(up), nn.ModuleList(expansive)
        self.head = head
        he_init(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``(n, classes, y, x)`` of ``(n, channels, y, x)`` images."""
        x = image  # 572
        skips: list[Tensor] = []
        for down, block, dropout in zip(self.down, self.contracting, self.dropout, strict=True):
            x = dropout(block(down(x)))  # 568, 280, 136, 64, 28
            skips.append(x)
        for up, block, skip in zip(self.up, self.expansive, reversed(skips[:-1]), strict=True):
            x = block(up(x, skip))  # 52, 100, 196, 388
        return self.head(x)  # type: ignore[no-any-return]


def dropout_at_the_end(dropout: float, levels: int) -> nn.ModuleList:
    """Make a layer for each level of a contracting path: dropout for the last two."""
    drop: Callable[[], nn.Module] = (lambda: nn.Dropout(dropout)) if dropout else nn.Identity
    return nn.ModuleList(drop() if level >= levels - 2 else nn.Identity() for level in range(levels))


def unet(plan: Plan) -> UNet:
    """Build the U-Net.

    Notes
    -----
    Fig. 1 of [1]_ for ``ndim=2, features=(64, 128, 256, 512, 1024), padding="valid", norm="none"``: 23 convolutions,
    31 M parameters, 572x572 pixels in, 388x388 out. The paper's figure shows 2 classes. With ``skip="attention"`` it is
    the Attention U-Net, see `AttentionGate`.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    """
    kernels, pools, norm = plan.kernels(3), plan.pools(), plan.make_norm()
    levels = [*zip(kernels, pools, pairwise(plan.features), strict=False)][::-1]
    return UNet(
        contracting=[
            ConvBlock(kernel, a, b, padding=plan.padding, norm=norm)
            for kernel, (a, b) in zip(kernels, pairwise((plan.channels, *plan.features)), strict=True)
        ],
        down=[Down(MAX_POOL[plan.ndim](pool)) for pool in pools],
        up=[
            Up(up_convolution(pool, below, above), skip=plan.make_skip(above, above))
            for _, pool, (above, below) in levels
        ],
        expansive=[
            ConvBlock(kernel, plan.joined(above, above), above, padding=plan.padding, norm=norm)
            for kernel, _, (above, _) in levels
        ],
        head=plan.head(plan.features[0]),
        dropout=plan.dropout,
    )


def unet3d(plan: Plan) -> UNet:
    """Build the 3D U-Net.

    Notes
    -----
    Fig. 2 of [1]_ for ``ndim=3, channels=3, classes=3, features=(64, 128, 256, 512), padding="valid", norm="batch"``:
    19,069,955 parameters, 132x132x116 voxels in, 44x44x28 out. Against `unet`: the first of the two convolutions before
    a pooling has half the channels, and up-convolutions keep theirs, against bottlenecks. The paper counts neither the
    scale and shift of batch normalization (4,672) nor biases of up-convolutions (896), which there are here. With
    ``skip="add"``, which it does not have, up-convolutions go to the channels of the level above, as these are added.

    References
    ----------
    .. [1] Çiçek et al., "3D U-Net", MICCAI 2016. arXiv:1606.06650
    """
    kernels, pools, norm = plan.kernels(3), plan.pools(), plan.make_norm()
    levels = [
        (kernel, pool, above, below, above if plan.skip == "add" else below)
        for kernel, pool, (above, below) in zip(kernels, pools, pairwise(plan.features), strict=False)
    ][::-1]
    return UNet(
        contracting=[
            ConvBlock(kernel, a, b, middle=max(1, b // 2), padding=plan.padding, norm=norm)
            for kernel, (a, b) in zip(kernels, pairwise((plan.channels, *plan.features)), strict=True)
        ],
        down=[Down(MAX_POOL[plan.ndim](pool)) for pool in pools],
        up=[
            Up(up_convolution(pool, below, up), skip=plan.make_skip(above, up)) for _, pool, above, below, up in levels
        ],
        expansive=[
            ConvBlock(kernel, plan.joined(above, up), above, padding=plan.padding, norm=norm)
            for kernel, _, above, _, up in levels
        ],
        head=plan.head(plan.features[0]),
        dropout=plan.dropout,
    )


def residual_unet(plan: Plan) -> UNet:
    """Build the deep residual U-Net.

    Notes
    -----
    Fig. 2 and table 1 of [1]_ for ``features=(64, 128, 256, 512), padding="same", norm="batch"``: seven residual
    blocks, of which those of the contracting path shrink with a first convolution of stride 2; features are enlarged by
    repeating pixels. The paper counts 7.8 M parameters, which is what the 3x3 convolutions have here. It draws the
    shortcuts as identities, though size and channels change: here they are 1x1 convolutions, 0.4 M more.

    References
    ----------
    .. [1] Zhang, Liu, Wang, "Road Extraction by Deep Residual U-Net", IEEE GRSL 2018. arXiv:1711.10684
    """
    kernels, pools, norm = plan.kernels(3), plan.pools(), plan.make_norm()
    once = (1,) * plan.ndim
    levels = [*zip(kernels, pools, pairwise(plan.features), strict=False)][::-1]
    return UNet(
        contracting=[
            ResidualBlock(kernel, a, b, padding=plan.padding, norm=norm, down=down, first=i == 0)
            for i, (kernel, down, (a, b)) in enumerate(
                zip(kernels, [once, *pools], pairwise((plan.channels, *plan.features)), strict=True)
            )
        ],
        down=[nn.Identity() for _ in pools],
        up=[
            Up(nn.Upsample(scale_factor=pool, mode="nearest"), skip=plan.make_skip(above, below))
            for _, pool, (above, below) in levels
        ],
        expansive=[
            ResidualBlock(kernel, plan.joined(above, below), above, padding=plan.padding, norm=norm, down=once)
            for kernel, _, (above, below) in levels
        ],
        head=plan.head(plan.features[0]),
        dropout=plan.dropout,
    )
