"""What the steps of training learn from: batches of random patches, made ahead by threads."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetcli.config import TrainConfig
from unetcli.image.dataset import Dataset
from unetcli.image.location import Location
from unetcli.image.source import in_memory
from unetcli.kernels.warp import ORDERS
from unetcli.models.augmentation import Blocks, augment, blur_radius
from unetcli.sampling import Example, Sample, draw_sample, examples

Plane = tuple[Example, int, int]
T = TypeVar("T")

SPARE = 1.25
"""How much faster than the steps the threads have to be. At 1 they would do, but for the times to vary."""
IN_MEMORY = 2**31
"""Data sets up to so many bytes are decoded once and kept; of larger ones each patch is read from the store."""

logger = logging.getLogger(__name__)


class Patches(NamedTuple):
    """A batch: what the network sees, and what it is to make of it where it has an output."""

    image: Tensor
    """(n, c, y, x) float32, normalized."""
    target: Tensor
    """(n, y, x) int64, class of each pixel."""
    weights: Tensor
    """(n, y, x) float32, weight map."""

    def split(self, n_parts: int) -> list[Patches]:
        """Cut a batch into parts of the same number of patches."""
        return [Patches(*parts) for parts in zip(*(part.chunk(n_parts) for part in self), strict=True)]


def open_planes(dataset: Dataset, weights: Location | None, *, validation: bool) -> list[Plane]:
    """Return the planes to train on or to validate on; the pixels of a small data set are kept in memory."""
    found = examples(dataset, weights)
    size = sum(np.prod(e.image.shape) * (e.image.dtype.itemsize + 5) for e in found.values())
    if size <= IN_MEMORY:
        found = {
            name: replace(
                e,
                image=in_memory(e.image),
                truth=in_memory(e.truth),
                target=in_memory(e.target) if e.target else None,
                weights=in_memory(e.weights) if e.weights else None,
            )
            for name, e in found.items()
        }
    return [(found[image.name], t, z) for image, t, z in dataset.planes(validation=validation)]


def ahead(make: Callable[[int], T], steps: range, *, workers: int, depth: int) -> Iterator[T]:
    """Yield what is made for each step, in order, while threads make up to `depth` of the next ones."""
    with ThreadPoolExecutor(workers) as pool:
        coming: deque[Future[T]] = deque()
        try:
            for step in steps:
                while len(coming) < depth and step + len(coming) < steps.stop:
                    coming.append(pool.submit(make, step + len(coming)))
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def classes_of(example: Example, labels: NDArray[Any], label_kind: str | None) -> NDArray[Any]:
    """Return the class of each pixel: object ids without a target are all of class 1."""
    return labels > 0 if example.target is None and label_kind == "instances" else labels


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batch of a step; sample k of a run is a function of (seed, k) alone.

    Parameters
    ----------
    planes
        (example, t, z) of each plane to learn from.
    config
        Settings of the training.
    dataset
        Where the planes are from.
    margin
        How much the output of the network lacks at each side.
    device
        Where batches are needed.
    augment_on
        ``host``: threads make whole patches. ``device``: threads only read the pixels that patches show.
    rank, count
        Number of this process, and how many share the batch of a step: each makes its own part.
    """

    planes: Sequence[Plane]
    config: TrainConfig
    dataset: Dataset
    margin: int
    device: torch.device
    augment_on: str
    rank: int = 0
    count: int = 1

    def numbers(self, step: int) -> range:
        """Return the numbers of the samples of this process in a step."""
        n = self.config.batch_size // self.count
        first = step * self.config.batch_size + self.rank * n
        return range(first, first + n)

    def samples(self, step: int) -> list[Sample]:
        """Draw the samples of this process in a step."""
        config = self.config
        return [draw_sample(self.planes, config, config.seed, k, config.patch_size, ndim=2) for k in self.numbers(step)]

    def make(self, step: int) -> Patches | Blocks:
        """Do the host's part of a batch; called by threads."""
        samples = self.samples(step)
        made = self._blocks(samples) if self.augment_on == "device" else self._patches(samples)
        if self.device.type == "cuda":  # so that the host need not wait while it is copied
            made = type(made)(*(part.pin_memory() for part in made))
        return made

    def place(self, made: Patches | Blocks) -> Patches:
        """Bring a batch to the device, and do the rest there; the host does not wait for it."""
        if isinstance(made, Patches):
            return Patches(*(part.to(self.device, non_blocking=True) for part in made))
        mean, std = self._normalization
        order, size = ORDERS[self.config.interpolation], self.config.patch_size
        return Patches(*augment(made, mean, std, size=size, margin=self.margin, device=self.device, order=order))

    @cached_property
    def _normalization(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.from_numpy(part).to(self.device) for part in self.dataset.normalization())
        return mean, std

    def _patches(self, samples: list[Sample]) -> Patches:
        """Deform and vary samples by the numba kernels."""
        parts = zip(*(self._patch(sample) for sample in samples), strict=True)
        return Patches._make(torch.from_numpy(np.stack(part)) for part in parts)

    def _patch(self, sample: Sample) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32]]:
        mean, std = self.dataset.normalization()
        m, example = self.margin, sample.example
        inside = (0, m, m), (1, self.config.patch_size - m, self.config.patch_size - m)
        labels = [example.target or example.truth]
        image, (target,), weights = sample.render((0, 0, 0), sample.shape, mean, std, labels, inside=inside)
        target = classes_of(example, target[0], self.dataset.label_kind).astype(np.int64)
        return image[:, 0], target, np.ones(target.shape, dtype=np.float32) if weights is None else weights[0]

    def _blocks(self, samples: list[Sample]) -> Blocks:
        """Read the pixels that samples show, and list how they are deformed and varied."""
        channels = len(self.dataset.statistics)
        gray = np.array([_gray_of(sample) for sample in samples])
        read = [self._block(sample, blur_radius(float(gray[:, 4:].max()))) for sample in samples]
        origins, images, targets, weights = zip(*read, strict=True)
        sizes = np.array([target.shape for target in targets])
        return Blocks(
            image=torch.from_numpy(np.concatenate([image.reshape(channels, -1) for image in images], axis=1)),
            target=torch.from_numpy(np.concatenate([target.ravel() for target in targets])),
            weights=torch.from_numpy(np.concatenate([weight.ravel() for weight in weights])),
            first=torch.from_numpy(np.cumsum([0, *sizes.prod(axis=1)])[:-1]),
            width=torch.from_numpy(sizes[:, 1].copy()),
            origin=torch.from_numpy(np.array(origins)),
            grid=torch.from_numpy(np.stack([s.deformation.grid[1:, 0] for s in samples])),
            matrix=torch.from_numpy(np.stack([s.deformation.matrix[1:, 1:] for s in samples])),
            offset=torch.from_numpy(np.stack([s.deformation.offset[1:] for s in samples])),
            gray=torch.from_numpy(gray),
            seed=torch.from_numpy(np.array([s.gray.seed for s in samples], np.uint64).view(np.int64)),
        )

    def _block(self, sample: Sample, reach: int) -> tuple[tuple[int, int], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return where a block begins (y, x), its image (c, y, x), and its target and weights (y, x), as stored."""
        example, size = sample.example, self.config.patch_size
        sources = [example.image, example.target or example.truth, *([example.weights] if example.weights else [])]
        start, stop = (0, -reach, -reach), (1, size + reach, size + reach)
        low, blocks = sample.blocks(sources, start, stop, ORDERS[sample.interpolation])
        image, labels = blocks[0][:, 0], blocks[1][0, 0]
        weights = blocks[2][0, 0] if example.weights else np.ones(labels.shape, np.uint8)
        return low[1:], image, classes_of(example, labels, self.dataset.label_kind), weights


def _gray_of(sample: Sample) -> list[NDArray[np.float64]]:
    """Return contrast, brightness, gamma, noise, and blur along y and x in pixels, of each channel."""
    gray, (_, y, x) = sample.gray, sample.example.image.axes.spacing
    blur = np.array(gray.blur)
    return [*map(np.array, (gray.contrast, gray.brightness, gray.gamma, gray.noise)), blur / y, blur / x]


def choose_augmentation(host: BatchMaker, workers: int, seconds_per_step: Callable[[Patches], float]) -> str:
    """Return where to augment: as the settings say, or for ``auto`` the host, unless it can not keep up.

    Parameters
    ----------
    host
        Makes batches on the host.
    workers
        Threads.
    seconds_per_step
        Measures a step on a batch; asked for on CUDA only: on a CPU both ways have the same processors.

    Notes
    -----
    If a batch takes the threads longer than a step takes the device, this waits for ``1 - step / batch`` of the
    time: less than 2 % up to a ratio of 1.02. The threads have to be faster by `SPARE`, since times vary.
    """
    if host.config.augment_on != "auto":
        return host.config.augment_on
    if host.device.type == "cpu":
        return "host"
    batch, step = _seconds_per_batch(host, workers), seconds_per_step(host.place(host.make(0)))
    chosen = "host" if SPARE * batch <= step else "device"
    logger.info("augmentation: on the %s (batch %.3g ms by threads, step %.3g ms)", chosen, 1e3 * batch, 1e3 * step)
    return chosen


def _seconds_per_batch(maker: BatchMaker, workers: int) -> float:
    """Measure how fast threads make batches: three each, after one each that is not counted."""
    seconds = 0.0
    for n in (workers, 3 * workers):
        start = time.perf_counter()
        for _ in ahead(maker.make, range(n), workers=workers, depth=2 * workers):
            pass
        seconds = (time.perf_counter() - start) / n
    return seconds
