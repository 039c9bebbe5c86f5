"""Where training patches lie: anywhere, by a sampling map, or a share of them on pixels of the foreground."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.dataset import Dataset
from unetcli.image.density import BLOCK, Density, count_classes
from unetcli.image.location import Location
from unetcli.image.selection import Selection
from unetcli.image.source import Source, in_memory
from unetcli.image.tiling import Box, Shape, spans
from unetcli.kernels.deformation import Position
from unetcli.sampling import Example, Plane, all_ignored, examples, place_around

IN_MEMORY = 2**31
"""Data sets up to so many bytes are decoded once and kept; of larger ones each patch is read from the store."""
PIECE = 32 * BLOCK
"""Labels are counted in squares of so many pixels."""


def open_planes(dataset: Dataset, weights: Location | None, ndim: int, *, validation: bool) -> list[Plane]:
    """Return the planes, or volumes, to train on or to validate on; the pixels of a small data set are kept in memory.

    Parameters
    ----------
    dataset
        Images and truth.
    weights
        Weight maps of the data set.
    ndim
        2: planes. 3: volumes. Where some planes of a stack are kept for validation, each run of neighbouring planes
        is a volume, so that what is learnt from is never validated on.
    validation
        Which part.
    """
    found = examples(dataset, weights)
    size = sum(np.prod(e.image.shape) * (e.image.dtype.itemsize + 5) for e in found.values())
    keep: Callable[[Source], Source] = in_memory if size <= IN_MEMORY else lambda source: source
    planes = ((found[image.name], t, z) for image, t, z in dataset.planes(validation=validation))
    if ndim == 3:
        return [(_with_sources(example, keep), t, 0) for example, t in _volumes(planes)]
    kept = {name: _with_sources(example, keep) for name, example in found.items()}
    return [(kept[example.name], t, z) for example, t, z in planes]


def _with_sources(example: Example, change: Callable[[Source], Source]) -> Example:
    """Return an example whose sources are changed."""
    return replace(
        example,
        image=change(example.image),
        truth=change(example.truth),
        target=change(example.target) if example.target else None,
        weights=change(example.weights) if example.weights else None,
    )


def _volumes(planes: Iterable[Plane]) -> Iterator[tuple[Example, int]]:
    """Yield each run of neighbouring planes as a volume."""
    numbered = enumerate(planes)
    for _, run in itertools.groupby(numbered, lambda item: (item[1][0].name, item[1][1], item[1][2] - item[0])):
        (_, (example, t, first)), *others = run
        stop = first + 1 + len(others)
        yield _cut(example, first, stop) if stop - first < example.image.shape[2] else example, t


def _cut(example: Example, first: int, stop: int) -> Example:
    """Cut planes out of a volume, as if there were no others."""

    def cut(source: Source) -> Source:
        return Selection(source, {2: range(first, stop)}, source.channels)

    found = replace(_with_sources(example, cut), name=f"{example.name}, z {first} to {stop - 1}", first_z=first)
    if example.density is None:
        return found
    return replace(found, density=Density(cut(example.density.blocks), found.truth.shape))


def classes_of(example: Example, labels: NDArray[Any], label_kind: str | None) -> NDArray[Any]:
    """Return the class of each pixel: object ids without a target are all of class 1."""
    return labels > 0 if example.target is None and label_kind == "instances" else labels


@dataclass(frozen=True)
class Places:
    """Where training patches lie.

    Parameters
    ----------
    planes
        (example, t, z) of each plane or volume to learn from.
    ndim
        2: planes. 3: volumes.
    ends
        Running sums of how often each plane is drawn: by its pixels, or by its sampling map.
    by_map
        Whether sampling maps say where patches are centred.
    foreground, foreground_share
        Which pixels a share of the patches is centred on; `None`: there is no such share.
    """

    planes: Sequence[Plane]
    ndim: int
    ends: NDArray[np.float64]
    by_map: bool
    foreground: Foreground | None
    foreground_share: float

    @classmethod
    def of(cls, planes: Sequence[Plane], config: TrainConfig, dataset: Dataset, ndim: int, *, workers: int) -> Places:
        """Prepare what the settings ask for; to find the foreground, all labels are read once, by threads.

        Raises
        ------
        InputError
            If weights or sampling maps are 0 everywhere, or there is no foreground to sample from.
        ConfigError
            If there is no sampling map to sample by.
        """
        if not planes:
            raise InputError(f"{dataset.store.path}: has no training images", fix="prepare it with another --split")
        if not _any_weight(planes, ndim):
            raise all_ignored("the weights are 0")
        has_map = all(example.density is not None for example, _, _ in planes)
        if config.sampling == "map" and not has_map:
            raise ConfigError("--sampling map: the weights have none", fix="unetcli weights … --sampling 0.1 makes one")
        by_map = has_map and config.sampling in (None, "map")
        masses = [example.share(t, z, ndim, whole=not by_map) for example, t, z in planes]
        if by_map and not any(masses):
            raise all_ignored("the sampling map of the weights is 0")
        is_foreground = config.sampling == "foreground"
        foreground = Foreground.of(planes, dataset, ndim, workers=workers) if is_foreground else None
        return cls(planes, ndim, np.cumsum(masses), by_map, foreground, config.foreground_share)

    def draw(self, rng: np.random.Generator, shape: Position, margin: Position) -> tuple[Example, int, Position]:
        """Draw a patch.

        Parameters
        ----------
        rng
            Source of all randomness.
        shape
            Extent of the patch (z, y, x).
        margin
            How much the output of the network lacks at each side. What it has lies within the image, where that is
            large enough; around it the image is mirrored.

        Returns
        -------
        example, t
            Image and time point.
        origin : (z, y, x)
            First pixel of the patch.
        """
        centre: Sequence[int | None] = (None, None, None)
        if self.foreground and rng.random() < self.foreground_share:
            plane, centre = self.foreground.draw(rng)
            example, t, z = self.planes[plane]
        else:
            plane = int(np.searchsorted(self.ends, rng.random() * self.ends[-1], side="right"))
            example, t, z = self.planes[min(plane, len(self.planes) - 1)]
            if self.by_map and example.density:
                centre = example.density.draw(rng, example.planes(t, z, self.ndim))
        extent = example.image.shape[2:]
        first = [
            place_around(rng, n, size - 2 * m, c) - m
            for n, size, m, c in zip(extent, shape, margin, centre, strict=True)
        ]
        return example, t, (z if self.ndim == 2 else first[0], first[1], first[2])


@dataclass(frozen=True)
class Foreground:
    """All pixels of classes other than background, each with a number, so that any can be found at once.

    Only counts are kept, 2 bytes for each class and block of 32 x 32 pixels.

    Parameters
    ----------
    planes, ndim
        As in `Places`.
    label_kind
        What label values mean.
    counts : one (classes, lines, columns) uint16 array for each plane
        Pixels of each class in each block; a volume has the lines of its planes, one after another.
    """

    planes: Sequence[Plane]
    ndim: int
    label_kind: str | None
    counts: Sequence[NDArray[np.uint16]]
    plane_ends: NDArray[np.int64]
    line_ends: Sequence[NDArray[np.int64]]
    classes: NDArray[np.intp]

    @classmethod
    def of(cls, planes: Sequence[Plane], dataset: Dataset, ndim: int, *, workers: int) -> Foreground:
        """Count the pixels of each class that have a weight."""
        count = partial(_count, label_kind=dataset.label_kind, n_classes=max(2, len(dataset.classes)))
        counts = []
        with ThreadPoolExecutor(workers) as pool:
            for example, t, z in planes:
                parts = [
                    np.concatenate(list(pool.map(partial(count, example), line)), axis=2)
                    for line in _lines(example, t, z, ndim)
                ]
                counts.append(np.concatenate(parts, axis=1))
        lines = [np.cumsum(found.sum(axis=2, dtype=np.int64), axis=1) for found in counts]
        ends = np.cumsum([found[:, -1] for found in lines], axis=0)
        classes = np.flatnonzero(ends[-1][1:]) + 1
        if not len(classes):
            raise InputError(
                "--sampling foreground: the training images show background only, or what weighs 0",
                fix="--sampling uniform",
            )
        return cls(planes, ndim, dataset.label_kind, counts, ends, lines, classes)

    def draw(self, rng: np.random.Generator) -> tuple[int, Position]:
        """Draw a class, each as often, and any pixel of it; return the number of its plane, and (z, y, x)."""
        chosen = int(self.classes[rng.integers(len(self.classes))])
        return self.pixel(chosen, int(rng.integers(self.plane_ends[-1, chosen])))

    def pixel(self, chosen: int, number: int) -> tuple[int, Position]:
        """Find a pixel of a class by its number: return the number of its plane, and (z, y, x)."""
        plane, rest = _find(self.plane_ends[:, chosen], number)
        line, rest = _find(self.line_ends[plane][chosen], rest)
        column, rest = _find(np.cumsum(self.counts[plane][chosen, line], dtype=np.int64), rest)
        example, t, z = self.planes[plane]
        _, _, _, height, width = example.image.shape
        depth, row = divmod(line, -(-height // BLOCK))
        z, y, x = z + depth, row * BLOCK, column * BLOCK
        box = Box((t, 0, z, y, x), (t + 1, 1, z + 1, min(y + BLOCK, height), min(x + BLOCK, width)))
        classes, counted = _read_classes(example, box, self.label_kind)
        is_chosen = classes == chosen if counted is None else (classes == chosen) & counted
        dy, dx = np.unravel_index(np.flatnonzero(is_chosen)[rest], is_chosen.shape)
        return plane, (z, y + int(dy), x + int(dx))


def _find(ends: NDArray[np.int64], number: int) -> tuple[int, int]:
    """Find which part a number falls into, by where parts end, and what it is counted from the begin of that part."""
    at = int(np.searchsorted(ends, number, side="right"))
    return at, number - (int(ends[at - 1]) if at else 0)


def _lines(example: Example, t: int, z: int, ndim: int) -> Iterator[list[Box]]:
    """Cut a plane, or each plane of a volume, to pieces; yield each line of them."""
    _, _, depth, height, width = example.image.shape
    for plane in range(z, z + 1) if ndim == 2 else range(depth):
        for y, y_stop in spans(0, height, PIECE):
            yield [Box((t, 0, plane, y, a), (t + 1, 1, plane + 1, y_stop, b)) for a, b in spans(0, width, PIECE)]


def _count(example: Example, box: Box, *, label_kind: str | None, n_classes: int) -> NDArray[np.uint16]:
    return count_classes(*_read_classes(example, box, label_kind), n_classes)


def _read_classes(example: Example, box: Box, label_kind: str | None) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read the class of each pixel (y, x) of a part of a plane, and which of them have a weight."""
    classes = classes_of(example, (example.target or example.truth).read(box)[0, 0, 0], label_kind)
    return classes, example.weights.read(box)[0, 0, 0] > 0 if example.weights else None


def _any_weight(planes: Sequence[Plane], ndim: int) -> bool:
    """Tell whether any pixel counts; reading stops at the first that does."""
    return any(
        example.weights is None or bool(example.weights.read(box).any())
        for example, t, z in planes
        for line in _lines(example, t, z, ndim)
        for box in line
    )


def mirrored_note(planes: Sequence[Plane], output: Shape) -> list[str]:
    """Say which volumes are smaller than the part of a patch that counts, so that they are mirrored."""
    small = [e.name for e, _, _ in planes if any(n < size for n, size in zip(e.image.shape[2:], output, strict=True))]
    if not small:
        return []
    shown = f"{len(small)} of {len(planes)} training volumes are" if len(planes) > 1 else "the training volume is"
    note = (
        f"{shown} ({', '.join(dict.fromkeys(small[:5]))}) smaller than a patch of {'x'.join(map(str, output))} pixels, "
        "so mirrored at the edges; a smaller --patch-size saves that"
    )
    return [note]
