"""A watershed that any tiling does alike: each pixel climbs to a peak, and shallow basins are merged.

Each pixel of an object points to the highest of its neighbours of the same class, of equally high ones to the first
in raster order; where this is the pixel itself, it is a peak. All that lead to one peak are a basin. Two basins meet
at saddles: pairs of neighbours, as high as the lower of the two. Saddles are looked at from the highest on (of equal
ones by their raster index), and the two groups of basins on either side are merged where the lower of their peaks
rises less than a depth above the saddle.

Pointers and saddles follow from heights, whole numbers, and global positions alone, so tiles only have to agree on
these. A tile can merge alone what no other tile can change: see `merge_inside`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetcli.kernels.labels import _find

Steps = NDArray[np.int64]
N_STEPS = 27
"""More than the directions in which a neighbour can lie."""


def steps_to_neighbours(ndim: int, *, full: bool) -> Steps:
    """Return the steps (z, y, x) to a pixel's neighbours and to itself, (n, 3), in raster order."""
    steps = itertools.product((-1, 0, 1) if ndim == 3 else (0,), (-1, 0, 1), (-1, 0, 1))
    return np.array([step for step in steps if full or np.abs(step).sum() <= 1], np.int64)


@dataclass(frozen=True)
class Saddles:
    """The highest saddle between each two basins that touch.

    Parameters
    ----------
    a, b : (n,) int64
        Ids of the basins, ``a < b``.
    height : (n,) int64
        Of the saddle.
    where : (n,) int64
        Tells apart and orders saddles of one height: raster index in the image of the first pixel, and the step.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    height: NDArray[np.int64]
    where: NDArray[np.int64]

    @classmethod
    def joined(cls, several: list[Saddles]) -> Saddles:
        """Put several together; of each two basins the first saddle stays, all are in the order of merging."""
        arrays = [np.concatenate([getattr(s, n) for s in several]) for n in ("a", "b", "height", "where")]
        return cls(*(array.astype(np.int64) for array in arrays))._first_ones()

    def _first_ones(self) -> Saddles:
        in_order = np.lexsort((self.where, -self.height))
        a, b = np.minimum(self.a, self.b)[in_order], np.maximum(self.a, self.b)[in_order]
        _, kept = np.unique(a * (b.max(initial=0) + 1) + b, return_index=True)
        kept.sort()
        return Saddles(a[kept], b[kept], self.height[in_order[kept]], self.where[in_order[kept]])

    def renamed(self, ids: NDArray[np.integer]) -> Saddles:
        """Return those between basins of other ids, by a table (n + 1,)."""
        a, b = ids[self.a].astype(np.int64), ids[self.b].astype(np.int64)
        is_between = a != b
        return Saddles(*(array[is_between] for array in (a, b, self.height, self.where)))._first_ones()


def label_basins(
    heights: NDArray[np.integer],
    classes: NDArray[np.integer],
    steps: Steps,
    start: Sequence[int],
    stop: Sequence[int],
) -> NDArray[np.uint32]:
    """Give ids to the basins of a core; one that leaves it is a basin up to where it does.

    Parameters
    ----------
    heights, classes : (z, y, x) int
        Of the core with one pixel around it, where the image goes on. Class 0 is no object.
    steps
        From `steps_to_neighbours`.
    start, stop
        The core within the arrays.

    Returns
    -------
    (z, y, x) uint32
        Ids 1..n of the pixels of the core, 0 = background.
    """
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    labels = np.zeros(shape, np.uint32)
    _climb(np.ascontiguousarray(heights), np.ascontiguousarray(classes), steps, np.array([start, stop]), labels)
    return labels


@njit(nogil=True, cache=True)
def _highest(heights, classes, steps, z, y, x):
    """Return which step leads to the highest neighbour; of equally high ones, the first."""
    n_z, n_y, n_x = heights.shape
    best, best_height = -1, -1
    for s in range(len(steps)):
        k, j, i = z + steps[s, 0], y + steps[s, 1], x + steps[s, 2]
        if 0 <= k < n_z and 0 <= j < n_y and 0 <= i < n_x and classes[k, j, i] == classes[z, y, x]:
            height = np.int64(heights[k, j, i])
            if height > best_height:
                best, best_height = s, height
    return best


@njit(nogil=True, cache=True)
def _climb(heights, classes, steps, core, labels):
    n_z, n_y, n_x = labels.shape
    flat = labels.reshape(-1)
    to = np.empty(flat.size, np.int64)
    n = 0
    for p in range(flat.size):
        k, j, i = p // (n_y * n_x), p // n_x % n_y, p % n_x
        z, y, x = k + core[0, 0], j + core[0, 1], i + core[0, 2]
        to[p] = -1
        if classes[z, y, x] == 0:
            continue
        step = steps[_highest(heights, classes, steps, z, y, x)]
        k, j, i = k + step[0], j + step[1], i + step[2]
        leaves = k < 0 or k >= n_z or j < 0 or j >= n_y or i < 0 or i >= n_x
        to[p] = p if leaves else (k * n_y + j) * n_x + i
        if to[p] == p:
            n += 1
            flat[p] = n
    for p in range(flat.size):
        if to[p] >= 0 and flat[p] == 0:
            top = p
            while flat[top] == 0:
                top = to[top]
            at = p
            while flat[at] == 0:
                flat[at] = flat[top]
                at = to[at]


def climbs_across(
    ids: NDArray[np.int64],
    heights: NDArray[np.integer],
    classes: NDArray[np.integer],
    steps: Steps,
    face: tuple[int, int],
    inner: Sequence[slice],
) -> NDArray[np.int64]:
    """Return the pairs of basins that are one, for a pixel of the one points across a face to the other.

    Parameters
    ----------
    ids, heights, classes : (z, y, x)
        Of two pixels on either side of the face, and one around them.
    face
        Axis, and the index behind the face.
    inner
        The pixels next to the face.

    Returns
    -------
    (n_pairs, 2) int64
        Unique pairs, in ascending order.
    """
    start, stop = np.array([s.start for s in inner]), np.array([s.stop for s in inner])
    pairs = _climbs_across(ids, heights, classes, steps, *face, start, stop)
    return np.unique(pairs, axis=0)


@njit(nogil=True, cache=True)
def _climbs_across(ids, heights, classes, steps, axis, face, start, stop):
    pairs, n = np.empty((np.prod(stop - start), 2), np.int64), 0
    for z in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for x in range(start[2], stop[2]):
                if classes[z, y, x] == 0:
                    continue
                step = steps[_highest(heights, classes, steps, z, y, x)]
                at = (z, y, x)[axis]
                if (at < face) != (at + step[axis] < face):
                    pairs[n, 0] = ids[z, y, x]
                    pairs[n, 1] = ids[z + step[0], y + step[1], x + step[2]]
                    n += 1
    return pairs[:n]


def find_saddles(
    ids: NDArray[np.integer],
    heights: NDArray[np.integer],
    classes: NDArray[np.integer],
    steps: Steps,
    start: Sequence[int],
    shape: Sequence[int],
    *,
    before: int = 0,
    across: tuple[int, int] | None = None,
) -> Saddles:
    """Find the highest saddle between each two basins that touch.

    Parameters
    ----------
    ids, heights, classes : (z, y, x) int
        Of a box.
    steps
        From `steps_to_neighbours`.
    start, shape
        Where the box lies in the image, and the shape of this.
    before
        Pixels of the image before the first of this volume: of earlier time points.
    across
        Axis, and index behind a face: only pairs of pixels across it count.
    """
    axis, face = across or (-1, 0)
    forward = steps[len(steps) // 2 + 1 :]
    arrays = (np.ascontiguousarray(array) for array in (ids, heights, classes))
    found = _list_saddles(*arrays, forward, np.array(start), np.array(shape), axis, face)
    return Saddles(found[0], found[1], found[2], found[3] + before * N_STEPS)._first_ones()


@njit(nogil=True, cache=True)
def _list_saddles(ids, heights, classes, steps, start, shape, axis, face):
    n_z, n_y, n_x = ids.shape
    found, n = np.empty((4, 1024), np.int64), 0
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                own = classes[z, y, x]
                if own == 0:
                    continue
                for s in range(len(steps)):
                    k, j, i = z + steps[s, 0], y + steps[s, 1], x + steps[s, 2]
                    if not (0 <= k < n_z and 0 <= j < n_y and 0 <= i < n_x) or classes[k, j, i] != own:
                        continue
                    if ids[k, j, i] == ids[z, y, x]:
                        continue
                    if axis >= 0 and ((z, y, x)[axis] < face) == ((k, j, i)[axis] < face):
                        continue
                    if n == found.shape[1]:
                        larger = np.empty((4, 2 * n), np.int64)
                        larger[:, :n] = found
                        found = larger
                    raster = ((start[0] + z) * shape[1] + start[1] + y) * shape[2] + start[2] + x
                    found[0, n], found[1, n] = ids[z, y, x], ids[k, j, i]
                    found[2, n] = min(np.int64(heights[z, y, x]), np.int64(heights[k, j, i]))
                    found[3, n] = raster * N_STEPS + s
                    n += 1
    return found[:, :n]


def peaks(ids: NDArray[np.unsignedinteger], heights: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the greatest height of ids 1..n, as (n + 1,); that of 0 is 0."""
    return _peaks(ids.reshape(-1), heights.reshape(-1), int(ids.max(initial=0)))


@njit(nogil=True, cache=True)
def _peaks(ids, heights, n):
    found = np.zeros(n + 1, np.int64)
    for p in range(ids.size):
        if ids[p] > 0:
            found[ids[p]] = max(found[ids[p]], heights[p])
    return found


def merge_inside(
    tops: NDArray[np.int64], is_open: NDArray[np.bool_], saddles: Saddles, depth: int
) -> NDArray[np.int64]:
    """Merge the basins of a tile where no other tile can change it.

    Parameters
    ----------
    tops : (n + 1,) int64
        Greatest height of each basin, as far as it lies in the tile.
    is_open : (n + 1,) bool
        Whether it touches a face to another tile.
    saddles
        All within the tile, in the order of merging.
    depth
        Peaks that rise less than this above the saddle do not count.

    Returns
    -------
    (n + 1,) int64
        The id that stands for each basin.

    Notes
    -----
    What another tile may add to an open basin are pixels, peaks and higher saddles. So a group is known when the
    tile comes to a saddle in their order, if it is closed and everything before was decided. A known group merges
    with its higher neighbour, open or not, if its own peak rises less than `depth`: the neighbour's true peak
    is at least as high. Two groups stay apart if both peaks that are seen rise `depth` or more: true peaks
    are no lower. Whatever else is left to all tiles together, and both groups count as open from then on.
    """
    return _merge_inside(tops, is_open.copy(), saddles.a, saddles.b, saddles.height, depth)


@njit(nogil=True, cache=True)
def _merge_inside(tops, is_open, a, b, height, depth):
    parent, top = np.arange(len(tops)), tops.copy()
    for e in range(len(a)):
        i, j = _find(parent, a[e]), _find(parent, b[e])
        if i == j or min(top[i], top[j]) - height[e] >= depth:
            continue
        if is_open[i] or (top[j] <= top[i] and not is_open[j]):
            i, j = j, i  # i is the one that is known, and the lower
        if is_open[i] or top[i] > top[j]:
            is_open[i] = is_open[j] = True
        else:
            parent[i] = j
    for i in range(len(parent)):
        parent[i] = _find(parent, i)
    return parent


def merge_basins(tops: NDArray[np.int64], same: NDArray[np.int64], saddles: Saddles, depth: int) -> NDArray[np.int64]:
    """Return all pairs of basins that are one: those that are given, and those that shallow saddles merge.

    Parameters
    ----------
    tops : (n + 1,) int64
        Greatest height of each.
    same : (n_pairs, 2) int64
        Parts of one basin, in several tiles.
    saddles
        Between all basins, in the order of merging.
    depth
        Peaks that rise less than this above a saddle do not count.
    """
    is_merged = _merge_basins(tops, same, saddles.a, saddles.b, saddles.height, depth)
    return np.concatenate([same, np.stack([saddles.a[is_merged], saddles.b[is_merged]], axis=1)])


@njit(nogil=True, cache=True)
def _merge_basins(tops, same, a, b, height, depth):
    parent, top = np.arange(len(tops)), tops.copy()
    for k in range(len(same)):
        i, j = _find(parent, same[k, 0]), _find(parent, same[k, 1])
        parent[i] = j
        top[j] = max(top[i], top[j])
    is_merged = np.zeros(len(a), np.bool_)
    for e in range(len(a)):
        i, j = _find(parent, a[e]), _find(parent, b[e])
        if i != j and min(top[i], top[j]) - height[e] < depth:
            parent[i] = j
            top[j] = max(top[i], top[j])
            is_merged[e] = True
    return is_merged
