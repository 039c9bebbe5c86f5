"""Weight map of the loss: class balance and border term; separation borders between objects."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetcli.errors import ConfigError
from unetcli.kernels.distance import (
    empty_line,
    lay_out,
    pad_line,
    sites_of_row,
    start_both_sweeps,
)

EPSILON = 2.0**-25
"""Border terms below it are 0: added to a weight of 1 they are lost in the rounding to float32."""

_BLOCK = 16  # pixels of a line that are skipped together
_NO_ID = 1 << 32  # larger than any id


def border_reach(w0: float, sigma: float, epsilon: float = EPSILON) -> float:
    """Return the sum of distances beyond which the border term is below `epsilon`.

    Parameters
    ----------
    w0, sigma
        Height and width of the border term.
    epsilon
        Smallest border term that counts; > 0.

    Returns
    -------
    float
        ``sigma * sqrt(2 * ln(w0 / epsilon))`` in the unit of `sigma`, 0 if `w0` <= `epsilon`.

    Notes
    -----
    From ``w0 * exp(-(d1 + d2)**2 / (2 * sigma**2)) >= epsilon``. Background lies at least one pixel from
    the nearest object, so that a halo of ``ceil(reach / spacing)`` pixels is enough.

    Examples
    --------
    >>> round(border_reach(10, 5), 1), border_reach(0, 5)
    (31.3, 0.0)
    """
    return sigma * math.sqrt(2 * math.log(w0 / epsilon)) if w0 > epsilon else 0.0


def border_term(
    labels: NDArray[np.integer],
    *,
    w0: float,
    sigma: float,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Weight background pixels by how narrow the border between the objects around them is.

    Parameters
    ----------
    labels : (z, y, x) int
        Object ids, 0 = background.
    w0, sigma, spacing
        As in `weight_map`.

    Returns
    -------
    (z, y, x) float32
        The second term of `weight_map`, exactly 0 on objects and beyond the reach.
    """
    no_class = np.zeros(labels.shape, np.uint8)
    return weight_map(labels, no_class, balance=np.zeros(1), w0=w0, sigma=sigma, spacing=spacing)


def weight_map(
    objects: NDArray[np.integer],
    target: NDArray[np.uint8],
    *,
    balance: NDArray[np.floating],
    w0: float,
    sigma: float,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Weight each pixel by its class and by how narrow the border around it is.

    Parameters
    ----------
    objects : (z, y, x) int
        Object ids, 0 = background. Ids are global: one object has one id in all tiles.
    target : (z, y, x) uint8
        Class of each pixel, < n_classes.
    balance : (n_classes,) float
        Weight of each class, from its frequency in the whole image: see `class_balance`.
    w0, sigma
        Height (>= 0) and width (> 0, in the unit of `spacing`) of the border term.
    spacing
        Distance between neighbouring pixels along z, y and x; 1 measures in pixels.

    Returns
    -------
    (z, y, x) float32

    Notes
    -----
    ``balance[class] + w0 * exp(-(d1 + d2)**2 / (2 * sigma**2))``, the second term on background alone, with
    distances `d1`, `d2` to the nearest and second nearest object: eq. 2 of [1]_. It is exactly 0 where
    ``d1 + d2 > border_reach(w0, sigma)``. Sums are float64, rounded once to float32. Needs a halo of
    ``ceil(border_reach(w0, sigma) / spacing)`` pixels; then any tile gives the bytes of the whole image.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    """
    balance = np.ascontiguousarray(balance, dtype=np.float64)
    weights = balance.astype(np.float32)[target]
    reach = border_reach(w0, sigma)
    if reach > 0 and _has_two_objects(np.ascontiguousarray(objects).reshape(-1)):
        lines, steps, n_middle = lay_out(objects, spacing, reach)
        classes = np.ascontiguousarray(target).reshape(lines.shape)
        out = weights.reshape(lines.shape)
        _add_borders(lines, *steps, n_middle, spacing[2], w0, sigma, reach, balance, classes, out)
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
    A window holds two objects when its smallest and its largest id differ, and a window's extremes are
    taken axis by axis, so the cost does not depend on the number of objects.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597

    Examples
    --------
    >>> separation_border(np.array([[[1, 1, 2, 2, 0]]]))[0, 0].tolist()
    [False, True, True, False, False]
    """
    is_object = labels > 0
    smallest = np.where(is_object, labels, np.iinfo(labels.dtype).max)
    largest = labels.copy()
    for axis in range(labels.ndim):
        for _ in range(min(width, labels.shape[axis] - 1)):
            smallest = _with_neighbours(np.minimum, smallest, axis)
            largest = _with_neighbours(np.maximum, largest, axis)
    return is_object & (smallest != largest)


def class_balance(counts: NDArray[np.integer], mode: str = "inverse") -> NDArray[np.float64]:
    """Weight classes so that each counts the same, however rare it is.

    Parameters
    ----------
    counts : (n_classes,) int
        Pixels of each class in all images.
    mode
        ``"inverse"``: by inverse frequency; ``"none"``: all classes 1.

    Returns
    -------
    (n_classes,) float64

    Notes
    -----
    ``w_c = N / (K * n_c)`` for the K classes that occur, N pixels together; 0 for a class without pixels.
    The mean weight of a pixel is 1, so that a learning rate keeps its meaning.

    Examples
    --------
    >>> class_balance(np.array([6, 2, 0])).tolist()
    [0.6666666666666666, 2.0, 0.0]
    """
    counts = np.asarray(counts, dtype=np.float64)
    if mode == "none":
        return np.ones(counts.shape)
    if mode != "inverse":
        raise ConfigError(f"class balance {mode!r} is unknown", fix='use "inverse" or "none"')
    is_present = counts > 0
    total = counts.sum() / max(is_present.sum(), 1)
    return np.divide(total, counts, out=np.zeros(counts.shape), where=is_present)


def _with_neighbours(extreme: np.ufunc, values: NDArray[np.integer], axis: int) -> NDArray[np.integer]:
    """Take the extreme of each pixel and its two neighbours along an axis."""
    before, after = [slice(None)] * values.ndim, [slice(None)] * values.ndim
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    result = values.copy()
    extreme(result[tuple(after)], values[tuple(before)], out=result[tuple(after)])
    extreme(result[tuple(before)], values[tuple(after)], out=result[tuple(before)])
    return result


@njit(nogil=True, cache=True)
def _has_two_objects(labels):
    """Tell whether there is a border at all; quick on images that have one."""
    seen = labels.dtype.type(0)
    for label in labels:
        if label != 0 and label != seen:
            if seen != 0:
                return True
            seen = label
    return False


@njit(nogil=True, cache=True)
def _add_borders(
    lines, swept_steps, middle_steps, last_steps, n_middle, spacing_x, w0, sigma, reach, balance, classes, out
):
    """Write ``balance + border`` to the background pixels of `out` that have a border term."""
    n, n_p = lines.shape
    n_pad, n_x = last_steps.size, n_p // n_middle
    sweeps = start_both_sweeps(lines, swept_steps.size)
    near, ids = np.empty((2, n_p)), np.empty((2, n_p), np.int64)
    line_near, line_ids = empty_line(n_x, n_pad)
    is_narrow = np.empty(-(-n_x // _BLOCK), np.bool_)
    for i in range(n - 1, -1, -1):
        sites_of_row(lines, i, sweeps, swept_steps, middle_steps, n_middle, near, ids)
        for low in range(0, n_p, n_x):
            pad_line(near, ids, low, low + n_x, 1, n_pad, line_near, line_ids)
            _find_narrow_blocks(line_near, line_ids, n_pad, n_x, reach, is_narrow)
            for x in range(n_x):
                if lines[i, low + x] == 0 and is_narrow[x // _BLOCK]:
                    total = _sum_of_distances(line_near, line_ids, x, last_steps, spacing_x, reach)
                    if total <= reach:
                        border = w0 * np.exp(-(total**2) / (2 * sigma**2))
                        out[i, low + x] = balance[classes[i, low + x]] + border


@njit(nogil=True, cache=True)
def _sum_of_distances(near, ids, x, steps, spacing_x, reach):
    """Return d1 + d2 at a pixel, ``inf`` where it is beyond the reach for certain."""
    # `distance.look_along` in two parts: d1 <= d2, so that an object within half the reach must be met
    # first, and beyond that half no nearer one can follow.
    near1, near2, id1 = near[0], near[1], ids[0]
    half, at = reach / 2, steps.size + x
    best1, which1, best2 = near1[at], id1[at], near2[at]
    n_half = min(steps.size, int(half / spacing_x) + 2)
    for k in range(1, n_half):
        if steps[k] >= best2:
            break
        for p in (np.uintp(at - k), np.uintp(at + k)):
            square, square2 = near1[p] + steps[k], near2[p] + steps[k]
            if square < best2:
                if id1[p] == which1:
                    best1, best2 = min(best1, square), min(best2, square2)
                elif square < best1:
                    best1, which1, best2 = square, id1[p], min(best1, square2)
                else:
                    best2 = square
    d1 = np.sqrt(best1)
    if d1 > half:
        return np.inf
    for k in range(n_half, min(steps.size, int((reach - d1) / spacing_x) + 2)):
        if steps[k] >= best2:
            break
        for p in (np.uintp(at - k), np.uintp(at + k)):
            best2 = min(best2, (near1[p] if id1[p] != which1 else near2[p]) + steps[k])
    return d1 + np.sqrt(best2)


@njit(nogil=True, cache=True)
def _find_narrow_blocks(near, ids, n_pad, n_x, reach, is_narrow):
    """Mark the blocks of a line that have two objects within the reach, one of them within half of it."""
    n_blocks = is_narrow.size
    smallest, largest = np.empty(n_blocks, np.int64), np.empty(n_blocks, np.int64)
    nearest = np.empty(n_blocks)
    for b in range(n_blocks):
        start, stop = n_pad + b * _BLOCK, n_pad + min(n_x, (b + 1) * _BLOCK)
        smallest[b], largest[b], nearest[b] = _summarize(near, ids, start, stop)
    n_around = -(-n_pad // _BLOCK)
    for b in range(n_blocks):
        low, high, closest = smallest[b], largest[b], nearest[b]
        for c in range(max(b - n_around, 0), min(b + n_around + 1, n_blocks)):
            low, high, closest = min(low, smallest[c]), max(high, largest[c]), min(closest, nearest[c])
        is_narrow[b] = low < high and np.sqrt(closest) <= reach / 2


@njit(nogil=True, cache=True)
def _summarize(near, ids, start, stop):
    """Return the smallest and largest id and the smallest squared distance on a part of a line."""
    smallest, largest, nearest = _NO_ID, 0, np.inf
    for rank in range(2):
        for p in range(start, stop):
            which = ids[rank, p]
            smallest = min(smallest, which if which != 0 else _NO_ID)
            largest = max(largest, which)
    for p in range(start, stop):
        nearest = min(nearest, near[0, p])
    return smallest, largest, nearest
