"""Progressive resizing: patches that show the same part of an image in fewer pixels, for the first steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from unetcli.config import TrainConfig
from unetcli.errors import GeometryError
from unetcli.image.dataset import Dataset
from unetcli.kernels.deformation import Position
from unetcli.models.geometry import AxisGeometry, Geometry


@dataclass(frozen=True)
class Resolution:
    """What the network sees in some steps; along (z, y, x), of planes with one z.

    Parameters
    ----------
    factors
        Pixels of the image that become one.
    shape
        Extent of a patch as the network reads it.
    margin
        How much the output of the network lacks at each side.
    """

    factors: Position
    shape: Position
    margin: Position

    @property
    def region(self) -> Position:
        """Extent of what a patch shows, in pixels of the image."""
        return _times(self.shape, self.factors)

    @property
    def region_margin(self) -> Position:
        """The margin in pixels of the image."""
        return _times(self.margin, self.factors)

    @property
    def output(self) -> Position:
        """Extent of the output of the network."""
        (z, y, x), (a, b, c) = self.shape, self.margin
        return z - 2 * a, y - 2 * b, x - 2 * c


def resolutions(config: TrainConfig, geometry: Geometry, dataset: Dataset) -> Iterator[tuple[int, Resolution]]:
    """Yield each resolution of a training with the step that it ends before.

    Parameters
    ----------
    config
        Patch size and schedule.
    geometry
        Of the network.
    dataset
        Where planes are further apart than pixels, z is reduced less, so that reduced pixels are nearer to cubes.

    Raises
    ------
    GeometryError
        If the network can not take patches of that size.
    """
    ndim = len(geometry.axes)
    spacing = max(image.axes.spacing[0] for image in dataset.images)
    whole = config.patch_shape(ndim)
    geometry.check_shape("--patch-size", whole)
    for factor, end in config.resize_steps():
        along = [factor] * ndim if ndim == 2 else [max(1, round(factor / spacing)), factor, factor]
        reduced = [_nearest(a, n, f) for a, n, f in zip(geometry.axes, whole, along, strict=True)]
        margin = [axis.margin for axis in geometry.axes]
        yield end, Resolution(_zyx(along, 1), _zyx(reduced, 1), _zyx(margin, 0))


def _nearest(axis: AxisGeometry, size: int, factor: int) -> int:
    """Return the legal size nearest to a part of one."""
    if factor == 1:
        return size
    if factor > size:
        raise GeometryError(f"--resize-schedule: nothing is left of a patch of {size} pixels at 1/{factor}")
    return min(axis.neighbours(size // factor), key=lambda n: abs(n - size / factor))


def _zyx(values: Sequence[int], z: int) -> Position:
    """Return a number for each of z, y, x; planes have none for z."""
    first, y, x = (z, *values)[-3:]
    return first, y, x


def _times(a: Position, b: Position) -> Position:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def reduce_images(images: Tensor, factors: Sequence[int]) -> Tensor:
    """Average images ``(n, c, [z,] y, x)`` over blocks of so many pixels."""
    if set(factors) == {1}:
        return images
    pool = F.avg_pool2d if len(factors) == 2 else F.avg_pool3d
    return pool(images, tuple(factors))


def reduce_labels(labels: Tensor, factors: Sequence[int]) -> Tensor:
    """Take the pixel at the centre of each block of ``(n, [z,] y, x)``, of an even one that after it.

    A vote of the block would let thin borders vanish; centres keep the share of each class.
    """
    centres = tuple(slice(f // 2, None, f) for f in factors)
    return labels if set(factors) == {1} else labels[(slice(None), *centres)].contiguous()
