"""Labels up to a whole slide, weighted and scored through the commands: time, peak memory, windows beside an oracle."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.cells import Cells
from benchmarks.machine import describe, peak_memory
from benchmarks.weights import BORDERS, usual_loop
from unetcli.image.store import Image, open_store
from unetcli.image.tiling import Box
from unetcli.metrics.scores import SCORES

SIDES = (7_500, 15_000, 30_000)
ADD_UP = ",".join(name for name, score in SCORES.items() if score.sums)
"""Scores of which no plane has to be held whole."""
PX_PER_OBJECT = 4_500
"""30,000 squared then holds 200,000 objects."""
TILE = 512
WINDOWS, WINDOW = 20, 300
TOLERANCE = 1e-5


def run(
    sides: Sequence[int] = SIDES, *, windows: int = WINDOWS, window: int = WINDOW, folder: Path | None = None
) -> None:
    """Print seconds and MiB of three commands for each side, and how many windows of weights equal the oracle.

    Parameters
    ----------
    sides
        Of the images, pixels; the largest takes gigabytes of disk and minutes.
    windows, window
        Number and side of the windows that are compared.
    folder
        Where the images lie for a while. Default: where temporary files do.
    """
    print(f"\na slide, through the commands   {describe()}")
    print(f"{'side':>8} {'objects':>9} {'prep':>18} {'weights':>18} {'evaluate':>18}   windows equal to the oracle")
    for side in sides:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _measure(Path(work), Cells.random((1, side, side), side * side // PX_PER_OBJECT), windows, window)


def _measure(folder: Path, cells: Cells, windows: int, window: int) -> None:
    side, n = cells.shape[1], int(cells.ids.max())
    _write(folder / "image.tif", None, side)
    _write(folder / "labels.tif", cells, side)
    _write(folder / "prediction.tif", predicted(cells), side)
    data, out = f"{folder}/data.zarr", f"{folder}/weights.zarr"
    scored = [f"{folder}/prediction.tif", f"{folder}/labels.tif", "-o", f"{folder}/report", "--metrics", ADD_UP]
    evaluate = peak_memory(["evaluate", *scored, "--quiet"])
    labels = ["--labels", f"{folder}/labels.tif", "--label-kind", "instances"]
    prep = peak_memory(["prep", f"{folder}/image.tif", *labels, "-o", data])
    for name in ("labels", "prediction"):
        (folder / f"{name}.tif").unlink()
    weights = peak_memory(["weights", data, "-o", out])
    shown = [f"{seconds:.0f} s, {memory:.0f} MiB" for seconds, memory in (prep, weights, evaluate)]
    print(f"{side:8,} {n:9,} {' '.join(f'{text:>18}' for text in shown)}   ", end="", flush=True)
    print(f"{count_equal(Path(out), cells, windows, window)} of {windows}, to {TOLERANCE}", flush=True)


def predicted(cells: Cells) -> Cells:
    """Draw the same cells with other gaps, one in fifty lost, and ids with gaps."""
    rng = np.random.default_rng(1)
    is_lost = rng.random(cells.ids.shape) < 0.02
    return replace(cells, gaps=rng.uniform(1, 6, cells.gaps.shape), ids=np.where(is_lost, 0, 7 * cells.ids))


def _write(file: Path, cells: Cells | None, side: int) -> None:
    """Write labels, or an empty image for `prep` to go with them, as TIFF, tile by tile."""
    starts = itertools.product(range(0, side, TILE), repeat=2)
    dtype = np.uint8 if cells is None else np.uint32
    empty = np.zeros((TILE, TILE), dtype)
    tiles = (empty if cells is None else cells.labels((0, y, x), (1, y + TILE, x + TILE))[0] for y, x in starts)
    tifffile.imwrite(
        file, tiles, shape=(side, side), dtype=dtype, tile=(TILE, TILE), compression="zstd",
        compressionargs={"level": 1}, photometric="minisblack", bigtiff=True, metadata=None,
    )  # fmt: skip


def count_equal(out: Path, cells: Cells, windows: int, window: int) -> int:
    """Count the windows of a store of weights that equal the oracle, some of them at the edges of the image."""
    store = open_store(out)
    balance = np.array(store.attributes["weights"]["balance"])
    rng = np.random.default_rng(1)
    last = cells.shape[1] - window
    corners = rng.integers(0, last + 1, (windows, 2))
    corners[: windows // 4] = rng.choice([0, last], (windows // 4, 2))
    return sum(_is_equal(store.images[0], cells, balance, corner, window) for corner in corners)


def _is_equal(image: Image, cells: Cells, balance: NDArray[Any], corner: NDArray[np.int64], window: int) -> bool:
    """Compare a window with one distance transform for each object within reach of it.

    The objects are those of the target, which `weights` has cut where they touch.
    """
    _, side, _ = cells.shape
    margin = math.ceil(BORDERS.reach)
    start = np.maximum(corner - margin, 0)
    stop = np.minimum(corner + window + margin, side)
    box = Box((0, 0, 0, *map(int, start)), (1, 1, 1, *map(int, stop)))
    target = image.labels("target").read(box)[0, 0, 0]
    objects = np.where(target > 0, cells.labels((0, *start), (1, *stop))[0], 0)
    expected = usual_loop(objects, (1.0, 1.0)) - 1 + balance[target]
    inside = tuple(slice(int(c - a), int(c - a) + window) for c, a in zip(corner, start, strict=True))
    found = image.level.read(box)[0, 0, 0]
    return bool(np.allclose(found[inside], expected[inside], rtol=TOLERANCE, atol=TOLERANCE))
