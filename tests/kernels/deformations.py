"""Deformations to test with, and blocks of source pixels for them."""

from dataclasses import replace

import numpy as np

from unetcli.kernels.deformation import random_deformation, source_box, source_positions
from unetcli.kernels.warp import Layer

SHAPES = [(1, 31, 44), (1, 1, 9), (1, 17, 1), (7, 12, 15), (2, 3, 1)]
EVERYTHING = {"std_px": 3.0, "rotation_rad": 3.0, "scale": 1.5, "shift_px": 4.0, "flip": True}


def deform(seed, shape, options=EVERYTHING):
    rng = np.random.default_rng(seed)
    grid = tuple(int(n) for n in rng.integers(1, 6, 3))
    return random_deformation(rng, shape, grid=grid, **options)


def whole(shape):
    return (0, 0, 0), shape


def displacement_field(deformation, start, stop):
    """Return the displacement vectors of a box, (3, z, y, x), without the affine map."""
    lattice = [np.arange(a, b) for a, b in zip(start, stop, strict=True)]
    still = replace(deformation, matrix=np.eye(3), offset=np.zeros(3))
    return source_positions(still, lattice) - np.stack(np.meshgrid(*lattice, indexing="ij"))


def read_mirrored(image, lo, hi):
    """Read a box that may lie outside of the image, mirrored at its border."""
    for axis, (a, b) in enumerate(zip(lo, hi, strict=True), start=image.ndim - 3):
        period = max(2 * (image.shape[axis] - 1), 1)
        at = np.abs(np.arange(a, b)) % period
        image = image.take(np.minimum(at, period - at) if image.shape[axis] > 1 else at * 0, axis)
    return image


def layer(image, deformation, start, stop, order):
    """Cut out what a box of the region needs of an image (c, z, y, x) as large as the region."""
    lo, hi = source_box(deformation, start, stop, order=order)
    return Layer(read_mirrored(image, lo, hi), lo, start, stop, order)
