"""A level of a pyramid in place of the image: what a network sees, and the way back to full size.

Pixel ``i`` of a level covers ``[i * factor, (i + 1) * factor)`` of the full size, whether or not the level
says where its first pixel lies: pyramids are means of blocks, and few writers say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.axes import MICROMETERS, Axes
from unetcli.image.region import Region
from unetcli.image.resample import SPACE, Factors, Resampling, snapped
from unetcli.image.source import View, read_mirrored
from unetcli.image.store import Image, Level
from unetcli.image.tiling import Box, Shape, Tile

SAME_SIZE = 1.1
"""Pixel sizes that differ by less are the same to a network."""


@dataclass(frozen=True)
class Subject:
    """An image to segment: the level that the network sees, and what is written.

    Parameters
    ----------
    name
        Of the image.
    level
        What the network sees.
    shape, axes
        Of what is written; (t, c, z, y, x), with as many channels as the image.
    first
        Where the centre of the first pixel that is written lies, from that of the image, by axis.
    way
        How what is written is made of what the network returns.
    region
        What of it is computed, if not all.
    others
        Further levels of the same image, whose results are averaged with this one's.
    """

    name: str
    level: Level
    shape: Shape
    axes: Axes
    first: Mapping[str, float]
    way: Resampling
    region: Region | None = None
    others: tuple[Subject, ...] = ()

    @classmethod
    def of_scales(cls, image: Image, numbers: Sequence[int], upsample: str) -> Subject:
        """Take one or several levels of an image; see `of`."""
        first, *others = (cls.of(image, number, upsample) for number in numbers)
        return replace(first, others=tuple(others))

    @classmethod
    def of(cls, image: Image, number: int, upsample: str) -> Subject:
        """Take a level of an image; bring it back by ``bilinear`` or ``nearest``, or not at all (``none``)."""
        level, full = image.at(number), image.level
        factors = level_factors(full, level)
        if upsample == "none":
            by = dict(zip("zyx", factors, strict=True))
            first = {axis: full.axes.scale_of(axis) * (factor - 1) / 2 for axis, factor in by.items()}
            same = Resampling(level.shape, (1.0, 1.0, 1.0))
            return cls(image.name, level, level.shape, full.axes.scaled(by), first, same)
        back = Resampling(level.shape, (1 / factors[0], 1 / factors[1], 1 / factors[2]), upsample)
        return cls(image.name, level, full.shape, full.axes, {}, back)

    def inner(self, core: Box, strides: Sequence[int]) -> Box:
        """Return the part of the level for a core.

        It starts on the network's strides, along (y, x) or (z, y, x), so that any tiling agrees.
        """
        inner = self.way.source_box(core)
        for axis, stride in enumerate(strides, start=5 - len(strides)):
            inner = inner.replace(axis, inner.start[axis] // stride * stride, inner.stop[axis])
        return inner


@dataclass(frozen=True)
class LevelTile(Tile):
    """A tile that is computed at a level, and written at full size.

    Parameters
    ----------
    core
        What is written, in pixels of what is written.
    read, inner
        What is read, and what is computed of it, in pixels of the level; nothing, where `part` is None.
    way
        From `inner` to `part`.
    part
        What is computed of the core.
    region
        What is computed of the image, if not all.
    others
        The same core at further levels, and these levels.
    """

    inner: Box
    way: Resampling
    part: Box | None
    region: Region | None = None
    others: tuple[tuple[Level, LevelTile], ...] = ()

    @property
    def is_full_size(self) -> bool:
        """Whether what is computed is written as it is."""
        return all(factor == 1 for factor in self.way.factors)

    def bring_back(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part, from values of `inner` (t, c, z, y, x)."""
        assert self.part is not None
        return self.way(block, self.inner, self.part, np.float32)

    def in_core(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return the core, which is 0 where nothing is computed, from the part of it (t, c, z, y, x)."""
        if self.region is None or self.part is None:
            return block
        core = self.core.replace(1, 0, block.shape[1])
        result = np.zeros(core.shape, block.dtype)
        result[self.part.replace(1, 0, block.shape[1]).relative_to(core.start).slices] = block
        self.region.clear(result, core)
        return result


@dataclass(frozen=True)
class Elsewhere(View):
    """A source that is read at a box of its own, whatever box the tile has: that of the tile at another level."""

    box: Box

    def read(self, box: Box) -> NDArray[Any]:  # noqa: ARG002 - as sources have it
        """Return what lies at its own box, mirrored at the edges of the image."""
        return read_mirrored(self.source, self.box)


def level_factors(full: Level, level: Level) -> Factors:
    """Return how many pixels of the full size along z, y and x are one of a level.

    This is what the pixel sizes say, if the numbers of pixels do not speak against it: the last row of an odd
    image belongs to no pixel of the level, so these alone would be a little off.

    Raises
    ------
    InputError
        If the level has other time points or channels.
    """
    if level.shape[:2] != full.shape[:2]:
        raise InputError(f"{level.path}: has other time points or channels than level 0", fix="--level 0")
    found = []
    for axis, name in SPACE.items():
        n, m = full.shape[axis], level.shape[axis]
        stated = snapped(level.axes.scale_of(name) / full.axes.scale_of(name))
        found.append(stated if abs(n / stated - m) <= 1 else n / m)
    return found[0], found[1], found[2]


def size_note(image: Image, number: int, trained: Mapping[str, Any]) -> str | None:
    """Say that the pixels of a level have another size than those that a model was trained on.

    Parameters
    ----------
    image, number
        The level.
    trained
        Pixel size by axis name, and ``unit``, as a model says it.

    Returns
    -------
    str or None
        None, if the sizes are the same or one is not known.
    """
    model_um = MICROMETERS.get(str(trained.get("unit")), 0) * float(trained.get("x") or 0)
    found_um = image.at(number).axes.micrometers_of("x")
    if not model_um or found_um is None or _same(found_um, model_um):
        return None
    sizes_um = [image.at(k).axes.micrometers_of("x") for k in range(len(image.levels))]
    fits = [k for k, size in enumerate(sizes_um) if size and _same(size, model_um)]
    remedy = f"--level {fits[0]}" if fits else f"unetcli prep --target-pixel-size {model_um:g}um makes an image that"
    return (
        f"pixels are {found_um:g} µm, the model was trained on {model_um:g} µm: objects look "
        f"{model_um / found_um:.2g} times as large to it ({remedy} fits)"
    )


def _same(a: float, b: float) -> bool:
    return 1 / SAME_SIZE <= a / b <= SAME_SIZE
