"""TIFF files: axes, checks and notes; the pixels are read by `segments.py` and `raw.py`."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TIFF, TiffFile, TiffPage, TiffPageSeries

from unetcli.errors import InputError
from unetcli.image.pixel_size import ome_pixels, pixel_size
from unetcli.image.raw import check_budget, contiguous_reader
from unetcli.image.segments import JPEG_COMPRESSIONS, Page, PagedReader, PageFormat, SegmentCache
from unetcli.image.source import (
    AnyArray,
    FileSource,
    ReadRegion,
    Region,
    ask_for_axes,
    check_dtype,
    check_not_empty,
    check_order,
    decoding,
    file_source,
    sizes_text,
    unnamed_pages_note,
)

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is checked and said here

MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
PHOTOMETRIC_TAG, ORIENTATION_TAG = 262, 274
ALPHA = (1, 2)  # extra samples: premultiplied and plain alpha
NAMES = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}
WHITE_ZERO_NOTES = {
    False: "stored with 0 as white: inverted, so that bright is high",
    True: "stored with 0 as white: labels are taken as they are, not inverted",
}
UNNAMED = "QI"
"""Letters of tifffile for axes that the file does not name."""


def open_tiff(path: Path, *, axes: str | None, is_label: bool) -> FileSource:
    """Open the first image of a TIFF file at full resolution."""
    with decoding(path, "can not be read as TIFF"), TiffFile(path) as tif:
        check_pages(path, tif)
        series = tif.series[0]
        shape = tuple(int(n) for n in series.shape)
        check_not_empty(path, (*shape, *series.keyframe.shaped))
        if series.dtype is None or series.keyframe.dtype is None:
            raise InputError(f"{path}: has pixels of an unknown type; expected integers or floats")
        dtype = np.dtype(series.dtype)
        check_dtype(path, dtype, is_label=is_label)
        check_colours(path, series.keyframe, is_imagej=tif.is_imagej, is_label=is_label)
        order, file_shape, unnamed = file_order(path, series, axes)
        read_region, sparse = make_reader(path, tif, series, file_shape)
        white_zero = is_white_zero(series.keyframe)
        if white_zero and not is_label:
            read_region = inverting(read_region, series.keyframe.bitspersample)
        n_channels, alpha = shown_channels(series.keyframe, order, file_shape, is_chosen=axes is not None)
        notes = (
            (unnamed_pages_note() if unnamed else ""),
            alpha,
            (WHITE_ZERO_NOTES[is_label] if white_zero else ""),
            sparse,
            *page_notes(tif, series, is_label=is_label),
        )
        return file_source(
            path,
            order,
            file_shape,
            dtype,
            read_region,
            pixel_size=pixel_size(tif),
            n_channels=n_channels,
            notes=tuple(n for n in notes if n),
            pages_unnamed=unnamed,
        )


def check_pages(path: Path, tif: TiffFile) -> None:
    """Refuse a file whose list of pages was cut off or damaged: the pages found would be only a part."""
    n_pages = len(tif.pages)
    if n_pages == 0:
        raise InputError(
            f"{path}: holds no pages; expected a TIFF image", fix="it was cut off: copy or export it again"
        )
    last = tif.pages[n_pages - 1]
    if last.offset > 0 and not (tif.is_ndpi or tif.is_lsm) and (after := next_page(tif, last.offset)):
        raise InputError(
            f"{path}: the list of pages breaks off after {n_pages} (the next would be at byte {after} "
            f"of {tif.filehandle.size})",
            fix="the file was cut off or is damaged: copy or export it again",
        )
    promised = promised_pages(tif)
    if promised > n_pages and not any(s.is_multifile for s in tif.series):
        raise InputError(
            f"{path}: holds {n_pages} pages; its OME-XML promises {promised}",
            fix="the file was cut off, or its other files are missing: copy or export it again",
        )


def next_page(tif: TiffFile, offset: int) -> int:
    """Return where the page after the one at an offset should be; 0 after the last one."""
    layout, file = tif.tiff, tif.filehandle
    file.seek(offset)
    n_tags = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))[0]
    file.seek(offset + layout.tagnosize + n_tags * layout.tagsize)
    data = file.read(layout.offsetsize)
    return int(struct.unpack(layout.offsetformat, data)[0]) if len(data) == layout.offsetsize else 0


def promised_pages(tif: TiffFile) -> int:
    """Return the number of pages that OME-XML promises; 0 if it does not."""
    if not tif.is_ome:
        return 0
    pixels = ome_pixels(tif.ome_metadata or "")
    n_planes = math.prod(int(pixels.get(f"Size{a}", 0)) for a in "ZCT")
    return n_planes // max(1, int(tif.pages[0].samplesperpixel))


def check_colours(path: Path, page: TiffPage, *, is_imagej: bool, is_label: bool) -> None:
    """Refuse colours that are neither grey nor RGB."""
    kind = int(page.photometric)
    name = getattr(page.photometric, "name", str(kind))
    if kind == PALETTE and not (is_label or is_imagej):
        raise InputError(
            f"{path}: has a colour palette; expected grey or RGB",
            fix="convert it to RGB or grey (the indices of a palette are taken only as labels)",
        )
    is_converted = kind == YCBCR and int(page.compression) in JPEG_COMPRESSIONS
    if kind not in (MINISWHITE, MINISBLACK, RGB, PALETTE) and not is_converted:
        raise InputError(f"{path}: has colours of kind {name}; expected grey or RGB", fix="convert it to RGB")


def file_order(path: Path, series: TiffPageSeries, axes: str | None) -> tuple[str, tuple[int, ...], bool]:
    """Return the axes of a series, its shape, and whether pages without a name were taken as z planes."""
    shape, letters = tuple(int(n) for n in series.shape), str(series.axes)
    if axes is not None:
        if len(axes) != len(shape):  # tifffile may have left out axes of size 1, or kept them
            full = tuple(int(n) for n in series.get_shape(False))
            shape = full if len(axes) == len(full) else long_axes(shape, letters)[0]
        return check_order(path, axes, shape), shape, False
    shape, letters = long_axes(shape, letters)
    order = "".join(NAMES.get(a, "?") for a in letters)
    unnamed = [a for a in letters if a in UNNAMED]
    is_pages = len(unnamed) == 1 and order.count("?") == 1 and set(letters) <= set("QIYXS")
    if is_pages:
        order = order.replace("?", "z")
    if "?" in order or len(set(order)) != len(order) or not set("yx") <= set(order):
        raise ask_for_axes(path, shape, f"that the file calls {letters}")
    return order, shape, is_pages


def long_axes(shape: tuple[int, ...], letters: str) -> tuple[tuple[int, ...], str]:
    """Leave out the axes of size 1, but not y and x."""
    kept = [i for i, (n, a) in enumerate(zip(shape, letters, strict=True)) if n > 1 or a in "YX"]
    return tuple(shape[i] for i in kept), "".join(letters[i] for i in kept)


def make_reader(path: Path, tif: TiffFile, series: TiffPageSeries, shape: tuple[int, ...]) -> tuple[ReadRegion, str]:
    """Return what reads regions of a series, and a note on segments that are not stored."""
    if series.transform is not None:
        raise InputError(f"{path}: is a TIFF of kind {series.kind}, which can not be read in parts")
    stored = np.dtype(series.dtype).newbyteorder(tif.byteorder)
    offset = None if series.is_multifile else series.dataoffset
    if offset is not None:
        check_end(path, tif.filehandle.size, [offset + math.prod(shape) * stored.itemsize])
        return contiguous_reader(path, offset, shape, stored), ""
    if any(page is None for page in series):
        raise InputError(
            f"{path}: planes are missing; they should be in other files of the same image",
            fix="put all files of the image into one folder, or export it as one file",
        )
    page_format = format_of(series.keyframe, stored)
    pages = [page_of(page) for page in series]
    n_sparse = check_segments(path, pages, page_format)
    note = f"{n_sparse} strips or tiles are not stored: read as {page_format.fill:g}" if n_sparse else ""
    return PagedReader(shape, pages, page_format, SegmentCache()), note


def format_of(page: TiffPage, stored: np.dtype[Any]) -> PageFormat:
    """Describe how a page, and all that are like it, is stored."""
    if int(page.compression) != 1 and int(page.compression) not in TIFF.DECOMPRESSORS:
        raise ValueError(f"compression {int(page.compression)} is not known")
    tile = (page.tiledepth, page.tilelength, page.tilewidth)
    segment = tile if page.is_tiled else (1, page.rowsperstrip, page.imagewidth)
    if not all(n > 0 for n in segment):
        raise ValueError(f"strips or tiles of {sizes_text(segment)} pixels")
    return PageFormat(
        shape=tuple(page.shaped),
        segment=(1, *segment, page.shaped[4]),
        dtype=stored if page.is_final else stored.newbyteorder("="),
        is_raw=bool(page.is_final),
        decode=page.decode,
        is_jpeg=int(page.compression) in JPEG_COMPRESSIONS,
        jpeg_header=page.jpegheader,
        fill=page.nodata,
    )


def page_of(page: TiffPage) -> Page:
    """Note where the segments of a page are."""
    path = Path(page.parent.filehandle.path)
    return Page(path, tuple(page.dataoffsets), tuple(page.databytecounts), page.jpegtables)


def check_segments(path: Path, pages: list[Page], page_format: PageFormat) -> int:
    """Check that all segments lie in their files and fit into memory; return how many are not stored."""
    shape, dtype = page_format.shape, page_format.dtype
    if page_format.is_raw:
        n_bytes = math.prod(shape) * dtype.itemsize
        for page in pages:
            check_end(page.path, page.path.stat().st_size, [page.offsets[0] + n_bytes])
        return 0
    largest = math.prod(page_format.segment) * dtype.itemsize
    check_budget(path, largest)
    n_segments, n_stored = math.prod(page_format.counts), 0
    for page in pages:
        ends = [a + n for a, n in zip(page.offsets, page.byte_counts, strict=False) if a and n]
        check_end(page.path, page.path.stat().st_size, ends)
        n_stored += min(len(ends), n_segments)
        if not ends:
            raise InputError(f"{path}: a page has no pixels stored; expected {n_segments} strips or tiles")
    return n_segments * len(pages) - n_stored


def check_end(path: Path, size: int, ends: Iterable[int]) -> None:
    """Refuse a file that ends before its pixels do."""
    last = max(ends, default=0)
    if last > size:
        raise InputError(
            f"{path}: is {size} bytes long; expected at least {last}, where its pixels end",
            fix="the file was cut off or is damaged: copy or export it again",
        )


def is_white_zero(page: TiffPage) -> bool:
    """Tell whether a page says that 0 is white; a page that says nothing does not."""
    return int(page.photometric) == MINISWHITE and PHOTOMETRIC_TAG in page.tags and page.dtype.kind != "f"


def inverting(read_region: ReadRegion, n_bits: int) -> ReadRegion:
    """Return a reader that turns the grey levels round."""

    def read_inverted(region: Region) -> AnyArray:
        block = read_region(region)
        if block.dtype.kind == "u":
            top = block.dtype.type(2**n_bits - 1)
            return np.asarray(top - block)
        return np.asarray(np.invert(block))  # bool, and signed integers: -1 - value

    return read_inverted


def shown_channels(page: TiffPage, order: str, shape: tuple[int, ...], *, is_chosen: bool) -> tuple[int | None, str]:
    """Return the number of channels without an alpha channel, and a note; None for all of them."""
    extra = tuple(int(e) for e in page.extrasamples)
    is_rgba = int(page.photometric) == RGB and page.samplesperpixel == 4 and extra[:1] and extra[0] in ALPHA
    if is_chosen or not is_rgba or "c" not in order or shape[order.index("c")] != 4:
        return None, ""
    named = order if len(order) <= 3 else order[-3:]
    return 3, f"the alpha channel (transparency) is left out (--axes {named} keeps it)"


def page_notes(tif: TiffFile, series: TiffPageSeries, *, is_label: bool) -> Iterable[str]:
    """Yield what a user should know about the rest of the file."""
    if len(tif.series) > 1:
        yield f"holds {len(tif.series)} images: the first is taken"
    orientation = series.keyframe.tags.get(ORIENTATION_TAG)
    if orientation is not None and orientation.value != 1:
        yield "is marked as rotated: rows and columns are taken as stored"
    if int(series.keyframe.photometric) == PALETTE:
        yield "has a palette: " + ("its indices are the labels" if is_label else "left out, grey levels are taken")
    if tif.is_ome and series.kind != "ome":
        yield "its OME-XML can not be used: pages are taken as they are"
