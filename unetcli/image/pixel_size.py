"""The pixel size that a TIFF file states: OME-XML, ImageJ, Aperio or the resolution tags."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tifffile import TiffFile, TiffPage

from unetcli.image.axes import known_unit
from unetcli.image.ome import ome_pixels

PixelSize = dict[str, tuple[float, str]]
"""Size and unit of a pixel by axis name."""

UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}  # inch, centimetre
LARGEST_UM, SMALLEST_UM = 20.0, 1e-5
"""Resolution tags outside of this are those of a printer or screen (1200 dpi is 21 µm), or nonsense."""


def pixel_size(tif: TiffFile, factors: Mapping[str, float]) -> PixelSize:
    """Return the pixel size of the first image of an open file, where a real unit is known.

    Parameters
    ----------
    factors
        How much larger a pixel of the level that is read is than one of level 0, by axis.
    """
    return {axis: (size * factors.get(axis, 1), unit) for axis, (size, unit) in full_size(tif).items()}


def full_size(tif: TiffFile) -> PixelSize:
    """Return the pixel size at level 0."""
    page = tif.pages[0]
    if tif.is_ome:
        return ome_size(tif.ome_metadata or "")
    if tif.is_imagej:
        return imagej_size(tif.imagej_metadata or {}, page)
    return aperio_size(page) if page.is_svs else resolution_size(page)


def ome_size(xml: str) -> PixelSize:
    """Read ``PhysicalSizeX`` and its like."""
    pixels = ome_pixels(xml)
    found = {} if pixels is None else pixels.attrib
    sizes = {a: (f"PhysicalSize{a.upper()}", "µm") for a in "zyx"} | {"t": ("TimeIncrement", "s")}
    return valid({a: (found.get(key), found.get(f"{key}Unit", unit)) for a, (key, unit) in sizes.items()})


def imagej_size(metadata: dict[str, Any], page: TiffPage) -> PixelSize:
    """Read ``unit``, ``spacing`` and ``finterval``, and the resolution tags, which count pixels per unit."""
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    x, y = resolution(page)
    return valid(
        {
            "t": (metadata.get("finterval"), "s"),
            "z": (metadata.get("spacing"), unit),
            "y": (y and 1 / y, unit),
            "x": (x and 1 / x, unit),
        }
    )


def aperio_size(page: TiffPage) -> PixelSize:
    """Read ``MPP`` (micrometers per pixel) of an Aperio slide."""
    match = re.search(r"\bMPP\s*=\s*([\d.]+)", page.description)
    size = match.group(1) if match else None
    return valid({"y": (size, "µm"), "x": (size, "µm")})


def resolution_size(page: TiffPage) -> PixelSize:
    """Read the resolution tags, unless they are those of a printer or screen."""
    tag = page.tags.get(296)
    um = UM_PER_RESOLUTION_UNIT.get(int(tag.value) if tag is not None else 2)
    x, y = resolution(page)
    if not (um and x and y):
        return {}
    sizes = {"y": um / y, "x": um / x}
    if not all(SMALLEST_UM <= s <= LARGEST_UM for s in sizes.values()):
        return {}
    return valid({a: (s, "µm") for a, s in sizes.items()})


def resolution(page: TiffPage) -> tuple[float, float]:
    """Return the pixels per unit along x and y; 0 where not known."""
    found = []
    for code in (282, 283):
        tag = page.tags.get(code)
        value = tag.value if tag is not None else (0, 1)
        n, d = value if isinstance(value, tuple) and len(value) == 2 else (0, 1)
        found.append(n / d if d else 0.0)
    return found[0], found[1]


def valid(sizes: dict[str, tuple[Any, str]]) -> PixelSize:
    """Keep the sizes that are finite numbers above 0 with a unit that is known."""
    kept: PixelSize = {}
    for axis, (size, unit) in sizes.items():
        try:
            number = float(size or 0)
        except (TypeError, ValueError):
            continue
        name = known_unit(axis, unit)
        if name is not None and 0 < number < math.inf:
            kept[axis] = (number, name)
    return kept
