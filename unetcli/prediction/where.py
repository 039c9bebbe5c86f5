"""Where to predict: in a region that the user gives, or on the tissue or cells that a low level of an image shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.axes import Channel, default_channels
from unetcli.image.levels import Subject, level_factors
from unetcli.image.location import Location, parse_location
from unetcli.image.region import Region, region_of
from unetcli.image.store import Image, Level, Store, open_store
from unetcli.image.streaming import reduce_tiles, work_on
from unetcli.image.tiling import TileGrid

Block = NDArray[Any]
TISSUE = "tissue"
COARSEST = 32
"""The tissue is looked for at the coarsest level whose pixels are at most so many of the full size."""
BINS = 2**16
READ = 1024


def restricted(
    source: Store, groups: Mapping[str, Subject], where: str, *, deep: bool
) -> tuple[dict[str, Subject], list[Location]]:
    """Restrict what is predicted of each image to a region.

    Parameters
    ----------
    source
        The images.
    groups
        What is segmented of each image, in their order.
    where
        ``tissue``, the name of labels of the images, or the path of a store of labels or masks of the same field.
    deep
        Whether the network takes volumes.

    Returns
    -------
    groups
        With a region each.
    inputs
        What tells the regions, besides the images.
    """
    if where == TISSUE:
        names = [Channel(name) for name in source.attributes.get("data", {}).get("channels", ())]
        found = {
            group: _tissue(image, subject, names, deep=deep)
            for (group, subject), image in zip(groups.items(), source.images, strict=True)
        }
        return {group: replace(groups[group], region=region) for group, region in found.items()}, []
    levels, inputs = _given(source, where)
    regions = {
        group: _labelled(level, subject, deep=deep)
        for (group, subject), level in zip(groups.items(), levels, strict=True)
    }
    return {group: replace(groups[group], region=region) for group, region in regions.items()}, inputs


def absolute(source: Store, where: str | None) -> str | None:
    """Return what `restricted` takes for processes that work in other folders."""
    is_path = where not in (None, TISSUE) and not _names_labels(source, str(where))
    return str(parse_location(str(where)).resolve()) if is_path else where


def _names_labels(source: Store, where: str) -> bool:
    return all(where in image.label_names for image in source.images)


def share_skipped(subjects: Sequence[Subject]) -> str:
    """Say which part of the pixels of some images is not predicted."""
    shapes = [(subject.region, subject.shape) for subject in subjects if subject.region]
    n = sum(math.prod(shape) // shape[1] for _, shape in shapes)
    return f"{1 - sum(region.count(shape) for region, shape in shapes) / n:.1%} of the image"


def _given(source: Store, where: str) -> tuple[list[Level], list[Location]]:
    """Return the labels that tell the region of each image, and where they are kept."""
    if _names_labels(source, where):
        return [image.labels(where) for image in source.images], [i.path / "labels" / where for i in source.images]
    path = parse_location(where)
    store = open_store(path, is_label=True)
    if len(store.images) == len(source.images) == 1:
        return [store.images[0].level], [path]
    levels = {image.name: image.level for image in store.images}
    missing = [image.name for image in source.images if image.name not in levels]
    if missing:
        raise InputError(
            f"{where}: has no image {', '.join(missing[:5])}; expected one for each image of {source.path}",
            fix="name its images as those that are segmented",
        )
    return [levels[image.name] for image in source.images], [path]


def _labelled(level: Level, subject: Subject, *, deep: bool) -> Region:
    return region_of(
        level, lambda pixels: np.any(pixels != 0, axis=1, keepdims=True), subject.shape, _scale(subject), deep=deep
    )


def _scale(subject: Subject) -> tuple[float, ...]:
    return tuple(subject.axes.scale_of(axis) for axis in "zyx")


# ------------------------------------------------------------------------------------------- tissue


def _tissue(image: Image, subject: Subject, names: Sequence[Channel], *, deep: bool) -> Region:
    """Find the tissue, or the cells, of an image at a low level of its pyramid.

    Colours are those of bright field: the background is bright, and what has a dark or coloured pixel is tissue, which
    is where the smallest of red, green and blue is small. Other images have a dark background: tissue is where any
    channel is bright. What is small or bright is told by Otsu's threshold of the whole level, for each channel its own.
    """
    fine_enough = [k for k in range(len(image.levels)) if max(_zoom(image, k)) <= COARSEST]
    level = image.at(max(fine_enough, default=0))
    brightness = partial(_brightness, is_colour=_is_colour(names or image.level.channels, level.shape[1]))
    thresholds = _thresholds(level, brightness)

    def is_inside(pixels: Block) -> Block:
        return np.asarray((brightness(pixels) >= thresholds[:, None, None, None]).any(1, keepdims=True))

    return region_of(level, is_inside, subject.shape, _scale(subject), deep=deep)


def _zoom(image: Image, number: int) -> tuple[float, ...]:
    return level_factors(image.level, image.at(number))


def _is_colour(channels: Sequence[Channel], n: int) -> bool:
    """Tell whether channels are red, green and blue: three that are called so, or that nobody named."""
    names = [channel.name.lower() for channel in channels]
    return n == 3 and names in ([], [channel.name for channel in default_channels(3)])


def _brightness(pixels: Block, *, is_colour: bool) -> Block:
    """Return what is large on tissue, for each channel or for all together."""
    values = pixels.astype(np.float32)
    return -values.min(axis=1, keepdims=True) if is_colour else values


def _thresholds(level: Level, brightness: partial[Block]) -> Block:
    """Return the least value of tissue in each channel: the lowest that there is, where all are alike."""
    y, x = level.chunk[3:]
    cores = (1, level.shape[1], level.chunk[2], y * max(1, READ // y), x * max(1, READ // x))

    def extremes(_: object, pixels: Block) -> tuple[Block, Block]:
        values = brightness(pixels)
        return values.min((0, 2, 3, 4)), values.max((0, 2, 3, 4))

    lows, highs = zip(*reduce_tiles(extremes, work_on("tissue", TileGrid(level.shape, cores), [level])), strict=True)
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)

    def counts(_: object, pixels: Block) -> Block:
        values = np.moveaxis(brightness(pixels), 1, 0)
        return np.stack([np.histogram(v, BINS, (a, b))[0] for v, a, b in zip(values, low, high, strict=True)])

    total = np.zeros((len(low), BINS), np.int64)
    for found in reduce_tiles(counts, work_on("tissue", TileGrid(level.shape, cores), [level])):
        total += found
    last = np.array([otsu(c) for c in total])
    thresholds: Block = np.where(low < high, low + (last + 1) * (high - low) / BINS, low).astype(np.float32)
    return thresholds


def otsu(counts: NDArray[np.integer[Any]]) -> int:
    """Return the last bin of the darker of two classes that differ most: Otsu's threshold of a histogram.

    Notes
    -----
    The largest of ``w0 w1 (m0 - m1)**2``, with the share `w` and the mean `m` of both classes [1]_.

    References
    ----------
    .. [1] Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9, 1979.
    """
    bins = np.arange(len(counts))
    below, sum_below = np.cumsum(counts)[:-1], np.cumsum(counts * bins)[:-1]
    above, sum_above = counts.sum() - below, (counts * bins).sum() - sum_below
    means_apart = sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)
    return int(np.argmax(below.astype(float) * above * means_apart**2))
