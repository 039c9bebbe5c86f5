"""Warping error: what is left of the errors when borders may move but topology may not change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from unetcli.errors import InputError
from unetcli.metrics.compiled import compiled
from unetcli.metrics.partitions import components
from unetcli.metrics.thresholds import HALF, foreground

# Neighbours of a pixel as (dy, dx), clockwise from above: bit k of a ring is neighbour k, edges have even k.
_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
_DY, _DX = (np.array(steps, np.int64) for steps in zip(*_RING, strict=True))


# --- simple pixels ----------------------------------------------------------------------------------------


def _is_simple_ring(ring: int) -> bool:
    """Tell whether flipping the centre of a ring keeps the topology.

    One 4-component of foreground must touch the centre by an edge, and there must be one 8-component of
    background. Next on the ring share an edge; the edge neighbours beside a corner touch by a corner.
    """
    cells = [k for k in range(8) if ring >> k & 1]
    membrane = [k for k in range(8) if not ring >> k & 1]
    steps_by_edge = [(k, (k + 1) % 8) for k in range(8)]
    steps_by_corner = [(k, (k + 2) % 8) for k in range(0, 8, 2)]
    touching = [part for part in _connect(cells, steps_by_edge) if any(k % 2 == 0 for k in part)]
    return len(touching) == 1 and len(_connect(membrane, steps_by_edge + steps_by_corner)) == 1


def _connect(members: Iterable[int], steps: Iterable[tuple[int, int]]) -> list[set[int]]:
    """Join members that are one step apart."""
    parts = [{member} for member in members]
    for step in steps:
        met = [part for part in parts if part & set(step)]
        parts = [part for part in parts if part not in met] + ([set().union(*met)] if met else [])
    return parts


SIMPLE_RINGS: NDArray[np.bool_] = np.array([_is_simple_ring(ring) for ring in range(256)])
"""(256,) bool: the pixel in the middle of a ring of 8 neighbours may flip; 116 are simple."""


# --- warping ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Warping:
    """A truth warped towards a prediction, and what it could not reach.

    Parameters
    ----------
    warped : (y, x) bool
        The truth after all flips of simple pixels.
    leftover : (y, x) bool
        Pixels, inside the mask, where the warped truth still differs from the prediction.
    """

    warped: NDArray[np.bool_]
    leftover: NDArray[np.bool_]

    @property
    def n_leftover(self) -> int:
        """Number of pixels left."""
        return int(np.count_nonzero(self.leftover))

    @property
    def error(self) -> float:
        """Pixels left, as a share of all pixels, also with a mask; nan without a pixel."""
        return self.n_leftover / self.leftover.size if self.leftover.size else math.nan


def warp(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    *,
    threshold: float = HALF,
    mask: NDArray[Any] | None = None,
) -> Warping:
    """Warp the truth towards the prediction by flips that keep its topology.

    Parameters
    ----------
    truth : (y, x) int or bool
        Foreground is nonzero.
    prediction : (y, x) float or bool
        Probability of foreground, 0..1. At a threshold of 0.5 a binary one is warped column by column.
    threshold
        Foreground of the prediction is above it.
    mask : (y, x)
        Where it is nonzero pixels may flip, and count.

    Returns
    -------
    Warping

    Raises
    ------
    InputError
        The shapes differ.

    Notes
    -----
    Foreground is 4-connected, background 8-connected, the outside of the image background. The result depends
    on the order of the flips, which is Fiji's: mismatched pixels by ``|prediction - threshold|`` in float32,
    largest first, ties column by column; passes over that list until nothing flips [1]_. A pixel that is not
    simple stays so until a neighbour flips, so later passes look only at pixels beside a flip: same result.

    References
    ----------
    .. [1] Jain et al., "Boundary learning by optimization with topological constraints", CVPR 2010.
    """
    for name, array in (("prediction", prediction), ("mask", mask)):
        if array is not None and array.shape != truth.shape:
            raise InputError(f"{name}: shape is {array.shape}; expected the truth's, {truth.shape}")
    probabilities = prediction.astype(np.float32) if prediction.dtype == np.bool_ else prediction
    target = foreground(probabilities, threshold)
    warped = np.pad(truth != 0, 1)
    is_open = np.pad((truth != 0) != target if mask is None else ((truth != 0) != target) & (mask != 0), 1)
    distance = np.abs(probabilities - np.float64(threshold)).astype(np.float32)
    _flip_simple(warped, is_open, _flip_order(is_open, distance))
    return Warping(warped[1:-1, 1:-1], is_open[1:-1, 1:-1])


def warping_error(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    *,
    threshold: float = HALF,
    mask: NDArray[Any] | None = None,
) -> float:
    """Compute the warping error: `warp(...).error`.

    Parameters
    ----------
    truth : (y, x) int or bool
        Foreground is nonzero.
    prediction : (y, x) float or bool
        Probability of foreground, 0..1.
    threshold
        Foreground of the prediction is above it.
    mask : (y, x)
        Where it is nonzero pixels may flip, and count. The divisor is all pixels all the same.

    Returns
    -------
    float
        0..1, 0 = same topology. Not symmetric: a missing object costs a pixel, a spurious one its area.
    """
    return warp(truth, prediction, threshold=threshold, mask=mask).error


def _flip_order(is_open: NDArray[np.bool_], distance: NDArray[np.float32]) -> NDArray[np.int64]:
    """List the (y, x) of mismatched pixels in the padded image, in the order of Fiji."""
    x, y = np.nonzero(is_open.T)
    order = np.argsort(-distance[y - 1, x - 1], kind="stable")
    return np.stack([y[order], x[order]], axis=1)


@compiled
def _ring(image: NDArray[np.bool_], y: int, x: int) -> int:
    """Read the 8 neighbours of a pixel as bits."""
    ring = 0
    for k in range(8):
        ring |= int(image[y + _DY[k], x + _DX[k]]) << k
    return ring


@compiled
def _flip_simple(
    warped: NDArray[np.bool_],
    is_open: NDArray[np.bool_],
    pixels: NDArray[np.int64],
) -> None:
    """Flip simple pixels in passes, in place, until none is left that could be."""
    may_be_simple = is_open.copy()
    n, n_before = len(pixels), -1
    while n != n_before:
        n_before, n = n, 0
        for i in range(n_before):
            y, x = pixels[i]
            if may_be_simple[y, x]:
                may_be_simple[y, x] = False
                if SIMPLE_RINGS[_ring(warped, y, x)]:
                    warped[y, x] = not warped[y, x]
                    is_open[y, x] = False
                    for k in range(8):
                        may_be_simple[y + _DY[k], x + _DX[k]] = True
                    continue
            pixels[n] = pixels[i]
            n += 1


# --- classes of what is left ------------------------------------------------------------------------------


class LeftoverClass(IntEnum):
    """What a leftover pixel means for the objects of the truth; 0 is no leftover."""

    OBJECT_ADDITION = 1
    HOLE_DELETION = 2
    MERGE = 3
    HOLE_ADDITION = 4
    OBJECT_DELETION = 5
    SPLIT = 6


_BACKGROUND_CLASSES = np.array([0, 1, 2, 4, 3], np.uint8)  # by what is around: see `_surroundings`
_FOREGROUND_CLASSES = np.array([0, 5, 4, 0, 6], np.uint8)  # 0: depends on what is around once it is cleared


def classify_leftover(warping: Warping, *, radius: int | None = 20) -> NDArray[np.uint8]:
    """Tell what each leftover pixel would do to the objects of the warped truth.

    Parameters
    ----------
    warping
        From `warp`.
    radius
        Half width, in pixels, of the window in which a pixel that parts two segments is looked at;
        None: the whole image.

    Returns
    -------
    (y, x) uint8
        `LeftoverClass` of each pixel, 0 where nothing is left.

    Notes
    -----
    By the 4-connected components among the 8 neighbours inside the image, the centre left out, as in Fiji:
    only background: object addition or deletion; one component and no background: hole deletion or addition;
    more: merge or split. A foreground pixel between two is a split if, once it is cleared, three or more
    different values are around it, else a hole deletion.
    """
    ids = components(warping.warped)
    reach = max(ids.shape) if radius is None else radius
    classes = np.zeros(ids.shape, np.uint8)
    _classify(np.pad(ids, 1, constant_values=-1), warping.leftover, reach, classes)
    return classes


def count_classes(classes: NDArray[np.uint8]) -> dict[str, int]:
    """Count the leftover pixels of each class.

    Parameters
    ----------
    classes : (y, x) uint8
        From `classify_leftover`.

    Returns
    -------
    dict
        Class name in lower case to pixels.
    """
    return {kind.name.lower(): int(np.count_nonzero(classes == kind)) for kind in LeftoverClass}


def count_clusters(classes: NDArray[np.uint8], warped: NDArray[np.bool_]) -> dict[str, int]:
    """Count the connected groups of leftover pixels of each class.

    Parameters
    ----------
    classes : (y, x) uint8
        From `classify_leftover`.
    warped : (y, x) bool
        The warped truth: a group of hole additions is of one value.

    Returns
    -------
    dict
        Class name in lower case to groups: 4-connected, but 8-connected for merges and for hole additions in
        the foreground.
    """
    counts = {kind.name.lower(): _count_groups(classes == kind) for kind in LeftoverClass}
    holes = classes == LeftoverClass.HOLE_ADDITION
    counts["merge"] = _count_groups(classes == LeftoverClass.MERGE, connectivity=2)
    counts["hole_addition"] = _count_groups(holes & ~warped) + _count_groups(holes & warped, connectivity=2)
    return counts


class Leftover(NamedTuple):
    """How much of one class is left.

    Parameters
    ----------
    pixels
        Number of leftover pixels.
    clusters
        Number of connected groups of them.
    """

    pixels: int
    clusters: int


def warping_types(warping: Warping, *, radius: int | None = 20) -> dict[str, Leftover]:
    """Count what is left of each class: splits, merges, holes and objects.

    Parameters
    ----------
    warping
        From `warp`.
    radius
        As in `classify_leftover`.

    Returns
    -------
    dict
        Class name in lower case to pixels and groups.
    """
    classes = classify_leftover(warping, radius=radius)
    pixels, clusters = count_classes(classes), count_clusters(classes, warping.warped)
    return {name: Leftover(pixels[name], clusters[name]) for name in pixels}


def _count_groups(mask: NDArray[np.bool_], connectivity: int = 1) -> int:
    """Count connected components."""
    return int(label(mask, connectivity=connectivity).max(initial=0))


@compiled
def _classify(
    ids: NDArray[np.int64],
    leftover: NDArray[np.bool_],
    reach: int,
    classes: NDArray[np.uint8],
) -> None:
    """Write the class of each leftover pixel; `ids` is padded with -1."""
    height, width = leftover.shape
    is_seen = np.zeros(ids.shape, np.bool_)
    stack = np.empty((ids.size, 2), np.int64)
    for y in range(height):
        for x in range(width):
            if not leftover[y, x]:
                continue
            around = _surroundings(ids, y + 1, x + 1)
            if ids[y + 1, x + 1] == 0:
                classes[y, x] = _BACKGROUND_CLASSES[around]
            elif around != 3:
                classes[y, x] = _FOREGROUND_CLASSES[around]
            elif _parts_around(ids, y + 1, x + 1, reach, is_seen, stack) > 2:
                classes[y, x] = LeftoverClass.SPLIT
            else:
                classes[y, x] = LeftoverClass.HOLE_DELETION


@compiled
def _surroundings(ids: NDArray[np.int64], y: int, x: int) -> int:
    """Tell what is around a pixel: 1 background only, 2 one id only, 3 two values, 4 three or more."""
    values = np.empty(8, np.int64)
    n = 0
    for k in range(8):
        value = ids[y + _DY[k], x + _DX[k]]
        if value >= 0 and not np.any(values[:n] == value):
            values[n] = value
            n += 1
    if n == 1:
        return 1 if values[0] == 0 else 2
    return min(n + 1, 4)


@compiled
def _parts_around(
    ids: NDArray[np.int64], y: int, x: int, reach: int, is_seen: NDArray[np.bool_], stack: NDArray[np.int64]
) -> int:
    """Count the values around a foreground pixel once it is cleared and its window is labelled again."""
    n_parts, has_background, n_filled = 0, False, 1
    stack[0, 0], stack[0, 1] = y, x
    is_seen[y, x] = True
    for k in range(8):
        v, u = y + _DY[k], x + _DX[k]
        has_background |= ids[v, u] == 0
        if ids[v, u] <= 0 or is_seen[v, u]:
            continue
        n_parts += 1
        head = n_filled
        n_filled = _push(stack, n_filled, is_seen, v, u)
        while head < n_filled:
            v, u = stack[head]
            head += 1
            for e in range(0, 8, 2):
                b, a = v + _DY[e], u + _DX[e]
                if abs(b - y) <= reach and abs(a - x) <= reach and ids[b, a] > 0 and not is_seen[b, a]:
                    n_filled = _push(stack, n_filled, is_seen, b, a)
    for i in range(n_filled):
        is_seen[stack[i, 0], stack[i, 1]] = False
    return n_parts + int(has_background)


@compiled
def _push(stack: NDArray[np.int64], n: int, is_seen: NDArray[np.bool_], y: int, x: int) -> int:
    """Append a pixel and mark it as seen."""
    stack[n, 0], stack[n, 1] = y, x
    is_seen[y, x] = True
    return n + 1
