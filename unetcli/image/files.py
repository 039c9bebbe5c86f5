"""TIFF, OME-XML, PNG, JPEG, NumPy and HDF5 files as lazily read arrays."""

from __future__ import annotations

from pathlib import Path

from unetcli.errors import InputError
from unetcli.image.hdf5 import open_hdf5
from unetcli.image.location import Location, require_local
from unetcli.image.pairing import file_of
from unetcli.image.raster import open_raster
from unetcli.image.raw import open_npy, open_npz
from unetcli.image.source import FileSource, Reading, check_level, decoding
from unetcli.image.tiff import open_companion, open_tiff

HDF5 = b"\x89HDF\r\n\x1a\n"
OPENERS = {
    b"II*\0": open_tiff,
    b"MM\0*": open_tiff,
    b"II+\0": open_tiff,  # BigTIFF
    b"MM\0+": open_tiff,
    b"\x89PNG\r\n\x1a\n": open_raster,
    b"\xff\xd8\xff": open_raster,
    b"\x93NUMPY": open_npy,
    b"PK\x03\x04": open_npz,
    b"PK\x05\x06": open_npz,  # an empty archive
    HDF5: open_hdf5,
}
"""The first bytes of a file: what opens it."""
WITH_LEVELS = (open_tiff, open_companion)

FOREIGN = {
    b"ZISRAWFILE": "a Zeiss CZI file",
    b"\xda\xce\xbe\x0a": "a Nikon ND2 file",
    b"\xd0\xcf\x11\xe0": "an OIB, VSI or other OLE file",
    b"GIF8": "a GIF file",
    b"BM": "a BMP file",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF file",
    b"\0\0\0\x0cjP": "a JPEG 2000 file",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
EXPECTED = "expected TIFF, PNG, JPEG, NumPy, HDF5 or OME-Zarr"


def open_file(
    path: Location, *, axes: str | None = None, is_label: bool = False, level: int = 0, lossy_ok: bool = False
) -> FileSource:
    """Open an image file; its kind is told from its first bytes, never from its name.

    Parameters
    ----------
    path
        A TIFF, PNG, JPEG, NPY or NPZ file; an OME-XML file that names TIFF files beside it; or an HDF5 file, which
        the path may continue into (``file.h5/path/to/dataset``).
    axes, is_label, level, lossy_ok
        See `Reading`.

    Returns
    -------
    FileSource
        Nothing but the header was read, and everything that can be checked without pixels was checked.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, or can not be used.
    """
    how = Reading(axes, is_label, level, lossy_ok)
    path = require_local(path)
    file = require_local(file_of(path))
    if file != path and not starts_with(file, HDF5):
        raise InputError(f"{path}: {file.name} is a file, and not of HDF5; expected a path that ends there")
    head = first_bytes(file)
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    if opener is None and path.name.lower().endswith(".ome") and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        opener = open_companion
    if opener is None:
        raise not_an_image(path, head)
    if opener not in WITH_LEVELS:
        check_level(path, level, 1)
    return opener(path, how)


def starts_with(file: Path, magic: bytes) -> bool:
    """Tell whether a file begins with some bytes."""
    with decoding(file, "can not be opened"), file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def first_bytes(path: Path) -> bytes:
    """Return the first bytes of a file that must be there and not be empty."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {EXPECTED}")
    if not path.is_file():
        raise InputError(f"{path}: is a pipe or a device; {EXPECTED}", fix="write it to a file first")
    with decoding(path, "can not be opened"), path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise InputError(f"{path}: is empty; {EXPECTED}", fix="copy or export it again")
    return head


def not_an_image(path: Path, head: bytes) -> InputError:
    """Return the error for a file of another kind."""
    if head.startswith(LFS_POINTER):
        return InputError(
            f"{path}: is a Git LFS pointer, not the image itself",
            fix="git lfs pull, in the folder of the file",
        )
    for magic, kind in FOREIGN.items():
        if head.startswith(magic):
            return InputError(f"{path}: is {kind}; {EXPECTED}", fix="convert it to OME-TIFF, for example in Fiji")
    return InputError(
        f"{path}: is not an image file (starts with {excerpt(head)}); {EXPECTED}",
        fix="look what it really is; its kind is told from its bytes, not from its name",
    )


def excerpt(head: bytes) -> str:
    """Show the first bytes: text in quotes, anything else in hexadecimal."""
    text = head.decode("utf-8", errors="replace").strip()
    return f'"{text[:8]}…"' if text[:8].isprintable() else "bytes " + head[:8].hex(" ")
