"""Where the images of a store lie: in a collection, a plate, a well or a group of labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from unetcli.errors import InputError, first_line
from unetcli.image.location import Location
from unetcli.image.multiscale import ome_of
from unetcli.image.nodes import is_array, read_attributes
from unetcli.image.pairing import MAX_LISTED, natural_key


def find_groups(
    path: Location, ome: Mapping[str, Any], attributes: Mapping[str, Any]
) -> tuple[str, list[str], list[InputError]]:
    """Return the kind of a store of many images, where they lie, and why those of some wells can not be told."""
    if "plate" in ome:
        groups, faults = [], []
        for well in ome["plate"]["wells"]:
            try:
                groups += [f"{well['path']}/{image}" for image in _well_images(path / well["path"])]
            except InputError as error:
                faults.append(error)
        return "plate", groups, faults
    if "well" in ome:
        return "well", _well_images(path), []
    if "bioformats2raw.layout" in ome:
        series = read_attributes(path / "OME", missing_ok=True)
        names = ome_of(series).get("series")
        return "collection", list(names or sorted((p.name for p in path.iterdir() if p.name.isdigit()), key=int)), []
    listed = ome.get("labels") or attributes.get("labels")
    if isinstance(listed, list) and path.name == "labels":
        return "labels", [str(name) for name in listed], []
    raise _no_image(path)


def _well_images(path: Location) -> list[str]:
    if not path.exists():
        raise InputError(f"{path}: does not exist; the plate lists this well", fix="copy the plate again")
    with parsing(path):
        if is_array(path):
            raise InputError(f"{path}: is an array; expected a well", fix="write the plate again")
        well = ome_of(read_attributes(path)).get("well")
        if well is None:
            raise InputError(f"{path}: has no 'well' metadata; the plate lists this well", fix="write the plate again")
        return [str(image["path"]) for image in well["images"]]


def _no_image(path: Location) -> InputError:
    """Return the error for a group that is no image, with what lies in it."""
    found = list(islice(_nodes(path), MAX_LISTED + 1))
    if not found:
        return InputError(f"{path}: is a Zarr group without images or arrays; expected an OME-Zarr image")
    more = " and more" if len(found) > MAX_LISTED else ""
    return InputError(
        f"{path}: is a Zarr group without 'multiscales', but holds {', '.join(found[:MAX_LISTED])}{more}",
        fix=f"name one of them: {path / found[0]}",
    )


def _nodes(path: Location, place: str = "", depth: int = 5) -> Iterator[str]:
    """Yield the arrays and the OME-Zarr images within a group, by their place; at most so many groups deep."""
    for entry in sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name)):
        name = f"{place}{entry.name}"
        try:
            if is_array(entry) or "multiscales" in ome_of(read_attributes(entry, missing_ok=True)):
                yield name
            elif depth:
                yield from _nodes(entry, f"{name}/", depth - 1)
        except (InputError, TypeError):
            continue


@contextmanager
def parsing(path: Location) -> Iterator[None]:
    """Turn whatever goes wrong with the metadata of others into an `InputError` that names the group."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: its OME-Zarr metadata can not be understood ({type(error).__name__}: {first_line(error)})",
            fix="write the store again, or name an array in it",
        ) from error
