"""Connected components of a tile, and their merging across tile faces."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def label_components(classes: NDArray[np.integer]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Find the connected components of equal class.

    Parameters
    ----------
    classes : (z, y, x) int or bool
        Class of each pixel, 0 = background.

    Returns
    -------
    labels : (z, y, x) uint32
        Ids 1..n in the raster order of the components' first pixels, 0 = background. Pixels are connected
        across faces: 4 neighbours in a plane, 6 in a volume.
    first : (n,) int64
        Flat index, within this array, of each component's first pixel in raster order.

    Notes
    -----
    Two passes with a union-find forest, in which the root of a component is its first pixel's id [1]_.
    The result equals ``skimage.measure.label(classes, connectivity=1, background=0)``, but for volumes
    whose last axes have one pixel, which scikit-image numbers in another order.

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
    parent, first = _number_provisionally(classes, labels)
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
    """Count the pixels with no neighbour of their class before them: the provisional ids."""
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
def _number_provisionally(classes, labels):
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
                if which == 0:
                    first[n_ids] = (z * n_y + y) * n_x + x
                    n_ids += 1
                    which = n_ids
                labels[z, y, x] = which
    return parent, first


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
