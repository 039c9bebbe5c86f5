"""Euclidean distances to the nearest and to the second nearest object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 64
"""Pixels of a line that are looked at together, by vector instructions."""


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
        lines, passes = lay_out(labels, spacing, reach)
        _nearest_two(lines, passes, float(reach), d1.reshape(lines.shape), d2.reshape(lines.shape))
    return d1, d2


class Passes(NamedTuple):
    """How to go through an image: sweep along the rows, then look along y, then along x.

    Parameters
    ----------
    n_middle
        Lines of x pixels in a row. In a volume a row is a plane and the sweep runs along z; an image of one
        plane has rows of one line and the sweep runs along y, so that the z axis costs nothing.
    n_steps : three int
        Pixels to look along the swept, the middle and the last axis, the pixel itself included.
    spacing : three float32
        Distance between pixels along these axes.
    keys : (0,) uint32 or uint64
        Type of the keys of the sweeps: ``offset << bits | id`` in one integer, so that the smaller key is
        the nearer object. Ids below 2**24 and up to 254 steps fit in 32 bits, and such ids and squared
        distances in float32; else all are twice as wide. One width lets a vector hold all of a pixel.
    numbers : (0,) float32 or float64
        Type of squared distances, and of ids beside them. All squares are rounded to float32, so that the
        width changes no result.
    """

    n_middle: int
    n_steps: tuple[int, int, int]
    spacing: tuple[np.float32, np.float32, np.float32]
    keys: NDArray[np.unsignedinteger]
    numbers: NDArray[np.floating]


def lay_out(
    labels: NDArray[np.integer], spacing: tuple[float, float, float], reach: float
) -> tuple[NDArray[np.uint32], Passes]:
    """Arrange an image for the passes.

    Parameters
    ----------
    labels : (z, y, x) int
        Object ids, 0 = background.
    spacing, reach
        As in `nearest_two`.

    Returns
    -------
    lines : (n, n_middle * x) uint32
        The ids, a row for each step of the sweep.
    passes
        How to go through them.
    """
    n_z, n_y, n_x = labels.shape
    n, n_middle, axes = (n_y, 1, (1, 1, 2)) if n_z == 1 else (n_z, n_y, (0, 1, 2))
    # One step past the reach to be safe from rounding.
    n_steps = [int(min(reach / spacing[a] + 2, k)) for a, k in zip(axes, (n, n_middle, n_x), strict=True)]
    lines = _narrow_ids(labels).reshape(n, n_middle * n_x)
    is_narrow = n_steps[0] < 255 and lines.max(initial=0) < 1 << 24
    key, number = (np.uint32, np.float32) if is_narrow else (np.uint64, np.float64)
    steps = (n_steps[0], n_steps[1], n_steps[2])
    widths = (np.float32(spacing[axes[0]]), np.float32(spacing[axes[1]]), np.float32(spacing[axes[2]]))
    return lines, Passes(n_middle, steps, widths, np.empty(0, key), np.empty(0, number))


def _narrow_ids(labels: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Bring ids to 32 bits; only whether two ids are equal matters."""
    if labels.dtype.itemsize > 4 and labels.max(initial=0) >= 1 << 32:
        ids, inverse = np.unique(labels, return_inverse=True)
        first_id = 0 if ids[0] == 0 else 1
        return (inverse.reshape(labels.shape) + first_id).astype(np.uint32)
    return np.ascontiguousarray(labels, dtype=np.uint32)


@njit(nogil=True, cache=True)
def start_sweeps(lines, passes) -> tuple[NDArray[np.unsignedinteger], ...]:
    """Sweep down once and prepare `sites_of_row`.

    Returns
    -------
    saved : (n_strips, 2, p)
        State of the sweep down before each strip of lines: keys of the two nearest objects so far. Keeping
        it before every line would take as much memory as the image, and writing it longer than sweeping
        each strip again within the cache.
    down : (n_strip, 2, p)
        Room for the states at the lines of one strip.
    up : (2, p)
        State of the sweep up.
    sites : (2, p)
        Room for the merged states.
    """
    n, n_p = lines.shape
    n_strip = int(np.ceil(np.sqrt(n)))
    none = _key_scale(passes.keys, passes.n_steps[0])[2]
    saved = np.empty((-(-n // n_strip), 2, n_p), passes.keys.dtype)
    up = np.full((2, n_p), none, passes.keys.dtype)
    state = up.copy()
    for i in range(n):
        if i % n_strip == 0:
            saved[i // n_strip] = state
        _sweep_on(lines[i], state, state, passes)
    return saved, np.empty((n_strip, 2, n_p), passes.keys.dtype), up, up.copy()


@njit(nogil=True, cache=True)
def empty_sites(n_x, passes) -> tuple[NDArray[np.floating], NDArray[np.floating], int, int]:
    """Allocate the lines of one row with a margin on all sides where there is no object.

    Returns
    -------
    near, ids : (2, n)
        Squared distances, and ids, of the nearest and the second nearest object: of each pixel of all lines.
    first
        Index of the first pixel of the first line.
    stride
        From one line to the next.
    """
    n_margin, n_blocks = passes.n_steps[2], -(-n_x // BLOCK)
    stride = n_margin + n_blocks * BLOCK + n_margin
    n_margin_lines = passes.n_steps[1] if passes.n_middle > 1 else 0
    shape = (2, (passes.n_middle + 2 * n_margin_lines) * stride)
    near, ids = np.full(shape, np.inf, passes.numbers.dtype), np.zeros(shape, passes.numbers.dtype)
    return near, ids, n_margin_lines * stride + n_margin, stride


@njit(nogil=True, cache=True)
def sites_of_row(lines, i, sweeps, passes, plane) -> None:
    """Find the two nearest objects along the swept axis; call for the last row first, then upwards.

    Parameters
    ----------
    lines, passes
        From `lay_out`.
    i
        The row.
    sweeps
        From `start_sweeps`.
    plane
        From `empty_sites`: filled with what is found.
    """
    saved, down, up, sites = sweeps
    near, ids, first, stride = plane
    n_strip, n_x = down.shape[0], lines.shape[1] // passes.n_middle
    if i == lines.shape[0] - 1 or (i + 1) % n_strip == 0:
        start = i // n_strip * n_strip
        for j in range(start, i + 1):
            before = saved[i // n_strip] if j == start else down[j - start - 1]
            _sweep_on(lines[j], before, down[j - start], passes)
    _sweep_on(lines[i], up, up, passes)
    _merge_sweeps(down[i % n_strip], up, sites, passes)
    for rank in range(2):
        for m in range(passes.n_middle):
            low = first + m * stride
            here = slice(low, low + n_x)
            _split_keys(sites[rank, m * n_x : (m + 1) * n_x], near[rank, here], ids[rank, here], passes)


@njit(nogil=True, cache=True)
def _key_scale(keys, n_steps):
    """Return the mask of the ids, a step of one pixel, the key of no object, and the bits of ids."""
    key = keys.dtype.type
    bits = key(24 if keys.itemsize == 4 else 32)
    step = key(key(1) << bits)
    return key(step - key(1)), step, key(key(n_steps) << bits), bits


@njit(nogil=True, cache=True)
def _sweep_on(line, before, after, passes):
    """Move a sweep on by one line of ids, from state `before` to state `after`; both may be one array."""
    # Loops of few arrays each: with more, the compiler gives up proving that they do not overlap.
    key = passes.keys.dtype.type
    mask, step, none, _ = _key_scale(passes.keys, passes.n_steps[0])
    before1, before2, after1, after2 = before[0], before[1], after[0], after[1]
    for p in range(line.size):
        own, first = key(line[p]), before1[p]
        is_new = (own != key(0)) & (own != (first & mask))
        farther = key((first if is_new else before2[p]) + step)
        after2[p] = farther if farther < none else none
    for p in range(line.size):
        own, farther = key(line[p]), key(before1[p] + step)
        farther = farther if farther < none else none
        after1[p] = own if own != key(0) else farther


@njit(nogil=True, cache=True)
def _merge_sweeps(down, up, sites, passes):
    """Merge the keys of the sweeps from both sides to those of the two nearest distinct objects, (2, p) each."""
    mask, _, none, _ = _key_scale(passes.keys, passes.n_steps[0])
    down1, down2, up1, up2, first, second = down[0], down[1], up[0], up[1], sites[0], sites[1]
    for p in range(first.size):
        first[p] = down1[p] if down1[p] < up1[p] else up1[p]
    for p in range(second.size):
        # The farther of two equal objects is no second one. The second of the farther side can not win.
        farther = down1[p] if down1[p] > up1[p] else up1[p]
        second[p] = none if (down1[p] & mask) == (up1[p] & mask) else farther
    for p in range(second.size):
        nearer = down2[p] if down2[p] < up2[p] else up2[p]
        second[p] = nearer if nearer < second[p] else second[p]


@njit(nogil=True, cache=True)
def _split_keys(keys, near, ids, passes):
    """Split keys to squared distances and ids."""
    number = near.dtype.type
    mask, _, none, bits = _key_scale(passes.keys, passes.n_steps[0])
    for p in range(keys.size):
        distance = np.float32(keys[p] >> bits) * passes.spacing[0]
        near[p] = distance * distance if keys[p] < none else np.float32(np.inf)
    for p in range(keys.size):
        ids[p] = number(keys[p] & mask)


@njit(nogil=True, cache=True)
def sites_of_line(plane, m, n_x, passes, line) -> tuple[NDArray[np.floating], NDArray[np.floating], int]:
    """Find the two nearest objects across x for the pixels of line m of a row.

    Parameters
    ----------
    plane
        From `empty_sites`, filled by `sites_of_row`.
    m, n_x
        The line, and its number of pixels.
    passes
        From `lay_out`.
    line
        Room for a line with its margins: ``near, ids, best`` of shapes (2, stride), (2, stride), (4 * BLOCK,).

    Returns
    -------
    near, ids, first
        Squared distances and ids, and the index of the first pixel in them.
    """
    near, ids, first, stride = plane
    at = first + m * stride
    if passes.n_middle == 1:
        return near, ids, at
    line_near, line_ids, best = line
    margin = passes.n_steps[2]
    for x in range(0, n_x, BLOCK):
        take_up(near, ids, at + x, best)
        look_around(near, ids, at + x, stride, passes.spacing[1], passes.n_steps[1], np.inf, best)
        here = slice(margin + x, margin + x + BLOCK)
        line_near[0, here], line_ids[0, here] = best[:BLOCK], best[BLOCK : 2 * BLOCK]
        line_near[1, here], line_ids[1, here] = best[2 * BLOCK : 3 * BLOCK], best[3 * BLOCK :]
    return line_near, line_ids, margin


@njit(nogil=True, cache=True)
def take_up(near, ids, at, best) -> None:
    """Begin with what is known across each of the pixels from `at` on."""
    near1, near2, ids1, ids2 = near[0], near[1], ids[0], ids[1]
    for j in range(BLOCK):
        p = np.uintp(at) + np.uintp(j)
        best[j], best[BLOCK + j] = near1[p], ids1[p]
        best[2 * BLOCK + j], best[3 * BLOCK + j] = near2[p], ids2[p]


@njit(nogil=True, cache=True)
def look_around(near, ids, at, stride, spacing, n_steps, limit, best) -> None:
    """Look along a line, from the pixels of a block to both sides, for their two nearest distinct objects.

    Parameters
    ----------
    near, ids : (2, n)
        Squared distances and ids of the two nearest objects across each pixel.
    at, stride
        First pixel of the block, and from one pixel of a line to the next in `near`.
    spacing, n_steps
        Distance of one step; how many to look.
    limit
        A squared distance: pixels whose nearest object is farther do not count.
    best : (4 * BLOCK,)
        Squared distance and id of the nearest object, then of the second nearest; ``inf`` for none. A pixel
        with a second distance of 0 is left alone; so become those that do not count.
    """
    near1, near2, ids1, ids2 = near[0], near[1], ids[0], ids[1]
    n_within = int(min(np.sqrt(limit) / spacing, n_steps)) + 1
    for k in range(1, n_steps):
        if k == n_within:
            for j in range(BLOCK):
                best[2 * BLOCK + j] = best[2 * BLOCK + j] if best[j] <= limit else 0
        square, next_square = (np.float32(k) * spacing) ** 2, (np.float32(k + 1) * spacing) ** 2
        left, right = at - k * stride, at + k * stride
        if _look_at_two(near1, near2, ids1, ids2, left, right, square, next_square, best) == 0:
            return


@njit(nogil=True, cache=True)
def _look_at_two(near1, near2, ids1, ids2, left, right, square, next_square, best):
    """Let the objects across two pixels, as far on either side, compete; count who can gain by the next."""
    n_open = 0
    # One array for all that is written, and unsigned indices: so the loop becomes vector instructions.
    for j in range(BLOCK):
        best1, id1, best2, id2 = best[j], best[BLOCK + j], best[2 * BLOCK + j], best[3 * BLOCK + j]
        for p in (np.uintp(left) + np.uintp(j), np.uintp(right) + np.uintp(j)):
            square1, square2 = np.float32(near1[p] + square), np.float32(near2[p] + square)
            which1, which2 = ids1[p], ids2[p]
            is_nearest, is_same = square1 < best1, which1 == id1
            # Who else may be second: the nearest so far, if it is pushed back, or the second across p.
            other = best1 if best1 < square2 else square2
            other_id = id1 if best1 < square2 else which2
            other = other if is_nearest else square1
            other_id = other_id if is_nearest else which1
            other = square2 if is_same else other
            other_id = which2 if is_same else other_id
            is_second = other <= best2  # at a tie too: the old one may be the nearest by now
            id2 = other_id if is_second else id2
            best2 = other if is_second else best2
            id1 = which1 if is_nearest else id1
            best1 = square1 if is_nearest else best1
        best[j], best[BLOCK + j], best[2 * BLOCK + j], best[3 * BLOCK + j] = best1, id1, best2, id2
        n_open += best2 > next_square
    return n_open


@njit(nogil=True, cache=True)
def _nearest_two(lines, passes, reach, d1, d2):
    """Fill `d1` and `d2`, (n, n_middle * x): sweep down, then up and finish line by line."""
    n, n_x = lines.shape[0], lines.shape[1] // passes.n_middle
    sweeps, plane = start_sweeps(lines, passes), empty_sites(n_x, passes)
    line = empty_line(plane)
    best = line[2]
    for i in range(n - 1, -1, -1):
        sites_of_row(lines, i, sweeps, passes, plane)
        for m in range(passes.n_middle):
            near, ids, first = sites_of_line(plane, m, n_x, passes, line)
            for x in range(0, n_x, BLOCK):
                take_up(near, ids, first + x, best)
                look_around(near, ids, first + x, 1, passes.spacing[2], passes.n_steps[2], np.inf, best)
                for j in range(min(BLOCK, n_x - x)):
                    nearest, second = np.sqrt(best[j]), np.sqrt(best[2 * BLOCK + j])
                    p = m * n_x + x + j
                    d1[i, p] = nearest if nearest <= reach else np.inf
                    d2[i, p] = second if second <= reach else np.inf


@njit(nogil=True, cache=True)
def empty_line(plane) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Allocate what `sites_of_line` needs for a line of a row of `empty_sites`."""
    near, ids, _, stride = plane
    return np.full((2, stride), np.inf, near.dtype), np.zeros((2, stride), ids.dtype), np.empty(4 * BLOCK, near.dtype)
