"""Scores of a network in training: overlap-tile prediction of the validation planes, summed over tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetcli.image.dataset import Dataset
from unetcli.image.source import read_mirrored
from unetcli.image.tiling import Box, TileGrid
from unetcli.models.geometry import Geometry
from unetcli.models.losses import Term, counts, totals
from unetcli.models.overlap_tile import aligned, predict_core, read_extent
from unetcli.sampling import Example, Plane
from unetcli.training.places import classes_of
from unetcli.training.record import Row

VALIDATION_TILE = {2: (1, 512, 512), 3: (32, 128, 128)}
"""Core of a tile (z, y, x) of planes and of volumes, pixels; it is rounded up to the stride of the network."""


@dataclass(frozen=True)
class Validator:
    """Scores a network on planes that it does not learn from.

    Parameters
    ----------
    planes
        (example, t, z) of each plane, or volume.
    dataset
        Where they are from.
    geometry
        Of the network.
    device
        Where the network is.
    terms
        Of the loss, for one logit a class; each tile counts as a patch.
    """

    planes: Sequence[Plane]
    dataset: Dataset
    geometry: Geometry
    device: torch.device
    terms: Sequence[Term]

    @property
    def ndim(self) -> int:
        """2: it scores planes; 3: volumes."""
        return len(self.geometry.axes)

    @property
    def _step(self) -> tuple[int, ...]:
        """Core of a tile (z, y, x)."""
        sizes = VALIDATION_TILE[self.ndim]
        along = zip(self.geometry.axes, sizes[-self.ndim :], strict=True)
        return (*sizes[: -self.ndim], *(aligned(axis, n) for axis, n in along))

    def measure(self, network: nn.Module) -> NDArray[np.float64]:
        """Predict the planes and compare them with the truth; what parts of the planes give adds up."""
        training = network.training
        network.eval()
        with torch.inference_mode():
            tiles = [tile for plane in self.planes for tile in self._score_plane(network, plane)]
        network.train(training)
        return np.sum(tiles, axis=0) if tiles else np.zeros(2 * len(self.terms) + 4)

    def row(self, total: NDArray[np.float64]) -> Row:
        """Return the scores; none where there are no planes, or all of their pixels are ignored."""
        n = len(self.terms)
        losses, divisors, (wrong, both, either, pixels) = total[:n], total[n : 2 * n], total[2 * n :]
        if not pixels:
            return {}
        return {
            "validation_loss": float((losses / divisors).sum()),
            "validation_pixel_error": float(wrong / pixels),
            "validation_iou": float(both / either) if either else 1.0,
        }

    def _score_plane(self, network: nn.Module, plane: Plane) -> Iterator[NDArray[np.float64]]:
        """Yield totals and counts of the loss, wrong, foreground in both, in either, and pixels, of each tile.

        Pixels of weight 0 count in none of them.
        """
        example, t, z = plane
        mean, std = self.dataset.normalization()
        axes = slice(5 - self.ndim, None)
        for tile in TileGrid(example.image.shape, (1, example.image.shape[1], *self._step)):
            if tile.core.start[0] != t or (self.ndim == 2 and tile.core.start[2] != z):
                continue
            probabilities = self._predict(network, example, tile.core, mean, std)
            shape, target_box = tile.core.shape[axes], tile.core.replace(1, 0, 1)
            labels = (example.target or example.truth).read(target_box).reshape(shape)
            target = classes_of(example, labels, self.dataset.label_kind).astype(np.int64)
            weights = example.weights.read(target_box).reshape(shape) if example.weights else np.ones(shape)
            logits = np.log(probabilities.clip(1e-12))  # of which these are the softmax
            batch = [torch.from_numpy(part)[None] for part in (logits, target, weights)]
            counted = weights > 0
            predicted, target = probabilities.argmax(axis=0)[counted], target[counted]
            yield np.array([
                *totals(self.terms, *batch), *counts(self.terms, batch[2]), (predicted != target).sum(),
                ((predicted > 0) & (target > 0)).sum(), ((predicted > 0) | (target > 0)).sum(), target.size,
            ])  # fmt: skip

    def _predict(
        self, network: nn.Module, example: Example, core: Box, mean: NDArray[Any], std: NDArray[Any]
    ) -> NDArray[np.float32]:
        first, block = 5 - self.ndim, core
        extent, step = core.shape[first:], self._step[-self.ndim :]
        for axis, n in enumerate(read_extent(self.geometry, extent, step), first):
            start = core.start[axis] - self.geometry.axes[axis - first].halo
            block = block.replace(axis, start, start + n)
        channels = (slice(None), *(None,) * self.ndim)
        pixels = read_mirrored(example.image, block)[0]
        pixels = (pixels.reshape(-1, *block.shape[first:]).astype(np.float32) - mean[channels]) / std[channels]
        result = predict_core(network, self.geometry, torch.from_numpy(pixels).to(self.device), extent, step)
        return result.cpu().numpy()
