"""Label images of cells to measure on: any box of an image is made alone, so that it may be larger than the memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Box3 = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells around the jittered points of a grid, each pixel given to the nearest point.

    Parameters
    ----------
    shape : (z, y, x)
        Pixels of the image.
    pitch
        Distance between the points of the grid, pixels.
    points : (gz, gy, gx, 3) float64
        The jittered points, pixels.
    gaps : (gz, gy, gx) float64
        Width of the gap that each cell wishes around it, 1 to 6 pixels; between two, the mean.
    ids : (gz, gy, gx) uint32
        Object ids, 1, 2, 3... without holes; 0 where a cell is missing.
    radius
        Farther from its point than so many pixels no cell reaches: nuclei instead of tissue.
    """

    shape: Box3
    pitch: float
    points: NDArray[np.float64]
    gaps: NDArray[np.float64]
    ids: NDArray[np.uint32]
    radius: float = math.inf

    @classmethod
    def random(cls, shape: Box3, n: int, *, missing: float = 0.08, radius: float = math.inf, seed: int = 0) -> Cells:
        """Draw about `n` cells; a share of the points of the grid, `missing`, stays empty."""
        rng = np.random.default_rng(seed)
        ndim = sum(length > 1 for length in shape)
        pitch = (math.prod(shape) * (1 - missing) / n) ** (1 / ndim)
        grid = tuple(max(1, round(length / pitch)) for length in shape)
        jitter = rng.uniform(-0.3, 0.3, (*grid, 3)) * pitch * (np.array(shape) > 1)
        points = (np.moveaxis(np.indices(grid), 0, -1) + 0.5) * np.divide(shape, grid) - 0.5 + jitter
        present = rng.random(grid) >= missing
        ids = np.where(present, np.cumsum(present).reshape(grid), 0).astype(np.uint32)
        return cls(shape, pitch, points, rng.uniform(1, 6, grid), ids, radius)

    def labels(self, start: Box3 = (0, 0, 0), stop: Box3 | None = None) -> NDArray[np.uint32]:
        """Return the object ids of a box of the image, (z, y, x)."""
        stop = stop or self.shape
        out = np.empty([b - a for a, b in zip(start, stop, strict=True)], np.uint32)
        per_pixel = np.divide(self.ids.shape, self.shape)
        _fill(np.array(start), per_pixel, self.pitch, self.points, self.gaps, self.ids, self.radius, out)
        return out


@njit(nogil=True, cache=True)
def _fill(start, per_pixel, pitch, points, gaps, ids, radius, out):  # noqa: ANN001, ANN202
    """Give each pixel to the nearest point, seen through waves that curve the borders; leave gaps between cells."""
    height, wave = 0.04 * pitch, 2 * math.pi / pitch
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                pz, py, px = start[0] + z, start[1] + y, start[2] + x
                here = (pz, py + height * math.sin(wave * px), px + height * math.sin(wave * py))
                first, second, at, beside = _nearest_points(here, per_pixel, points)
                apart = 0.0
                for axis in range(3):
                    apart += (points[at][axis] - points[beside][axis]) ** 2
                to_border = (second - first) / (2 * math.sqrt(apart)) if apart > 0 else math.inf
                in_gap = to_border < (gaps[at] + gaps[beside]) / 4
                out[z, y, x] = 0 if in_gap or first > radius * radius else ids[at]


@njit(nogil=True, cache=True)
def _nearest_points(here, per_pixel, points):  # noqa: ANN001, ANN202
    """Return the squared distances and the grid indices of the nearest and the second nearest point."""
    n_z, n_y, n_x, _ = points.shape
    i, j, k = int(here[0] * per_pixel[0]), int(here[1] * per_pixel[1]), int(here[2] * per_pixel[2])
    first, second, at, beside = math.inf, math.inf, (0, 0, 0), (0, 0, 0)
    for a in range(max(i - 1, 0), min(i + 2, n_z)):
        for b in range(max(j - 1, 0), min(j + 2, n_y)):
            for c in range(max(k - 1, 0), min(k + 2, n_x)):
                d = (points[a, b, c, 0] - here[0]) ** 2
                d += (points[a, b, c, 1] - here[1]) ** 2 + (points[a, b, c, 2] - here[2]) ** 2
                if d < first:
                    first, second, at, beside = d, first, (a, b, c), at
                elif d < second:
                    second, beside = d, (a, b, c)
    return first, second, at, beside
