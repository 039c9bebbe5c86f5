"""Time of tile-predict and of a training step, beside the bare network and other arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.machine import describe, interleaved, table
from unetcli.models import build_model
from unetcli.models.geometry import geometry_of
from unetcli.models.losses import weighted_cross_entropy
from unetcli.models.overlap_tile import predict_core, read_extent


def run() -> None:
    """Print a table for each."""
    print(describe())
    _predict()
    _train()


FAST = {
    "ndim": 2, "channels": 1, "classes": 2, "features": [16, 32, 64, 128, 256],
    "padding": "same", "norm": "batch", "skip": "concat", "dropout": 0.0,
}  # fmt: skip
"""The network of the preset ``fast``."""


def _train() -> None:
    n, size = 4, 256
    image, target = torch.randn(n, 1, size, size), torch.randint(2, (n, size, size))
    weights = torch.rand(n, size, size)

    def stepper(memory_format: torch.memory_format, *, bfloat16: bool) -> Callable[[], None]:
        network = build_model("unet", FAST).to(memory_format=memory_format)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters())

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = network(image)
            weighted_cross_entropy(logits.float(), target, weights).backward()
            optimizer.step()

        return step

    seconds = interleaved(
        {
            "bfloat16, channels last": stepper(torch.channels_last, bfloat16=True),
            "float32, channels last": stepper(torch.channels_last, bfloat16=False),
            "float32": stepper(torch.contiguous_format, bfloat16=False),
        }
    )
    table(f"training step of the preset fast, {n} patches of {size} squared", seconds, n * size * size / 1e6)


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
