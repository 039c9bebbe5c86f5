"""A network as other programs want it: gray values in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetcli.models.losses import class_probabilities


class Portable(nn.Module):
    """A network with what comes before and after it.

    Normalization is part of it, so that nobody can forget it or do it twice, or by the values of their own image.

    Parameters
    ----------
    network
        Takes ``(gray values - mean) / std``, returns logits.
    mean, std
        Of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities ``(n, classes, [z,] y, x)`` of gray values ``(n, channels, [z,] y, x)``."""
        shape = (1, -1, *(1,) * (image.ndim - 2))
        normal = (image - self.mean.reshape(shape)) / self.std.reshape(shape)
        return class_probabilities(self.network(normal))
