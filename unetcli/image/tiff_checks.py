"""What a TIFF file is refused for, before a pixel is read."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path

from tifffile import TIFF, TiffFile, TiffPage

from unetcli.errors import InputError
from unetcli.image.ome import ome_pixels
from unetcli.image.raw import check_budget
from unetcli.image.segments import JPEG_COMPRESSIONS, Page, PageFormat
from unetcli.image.source import Reading, check_lossless

MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
APERIO_YCBCR = 33003
LOSSY = {
    **dict.fromkeys(JPEG_COMPRESSIONS, "JPEG"),
    **dict.fromkeys((APERIO_YCBCR, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((34927, 50001), "WebP"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
}
"""Compressions that change pixels, or may: their lossless kinds look the same from outside."""


def check_pages(path: Path, tif: TiffFile) -> None:
    """Refuse a file whose list of pages was cut off or damaged: the pages found would be only a part."""
    n_pages = len(tif.pages)
    if n_pages == 0:
        raise InputError(
            f"{path}: holds no pages; expected a TIFF image", fix="it was cut off: copy or export it again"
        )
    last = tif.pages[n_pages - 1]
    if last.offset > 0 and not (tif.is_ndpi or tif.is_lsm) and (after := next_page(tif, last.offset)):
        if runs_in_circle(tif, after):
            raise InputError(
                f"{path}: the list of pages runs in a circle", fix="the file is damaged: copy or export it again"
            )
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


def runs_in_circle(tif: TiffFile, offset: int) -> bool:
    """Tell whether a list of pages comes back to a page that was there before."""
    seen = {tif.pages[0].offset}
    while 0 < offset < tif.filehandle.size and offset not in seen:
        seen.add(offset)
        offset = next_page(tif, offset)
    return offset in seen


def next_page(tif: TiffFile, offset: int) -> int:
    """Return where the page after the one at an offset should be; 0 after the last one."""
    layout, file = tif.tiff, tif.filehandle
    file.seek(offset)
    data = file.read(layout.tagnosize)
    n_tags = struct.unpack(layout.tagnoformat, data)[0] if len(data) == layout.tagnosize else 0
    file.seek(offset + layout.tagnosize + n_tags * layout.tagsize)
    data = file.read(layout.offsetsize)
    return int(struct.unpack(layout.offsetformat, data)[0]) if len(data) == layout.offsetsize else 0


def promised_pages(tif: TiffFile) -> int:
    """Return the number of pages that OME-XML promises; 0 if it does not."""
    if not tif.is_ome:
        return 0
    pixels = ome_pixels(tif.ome_metadata or "")
    n_planes = 0 if pixels is None else math.prod(int(pixels.get(f"Size{a}", 0)) for a in "ZCT")
    return n_planes // max(1, int(tif.pages[0].samplesperpixel))


def check_colours(path: Path, page: TiffPage) -> None:
    """Refuse colours that are neither grey nor RGB nor a palette."""
    kind, compression = int(page.photometric), int(page.compression)
    is_converted = kind == YCBCR and compression in JPEG_COMPRESSIONS  # by the decoder of JPEG
    if (kind not in (MINISWHITE, MINISBLACK, RGB, PALETTE) and not is_converted) or compression == APERIO_YCBCR:
        name = "YCBCR" if compression == APERIO_YCBCR else getattr(page.photometric, "name", str(kind))
        raise InputError(
            f"{path}: has colours of kind {name}; expected grey or RGB",
            fix="convert it to RGB, for example in QuPath or Fiji, or with vips colourspace in.tif out.tif srgb",
        )
    if kind == PALETTE and page.colormap is None:
        raise InputError(f"{path}: has a colour palette that is missing; expected grey or RGB", fix="convert it to RGB")


def check_compression(path: Path, page: TiffPage, how: Reading) -> None:
    """Refuse a compression that nothing here decodes, and labels whose compression changes pixels."""
    if int(page.compression) != 1 and int(page.compression) not in TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", "unknown")
        raise InputError(
            f"{path}: is compressed as {name} ({int(page.compression)}), which can not be decoded",
            fix="export it again with LZW, deflate or no compression",
        )
    if codec := LOSSY.get(int(page.compression)):
        check_lossless(path, how, codec)


def check_segments(path: Path, pages: list[Page], page_format: PageFormat) -> int:
    """Check that all segments lie in their files and fit into memory; return how many are not stored."""
    shape, dtype = page_format.shape, page_format.dtype
    if page_format.is_raw:
        n_bytes = math.prod(shape) * dtype.itemsize
        for page in pages:
            check_end(page.path, page.path.stat().st_size, [page.offsets[0] + n_bytes])
        return 0
    check_budget(path, math.prod(page_format.segment) * dtype.itemsize)
    n_segments, n_stored = math.prod(page_format.counts), 0
    for page in pages:
        if len(page.offsets) < n_segments:
            raise InputError(
                f"{path}: a page lists {len(page.offsets)} strips or tiles; expected {n_segments} for its size",
                fix="its header is damaged: copy or export it again",
            )
        ends = [a + n for a, n in zip(page.offsets, page.byte_counts, strict=False) if a and n]
        check_end(page.path, page.path.stat().st_size, ends)
        check_budget(path, max(page.byte_counts, default=0))
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
