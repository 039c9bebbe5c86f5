"""Confusion and contingency tables: what a tile adds to the score of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.metrics.compiled import compiled

Ids = NDArray[np.int64]
Counts = NDArray[np.int64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring ids (Knuth, 6.4)


def confusion_table(truth: NDArray[Any], prediction: NDArray[Any], n_classes: int = 2) -> Counts:
    """Count the pixels of each pair of classes.

    Parameters
    ----------
    truth, prediction : (...) int or bool
        Class of each pixel, 0 .. n_classes - 1.
    n_classes
        Number of classes, background included.

    Returns
    -------
    (n_classes, n_classes) int64
        Pixels by truth (rows) and prediction (columns). Tables of tiles add up with ``+``.

    Raises
    ------
    InputError
        The shapes differ, or a class is out of range.

    Examples
    --------
    >>> confusion_table(np.array([0, 1, 1]), np.array([0, 0, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    truth, prediction = _as_pair(truth, prediction)
    for name, classes in (("truth", truth), ("prediction", prediction)):
        if classes.size and not 0 <= classes.min() <= classes.max() < n_classes:
            found = f"classes are {classes.min()} to {classes.max()}"
            raise InputError(f"{name}: {found}; expected 0 to {n_classes - 1}")
    pairs = np.bincount(truth * n_classes + prediction, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes).astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False)
class ContingencyTable:
    """Overlaps of the segments of two label images, zeros left out; tables of tiles add up with ``+``.

    Parameters
    ----------
    truth_ids, prediction_ids : (n,) int64
        The pairs of ids that meet in at least one pixel: each once, sorted by truth, then prediction.
    counts : (n,) int64
        Pixels of each pair, > 0.
    """

    truth_ids: Ids
    prediction_ids: Ids
    counts: Counts

    @property
    def n_pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    @property
    def truth_sizes(self) -> Counts:
        """(n_truth,) Pixels of each truth segment, in the order of its ids."""
        return _sum_by(self.truth_ids, self.counts)

    @property
    def prediction_sizes(self) -> Counts:
        """(n_prediction,) Pixels of each predicted segment, in the order of its ids."""
        return _sum_by(self.prediction_ids, self.counts)

    def __add__(self, other: ContingencyTable) -> ContingencyTable:
        return _merge_pairs(
            np.concatenate([self.truth_ids, other.truth_ids]),
            np.concatenate([self.prediction_ids, other.prediction_ids]),
            np.concatenate([self.counts, other.counts]),
        )

    def select(self, keep: NDArray[np.bool_]) -> ContingencyTable:
        """Keep some of the pairs.

        Parameters
        ----------
        keep : (n,) bool

        Returns
        -------
        ContingencyTable
        """
        return ContingencyTable(self.truth_ids[keep], self.prediction_ids[keep], self.counts[keep])


def contingency_table(truth: NDArray[Any], prediction: NDArray[Any]) -> ContingencyTable:
    """Count the pixels that each truth segment shares with each predicted segment.

    Parameters
    ----------
    truth, prediction : (...) int or bool
        Segment ids of any size, with or without gaps; 0 is counted like any other id.

    Returns
    -------
    ContingencyTable

    Raises
    ------
    InputError
        The shapes differ, or the ids are no integers.

    Notes
    -----
    One walk over the pixels with a hash table of the pairs met so far; a run of equal pairs is one look-up.

    Examples
    --------
    >>> table = contingency_table(np.array([0, 7, 7]), np.array([0, 0, 70_000]))
    >>> table.truth_ids.tolist(), table.prediction_ids.tolist(), table.counts.tolist()
    ([0, 7, 7], [0, 0, 70000], [1, 1, 1])
    """
    return _merge_pairs(*_count_pairs(*_as_pair(truth, prediction)).T)


def sum_tables(tables: Sequence[ContingencyTable]) -> ContingencyTable:
    """Add up the tables of many tiles at once: one sort, where ``+`` takes one for each.

    Parameters
    ----------
    tables
        At least one.

    Returns
    -------
    ContingencyTable
    """
    columns = ([t.truth_ids for t in tables], [t.prediction_ids for t in tables], [t.counts for t in tables])
    return _merge_pairs(*map(np.concatenate, columns))


def _as_pair(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[Ids, Ids]:
    """Flatten two label images of one shape to int64."""
    if truth.shape != prediction.shape:
        raise InputError(f"prediction: shape is {prediction.shape}; expected the truth's, {truth.shape}")
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise InputError(f"{name}: type is {labels.dtype}; expected integers or bool")
    return truth.astype(np.int64, copy=False).ravel(), prediction.astype(np.int64, copy=False).ravel()


def _sum_by(ids: Ids, counts: Counts) -> Counts:
    """Sum the counts of equal ids."""
    distinct, index = np.unique(ids, return_inverse=True)
    sums = np.zeros(distinct.size, np.int64)
    np.add.at(sums, index, counts)
    return sums


def _merge_pairs(truth_ids: Ids, prediction_ids: Ids, counts: Counts) -> ContingencyTable:
    """Sort pairs of ids and sum the counts of equal ones."""
    order = np.lexsort((prediction_ids, truth_ids))
    truth_ids, prediction_ids, counts = truth_ids[order], prediction_ids[order], counts[order]
    if counts.size == 0:
        return ContingencyTable(truth_ids, prediction_ids, counts)
    is_first = np.ones(counts.size, np.bool_)
    is_first[1:] = (np.diff(truth_ids) != 0) | (np.diff(prediction_ids) != 0)
    sums = np.add.reduceat(counts, np.flatnonzero(is_first))
    return ContingencyTable(truth_ids[is_first], prediction_ids[is_first], sums)


@compiled
def _find_slot(slots: Ids, pairs: NDArray[np.int64], t: int, p: int) -> int:
    """Find the slot of the pair (t, p) in an open-addressing hash table: its own, or the next free one."""
    mask = slots.size - 1
    slot = int(((np.uint64(t) * _MULTIPLIER) ^ np.uint64(p)) * _MULTIPLIER >> np.uint64(20)) & mask
    while slots[slot] >= 0 and (pairs[slots[slot], 0] != t or pairs[slots[slot], 1] != p):
        slot = (slot + 1) & mask
    return slot


@compiled
def _double(pairs: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
    """Copy a full list of pairs into one twice as long, with slots for all of them."""
    longer = np.zeros((2 * len(pairs), 3), np.int64)
    longer[: len(pairs)] = pairs
    slots = np.full(4 * len(pairs), -1, np.int64)
    for k in range(len(pairs)):
        slots[_find_slot(slots, pairs, pairs[k, 0], pairs[k, 1])] = k
    return slots, longer


@compiled
def _count_pairs(truth: Ids, prediction: Ids) -> NDArray[np.int64]:
    """List (truth id, prediction id, count) of the pairs in two flat arrays, in the order they are met.

    A slot holds the index of a pair, or -1; there are twice as many slots as room for pairs.
    """
    pairs = np.zeros((512, 3), np.int64)
    slots = np.full(1024, -1, np.int64)
    n, pair = 0, -1
    for i in range(truth.size):
        t, p = truth[i], prediction[i]
        if pair < 0 or pairs[pair, 0] != t or pairs[pair, 1] != p:
            slot = _find_slot(slots, pairs, t, p)
            pair = slots[slot]
            if pair < 0:
                slots[slot] = pair = n
                pairs[n, 0], pairs[n, 1] = t, p
                n += 1
                if n == len(pairs):
                    slots, pairs = _double(pairs)
        pairs[pair, 2] += 1
    return pairs[:n]
