"""The U-Net of Ronneberger, Fischer and Brox, and its common variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from unetcli.models.blocks import CONV, NORMS, ConvBlock, Down, Norm, Padding, Up, add, concatenate, he_init


class UNet(nn.Module):
    """U-Net: a contracting path, an expansive path, and skip connections between them.

    Parameters
    ----------
    ndim
        2 or 3.
    channels
        Channels of the image.
    classes
        Channels of the output: one logit per class.
    features
        Channels of each level, from full resolution to the bottleneck; one pooling less than its length.
    padding
        ``valid`` (the paper) or ``same``.
    norm
        Makes a normalization layer.
    skip
        Joins the two paths: `concatenate` (the paper) or `add`.
    dropout
        Probability of dropout at the end of the contracting path: after its last two levels, as in the
        authors' published network; 0 leaves it out.

    Notes
    -----
    Fig. 1 of [1]_ for ``ndim=2, features=(64, 128, 256, 512, 1024), padding="valid"``: 23 convolutions,
    31 M parameters, 572x572 pixels in, 388x388 out. The paper's figure shows 2 classes.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    """

    def __init__(
        self,
        *,
        ndim: int,
        channels: int,
        classes: int,
        features: Sequence[int],
        padding: Padding,
        norm: Norm,
        skip: Callable[[Tensor, Tensor], Tensor],
        dropout: float,
    ) -> None:
        super().__init__()
        drop: type[nn.Dropout] = nn.Dropout
        self.contracting = nn.ModuleList(
            ConvBlock(ndim, a, b, padding=padding, norm=norm) for a, b in pairwise((channels, *features))
        )
        self.down = Down(ndim)
        last_two = len(features) - 2
        self.dropout = nn.ModuleList(
            drop(dropout) if dropout and i >= last_two else nn.Identity() for i in range(len(features))
        )
        self.up = nn.ModuleList(
            Up(ndim, below, above, skip=skip) for above, below in reversed(list(pairwise(features)))
        )
        joined = 2 if skip is concatenate else 1
        self.expansive = nn.ModuleList(
            ConvBlock(ndim, joined * f, f, padding=padding, norm=norm) for f in reversed(features[:-1])
        )
        self.head = CONV[ndim](features[0], classes, kernel_size=1)
        he_init(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``(n, classes, y, x)`` of ``(n, channels, y, x)`` images."""
        x = image  # 572
        skips: list[Tensor] = []
        for block, dropout in zip(self.contracting, self.dropout, strict=True):
            x = dropout(block(self.down(x) if skips else x))  # 568, 280, 136, 64, 28
            skips.append(x)
        for up, block, skip in zip(self.up, self.expansive, reversed(skips[:-1]), strict=True):
            x = block(up(x, skip))  # 52, 100, 196, 388
        return self.head(x)  # type: ignore[no-any-return]


SKIPS = {"concat": concatenate, "add": add}


def unet(
    *,
    ndim: int,
    channels: int,
    classes: int,
    features: Sequence[int],
    padding: Padding,
    norm: str,
    skip: str,
    dropout: float,
) -> UNet:
    """Build a `UNet` from plain values, as a model file keeps them."""
    return UNet(
        ndim=ndim,
        channels=channels,
        classes=classes,
        features=tuple(features),
        padding=padding,
        norm=NORMS[norm](ndim),
        skip=SKIPS[skip],
        dropout=dropout,
    )
