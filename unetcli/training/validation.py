"""Scores of a network in training: overlap-tile prediction of the validation planes, summed over tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from unetcli.models.overlap_tile import predict_core, read_extent
from unetcli.sampling import Example
from unetcli.training.batches import Plane, classes_of
from unetcli.training.record import Row

VALIDATION_TILE = 512


@dataclass(frozen=True)
class Validator:
    """Scores a network on planes that it does not learn from.

    Parameters
    ----------
    planes
        (example, t, z) of each plane.
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
        for tile in TileGrid(example.image.shape, (1, example.image.shape[1], 1, VALIDATION_TILE, VALIDATION_TILE)):
            if (tile.core.start[0], tile.core.start[2]) != (t, z):
                continue
            probabilities = self._predict(network, example, tile.core, mean, std)
            target_box = replace(tile.core, start=_channel(tile.core.start, 0), stop=_channel(tile.core.stop, 1))
            labels = (example.target or example.truth).read(target_box)[0, 0, 0]
            target = classes_of(example, labels, self.dataset.label_kind).astype(np.int64)
            weights = example.weights.read(target_box)[0, 0, 0] if example.weights else np.ones(target.shape)
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
        extent, step = core.shape[3:], (VALIDATION_TILE,) * 2
        block = core
        for axis, n in zip((3, 4), read_extent(self.geometry, extent, step), strict=True):
            first = core.start[axis] - self.geometry.axes[-1].halo
            block = block.replace(axis, first, first + n)
        pixels = read_mirrored(example.image, block)[0, :, 0]
        image = torch.from_numpy((pixels.astype(np.float32) - mean[:, None, None]) / std[:, None, None])
        result = predict_core(network, self.geometry, image.to(self.device), extent, step)
        return result.cpu().numpy()


def _channel(position: tuple[int, ...], c: int) -> tuple[int, ...]:
    return (position[0], c, *position[2:])
