"""Euclidean distances to the nearest and to the second nearest object."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

# A candidate on a line is one integer, `offset << 32 | id`: the smaller key is the nearer object.
_ID_BITS = 32
_ID_MASK = (1 << _ID_BITS) - 1
_ONE_PIXEL = 1 << _ID_BITS


def nearest_two(
    labels: NDArray[np.integer],
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    reach: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure the distances to the nearest and to the second nearest object.

    Parameters
    ----------
    labels : (z, y, x) int
        Object ids, 0 = background, never negative. Ids of one object may lie anywhere in the array.
    spacing
        Distance between neighbouring pixel centres along z, y and x; > 0. All distances have its unit.
    reach
        Distances beyond it are infinite; >= 0, may be ``inf``.

    Returns
    -------
    d1, d2 : (z, y, x) float32
        Distances between pixel centres to the nearest object and to the nearest *other* object, ``inf``
        where there is none within `reach`. Inside an object `d1` is 0.

    Notes
    -----
    ``d1(p) = min over objects A of |p - A|`` and `d2` is the second smallest of these. Axis by axis, each
    line keeps its two nearest *distinct* objects: an object that is not among the two nearest of a line has
    two others nearer to every pixel that looks through that line, so nothing is lost and the result is
    exact, as in the separable distance transform of [1]_. The cost per pixel does not depend on the
    number of objects; besides the result, memory grows with the square root of the swept length.

    Squared distances are sums of relative offsets alone, and objects beyond the reach never win, so any
    tile with a halo of ``ceil(reach / spacing)`` gives the same bytes as the whole image.

    References
    ----------
    .. [1] Felzenszwalb, Huttenlocher, "Distance Transforms of Sampled Functions", Theory of Computing 8,
       2012.

    Examples
    --------
    >>> d1, d2 = nearest_two(np.array([[[1, 0, 0, 2, 0]]]), reach=3)
    >>> d1[0, 0].tolist(), d2[0, 0].tolist()
    ([0.0, 1.0, 1.0, 0.0, 1.0], [3.0, 2.0, 2.0, 3.0, inf])
    """
    d1 = np.full(labels.shape, np.inf, np.float32)
    d2 = np.full(labels.shape, np.inf, np.float32)
    if labels.any():
        lines, steps, n_middle = lay_out(labels, spacing, reach)
        shape = lines.shape
        _nearest_two(lines, *steps, n_middle, float(reach), d1.reshape(shape), d2.reshape(shape))
    return d1, d2


def lay_out(
    labels: NDArray[np.integer], spacing: tuple[float, float, float], reach: float
) -> tuple[NDArray[np.uint32], tuple[NDArray[np.float64], ...], int]:
    """Arrange an image for the passes: sweep down the rows of `lines`, then look along y, then along x.

    Parameters
    ----------
    labels : (z, y, x) int
        Object ids, 0 = background.
    spacing, reach
        As in `nearest_two`.

    Returns
    -------
    lines : (n, n_middle * x) uint32
        The ids. In a volume a row is a plane and the sweep runs along z; an image of one plane has rows of
        one line and the sweep runs along y, so that the z axis costs nothing.
    steps : three (n_steps,) float64
        Squared distances of 0, 1, 2... pixels along the swept, the middle and the last axis, as many as
        the reach needs.
    n_middle
        Lines of x pixels in a row of `lines`.
    """
    n_z, n_y, n_x = labels.shape
    n_swept, n_middle = (n_y, 1) if n_z == 1 else (n_z, n_y)
    swept_spacing = spacing[1] if n_z == 1 else spacing[0]
    steps = (
        _squared_steps(n_swept, swept_spacing, reach),
        _squared_steps(n_middle, spacing[1], reach),
        _squared_steps(n_x, spacing[2], reach),
    )
    return _narrow_ids(labels).reshape(n_swept, n_middle * n_x), steps, n_middle


def _squared_steps(n: int, spacing: float, reach: float) -> NDArray[np.float64]:
    """Square the distances of 0, 1, 2... pixels, one step past the reach to be safe from rounding."""
    n_steps = int(min(reach / spacing + 2, n))
    return (np.arange(n_steps) * float(spacing)) ** 2


def _narrow_ids(labels: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Bring ids to 32 bits; only whether two ids are equal matters."""
    if labels.dtype.itemsize > 4 and labels.max(initial=0) > _ID_MASK:
        ids, inverse = np.unique(labels, return_inverse=True)
        first_id = 0 if ids[0] == 0 else 1
        return (inverse.reshape(labels.shape) + first_id).astype(np.uint32)
    return np.ascontiguousarray(labels, dtype=np.uint32)


@njit(nogil=True, cache=True)
def start_both_sweeps(lines, n_steps) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sweep down once and prepare `sites_of_row`.

    Returns
    -------
    saved : (n_strips, 2, p)
        State of the sweep down before each strip of lines. Keeping it before every line would take 16
        bytes per pixel, and writing them longer than sweeping each strip again within the cache.
    down : (n_strip, 2, p)
        Room for the states at the lines of one strip.
    up : (2, p)
        State of the sweep up.
    """
    n, n_p = lines.shape
    n_strip = int(np.ceil(np.sqrt(n)))
    saved = np.empty((-(-n // n_strip), 2, n_p), np.int64)
    state = _no_object_met(n_p, n_steps)
    for i in range(n):
        if i % n_strip == 0:
            saved[i // n_strip] = state
        _sweep_on(lines[i], state, state, n_steps)
    return saved, np.empty((n_strip, 2, n_p), np.int64), _no_object_met(n_p, n_steps)


@njit(nogil=True, cache=True)
def sites_of_row(lines, i, sweeps, swept_steps, middle_steps, n_middle, near, ids) -> None:
    """Find the two nearest objects across each pixel of row i; call for the last row first, then upwards.

    Parameters
    ----------
    lines, swept_steps, middle_steps, n_middle
        From `lay_out`.
    sweeps
        From `start_both_sweeps`.
    near, ids : (2, p)
        Room for the result, the squared distances (float64) and ids (int64) across the last axis.
    """
    saved, down, up = sweeps
    n_strip = down.shape[0]
    if i == lines.shape[0] - 1 or (i + 1) % n_strip == 0:
        first = i // n_strip * n_strip
        for j in range(first, i + 1):
            before = saved[i // n_strip] if j == first else down[j - first - 1]
            _sweep_on(lines[j], before, down[j - first], swept_steps.size)
    _sweep_on(lines[i], up, up, swept_steps.size)
    _merge_sweeps(down[i % n_strip], up, swept_steps, near, ids)
    if n_middle > 1:
        _widen_to_plane(near, ids, middle_steps, n_middle)


@njit(nogil=True, cache=True)
def _no_object_met(n_p, n_steps):
    """Return the state of a sweep that has met no object: (2, n_p) keys, the nearer object first."""
    return np.full((2, n_p), np.int64(n_steps) << _ID_BITS)


@njit(nogil=True, cache=True)
def _sweep_on(line, before, after, n_steps):
    """Move a sweep on by one line of ids, from state `before` to state `after`; both may be one array."""
    # Loops of few arrays each: with more, the compiler gives up proving that they do not overlap.
    none = np.int64(n_steps) << _ID_BITS
    before1, before2, after1, after2 = before[0], before[1], after[0], after[1]
    for p in range(line.size):
        own = np.int64(line[p])
        is_new = (own != 0) & (own != (before1[p] & _ID_MASK))
        after2[p] = min((before1[p] if is_new else before2[p]) + _ONE_PIXEL, none)
    for p in range(line.size):
        own = np.int64(line[p])
        after1[p] = own if own != 0 else min(before1[p] + _ONE_PIXEL, none)


@njit(nogil=True, cache=True)
def _merge_sweeps(down, up, steps, near, ids):
    """Merge the sweeps from both sides to the two nearest distinct objects of each column.

    Writes squared distances to `near` (2, p) float64 and ids to `ids` (2, p) int64.
    """
    none = np.int64(steps.size) << _ID_BITS
    down1, down2, up1, up2 = down[0], down[1], up[0], up[1]
    id1, id2 = ids[0], ids[1]
    for p in range(id1.size):
        id1[p] = min(down1[p], up1[p])
    for p in range(id2.size):
        # The farther of two equal objects is no second one. The second of the farther side can not win.
        is_same = (down1[p] & _ID_MASK) == (up1[p] & _ID_MASK)
        other = none if is_same else max(down1[p], up1[p])
        id2[p] = min(other, min(down2[p], up2[p]))
    _split_keys(id1, steps, near[0])
    _split_keys(id2, steps, near[1])


@njit(nogil=True, cache=True)
def _split_keys(keys, steps, near):
    """Split keys to squared distances, in `near`, and ids, in place."""
    for p in range(keys.size):
        offset = keys[p] >> _ID_BITS
        near[p] = steps[offset] if offset < steps.size else np.inf
    for p in range(keys.size):
        keys[p] &= _ID_MASK


@njit(nogil=True, cache=True)
def pad_line(near, ids, start, stop, stride, n_pad, padded_near, padded_ids) -> None:
    """Copy the sites of pixels start, start + stride... < stop behind `n_pad` pixels without a site.

    The pads of `padded_near` (2, n_pad + n + n_pad) are ``inf`` from the start and stay so.
    """
    for rank in range(2):
        at = n_pad
        for p in range(start, stop, stride):
            padded_near[rank, at] = near[rank, p]
            padded_ids[rank, at] = ids[rank, p]
            at += 1


@njit(nogil=True, cache=True)
def empty_line(n, n_pad) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Allocate the squared distances and ids of a line of `n` pixels with its pads."""
    return np.full((2, n + 2 * n_pad), np.inf), np.zeros((2, n + 2 * n_pad), np.int64)


@njit(nogil=True, cache=True)
def look_along(near, ids, at, steps) -> tuple[float, int, float, int]:
    """Look along a line, from one pixel to both sides, for the two nearest distinct objects.

    Parameters
    ----------
    near, ids : (2, n)
        Squared distances and ids of the two nearest objects across each pixel of a padded line.
    at
        Where to look from.
    steps
        Squared distances of 0, 1, 2... pixels, as far as to look.

    Returns
    -------
    best1, which1, best2, which2
        Squared distance and id of the nearest object, then of the second nearest; ``inf`` for none.
    """
    near1, near2, id1, id2 = near[0], near[1], ids[0], ids[1]
    best1, which1, best2, which2 = near1[at], id1[at], near2[at], id2[at]
    for k in range(1, steps.size):
        if steps[k] >= best2:
            break
        for p in (np.uintp(at - k), np.uintp(at + k)):  # unsigned: no test for an index from the end
            square, which = near1[p] + steps[k], id1[p]
            if square >= best2:
                continue
            if which != which1 and square >= best1:
                best2, which2 = square, which  # the second object across p is no nearer than the first
                continue
            if which != which1:
                best1, which1, best2, which2 = square, which, best1, which1
            best1 = min(best1, square)
            if near2[p] + steps[k] < best2:
                best2, which2 = near2[p] + steps[k], id2[p]
    return best1, which1, best2, which2


@njit(nogil=True, cache=True)
def _widen_to_plane(near, ids, steps, n_middle):
    """From the two nearest objects of each z line to those of each z-y plane, in place: look along y."""
    n_p, n_pad = near.shape[1], steps.size
    n_x = n_p // n_middle
    line_near, line_ids = empty_line(n_middle, n_pad)
    for x in range(n_x):
        pad_line(near, ids, x, n_p, n_x, n_pad, line_near, line_ids)
        for y in range(n_middle):
            found = look_along(line_near, line_ids, n_pad + y, steps)
            near[0, y * n_x + x], ids[0, y * n_x + x], near[1, y * n_x + x], ids[1, y * n_x + x] = found


@njit(nogil=True, cache=True)
def _nearest_two(lines, swept_steps, middle_steps, last_steps, n_middle, reach, d1, d2):
    """Fill `d1` and `d2`, (n, n_middle * x): sweep down, then up and finish line by line."""
    n, n_p = lines.shape
    n_pad, n_x = last_steps.size, n_p // n_middle
    sweeps = start_both_sweeps(lines, swept_steps.size)
    near, ids = np.empty((2, n_p)), np.empty((2, n_p), np.int64)
    line_near, line_ids = empty_line(n_x, n_pad)
    for i in range(n - 1, -1, -1):
        sites_of_row(lines, i, sweeps, swept_steps, middle_steps, n_middle, near, ids)
        for low in range(0, n_p, n_x):
            pad_line(near, ids, low, low + n_x, 1, n_pad, line_near, line_ids)
            here = slice(low, low + n_x)
            _finish_line(line_near, line_ids, last_steps, reach, d1[i, here], d2[i, here])


@njit(nogil=True, cache=True)
def _finish_line(near, ids, steps, reach, d1, d2):
    """Look along x and write the distances within the reach."""
    for x in range(d1.size):
        found = look_along(near, ids, steps.size + x, steps)
        nearest, second = np.sqrt(found[0]), np.sqrt(found[2])
        if nearest <= reach:
            d1[x] = nearest
        if second <= reach:
            d2[x] = second
