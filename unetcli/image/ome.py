"""OME-XML: sizes, channels, and the files that one image is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from unetcli.errors import InputError
from unetcli.image.axes import Channel, default_channels
from unetcli.image.pairing import listed
from unetcli.image.source import decoding

LARGEST_XML = 64 * 2**20


def ome_pixels(xml: str) -> Element | None:
    """Return the first ``Pixels`` element; None if there is none, or what is there is not XML."""
    try:
        return next(elements(ElementTree.fromstring(xml), "Pixels"), None)
    except (ElementTree.ParseError, ValueError):
        return None


def elements(root: Element, name: str) -> Iterator[Element]:
    """Yield the elements of a name, of whatever version of OME-XML."""
    return (e for e in root.iter() if isinstance(e.tag, str) and e.tag.rpartition("}")[2] == name)


def ome_channels(xml: str) -> tuple[Channel, ...]:
    """Return the channels of the first image by name and colour; empty where it names none."""
    pixels = ome_pixels(xml)
    found = list(elements(pixels, "Channel")) if pixels is not None else []
    if len(found) == 1 and found[0].get("SamplesPerPixel") == "3":
        return default_channels(3)
    described = [Channel(e.get("Name", "").strip(), color_of(e.get("Color", ""))) for e in found]
    if not any(channel.name or channel.color for channel in described):
        return ()
    return tuple(Channel(c.name or f"channel_{i}", c.color) for i, c in enumerate(described))


def color_of(text: str) -> str:
    """Return ``RRGGBB`` of a signed integer whose bytes are red, green, blue and alpha; empty for none and black."""
    try:
        color = f"{int(text) & 0xFFFFFFFF:08X}"[:6]
    except ValueError:
        return ""
    return "" if color == "000000" else color


def companion_of(xml: str) -> str | None:
    """Return the name of the file that describes the image instead, if this one holds pixels only."""
    try:
        found = next(elements(ElementTree.fromstring(xml), "BinaryOnly"), None)
    except (ElementTree.ParseError, ValueError):
        return None
    return None if found is None else found.get("MetadataFile", "")


def member_names(xml: str) -> dict[str, str]:
    """Return the names of all files that hold pixels, by their identifiers."""
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return {}
    return {e.text or "": e.get("FileName", "") for e in elements(root, "UUID") if e.get("FileName")}


def without_members(xml: str) -> str:
    """Return OME-XML that names no file: all pixels are in the one that is read."""
    root = ElementTree.fromstring(xml)
    for data in elements(root, "TiffData"):
        for uuid in list(elements(data, "UUID")):
            data.remove(uuid)
    return ElementTree.tostring(root, encoding="unicode")


def read_companion(path: Path) -> str:
    """Return the OME-XML of a file that describes an image in others.

    Raises
    ------
    InputError
        If it is missing, too large, not OME-XML, or names no file of pixels.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; it describes the image, and the TIFF files hold only planes of it",
            fix="put all files of the image into one folder, or export it as one file",
        )
    if path.stat().st_size > LARGEST_XML:
        raise InputError(f"{path}: is {path.stat().st_size} bytes of XML; expected at most {LARGEST_XML}")
    with decoding(path, "can not be read as OME-XML"):
        xml = path.read_text(encoding="utf-8")
        ElementTree.fromstring(xml)
    if not member_names(xml):
        raise InputError(f"{path}: names no files with pixels; expected OME-XML that names TIFF files")
    return xml


def member_files(path: Path, names: list[str]) -> list[Path]:
    """Return the files of an image, which lie beside the one that names them.

    Raises
    ------
    InputError
        If one is missing, or its name leads out of the folder: an input reaches no file that it was not given with.
    """
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise InputError(
                f"{path}: names the file {name!r:.80}; expected a name without a folder",
                fix="put all files of the image into one folder, or export it as one file",
            )
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of the {len(names)} files of this image are missing: {listed(missing)}",
            fix="put all files of the image into one folder, or export it as one file",
        )
    return [path.parent / name for name in names]
