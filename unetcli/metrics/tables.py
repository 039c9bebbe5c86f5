"""Confusion and contingency tables: what a tile adds to the score of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.metrics.compiled import compiled

Ids = NDArray[np.int64]
Counts = NDArray[np.int64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring ids (Knuth, 6.4)
_CHUNK = 1024  # pixels of which the runs are found before they are counted: they stay in the fastest cache


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
    tables = np.zeros((4, n_classes, n_classes), np.int64)
    _count_classes(truth, prediction, tables)
    table: Counts = tables.sum(axis=0)
    return table


class Segments(NamedTuple):
    """The segments of one side of a contingency table.

    Parameters
    ----------
    ids : (n_segments,) int64
        Sorted.
    sizes : (n_segments,) int64
        Pixels of each.
    of_pair : (n_pairs,) int64
        Which of them each pair of the table has.
    """

    ids: Ids
    sizes: Counts
    of_pair: NDArray[np.int64]


class ObjectPairs(NamedTuple):
    """The pairs of a true and a predicted object that share pixels; background (0) is no object.

    Parameters
    ----------
    truth, prediction : (n_pairs,) int64
        Index of each object among the segments of its side.
    shared, union : (n_pairs,) int64
        Pixels that both have, and that either has.
    truth_sizes : (n_pairs,) int64
        Pixels of the true object.
    n_truth, n_prediction
        Number of objects, those without a partner included.
    """

    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    shared: Counts
    union: Counts
    truth_sizes: Counts
    n_truth: int
    n_prediction: int


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

    @cached_property
    def n_pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    @cached_property
    def truth(self) -> Segments:
        """Segments of the truth."""
        return _segments(self.truth_ids, self.counts)

    @cached_property
    def prediction(self) -> Segments:
        """Segments of the prediction."""
        return _segments(self.prediction_ids, self.counts)

    @cached_property
    def foreground(self) -> ContingencyTable:
        """The pairs whose truth is not 0."""
        return self.select(self.truth_ids != 0)

    @cached_property
    def objects(self) -> ObjectPairs:
        """The pairs of objects."""
        both = (self.truth_ids != 0) & (self.prediction_ids != 0)
        truth, prediction, shared = self.truth.of_pair[both], self.prediction.of_pair[both], self.counts[both]
        sizes = self.truth.sizes[truth]
        union = sizes + self.prediction.sizes[prediction] - shared
        n_truth, n_prediction = (int(np.count_nonzero(side.ids)) for side in (self.truth, self.prediction))
        return ObjectPairs(truth, prediction, shared, union, sizes, n_truth, n_prediction)

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
    One walk over the pixels, of any type of integer, with a hash table of the pairs met so far; a run of equal
    pairs is one look-up.

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


def ratio(numerator: float, denominator: float) -> float:
    """Divide; 0/0 is nan."""
    return numerator / denominator if denominator else math.nan


def _as_pair(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Flatten two label images of one shape; what is in the byte order of the machine is not copied."""
    if truth.shape != prediction.shape:
        raise InputError(f"prediction: shape is {prediction.shape}; expected the truth's, {truth.shape}")
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise InputError(f"{name}: type is {labels.dtype}; expected integers or bool")
    common = np.result_type(truth, prediction)  # one type: a loop is compiled for each pair of types
    others: dict[str, np.dtype[Any]] = {"b": np.dtype(np.uint8), "f": np.dtype(np.int64)}
    native = others.get(common.kind, common.newbyteorder("="))
    return truth.ravel().astype(native, copy=False), prediction.ravel().astype(native, copy=False)


def _segments(ids: Ids, counts: Counts) -> Segments:
    """Sum the counts of equal ids."""
    order = np.argsort(ids)
    is_first = _is_first(ids[order])
    index = np.empty(len(ids), np.int64)
    index[order] = np.cumsum(is_first) - 1
    return Segments(ids[order][is_first], _sum_runs(counts[order], is_first), index)


def _merge_pairs(truth_ids: Ids, prediction_ids: Ids, counts: Counts) -> ContingencyTable:
    """Sort pairs of ids and sum the counts of equal ones."""
    order = np.lexsort((prediction_ids, truth_ids))
    truth_ids, prediction_ids, counts = truth_ids[order], prediction_ids[order], counts[order]
    is_first = _is_first(truth_ids) | _is_first(prediction_ids)
    return ContingencyTable(truth_ids[is_first], prediction_ids[is_first], _sum_runs(counts, is_first))


def _is_first(ids: Ids) -> NDArray[np.bool_]:
    """Tell where another id begins."""
    is_first = np.ones(len(ids), np.bool_)
    is_first[1:] = ids[1:] != ids[:-1]
    return is_first


def _sum_runs(counts: Counts, is_first: NDArray[np.bool_]) -> Counts:
    """Sum the counts from each mark to the next."""
    sums: Counts = np.add.reduceat(counts, np.flatnonzero(is_first)) if len(counts) else counts
    return sums


@compiled
def _count_classes(truth: NDArray[Any], prediction: NDArray[Any], tables: Counts) -> None:
    """Count the pixels of each pair of classes, in four tables by turns: no count waits for the one before."""
    for i in range(truth.size):
        tables[i & 3, truth[i], prediction[i]] += 1


@compiled
def _find_slot(slots: NDArray[np.int64], t: np.int64, p: np.int64) -> int:
    """Find the row of the pair (t, p) in an open-addressing hash table: its own, or the next free one."""
    mask = len(slots) - 1
    slot = int(((np.uint64(t) * _MULTIPLIER) ^ np.uint64(p)) * _MULTIPLIER >> np.uint64(20)) & mask
    while slots[slot, 2] > 0 and (slots[slot, 0] != t or slots[slot, 1] != p):
        slot = (slot + 1) & mask
    return slot


@compiled
def _grow(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Copy a hash table into one four times as long."""
    longer = np.zeros((4 * len(slots), 3), np.int64)
    for k in range(len(slots)):
        if slots[k, 2] > 0:
            longer[_find_slot(longer, slots[k, 0], slots[k, 1])] = slots[k]
    return longer


@compiled
def _count_pairs(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.int64]:
    """List (truth id, prediction id, count) of the pairs in two flat arrays, in no order.

    Pixels are taken by chunks. Where the runs of a chunk begin is written down without a branch, for a processor
    guesses badly where a run ends; then each run is a look-up. At most half of the hash table is in use.
    """
    slots = np.zeros((4 * _CHUNK, 3), np.int64)  # count 0: a free row
    starts = np.empty(_CHUNK + 1, np.int32)
    n = 0
    for first in range(0, truth.size, _CHUNK):
        t, p = truth[first : first + _CHUNK], prediction[first : first + _CHUNK]
        n_runs = 1
        starts[0] = 0
        for i in range(1, len(t)):
            starts[n_runs] = i
            n_runs += (t[i] != t[i - 1]) | (p[i] != p[i - 1])
        starts[n_runs] = len(t)
        while 2 * (n + n_runs) > len(slots):
            slots = _grow(slots)
        for k in range(n_runs):
            truth_id, prediction_id = np.int64(t[starts[k]]), np.int64(p[starts[k]])
            slot = _find_slot(slots, truth_id, prediction_id)
            if slots[slot, 2] == 0:
                slots[slot, 0], slots[slot, 1] = truth_id, prediction_id
                n += 1
            slots[slot, 2] += starts[k + 1] - starts[k]
    return slots[slots[:, 2] > 0]
