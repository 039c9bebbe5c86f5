"""Whatever paths a user gives, as named images: files, folders of files, and stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unetcli.errors import InputError
from unetcli.image.axes import AXES, Axes, is_ordered
from unetcli.image.dataset import TRUTH
from unetcli.image.files import open_file
from unetcli.image.new_label import is_attached
from unetcli.image.ome_tiff import written_attributes
from unetcli.image.pairing import list_images, stem
from unetcli.image.source import Source, check_order
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
        The label image beside it in its store: the truth, or the only one there is. Results are none.
    attributes
        What `unetcli` wrote down about the store or the OME-TIFF; empty for any other file.
    """

    name: str
    source: Source
    labels: Source | None
    attributes: dict[str, Any]


def open_inputs(paths: Sequence[Path], *, axes: str | None = None, is_label: bool = False) -> list[Input]:
    """Open all images under some paths, in natural order.

    Parameters
    ----------
    paths
        Files, folders of files, or OME-Zarr stores of one or many images.
    axes
        Axes of the files, slowest first, where they do not name them.
    is_label
        Refuse what can not be labels.

    Raises
    ------
    InputError
        If a path is missing, or a file can not be read.
    """
    return [item for path in list_images(paths) for item in _open(path, axes, is_label=is_label)]


def _open(path: Path, axes: str | None, *, is_label: bool) -> list[Input]:
    if not is_store(path):
        source = open_file(path, axes=axes, is_label=is_label)
        return [Input(stem(path.name), source, None, written_attributes(path))]
    store = open_store(path)
    found = []
    for image in store.images:
        level = image.level if axes is None else _renamed(image.level, axes)
        given = [n for n in image.label_names if not is_attached(image, n)]
        names = [n for n in given if n == TRUTH or len(given) == 1]
        found.append(Input(image.name, level, image.labels(names[0]) if names else None, dict(store.attributes)))
    return found


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
