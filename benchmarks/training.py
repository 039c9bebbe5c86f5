"""Time of a training step, end to end, beside plain PyTorch loops of the same network, and the rate of a product."""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from unetcli.config import PrepConfig, TrainConfig, WeightsConfig
from unetcli.demo import write_pictures
from unetcli.image.dataset import open_dataset
from unetcli.models import build_model
from unetcli.presets import with_preset
from unetcli.stages import prep, train, weights
from unetcli.training.task import network_parameters

ROUNDS = 3
LIGHT = {"features": "16,32,64,128,256", "padding": "valid", "norm": "none", "patch_size": 572, "batch_size": 1}
CASES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "cpu": {
        "preset fast": ("fast", {}),
        "preset fast, float32": ("fast", {"precision": "float32"}),
        "paper's network with 16 channels, 572 squared, float32": ("paper", {**LIGHT}),
    },
    "cuda": {
        "preset paper, as published": ("paper", {}),
        "paper's network, batches of 8": ("paper", {"precision": "bfloat16", "batch_size": 8}),
        "preset default": ("default", {}),
    },
}
"""What is timed on each device: the preset and what is changed."""
STEPS = {"cpu": 8, "cuda": 100}
"""Steps of a round; those of our own run follow as many that are not counted."""


@dataclass(frozen=True)
class Problem:
    """A network, and a batch that is there already: what a loop without any reading or augmentation has."""

    config: TrainConfig
    parameters: Mapping[str, Any]
    image: Tensor
    target: Tensor
    weights: Tensor

    @classmethod
    def of(cls, config: TrainConfig, data: Path, device: str) -> Problem:
        """Draw a batch at random."""
        parameters = network_parameters(config, open_dataset(data))
        size, n = int(config.patch_size), config.batch_size
        with torch.device("meta"):
            out = build_model(config.arch, parameters)(torch.empty(1, 1, size, size)).shape[-1]
        image = torch.randn(n, 1, size, size, device=device)
        target = torch.randint(2, (n, out, out), device=device)
        return cls(config, parameters, image, target, torch.rand(n, out, out, device=device))

    def loop(self, layout: torch.memory_format, *, bfloat16: bool) -> Callable[[], None]:
        """Return one step of a plain loop: forward, weighted loss, backward, SGD."""
        device = self.image.device.type
        network: nn.Module = build_model(self.config.arch, self.parameters).to(device)
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
        image = self.image.to(memory_format=layout)
        optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.99)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                logits = network(image)
            losses = F.cross_entropy(logits.float(), self.target, reduction="none")
            ((losses * self.weights).sum() / self.weights.sum()).backward()
            optimizer.step()

        return step


def run() -> None:
    """Print a table for each case."""
    print(describe())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    products = {
        dtype: _product_rate(device, dtype)
        for dtype in (torch.float32, torch.bfloat16)  # what the device can do at best
    }
    print(", ".join(f"{str(d).removeprefix('torch.')}: {r / 1e12:.3g} TFLOP/s" for d, r in products.items()))
    with tempfile.TemporaryDirectory() as folder:
        data, maps = Path(folder) / "data.zarr", Path(folder) / "weights.zarr"
        write_pictures(Path(folder), "train", 0, 6)
        prep.run([Path(folder) / "train_images"], data, PrepConfig(), labels=[Path(folder) / "train_labels"])
        weights.run(data, maps, WeightsConfig())
        for name, (preset, changes) in CASES[device].items():
            steps = 2 * STEPS[device]
            config = with_preset(preset, **{**changes, "steps": steps, "validate_every": steps // 2})
            _compare(name, config, data, maps, device, products)


def _compare(
    name: str, config: TrainConfig, data: Path, maps: Path, device: str, products: Mapping[torch.dtype, float]
) -> None:
    problem, n = Problem.of(config, data, device), STEPS[device]
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    loops = {
        "plain loop, float32": problem.loop(nchw, bfloat16=False),
        "plain loop, float32, channels last": problem.loop(nhwc, bfloat16=False),
        "plain loop, bfloat16": problem.loop(nchw, bfloat16=True),
        "plain loop, bfloat16, channels last": problem.loop(nhwc, bfloat16=True),
    }
    with FlopCounterMode(display=False) as counter:
        loops["plain loop, float32"]()
    flops = counter.get_total_flops()
    found: dict[str, list[float]] = {}
    waits = []
    for k in range(ROUNDS):
        out = maps.parent / f"{name.replace(' ', '-')}-{k}"
        train.run(data, out, config, weights=maps, device=device)
        with (out / "timing.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        found.setdefault("unetcli train, everything", []).append(float(last["seconds"]) / n)
        waits.append(float(last["data_wait"]))
        for loop, step in loops.items():
            found.setdefault(loop, []).append(_seconds(step, n))
    print(f"\n{name}: {flops / 1e9:,.0f} GFLOP a step, waiting for data {statistics.median(waits):.2%}")
    print(f"{'':40} {'ms a step':>10} {'patches/s':>10} {'ratio':>7} {'of the product':>15}")
    ours = statistics.median(found["unetcli train, everything"])
    for way, times in found.items():
        seconds = statistics.median(times)
        is_bfloat16 = "bfloat16" in way or (way.startswith("unetcli") and _is_bfloat16(maps.parent, name))
        share = flops / seconds / products[torch.bfloat16 if is_bfloat16 else torch.float32]
        print(
            f"{way:40} {1e3 * seconds:10.1f} {config.batch_size / seconds:10.2f} {seconds / ours:7.2f} {share:15.0%}",
            flush=True,
        )


def _is_bfloat16(folder: Path, name: str) -> bool:
    text = (folder / f"{name.replace(' ', '-')}-0" / "run.json").read_text()
    return '"precision": "bfloat16"' in text


def _product_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product."""
    size = 4096 if device == "cpu" else 16384
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, 3)


def _seconds(function: Callable[[], object], n: int) -> float:
    """Return the seconds of a call: the mean of n, after one that is not counted."""
    function()
    _wait()
    start = time.perf_counter()
    for _ in range(n):
        function()
    _wait()
    return (time.perf_counter() - start) / n


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
