"""Weight map of the loss: class balance and border term; separation borders between objects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetcli.errors import ConfigError
from unetcli.kernels.distance import (
    BLOCK,
    empty_line,
    empty_sites,
    lay_out,
    look_around,
    sites_of_line,
    sites_of_row,
    start_sweeps,
    take_up,
)

EPSILON = 2.0**-25
"""Border terms below it are 0: added to a weight of 1 they are lost in the rounding to float32."""
BALANCES = ("inverse", "median", "none")
"""Rules by which `class_balance` weighs classes."""


def border_reach(height: float, sigma: float, epsilon: float = EPSILON) -> float:
    """Return the distance beyond which ``height * exp(-d**2 / (2 * sigma**2))`` is below `epsilon`.

    Parameters
    ----------
    height, sigma
        Height and width of the term.
    epsilon
        Smallest term that counts; > 0.

    Returns
    -------
    float
        ``sigma * sqrt(2 * ln(height / epsilon))`` in the unit of `sigma`, 0 if `height` <= `epsilon`.

    Examples
    --------
    >>> round(border_reach(10, 5), 1), border_reach(0, 5)
    (31.3, 0.0)
    """
    return sigma * math.sqrt(2 * math.log(height / epsilon)) if height > epsilon else 0.0


@dataclass(frozen=True)
class Borders:
    """What pixels gain by their distances `d1`, `d2` to the nearest and second nearest object.

    Parameters
    ----------
    w0, sigma
        Height (>= 0) and width (> 0) of the term of narrow borders, in ``d1 + d2``.
    w1, sigma1
        Height (>= 0) and width (> 0) of the term of the surroundings of objects, in `d1` alone; background
        only.
    inside
        Whether narrow borders also weigh on the pixels of objects, where `d1` is 0.

    Notes
    -----
    ``w0 * exp(-(d1 + d2)**2 / (2 * sigma**2)) + w1 * exp(-d1**2 / (2 * sigma1**2))``: the first term is that of
    eq. 2 of [1]_, the second one that of the authors' later tool [2]_. Terms below `EPSILON` are exactly 0.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    .. [2] Falk et al., "U-Net: deep learning for cell counting, detection, and morphometry", Nature Methods
       16, 2019.
    """

    w0: float = 10.0
    sigma: float = 5.0
    w1: float = 0.0
    sigma1: float = 10.0
    inside: bool = False

    @property
    def reach(self) -> float:
        """Largest distance, in the unit of `sigma`, at which an object counts: the halo that a tile needs."""
        return max(border_reach(self.w0, self.sigma), border_reach(self.w1, self.sigma1))


def weight_map(
    objects: NDArray[np.integer],
    target: NDArray[np.uint8],
    borders: Borders,
    *,
    balance: NDArray[np.floating],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Weight each pixel by its class and by how narrow the border around it is.

    Parameters
    ----------
    objects : (z, y, x) int
        Object ids, 0 = background. Ids are global: one object has one id in all tiles.
    target : (z, y, x) uint8
        Class of each pixel, < n_classes.
    borders
        What is added for the distances to objects.
    balance : (n_classes,) float
        Weight of each class, from its frequency in the whole image: see `class_balance`.
    spacing
        Distance between neighbouring pixels along z, y and x, in the unit of the widths in `borders`; 1
        measures in pixels.

    Returns
    -------
    (z, y, x) float32

    Notes
    -----
    ``balance[class]`` plus what `Borders` gives. Sums are float64, rounded once to float32. Needs a halo of
    ``ceil(borders.reach / spacing)`` pixels, fewer at the edge of the image; then any tile gives the bytes of the
    whole image.
    """
    balance = np.ascontiguousarray(balance, dtype=np.float64)
    weights = np.empty(target.shape, np.float32)
    _look_up(balance, np.ascontiguousarray(target).reshape(-1), weights.reshape(-1))
    narrow, near = (
        (float(height), float(sigma), border_reach(height, sigma))
        for height, sigma in ((borders.w0, borders.sigma), (borders.w1, borders.sigma1))
    )
    if _has_objects(np.ascontiguousarray(objects).reshape(-1), 1 if near[2] > 0 else 2) and borders.reach > 0:
        lines, passes = lay_out(objects, spacing, borders.reach)
        classes, out = np.ascontiguousarray(target).reshape(lines.shape), weights.reshape(lines.shape)
        _add_borders(lines, passes, narrow, near, borders.inside, balance, classes, out)
    return weights


def separation_border(labels: NDArray[np.integer], *, width: int = 1) -> NDArray[np.bool_]:
    """Find the object pixels that come close to another object.

    Parameters
    ----------
    labels : (z, y, x) int
        Object ids, 0 = background.
    width
        Chessboard distance in pixels, >= 1, within which another object counts.

    Returns
    -------
    (z, y, x) bool
        True where the cube of ``2 * width + 1`` pixels around an object pixel holds another object; the
        square within the plane if there is one plane. Setting these pixels to background separates
        touching objects by a thin border, as in section 3 of [1]_. Needs a halo of `width`.

    Notes
    -----
    A window holds two objects when its smallest and its largest id differ. A window's extremes are taken axis by
    axis, so the cost does not depend on the number of objects.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597

    Examples
    --------
    >>> separation_border(np.array([[[1, 1, 2, 2, 0]]]))[0, 0].tolist()
    [False, True, True, False, False]
    """
    largest = np.ascontiguousarray(labels)
    top = np.iinfo(labels.dtype).max
    smallest = np.where(largest > 0, top - largest, 0).astype(labels.dtype, copy=False)  # counted down from the top
    for axis in range(labels.ndim):
        for _ in range(min(width, labels.shape[axis] - 1)):
            smallest, largest = _spread(smallest, axis), _spread(largest, axis)
    found: NDArray[np.bool_] = (labels > 0) & (largest != top - smallest)
    return found


def class_balance(counts: NDArray[np.integer], mode: str = "inverse") -> NDArray[np.float64]:
    """Weight classes so that each counts the same, however rare it is.

    Parameters
    ----------
    counts : (n_images, n_classes) int
        Pixels of each class in each image.
    mode
        ``"inverse"``: by inverse frequency; ``"median"``: by median frequency; ``"none"``: all classes 1.

    Returns
    -------
    (n_classes,) float64
        0 for a class without pixels.

    Raises
    ------
    ConfigError
        If `mode` is unknown.

    Notes
    -----
    ``inverse``: ``w_c = N / (K * n_c)`` for the K classes that occur, N pixels together: the mean weight of a
    pixel is 1, so that a learning rate keeps its meaning, and the weights of each class add up to the same.
    ``median`` [1]_: ``w_c = median(f) / f_c`` with ``f_c``, the pixels of class c over all pixels of the images in
    which it occurs: the class of median frequency has weight 1, and one that is frequent in the few images that
    have it is not taken for rare.

    References
    ----------
    .. [1] Eigen, Fergus, "Predicting depth, surface normals and semantic labels with a common multi-scale
       convolutional architecture", ICCV 2015. arXiv:1411.4734

    Examples
    --------
    >>> class_balance(np.array([[6, 2, 0]])).tolist()
    [0.6666666666666666, 2.0, 0.0]
    >>> class_balance(np.array([[6, 2, 0], [8, 0, 0]]), "median").tolist()
    [0.6428571428571429, 2.25, 0.0]
    """
    counts = np.asarray(counts, dtype=np.float64)
    pixels = counts.sum(axis=0)
    if mode not in BALANCES:
        raise ConfigError(f"class balance {mode!r} is unknown", fix=f"use {', '.join(BALANCES)}")
    if mode == "none":
        return np.ones(pixels.shape)
    present = pixels > 0
    balance = np.zeros(pixels.shape)
    if not present.any():
        return balance
    if mode == "inverse":
        balance[present] = pixels.sum() / present.sum() / pixels[present]
    else:
        frequency = pixels[present] / ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)[present]
        balance[present] = np.median(frequency) / frequency
    return balance


def _spread(values: NDArray[np.integer], axis: int) -> NDArray[np.integer]:
    """Take the largest of each pixel and its two neighbours along an axis."""
    result, n = np.empty_like(values), values.shape[axis]
    before, after = math.prod(values.shape[:axis]), math.prod(values.shape[axis + 1 :])
    if axis == values.ndim - 1:
        _spread_along(values.reshape(before, n), result.reshape(before, n))
    else:
        _spread_across(values.reshape(before, n, after), result.reshape(before, n, after))
    return result


@njit(nogil=True, cache=True)
def _spread_along(values, result):
    """Take the largest of neighbours within each row."""
    n = values.shape[1]
    for k in range(values.shape[0]):
        row, out = values[k], result[k]
        out[0], out[n - 1] = max(row[0], row[min(1, n - 1)]), max(row[n - 1], row[max(n - 2, 0)])
        for i in range(1, n - 1):
            out[i] = max(max(row[i - 1], row[i]), row[i + 1])


@njit(nogil=True, cache=True)
def _spread_across(values, result):
    """Take the largest of neighbours in the rows before and after."""
    n = values.shape[1]
    for k in range(values.shape[0]):
        for i in range(n):
            before, row, after, out = values[k, max(i - 1, 0)], values[k, i], values[k, min(i + 1, n - 1)], result[k, i]
            for j in range(row.size):
                out[j] = max(max(before[j], row[j]), after[j])


@njit(nogil=True, cache=True)
def _look_up(balance, classes, out):
    """Write the weight of each pixel's class."""
    for p in range(classes.size):
        out[p] = balance[classes[p]]


@njit(nogil=True, cache=True)
def _has_objects(labels, n):
    """Tell whether there are `n` objects, 1 or 2; quick on images that have them."""
    seen = labels.dtype.type(0)
    for label in labels:
        if label != 0 and label != seen:
            if seen != 0 or n == 1:
                return True
            seen = label
    return False


@njit(nogil=True, cache=True)
def _add_borders(lines, passes, narrow, near, inside, balance, classes, out):
    """Write ``balance + terms`` to the pixels of `out` that have a term; of each: height, width, reach."""
    n, n_x = lines.shape[0], lines.shape[1] // passes.n_middle
    limit = max(narrow[2] / 2, near[2]) ** 2  # where d1 <= d2 is more, no term is left
    sweeps, plane = start_sweeps(lines, passes), empty_sites(n_x, passes)
    line, is_worth = empty_line(plane), np.empty(-(-n_x // BLOCK), np.bool_)
    best = line[2]
    for i in range(n - 1, -1, -1):
        sites_of_row(lines, i, sweeps, passes, plane)
        for m in range(passes.n_middle):
            squares, ids, first = sites_of_line(plane, m, n_x, passes, line)
            _find_blocks(squares, ids, first, passes, limit, 1 if near[2] > 0 else 2, is_worth)
            for x in range(0, n_x, BLOCK):
                here = slice(m * n_x + x, m * n_x + min(n_x, x + BLOCK))
                if is_worth[x // BLOCK] and (inside or not lines[i, here].all()):
                    take_up(squares, ids, first + x, best)
                    _leave_out(lines[i, here], inside, best)
                    look_around(squares, ids, first + x, 1, passes.spacing[2], passes.n_steps[2], limit, best)
                    _weigh(lines[i, here], narrow, near, inside, limit, best, balance, classes[i, here], out[i, here])


@njit(nogil=True, cache=True)
def _leave_out(objects, inside, best):
    """Leave out the pixels of a block that get no term: those of objects, those past the end of the line."""
    for j in range(objects.size):
        best[2 * BLOCK + j] = best[2 * BLOCK + j] if inside or objects[j] == 0 else 0
    best[2 * BLOCK + objects.size : 3 * BLOCK] = 0


@njit(nogil=True, cache=True)
def _weigh(objects, narrow, near, inside, limit, best, balance, classes, out):
    """Write the weights of the pixels of a block that have a term."""
    (w0, sigma, reach), (w1, sigma1, reach1) = narrow, near
    for j in range(objects.size):
        square1, square2 = np.float64(best[j]), np.float64(best[2 * BLOCK + j])
        if square1 > limit or (objects[j] != 0 and not inside):
            continue
        total = square1 + square2 + 2 * np.sqrt(square1 * square2)  # (d1 + d2)**2, with one root in place of two
        is_narrow, is_near = total <= reach**2, square1 <= reach1**2 and objects[j] == 0
        if is_narrow or is_near:
            border = w0 * np.exp(-total / (2 * sigma**2)) if is_narrow else 0.0
            border += w1 * np.exp(-square1 / (2 * sigma1**2)) if is_near else 0.0
            out[j] = balance[classes[j]] + border


@njit(nogil=True, cache=True)
def _find_blocks(squares, ids, first, passes, limit, n_objects, is_worth):
    """Mark the blocks of a line that have so many objects within reach, one of them within the limit."""
    # Numbers that are not negative are ordered as their bits, whose extremes vector instructions find.
    bits, near_bits = ids.view(passes.keys.dtype), squares.view(passes.keys.dtype)
    bits_of_limit = np.array([limit], squares.dtype).view(passes.keys.dtype)[0]
    n_blocks, one = is_worth.size, passes.keys.dtype.type(1)
    smallest, largest = np.empty(n_blocks, bits.dtype), np.empty(n_blocks, bits.dtype)
    nearest = np.empty(n_blocks, bits.dtype)
    for b in range(n_blocks):
        here = slice(first + b * BLOCK, first + (b + 1) * BLOCK)
        smallest1, largest1 = _extremes(bits[0, here])
        smallest2, largest2 = _extremes(bits[1, here])
        smallest[b], largest[b] = min(smallest1, smallest2), max(largest1, largest2)
        nearest[b] = _minimum(near_bits[0, here])
    n_around = -(-passes.n_steps[2] // BLOCK)
    for b in range(n_blocks):
        low, high, closest = smallest[b], largest[b], nearest[b]
        for c in range(max(b - n_around, 0), min(b + n_around + 1, n_blocks)):
            low, high, closest = min(low, smallest[c]), max(high, largest[c]), min(closest, nearest[c])
        is_worth[b] = closest <= bits_of_limit and (low + one < high or n_objects == 1)


@njit(nogil=True, cache=True)
def _minimum(values):
    smallest = values[0]
    for p in range(values.size):
        smallest = values[p] if values[p] < smallest else smallest
    return smallest


@njit(nogil=True, cache=True)
def _extremes(values):
    """Return the smallest value that is not 0, less 1, and the largest; less 1, 0 is the largest of all."""
    type_ = values.dtype.type
    below, largest = type_(values[0] - type_(1)), values[0]
    for p in range(values.size):
        less_one = type_(values[p] - type_(1))
        below = less_one if less_one < below else below
    for p in range(values.size):
        largest = values[p] if values[p] > largest else largest
    return below, largest
