"""Whatever paths a user gives, as named images: files, folders of files, and stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unetcli.errors import InputError
from unetcli.image.axes import AXES, Axes, is_ordered
from unetcli.image.dataset import TRUTH
from unetcli.image.files import open_file
from unetcli.image.location import Location
from unetcli.image.pairing import file_of, list_images, stem
from unetcli.image.source import FileSource, Reading, Source, check_order
from unetcli.image.store import Level, is_store, open_store


@dataclass(frozen=True)
class Input:
    """One image with its name, and the labels that its store brings along.

    Parameters
    ----------
    name
        File name without its endings, or name in its collection.
    source
        The pixels.
    labels
        The label image beside it in its store: the truth, or the only one there is.
    attributes
        What `unetcli` wrote down about the store; empty for a file.
    """

    name: str
    source: Source
    labels: Source | None
    attributes: dict[str, Any]


def open_inputs(
    paths: Sequence[Location],
    *,
    axes: str | None = None,
    is_label: bool = False,
    level: int = 0,
    lossy_ok: bool = False,
) -> list[Input]:
    """Open all images under some paths, in natural order; several files of one OME-TIFF image are one.

    Parameters
    ----------
    paths
        Files, folders of files, or OME-Zarr stores of one or many images.
    axes
        Axes of the files, slowest first, where they do not name them.
    is_label
        Refuse what can not be labels.
    level
        Resolution of the files, 0 = full.
    lossy_ok
        Take labels that are compressed as JPEG, too.

    Raises
    ------
    InputError
        If a path is missing, or a file can not be read.
    """
    how = Reading(axes, is_label, level, lossy_ok)
    found: list[Input] = []
    opened: set[Location] = set()
    for path in list_images(paths):
        if path.resolve() not in opened:
            items = _open(path, how)
            found += items
            opened.update(part.resolve() for item in items for part in getattr(item.source, "parts", ()))
    return _told_apart(found)


def files_of(paths: Sequence[Location], sources: Iterable[Source]) -> list[Location]:
    """Return all files and stores that images under some paths are read from, each once."""
    parts = [part for source in sources for part in getattr(source, "parts", ())]
    return list(dict.fromkeys([*map(file_of, list_images(paths)), *parts]))


def _told_apart(items: list[Input]) -> list[Input]:
    """Add the name of the dataset to images of one HDF5 file: ``a_raw`` and ``a_other``."""
    times = Counter(item.name for item in items)
    return [
        replace(item, name=f"{item.name}_{item.source.name}")
        if times[item.name] > 1 and isinstance(item.source, FileSource) and not item.source.path.exists()
        else item
        for item in items
    ]


def _open(path: Location, how: Reading) -> list[Input]:
    axes = how.axes
    if not is_store(path):
        source = open_file(path, **asdict(how))
        return [Input(stem(_name_of(source)), source, None, {})]
    store = open_store(path)
    found = []
    for image in store.images:
        level = image.level if axes is None else _renamed(image.level, axes)
        names = [n for n in image.label_names if n == TRUTH or len(image.label_names) == 1]
        found.append(Input(image.name, level, image.labels(names[0]) if names else None, dict(store.attributes)))
    return found


def _name_of(source: FileSource) -> str:
    """Return what an image is called: the file of an HDF5 dataset, or the one that describes a set of files."""
    described = [part for part in source.parts if part.suffix.lower() == ".ome"]
    return described[0].name if described else file_of(source.path).name


def _renamed(level: Level, names: str) -> Level:
    """Return an array of a store with other axes; the pixel size stays, where an axis keeps its name."""
    order = check_order(level.path, names, level.axes.keep(level.shape))
    if not is_ordered(order):
        raise InputError(
            f"{level.path}: --axes {names}; the axes of a store are always in the order t, c, z, y, x",
            fix=f"--axes {''.join(sorted(order, key=AXES.index))}, or leave it out",
        )
    old = level.axes
    axes = Axes.of(
        order,
        dict(zip(old.names, old.scale, strict=True)),
        dict(zip(old.names, old.units, strict=True)),
    )
    return replace(level, axes=axes)
