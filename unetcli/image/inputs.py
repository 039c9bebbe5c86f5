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
        The label image beside it in its store: the truth, or the only one there is.
    attributes
        What `unetcli` wrote down about the store; empty for a file.
    """

    name: str
    source: Source
    labels: Source | None
    attributes: dict[str, Any]


def open_inputs(
    paths: Sequence[Path], *, axes: str | None = None, level: int = 0, is_label: bool = False
) -> list[Input]:
    """Open all images under some paths, in natural order.

    Parameters
    ----------
    paths
        Files, folders of files, or OME-Zarr stores of one or many images.
    axes
        Axes of the files, slowest first, where they do not name them.
    level
        Level to read of images with a pyramid. Labels beside an image in its store are read at the level that fits.
    is_label
        Refuse what can not be labels.

    Raises
    ------
    InputError
        If a path is missing, or a file can not be read.
    """
    return [item for path in list_images(paths) for item in _open(path, axes, level, is_label=is_label)]


def _open(path: Path, axes: str | None, number: int, *, is_label: bool) -> list[Input]:
    if not is_store(path):
        return [Input(stem(path.name), open_file(path, axes=axes, level=number, is_label=is_label), None, {})]
    store = open_store(path)
    found = []
    for image in store.images:
        level = image.at(number) if axes is None else _renamed(image.at(number), axes)
        names = [n for n in image.label_names if n == TRUTH or len(image.label_names) == 1]
        labels = image.labels(names[0], like=level.shape) if names else None
        found.append(Input(image.name, level, labels, dict(store.attributes)))
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
