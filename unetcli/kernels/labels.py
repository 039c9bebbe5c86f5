"""Connected components of a tile, and their merging across tile faces."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def label_components(
    classes: NDArray[np.integer], *, full: bool = False
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Find the connected components of equal class.

    Parameters
    ----------
    classes : (z, y, x) int or bool
        Class of each pixel, 0 = background.
    full
        Pixels are connected across faces (4 neighbours in a plane, 6 in a volume), or also across edges and
        corners (8, 26).

    Returns
    -------
    labels : (z, y, x) uint32
        Ids 1..n in the raster order of the components' first pixels, 0 = background.
    first : (n,) int64
        Flat index, within this array, of each component's first pixel in raster order.

    Notes
    -----
    Two passes with a union-find forest, in which the root of a component is its first pixel's id [1]_.
    The result equals ``skimage.measure.label(classes, connectivity=1, background=0)`` (full: with the greatest
    connectivity), and of a single class ``scipy.ndimage.label``, but for volumes whose last axes have one
    pixel, which scikit-image numbers in another order.

    References
    ----------
    .. [1] Wu, Otoo, Suzuki, "Optimizing two-pass connected-component labeling algorithms", Pattern
       Analysis and Applications 12, 2009.

    Examples
    --------
    >>> labels, first = label_components(np.array([[[1, 1, 0, 2], [0, 1, 0, 1]]]))
    >>> labels[0].tolist(), first.tolist()
    ([[1, 1, 0, 2], [0, 1, 0, 3]], [0, 3, 7])
    """
    classes = np.ascontiguousarray(classes)
    if classes.dtype == np.bool_:
        classes = classes.view(np.uint8)
    labels = np.zeros(classes.shape, np.uint32)
    parent, first = _number_provisionally(classes, labels, full)
    return labels, _number_densely(labels, parent, first)


def face_pairs(
    ids_a: NDArray[np.integer],
    classes_a: NDArray[np.integer],
    ids_b: NDArray[np.integer],
    classes_b: NDArray[np.integer],
) -> NDArray[np.int64]:
    """List the components of two tiles that are one across the face between the tiles.

    Parameters
    ----------
    ids_a, ids_b : (m, n) int
        Provisional ids, unique over all tiles, of the pixels on either side of the face.
    classes_a, classes_b : (m, n) int
        Classes of the same pixels, 0 = background.

    Returns
    -------
    (n_pairs, 2) int64
        Unique pairs of ids ``(a, b)`` in ascending order.
    """
    is_joined = (classes_a == classes_b) & (classes_a != 0)
    pairs = np.stack([ids_a[is_joined], ids_b[is_joined]], axis=1).astype(np.int64)
    return np.unique(pairs, axis=0)


def merge(n: int, pairs: NDArray[np.integer], first: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Give the components of all tiles their final ids.

    Parameters
    ----------
    n
        Number of provisional ids, 1..n.
    pairs : (n_pairs, 2) int
        Ids that are one component, from `face_pairs` of all faces.
    first : (n,) int
        Raster index in the whole image of the first pixel of ids 1..n.

    Returns
    -------
    lookup : (n + 1,) uint32
        Final id of each provisional id; ``lookup[0] == 0``.

    Notes
    -----
    Final ids are 1..m in the order of each component's first pixel in the whole image. A tile's raster
    order is that of the image, so that the ids do not depend on the tiling.

    Examples
    --------
    >>> merge(3, np.array([[1, 3]]), first=np.array([5, 2, 0])).tolist()
    [0, 1, 2, 1]
    """
    first = np.ascontiguousarray(first, dtype=np.int64)
    pairs = np.ascontiguousarray(pairs, dtype=np.int64).reshape(-1, 2)
    roots = _join(np.arange(n + 1), pairs, first)
    is_root = roots[1:] == np.arange(1, n + 1)
    kept = np.flatnonzero(is_root) + 1
    lookup = np.zeros(n + 1, np.uint32)
    lookup[kept[np.argsort(first[kept - 1])]] = np.arange(1, len(kept) + 1)
    return lookup[roots]


def keep_large(lookup: NDArray[np.uint32], sizes: NDArray[np.int64], min_size: int) -> NDArray[np.uint32]:
    """Leave out small components, and number the others densely, in the same order.

    Parameters
    ----------
    lookup : (n + 1,) uint32
        Final id of each provisional id, from `merge`.
    sizes : (n,) int
        Pixels of ids 1..n.
    min_size
        Components of fewer pixels get the id 0.

    Examples
    --------
    >>> keep_large(np.array([0, 1, 2, 1], np.uint32), np.array([2, 3, 2]), 4).tolist()
    [0, 1, 0, 1]
    """
    total = np.zeros(int(lookup.max()) + 1, np.int64)
    np.add.at(total, lookup[1:], sizes)
    is_kept = total >= min_size
    is_kept[0] = False
    kept: NDArray[np.uint32] = np.where(is_kept, np.cumsum(is_kept), 0).astype(np.uint32)[lookup]
    return kept


def first_and_size(labels: NDArray[np.unsignedinteger]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the flat index of the first pixel of ids 1..n, and how many pixels each has.

    Examples
    --------
    >>> [found.tolist() for found in first_and_size(np.array([[0, 2], [1, 1]], np.uint32))]
    [[2, 1], [2, 1]]
    """
    return _first_and_size(np.ascontiguousarray(labels).reshape(-1), int(labels.max(initial=0)))


@njit(nogil=True, cache=True)
def _first_and_size(flat, n):
    first, size = np.full(n, flat.size, np.int64), np.zeros(n, np.int64)
    for p in range(flat.size):
        i = np.int64(flat[p]) - 1
        if i >= 0:
            first[i] = min(first[i], p)
            size[i] += 1
    return first, size


@njit(nogil=True, cache=True)
def _find(parent, i):
    """Return the root of i, and halve the path to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _join(parent, pairs, first):
    """Join pairs under the one that comes first in the image; return the root of each id."""
    for k in range(pairs.shape[0]):
        a, b = _find(parent, pairs[k, 0]), _find(parent, pairs[k, 1])
        if a != b and first[a - 1] < first[b - 1]:
            parent[b] = a
        elif a != b:
            parent[a] = b
    roots = np.empty_like(parent)
    for i in range(parent.size):
        roots[i] = _find(parent, i)
    return roots


@njit(nogil=True, cache=True)
def _join_neighbours(parent, own, other):
    """Join two ids under the smaller one, which was given earlier in raster order; return it."""
    if own == other:
        return own
    own, other = _find(parent, own), _find(parent, other)
    smaller, larger = min(own, other), max(own, other)
    parent[larger] = smaller
    return smaller


@njit(nogil=True, cache=True)
def _count_starts(classes):
    """Count the pixels with no neighbour of their class before them, across faces: at least the provisional ids."""
    n_z, n_y, n_x = classes.shape
    n_starts = 0
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                own = classes[z, y, x]
                is_joined = x > 0 and classes[z, y, x - 1] == own
                is_joined |= y > 0 and classes[z, y - 1, x] == own
                is_joined |= z > 0 and classes[z - 1, y, x] == own
                n_starts += own != 0 and not is_joined
    return n_starts


@njit(nogil=True, cache=True)
def _join_diagonals(classes, labels, parent, which, z, y, x):
    """Join a pixel with the neighbours of its class before it, across edges and corners; return its id, or 0."""
    _, n_y, n_x = classes.shape
    for k in range(max(z - 1, 0), z + 1):
        for j in range(max(y - 1, 0), min(y + 2, n_y) if k < z else y):
            for i in range(max(x - 1, 0), min(x + 2, n_x)):
                n_off = (k != z) + (j != y) + (i != x)
                if n_off > 1 and classes[k, j, i] == classes[z, y, x]:
                    other = np.int64(labels[k, j, i])
                    which = other if which == 0 else _join_neighbours(parent, which, other)
    return which


@njit(nogil=True, cache=True)
def _number_provisionally(classes, labels, full):
    """Write provisional ids; return the forest (n + 1,) and the flat index of each id's first pixel (n,)."""
    n_z, n_y, n_x = classes.shape
    n_starts = _count_starts(classes)
    parent, first = np.arange(n_starts + 1), np.empty(n_starts, np.int64)
    n_ids = 0
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                own = classes[z, y, x]
                if own == 0:
                    continue
                which = np.int64(0)
                if x > 0 and classes[z, y, x - 1] == own:
                    which = np.int64(labels[z, y, x - 1])
                if y > 0 and classes[z, y - 1, x] == own:
                    other = np.int64(labels[z, y - 1, x])
                    which = other if which == 0 else _join_neighbours(parent, which, other)
                if z > 0 and classes[z - 1, y, x] == own:
                    other = np.int64(labels[z - 1, y, x])
                    which = other if which == 0 else _join_neighbours(parent, which, other)
                if full:
                    which = _join_diagonals(classes, labels, parent, which, z, y, x)
                if which == 0:
                    first[n_ids] = (z * n_y + y) * n_x + x
                    n_ids += 1
                    which = n_ids
                labels[z, y, x] = which
    return parent[: n_ids + 1], first[:n_ids]


@njit(nogil=True, cache=True)
def _number_densely(labels, parent, first):
    """Replace provisional ids by 1..n; return the first pixels of these."""
    final = np.zeros(parent.size, np.uint32)
    n_ids = 0
    for i in range(1, parent.size):
        if parent[i] == i:
            first[n_ids] = first[i - 1]  # n_ids < i: what is overwritten has been read
            n_ids += 1
            final[i] = n_ids
        else:
            final[i] = final[parent[i]]  # a parent is smaller than its children, so it has its number
    flat = labels.reshape(-1)
    for p in range(flat.size):
        flat[p] = final[flat[p]]
    return first[:n_ids].copy()
