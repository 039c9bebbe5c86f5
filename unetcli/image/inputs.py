"""Whatever paths a user gives, as named images: files, folders of files, and stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetcli.image.axes import Axes
from unetcli.image.dataset import TRUTH
from unetcli.image.files import open_file
from unetcli.image.pairing import list_images, stem
from unetcli.image.source import Source
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
        return [Input(stem(path.name), open_file(path, axes=axes, is_label=is_label), None, {})]
    store = open_store(path)
    found = []
    for image in store.images:
        level = image.level if axes is None else Level(image.level.path, Axes.of(axes))
        names = [n for n in image.label_names if n == TRUTH or len(image.label_names) == 1]
        found.append(Input(image.name, level, image.labels(names[0]) if names else None, dict(store.attributes)))
    return found
