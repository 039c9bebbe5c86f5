"""Time of tile-predict beside the bare network."""

from __future__ import annotations

import torch

from benchmarks.machine import describe, interleaved, table
from unetcli.models import build_model
from unetcli.models.geometry import geometry_of
from unetcli.models.overlap_tile import predict_core, read_extent


def run() -> None:
    """Print a table."""
    print(describe())
    _predict()


FAST = {
    "ndim": 2, "channels": 1, "classes": 2, "features": [16, 32, 64, 128, 256],
    "padding": "same", "norm": "batch", "skip": "concat", "dropout": 0.0,
}  # fmt: skip
"""The network of the preset ``fast``."""


def _predict() -> None:
    core, step = 1024, 512
    network = build_model("unet", FAST).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    geometry = geometry_of("unet", FAST)
    block = torch.randn(1, *read_extent(geometry, (core, core), (step, step)))
    tile = torch.randn(1, 1, *(geometry.axes[-1].read_size(step),) * 2).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = interleaved(
            {
                "overlap-tile, 4 tiles, probabilities": lambda: predict_core(
                    network, geometry, block, (core, core), (step, step)
                ),
                "4 bare forward passes of these tiles": lambda: [network(tile) for _ in range(4)],
            },
            rounds=3,
        )
    table(f"overlap-tile prediction, {core} squared", seconds, core * core / 1e6)
