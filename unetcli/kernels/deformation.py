"""Smooth deformations: a coarse control grid with an affine map, and which source position each pixel shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.errors import ConfigError

Position = tuple[int, int, int]

MOST_PX = 2**30
"""Positions are nearer than this: pixels are counted in 32 bits."""
_LATTICE = 16  # pixels along an axis that `source_box` evaluates between two control points, or in a smaller box
_ROUNDING_PX = 1e-6  # more than positions of up to `MOST_PX` lose to rounding
_CUBIC_B_SPLINE = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6
"""Powers 1, t, t^2, t^3 between two knots (rows) in the four coefficients around (columns)."""


@dataclass(frozen=True, eq=False)
class Deformation:
    """One smooth deformation of a region.

    Parameters
    ----------
    shape : (z, y, x)
        Pixels of the region.
    grid : (3, gz, gy, gx) float64
        Displacement vectors, their z, y and x components in pixels, on a control grid whose outermost
        points lie on the centres of the region's first and last pixels. Between them the field is an
        interpolating cubic spline with mirrored boundary; along an axis of one point it is constant.
    matrix : (3, 3) float64
        Linear part of the affine map, from positions in the output to positions in the source.
    offset : (3,) float64
        Shift of the source positions in pixels.

    Raises
    ------
    ConfigError
        If arrays do not fit, a region of one plane is moved out of its plane, or positions may reach 2**30 pixels.

    Notes
    -----
    Output pixel p shows the source at ``matrix @ (p + d(p) - centre) + centre + offset`` with the
    displacement field d and ``centre = (shape - 1) / 2``. The field is that of section 3.1 of [1]_,
    interpolated as ``scipy.ndimage.map_coordinates(grid[i], ..., order=3, mode="mirror")``. That is also the
    field of ``elasticdeform.deform_grid(image, grid)`` [2]_ for the same vectors, which are the image's axes
    only (``grid[1:, 0]`` for a plane); its gray values differ, as it resamples them by a B-spline.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    .. [2] van Tulder, "elasticdeform". https://github.com/gvtulder/elasticdeform
    """

    shape: tuple[int, int, int]
    grid: NDArray[np.float64]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("grid", "matrix", "offset"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.grid.ndim != 4 or len(self.grid) != 3 or self.matrix.shape != (3, 3) or self.offset.shape != (3,):
            raise ConfigError(
                f"deformation: grid {self.grid.shape}, matrix {self.matrix.shape}, offset "
                f"{self.offset.shape}; expected (3, gz, gy, gx), (3, 3), (3,)"
            )
        stays = not self.grid[0].any() and self.offset[0] == 0 and tuple(self.matrix[0]) == (1, 0, 0)
        if self.shape[0] == 1 and not stays:
            raise ConfigError("deformation: a region of one plane is moved along z; expected z to stay")
        vectors = np.abs(self.grid).max(axis=(1, 2, 3), initial=0) * math.prod(map(_spline_growth, self.grid.shape[1:]))
        with np.errstate(over="ignore", invalid="ignore"):
            reach = float((np.abs(self.matrix) @ (self.shape + vectors) + self.shape + np.abs(self.offset)).max())
        if not reach < MOST_PX:
            raise ConfigError(f"deformation: may reach {reach:g} pixels; expected less than {MOST_PX}")


def random_deformation(
    rng: np.random.Generator,
    shape: Position,
    *,
    grid: Position = (3, 3, 3),
    std_px: float = 10.0,
    rotation_rad: float = 0.0,
    scale: float = 1.0,
    shift_px: float = 0.0,
    flip: bool = False,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Deformation:
    """Draw a deformation; that of an image of one plane stays in the plane.

    Parameters
    ----------
    rng
        Source of all randomness.
    shape : (z, y, x)
        Pixels of the region.
    grid
        Control points along z, y and x; one along z if there is one plane.
    std_px
        Standard deviation of each component of the displacement vectors.
    rotation_rad
        Largest angle of rotation in the y-x plane; uniform in [-rotation_rad, rotation_rad].
    scale
        Largest magnification, >= 1, the same along all axes; log-uniform in [1 / scale, scale].
    shift_px
        Largest shift; uniform in [-shift_px, shift_px] along each axis.
    flip
        Mirror each axis with probability 1/2.
    spacing : (z, y, x)
        Pixel size in units of the pixel size along x, > 0. `std_px` and `shift_px` are pixels of x: along an
        axis with pixels twice as large, displacements have half as many pixels, and a rotation keeps shapes.
    """
    is_planar = shape[0] == 1
    moves = np.array([0.0 if is_planar else 1.0, 1.0, 1.0])
    points = (1 if is_planar else grid[0], *grid[1:])
    size = np.array(spacing)
    displacements = rng.normal(size=(3, *points)) * (moves * std_px / size)[:, None, None, None]
    angle = rotation_rad * rng.uniform(-1, 1)
    magnification = scale ** (rng.uniform(-1, 1) * moves)
    offset = shift_px * rng.uniform(-1, 1, 3) * moves / size
    is_flipped = (rng.random(3) < 0.5) & (moves > 0) & flip
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) * (size / size[:, None])
    return Deformation(shape, displacements, rotation * np.where(is_flipped, -1, 1) / magnification, offset)


def source_positions(deformation: Deformation, lattice: Sequence[NDArray[np.integer]]) -> NDArray[np.float64]:
    """Return which source positions the output pixels of a lattice show.

    Parameters
    ----------
    deformation
        The deformation.
    lattice
        Output pixels along z, y and x. The field of those outside of the region is mirrored.

    Returns
    -------
    (3, z, y, x) float64
        Their z, y and x components, in the region's frame.
    """
    z, y, x = (np.asarray(pixels, np.int64) for pixels in lattice)
    positions = np.empty((3, len(z), len(y), len(x)))
    _fill_lattice(curves_of(deformation), z, y, x, positions)
    return positions


def source_box(
    deformation: Deformation, start: Position, stop: Position, *, order: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bound the source pixels that a box of output pixels needs.

    Parameters
    ----------
    deformation
        The deformation.
    start, stop : (z, y, x)
        Box of output pixels; not empty.
    order
        Interpolation: 0 or 1 (nearest and linear), or 3 (cubic).

    Returns
    -------
    lo, hi : (3,) int64
        First pixel and the one after the last, in the region's frame; may lie outside of the region.

    Notes
    -----
    Positions are evaluated on a lattice of 16 pixels between two control points, or in a smaller box. Between
    lattice points h apart a function leaves its linear interpolation by at most ``h**2 / 8 * max |f''|`` for each
    axis, and the second derivative of a cubic spline is bounded by the largest second difference of its
    B-spline coefficients.
    """
    lo, hi = _bounds(deformation, tuple(map(int, start)), tuple(map(int, stop)))
    reach = 1 if order == 3 else 0
    first, last = np.floor(lo).astype(np.int64) - reach, np.floor(hi).astype(np.int64) + 2 + reach
    if deformation.shape[0] == 1:
        first[0], last[0] = 0, 1
    return first, last


@lru_cache(maxsize=64)
def _bounds(
    deformation: Deformation, start: tuple[int, ...], stop: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound the source positions of a box; asked for by who reads a block and by who checks it."""
    segments = [
        max(n - 1, 1) // max(g - 1, 1) for n, g in zip(deformation.shape, deformation.grid.shape[1:], strict=True)
    ]
    steps = [max(1, min(b - a, s) // _LATTICE) for a, b, s in zip(start, stop, segments, strict=True)]
    lattice = [np.append(np.arange(a, b - 1, h), b - 1) for a, b, h in zip(start, stop, steps, strict=True)]
    positions = source_positions(deformation, lattice).reshape(3, -1)
    margin = _departure_from_lattice(deformation, steps) + _ROUNDING_PX
    return positions.min(axis=1) - margin, positions.max(axis=1) + margin


def _departure_from_lattice(deformation: Deformation, steps: list[int]) -> NDArray[np.float64]:
    """Bound, per component, how far a field leaves its multilinear interpolation from the lattice."""
    grid = _turned_grid(deformation)
    points = grid.shape[1:]
    margin = np.zeros(3)
    for axis, (step, n) in enumerate(zip(steps, deformation.shape, strict=True)):
        if step > 1 and points[axis] > 1:  # else every pixel is evaluated, or the field is constant
            curvature = np.abs(np.tensordot(grid, _spline_curvatures(points[axis]), (axis + 1, 1))).max(axis=(1, 2, 3))
            growth = math.prod(_spline_growth(g) for g in points) / _spline_growth(points[axis])
            margin += curvature * growth * ((points[axis] - 1) / (n - 1) * step) ** 2 / 8
    return margin


def _turned_grid(deformation: Deformation) -> NDArray[np.float64]:
    """Apply the matrix to the control vectors: ``matrix @ d(p)`` is the field of ``matrix @ grid``."""
    return (deformation.matrix @ deformation.grid.reshape(3, -1)).reshape(deformation.grid.shape)


@lru_cache(maxsize=64)
def _spline_coefficients(n_grid: int) -> NDArray[np.float64]:
    """Return the B-spline coefficients of an axis per unit control value, mirrored by one at its ends, (n + 2, n)."""
    if n_grid == 1:
        return np.ones((3, 1))
    inside = ndimage.spline_filter1d(np.eye(n_grid), order=3, axis=0, mode="mirror")
    return np.pad(inside, ((1, 1), (0, 0)), mode="reflect")


@lru_cache(maxsize=64)
def _spline_curvatures(n_grid: int) -> NDArray[np.float64]:
    """Return the second derivative of an axis at its control points, between which it is linear, (n, n)."""
    return np.diff(_spline_coefficients(n_grid), 2, axis=0)


@lru_cache(maxsize=64)
def _spline_growth(n_grid: int) -> float:
    """Bound the values of an axis by its control values: a spline is at most its largest coefficient."""
    return float(np.abs(_spline_coefficients(n_grid)).sum(axis=1).max())


@lru_cache(maxsize=64)
def _spline_pieces(n_grid: int) -> NDArray[np.float64]:
    """Return powers of t in each segment between control points, per unit control value, (segments, 4, n)."""
    coefficients = _spline_coefficients(n_grid)
    if n_grid == 1:
        return np.array([1.0, 0, 0, 0]).reshape(1, 4, 1)
    return np.stack([_CUBIC_B_SPLINE @ coefficients[s : s + 4] for s in range(n_grid - 1)])


class Curves(NamedTuple):
    """A deformation as compiled code takes it: along a line, each component is a cubic and a straight line.

    Parameters
    ----------
    shape : (z, y, x)
        Pixels of the region.
    grid : (3, gz, gy, gx)
        Control vectors, turned by the matrix.
    pieces
        For each axis, the powers of t in each segment per unit control value, (segments, 4, points).
    matrix : (3, 3)
        Linear part of the affine map.
    base : (3,)
        Source position of output position 0 by the affine map alone.
    """

    shape: Position
    grid: NDArray[np.float64]
    pieces: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    matrix: NDArray[np.float64]
    base: NDArray[np.float64]


def curves_of(deformation: Deformation) -> Curves:
    """Prepare a deformation for compiled code."""
    z, y, x = deformation.grid.shape[1:]
    centre = (np.array(deformation.shape) - 1) / 2
    base = centre + deformation.offset - deformation.matrix @ centre
    pieces = _spline_pieces(z), _spline_pieces(y), _spline_pieces(x)
    grid, matrix = _turned_grid(deformation), np.ascontiguousarray(deformation.matrix)
    return Curves(deformation.shape, grid, pieces, matrix, base)


@njit(nogil=True, cache=True)
def _segment_of(at, n, pieces):
    """Return the segment of an axis of n pixels that a pixel lies in, and where between its control points."""
    n_segments = len(pieces)
    u = abs(at) * (n_segments / max(n - 1, 1)) % (2 * n_segments)
    u = n_segments - abs(n_segments - u)
    segment = min(int(u), n_segments - 1)
    return segment, u - segment


@njit(nogil=True, cache=True)
def axis_weights(pixels, n, pieces) -> NDArray[np.float64]:
    """Weigh the control points of an axis of n pixels, for some of them, (pixels, points)."""
    weights = np.empty((len(pixels), pieces.shape[2]))
    for i, at in enumerate(pixels):
        segment, t = _segment_of(at, n, pieces)
        for g in range(pieces.shape[2]):
            power = pieces[segment, :, g]
            weights[i, g] = ((power[3] * t + power[2]) * t + power[1]) * t + power[0]
    return weights


@njit(nogil=True, cache=True)
def stretch_of(pixels, first, longest, n, pieces, grid) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Find the pixels along x, from `first` on, that lie in one segment; return its field too.

    Returns
    -------
    stop : int
        Index after the last of these pixels; there are at most `longest`.
    t : (pixels,)
        Where each lies between the control points.
    powers : (3, gz, gy, 4)
        Powers of t in the field on the lines of control points.
    """
    segment, _ = _segment_of(pixels[first], n, pieces)
    t = np.empty(min(longest, len(pixels) - first))
    n_pixels = 0
    while n_pixels < len(t):
        here, t[n_pixels] = _segment_of(pixels[first + n_pixels], n, pieces)
        if here != segment:
            break
        n_pixels += 1
    powers = np.zeros((*grid.shape[:3], 4))
    for i, a, b in np.ndindex(grid.shape[:3]):
        for power in range(4):
            for g in range(grid.shape[3]):
                powers[i, a, b, power] += pieces[segment, power, g] * grid[i, a, b, g]
    return first + n_pixels, t[:n_pixels], powers


@njit(nogil=True, cache=True)
def fill_positions(powers, w_z, w_y, t, pixels, slope, base, position) -> None:
    """Evaluate one component of the source positions along a stretch of a line.

    Parameters
    ----------
    powers : (gz, gy, 4)
        Of this component, from `stretch_of`.
    w_z, w_y : (gz,), (gy,)
        Weights of the control points at this line.
    t, pixels : (x,)
        Of the stretch.
    slope, base : float
        The affine map along the line.
    position : (x,) float64
        Filled.
    """
    a, b, c, d = base, 0.0, 0.0, 0.0
    for k in range(len(w_z)):
        for j in range(len(w_y)):
            weight = w_z[k] * w_y[j]
            a += weight * powers[k, j, 0]
            b += weight * powers[k, j, 1]
            c += weight * powers[k, j, 2]
            d += weight * powers[k, j, 3]
    for x in range(len(t)):
        position[x] = ((d * t[x] + c) * t[x] + b) * t[x] + (slope * pixels[x] + a)


@njit(nogil=True, cache=True)
def _fill_lattice(curves, z, y, x, positions):
    """Evaluate the source positions on a lattice of output pixels."""
    matrix, base = curves.matrix, curves.base
    w_z = axis_weights(z, curves.shape[0], curves.pieces[0])
    w_y = axis_weights(y, curves.shape[1], curves.pieces[1])
    first = 0
    while first < len(x):
        stop, t, powers = stretch_of(x, first, len(x), curves.shape[2], curves.pieces[2], curves.grid)
        for k, j in np.ndindex((len(z), len(y))):
            for i in range(3):
                at = base[i] + matrix[i, 0] * z[k] + matrix[i, 1] * y[j]
                line = positions[i, k, j, first:stop]
                fill_positions(powers[i], w_z[k], w_y[j], t, x[first:stop], matrix[i, 2], at, line)
        first = stop
