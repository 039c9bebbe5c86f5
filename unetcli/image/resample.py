"""Pixels of another size: means over areas, interpolation, or the nearest pixel; any tiling gives the same.

Pixel ``i`` of the result covers ``[i * factor, (i + 1) * factor)`` of the source along each axis::

    source   |   0   |   1   |   2   |   3   |   4   |     factor 1.5
    result   |     0     |     1     |     2     |         the rest is dropped

What a pixel is made of follows from its position in the whole image, and is summed in a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.axes import Axes, parse_pixel_size
from unetcli.image.source import AnyArray, Source, View
from unetcli.image.tiling import Box, Shape

LARGEST_FACTOR = 256
BLOCK = 2048 * 2048
"""Pixels that are read, or made, at once."""
SNAP = 1e-5
"""Factors so close to a whole number, or to one over it, differ from it by how files round their pixel sizes."""
SPACE = {2: "z", 3: "y", 4: "x"}

Factors = tuple[float, float, float]
"""Source pixels along (z, y, x) that become one pixel; below 1, pixels are added."""


@dataclass(frozen=True)
class Taps:
    """The source pixels that make each pixel of a range, along one axis.

    Parameters
    ----------
    index : (n, taps) int
        Where they are in the source.
    weight : (n, taps) float64
        How much each counts; 0 for one that is not needed.
    """

    index: NDArray[np.intp]
    weight: NDArray[np.float64]

    @property
    def extent(self) -> tuple[int, int]:
        """First source pixel, and the one after the last."""
        return int(self.index.min()), int(self.index.max()) + 1


def taps(method: str, factor: float, start: int, stop: int, size: int) -> Taps:
    """Find the source pixels for the pixels from `start` to `stop` of a result.

    Parameters
    ----------
    method
        ``area``: all pixels that are covered, by how much; ``bilinear``: the two around the centre;
        ``nearest``: the one at the centre.
    factor
        Source pixels that become one.
    size
        Of the source: pixels past its edges are those at the edge.
    """
    i = np.arange(start, stop)[:, np.newaxis]
    if method == "area":
        low, high = i * factor, np.minimum((i + 1) * factor, size)
        index = np.floor(low) + np.arange(math.ceil(factor) + (factor % 1 > 0))
        weight = (np.minimum(index + 1, high) - np.maximum(index, low)).clip(min=0)
    elif method == "bilinear":
        centre = ((i + 0.5) * factor - 0.5).clip(0, size - 1)
        index = np.floor(centre) + np.arange(2)
        weight = 1 - np.abs(centre - index)
    else:
        index = np.floor((i + 0.5) * factor)
        weight = np.ones(index.shape)
    return Taps(index.clip(max=size - 1).astype(np.intp), weight)


@dataclass(frozen=True)
class Resampling:
    """How an image is made of another one with pixels of another size along z, y and x.

    Parameters
    ----------
    shape
        Of the source, (t, c, z, y, x).
    factors
        Source pixels that become one.
    method
        ``area``, ``bilinear`` or ``nearest``; ``None``: area where pixels become larger, else bilinear.
    """

    shape: Shape
    factors: Factors
    method: str | None = None

    def _taps(self, box: Box) -> dict[int, Taps]:
        """Return the taps along the axes that change."""
        return {
            axis: taps(
                self.method or ("area" if factor > 1 else "bilinear"),
                factor,
                box.start[axis],
                box.stop[axis],
                self.shape[axis],
            )
            for axis, factor in zip(SPACE, self.factors, strict=True)
            if factor != 1
        }

    def source_box(self, box: Box) -> Box:
        """Return the part of the source that a box of the result is made of."""
        for axis, found in self._taps(box).items():
            box = box.replace(axis, *found.extent)
        return box

    def __call__(self, block: AnyArray, read: Box, box: Box, dtype: type[np.floating[Any]] = np.float64) -> AnyArray:
        """Return a box of the result.

        Parameters
        ----------
        block : (t, c, z, y, x)
            Pixels of the source.
        read
            Which box of the source they are: that of `source_box`, or more.
        box
            What to make.
        dtype
            Type to sum in, and of the result where there is something to sum.

        Returns
        -------
        (t, c, z, y, x) array
        """
        needed = self._taps(box)
        divisor = np.ones((1,) * 5, dtype)
        for axis in SPACE:
            first = read.start[axis]
            if axis not in needed:
                block = _cut(block, axis, box.start[axis] - first, box.stop[axis] - first)
                continue
            index, weight = needed[axis].index - first, _along(needed[axis].weight.astype(dtype), axis)
            if len(weight) == 1:
                block = np.take(block, index[:, 0], axis)
                continue
            total = np.take(block, index[:, 0], axis) * weight[0]
            for k in range(1, len(weight)):
                total += np.take(block, index[:, k], axis) * weight[k]
            block, divisor = total, divisor * weight.sum(axis=0)
        # Once, at the end: sums of integers are exact until here, so that a mean of n.5 is known for one.
        return block / divisor if (divisor != 1).any() else block


def _along(weight: AnyArray, axis: int) -> AnyArray:
    """Return weights (pixels, taps) as (taps, and five axes with the pixels along one)."""
    shape = [1] * 5
    shape[axis] = len(weight)
    return weight.T.reshape(-1, *shape)


def _cut(block: AnyArray, axis: int, start: int, stop: int) -> AnyArray:
    """Return a part of an array along one axis."""
    return block[(slice(None),) * axis + (slice(start, stop),)]


@dataclass(frozen=True)
class Resampled(View):
    """A source with pixels of another size.

    Parameters
    ----------
    source
        The image, or labels.
    factors, method
        See `Resampling`.
    """

    factors: Factors
    method: str | None = None

    @property
    def shape(self) -> Shape:
        """As many pixels as fit, at least one."""
        t, c, *zyx = self.source.shape
        # 1e-6: 10 pixels of 2/3 are 15, also in floating point.
        return (t, c, *(max(1, math.floor(n / f + 1e-6)) for n, f in zip(zyx, self.factors, strict=True)))

    @property
    def axes(self) -> Axes:
        """The axes, with the new pixel size."""
        return self.source.axes.scaled(dict(zip("zyx", self.factors, strict=True)))

    def read(self, box: Box) -> AnyArray:
        """Return the pixels of a box; a large one is made of parts, so that little of the source is held at once."""
        resampling = Resampling(self.source.shape, self.factors, self.method)
        needed = resampling.source_box(box)
        longest = max(SPACE, key=lambda axis: needed.shape[axis] if box.shape[axis] > 1 else 0)
        if max(math.prod(needed.shape), math.prod(box.shape)) > BLOCK and box.shape[longest] > 1:
            start, stop = box.start[longest], box.stop[longest]
            middle = start + (1 << (stop - start - 1).bit_length() - 1)  # powers of two: the tiles of files
            halves = box.replace(longest, start, middle), box.replace(longest, middle, stop)
            return np.concatenate([self.read(half) for half in halves], axis=longest)
        block = resampling(self.source.read(needed), needed, box)
        if self.dtype.kind in "biu" and block.dtype.kind == "f":
            block = np.rint(block)  # half to even: no image grows darker or brighter
        return block.astype(self.dtype, copy=False)


def resampled(source: Source, factors: Factors, method: str | None = None) -> Source:
    """Return a source with pixels of another size; itself, if nothing changes."""
    return source if factors == (1, 1, 1) else Resampled(source, factors, method)


def factors_to(name: str, axes: Axes, target: str) -> Factors:
    """Return the factors that give an image the pixel size that a user asks for.

    Parameters
    ----------
    name, axes
        Of the image.
    target
        As ``--target-pixel-size`` takes it: ``0.5um`` for y and x, ``2,0.5,0.5um`` for z, y and x.

    Raises
    ------
    InputError
        If the pixel size of the image is not known, or too far from the target.
    """
    scale, unit = parse_pixel_size(target, "--target-pixel-size")
    wanted = Axes.of("zyx", scale, dict.fromkeys("zyx", unit))
    factors = dict.fromkeys("zyx", 1.0)
    for axis in scale:
        found, target_um = axes.micrometers_of(axis), wanted.micrometers_of(axis)
        if axis not in axes.names:
            continue
        if found is None or target_um is None:
            raise InputError(
                f"{name}: its pixel size along {axis} is not known; expected one for --target-pixel-size {target}",
                fix="--pixel-size 0.25um",
            )
        factors[axis] = snapped(target_um / found)
        if not 1 / LARGEST_FACTOR <= factors[axis] <= LARGEST_FACTOR:
            raise InputError(
                f"--target-pixel-size {target}: pixels of {name} are {found:g} µm along {axis}, a factor of "
                f"{factors[axis]:g}; expected at most {LARGEST_FACTOR} times as large or small",
                fix="check the units, and --pixel-size",
            )
    return factors["z"], factors["y"], factors["x"]


def snapped(factor: float) -> float:
    """Return a factor, or the whole number (or one over it) that it differs from only by rounding."""
    near = float(round(factor)) if factor >= 1 else 1 / round(1 / factor)
    return near if abs(factor / near - 1) < SNAP else factor
