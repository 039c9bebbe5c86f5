"""What the stages read: an image in the axes t, c, z, y, x, box by box."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError, UnetcliError
from unetcli.image.axes import AXES, Axes, Channel
from unetcli.image.location import Location
from unetcli.image.tiling import Box, mirror_index

AnyArray = NDArray[Any]
Region = tuple[slice, ...]
ReadRegion = Callable[[Region], AnyArray]

MEMORY_BUDGET = 2 * 2**30
"""Bytes that one piece which can only be decoded whole may take."""

IMAGE_KINDS = {"b1", "u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"}
LABEL_KINDS = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"}


LARGEST_AXIS = 2**24
LARGEST_EMPTY = 64 * 2**30
LEAST_SHARE = 1e-5
"""What a header may claim: pixels along an axis; bytes of pixels in a file with less than such a share of them."""


@dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Parameters
    ----------
    axes
        Its own order of axes, slowest first (``zyx``, ``yxc``), instead of what the file says.
    is_label
        Whether it holds labels: integers or booleans, which are taken as they are stored.
    level
        Resolution of a pyramid, 0 = full.
    lossy_ok
        Whether labels may be compressed so that pixels change.
    """

    axes: str | None = None
    is_label: bool = False
    level: int = 0
    lossy_ok: bool = False


class Source(Protocol):
    """An image that is read box by box."""

    @property
    def name(self) -> str:
        """Name for messages and for pairing."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Always (t, c, z, y, x), 1 where the image has no such axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        ...

    @property
    def axes(self) -> Axes:
        """The axes that the image really has, with the pixel size."""
        ...

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels as the file describes them; empty where it does not."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Every assumption that was made, in plain words, to be shown to the user."""
        ...

    def read(self, box: Box) -> AnyArray:
        """Return the pixels of a box that lies inside the image; five axes, exactly `box.shape`."""
        ...


def read_mirrored(source: Source, box: Box) -> AnyArray:
    """Read a box that may reach past the image; what lies outside is filled by the mirror image.

    Parameters
    ----------
    source
        The image.
    box
        At least one pixel along each axis, anywhere.

    Returns
    -------
    (t, c, z, y, x) array of shape `box.shape`

    Notes
    -----
    Equal to ``np.pad(mode="reflect")`` of the whole image and a cut, but only the smallest range of pixels
    that the box shows is read.
    """
    shown = [mirror_index(a, b, n) for a, b, n in zip(box.start, box.stop, source.shape, strict=True)]
    inside = Box(tuple(int(i.min()) for i in shown), tuple(int(i.max()) + 1 for i in shown))
    block = source.read(inside)
    if inside == box:
        return block
    result = np.empty(box.shape, block.dtype)
    stretches = [_stretches(pixels - first) for pixels, first in zip(shown, inside.start, strict=True)]
    for parts in itertools.product(*stretches):
        to, of = zip(*parts, strict=True)
        result[to] = block[of]
    return result


def _stretches(pixels: NDArray[np.integer]) -> list[tuple[slice, slice]]:
    """Cut an index at its mirrors: to which slice which slice goes, backwards behind every other mirror."""
    steps = np.diff(pixels)
    cuts = [0, *(np.flatnonzero(steps[1:] != steps[:-1]) + 2), pixels.size]
    found = []
    for a, b in itertools.pairwise(cuts):
        first, last = int(pixels[a]), int(pixels[b - 1])
        if first <= last:
            found.append((slice(a, b), slice(first, last + 1)))
        else:
            found.append((slice(a, b), slice(first, last - 1 if last else None, -1)))
    return found


def read_filled(source: Source, box: Box) -> AnyArray:
    """Read a box that may reach past the image; what lies outside is 0: for labels, no object."""
    inside = box.clip(source.shape)
    if inside == box:
        return source.read(box)
    block = np.zeros(box.shape, dtype=source.dtype)
    block[inside.relative_to(box.start).slices] = source.read(inside)
    return block


@dataclass(frozen=True)
class FileSource:
    """An image file, read in its own order of axes and shown as t, c, z, y, x.

    Parameters
    ----------
    path
        The file.
    order
        Its axes as stored, slowest first: ``yxc``.
    shape
        (t, c, z, y, x), 1 where the file has no such axis.
    dtype
        Of the pixels that `read_region` returns, in native byte order.
    axes
        The axes that the file has, with the pixel size.
    read_region
        Reads a region, one slice per axis of `order`.
    notes
        The assumptions that were made.
    pages_unnamed
        Whether the pages of the file have no axis name and were taken as z planes.
    channels
        The channels as the file describes them; empty where it does not.
    parts
        The files that the image is made of, where they are several.
    palette
        Colours of the indices (red, green, blue of each), where labels keep them.
    """

    path: Location
    order: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: Axes
    read_region: ReadRegion
    notes: tuple[str, ...] = ()
    pages_unnamed: bool = False
    channels: tuple[Channel, ...] = ()
    parts: tuple[Path, ...] = ()
    palette: bytes = b""

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.path.name

    def read(self, box: Box) -> AnyArray:
        """Return the pixels of a box that lies inside the image; five axes, exactly `box.shape`."""
        if box.clip(self.shape) != box:
            raise ValueError(f"{self.path}: box {box} reaches past the image, {self.shape}")
        region = tuple(slice(box.start[AXES.index(a)], box.stop[AXES.index(a)]) for a in self.order)
        with decoding(self.path, f"can not be read at {box}"):
            block = self.read_region(region)
            in_order = block.transpose([self.order.index(a) for a in self.axes.names])
            return np.ascontiguousarray(in_order.reshape(box.shape), dtype=self.dtype)


def file_source(
    path: Location,
    order: str,
    file_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read_region: ReadRegion,
    *,
    pixel_size: Mapping[str, tuple[float, str]] | None = None,
    n_channels: int | None = None,
    notes: tuple[str, ...] = (),
    pages_unnamed: bool = False,
    channels: tuple[Channel, ...] = (),
    parts: tuple[Path, ...] = (),
    palette: bytes = b"",
) -> FileSource:
    """Make the source of a file from its own order of axes.

    Parameters
    ----------
    path, order, read_region, notes, pages_unnamed, channels, parts, palette
        As in `FileSource`.
    file_shape
        Size along each axis of `order`.
    dtype
        As stored; the source shows it in native byte order.
    pixel_size
        Size and unit of a pixel by axis name, where known.
    n_channels
        Number of channels to show, from the first, if not all: an alpha channel comes last.
    """
    names = "".join(a for a in AXES if a in order)
    known = pixel_size or {}
    axes = Axes.of(names, {a: s for a, (s, _) in known.items()}, {a: u for a, (_, u) in known.items()})
    sizes = dict(zip(order, file_shape, strict=True))
    if n_channels is not None:
        sizes["c"] = n_channels
    shape = tuple(sizes.get(a, 1) for a in AXES)
    return FileSource(
        path,
        order,
        shape,
        dtype.newbyteorder("="),
        axes,
        read_region,
        notes=notes,
        pages_unnamed=pages_unnamed,
        channels=channels if len(channels) == shape[1] else (),
        parts=parts,
        palette=palette,
    )


@contextmanager
def decoding(path: Location, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an `InputError` that names the file and the place.

    The decoders of others raise anything from `struct.error` to `ZeroDivisionError` on a damaged file, so
    this one boundary catches every exception but our own.
    """
    try:
        yield
    except UnetcliError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: {what}: {type(error).__name__}{': ' if reason else ''}{reason}",
            fix="open the file in another program; if that fails too, it is damaged: copy or export it again",
        ) from error


def sizes_text(shape: tuple[int, ...]) -> str:
    """Write a shape for people: ``3 x 512 x 512``."""
    return " x ".join(map(str, shape))


def check_dtype(path: Location, dtype: np.dtype[Any], *, is_label: bool) -> None:
    """Refuse a type of pixels that an image, or a label image, can not have."""
    kind = dtype.str[1:]
    if is_label and kind not in LABEL_KINDS:
        raise InputError(
            f"{path}: labels are {dtype.name}; expected integers (object ids or classes) or booleans",
            fix="save the labels as an integer image, for example uint16",
        )
    if not is_label and kind not in IMAGE_KINDS:
        raise InputError(
            f"{path}: pixels are {dtype.name}; expected integers up to 32 bits, floats or booleans",
            fix="convert the image, for example to uint16 or float32",
        )


def check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], n_stored: int) -> None:
    """Refuse a size that a damaged header claims, and that would keep a computer busy for ever.

    Parameters
    ----------
    n_stored
        Bytes of the file, or of what it keeps of these pixels.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if max(shape) > LARGEST_AXIS or (n_bytes > LARGEST_EMPTY and n_stored < n_bytes * LEAST_SHARE):
        raise InputError(
            f"{path}: says that it has {sizes_text(shape)} pixels, in {n_stored} bytes; expected a size that can be "
            f"true, and at most {LARGEST_AXIS:,} pixels along an axis",
            fix="it is damaged: copy or export it again",
        )


def check_level(path: Path, level: int, n_levels: int) -> None:
    """Refuse a level that the file does not have."""
    if not 0 <= level < n_levels:
        has = "1 level" if n_levels == 1 else f"{n_levels} levels"
        raise InputError(
            f"{path}: has {has} of resolution, counted from 0; level {level} is not there",
            fix=f"--level {n_levels - 1}, or another up to it" if n_levels > 1 else "leave out --level",
        )


def check_lossless(path: Path, how: Reading, codec: str) -> None:
    """Refuse labels whose pixels were changed by their compression."""
    if how.is_label and not how.lossy_ok:
        raise InputError(
            f"{path}: labels are compressed as {codec}: {codec} changes pixels, so that ids and class values are not "
            "exact; expected labels compressed without loss",
            fix="export the labels again as PNG or TIFF without JPEG compression; a mask of two classes can be taken "
            "with --label-threshold 128",
        )


def check_order(path: Location, axes: str, shape: tuple[int, ...]) -> str:
    """Check the axes that a user gave for a file against its number of axes; return them in lower case."""
    order = axes.lower()
    if len(order) != len(shape):
        raise InputError(
            f"{path}: --axes {axes} names {len(order)} axes; the file has {len(shape)} ({sizes_text(shape)})",
            fix="give one letter of t, c, z, y, x for each axis, slowest first",
        )
    if not set("yx") <= set(order) <= set(AXES) or len(set(order)) != len(order):
        raise InputError(
            f"{path}: --axes {axes}; expected different letters of t, c, z, y, x, with y and x",
            fix="for example --axes zyx, or --axes yxc for colours stored last",
        )
    return order


def ask_for_axes(path: Location, shape: tuple[int, ...], found: str) -> InputError:
    """Return the error for a file whose axes can not be told from what is in it."""
    example = "tczyx"[-len(shape) :] if len(shape) <= len(AXES) else "tczyx"
    return InputError(
        f"{path}: has {len(shape)} axes ({sizes_text(shape)}) {found}; can not tell what they are",
        fix=f"name them, slowest first: --axes {example}",
    )


def check_not_empty(path: Location, shape: tuple[int, ...]) -> None:
    """Refuse an image without pixels."""
    if 0 in shape or not shape:
        raise InputError(f"{path}: has no pixels (shape {sizes_text(shape) or 'none'}); expected an image")


def unnamed_pages_note(order: str = "zyx") -> str:
    """Return the note for pages without an axis name, which were taken as ``z``."""
    as_channels = "" if "c" in order else f", --axes {order.replace('z', 'c')} as channels"
    as_times = f"--axes {order.replace('z', 't')} to take them as time points"
    return f"pages have no axis names: taken as z planes ({as_times}{as_channels})"


@dataclass(frozen=True)
class View:
    """A source shown in another way; what a view does not change is as in its source."""

    source: Source

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its pixels."""
        return self.source.dtype

    @property
    def axes(self) -> Axes:
        """Axes of the source."""
        return self.source.axes

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels of the source."""
        return self.source.channels

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the source."""
        return self.source.notes

    @property
    def pages_unnamed(self) -> bool:
        """Whether its pages have no axis name and were taken as z planes."""
        return bool(getattr(self.source, "pages_unnamed", False))


@dataclass(frozen=True)
class MemorySource(View):
    """A source that was read once and is kept as an array."""

    pixels: AnyArray

    def read(self, box: Box) -> AnyArray:
        """Return the pixels of a box that lies inside the image."""
        return self.pixels[box.slices]


def in_memory(source: Source) -> Source:
    """Read a source whole, and keep it."""
    return MemorySource(source, source.read(Box.whole(source.shape)))
