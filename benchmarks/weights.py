"""Weight maps beside distance transforms, and the loops over objects that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.cells import Cells
from benchmarks.machine import Timing, describe, interleaved, named, table
from unetcli.kernels.weight_map import Borders, weight_map

try:
    import edt
except ImportError:
    edt = None

Labels = NDArray[np.uint32]
Spacing = tuple[float, float, float]
Box = tuple[slice, ...]
T = TypeVar("T")

BORDERS = Borders()
PIXELS: Spacing = (1.0, 1.0, 1.0)
THREADS = 2
N_MEASURED = 3
"""Objects of the usual loop that are measured where all would take hours."""
N_BOXES_3D = 20
"""Boxes that are measured in volumes, where all would take minutes."""

OURS = "weight map: bands, two threads"
BOXES = "SciPy, one transform in a box around each object"
USUAL = "SciPy, one transform of the image for each object"
SCIPY = "SciPy, one transform: not yet a weight map"
EDT = "edt, one transform, two threads: not yet a weight map"
COPY = "one pass over the memory: int32 to float32"


def run(side: int = 4096, volume: tuple[int, int, int] = (128, 512, 512), rounds: int = 5) -> None:
    """Print a table for each image, and what follows from them."""
    print(f"\n{describe()}, {named('scipy')}, {named('edt')}")
    plane = (1, side, side)
    found = {}
    for n in (200, 1000, 5000):
        labels, n_usual = Cells.random(plane, n).labels(), N_MEASURED if n == 5000 else 0
        found[n] = _measure(f"weights, {side} squared, about {n:,} objects", labels, n_usual=n_usual, rounds=rounds)
    print(f"5,000 objects cost {found[5000][OURS].wall / found[200][OURS].wall:.2f}x the time of 200")
    nuclei = Cells.random(plane, 4000, radius=0.18 * side / math.sqrt(4000 / 0.92)).labels()
    _measure(f"weights, {side} squared, sparse: about 4,000 nuclei", nuclei, rounds=rounds)
    _measure(f"weights, {side} squared, one object", one_disk(plane), rounds=rounds)
    _measure(f"weights, {side} squared, all background", np.zeros(plane, np.uint32), rounds=rounds)
    small = Cells.random((1, 512, 512), 100).labels()
    _measure("weights, 512 squared, about 100 objects: the usual loop to its end", small, n_usual=10**6, rounds=rounds)
    cells = Cells.random(volume, 1000).labels()
    for spacing in (PIXELS, (2.5, 1.0, 1.0)):
        size = " x ".join(map(str, volume))
        title = f"weights, {size}, about 1,000 objects, spacing {spacing}"
        _measure(title, cells, spacing=spacing, tile=256, n_boxes=N_BOXES_3D, rounds=rounds)


def _measure(
    title: str,
    labels: Labels,
    *,
    rounds: int,
    spacing: Spacing = PIXELS,
    tile: int = 1024,
    n_boxes: int = 10**6,
    n_usual: int = 0,
) -> dict[str, Timing]:
    """Check our result, time ours beside the others, print both; of loops, so many objects are measured."""
    check(labels[:48, :128, :128] if n_boxes < 10**6 else labels, spacing, tile)
    n = len(np.unique(labels[labels > 0]))
    image, steps = without_flat_axis(labels, spacing)
    target = (labels > 0).astype(np.uint8)
    copy = np.empty(labels.shape, np.float32)
    functions: dict[str, Callable[[], object]] = {
        OURS: lambda: tiled_weights(labels, target, spacing, tile),
        BOXES: lambda: boxes_loop(image, steps, n_boxes),
        USUAL: lambda: usual_loop(image, steps, n_usual),
        SCIPY: lambda: ndimage.distance_transform_edt(image == 0, sampling=steps),
        EDT: lambda: edt.edt(image == 0, anisotropy=steps, parallel=THREADS),
        COPY: lambda: np.copyto(copy, labels.view(np.int32)),
    }
    left_out = {USUAL: not n_usual, EDT: edt is None}
    timings = interleaved({name: f for name, f in functions.items() if not left_out.get(name)}, rounds)
    for name, n_measured in ((BOXES, n_boxes), (USUAL, n_usual)):
        if name in timings and n_measured < n:
            timings[name] = timings[name].times(n / n_measured)
    table(f"{title} ({n:,}), {np.mean(labels == 0):.0%} background", timings, labels.size / 1e6)
    print(claims(timings))
    return timings


def claims(timings: dict[str, Timing]) -> str:
    """Say by how much ours is faster than each, and its share of the speed of a pass over the memory."""
    ours = timings[OURS].wall
    short = {BOXES: "the loop of boxes", USUAL: "the usual loop", SCIPY: "one SciPy transform", EDT: "one of edt"}
    faster = [
        f"{'~' * timings[name].is_estimate}{timings[name].wall / ours:,.1f}x {what}"
        for name, what in short.items()
        if name in timings
    ]
    return f"speed: {', '.join(faster)}; {timings[COPY].wall / ours:.1%} of a pass over the memory"


def check(labels: Labels, spacing: Spacing, tile: int) -> None:
    """Refuse to time a wrong result: ours must be that of the loop of boxes."""
    ours = tiled_weights(labels, (labels > 0).astype(np.uint8), spacing, tile)
    theirs = boxes_loop(*without_flat_axis(labels, spacing))
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-5)


def without_flat_axis(labels: Labels, spacing: Spacing) -> tuple[Labels, tuple[float, ...]]:
    """Return a plane as an image of two axes, for those to whom a third one costs time."""
    return (labels[0], spacing[1:]) if len(labels) == 1 else (labels, spacing)


def tiled_weights(labels: Labels, target: NDArray[np.uint8], spacing: Spacing, tile: int) -> NDArray[np.float32]:
    """Weigh in bands with the halo that the reach asks for, on two threads: all that depends on our kernel."""
    out = np.empty(labels.shape, np.float32)

    def weigh(core: Box) -> None:
        read = _grow(core, spacing)
        weights = weight_map(labels[read], target[read], BORDERS, balance=np.ones(2), spacing=spacing)
        inside = (slice(c.start - r.start, c.stop - r.start) for c, r in zip(core, read, strict=True))
        out[core] = weights[tuple(inside)]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(weigh, _cores(labels.shape, tile)))
    return out


def _cores(shape: tuple[int, ...], tile: int) -> Iterator[Box]:
    """Cut into bands, of a volume into slabs, along y: lines stay whole."""
    n_z, n_y, n_x = shape
    for y in range(0, n_y, tile):
        yield slice(0, n_z), slice(y, min(y + tile, n_y)), slice(0, n_x)


def _grow(box: Box, spacing: tuple[float, ...]) -> Box:
    """Widen a box by the reach of the weights; what lies after an image is cut when it is read."""
    halo = [math.ceil(BORDERS.reach / s) for s in spacing]
    return tuple(slice(max(0, s.start - h), s.stop + h) for s, h in zip(box, halo, strict=True))


def boxes_loop(labels: Labels, spacing: tuple[float, ...], n_objects: int = 10**9) -> NDArray[np.float32]:
    """Weigh by one distance transform in a padded box around each object: what an expert would write."""
    nearest = np.full((2, *labels.shape), np.inf, dtype=np.float32)
    boxes = enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1)
    for i, box in _spread([(i, box) for i, box in boxes if box], n_objects):
        padded = _grow(box, spacing)
        distance = ndimage.distance_transform_edt(labels[padded] != i, sampling=spacing).astype(np.float32)
        keep_two(nearest[(slice(None), *padded)], distance)
    return from_distances(nearest, labels)


def usual_loop(labels: Labels, spacing: tuple[float, ...], n_objects: int = 10**9) -> NDArray[np.float32]:
    """Weigh by one distance transform of the whole image for each object: what published code does."""
    nearest = np.full((2, *labels.shape), np.inf, dtype=np.float32)
    for i in _spread(np.unique(labels[labels > 0]).tolist(), n_objects):
        keep_two(nearest, ndimage.distance_transform_edt(labels != i, sampling=spacing).astype(np.float32))
    return from_distances(nearest, labels)


def _spread(objects: list[T], n: int) -> list[T]:
    """Choose `n` of the objects from all over the image, or all if there are fewer."""
    return objects[:: max(1, len(objects) // n)][:n]


def keep_two(nearest: NDArray[np.float32], distance: NDArray[np.float32]) -> None:
    """Keep the smallest and the second smallest distance, in place."""
    first, second = nearest
    np.minimum(second, np.maximum(first, distance), out=second)
    np.minimum(first, distance, out=first)


def from_distances(nearest: NDArray[np.float32], labels: Labels) -> NDArray[np.float32]:
    """Weigh by the formula, with a weight of 1 for each class."""
    border = BORDERS.w0 * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * BORDERS.sigma**2))
    return np.asarray(1 + border * (labels == 0), dtype=np.float32)


def one_disk(shape: tuple[int, int, int]) -> Labels:
    """Return one round object in the middle of a plane."""
    _, y, x = np.indices(shape, sparse=True)
    radius = shape[1] / 10
    return ((y - shape[1] / 2) ** 2 + (x - shape[2] / 2) ** 2 < radius**2).astype(np.uint32)
