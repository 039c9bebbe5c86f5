"""A part of the prediction of images up to 100,000 squared: memory, files and time of a shard must not grow."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import describe
from unetcli.config import PredictConfig
from unetcli.image.axes import Axes
from unetcli.image.new_store import create_level, write_group
from unetcli.image.ngff import ImageMetadata
from unetcli.models.checkpoint import ModelHeader
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.prediction import predictor
from unetcli.stages import tile_predict

SIDES = (25_000, 50_000, 100_000)
PARTS = 50


def run(sides: Sequence[int] = SIDES, *, parts: int = PARTS) -> None:
    """Print what creating and the first of so many parts take, and what follows for all of them."""
    print(f"\nfirst 1/{parts} of an image, a network of one convolution, one thread   {describe()}")
    print(
        f"{'side':>8} {'shards':>7} {'of part':>8} {'create, s':>10} {'CPU s/shard':>12} {'files/shard':>12} "
        f"{'peak, MiB':>10} {'all, CPU h':>11}"
    )
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.gigapixel", folder, str(side), str(parts)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(told.splitlines()[-1])
        per_shard, files = found["cpu"] / found["of_part"], found["files"] / found["of_part"]
        hours = per_shard * found["shards"] / 3600
        print(
            f"{side:8,} {found['shards']:7,} {found['of_part']:8} {found['create']:10.2f} {per_shard:12.3f} "
            f"{files:12.2f} {found['peak']:10.0f} {hours:11.2f}",
            flush=True,
        )


def measure(folder: Path, side: int, parts: int) -> dict[str, Any]:
    """Create a mask of an image of no bytes, and compute its first part; return what that took."""
    torch.set_num_threads(1)
    image = _sparse_image(folder / "image.zarr", side)
    model = folder / "stub.safetensors"
    model.write_bytes(b"")
    geometry = Geometry((AxisGeometry(stride=1, margin=0, halo=1, reach=1, smallest=1),) * 2)
    header = ModelHeader("stub", {"ndim": 2}, geometry, ("a", "b"), 1, (0.0,), (1.0,), {"unit": None}, {})
    predictor.load_model = lambda _: (nn.Conv2d(1, 2, 3, padding=1), header)  # type: ignore[assignment]
    options: dict[str, Any] = {"model": model, "device": "cpu", "workers": 1}
    start = time.thread_time()
    shards = tile_predict.run(image, folder / "mask.zarr", PredictConfig(), create=True, **options)["shards"]
    create, before = time.thread_time() - start, time.process_time()
    found = tile_predict.run(image, folder / "mask.zarr", PredictConfig(), part=f"0/{parts}", **options)
    return {
        "shards": shards,
        "of_part": found["shards"],
        "create": create,
        "cpu": time.process_time() - before,
        "files": sum(path.is_file() for path in (folder / "mask.zarr" / "0" / "c").rglob("*")),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _sparse_image(path: Path, side: int) -> Path:
    """Write an image whose chunks are not there, so that all of it is background."""
    axes = Axes.of("yx")
    level = create_level(path / "0", axes, (1, 1, 1, side, side), "uint8")
    ome = ImageMetadata("", axes, n_levels=1).ome(3)
    write_group(path, {"ome": {"version": "0.5", **ome}}, 3)
    assert math.prod(level.shape) == side * side
    return path


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
