"""Whatever paths a user gives, as named images: files, folders of files, and stores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unetcli.image.dataset import TRUTH
from unetcli.image.files import open_file
from unetcli.image.nodes import is_store
from unetcli.image.pairing import ZARR_FILES, list_images, stem
from unetcli.image.source import Source
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
    paths: Sequence[Path],
    *,
    axes: str | None = None,
    is_label: bool = False,
    level: int = 0,
    with_labels: bool = True,
    label_name: str | None = None,
) -> list[Input]:
    """Open all images under some paths, in natural order.

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
    with_labels
        Whether the label images of stores are opened too.
    label_name
        Which of them is the truth.

    Raises
    ------
    InputError
        If a path is missing, or a file can not be read.
    """
    found: list[Input] = []
    for path in list_images(paths):
        if is_store(path):
            store = open_store(path, axes=axes, is_label=is_label)
            for image in store.images:
                pixels = _noting_chunks(image.at(level))
                labels, names, notes = _labels(image, level, label_name) if with_labels else (None, (), ())
                pixels = replace(pixels, notes=(*pixels.notes, *notes))
                found.append(Input(image.name, pixels, labels, dict(store.attributes), names))
        else:
            found.append(Input(stem(path.name), open_file(path, axes=axes, is_label=is_label), None, {}))
    return found


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
    local = isinstance(level.path, Path) and not level.dense
    return local and all(name in ZARR_FILES for _, _, names in os.walk(level.path) for name in names)
