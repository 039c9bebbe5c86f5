"""NumPy files, and the reading of regions of any array that lies uncompressed in a file."""

from __future__ import annotations

import itertools
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from unetcli.errors import InputError
from unetcli.image.cache import SHARED
from unetcli.image.location import Location
from unetcli.image.source import (
    MEMORY_BUDGET,
    AnyArray,
    FileSource,
    Reading,
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
from unetcli.image.tiling import spans

ATOM_BYTES = 4096
"""A block up to this size is read whole: reading less of it would not be faster."""
PIECE_BYTES = 16 * 2**20
"""Largest piece that is read at once, so that a region is never in memory twice."""


def open_npy(path: Path, how: Reading) -> FileSource:
    """Open a NumPy file; regions are read straight from it."""
    with path.open("rb") as stream, decoding(path, "is not a valid NumPy file"):
        shape, fortran, dtype = read_header(stream)
        offset = stream.tell()
    check_array(path, shape, dtype, is_label=how.is_label)
    needed = offset + math.prod(shape) * dtype.itemsize
    if needed > path.stat().st_size:
        raise InputError(
            f"{path}: is {path.stat().st_size} bytes long; expected {needed} "
            f"for {sizes_text(shape)} pixels of {dtype.name}",
            fix="the file was cut off: copy or save it again",
        )
    read_c = contiguous_reader(path, offset, shape[::-1] if fortran else shape, dtype)
    read_region = (lambda region: read_c(region[::-1]).T) if fortran else read_c
    return array_source(path, shape, dtype, read_region, how.axes)


def open_npz(path: Path, how: Reading) -> FileSource:
    """Open a NumPy archive with exactly one array; it is unpacked whole when first read."""
    with decoding(path, "is not a valid NumPy archive"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1 or not names[0].endswith(".npy"):
            listed = ", ".join(names[:10]) or "nothing"
            raise InputError(
                f"{path}: is an archive of {len(names)} files ({listed}); expected exactly one NumPy array",
                fix="save the array alone: np.save",
            )
        with archive.open(names[0]) as stream:
            shape, _, dtype = read_header(stream)
    check_array(path, shape, dtype, is_label=how.is_label)
    n_bytes = math.prod(shape) * dtype.itemsize
    check_budget(path, n_bytes)

    def load() -> AnyArray:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[arrays.files[0]]).reshape(shape)

    return array_source(path, shape, dtype, whole_reader(load, n_bytes), how.axes)


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and type of a NumPy file, and leave the stream at its pixels."""
    version = np.lib.format.read_magic(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # headers that Python 2 wrote
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"format version {version} is for records, not for images")


def check_array(path: Location, shape: tuple[int, ...], dtype: np.dtype[Any], *, is_label: bool) -> None:
    """Refuse arrays that are not images."""
    if dtype.hasobject or dtype.names:
        raise InputError(f"{path}: holds Python objects or records; expected an array of numbers")
    check_dtype(path, dtype, is_label=is_label)
    if len(shape) < 2:
        raise InputError(f"{path}: has {len(shape)} axes ({sizes_text(shape)}); expected at least y and x")
    check_not_empty(path, shape)


def check_budget(path: Path, n_bytes: int) -> None:
    """Refuse what can only be decoded whole and is larger than the memory for it."""
    if n_bytes > MEMORY_BUDGET:
        raise InputError(
            f"{path}: takes {n_bytes / 2**30:.1f} GiB once decoded, and can only be decoded whole; "
            f"expected at most {MEMORY_BUDGET / 2**30:.0f} GiB",
            fix="convert it to a tiled TIFF or to OME-Zarr, for example with bfconvert or bioformats2raw",
        )


def array_source(
    path: Location, shape: tuple[int, ...], dtype: np.dtype[Any], read_region: ReadRegion, axes: str | None
) -> FileSource:
    """Make the source of an array without axis names."""
    if axes is not None:
        return file_source(path, check_order(path, axes, shape), shape, dtype, read_region)
    if len(shape) == 2:
        return file_source(path, "yx", shape, dtype, read_region)
    if len(shape) > 3:
        raise ask_for_axes(path, shape, "without names")
    if shape[2] in (3, 4) and dtype.str[1:] in ("u1", "u2"):
        note = f"the last axis has size {shape[2]}: taken as colour channels (--axes zyx if it is not)"
        return file_source(path, "yxc", shape, dtype, read_region, notes=(note,))
    return file_source(path, "zyx", shape, dtype, read_region, notes=(unnamed_pages_note(),), pages_unnamed=True)


def whole_reader(load: Callable[[], AnyArray], n_bytes: int) -> ReadRegion:
    """Return a reader of an array of so many bytes that can only be loaded whole."""
    key = object()
    SHARED.make_room(n_bytes)

    def read_region(region: Region) -> AnyArray:
        return SHARED.get(key, load)[region].copy()

    return read_region


def contiguous_reader(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ReadRegion:
    """Return a reader of an array that lies in C order in a file."""

    def read_region(region: Region) -> AnyArray:
        with opened(path) as file:
            return read_contiguous(file, offset, shape, dtype, region)

    return read_region


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for `os.pread`, which needs no lock between threads."""
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def pread(file: int, n_bytes: int, offset: int) -> bytes:
    """Read exactly so many bytes."""
    data = os.pread(file, n_bytes, offset)
    if len(data) != n_bytes:
        raise EOFError(f"{len(data)} bytes at {offset}, expected {n_bytes}")
    return data


def read_contiguous(file: int, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], region: Region) -> AnyArray:
    """Read a region of an array that lies in C order in a file, without touching much else.

    Notes
    -----
    Rows of the region are read one by one, since a memory map would count as resident memory::

        +----------------+
        |    [======]    |  one run, one read
        |    [======]    |
        +----------------+

    Axes that the region covers whole, or that are tiny, are read along with the run.
    """
    out = np.empty([s.stop - s.start for s in region], dtype)
    run = run_axis(shape, dtype.itemsize, region)
    strides = [math.prod(shape[i + 1 :]) * dtype.itemsize for i in range(len(shape))]
    first, last, block_shape = region[run].start, region[run].stop, shape[run + 1 :]
    piece = max(1, PIECE_BYTES // strides[run])
    for outer in itertools.product(*(range(s.stop - s.start) for s in region[:run])):
        at = offset + sum((s.start + i) * n for s, i, n in zip(region, outer, strides, strict=False))
        for a, b in spans(first, last, piece):
            data = pread(file, (b - a) * strides[run], at + a * strides[run])
            block = np.frombuffer(data, dtype).reshape(b - a, *block_shape)
            into: tuple[int | slice, ...] = (*outer, slice(a - first, b - first))
            out[into] = block[(slice(None), *region[run + 1 :])]
    return out


def run_axis(shape: tuple[int, ...], itemsize: int, region: Region) -> int:
    """Return the outermost axis along which a region can be read in one go."""
    run, n_bytes, whole = len(shape) - 1, itemsize, True
    while run > 0:
        n_bytes *= shape[run]
        whole = whole and region[run].stop - region[run].start == shape[run]
        if not whole and n_bytes > ATOM_BYTES:
            break
        run -= 1
    return run
