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
from unetcli.image.label_sources import one_channel, open_objects, same_white
from unetcli.image.layouts import Entry, is_sparse, list_entries
from unetcli.image.pairing import listed, pair
from unetcli.image.source import Source, check_order
from unetcli.image.store import Level, is_store, open_store


@dataclass(frozen=True)
class Input:
    """One image with its name, and the labels that its store or folder brings along.

    Parameters
    ----------
    name
        File name without its endings, or name in its collection.
    source
        The pixels.
    labels
        The label image beside it in its store (the truth, or the only one there is), or in its folder.
    attributes
        What `unetcli` wrote down about the store; empty for a file.
    path, truth_path
        Where image and labels are; no path for labels in the same store.
    notes
        What was left out of its folder, in plain words.
    """

    name: str
    source: Source
    labels: Source | None
    attributes: dict[str, Any]
    path: Path
    truth_path: Path | None = None
    notes: tuple[str, ...] = ()


def open_inputs(
    paths: Sequence[Path],
    *,
    axes: str | None = None,
    is_label: bool = False,
    threshold: int | None = None,
    images: Sequence[str] = (),
) -> list[Input]:
    """Open all images under some paths, in natural order.

    Parameters
    ----------
    paths
        Files, folders of files, OME-Zarr stores of one or many images, or folders in the `layouts` of data sets.
    axes
        Axes of the files, slowest first, where they do not name them.
    is_label
        Refuse what can not be labels; show colours as values.
    threshold
        Show labels as 1 from this value on, else 0.
    images
        Names of the images that labels are for.

    Raises
    ------
    InputError
        If a path is missing, or a file can not be read.
    """
    entries = list_entries(paths, is_label=is_label, images=images)
    return open_entries(entries, axes=axes, is_label=is_label, threshold=threshold)


def open_entries(
    entries: Sequence[Entry], *, axes: str | None = None, is_label: bool = False, threshold: int | None = None
) -> list[Input]:
    """Open what `list_entries` found; see `open_inputs`."""
    found = [item for entry in entries for item in _open(entry, axes, threshold, is_label=is_label)]
    if is_label:
        sources = same_white([item.source for item in found])
        found = [replace(item, source=source) for item, source in zip(found, sources, strict=True)]
    return found


def join_labels(
    opened: Sequence[Input], labels: Sequence[Path], *, axes: str | None = None, threshold: int | None = None
) -> tuple[list[Input], list[str]]:
    """Give images the labels that some paths mean, or keep those that their stores or folders bring along.

    Parameters
    ----------
    opened
        The images.
    labels
        Files, folders or stores; paired by name, else by the numbers in the names. Of the Cell Tracking Challenge
        frames without truth are left out.
    axes
        Axes of the images' files.
    threshold
        See `open_inputs`.

    Returns
    -------
    list of Input
        In the order of the images.
    list of str
        What was left out, in plain words.

    Raises
    ------
    InputError
        If an image has no labels, or labels have no image.
    """
    notes = [note for item in opened for note in item.notes]
    if not labels:
        without = [item.name for item in opened if item.labels is None]
        if 0 < len(without) < len(opened):
            raise InputError(
                f"{len(without)} images have no labels, but others do: {listed(without)}",
                fix="leave them out, or add what is missing",
            )
        return list(opened), notes
    names = [item.name for item in opened]
    label_axes = axes.replace("c", "") if axes else None
    truths = open_inputs(labels, axes=label_axes, is_label=True, threshold=threshold, images=names)
    truth_names = [truth.name for truth in truths]
    found = pair(names, truth_names, allow_extra_a=is_sparse(truth_names))
    joined = [replace(opened[i], labels=truths[j].source, truth_path=truths[j].path) for i, j in found.pairs]
    return joined, [*notes, *found.notes, *(note for truth in truths for note in truth.notes)]


def _open(entry: Entry, axes: str | None, threshold: int | None, *, is_label: bool) -> list[Input]:
    path = entry.path
    if not is_store(path):
        source = _open_labels(path, axes, threshold) if is_label else _open_frame(entry, axes)
        label_axes = axes.replace("c", "") if axes else None
        labels = _open_labels(entry.truth, label_axes, threshold) if entry.truth else None
        return [Input(entry.name, source, labels, {}, path, entry.truth, entry.notes)]
    store = open_store(path)
    found = []
    for image in store.images:
        level: Source = image.level if axes is None else _renamed(image.level, axes)
        names = [n for n in image.label_names if n == TRUTH or len(image.label_names) == 1]
        labels = one_channel(image.labels(names[0]), threshold=threshold) if names else None
        level = one_channel(level, threshold=threshold) if is_label and labels is None else level
        found.append(Input(image.name, level, labels, dict(store.attributes), path))
    return found


def _open_frame(entry: Entry, axes: str | None) -> Source:
    """Open an image file; pages of a frame of a sequence are z planes, by the rules of the challenge."""
    source = open_file(entry.path, axes=axes)
    if entry.sequence and source.pages_unnamed and len(source.order) == 3:
        return open_file(entry.path, axes="zyx")
    return source


def _open_labels(path: Path, axes: str | None, threshold: int | None) -> Source:
    if path.is_dir():
        return open_objects(path)
    return one_channel(open_file(path, axes=axes, is_label=True), threshold=threshold)


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
