"""Training samples per second and core: how many cores feed a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cells
from benchmarks.machine import describe, interleaved, named
from benchmarks.weights import PIXELS, tiled_weights
from unetcli.config import TrainConfig
from unetcli.image.axes import Axes
from unetcli.image.source import FileSource, Source, in_memory
from unetcli.image.tiling import Box
from unetcli.sampling import Example, draw_sample

try:
    from elasticdeform import deform_grid
except ImportError:
    deform_grid = None

PATCH = 572
"""Of the paper's network; labels and weights are made as large as the image, though that network needs less."""
THREADS = 2
DEMAND = {"at 40 % of its peak": 350, "at 50 %": 450, "at its peak": 886}
"""Patches per second that an H100 takes in training of the paper's network: arithmetic from its FLOPs, not measured."""

OURS = "ours: field, image, labels, weights, gray values"
THEIRS = "elasticdeform and NumPy: the same"
CONFIG = TrainConfig()
Parts = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def run(side: int = 4096, patch: int = PATCH, n: int = 20, rounds: int = 5) -> None:
    """Print samples per second and core, and the cores that feed an H100."""
    print(f"\n{describe()}, {named('elasticdeform')}")
    example = make_example(side)
    functions = {OURS: lambda: [our_sample(example, k, patch) for k in range(n)]}
    if deform_grid is not None:
        functions[THEIRS] = lambda: [their_sample(example, k, patch) for k in range(n)]
    print(f"\ntraining samples, {patch} squared, one thread\n{'':52} {'ms':>8} {'CPU ms':>8} {'/s and core':>12}")
    timings = interleaved(functions, rounds)
    for name, t in timings.items():
        print(f"{name:52} {1e3 * t.wall / n:8.1f} {1e3 * t.cpu / n:8.1f} {n / t.cpu:12.1f}")
        cores = ", ".join(f"{rate * t.cpu / n:.1f} ({where}, {rate}/s)" for where, rate in DEMAND.items())
        print(f"  cores that feed an H100, by arithmetic: {cores}")

    def threaded() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda k: our_sample(example, k, patch), range(n)))

    (both,) = interleaved({"": threaded}, rounds).values()
    print(f"ours on {THREADS} threads: {n / both.wall:.1f} samples/s, {timings[OURS].wall / both.wall:.2f}x one thread")


def make_example(side: int) -> Example:
    """Return an image of cells with labels and weights."""
    labels = Cells.random((1, side, side), max(9, side * side // 4000)).labels()
    target = (labels > 0).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 200, labels.shape)
    image = (1000.0 * target + noise).clip(0).astype(np.uint16)
    weights = tiled_weights(labels, target, PIXELS, 1024)
    return Example("cells", *(_source(a[0]) for a in (image, labels, target, weights)))


def _source(pixels: NDArray[Any]) -> Source:
    """Return a plane (y, x) as an image that is kept in memory, as `train` keeps small data sets."""
    shape = (1, 1, 1, *pixels.shape)
    return in_memory(FileSource(Path("cells"), "yx", shape, pixels.dtype, Axes.of("yx"), pixels.__getitem__))


def our_sample(example: Example, k: int, patch: int) -> Parts:
    """Return image, target and weights of sample k as `train` makes them."""
    sample = draw_sample([(example, 0, 0)], CONFIG, 0, k, patch, ndim=2)
    mean, std = np.float32([500]), np.float32([500])
    image, (target,), weights = sample.render((0, 0, 0), sample.shape, mean, std, [example.target])
    return image, target, weights


def their_sample(example: Example, k: int, patch: int) -> Parts:
    """Return image, target and weights of a sample of the same recipe, with elasticdeform and NumPy."""
    rng = np.random.default_rng(k)
    y, x = rng.integers(0, np.array(example.image.shape[3:]) - patch + 1)
    box = Box((0, 0, 0, int(y), int(x)), (1, 1, 1, int(y) + patch, int(x) + patch))
    parts = [source.read(box)[0, 0, 0] for source in (example.image, example.target, example.weights)]
    image, target, weights = deform_grid(
        [((parts[0] - np.float32(500)) / np.float32(500)), *parts[1:]],
        rng.normal(0, CONFIG.elastic, (2, *CONFIG.grid_points(2)[1:])),
        order=[3, 0, 1],
        mode="mirror",
        rotate=rng.uniform(-CONFIG.rotation, CONFIG.rotation),
        zoom=CONFIG.scaling ** rng.uniform(-1, 1),
    )
    curved = image + CONFIG.gamma * rng.uniform(-1, 1) * (np.sqrt(1 + image**2) - 1)
    varied = CONFIG.contrast ** rng.uniform(-1, 1) * curved + CONFIG.brightness * rng.uniform(-1, 1)
    varied += CONFIG.noise * rng.uniform() * rng.standard_normal(image.shape, np.float32)
    return varied, target, weights
