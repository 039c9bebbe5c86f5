"""OME-TIFF files: the levels of an image to one tiled pyramid, with what is known of the image as OME-XML."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffFileError, TiffWriter

from unetcli import __version__
from unetcli.image.axes import Axes, default_channels
from unetcli.image.ngff import ImageMetadata
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, available_cpus, reduce_tiles, silent, work_on
from unetcli.image.tiling import Shape, TileGrid

TILE = 512
BAND = 2048
"""So many pixels of a row of tiles are read at once; a multiple of the tile."""
BUFFER_BYTES = 64 * 2**20
"""Tiles that wait for their compression take no more memory."""

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
NAMESPACE = "unetcli"
"""Marks the annotation that holds what `unetcli` writes down about an image."""
PIXEL_TYPES = {
    **{name: name for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32")},
    "float32": "float",
    "float64": "double",
}
"""Types that OME-TIFF can hold, and their names there."""
UNITS = {
    "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m",
    "millisecond": "ms", "second": "s", "minute": "min", "hour": "h", "day": "d",
}  # fmt: skip


def write_ome_tiff(
    path: Path,
    levels: Sequence[Level],
    image: ImageMetadata,
    attributes: Mapping[str, Any],
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Write an image and its pyramid to a TIFF file, tile by tile.

    Three channels of uint8 that are red, green and blue become the colours of one plane, which any program shows;
    others are planes of their own. Planes follow one another along z first, then c, then t. The further levels
    lie in the SubIFDs of the planes.

    Parameters
    ----------
    path
        The file; what is there is replaced.
    levels
        The pyramid, finest first.
    image
        Axes, channels and name; an image with `classes` holds labels.
    attributes
        What `unetcli` writes down about the image; see `written_attributes`.
    workers, progress
        See `reduce_tiles`; progress is called for each band of tiles.
    """
    is_rgb = _is_rgb(levels[0], image)
    with path.open("w+b") as file:
        with TiffWriter(file, bigtiff=True, byteorder="<") as tiff:
            for level in levels:
                _, channels, _, y, x = level.shape
                tile = (_tile_side(y), _tile_side(x))
                first = level is levels[0]
                tiff.write(
                    _tiles(level, tile, is_rgb=is_rgb, workers=workers, progress=progress),
                    shape=(_n_pages(level.shape, is_rgb=is_rgb), y, x, *([channels] if is_rgb else [])),
                    dtype=level.dtype,
                    tile=tile,
                    photometric="rgb" if is_rgb else "minisblack",
                    compression="zlib",
                    # Differences of neighbours compress images, not labels; of floats few programs can undo them.
                    predictor=image.classes is None and level.dtype.kind != "f",
                    description=ome_xml(level, image, attributes, is_rgb=is_rgb) if first else None,
                    subifds=len(levels) - 1 if first else None,
                    subfiletype=0 if first else 1,
                    software=f"unetcli {__version__}",
                    metadata=None,
                    maxworkers=workers or available_cpus(),
                    buffersize=BUFFER_BYTES,
                )
        file.flush()
        os.fsync(file.fileno())


def written_attributes(path: Path) -> dict[str, Any]:
    """Return what `unetcli` wrote down in an OME-TIFF; nothing for any other file."""
    try:
        with TiffFile(path) as tiff:
            root = ElementTree.fromstring(tiff.ome_metadata or "<none/>")
        (note,) = root.iterfind(f".//{{{SCHEMA}}}CommentAnnotation[@Namespace='{NAMESPACE}']")
        return dict(json.loads(note.findtext(f"{{{SCHEMA}}}Value", "")))
    except (TiffFileError, IsADirectoryError, ElementTree.ParseError, ValueError, TypeError, struct.error):
        return {}


# ------------------------------------------------------------------------------------------- pixels


def _is_rgb(level: Level, image: ImageMetadata) -> bool:
    names = tuple(channel.name.lower() for channel in image.channels)
    return level.dtype == np.uint8 and names == tuple(c.name for c in default_channels(3))


def _tile_side(n: int) -> int:
    """Return the side of a tile: TIFF wants multiples of 16."""
    return min(TILE, 16 * math.ceil(n / 16))


def _n_pages(shape: Shape, *, is_rgb: bool) -> int:
    t, c, z, _, _ = shape
    return t * z if is_rgb else t * c * z


def _tiles(
    level: Level, tile: tuple[int, int], *, is_rgb: bool, workers: int | None, progress: Progress
) -> Iterator[NDArray[Any]]:
    """Yield the tiles of all planes in raster order, those at the far edges cut to the image."""
    grid = TileGrid(level.shape, (1, level.shape[1] if is_rgb else 1, 1, tile[0], BAND))
    bands = reduce_tiles(lambda _, block: block, work_on(level.name, grid, [level]), workers=workers)
    for done, block in enumerate(bands, start=1):
        progress(done, len(grid))  # before its tiles: the writer never asks for what is after the last one
        band = block[0, :, 0].transpose(1, 2, 0) if is_rgb else block[0, 0, 0]
        for x in range(0, band.shape[1], tile[1]):
            part = band[:, x : x + tile[1]]
            yield part if is_rgb else part[..., np.newaxis]  # else a tile of one column is taken for a row of samples


# ------------------------------------------------------------------------------------------- metadata


def ome_xml(level: Level, image: ImageMetadata, attributes: Mapping[str, Any], *, is_rgb: bool) -> bytes:
    """Return the OME-XML of an image, as plain ASCII: other characters are escaped, as TIFF wants it."""
    t, c, z, y, x = level.shape
    root = Element(
        "OME",
        {
            "xmlns": SCHEMA,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": f"{SCHEMA} {SCHEMA}/ome.xsd",
            "Creator": f"unetcli {__version__}",
        },
    )
    described = SubElement(root, "Image", {"ID": "Image:0", "Name": _printable(image.name)})
    sizes = {f"Size{a}": str(n) for a, n in zip("XYZCT", (x, y, z, c, t), strict=True)}
    pixels = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT" if is_rgb else "XYZCT",
        "Type": PIXEL_TYPES[level.dtype.name],
        "BigEndian": "false",
        "Interleaved": str(is_rgb).lower(),
        **sizes,
        **_pixel_size(image.axes),
    }
    planes = SubElement(described, "Pixels", pixels)
    for channel in _channels(c, image, is_rgb=is_rgb):
        SubElement(planes, "Channel", channel)
    SubElement(planes, "TiffData", {"IFD": "0", "PlaneCount": str(_n_pages(level.shape, is_rgb=is_rgb))})
    SubElement(described, "AnnotationRef", {"ID": "Annotation:0"})
    notes = SubElement(root, "StructuredAnnotations")
    note = SubElement(notes, "CommentAnnotation", {"ID": "Annotation:0", "Namespace": NAMESPACE})
    SubElement(note, "Value").text = json.dumps(attributes)
    return bytes(ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True))


def _pixel_size(axes: Axes) -> dict[str, str]:
    """Return the attributes for the size of a pixel; a size without a unit would be read as micrometers."""
    found: dict[str, str] = {}
    for axis, size, unit in zip(axes.names, axes.scale, axes.units, strict=True):
        if unit:
            key = "TimeIncrement" if axis == "t" else f"PhysicalSize{axis.upper()}"
            found |= {key: repr(size), f"{key}Unit": UNITS[unit]}
    return found


def _channels(n: int, image: ImageMetadata, *, is_rgb: bool) -> list[dict[str, str]]:
    if is_rgb:
        return [{"ID": "Channel:0:0", "SamplesPerPixel": "3"}]
    channels = [{"ID": f"Channel:0:{k}", "SamplesPerPixel": "1"} for k in range(n)]
    for entry, channel in zip(channels, image.channels, strict=False):
        entry["Name"] = _printable(channel.name)
        if channel.color:
            entry["Color"] = str(int.from_bytes(bytes.fromhex(channel.color + "FF"), signed=True))
    return channels


def _printable(text: str) -> str:
    """Leave out what XML can not hold."""
    return "".join(c for c in text if c.isprintable())
