"""What the layers of a network do along each axis: their windows, narrowed to one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from unetcli.models.blocks import CONV, MAX_POOL, UP_CONV, per_axis

CONVOLUTIONS = (*CONV.values(), *UP_CONV.values())
MAX_POOLS = tuple(MAX_POOL.values())


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


def without_maxima(network: nn.Module) -> nn.Module:
    """Put means in place of maxima, so that every pixel of a window counts."""

    def change(layer: nn.Module) -> nn.Module:
        if isinstance(layer, MAX_POOLS):
            ndim = 2 if isinstance(layer, nn.MaxPool2d) else 3
            return Mean(ndim, layer.kernel_size, layer.stride, layer.dilation)
        return layer

    return replace_layers(network, change)


def on_one_axis(network: nn.Module, axis: int) -> nn.Module:
    """Make every window of a network one pixel wide along all axes but one; parameters are drawn anew."""

    def narrow(value: Any, ndim: int, other: int = 1) -> tuple[int, ...]:  # noqa: ANN401 - as torch
        return tuple(v if i == axis else other for i, v in enumerate(per_axis(value, ndim)))

    def change(layer: nn.Module) -> nn.Module:
        if isinstance(layer, CONVOLUTIONS):
            ndim = layer.weight.ndim - 2
            padding = layer.padding if isinstance(layer.padding, str) else narrow(layer.padding, ndim, 0)
            make: Any = type(layer)
            return make(  # type: ignore[no-any-return]
                layer.in_channels, layer.out_channels, narrow(layer.kernel_size, ndim),
                stride=narrow(layer.stride, ndim), padding=padding, dilation=narrow(layer.dilation, ndim),
            )  # fmt: skip
        if isinstance(layer, MAX_POOLS):
            ndim = 2 if isinstance(layer, nn.MaxPool2d) else 3
            make = type(layer)
            return make(  # type: ignore[no-any-return]
                narrow(layer.kernel_size, ndim), narrow(layer.stride, ndim), dilation=narrow(layer.dilation, ndim)
            )
        if isinstance(layer, Mean):
            windows = (narrow(v, layer.ndim) for v in (layer.kernel_size, layer.stride, layer.dilation))
            return Mean(layer.ndim, *windows)
        return layer

    return replace_layers(network, change)
