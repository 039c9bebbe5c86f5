"""What the steps of training learn from: batches of random patches, made ahead by threads."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetcli.config import TrainConfig
from unetcli.errors import DeviceError, UnetcliError
from unetcli.image.dataset import Dataset
from unetcli.kernels.warp import ORDERS
from unetcli.models.augmentation import Blocks, augment, blur_radius
from unetcli.models.geometry import Geometry
from unetcli.sampling import Sample, vary
from unetcli.training.places import Places, classes_of
from unetcli.training.resizing import Resolution, reduce_images, reduce_labels, resolutions

T = TypeVar("T")

SPARE = 1.25
"""How much faster than the steps the threads have to be. At 1 they would do, but for the times to vary."""

logger = logging.getLogger(__name__)


class Patches(NamedTuple):
    """A batch: what the network sees, and what it is to make of it where it has an output."""

    image: Tensor
    """(n, c, [z,] y, x) float32, normalized."""
    target: Tensor
    """(n, [z,] y, x) int64, class of each pixel."""
    weights: Tensor
    """(n, [z,] y, x) float32, weight map."""

    def split(self, n_parts: int) -> list[Patches]:
        """Cut a batch into parts of the same number of patches."""
        return [Patches(*parts) for parts in zip(*(part.chunk(n_parts) for part in self), strict=True)]


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


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batch of a step; sample k of a run is a function of (seed, k) alone.

    Parameters
    ----------
    places
        Where patches lie.
    config
        Settings of the training; step i is made of the samples from ``i * batch_size`` on.
    dataset
        Where the planes are from.
    geometry
        Of the network.
    device
        Where batches are needed.
    augment_on
        ``host``: threads make whole patches. ``device``: threads only read the pixels that patches show.
    rank, count
        Number of this process, and how many share the batch of a step: each makes its own part.
    """

    places: Places
    config: TrainConfig
    dataset: Dataset
    geometry: Geometry
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
        return [self.sample(k, self.resolution(step)) for k in self.numbers(step)]

    def make(self, step: int) -> Patches | Blocks:
        """Do the host's part of a batch; called by threads."""
        samples = dict(zip(self.numbers(step), self.samples(step), strict=True))
        made = self._blocks(samples) if self.augment_on == "device" else self._patches(samples, self.resolution(step))
        if self.device.type == "cuda":  # so that the host need not wait while it is copied
            made = type(made)(*(part.pin_memory() for part in made))
        return made

    def resolution(self, step: int) -> Resolution:
        """Return what the network sees at a step."""
        return next((r for end, r in self._resolutions if step < end), self._resolutions[-1][1])

    def sample(self, k: int, resolution: Resolution) -> Sample:
        """Draw sample k: a patch at a place, deformed and varied."""
        rng = np.random.default_rng([self.config.seed, k])
        shape = resolution.region
        example, t, origin = self.places.draw(rng, shape, resolution.region_margin)
        return vary(rng, example, t, origin, shape, self.config, self.places.ndim)

    def place(self, made: Patches | Blocks) -> Patches:
        """Bring a batch to the device, and do the rest there; the host does not wait for it."""
        if isinstance(made, Patches):
            return Patches(*(part.to(self.device, non_blocking=True) for part in made))
        mean, std = self._normalization
        order, patch = ORDERS[self.config.interpolation], self._resolutions[-1][1]
        size, margin = patch.shape[2], patch.margin[2]
        return Patches(*augment(made, mean, std, size=size, margin=margin, device=self.device, order=order))

    @cached_property
    def _resolutions(self) -> list[tuple[int, Resolution]]:
        return list(resolutions(self.config, self.geometry, self.dataset))

    @cached_property
    def _normalization(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.from_numpy(part).to(self.device) for part in self.dataset.normalization())
        return mean, std

    def _patches(self, samples: Mapping[int, Sample], resolution: Resolution) -> Patches:
        """Deform and vary samples by the numba kernels."""
        first = 3 - self.places.ndim  # planes have no z
        parts = zip(*(self._patch(k, sample, resolution) for k, sample in samples.items()), strict=True)
        image, target, weights = (torch.from_numpy(np.stack(part)) for part in parts)
        if first:
            image, target, weights = image[:, :, 0], target[:, 0], weights[:, 0]
        factors = resolution.factors[first:]
        labels = (reduce_labels(part, factors) for part in (target, weights))
        return Patches(reduce_images(image, factors), *labels)

    def _patch(
        self, k: int, sample: Sample, resolution: Resolution
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Render sample k: image (c, z, y, x); target and weights (z, y, x) of what the network has an output for."""
        mean, std = self.dataset.normalization()
        (a, b, c), (z, y, x) = resolution.region_margin, sample.shape
        inside, example = ((a, b, c), (z - a, y - b, x - c)), sample.example
        labels = [example.target or example.truth]
        with _naming(k, sample):
            image, (target,), weights = sample.render((0, 0, 0), sample.shape, mean, std, labels, inside=inside)
        target = classes_of(example, target, self.dataset.label_kind).astype(np.int64)
        return image, target, np.ones(target.shape, dtype=np.float32) if weights is None else weights

    def _blocks(self, numbered: Mapping[int, Sample]) -> Blocks:
        """Read the pixels that samples show, and list how they are deformed and varied."""
        samples, channels = list(numbered.values()), len(self.dataset.statistics)
        gray = np.array([_gray_of(sample) for sample in samples])
        reach = blur_radius(float(gray[:, 4:].max()))
        read = [self._block(k, sample, reach) for k, sample in numbered.items()]
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

    def _block(
        self, k: int, sample: Sample, reach: int
    ) -> tuple[tuple[int, int], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return where the block of sample k begins (y, x), its image (c, y, x), target and weights (y, x)."""
        example, (_, size, _) = sample.example, sample.shape
        sources = [example.image, example.target or example.truth, *([example.weights] if example.weights else [])]
        start, stop = (0, -reach, -reach), (1, size + reach, size + reach)
        with _naming(k, sample):
            low, blocks = sample.blocks(sources, start, stop, ORDERS[sample.interpolation])
        image, labels = blocks[0][:, 0], blocks[1][0, 0]
        weights = blocks[2][0, 0] if example.weights else np.ones(labels.shape, np.uint8)
        return low[1:], image, classes_of(example, labels, self.dataset.label_kind), weights


@contextmanager
def _naming(k: int, sample: Sample) -> Iterator[None]:
    """Name the sample in which an exception happened."""
    what = f"training sample {k}, of {sample.example.name}"
    try:
        yield
    except MemoryError as error:
        raise DeviceError(f"{what}: out of memory", fix="fewer --workers, or a smaller --patch-size") from error
    except UnetcliError as error:
        raise type(error)(f"{what}: {error}", fix=error.fix) from error
    except Exception as error:
        error.add_note(f"in {what}")
        raise


def _gray_of(sample: Sample) -> list[NDArray[np.float64]]:
    """Return contrast, brightness, gamma, noise, and blur along y and x in pixels, of each channel."""
    gray, (_, y, x) = sample.gray, sample.example.image.axes.spacing
    blur = np.array(gray.blur)
    return [*map(np.array, (gray.contrast, gray.brightness, gray.gamma, gray.noise)), blur / y, blur / x]


def host_only(config: TrainConfig, ndim: int) -> str | None:
    """Return why the device can not augment, if it can not: it knows squares at one resolution only."""
    if ndim == 3:
        return "volumes"
    if len(set(config.patch_shape(ndim))) > 1:
        return f"patches of {config.patch_size} pixels"
    return None if config.resize_schedule == "1" else "--resize-schedule"


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
    if host.device.type == "cpu" or host_only(host.config, host.places.ndim):
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
