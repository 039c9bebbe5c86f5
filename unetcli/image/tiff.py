"""TIFF files, SVS slides and OME-TIFF sets: series, levels, axes; pixels are read by `segments.py` and `raw.py`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFile, TiffPage, TiffPageSeries

from unetcli.errors import InputError
from unetcli.image.cache import LARGEST_BAND, SHARED
from unetcli.image.ome import companion_of, member_files, member_names, read_companion, without_members
from unetcli.image.pixel_size import pixel_size
from unetcli.image.raw import contiguous_reader
from unetcli.image.segments import JPEG_COMPRESSIONS, Decode, Page, PagedReader, PageFormat, band_bytes
from unetcli.image.source import (
    FileSource,
    Reading,
    ReadRegion,
    ask_for_axes,
    check_dtype,
    check_level,
    check_not_empty,
    check_order,
    check_size,
    decoding,
    file_source,
    sizes_text,
    unnamed_pages_note,
)
from unetcli.image.tiff_checks import (
    check_colours,
    check_compression,
    check_end,
    check_pages,
    check_segments,
)
from unetcli.image.tiff_colours import (
    FLOAT_WHITE_ZERO,
    PALETTE_NOTES,
    WHITE_ZERO_NOTES,
    channels_of,
    float_white_zero,
    inverting,
    is_white_zero,
    palette_of,
    palette_use,
    shown_channels,
    through_palettes,
)

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is checked and said here

ORIENTATION_TAG = 274
LZW = 5
CHANNELS_TOGETHER = 4
"""So many channels are read together: those of one tile."""
NAMES = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}
UNNAMED = "QI"
"""Letters of tifffile for axes that the file does not name."""


def open_tiff(path: Path, how: Reading) -> FileSource:
    """Open the first image of a TIFF file, or of the set of OME-TIFF files that it is a part of."""
    with decoding(path, "can not be read as TIFF"), TiffFile(path) as tif:
        xml = tif.ome_metadata or ""
        companion, members = companion_of(xml), member_names(xml)
        if companion is None and not members:
            return open_image(path, tif, how)
    if companion is not None:
        return open_companion(path.parent / companion, how)
    return open_set(path, xml, members, how)


def open_companion(path: Path, how: Reading) -> FileSource:
    """Open the image that a file of OME-XML describes, whose pixels lie in TIFF files beside it."""
    xml = read_companion(path)
    files = member_files(path, list(dict.fromkeys(member_names(xml).values())))
    with decoding(path, f"can not be read with {files[0].name}"), TiffFile(files[0], omexml=xml.strip()) as tif:
        return open_image(path, tif, how, parts=(path, *files))


def open_set(path: Path, xml: str, members: dict[str, str], how: Reading) -> FileSource:
    """Open an image in one OME-TIFF file or several, each of which names all of them.

    A single file may have been renamed since: whatever it calls itself, the pixels are its own.
    """
    is_alone = len(set(members.values())) == 1
    files = () if is_alone else tuple(member_files(path, list(dict.fromkeys(members.values()))))
    omexml = without_members(xml) if is_alone else None
    with decoding(path, "can not be read as TIFF"), TiffFile(path, omexml=omexml) as tif:
        return open_image(path, tif, how, parts=files)


def open_image(path: Path, tif: TiffFile, how: Reading, parts: tuple[Path, ...] = ()) -> FileSource:
    """Open one level of the first image of an open file."""
    check_pages(path, tif)
    full = tif.series[0]
    check_level(path, how.level, len(full.levels))
    series = full.levels[how.level]
    page, shape = series.keyframe, tuple(int(n) for n in series.shape)
    check_not_empty(path, (*shape, *page.shaped))
    if series.dtype is None or page.dtype is None:
        raise InputError(f"{path}: has pixels of an unknown type; expected integers or floats")
    dtype = np.dtype(series.dtype)
    check_dtype(path, dtype, is_label=how.is_label)
    check_size(path, shape, dtype, tif.filehandle.size if not parts else sum(p.stat().st_size for p in parts))
    check_colours(path, page)
    check_compression(path, page, how)
    order, file_shape, unnamed = file_order(path, series, how.axes)
    read_region, storage = make_reader(path, tif, series, order, file_shape)
    white_zero, palette = is_white_zero(page), palette_use(tif, page, is_label=how.is_label)
    if white_zero and not how.is_label:
        read_region = inverting(read_region, page.bitspersample)
    n_channels, alpha = shown_channels(page, order, file_shape, is_chosen=how.axes is not None)
    unnamed_note = unnamed_pages_note(order) if unnamed else ""
    if palette == "rgb":
        read_region = through_palettes(read_region, series, file_shape)
        order, file_shape, dtype = f"{order}c", (*file_shape, 3), np.dtype(np.uint8)
    notes = (
        unnamed_note,
        alpha,
        (WHITE_ZERO_NOTES[how.is_label] if white_zero else FLOAT_WHITE_ZERO if float_white_zero(page) else ""),
        PALETTE_NOTES.get(palette, ""),
        *storage,
        *page_notes(tif, series),
    )
    return file_source(
        path,
        order,
        file_shape,
        dtype,
        read_region,
        pixel_size=pixel_size(tif, coarser(full, series)),
        n_channels=n_channels,
        notes=tuple(n for n in notes if n),
        pages_unnamed=unnamed,
        channels=channels_of(tif, page),
        parts=parts,
        palette=palette_of(page.aspage()).tobytes() if palette == "labels" else b"",
    )


def coarser(full: TiffPageSeries, level: TiffPageSeries) -> dict[str, float]:
    """Return how much larger a pixel of a level is than one of level 0, by axis: exactly, not as a power of two."""
    sizes = zip(full.axes, full.shape, level.shape, strict=False)
    return {NAMES[a]: n / m for a, n, m in sizes if a in "ZYX"}


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


def make_reader(
    path: Path, tif: TiffFile, series: TiffPageSeries, order: str, shape: tuple[int, ...]
) -> tuple[ReadRegion, Iterable[str]]:
    """Return what reads regions of a series, and notes on how it is stored."""
    if series.transform is not None:
        raise InputError(f"{path}: is a TIFF of kind {series.kind}, which can not be read in parts")
    stored = np.dtype(series.dtype).newbyteorder(tif.byteorder)
    offset = None if series.is_multifile else series.dataoffset
    if offset is not None:
        check_end(path, tif.filehandle.size, [offset + math.prod(shape) * stored.itemsize])
        return contiguous_reader(path, offset, shape, stored), ()
    if any(page is None for page in series):
        raise InputError(
            f"{path}: planes are missing: its OME-XML does not say where they are, or they are not there",
            fix="put all files of the image into one folder, or export it as one file",
        )
    page_format = format_of(series.keyframe, stored)
    given = {path.resolve(): path}  # tifffile follows symbolic links
    pages = [page_of(page, given) for page in series]
    n_sparse = check_segments(path, pages, page_format)
    n_channels = shape[order.index("c")] if "c" in order and page_format.shape[0] * page_format.shape[4] == 1 else 1
    n_together = n_channels if n_channels <= CHANNELS_TOGETHER else 1
    return PagedReader(shape, pages, page_format), storage_notes(page_format, n_sparse, n_together)


def storage_notes(page_format: PageFormat, n_sparse: int, n_together: int) -> Iterable[str]:
    """Yield what a user should know about strips and tiles; make room for a band of so many pages in the cache."""
    if n_sparse:
        yield f"{n_sparse} strips or tiles are not stored: read as {page_format.fill:g}"
    if page_format.is_raw:
        return
    band = band_bytes(page_format) * n_together
    SHARED.make_room(max(min(5 * band // 4, LARGEST_BAND), page_format.segment_bytes))
    if band > LARGEST_BAND:
        yield (
            f"rows of tiles take {band / 2**30:.1f} GiB once decoded, more than are kept: strips are decoded several "
            "times, which is slow (a tiled TIFF is faster)"
        )


def format_of(page: TiffPage, stored: np.dtype[Any]) -> PageFormat:
    """Describe how a page, and all that are like it, is stored."""
    tile = (page.tiledepth, page.tilelength, page.tilewidth)
    segment = tile if page.is_tiled else (1, page.rowsperstrip, page.imagewidth)
    if not all(n > 0 for n in segment):
        raise ValueError(f"strips or tiles of {sizes_text(segment)} pixels")
    return PageFormat(
        shape=tuple(page.shaped),
        segment=(1, *segment, page.shaped[4]),
        dtype=stored if page.is_final else stored.newbyteorder("="),
        is_raw=bool(page.is_final),
        decode=decoder_of(page),
        is_jpeg=int(page.compression) in JPEG_COMPRESSIONS,
        jpeg_header=page.jpegheader,
        fill=page.nodata,
    )


def decoder_of(page: TiffPage) -> Decode:
    """Return what decodes the segments of pages like this one, safe from damaged ones."""
    if int(page.compression) != LZW:
        return page.decode  # type: ignore[no-any-return]
    return partial(decode_lzw, page.decode, is_reversed=int(page.fillorder) == 2)


def decode_lzw(decode: Decode, data: bytes, index: int, *, is_reversed: bool) -> Any:  # noqa: ANN401 - as tifffile
    """Decode a segment that was found to be sound."""
    from unetcli.image.lzw import check_lzw  # compiled: numba is loaded for those who need it

    check_lzw(data, is_reversed=is_reversed)
    return decode(data, index)


def page_of(page: TiffPage, given: Mapping[Path, Path]) -> Page:
    """Note where the segments of a page are."""
    path = Path(page.parent.filehandle.path)
    path = given.get(path, path)
    return Page(path, tuple(page.dataoffsets), tuple(page.databytecounts), page.jpegtables)


def page_notes(tif: TiffFile, series: TiffPageSeries) -> Iterable[str]:
    """Yield what a user should know about the rest of the file."""
    if len(tif.series) > 1:
        yield f"holds {len(tif.series)} images: the first is taken"
    orientation = series.keyframe.tags.get(ORIENTATION_TAG)
    if orientation is not None and orientation.value != 1:
        yield "is marked as rotated: rows and columns are taken as stored"
    if tif.is_ome and series.kind != "ome":
        yield "its OME-XML can not be used: pages are taken as they are"
