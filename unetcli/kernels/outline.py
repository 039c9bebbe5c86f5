"""The outline of a mask along the edges of its pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.kernels.labels import label_components


def parts_of(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Yield the parts of a mask (y, x) that are connected across faces, each in its box, and where (y, x) this begins.

    Examples
    --------
    >>> [(part.tolist(), at.tolist()) for part, at in parts_of(np.eye(2, dtype=bool))]
    [([[True]], [0, 0]), ([[True]], [1, 1])]
    """
    labels = label_components(mask[np.newaxis])[0][0]
    for number, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
        yield labels[y, x] == number, np.array([y.start, x.start])


def trace(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Trace the outline of one part of a plane, connected across faces.

    Parameters
    ----------
    mask : (y, x) bool
        The part.

    Returns
    -------
    list of (n, 2) int64
        Rings of corners (x, y), the first repeated at the end: the outer one first, then those of holes, in raster
        order. Pixel (y, x) covers ``[y, y + 1)`` and ``[x, x + 1)``. The outer ring has a positive area by
        the shoelace formula, holes a negative one.

    Notes
    -----
    Each edge between a pixel of the part and one outside is walked once, the part on the right as seen on a
    screen. Where a walk comes to a corner that it has passed, what lies between is a ring of its own: so no ring
    touches itself, and two rings touch in single corners at most, as polygons of the simple features standard do.

    Examples
    --------
    >>> [ring.tolist() for ring in trace(np.array([[True, True]]))]
    [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]
    """
    corners, ends = _trace(np.pad(mask, 1))
    rings = np.split(corners, ends[:-1]) if len(ends) else []
    closed = [np.concatenate([ring, ring[:1]]) for ring in rings]
    return sorted(closed, key=lambda ring: (_area(ring) < 0, ring[:, ::-1].min(axis=0).tolist(), ring[0].tolist()))


def _area(ring: NDArray[np.int64]) -> int:
    """Return the area that a ring encloses, twice and signed."""
    x, y = ring.T
    return int((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


@njit(nogil=True, cache=True)
def _edges_out(padded):
    """Return for each corner, as bits, whether an edge leads from it to +x, +y, -x, -y."""
    n_y, n_x = padded.shape
    out = np.zeros((n_y + 1, n_x + 1), np.uint8)
    for y in range(1, n_y - 1):
        for x in range(1, n_x - 1):
            if padded[y, x]:
                out[y, x] |= 1 * (not padded[y - 1, x])
                out[y, x + 1] |= 2 * (not padded[y, x + 1])
                out[y + 1, x + 1] |= 4 * (not padded[y + 1, x])
                out[y + 1, x] |= 8 * (not padded[y, x - 1])
    return out


@njit(nogil=True, cache=True)
def _trace(padded):
    """Return the corners (n, 2) of all rings, and where each ring ends."""
    out = _edges_out(padded)
    passed = np.zeros(out.shape, np.int64)  # place of a corner in the path, from 1 on
    n_most = 2 * np.count_nonzero(out)
    path, n_path = np.empty((n_most + 1, 2), np.int64), 0
    corners, ends = np.empty((n_most + 1, 2), np.int64), np.empty(n_most + 1, np.int64)
    n, n_rings = 0, 0
    for first_y in range(out.shape[0]):
        for first_x in range(out.shape[1]):
            y, x, direction = first_y, first_x, -1
            while out[first_y, first_x] or n_path:
                if passed[y, x]:
                    first = passed[y, x]
                    for k in range(first - 1, n_path):
                        corners[n, 0], corners[n, 1] = path[k, 1] - 1, path[k, 0] - 1
                        n += 1
                        passed[path[k, 0], path[k, 1]] = 0
                    ends[n_rings] = n
                    n_rings += 1
                    n_path = first - 1
                    direction = -1
                    if n_path == 0 and not out[first_y, first_x]:
                        break
                turn = direction
                for k in (1, 3, 0, 2):  # at a corner where two edges lead on, either will do
                    turn = (direction + k) % 4 if direction >= 0 else k
                    if out[y, x] >> turn & 1:
                        break
                out[y, x] -= 1 << turn
                if turn != direction:
                    path[n_path, 0], path[n_path, 1] = y, x
                    n_path += 1
                    passed[y, x] = n_path
                y, x, direction = y + (turn == 1) - (turn == 3), x + (turn == 0) - (turn == 2), turn
    return corners[:n], ends[:n_rings]
