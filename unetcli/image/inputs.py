"""Whatever paths a user gives, as named images: files, folders of files, and stores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unetcli.errors import ConfigError, InputError
from unetcli.image.dataset import TRUTH
from unetcli.image.files import open_file
from unetcli.image.label_sources import one_channel, open_objects, same_white
from unetcli.image.layouts import Entry, is_sparse, list_entries
from unetcli.image.location import ZARR_FILES, Location, require_local
from unetcli.image.new_label import is_attached
from unetcli.image.nodes import is_store
from unetcli.image.ome_tiff import written_attributes
from unetcli.image.pairing import file_of, listed, pair, stem
from unetcli.image.source import FileSource, Reading, Source
from unetcli.image.store import Image, Level, open_store


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
        The label image beside it: in its store the one asked for, the truth, or the only one there is; no result.
    attributes
        What `unetcli` wrote down about the store or the OME-TIFF; empty for any other file.
    path
        Where the image is.
    truth_files
        What the labels are read from; nothing for labels in the same store.
    notes
        What was left out of its folder, in plain words.
    label_names
        All label images beside it that may be chosen.
    """

    name: str
    source: Source
    labels: Source | None
    attributes: dict[str, Any]
    path: Location
    truth_files: tuple[Location, ...] = ()
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()

    @property
    def files(self) -> list[Location]:
        """The files or the store that the image is read from."""
        return [file_of(self.path), *getattr(self.source, "parts", ())]


def open_inputs(
    paths: Sequence[Location],
    *,
    axes: str | None = None,
    is_label: bool = False,
    level: int = 0,
    threshold: int | None = None,
    label_name: str | None = None,
    images: Sequence[str] = (),
) -> list[Input]:
    """Open all images under some paths, in natural order; several files of one OME-TIFF image are one.

    Parameters
    ----------
    paths
        Files, folders of files, Zarr stores of one or many images, or folders in the `layouts` of data sets.
    axes
        Axes of the images as they are stored, slowest first, instead of what they say.
    is_label
        Refuse what can not be labels; show colours as values.
    level
        Level of a pyramid to read; 0 is full resolution.
    threshold
        Show labels as 1 from this value on, else 0.
    label_name
        Which label image of a store is the truth.
    images
        Names of the images that labels are for.

    Raises
    ------
    InputError
        If a path is missing, or a file can not be read.
    """
    how = Reading(axes, is_label, level, lossy_ok=threshold is not None)
    entries = list_entries(paths, is_label=is_label, images=images)
    return open_entries(entries, how, threshold=threshold, label_name=label_name)


def open_entries(
    entries: Sequence[Entry],
    how: Reading,
    *,
    threshold: int | None = None,
    label_name: str | None = None,
    with_labels: bool = True,
) -> list[Input]:
    """Open what `list_entries` found; see `open_inputs`. Label images of stores are opened `with_labels` only."""
    found: list[Input] = []
    opened: set[Location] = set()
    for entry in entries:
        if entry.path.resolve() in opened:
            continue
        if is_store(entry.path):
            items = _open_store(entry.path, how, threshold, label_name, with_labels=with_labels)
        else:
            items = [_open_file(entry, how, threshold)]
        found += items
        opened.update(part.resolve() for item in items for part in getattr(item.source, "parts", ()))
    if how.is_label:
        sources = same_white([item.source for item in found])
        found = [replace(item, source=source) for item, source in zip(found, sources, strict=True)]
    return _told_apart(found)


def join_labels(
    opened: Sequence[Input],
    labels: Sequence[Location],
    how: Reading,
    *,
    threshold: int | None = None,
    label_name: str | None = None,
) -> tuple[list[Input], list[str]]:
    """Give images the labels that some paths mean, or keep those that their stores or folders bring along.

    Parameters
    ----------
    opened
        The images.
    labels
        Files, folders or stores; paired by name, else by the numbers in the names. Of the Cell Tracking Challenge
        frames without truth are left out.
    how
        How the images were read.
    threshold, label_name
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
        return _with_own_labels(opened, label_name), notes
    names = [item.name for item in opened]
    axes = how.axes.replace("c", "") if how.axes else None
    truths = open_inputs(labels, axes=axes, is_label=True, threshold=threshold, label_name=label_name, images=names)
    _require_label_name(truths, label_name)
    truth_names = [truth.name for truth in truths]
    found = pair(names, truth_names, allow_extra_a=is_sparse(truth_names))
    joined = [_joined(opened[i], truths[j]) for i, j in found.pairs]
    return joined, [*notes, *found.notes, *(note for truth in truths for note in truth.notes)]


def _joined(image: Input, truth: Input) -> Input:
    labels = _own_labels(truth)
    if labels is None and truth.path.resolve() == image.path.resolve():
        raise InputError(f"{image.path}: is given as image and as its own labels", fix="--labels LABELS")
    return replace(image, labels=labels or truth.source, truth_files=tuple(truth.files))


def _with_own_labels(opened: Sequence[Input], label_name: str | None) -> list[Input]:
    _require_label_name(opened, label_name)
    joined = [replace(item, labels=_own_labels(item)) for item in opened]
    without = [item.name for item in joined if item.labels is None]
    if 0 < len(without) < len(joined):
        raise InputError(
            f"{len(without)} images have no labels, but others do: {listed(without)}",
            fix="leave them out, or add what is missing",
        )
    return joined


def _require_label_name(items: Sequence[Input], label_name: str | None) -> None:
    if label_name is not None and not any(item.label_names for item in items):
        raise ConfigError(f"--label-name {label_name}: no OME-Zarr store with label images was given")


def _own_labels(item: Input) -> Source | None:
    """Return the labels that a store or folder brings along; refuse to choose among several."""
    if item.labels is None and item.label_names:
        raise InputError(
            f"{item.source.name}: there are several label images beside it: {', '.join(item.label_names)}; can not "
            "tell which is the truth",
            fix=f"--label-name {item.label_names[0]}, for example",
        )
    return item.labels


def _told_apart(items: list[Input]) -> list[Input]:
    """Add the name of the dataset to images of one HDF5 file: ``a_raw`` and ``a_other``."""
    times = Counter(item.name for item in items)
    return [
        replace(item, name=f"{item.name}_{item.source.name}")
        if times[item.name] > 1 and isinstance(item.source, FileSource) and not item.source.path.exists()
        else item
        for item in items
    ]


# ------------------------------------------------------------------------------------------- files


def _open_file(entry: Entry, how: Reading, threshold: int | None) -> Input:
    is_frame = entry.sequence and not how.is_label
    source = _open_labels(entry.path, how, threshold) if how.is_label else open_file(entry.path, **asdict(how))
    if is_frame and isinstance(source, FileSource) and source.pages_unnamed and len(source.order) == 3:
        source = open_file(entry.path, **asdict(replace(how, axes="zyx")))  # by the rules of the challenge
    axes = how.axes.replace("c", "") if how.axes else None
    labels = _open_labels(entry.truth, replace(how, axes=axes), threshold) if entry.truth else None
    attributes = written_attributes(require_local(file_of(entry.path)))
    truth_files = (entry.truth,) if entry.truth else ()
    return Input(_name_of(entry, source), source, labels, attributes, entry.path, truth_files, entry.notes)


def _open_labels(path: Location, how: Reading, threshold: int | None) -> Source:
    if path.is_dir():
        return open_objects(require_local(path))
    how = replace(how, is_label=True, lossy_ok=threshold is not None)
    return one_channel(open_file(path, **asdict(how)), threshold=threshold)


def _name_of(entry: Entry, source: Source) -> str:
    """Return what an image is called: of an HDF5 dataset its file, of a set of files the one that describes it."""
    described = [part for part in getattr(source, "parts", ()) if part.suffix.lower() == ".ome"]
    if described:
        return stem(described[0].name)
    return entry.name if entry.path.exists() else stem(file_of(entry.path).name)


# ------------------------------------------------------------------------------------------- stores


def _open_store(
    path: Location, how: Reading, threshold: int | None, label_name: str | None, *, with_labels: bool
) -> list[Input]:
    store = open_store(path, axes=how.axes, is_label=how.is_label)
    found = []
    for image in store.images:
        pixels = _noting_chunks(image.at(how.level))
        labels, names, notes = _labels(image, pixels, label_name) if with_labels else (None, (), ())
        source: Source = replace(pixels, notes=(*pixels.notes, *notes))
        if labels is not None:
            labels = one_channel(labels, threshold=threshold)
        elif how.is_label:
            source = one_channel(source, threshold=threshold)
        found.append(Input(image.name, source, labels, dict(store.attributes), path, label_names=names))
    return found


def _labels(image: Image, pixels: Level, name: str | None) -> tuple[Source | None, tuple[str, ...], tuple[str, ...]]:
    """Return the label image of a name at the level that fits, the names to choose from, and notes.

    By default it is the truth, or the only one there is, unless nothing is stored of it.
    """
    names = tuple(n for n in image.label_names if n == name or not is_attached(image, n))
    chosen = name if name is not None else names[0] if len(names) == 1 else TRUTH
    if name is None and chosen not in names:
        return None, names, ()
    label = image.label_image(chosen)
    labels = next((level for level in label.levels if level.shape[2:] == pixels.shape[2:]), label.level)
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
