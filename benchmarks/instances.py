"""Ids of objects beside those of libraries that hold the whole image, and the watershed that splits them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from benchmarks.cells import Cells
from benchmarks.machine import Timing, describe, interleaved, named, table
from unetcli.config import PredictConfig
from unetcli.image.axes import Axes
from unetcli.image.ledger import Ledger, forget
from unetcli.image.store import Level
from unetcli.image.tiling import Box, TileGrid
from unetcli.instances.find import Segmented, find_objects
from unetcli.kernels.labels import label_components
from unetcli.labelling import scratch_level

try:
    import cc3d
except ImportError:
    cc3d = None

Mask = NDArray[np.uint8]
THREADS = 2
KERNEL = "connected parts, the kernel alone"
STORES = "connected parts, in shards of a store"
SPLIT = "split by distance, in shards of a store"


def run(side: int = 4096, rounds: int = 5) -> None:
    """Print a table of each image, and how the cost grows."""
    print(f"\n{describe()}, {named('scipy')}, {named('scikit-image')}, {named('connected-components-3d')}")
    found = {}
    for n in (1000, 5000, 20000):
        mask = touching(side, n)
        found[n] = measure(f"objects, {side} squared, about {n:,} cells, many of which touch", mask, rounds)
    half = measure(f"objects, {side // 2} squared, about 1,250 cells", touching(side // 2, 1250), rounds)
    for name in (STORES, SPLIT):
        by_objects, by_pixels = (found[20000][name].cpu / found[1000][name].cpu, found[5000][name].cpu / half[name].cpu)
        print(f"{name}: 20 times the objects cost {by_objects:.2f} times as much, 4 times the pixels {by_pixels:.2f}")


def touching(side: int, n: int) -> Mask:
    """Return a mask of about n cells, whose narrow gaps are closed."""
    cells = Cells.random((1, side, side), n).labels()[0] > 0
    grown: Mask = ndimage.binary_dilation(cells, iterations=1).astype(np.uint8)
    return grown


def measure(title: str, mask: Mask, rounds: int) -> dict[str, Timing]:
    """Check our ids, time them beside the others, print both."""
    with tempfile.TemporaryDirectory() as folder:
        source, count = _stored(Path(folder), mask), iter(range(10**6))

        def ours(**settings: Any) -> NDArray[np.uint32]:  # noqa: ANN401 - settings
            return _found(source, Path(folder) / str(next(count)), **settings)

        np.testing.assert_array_equal(ours(), ndimage.label(mask)[0])
        n_split, n_expected = int(ours(split="distance").max()), int(split_by_peaks(mask).max())
        functions: dict[str, Callable[[], object]] = {
            KERNEL: lambda: label_components(mask[np.newaxis]),
            STORES: ours,
            "SciPy, whole image": lambda: ndimage.label(mask),
        }
        if cc3d is not None:
            functions["cc3d, whole image"] = lambda: cc3d.connected_components(mask, connectivity=4)
        functions |= {
            SPLIT: lambda: ours(split="distance"),
            "SciPy's distances, scikit-image's watershed": lambda: split_by_peaks(mask),
        }
        timings = interleaved(functions, rounds)
    table(f"{title} ({n_split:,} pieces, {n_expected:,} of scikit-image)", timings, mask.size / 1e6)
    return timings


def _stored(folder: Path, mask: Mask) -> Level:
    level = scratch_level("mask", Axes.of("yx"), (1, 1, 1, *mask.shape), "uint8", 2, Ledger(folder / "mask", {}))
    for tile in TileGrid(level.shape, level.shard):
        level.write(tile.core, mask[np.newaxis, np.newaxis, np.newaxis][tile.core.slices])
    return level


def _found(mask: Level, folder: Path, **settings: Any) -> NDArray[np.uint32]:  # noqa: ANN401
    """Find the objects of a mask in a store, into another store."""
    ledger = Ledger(folder, {})
    target = scratch_level("ids", mask.axes, mask.shape, "uint32", 2, ledger)
    find_objects(Segmented("image", mask, None, 2), target, PredictConfig(**settings), ledger, workers=THREADS)
    ids = target.read(Box.whole(target.shape))[0, 0, 0]
    forget(folder)
    return ids


def split_by_peaks(mask: Mask) -> NDArray[np.int32]:
    """Split as tutorials do: a watershed from the peaks of the distance to the background."""
    distance = ndimage.distance_transform_edt(mask)
    at = peak_local_max(distance, min_distance=10, labels=ndimage.label(mask)[0])
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(at.T)] = np.arange(1, len(at) + 1)
    found: NDArray[np.int32] = watershed(-distance, markers, mask=mask)
    return found
