"""The metadata files of Zarr groups and arrays, read as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from unetcli.errors import InputError
from unetcli.image.location import ZARR_FILES, Location


def is_store(path: Location) -> bool:
    """Tell whether a path is a Zarr group or array of any format."""
    return any((path / name).is_file() for name in ZARR_FILES)


def is_array(path: Location) -> bool:
    """Tell whether a Zarr node is an array rather than a group."""
    if (path / "zarr.json").is_file():
        return read_metadata(path).get("node_type") == "array"
    return (path / ".zarray").is_file()


def read_attributes(path: Location, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read the attributes of a group or array, of Zarr format 3 or 2; those of any consolidated copy do not count."""
    if (path / "zarr.json").is_file():
        return _read_json(path / "zarr.json", lambda parsed: dict(parsed.get("attributes", {})))
    if (path / ".zattrs").is_file():
        return _read_json(path / ".zattrs", dict)
    if missing_ok or (path / ".zgroup").is_file() or (path / ".zarray").is_file():
        return {}
    raise InputError(f"{path}: has no Zarr metadata")


def read_metadata(path: Location) -> dict[str, Any]:
    """Read what Zarr itself says about a group or array."""
    for name in ("zarr.json", ".zarray", ".zgroup"):
        if (path / name).is_file():
            return _read_json(path / name, dict)
    raise InputError(f"{path}: has no Zarr metadata")


def _read_json(file: Location, take: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Read an object of JSON, and take from it what is asked for."""
    content = file.read_bytes()
    try:
        return take(json.loads(content))
    except (ValueError, TypeError, AttributeError) as error:
        start = content[:40].decode(errors="replace")
        pointer = start.startswith("version https://git-lfs")
        found = "a Git LFS pointer" if pointer else f"no JSON object ({start[:20]!r})"
        raise InputError(
            f"{file}: is {found}; expected Zarr metadata", fix="git lfs pull" if pointer else "copy the store again"
        ) from error
