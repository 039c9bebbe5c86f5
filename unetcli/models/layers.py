"""What the layers of a network do along one axis: their windows narrowed, and all that could hide a pixel removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from unetcli.models.blocks import AVERAGE_POOL, CONV, MAX_POOL, UP_CONV, per_axis

CONVOLUTIONS = (*CONV.values(), *UP_CONV.values())
MAX_POOLS, AVERAGE_POOLS = tuple(MAX_POOL.values()), tuple(AVERAGE_POOL.values())
PADS = (nn.ConstantPad2d, nn.ConstantPad3d)


class Mean(nn.Module):
    """A mean over the windows of a max-pooling, which may be dilated."""

    def __init__(self, ndim: int, kernel_size: Any, stride: Any, dilation: Any) -> None:  # noqa: ANN401 - as torch
        super().__init__()
        self.ndim = ndim
        self.kernel_size, self.stride, self.dilation = (per_axis(v, ndim) for v in (kernel_size, stride, dilation))

    def forward(self, features: Tensor) -> Tensor:
        """Take the mean over each window of ``(n, c, y, x)`` features."""
        convolve: Callable[..., Tensor] = {2: F.conv2d, 3: F.conv3d}[self.ndim]
        each = features.flatten(0, 1)[:, None]
        window = features.new_ones((1, 1, *self.kernel_size))
        means = convolve(each, window / window.numel(), stride=self.stride, dilation=self.dilation)
        return means.reshape(*features.shape[:2], *means.shape[2:])


def replace_layers(network: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace each layer of a network by what `change` makes of it; a network of one layer, too."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            setattr(module, name, change(child))
    return change(network)


def all_seeing(network: nn.Module) -> nn.Module:
    """Put means in place of maxima and leave out sigmoids, whose slope vanishes, so that every pixel counts."""

    def change(layer: nn.Module) -> nn.Module:
        if isinstance(layer, MAX_POOLS):
            ndim = 2 if isinstance(layer, nn.MaxPool2d) else 3
            return Mean(ndim, layer.kernel_size, layer.stride, layer.dilation)
        return nn.Identity() if isinstance(layer, nn.Sigmoid) else layer

    return replace_layers(network, change)


def on_one_axis(network: nn.Module, axis: int) -> nn.Module:
    """Make every window of a network one pixel wide along all axes but one; parameters are drawn anew."""

    def narrow(value: Any, ndim: int, other: int = 1) -> Any:  # noqa: ANN401 - as torch
        return tuple(v if i == axis else other for i, v in enumerate(per_axis(value, ndim)))

    def change(layer: nn.Module) -> nn.Module:
        make: Any = type(layer)
        if isinstance(layer, CONVOLUTIONS):
            ndim = layer.weight.ndim - 2
            return make(  # type: ignore[no-any-return]
                layer.in_channels, layer.out_channels, narrow(layer.kernel_size, ndim),
                bias=layer.bias is not None, groups=layer.groups,
                stride=narrow(layer.stride, ndim), padding=narrow(layer.padding, ndim, 0),
                dilation=narrow(layer.dilation, ndim),
            )  # fmt: skip
        if isinstance(layer, MAX_POOLS):
            ndim = 2 if isinstance(layer, nn.MaxPool2d) else 3
            windows = (narrow(v, ndim) for v in (layer.kernel_size, layer.stride))
            return make(*windows, dilation=narrow(layer.dilation, ndim))  # type: ignore[no-any-return]
        if isinstance(layer, Mean):
            return Mean(layer.ndim, *(narrow(v, layer.ndim) for v in (layer.kernel_size, layer.stride, layer.dilation)))
        if isinstance(layer, AVERAGE_POOLS):
            ndim = 2 if isinstance(layer, nn.AvgPool2d) else 3
            return make(*(narrow(v, ndim) for v in (layer.kernel_size, layer.stride)))  # type: ignore[no-any-return]
        if isinstance(layer, nn.Upsample):
            factors: Any = layer.scale_factor
            return nn.Upsample(scale_factor=narrow(factors, len(factors)), mode=layer.mode)
        if isinstance(layer, PADS):
            ends = layer.padding  # of the last axis first, before and after
            return make([n if len(ends) // 2 - 1 - i // 2 == axis else 0 for i, n in enumerate(ends)], layer.value)  # type: ignore[no-any-return]
        return layer

    return replace_layers(network, change)
