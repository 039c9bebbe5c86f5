"""Whatever paths a user gives, as named images: files, folders of files, and stores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unetcli.image.dataset import TRUTH
from unetcli.image.files import open_file
from unetcli.image.location import ZARR_FILES, Location
from unetcli.image.nodes import is_store
from unetcli.image.pairing import file_of, list_images, stem
from unetcli.image.source import FileSource, Reading, Source
from unetcli.image.store import Image, Level, open_store


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
        The label image beside it in its store: the one asked for, the truth, or the only one there is.
    attributes
        What `unetcli` wrote down about the store; empty for a file.
    label_names
        All label images beside it that may be chosen.
    """

    name: str
    source: Source
    labels: Source | None
    attributes: dict[str, Any]
    label_names: tuple[str, ...] = ()


def open_inputs(
    paths: Sequence[Location],
    *,
    axes: str | None = None,
    is_label: bool = False,
    level: int = 0,
    lossy_ok: bool = False,
    with_labels: bool = True,
    label_name: str | None = None,
) -> list[Input]:
    """Open all images under some paths, in natural order; several files of one OME-TIFF image are one.

    Parameters
    ----------
    paths
        Files, folders of files, or Zarr stores of one or many images.
    axes
        Axes of the images as they are stored, slowest first, instead of what they say.
    is_label
        Refuse what can not be labels.
    level
        Level of a pyramid to read, of the labels beside it too; 0 is full resolution.
    lossy_ok
        Take labels that are compressed as JPEG, too.
    with_labels
        Whether the label images of stores are opened too.
    label_name
        Which of them is the truth.

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
            items = _open(path, how, with_labels=with_labels, label_name=label_name)
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


def _open(path: Location, how: Reading, *, with_labels: bool, label_name: str | None) -> list[Input]:
    if not is_store(path):
        source = open_file(path, **asdict(how))
        return [Input(stem(_name_of(source)), source, None, {})]
    store = open_store(path, axes=how.axes, is_label=how.is_label)
    found = []
    for image in store.images:
        pixels = _noting_chunks(image.at(how.level))
        labels, names, notes = _labels(image, how.level, label_name) if with_labels else (None, (), ())
        pixels = replace(pixels, notes=(*pixels.notes, *notes))
        found.append(Input(image.name, pixels, labels, dict(store.attributes), names))
    return found


def _name_of(source: FileSource) -> str:
    """Return what an image is called: the file of an HDF5 dataset, or the one that describes a set of files."""
    described = [part for part in source.parts if part.suffix.lower() == ".ome"]
    return described[0].name if described else file_of(source.path).name


def _labels(image: Image, level: int, name: str | None) -> tuple[Level | None, tuple[str, ...], tuple[str, ...]]:
    """Return the label image of a name, the names to choose from, and notes.

    By default it is the truth, or the only one there is, unless nothing is stored of it.
    """
    names = image.label_names
    chosen = name or (names[0] if len(names) == 1 else TRUTH)
    if name is None and chosen not in names:
        return None, names, ()
    labels = image.label_image(chosen).at(level)
    if name is None and _is_hollow(labels):
        return None, (), (f"{labels.path}: no chunk is stored: these labels are left out",)
    return labels, names, ()


def _noting_chunks(level: Level) -> Level:
    """Add a note to an array of which nothing is stored: it may be meant so, or the files were lost."""
    if not _is_hollow(level):
        return level
    return replace(level, notes=(*level.notes, f"{level.path}: no chunk is stored: all pixels are the fill value"))


def _is_hollow(level: Level) -> bool:
    """Tell whether nothing is stored of an array of others; of a remote one it is not asked."""
    if level.dense or not isinstance(level.path, Path):
        return False
    return all(name in ZARR_FILES for _, _, names in os.walk(level.path) for name in names)
