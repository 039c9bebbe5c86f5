"""What the OME-Zarr metadata of others say about an image: parsed, checked, no pixel read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unetcli.errors import InputError
from unetcli.image.axes import AXES, Axes, Channel, is_ordered, known_unit
from unetcli.image.location import Location
from unetcli.image.source import check_order, sizes_text

VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")
"""Versions that are read; their further parts do not count (``0.5-dev-spatialdata``)."""


@dataclass(frozen=True)
class Multiscale:
    """The description of one image with its levels.

    Parameters
    ----------
    version
        Of OME-Zarr; empty where it is not said.
    paths
        Of the levels within the group, finest first.
    names
        Names of the axes as stored, in lower case; empty in 0.1 and 0.2, which have none.
    units
        Unit of each axis that has one.
    scales
        Size of a pixel of each level along each axis; ``None`` where it is not said.
    is_label
        Whether it is described as a label image.
    """

    version: str
    paths: tuple[str, ...]
    names: tuple[str, ...]
    units: Mapping[str, Any]
    scales: tuple[tuple[float, ...] | None, ...]
    is_label: bool


def ome_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the OME-Zarr metadata among the attributes of a group: in 0.5 they have a place of their own."""
    found: Mapping[str, Any] = attributes.get("ome", attributes)
    return found


def parse_multiscale(path: Location, ome: Mapping[str, Any]) -> Multiscale:
    """Read the metadata of an image, of any version.

    Raises
    ------
    InputError
        If the version is not known, or there are no levels.
    LookupError, TypeError, AttributeError, ValueError
        If the metadata are not what they should be.
    """
    listed = ome.get("multiscales")
    if not isinstance(listed, list) or not listed or not listed[0].get("datasets"):
        raise InputError(
            f"{path}: its OME-Zarr metadata describe no image ('multiscales' is {str(listed)[:40]})",
            fix="write the store again, or name an array in it",
        )
    multiscale = listed[0]
    version = str(ome.get("version") or multiscale.get("version") or "")
    if version and not version.startswith(VERSIONS):
        raise InputError(
            f"{path}: is OME-Zarr {version}; expected {VERSIONS[0]} to {VERSIONS[-1]}",
            fix="convert it to OME-Zarr 0.5 with the program that wrote it",
        )
    declared = [{"name": a} if isinstance(a, str) else a for a in multiscale.get("axes") or ()]
    common = _scale(path, multiscale)
    own = [_scale(path, dataset) for dataset in multiscale["datasets"]]
    return Multiscale(
        version,
        tuple(str(dataset["path"]) for dataset in multiscale["datasets"]),
        tuple(str(a["name"]).lower() for a in declared),
        {str(a["name"]).lower(): a["unit"] for a in declared if a.get("unit")},
        tuple(_product(scale, common) for scale in own),
        "image-label" in ome,
    )


def _scale(path: Location, described: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the scale among some transformations; those of other kinds do not change the size of a pixel."""
    for transform in described.get("coordinateTransformations") or ():
        if transform.get("type") == "scale" and "scale" in transform:
            scale = tuple(float(s) for s in transform["scale"])
            if not all(0 < s < math.inf for s in scale):
                raise InputError(
                    f"{path}: pixel size is {scale}; expected finite numbers above 0",
                    fix="correct the 'scale' of 'coordinateTransformations' in its metadata",
                )
            return scale
    return None


def _product(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if a is None or b is None:
        return a or b
    return tuple(s * t for s, t in zip(a, b, strict=True))


def stored_order(
    path: Location, described: Multiscale, shape: Sequence[int], dimension_names: Sequence[str], given: str | None
) -> str:
    """Return the axes of an image as they are stored, slowest first.

    Parameters
    ----------
    path
        The group, for messages.
    described
        What it says.
    shape
        Of the array at full resolution.
    dimension_names
        What the array itself calls its axes; empty where it does not.
    given
        The axes that the user gave: they are believed.

    Raises
    ------
    InputError
        If they are not known, contradict the array, or are in an order that may well be wrong.
    """
    if given is not None:
        return check_order(path, given, tuple(shape))
    names = described.names or tuple(AXES[-len(shape) :])
    if not described.names and not described.version.startswith(("0.1", "0.2")):
        raise _wrong(path, f"has no names for its {len(shape)} axes ({sizes_text(tuple(shape))})", names)
    said = f"axes are ({', '.join(names)})"
    if len(names) != len(shape):
        raise _wrong(path, f"{said} but its shape is {tuple(shape)}", tuple(AXES[-len(shape) :]))
    if not set("yx") <= set(names) <= set(AXES) or len(set(names)) != len(names):
        raise _wrong(path, f"{said}; expected some of (t, c, z, y, x)", tuple(AXES[-len(shape) :]))
    if not is_ordered("".join(names)):
        raise _wrong(path, f"{said}; expected the order (t, c, z, y, x)", names)
    called = tuple(name.lower() for name in dimension_names)
    if called and called != names and set(called) <= set(AXES):
        raise _wrong(path, f"{said} but its array calls them ({', '.join(called)})", names)
    return "".join(names)


def _wrong(path: Location, found: str, example: Sequence[str]) -> InputError:
    return InputError(
        f"{path}: {found}",
        fix=f"give the true order of its axes, slowest first: --axes {''.join(example)}",
    )


def level_axes(path: Location, described: Multiscale, order: str, shapes: Sequence[Sequence[int] | None]) -> list[Axes]:
    """Return the axes of each level with its own pixel size.

    Parameters
    ----------
    order
        Axes as stored.
    shapes
        Of the levels; ``None`` where one is missing. A level without a scale is as much coarser as it is smaller.
    """
    names = described.names or tuple(order)
    ordered = "".join(a for a in AXES if a in order)
    axes = []
    for scale, shape in zip(described.scales, shapes, strict=True):
        known = scale or described.scales[0] or (1.0,) * len(names)
        if len(known) != len(names):
            raise InputError(f"{path}: its scale has {len(known)} numbers for the axes ({', '.join(names)})")
        sizes = dict(zip(names, known, strict=True))
        if scale is None and shape and shapes[0]:
            for a, n, m in zip(order, shapes[0], shape, strict=True):
                sizes[a] = sizes.get(a, 1.0) * n / m
        axes.append(Axes.of(ordered, sizes, described.units))
    return axes


def unit_notes(described: Multiscale) -> tuple[str, ...]:
    """Name the units that are not known, and therefore left out."""
    unknown = {a: u for a, u in described.units.items() if known_unit(a, u) is None}
    return tuple(
        f"unit {unit!r} of axis {a} is not one of OME-Zarr: left out (--pixel-size gives the true one)"
        for a, unit in unknown.items()
    )


def parse_channels(ome: Mapping[str, Any], n: int) -> tuple[Channel, ...]:
    """Return names and colours of channels from ``omero``; none if they are not what they should be.

    Where names repeat, all get a number, since readers tell channels by name.
    """
    omero = ome.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(listed, list) or len(listed) != n or not all(isinstance(c, Mapping) for c in listed):
        return ()
    labels = [c.get("label") for c in listed]
    names = [f"channel_{k}" if label in (None, "") else str(label) for k, label in enumerate(labels)]
    if len(set(names)) < n:
        names = [f"{name}_{k}" for k, name in enumerate(names)]
    return tuple(Channel(name, _color(c.get("color"))) for name, c in zip(names, listed, strict=True))


def _color(value: object) -> str:
    match = re.fullmatch(r"#?([0-9A-Fa-f]{6})([0-9A-Fa-f]{2})?", value) if isinstance(value, str) else None
    return match.group(1).upper() if match else ""
