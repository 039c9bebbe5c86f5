"""Warping of images, labels and weight maps through one deformation, in one pass over the output pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import literal_unroll, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from unetcli.errors import ConfigError
from unetcli.kernels.deformation import (
    Deformation,
    Position,
    axis_weights,
    curves_of,
    fill_positions,
    source_box,
    stretch_of,
)

ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}
"""Order of the polynomials of each interpolation."""
_STRETCH_PX = 256  # its buffers stay in the first cache, and a turned stretch crosses few memory pages
_PREFETCH_PX = 8  # distance along a stretch, at most a cache line of pixels
_PREFETCH_LINES = 2  # how far ahead of the source pixels of this line


F32 = np.float32
FLOAT32 = np.dtype(F32)


@dataclass(frozen=True, eq=False)
class Layer:
    """One array of a sample, and the part of it that is to be warped.

    Parameters
    ----------
    block : (c, z, y, x)
        Source pixels that cover ``source_box(deformation, start, stop, order=order)``.
    origin : (z, y, x)
        Position of the first pixel of `block` in the region's frame.
    start, stop : (z, y, x)
        Box of output pixels in the region.
    order
        0: the nearest pixel, halves go to the higher one; 1: linear; 3: cubic convolution with a = -1/2 [1]_,
        along each axis.

    References
    ----------
    .. [1] Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on
       Acoustics, Speech, and Signal Processing 29, 1981.
    """

    block: NDArray[Any]
    origin: Position
    start: Position
    stop: Position
    order: int = 1


def warp(deformation: Deformation, layers: Sequence[Layer]) -> list[NDArray[Any]]:
    """Deform arrays by one field: source positions are computed once for all, line by line, and never stored.

    Parameters
    ----------
    deformation
        The deformation.
    layers
        One or more; their boxes may differ, and those of the smaller ones cost nothing more.

    Returns
    -------
    list of (c, z, y, x)
        One array for each layer: of order 0 with the dtype of its block, else float32. Any split of the
        region into boxes gives the same bytes, as does any choice of layers.

    Raises
    ------
    ConfigError
        If a block does not cover its source box, or an order is unknown.

    Notes
    -----
    Positions are float64; the fraction of a pixel that interpolation takes is rounded to float32.
    """
    for layer in layers:
        _check(deformation, layer)
    outputs = [
        np.empty((len(layer.block), *_extent(layer)), layer.block.dtype if layer.order == 0 else F32)
        for layer in layers
    ]
    parts = tuple(_part(layer, out) for layer, out in zip(layers, outputs, strict=True))
    start = np.min([layer.start for layer in layers], axis=0)
    stop = np.max([layer.stop for layer in layers], axis=0)
    pixels = tuple(np.arange(a, b) for a, b in zip(start, stop, strict=True))
    if all(len(along) for along in pixels):
        _warp(curves_of(deformation), pixels, parts)
    return outputs


def _extent(layer: Layer) -> tuple[int, ...]:
    return tuple(int(b - a) for a, b in zip(layer.start, layer.stop, strict=True))


def _check(deformation: Deformation, layer: Layer) -> None:
    if layer.order not in (0, 1, 3):
        raise ConfigError(
            f"order {layer.order} of interpolation is unknown", fix="use 0 (nearest), 1 (linear) or 3 (cubic)"
        )
    if min(_extent(layer)) < 1:
        return
    lo, hi = source_box(deformation, layer.start, layer.stop, order=layer.order)
    extent = layer.block.shape[1:]
    if np.any(lo < layer.origin) or np.any(hi > np.add(layer.origin, extent)):
        raise ConfigError(
            f"source block at {tuple(map(int, layer.origin))} of {tuple(extent)} pixels does not cover "
            f"{tuple(map(int, lo))} to {tuple(map(int, hi))}",
            fix="read the box that source_box gives",
        )


class _Part(NamedTuple):
    """A layer as compiled code takes it."""

    source: NDArray[Any]  # (n,): from the first pixel of the block to its last
    strides: tuple[int, int, int, int]  # of c, z, y and x in pixels; that of x is 1
    first: int  # index of the region's pixel (0, 0, 0) in `source`, which may lie outside
    start: Position
    order: int
    out: NDArray[Any]


def _part(layer: Layer, out: NDArray[Any]) -> _Part:
    block = layer.block.astype(out.dtype, copy=False)
    size = block.itemsize
    if block.strides[3] != size or any(stride % size or stride < 0 for stride in block.strides):
        block = np.ascontiguousarray(block)
    c, z, y, x = (stride // size for stride in block.strides)
    n = sum((length - 1) * stride for length, stride in zip(block.shape, (c, z, y, x), strict=True)) + 1
    line = as_strided(block, (n,), (size,), writeable=False)  # a view of a larger image needs no copy
    first = -sum(int(a) * stride for a, stride in zip(layer.origin, (z, y, x), strict=True))
    start = (int(layer.start[0]), int(layer.start[1]), int(layer.start[2]))
    if layer.order == 0:  # what is only copied is the same for all types of its size
        line, out = line.view(f"u{size}"), out.view(f"u{size}")
    return _Part(line, (c, z, y, x), first, start, layer.order, out)


@njit(nogil=True, cache=True)
def _warp(curves, pixels, parts):
    """Warp stretch by stretch of one segment of the field, down all lines: these share their source pixels."""
    z, y, x = pixels
    matrix, base = curves.matrix, curves.base
    w_z = axis_weights(z, curves.shape[0], curves.pieces[0])
    w_y = axis_weights(y, curves.shape[1], curves.pieces[1])
    first_axis = 1 if curves.shape[0] == 1 else 0  # a plane stays in its plane
    position = np.empty(_STRETCH_PX)
    corner = np.zeros((3, _STRETCH_PX), np.int32)
    fraction = np.zeros((3, _STRETCH_PX), F32)
    buffers = (
        np.empty(_STRETCH_PX, np.int64),
        np.empty(_STRETCH_PX, F32),
        np.ones((3, 4, _STRETCH_PX), F32),
    )
    first = 0
    while first < len(x):
        stop, t, powers = stretch_of(x, first, _STRETCH_PX, curves.shape[2], curves.pieces[2], curves.grid)
        along = x[first:stop]
        for k in range(len(z)):
            for j in range(len(y)):
                for i in range(first_axis, 3):
                    line_base = base[i] + matrix[i, 0] * z[k] + matrix[i, 1] * y[j]
                    fill_positions(powers[i], w_z[k], w_y[j], t, along, matrix[i, 2], line_base, position)
                    _split(position[: len(t)], corner[i], fraction[i])
                pixel = z[k], y[j], along[0]
                _gather_parts(parts, pixel, len(t), first_axis == 1, corner, fraction, buffers)
        first = stop


@njit(nogil=True, cache=True)
def _split(position, corner, fraction):
    """Split positions into a pixel and the fraction above it."""
    for x in range(len(position)):
        below = np.floor(position[x])
        corner[x] = np.int32(below)
        fraction[x] = F32(position[x] - below)


@njit(nogil=True, cache=True)
def _gather_parts(parts, pixel, n_x, is_planar, corner, fraction, buffers):
    """Fill the stretch of n pixels that begins at an output pixel (z, y, x) in each part."""
    for part in literal_unroll(parts):
        _gather_part(part, pixel, n_x, is_planar, corner, fraction, buffers)


@njit(nogil=True, cache=True)
def _gather_part(part, pixel, n_x, is_planar, corner, fraction, buffers):
    """Fill a stretch of all channels, as far as a part reaches."""
    z, y, x = pixel[0] - part.start[0], pixel[1] - part.start[1], pixel[2] - part.start[2]
    first, stop = max(0, -x), min(n_x, part.out.shape[3] - x)
    if not (0 <= z < part.out.shape[1] and 0 <= y < part.out.shape[2] and first < stop):
        return
    at = buffers[0][: stop - first]
    half = F32(2 if part.source.dtype == FLOAT32 else 0.5)
    at[:] = part.first
    for axis in range(3):
        _add_index(corner[axis, first:stop], fraction[axis, first:stop], half, part.strides[axis + 1], at)
    _prefetch_line(part.source, at, part.strides[2] * _PREFETCH_LINES)
    for c in range(part.out.shape[0]):
        out = part.out[c, z, y, x + first : x + stop]
        if part.source.dtype == FLOAT32:  # which the compiler knows, unlike the order
            _interpolate(part, c, is_planar, fraction, first, buffers, out)
        else:
            _copy(part.source, np.uintp(c * part.strides[0]), at, out)


@njit(nogil=True, cache=True)
def _interpolate(part, c, is_planar, fraction, first, buffers, out):
    """Interpolate a channel along a stretch from a pixel on, plane by plane of the source."""
    n_x, stop = len(out), first + len(out)
    at, values, taps = buffers[0][:n_x], buffers[1][:n_x], buffers[2]
    f_z, f_y, f_x = fraction[0, first:stop], fraction[1, first:stop], fraction[2, first:stop]
    stride = np.uintp(part.strides[2])
    n_planes = 1 if is_planar else part.order + 1
    if part.order == 3:
        _fill_cubic_taps(f_y, taps[1])
        _fill_cubic_taps(f_x, taps[2])
    if n_planes == 4:
        _fill_cubic_taps(f_z, taps[0])
    elif n_planes == 2:
        _fill_linear_taps(f_z, taps[0])
    for plane in range(n_planes):
        # Cubic interpolation begins one plane below.
        shift = np.uintp(c * part.strides[0] + (plane - n_planes // 4) * part.strides[1])
        if part.order == 1:
            _linear(part.source, shift, stride, at, f_y, f_x, values)
        else:
            _cubic(part.source, shift, stride, at, taps[1], taps[2], values)
        _add_plane(taps[0, plane], values, plane == 0, out)


@njit(nogil=True, cache=True)
def _add_index(corner, fraction, half, stride, at):
    """Step to the pixel below a position along an axis, or from a fraction of `half` on to the one above."""
    for x in range(len(at)):
        at[x] += np.int64(corner[x] + (fraction[x] >= half)) * stride


@njit(nogil=True, cache=True)
def _copy(source, shift, at, out):
    for x in range(len(out)):
        out[x] = source[np.uintp(at[x]) + shift]


@njit(nogil=True, cache=True)
def _linear(source, shift, stride, at, f_y, f_x, out):
    """Interpolate between 2 x 2 pixels of a plane."""
    one = np.uintp(1)
    for x in range(len(out)):
        i = np.uintp(at[x]) + shift
        above = F32(source[i])
        above += f_x[x] * (F32(source[i + one]) - above)
        i += stride
        below = F32(source[i])
        below += f_x[x] * (F32(source[i + one]) - below)
        out[x] = above + f_y[x] * (below - above)


@njit(nogil=True, cache=True)
def _cubic(source, shift, stride, at, w_y, w_x, out):
    """Interpolate between 4 x 4 pixels of a plane."""
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    shift -= stride + one
    for x in range(len(out)):
        i = np.uintp(at[x]) + shift
        value = F32(0)
        for row in range(4):
            left = F32(source[i]) * w_x[0, x] + F32(source[i + one]) * w_x[1, x]
            right = F32(source[i + two]) * w_x[2, x] + F32(source[i + three]) * w_x[3, x]
            value += w_y[row, x] * (left + right)
            i += stride
        out[x] = value


@njit(nogil=True, cache=True)
def _add_plane(weights, values, is_first, out):
    """Add the share of a plane of the source."""
    for x in range(len(out)):
        share = weights[x] * values[x]
        out[x] = share if is_first else out[x] + share


@njit(nogil=True, cache=True)
def _fill_linear_taps(fraction, taps):
    for x in range(len(fraction)):
        taps[0, x] = F32(1) - fraction[x]
        taps[1, x] = fraction[x]


@njit(nogil=True, cache=True)
def _fill_cubic_taps(fraction, taps):
    """Fill in Keys' weights (a = -1/2) of the pixels at -1, 0, 1 and 2."""
    half, one, two, three, four, five = F32(0.5), F32(1), F32(2), F32(3), F32(4), F32(5)
    for x in range(len(fraction)):
        f = fraction[x]
        taps[0, x] = half * f * (f * (two - f) - one)
        taps[1, x] = half * (f * f * (three * f - five) + two)
        taps[2, x] = half * f * (f * (four - three * f) + one)
        taps[3, x] = half * f * f * (f - one)


@intrinsic
def _prefetch(_context, source, index):
    """Ask for a pixel to be brought near; its address need not be one of the array."""

    def generate(context, builder, signature, arguments):
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        read, everywhere, data = i32(0), i32(3), i32(1)
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(prefetch, [address, read, everywhere, data])
        return context.get_dummy_value()

    return types.void(source, index), generate


@njit(nogil=True, cache=True)
def _prefetch_line(source, at, ahead):
    """Bring near what the next lines of the output begin to need: a slanted path is no pattern for the hardware."""
    for x in range(0, len(at), _PREFETCH_PX):
        _prefetch(source, at[x] + ahead)
