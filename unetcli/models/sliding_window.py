"""The classifier of the patch around each pixel that the U-Net was compared with, computed for all pixels at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from unetcli.models.blocks import CONV, MAX_POOL, Window, he_init
from unetcli.models.plan import Plan

PAD: dict[int, Any] = {2: nn.ConstantPad2d, 3: nn.ConstantPad3d}
LAST_WINDOW = 3


class SlidingWindow(nn.Module):
    """Convolution and max-pooling in turn, then two fully connected layers: the class of the pixel in the middle.

    The last of the features are the neurons of the first fully connected layer; those before it, the channels of each
    convolution. With `valid` padding the output is smaller by what the patch has beside its middle; with `same` padding
    the image has so many zeros around it. Dropout comes before the last layer. Flat levels leave z as it is.

    Notes
    -----
    Network N4 of [1]_ for ``features=(48, 48, 48, 48, 200), padding="valid"``: patches of 95x95 pixels; convolutions of
    4, 5, 4 and 4 pixels, each followed by 2x2 max-pooling, leave 3x3, which one layer of 200 neurons and one for the
    classes take; 219,290 parameters. Neurons are ReLUs here, and there is no foveation or non-uniform sampling.

    To compute all patches at once, no layer leaves out pixels: where the classifier halves the size, here all that
    follows is dilated by 2 ([2]_ computes the same in fragments). Each pixel gets what its patch alone would give.

    References
    ----------
    .. [1] Ciresan et al., "Deep Neural Networks Segment Neuronal Membranes", NIPS 2012
    .. [2] Giusti et al., "Fast Image Scanning with Deep Max-Pooling CNNs", ICIP 2013. arXiv:1302.1700
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        conv, norm, (*widths, neurons) = CONV[plan.ndim], plan.make_norm(), plan.features
        dilation: Window = (1,) * plan.ndim
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise((plan.channels, *widths))):
            kernel, halved = _windows(plan.ndim, i, plan.flat_levels)
            layers += [conv(before, after, kernel, dilation=dilation), norm(after), nn.ReLU(inplace=True)]
            layers += [MAX_POOL[plan.ndim](halved, stride=1, dilation=dilation)]
            dilation = tuple(map(int.__mul__, dilation, halved))
        beside = [(n - 1) // 2 for n in patch_size(plan.ndim, len(widths), plan.flat_levels)]
        ends = [n for axis in reversed(beside) for n in (axis, axis)]
        self.pad = PAD[plan.ndim](ends, 0.0) if plan.padding == "same" else nn.Identity()
        self.stages = nn.Sequential(*layers)
        self.connected = nn.Sequential(
            conv(widths[-1], neurons, LAST_WINDOW, dilation=dilation),
            norm(neurons),
            nn.ReLU(inplace=True),
            nn.Dropout(plan.dropout) if plan.dropout else nn.Identity(),
            plan.head(neurons),
        )
        he_init(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``(n, classes, y, x)`` of ``(n, channels, y, x)`` images."""
        return self.connected(self.stages(self.pad(image)))  # type: ignore[no-any-return]


def _windows(ndim: int, i: int, flat_levels: int) -> tuple[Window, Window]:
    """Return the windows of a convolution and of the pooling after it."""

    def along(i: int) -> tuple[int, int]:
        return (1, 1) if i < 0 else (5 if i == 1 else 4, 2)

    kernel, pool = zip(along(i - flat_levels), along(i), along(i), strict=True)
    return kernel[-ndim:], pool[-ndim:]


def patch_size(ndim: int, stages: int, flat_levels: int = 0) -> Window:
    """Return the size along each axis of the patch that is classified: odd."""
    sizes = [LAST_WINDOW] * ndim
    for i in reversed(range(stages)):
        kernel, pool = _windows(ndim, i, flat_levels)
        sizes = [n * p + k - 1 for n, k, p in zip(sizes, kernel, pool, strict=True)]
    return tuple(sizes)
