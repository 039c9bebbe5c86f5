"""Smooth deformations: a coarse control grid with an affine map, and warping through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.errors import ConfigError

_LATTICE_PX = 8  # largest distance of the pixels that `source_box` evaluates
_ROUNDING_PX = 1e-6  # more than positions of up to 2**30 pixels lose to rounding


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
        If arrays do not fit, or a region of one plane is moved out of its plane.

    Notes
    -----
    Output pixel p shows the source at ``matrix @ (p + d(p) - centre) + centre + offset`` with the
    displacement field d and ``centre = (shape - 1) / 2``. The field is that of section 3.1 of [1]_,
    interpolated as ``scipy.ndimage.map_coordinates(grid[i], ..., order=3, mode="mirror")``.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
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


def random_deformation(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    grid: tuple[int, int, int] = (3, 3, 3),
    std_px: float | tuple[float, float, float] = 10.0,
    rotation_rad: float = 0.0,
    scale: float = 1.0,
    shift_px: float = 0.0,
    flip: bool = False,
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
        Standard deviation of the displacement vectors, of all or of their z, y and x components.
    rotation_rad
        Largest angle of rotation in the y-x plane; uniform in [-rotation_rad, rotation_rad].
    scale
        Largest magnification, >= 1, the same along all axes; log-uniform in [1 / scale, scale].
    shift_px
        Largest shift; uniform in [-shift_px, shift_px] along each axis.
    flip
        Mirror each axis with probability 1/2.
    """
    is_planar = shape[0] == 1
    moves = np.array([0.0 if is_planar else 1.0, 1.0, 1.0])
    points = (1 if is_planar else grid[0], *grid[1:])
    displacements = rng.normal(size=(3, *points)) * (moves * std_px)[:, None, None, None]
    angle = rotation_rad * rng.uniform(-1, 1)
    magnification = scale ** (rng.uniform(-1, 1) * moves)
    offset = shift_px * rng.uniform(-1, 1, 3) * moves
    is_flipped = (rng.random(3) < 0.5) & (moves > 0) & flip
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return Deformation(shape, displacements, rotation * np.where(is_flipped, -1, 1) / magnification, offset)


def displacement_field(
    deformation: Deformation, start: tuple[int, int, int], stop: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Return the dense displacement field of a box of the region, for pictures: warping never stores it.

    Parameters
    ----------
    deformation
        Only its grid counts, not its affine map.
    start, stop : (z, y, x)
        The box.

    Returns
    -------
    (3, z, y, x) float64
        Displacement vectors d(p) in pixels.
    """
    return _contract(deformation.grid, _weights_of_box(deformation, start, stop))


def source_positions(deformation: Deformation, lattice: Sequence[NDArray[np.integer]]) -> NDArray[np.float64]:
    """Return which source positions the output pixels of a lattice show.

    Parameters
    ----------
    deformation
        The deformation.
    lattice
        Output pixels along z, y and x.

    Returns
    -------
    (3, z, y, x) float64
        Their z, y and x components, in the region's frame.
    """
    grid = _turned_grid(deformation)
    weights = [_spline_weights(at, n, g) for at, n, g in zip(lattice, deformation.shape, grid.shape[1:], strict=True)]
    centre = _centre(deformation)
    relative = np.stack(np.meshgrid(*lattice, indexing="ij")) - centre[:, None, None, None]
    affine = np.tensordot(deformation.matrix, relative, 1)
    return _contract(grid, weights) + affine + (centre + deformation.offset)[:, None, None, None]


def source_box(
    deformation: Deformation,
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
    *,
    order: int = 1,
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
    Positions are evaluated on a lattice of every 8th pixel, or closer in a small box. Between lattice
    points h apart a function leaves its linear interpolation by at most ``h**2 / 8 * max |f''|`` for each
    axis, and the second derivative of a cubic spline is bounded by the largest second difference of its
    B-spline coefficients.
    """
    steps = [min(max(1, n // 32), _LATTICE_PX) for n in _extent(start, stop)]
    lattice = [np.unique([*range(a, b, h), b - 1]) for a, b, h in zip(start, stop, steps, strict=True)]
    positions = source_positions(deformation, lattice)
    margin = _departure_from_lattice(_turned_grid(deformation), deformation.shape, steps) + _ROUNDING_PX
    lo = np.floor(positions.min(axis=(1, 2, 3)) - margin).astype(np.int64)
    hi = np.floor(positions.max(axis=(1, 2, 3)) + margin).astype(np.int64) + 2
    if order == 3:
        lo, hi = lo - 1, hi + 1
    if deformation.shape[0] == 1:
        lo[0], hi[0] = 0, 1
    return lo, hi


def warp_image(
    block: NDArray[np.number],
    block_origin: tuple[int, int, int],
    deformation: Deformation,
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
    *,
    order: int = 1,
) -> NDArray[np.float32]:
    """Deform an image.

    Parameters
    ----------
    block : (c, z, y, x)
        Source pixels that cover ``source_box(deformation, start, stop, order=order)``.
    block_origin : (z, y, x)
        Position of the first pixel of `block` in the region's frame.
    deformation
        The deformation.
    start, stop : (z, y, x)
        Box of output pixels in the region. Any split of the region into boxes gives the same bytes.
    order
        1: linear; 3: cubic convolution with a = -1/2 [1]_, along each axis.

    Returns
    -------
    (c, z, y, x) float32

    Raises
    ------
    ConfigError
        If `block` does not cover the source box.

    References
    ----------
    .. [1] Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on
       Acoustics, Speech, and Signal Processing 29, 1981.
    """
    if order not in (1, 3):
        raise ConfigError(f"order {order} of interpolation is unknown", fix="use 1 (linear) or 3 (cubic)")
    _check_covers(block.shape[1:], block_origin, source_box(deformation, start, stop, order=order))
    out = np.empty((len(block), *_extent(start, stop)), np.float32)
    is_planar = deformation.shape[0] == 1
    kernels = {1: (_warp_linear, _warp_linear_plane), 3: (_warp_cubic, _warp_cubic_plane)}
    kernel = kernels[order][is_planar]
    kernel(np.ascontiguousarray(block), *_row_parameters(deformation, block_origin, start, stop), out)
    return out


def warp_labels(
    block: NDArray[np.integer],
    block_origin: tuple[int, int, int],
    deformation: Deformation,
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
) -> NDArray[np.integer]:
    """Deform a label image: each pixel takes the nearest source pixel's id.

    Parameters
    ----------
    block : (z, y, x) int
        Source pixels that cover ``source_box(deformation, start, stop)``.
    block_origin, deformation, start, stop
        As in `warp_image`.

    Returns
    -------
    (z, y, x), dtype of `block`
    """
    _check_covers(block.shape, block_origin, source_box(deformation, start, stop))
    out = np.empty(_extent(start, stop), block.dtype)
    _warp_nearest(np.ascontiguousarray(block), *_row_parameters(deformation, block_origin, start, stop), out)
    return out


def _extent(start, stop) -> tuple[int, ...]:
    return tuple(int(b - a) for a, b in zip(start, stop, strict=True))


def _centre(deformation: Deformation) -> NDArray[np.float64]:
    return (np.array(deformation.shape) - 1) / 2


def _turned_grid(deformation: Deformation) -> NDArray[np.float64]:
    """Apply the matrix to the control vectors: ``matrix @ d(p)`` is the field of ``matrix @ grid``."""
    return np.tensordot(deformation.matrix, deformation.grid, 1)


def _spline_weights(at: NDArray[np.integer], n: int, n_grid: int) -> NDArray[np.float64]:
    """Weigh the control points of an axis: interpolation is linear in them, (len(at), n_grid)."""
    positions = at * ((n_grid - 1) / max(n - 1, 1))
    units = np.eye(n_grid)
    columns = [ndimage.map_coordinates(unit, [positions], order=3, mode="mirror") for unit in units]
    return np.stack(columns, axis=1)


def _weights_of_box(deformation: Deformation, start, stop) -> list[NDArray[np.float64]]:
    """Weigh the control points along z, y and x for the pixels of a box."""
    axes = zip(start, stop, deformation.shape, deformation.grid.shape[1:], strict=True)
    return [_spline_weights(np.arange(a, b), n, g) for a, b, n, g in axes]


def _contract(grid: NDArray[np.float64], weights: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Evaluate a field: the tensor product of the axes' weights, applied to the control vectors."""
    return np.einsum("iabc,za,yb,xc->izyx", grid, *weights, optimize=True)


def _departure_from_lattice(
    grid: NDArray[np.float64], shape: tuple[int, int, int], steps: list[int]
) -> NDArray[np.float64]:
    """Bound, per component, how far a field leaves its multilinear interpolation from the lattice."""
    margin = np.zeros(3)
    axes = [axis for axis in (1, 2, 3) if grid.shape[axis] > 1]
    coefficients = grid
    for axis in axes:
        coefficients = ndimage.spline_filter1d(coefficients, order=3, axis=axis, mode="mirror")
    for axis in axes:
        if steps[axis - 1] == 1:
            continue  # every pixel is evaluated
        widths = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        curvature = np.abs(np.diff(np.pad(coefficients, widths, mode="reflect"), 2, axis=axis))
        points_per_px = (grid.shape[axis] - 1) / max(shape[axis - 1] - 1, 1)
        margin += curvature.max(axis=(1, 2, 3)) * (points_per_px * steps[axis - 1]) ** 2 / 8
    return margin


def _check_covers(extent, origin, box) -> None:
    lo, hi = box
    if np.any(lo < origin) or np.any(hi > np.add(origin, extent)):
        raise ConfigError(
            f"source block at {tuple(map(int, origin))} of {tuple(extent)} pixels does not cover "
            f"{tuple(map(int, lo))} to {tuple(map(int, hi))}",
            fix="read the box that source_box gives",
        )


def _row_parameters(deformation: Deformation, block_origin, start, stop):
    """Gather what `_fill_positions` needs: control vectors, weights, positions and the affine map."""
    centre = _centre(deformation)
    w_z, w_y, w_x = _weights_of_box(deformation, start, stop)
    relative = tuple(np.arange(a, b) - c for a, b, c in zip(start, stop, centre, strict=True))
    base = centre + deformation.offset
    origin = np.array(block_origin, np.int64)
    w_x = np.ascontiguousarray(w_x.T)
    first_axis = 1 if deformation.shape[0] == 1 else 0
    return _turned_grid(deformation), (w_z, w_y, w_x), relative, deformation.matrix, base, origin, first_axis


@njit(nogil=True, cache=True)
def _fill_positions(z, y, grid, weights, relative, matrix, base, origin, first_axis, corner, fraction):
    """Find where the pixels of one line of x lie in the source, the z axis left out if `first_axis` is 1.

    Writes the index in the block of the pixel at or below, `corner` (3, x), and the rest, `fraction`.
    """
    w_z, w_y, w_x = weights
    z_rel, y_rel, x_rel = relative
    n_x = x_rel.size
    position = np.empty(n_x)
    for i in range(first_axis, 3):
        line_base = matrix[i, 0] * z_rel[z] + matrix[i, 1] * y_rel[y] + base[i]
        for x in range(n_x):
            position[x] = line_base + matrix[i, 2] * x_rel[x]
        for c in range(w_x.shape[0]):
            vector = 0.0
            for a in range(w_z.shape[1]):
                for b in range(w_y.shape[1]):
                    vector += w_z[z, a] * w_y[y, b] * grid[i, a, b, c]
            for x in range(n_x):
                position[x] += vector * w_x[c, x]
        for x in range(n_x):
            below = np.floor(position[x])
            corner[i, x] = np.int64(below) - origin[i]
            fraction[i, x] = np.float32(position[x] - below)


@njit(nogil=True, cache=True)
def _line_buffers(n_x, origin):
    """Allocate `corner` and `fraction` of a line; along z they start, and may stay, in plane 0."""
    corner = np.empty((3, n_x), np.int64)
    corner[0] = -origin[0]
    return corner, np.zeros((3, n_x), np.float32)


@njit(nogil=True, cache=True)
def _mean(low, high, fraction):
    """Interpolate linearly."""
    return low + fraction * (high - low)


@njit(nogil=True, cache=True)
def _warp_linear_plane(block, grid, weights, relative, matrix, base, origin, first_axis, out):
    """Bilinear interpolation of a single plane."""
    n_c, _, n_y, n_x = out.shape
    corner, fraction = _line_buffers(n_x, origin)
    for y in range(n_y):
        _fill_positions(0, y, grid, weights, relative, matrix, base, origin, first_axis, corner, fraction)
        for c in range(n_c):
            plane = block[c, -origin[0]]
            for x in range(n_x):
                i, j = np.uintp(corner[1, x]), np.uintp(corner[2, x])
                f_y, f_x = fraction[1, x], fraction[2, x]
                above = _mean(np.float32(plane[i, j]), np.float32(plane[i, j + np.uintp(1)]), f_x)
                i += np.uintp(1)
                below = _mean(np.float32(plane[i, j]), np.float32(plane[i, j + np.uintp(1)]), f_x)
                out[c, 0, y, x] = _mean(above, below, f_y)


@njit(nogil=True, cache=True)
def _warp_linear(block, grid, weights, relative, matrix, base, origin, first_axis, out):
    """Trilinear interpolation of a volume."""
    n_c, n_z, n_y, n_x = out.shape
    corner, fraction = _line_buffers(n_x, origin)
    faces = np.empty(2, np.float32)
    for z in range(n_z):
        for y in range(n_y):
            _fill_positions(z, y, grid, weights, relative, matrix, base, origin, first_axis, corner, fraction)
            for c in range(n_c):
                volume = block[c]
                for x in range(n_x):
                    i, j = np.uintp(corner[1, x]), np.uintp(corner[2, x])
                    f_z, f_y, f_x = fraction[0, x], fraction[1, x], fraction[2, x]
                    for face in range(2):
                        plane = volume[np.uintp(corner[0, x] + face)]
                        above = _mean(np.float32(plane[i, j]), np.float32(plane[i, j + np.uintp(1)]), f_x)
                        below = _mean(
                            np.float32(plane[i + np.uintp(1), j]),
                            np.float32(plane[i + np.uintp(1), j + np.uintp(1)]),
                            f_x,
                        )
                        faces[face] = _mean(above, below, f_y)
                    out[c, z, y, x] = _mean(faces[0], faces[1], f_z)


@njit(nogil=True, cache=True)
def _cubic(f):
    """Return Keys' weights (a = -1/2) of the pixels at -1, 0, 1 and 2 for a position f in [0, 1)."""
    half = np.float32(0.5)
    before = half * f * (f * (np.float32(2) - f) - np.float32(1))
    at = half * (f * f * (np.float32(3) * f - np.float32(5)) + np.float32(2))
    after = half * f * (f * (np.float32(4) - np.float32(3) * f) + np.float32(1))
    return before, at, after, half * f * f * (f - np.float32(1))


@njit(nogil=True, cache=True)
def _cubic_in_plane(plane, i, j, weights_y, weights_x):
    """Interpolate between the 4 x 4 pixels from (i, j) on."""
    value = np.float32(0)
    for weight in weights_y:
        line = weights_x[0] * np.float32(plane[i, j]) + weights_x[1] * np.float32(plane[i, j + np.uintp(1)])
        line += weights_x[2] * np.float32(plane[i, j + np.uintp(2)])
        line += weights_x[3] * np.float32(plane[i, j + np.uintp(3)])
        value += weight * line
        i += np.uintp(1)
    return value


@njit(nogil=True, cache=True)
def _warp_cubic_plane(block, grid, weights, relative, matrix, base, origin, first_axis, out):
    """Cubic interpolation of a single plane."""
    n_c, _, n_y, n_x = out.shape
    corner, fraction = _line_buffers(n_x, origin)
    for y in range(n_y):
        _fill_positions(0, y, grid, weights, relative, matrix, base, origin, first_axis, corner, fraction)
        for c in range(n_c):
            plane = block[c, -origin[0]]
            for x in range(n_x):
                i, j = np.uintp(corner[1, x] - 1), np.uintp(corner[2, x] - 1)
                out[c, 0, y, x] = _cubic_in_plane(plane, i, j, _cubic(fraction[1, x]), _cubic(fraction[2, x]))


@njit(nogil=True, cache=True)
def _warp_cubic(block, grid, weights, relative, matrix, base, origin, first_axis, out):
    """Cubic interpolation of a volume."""
    n_c, n_z, n_y, n_x = out.shape
    corner, fraction = _line_buffers(n_x, origin)
    for z in range(n_z):
        for y in range(n_y):
            _fill_positions(z, y, grid, weights, relative, matrix, base, origin, first_axis, corner, fraction)
            for c in range(n_c):
                for x in range(n_x):
                    k, i, j = corner[0, x] - 1, np.uintp(corner[1, x] - 1), np.uintp(corner[2, x] - 1)
                    weights_y, weights_x = _cubic(fraction[1, x]), _cubic(fraction[2, x])
                    value = np.float32(0)
                    for weight in _cubic(fraction[0, x]):
                        value += weight * _cubic_in_plane(block[c, np.uintp(k)], i, j, weights_y, weights_x)
                        k += 1
                    out[c, z, y, x] = value


@njit(nogil=True, cache=True)
def _warp_nearest(block, grid, weights, relative, matrix, base, origin, first_axis, out):
    """Take the nearest pixel; halves go to the higher one."""
    n_z, n_y, n_x = out.shape
    corner, fraction = _line_buffers(n_x, origin)
    half = np.float32(0.5)
    for z in range(n_z):
        for y in range(n_y):
            _fill_positions(z, y, grid, weights, relative, matrix, base, origin, first_axis, corner, fraction)
            for x in range(n_x):
                k = corner[0, x] + (fraction[0, x] >= half)
                i = corner[1, x] + (fraction[1, x] >= half)
                j = corner[2, x] + (fraction[2, x] >= half)
                out[z, y, x] = block[np.uintp(k), np.uintp(i), np.uintp(j)]
