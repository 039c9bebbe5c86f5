"""V-Net: residual blocks of wide convolutions, and strided convolutions in place of pooling."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from unetcli.models.blocks import (
    CONV,
    Norm,
    Padding,
    Up,
    Window,
    center_crop,
    check_divisible,
    convolution,
    per_axis,
    up_convolution,
)
from unetcli.models.plan import Plan
from unetcli.models.unet import UNet

MOST_CONVOLUTIONS = 3


class Stage(nn.Module):
    """Convolutions, each followed by normalization and PReLU; what came in is added before the last PReLU.

    Parameters
    ----------
    kernel, channels_in, channels_out, padding, norm
        As in `ConvBlock`.
    convolutions
        How many.
    """

    def __init__(
        self, kernel: Window, channels_in: int, channels_out: int, convolutions: int, *, padding: Padding, norm: Norm
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(convolutions):
            before = channels_in if i == 0 else channels_out
            layers += [convolution(kernel, before, channels_out, padding=padding), norm(channels_out)]
            layers += [nn.PReLU(channels_out)] if i + 1 < convolutions else []
        self.residual = nn.Sequential(*layers)
        # An image of one channel is added to each: the paper.
        same = channels_in in (1, channels_out)
        self.shortcut = nn.Identity() if same else CONV[len(kernel)](channels_in, channels_out, kernel_size=1)
        self.activation = nn.PReLU(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(n, channels_out, z, y, x)``."""
        residual = self.residual(features)
        return self.activation(residual + self.shortcut(center_crop(features, residual.shape[2:])))  # type: ignore[no-any-return]


class DownConv(nn.Module):
    """A convolution over windows that do not overlap, of sizes that are multiples of them."""

    def __init__(self, pool: Window, channels_in: int, channels_out: int, *, norm: Norm) -> None:
        super().__init__()
        self.conv = CONV[len(pool)](channels_in, channels_out, pool, stride=pool)
        self.activation = nn.Sequential(norm(channels_out), nn.PReLU(channels_out))

    def forward(self, features: Tensor) -> Tensor:
        """Make one pixel of each window of ``(n, c, z, y, x)`` features."""
        check_divisible(features, per_axis(self.conv.stride, features.ndim - 2))
        return self.activation(self.conv(features))  # type: ignore[no-any-return]


def vnet(plan: Plan) -> UNet:
    """Build the V-Net.

    Notes
    -----
    Fig. 2 of [1]_ for ``ndim=3, channels=1, classes=2, features=(16, 32, 64, 128, 256), padding="same", norm="none"``:
    one, two, three, three and three 5x5x5 convolutions in the levels of the contracting path, as many in those of the
    expansive path, which have twice the channels after the skip connection; 65.2 M parameters. An image of several
    channels, which the paper does not have, is added to the first level by a 1x1x1 convolution; dropout, which it does
    not have either, may follow the last two levels of the contracting path.

    References
    ----------
    .. [1] Milletari, Navab, Ahmadi, "V-Net", 3DV 2016. arXiv:1606.04797
    """
    kernels, pools, norm = plan.kernels(5), plan.pools(), plan.make_norm()
    features = plan.features
    counts = [min(i + 1, MOST_CONVOLUTIONS) for i in range(len(features))]
    widths = [*(plan.joined(f, f) for f in features[:-1]), features[-1]]  # of the expansive path
    entered = (plan.channels, *features[1:])
    levels = [*zip(pools, features, pairwise(widths), strict=False)][::-1]
    return UNet(
        contracting=[
            Stage(kernel, a, b, n, padding=plan.padding, norm=norm)
            for kernel, a, b, n in zip(kernels, entered, features, counts, strict=True)
        ],
        down=[DownConv(pool, a, b, norm=norm) for pool, (a, b) in zip(pools, pairwise(features), strict=True)],
        up=[
            Up(nn.Sequential(up_convolution(pool, below, f), norm(f), nn.PReLU(f)), skip=plan.make_skip(f, f))
            for pool, f, (_, below) in levels
        ],
        expansive=[
            Stage(kernel, width, width, n, padding=plan.padding, norm=norm)
            for kernel, width, n in [*zip(kernels, widths, counts, strict=True)][-2::-1]
        ],
        head=plan.head(widths[0]),
        dropout=plan.dropout,
    )
