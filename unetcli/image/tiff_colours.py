"""Colours of TIFF files: palettes, 0 as white, transparency, and the names of channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage, TiffPageSeries

from unetcli.image.axes import Channel, default_channels
from unetcli.image.ome import ome_channels
from unetcli.image.source import AnyArray, ReadRegion, Region
from unetcli.image.tiff_checks import MINISWHITE, PALETTE, RGB, YCBCR

PHOTOMETRIC_TAG = 262
ALPHA = (1, 2)  # extra samples: premultiplied and plain alpha
FLOAT_WHITE_ZERO = "says that 0 is white, but holds floats: taken as stored"
WHITE_ZERO_NOTES = {
    False: "stored with 0 as white: inverted, so that bright is high",
    True: "stored with 0 as white: labels are taken as they are, not inverted",
}
PALETTE_NOTES = {
    "labels": "has a palette: its indices are the labels",
    "grey": "has a palette: left out, grey levels are taken",
    "rgb": "has a palette: converted to RGB",
}


def palette_use(tif: TiffFile, page: TiffPage, *, is_label: bool) -> str:
    """Return what is done with a palette: ``labels``, ``grey`` or ``rgb``; empty if there is none.

    ImageJ shows grey levels through a palette; they are the measurement.
    """
    if int(page.photometric) != PALETTE:
        return ""
    return "labels" if is_label else "grey" if tif.is_imagej else "rgb"


def through_palettes(read_region: ReadRegion, series: TiffPageSeries, shape: tuple[int, ...]) -> ReadRegion:
    """Return a reader that looks up the colours of indices; each page has its own palette.

    Parameters
    ----------
    shape
        Of the indices: axes of pages, then y and x. The reader has a last axis of three channels besides.
    """
    palettes = [palette_of(page.aspage()) for page in series]
    is_one = all(np.array_equal(p, palettes[0]) for p in palettes)
    colours = np.stack(palettes[:1] if is_one else palettes)
    pages = np.arange(math.prod(shape[:-2])).reshape(shape[:-2])
    if is_one or pages.size != len(palettes):
        pages = np.zeros_like(pages)

    def read_colours(region: Region) -> AnyArray:
        block = read_region(region[:-1])
        if block.dtype == bool:
            block = block.view(np.uint8)
        found: AnyArray = colours[pages[region[:-3]][..., np.newaxis, np.newaxis], block]
        return found[..., region[-1]]

    return read_colours


def palette_of(page: TiffPage) -> NDArray[np.uint8]:
    """Return the colours of a palette, (n, 3); they have 16 bits, but some programs write 8."""
    colours = np.asarray(page.colormap).reshape(3, -1).T
    return (colours if colours.max(initial=0) < 256 else colours >> 8).astype(np.uint8)


def is_white_zero(page: TiffPage) -> bool:
    """Tell whether a page says that 0 is white; a page that says nothing does not."""
    return int(page.photometric) == MINISWHITE and PHOTOMETRIC_TAG in page.tags and page.dtype.kind != "f"


def float_white_zero(page: TiffPage) -> bool:
    """Tell whether a page of floats says that 0 is white, which has no meaning without a largest value."""
    return int(page.photometric) == MINISWHITE and PHOTOMETRIC_TAG in page.tags and page.dtype.kind == "f"


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


def channels_of(tif: TiffFile, page: TiffPage) -> tuple[Channel, ...]:
    """Return names and colours of the channels, as OME-XML, ImageJ or the kind of colours tell them."""
    if int(page.photometric) in (RGB, YCBCR, PALETTE) and not tif.is_imagej:
        return default_channels(3)
    if tif.is_ome:
        return ome_channels(tif.ome_metadata or "")
    return imagej_channels(tif.imagej_metadata or {}) if tif.is_imagej else ()


def imagej_channels(metadata: dict[str, Any]) -> tuple[Channel, ...]:
    """Return the channels of a hyperstack: its slice labels, if it has no other slices, and its brightest colours."""
    n = int(metadata.get("channels", 1))
    labels, tables = metadata.get("Labels") or [], metadata.get("LUTs") or []
    names = [str(label).strip() for label in labels] if len(labels) == n else [""] * n
    colours = [bytes(table[:, -1]).hex().upper() for table in tables] if len(tables) == n else [""] * n
    if not any(names) and not any(colours):
        return ()
    return tuple(Channel(a or f"channel_{i}", b) for i, (a, b) in enumerate(zip(names, colours, strict=True)))
