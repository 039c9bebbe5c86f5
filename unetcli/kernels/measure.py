"""What is known of objects in a box: sums of whole numbers, which add up over boxes in any order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

SIZE, CLASS, START, STOP, TOTAL, PROBABILITY = 0, 1, 2, 6, 10, 14
"""Columns: size; class; first t, z, y, x and those behind the last; sums of t, z, y, x; sums of probabilities."""


def measure(
    ids: NDArray[np.unsignedinteger],
    classes: NDArray[np.integer],
    probabilities: NDArray[np.integer],
    start: Sequence[int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Measure the objects of a box.

    Parameters
    ----------
    ids : (t, z, y, x) uint32
        0 = background.
    classes : (t, z, y, x) int
        The greatest of its pixels is the object's: those of filled holes are 0.
    probabilities : (n, t, z, y, x) int
        Whole numbers to add up, of any number of classes.
    start
        Where the box lies in the image.

    Returns
    -------
    found : (n_found,) int64
        Ids, ascending.
    table : (n_found, 14 + n) int64
        See `SIZE` to `PROBABILITY`.

    Examples
    --------
    >>> ids = np.array([[[[0, 5, 5]]]], np.uint32)
    >>> found, table = measure(ids, ids // 5, np.zeros((0, 1, 1, 1, 3), int), (0, 2, 10, 100))
    >>> found.tolist(), table.tolist()
    ([5], [[2, 1, 0, 2, 10, 101, 1, 3, 11, 103, 0, 4, 20, 203]])
    """
    there = ids[ids > 0]
    if not there.size:
        return np.empty(0, np.int64), np.empty((0, PROBABILITY + len(probabilities)), np.int64)
    least = int(there.min())
    is_found = np.zeros(int(there.max()) - least + 1, np.bool_)
    is_found[there - least] = True
    rows = np.cumsum(is_found) - 1
    found = np.flatnonzero(is_found) + least
    table = np.zeros((len(found), PROBABILITY + len(probabilities)), np.int64)
    table[:, START:STOP] = np.iinfo(np.int64).max
    _measure(ids, classes, probabilities, np.array(start), least, rows, table)
    return found, table


@njit(nogil=True, cache=True)
def _measure(ids, classes, probabilities, start, least, rows, table):
    for t, z, y, x in np.ndindex(ids.shape):
        if ids[t, z, y, x] == 0:
            continue
        row = table[rows[np.int64(ids[t, z, y, x]) - least]]
        row[SIZE] += 1
        row[CLASS] = max(row[CLASS], classes[t, z, y, x])
        at = (start[0] + t, start[1] + z, start[2] + y, start[3] + x)
        for axis in range(4):
            row[START + axis] = min(row[START + axis], at[axis])
            row[STOP + axis] = max(row[STOP + axis], at[axis] + 1)
            row[TOTAL + axis] += at[axis]
        for c in range(len(probabilities)):
            row[PROBABILITY + c] += probabilities[c, t, z, y, x]


def add_up(total: NDArray[np.int64], ids: NDArray[np.int64], table: NDArray[np.int64]) -> None:
    """Add what was measured in a box to a table of all objects, (n + 1, 14 + n_classes), which begins as `nothing`."""
    rows = total[ids]
    rows[:, SIZE] += table[:, SIZE]
    rows[:, CLASS] = np.maximum(rows[:, CLASS], table[:, CLASS])
    rows[:, START:STOP] = np.minimum(rows[:, START:STOP], table[:, START:STOP])
    rows[:, STOP:TOTAL] = np.maximum(rows[:, STOP:TOTAL], table[:, STOP:TOTAL])
    rows[:, TOTAL:] += table[:, TOTAL:]
    total[ids] = rows


def nothing(n: int, n_classes: int) -> NDArray[np.int64]:
    """Return the table of n objects before anything was measured; its first row is that of id 0."""
    total = np.zeros((n + 1, PROBABILITY + n_classes), np.int64)
    total[:, START:STOP] = np.iinfo(np.int64).max
    return total
