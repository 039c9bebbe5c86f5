"""Peak memory of prep, weights and tile-predict on images of growing size: it must stay flat."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.machine import describe, peak_memory
from unetcli.demo import touching_cells

SIZES = (2_048, 8_192, 16_384)
TILE = 512


def run() -> None:
    """Print a table of seconds and MiB for each stage and size."""
    print(f"\nPeak memory, MiB (and seconds)   {describe()}")
    print(" ".join(f"{name:>16}" for name in ("size", "prep", "weights", "tile-predict")))
    with tempfile.TemporaryDirectory() as folder:
        model = _train(Path(folder))
        for size in SIZES:
            shown = [
                f"{memory:.0f} ({seconds:.0f} s)" for seconds, memory in _stages(Path(folder) / str(size), size, model)
            ]
            print(f"{size:>16} " + " ".join(f"{text:>16}" for text in shown), flush=True)


def _train(folder: Path) -> Path:
    """Train a small network for a step: how good it is does not matter here."""
    _write(folder, TILE)
    peak_memory(["prep", f"{folder}/image.tif", "--labels", f"{folder}/labels.tif", "-o", f"{folder}/train.zarr"])
    network = ["--features", "8,16,32", "--steps", "1", "--patch-size", "64"]
    peak_memory(["train", f"{folder}/train.zarr", "-o", f"{folder}/run", *network])
    return folder / "run"


def _stages(folder: Path, size: int, model: Path) -> Iterator[tuple[float, float]]:
    folder.mkdir()
    _write(folder, size)
    data = f"{folder}/data.zarr"
    yield peak_memory(["prep", f"{folder}/image.tif", "--labels", f"{folder}/labels.tif", "-o", data])
    yield peak_memory(["weights", data, "-o", f"{folder}/weights.zarr"])
    yield peak_memory(["tile-predict", data, "--model", str(model), "-o", f"{folder}/mask.zarr"])


def _write(folder: Path, size: int) -> None:
    """Write a picture and its mask as tiled TIFF, tile by tile."""
    image, labels = touching_cells(TILE, seed=0)

    def tiles(tile: NDArray[np.uint16]) -> Iterator[NDArray[np.uint16]]:
        return (tile for _ in range((size // TILE) ** 2))

    for name, tile in (("image", image), ("labels", (labels > 0).astype(np.uint16) * 255)):
        tifffile.imwrite(
            folder / f"{name}.tif", tiles(tile), shape=(size, size), dtype=tile.dtype, tile=(TILE, TILE),
            compression="zlib", photometric="minisblack", bigtiff=True,
        )  # fmt: skip
