"""Regions of TIFF pages: only the strips or tiles that a region needs are read and decoded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.image.cache import SHARED
from unetcli.image.raw import opened, pread, read_contiguous
from unetcli.image.source import AnyArray, Region

BAND_ROWS = 4096
"""Rows of the tiles that read an image in raster order: the strips of one band of them are needed again and again."""
JPEG_COMPRESSIONS = frozenset({6, 7, 34892, 33007})
Decode = Callable[..., Any]
"""`tifffile.TiffPage.decode`: bytes and index of a segment to its pixels, position and shape."""


@dataclass(frozen=True)
class Page:
    """Where the segments of a page are."""

    path: Path
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    jpeg_tables: bytes | None


@dataclass(frozen=True)
class PageFormat:
    """How every page of an image is stored.

    Parameters
    ----------
    shape
        (separate sample, depth, y, x, interleaved sample).
    segment
        Shape of a strip or tile along the same axes.
    dtype
        Of the pixels once decoded; of the stored ones, with their byte order, if `is_raw`.
    is_raw
        Whether a page lies in the file in one piece, as it is.
    decode
        Turns the bytes of a segment into its pixels.
    is_jpeg, jpeg_header
        Whether `decode` needs the tables of the page, and this header, besides.
    fill
        Value of the pixels of a segment that is not stored.
    """

    shape: tuple[int, ...]
    segment: tuple[int, ...]
    dtype: np.dtype[Any]
    is_raw: bool
    decode: Decode
    is_jpeg: bool
    jpeg_header: bytes | None
    fill: float

    @property
    def segment_bytes(self) -> int:
        """Bytes of a decoded segment."""
        return math.prod(self.segment) * self.dtype.itemsize

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of segments along each axis."""
        return tuple(math.ceil(n / s) for n, s in zip(self.shape, self.segment, strict=True))

    def touched(self, region: Region) -> Iterator[int]:
        """Yield the index of each segment that a region touches."""
        ranges = (range(r.start // s, -(-r.stop // s)) for r, s in zip(region, self.segment, strict=True))
        for position in itertools.product(*ranges):
            yield int(np.ravel_multi_index(position, self.counts))

    def is_inside(self, index: int, region: Region) -> bool:
        """Tell whether all pixels of a segment lie in a region."""
        position = np.unravel_index(index, self.counts)
        sides = zip(position, self.segment, self.shape, region, strict=True)
        return all(r.start <= p * s and min((p + 1) * s, n) <= r.stop for p, s, n, r in sides)


def band_bytes(page_format: PageFormat) -> int:
    """Return the bytes of the segments that a band of tiles over the full width of a page needs."""
    rows, height = page_format.counts[2], page_format.segment[2]
    in_band = min(rows, -(-BAND_ROWS // height) + 1)
    return page_format.segment_bytes * math.prod(page_format.counts) // rows * in_band


class PagedReader:
    """Reads regions of an image whose outer axes are pages.

    Parameters
    ----------
    shape
        Of the image, in the order of the file: the axes of the pages' sequence, then those of a page.
    pages
        All pages, in C order.
    format
        How they are stored.

    Raises
    ------
    ValueError
        If the shape is not made of such pages.
    """

    def __init__(self, shape: tuple[int, ...], pages: list[Page], page_format: PageFormat) -> None:
        self.pages, self.format, self._key = pages, page_format, object()
        self._long = [i for i, n in enumerate(shape) if n > 1]  # axes of size 1 may be named or not: left out
        self._page_long = [i for i, n in enumerate(page_format.shape) if n > 1]
        n_outer = len(self._long) - len(self._page_long)
        sizes = [shape[i] for i in self._long]
        inner = [page_format.shape[i] for i in self._page_long]
        if n_outer < 0 or sizes[n_outer:] != inner or math.prod(sizes[:n_outer]) != len(pages):
            raise ValueError(f"{len(pages)} pages of {inner} do not make up {sizes}")
        self._outer = tuple(sizes[:n_outer])

    def __call__(self, region: Region) -> AnyArray:
        """Return a region, in the order of the file."""
        long = [region[i] for i in self._long]
        outer, inner = long[: len(self._outer)], [slice(0, 1)] * len(self.format.shape)
        for axis, extent in zip(self._page_long, long[len(self._outer) :], strict=True):
            inner[axis] = extent
        positions = list(itertools.product(*(range(s.start, s.stop) for s in outer)))
        out = np.empty((len(positions), *(s.stop - s.start for s in inner)), self.format.dtype)
        for block, position in zip(out, positions, strict=True):
            index = int(np.ravel_multi_index(position, self._outer)) if position else 0
            self._read_page(index, tuple(inner), block)
        return out.reshape([s.stop - s.start for s in region])

    def _read_page(self, index: int, region: Region, out: AnyArray) -> None:
        page = self.pages[index]
        with opened(page.path) as file:
            if self.format.is_raw:
                shape, dtype = self.format.shape, self.format.dtype
                out[...] = read_contiguous(file, page.offsets[0], shape, dtype, region)
                return
            out[...] = self.format.fill
            for i in self.format.touched(region):
                if i < len(page.offsets) and page.byte_counts[i] and page.offsets[i]:
                    self._paste(self._segment(file, page, index, i, region), i, region, out)

    def _segment(self, file: int, page: Page, index: int, i: int, region: Region) -> AnyArray:
        """Return a segment, from the cache if other regions need it too: one that is inside is needed once."""
        if self.format.is_inside(i, region):
            return self._decode(file, page, i)
        return SHARED.get((self._key, index, i), lambda: self._decode(file, page, i))

    def _decode(self, file: int, page: Page, index: int) -> AnyArray:
        data = pread(file, page.byte_counts[index], page.offsets[index])
        arguments: dict[str, Any] = {}
        if self.format.is_jpeg:
            arguments = {"jpegtables": page.jpeg_tables, "jpegheader": self.format.jpeg_header}
        segment, _, _ = self.format.decode(data, index, **arguments)
        if segment is None:
            raise ValueError(f"segment {index} is empty")
        pixels: AnyArray = segment.astype(self.format.dtype, copy=False)
        return pixels

    def _paste(self, segment: AnyArray, index: int, region: Region, out: AnyArray) -> None:
        position = np.unravel_index(index, self.format.counts)
        starts = tuple(int(p) * s for p, s in zip(position, self.format.segment, strict=True))
        paste(segment[np.newaxis], starts, region, out)  # a segment has no axis of separate samples


def paste(block: AnyArray, starts: tuple[int, ...], region: Region, out: AnyArray) -> None:
    """Copy the part of a block that lies in a region to its place there.

    Parameters
    ----------
    block, starts
        Pixels, and where in the image the first of them lies.
    region, out
        Of the image, and the array that covers it.
    """
    into, of = [], []
    for extent, start, size in zip(region, starts, block.shape, strict=True):
        a, b = max(extent.start, start), min(extent.stop, start + size)
        into.append(slice(a - extent.start, b - extent.start))
        of.append(slice(a - start, b - start))
    out[tuple(into)] = block[tuple(of)]
