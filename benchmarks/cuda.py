"""Augmentation on a CUDA device and on its host: patches per second of either, and what waits for what."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.machine import describe
from unetcli.config import PrepConfig, WeightsConfig
from unetcli.demo import write_pictures
from unetcli.image.dataset import open_dataset
from unetcli.image.streaming import available_cpus
from unetcli.models.geometry import geometry_of
from unetcli.presets import PRESETS, with_preset
from unetcli.stages import prep, train, weights
from unetcli.training.batches import BatchMaker
from unetcli.training.places import Places, open_planes
from unetcli.training.task import network_parameters

STEPS = 30
TRAINED = 200
"""Steps of a training run; its first half is not counted."""


def run() -> None:
    """Print, for each preset, patches per second of either way to augment, and the time spent waiting."""
    print(describe())
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {preset: _augmentation(Path(folder), preset, torch.device("cuda")) for preset in PRESETS}
    print(json.dumps(found))
    print("\npatches/s augmented: by one thread with numba; on the device; read for it by one thread")
    print("patches/s trained, and share of the time spent waiting for data, in a run augmented there")
    for preset, row in found.items():
        print(f"{preset:>8}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))


def _augmentation(folder: Path, preset: str, device: torch.device) -> dict[str, float]:
    """Measure both ways to augment, alone and in training, on pictures of cells."""
    data, maps = folder / "data.zarr", folder / "weights.zarr"
    if not data.exists():
        write_pictures(folder, "train", 0, 6)
        prep.run([folder / "train_images"], data, PrepConfig(), labels=[folder / "train_labels"])
        weights.run(data, maps, WeightsConfig())
    config, dataset = with_preset(preset, steps=TRAINED, validate_every=TRAINED // 2), open_dataset(data)
    geometry = geometry_of(config.arch, network_parameters(config, dataset))
    places = Places.of(open_planes(dataset, maps, 2, validation=False), config, dataset, 2, workers=available_cpus())
    host, other = (BatchMaker(places, config, dataset, geometry, device, on) for on in ("host", "device"))
    made = other.make(0)
    timed: dict[str, Callable[[], object]] = {
        "numba": lambda: host.make(0), "device": lambda: other.place(made), "read": lambda: other.make(0),
    }  # fmt: skip
    found = {name: config.batch_size / _seconds(function) for name, function in timed.items()}
    for on in ("host", "device"):
        run = folder / f"{preset}_{on}"
        changed = with_preset(preset, steps=TRAINED, validate_every=TRAINED // 2, augment_on=on)
        train.run(data, run, changed, weights=maps, device=device.type)
        with (run / "timing.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        found[f"trained_{on}"] = config.batch_size * TRAINED / 2 / float(last["seconds"])
        found[f"waiting_{on}"] = float(last["data_wait"])
    return found


def _seconds(function: Callable[[], object]) -> float:
    for _ in range(5):
        function()
    _wait()
    start = time.perf_counter()
    for _ in range(STEPS):
        function()
    _wait()
    return (time.perf_counter() - start) / STEPS


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
