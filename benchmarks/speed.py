"""Time of the kernels and of tile-predict, beside what else one could use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.machine import describe, interleaved, table
from unetcli.demo import touching_cells
from unetcli.kernels.deformation import random_deformation
from unetcli.kernels.warp import Layer, warp
from unetcli.kernels.weight_map import Borders, weight_map
from unetcli.models import build_model
from unetcli.models.geometry import geometry_of
from unetcli.models.losses import weighted_cross_entropy
from unetcli.models.overlap_tile import predict_core, read_extent

SIZE = 4096
HALO = 32
REACH = 32


def run() -> None:
    """Print a table for each kernel."""
    print(describe())
    _weights()
    _elastic()
    _predict()
    _train()


def _cells(size: int) -> NDArray[np.uint32]:
    """Repeat a picture of cells, with ids of their own in each copy, over a larger one."""
    _, labels = touching_cells(512, seed=0)
    labels = np.where(ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3), labels, 0)
    copies = size // 512
    offsets = np.arange(copies * copies, dtype=np.uint32).reshape(copies, copies) * (labels.max() + 1)
    tiled = np.tile(labels.astype(np.uint32), (copies, copies))
    return np.where(tiled > 0, tiled + np.kron(offsets, np.ones((512, 512), np.uint32)), 0).astype(np.uint32)


def _weights() -> None:
    labels = _cells(SIZE)
    target = (labels > 0).astype(np.uint8)
    balance = np.ones(2)

    def ours() -> None:
        def tile(y: int) -> NDArray[np.float32]:
            rows = slice(max(0, y - HALO), y + 1024 + HALO)
            return weight_map(labels[None, rows], target[None, rows], Borders(), balance=balance)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(tile, range(0, SIZE, 1024)))

    seconds = interleaved(
        {
            "weight map, tiles, two threads": ours,
            "one SciPy distance transform of the mask": lambda: ndimage.distance_transform_edt(labels == 0),
            "distance transforms in boxes around objects": lambda: boxes_loop(labels),
        },
        rounds=3,
    )
    table(f"weights, {SIZE} squared, {len(np.unique(labels)) - 1} objects", seconds, SIZE * SIZE / 1e6)


def boxes_loop(labels: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Weigh by one SciPy distance transform in a padded box around each object: what an expert would write."""
    nearest = np.full((2, *labels.shape), np.inf, dtype=np.float32)
    for i, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        padded = tuple(slice(max(0, s.start - REACH), s.stop + REACH) for s in box)
        distance = ndimage.distance_transform_edt(labels[padded] != i).astype(np.float32)
        first, second = nearest[0][padded], nearest[1][padded]
        second[:] = np.minimum(second, np.maximum(first, distance))
        first[:] = np.minimum(first, distance)
    border = 10 * np.exp(-((nearest[0] + nearest[1]) ** 2) / 50)
    return np.asarray(1 + border * (labels == 0), dtype=np.float32)


def _elastic() -> None:
    n = 2048
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 1, n, n)).astype(np.float32)
    labels = _cells(n)[None]
    deformation = random_deformation(rng, (1, n, n), std_px=10.0)

    def ours() -> None:
        # With the whole image at hand, mirrored at its edges as a tile driver would read it.
        warp(deformation, [Layer(padded_image, *where, order=1), Layer(padded_labels[None], *where, order=0)])

    def scipy() -> None:
        at = np.linspace(0, 2, n)
        lattice = np.meshgrid(at, at, indexing="ij")
        moved = [ndimage.map_coordinates(deformation.grid[i, 0], lattice, order=3, mode="mirror") for i in (1, 2)]
        y, x = np.mgrid[:n, :n] + np.stack(moved)
        ndimage.map_coordinates(image[0, 0], (y, x), order=1, mode="mirror")
        ndimage.map_coordinates(labels[0], (y, x), order=0, mode="mirror")

    PAD = 64
    where = (0, -PAD, -PAD), (0, 0, 0), (1, n, n)
    padded_image = np.pad(image, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)), mode="reflect")
    padded_labels = np.pad(labels, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="reflect")
    seconds = interleaved({"deform image and labels, one thread": ours, "SciPy, the same field": scipy}, rounds=3)
    table(f"elastic deformation, {n} squared, linear", seconds, n * n / 1e6)


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
    extent = read_extent(geometry, core, step)
    block = torch.randn(1, extent, extent)
    tile = torch.randn(1, 1, *(geometry.read_size(step),) * 2).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = interleaved(
            {
                "overlap-tile, 4 tiles, probabilities": lambda: predict_core(
                    network, geometry, block, (core, core), step
                ),
                "4 bare forward passes of these tiles": lambda: [network(tile) for _ in range(4)],
            },
            rounds=3,
        )
    table(f"overlap-tile prediction, {core} squared", seconds, core * core / 1e6)
