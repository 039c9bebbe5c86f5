"""PNG and JPEG files; they can only be decoded whole."""

from __future__ import annotations

import math
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from unetcli.errors import InputError
from unetcli.image.axes import default_channels
from unetcli.image.raw import check_budget, whole_reader
from unetcli.image.source import (
    AnyArray,
    FileSource,
    Reading,
    check_dtype,
    check_lossless,
    check_not_empty,
    check_order,
    decoding,
    file_source,
)

MODES = {
    "1": ("bool", 1),
    "L": ("uint8", 1),
    "LA": ("uint8", 1),
    "P": ("uint8", 1),
    "I;16": ("uint16", 1),
    "I;16B": ("uint16", 1),
    "I": ("int32", 1),
    "RGB": ("uint8", 3),
    "RGBA": ("uint8", 3),
}
"""Pillow's modes: type and number of channels that are shown."""

ORIENTATION = 0x0112
PNG_GREY, PNG_GREY_ALPHA = 0, 4


def open_raster(path: Path, how: Reading) -> FileSource:
    """Open a PNG or JPEG file; it is decoded whole when first read."""
    with decoding(path, "can not be read"), open_image(path) as image:
        mode, size = image.mode, image.size
        rotated = image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) != 1  # of PNG it would decode
        bits, colours = png_header(path)
        n_frames = getattr(image, "n_frames", 1)
        palette = bytes(image.getpalette() or ()) if mode == "P" and how.is_label else b""
    if mode not in MODES:
        raise InputError(
            f"{path}: has colours of kind {mode}; expected grey, RGB or a palette", fix="convert it to RGB"
        )
    if bits is None:
        check_lossless(path, how, "JPEG")
    name, n_channels = MODES[mode]
    is_label = how.is_label
    notes = mode_notes(mode, is_label=is_label)
    if mode == "P" and not is_label:
        n_channels = 3
    if bits == 16:
        name = "uint16"
        n_channels = 1 if colours in (PNG_GREY, PNG_GREY_ALPHA) else 3
    if n_frames > 1:
        notes += (f"holds {n_frames} images: the first is taken",)
    if rotated:
        notes += ("is marked as rotated: rows and columns are taken as stored",)
    if is_label and bits is None:
        notes += ("JPEG changes pixels: labels near edges are not exact",)
    dtype, shape = np.dtype(name), (size[1], size[0]) + (n_channels,) * (n_channels > 1)
    check_dtype(path, dtype, is_label=is_label)
    check_not_empty(path, shape)
    n_bytes = math.prod(size) * (4 if n_channels > 1 else 1) * dtype.itemsize
    check_budget(path, n_bytes)
    order = check_order(path, how.axes, shape) if how.axes is not None else "yxc"[: len(shape)]

    def load() -> AnyArray:
        pixels = load_deep_png(path) if bits == 16 else load_pixels(path, mode, is_label=is_label)
        if is_label and bits in (2, 4) and colours == PNG_GREY:
            pixels = pixels // (255 // (2**bits - 1))  # Pillow stretches grey levels to 0 ... 255
        return pixels.reshape(*shape[:2], -1)[:, :, :n_channels].reshape(shape).astype(dtype)

    channels = default_channels(3) if n_channels == 3 else ()
    return file_source(
        path, order, shape, dtype, whole_reader(load, n_bytes), notes=notes, channels=channels, palette=palette
    )


def open_image(path: Path) -> Image.Image:
    """Open a file with Pillow.

    Notes
    -----
    `PIL.Image.open` refuses or warns at a fixed number of pixels; its plugins do not, and the size is
    checked against a budget of memory instead.
    """
    with path.open("rb") as stream:
        is_png = stream.read(4) == b"\x89PNG"
    return PngImageFile(path) if is_png else JpegImageFile(path)


def png_header(path: Path) -> tuple[int | None, int | None]:
    """Return bits per sample and kind of colours of a PNG file; None for a JPEG file."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return (head[24], head[25]) if head.startswith(b"\x89PNG") else (None, None)


def mode_notes(mode: str, *, is_label: bool) -> tuple[str, ...]:
    """Say what is done with transparency and palettes."""
    if mode in ("LA", "RGBA"):
        return ("the alpha channel (transparency) is left out",)
    if mode == "P":
        return ("has a palette: " + ("its indices are the labels" if is_label else "converted to RGB"),)
    return ()


def load_pixels(path: Path, mode: str, *, is_label: bool) -> AnyArray:
    """Decode a file with Pillow."""
    with open_image(path) as image:
        image.load()
        return np.array(image.convert("RGB") if mode == "P" and not is_label else image)


def load_deep_png(path: Path) -> AnyArray:
    """Decode a PNG file of 16 bits per sample, of which Pillow would keep 8 if it has colours."""
    return np.asarray(imagecodecs.png_decode(path.read_bytes()))
