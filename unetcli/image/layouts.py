"""Folders in which data sets are handed out: what is an image there, and what is its truth.

Two layouts are known, besides plain folders of images::

    stage1_train/            Data Science Bowl      ROOT/                   Cell Tracking Challenge
      ID/images/ID.png       the image                02/t010.tif           a frame
      ID/masks/*.png         a file for each object   02_GT/SEG/man_seg010.tif    its truth, made by hand
                                                      02_ST/SEG/man_seg010.tif    fused from programs
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unetcli.errors import InputError
from unetcli.image.location import Location
from unetcli.image.pairing import images_in, is_image_name, is_item, list_images, listed, match, numbers, stem

SEQUENCE = re.compile(r"\d{2,}")
FRAME = re.compile(r"t\d{3,}")
TRUTH_FOLDER = re.compile(r"(\d{2,})_(GT|ST)")
TRUTH_FRAME = re.compile(r"(.*_)?man_(seg|track)\d+")
TRUTH_PLANE = re.compile(r"man_seg_?\d+_\d+")


@dataclass(frozen=True)
class Entry:
    """One image, or one label image, that a path means.

    Parameters
    ----------
    name
        What it is paired by, and called.
    path
        A file, a store, or a folder with a file for each object.
    truth
        Where the layout keeps its labels.
    sequence
        Of a frame of the Cell Tracking Challenge: the name of its sequence.
    notes
        What was left out of the folder, in plain words.
    """

    name: str
    path: Location
    truth: Location | None = None
    sequence: str = ""
    notes: tuple[str, ...] = ()


def list_entries(
    paths: Sequence[Location], *, is_label: bool = False, find_truth: bool = False, images: Sequence[str] = ()
) -> list[Entry]:
    """List what some paths mean: each file and store, what is in a folder, and in the layouts of this module.

    Parameters
    ----------
    paths
        Files, stores or folders.
    is_label
        Whether labels are meant: then a data set stands for its truth, and folders may hold a file for each object.
    find_truth
        Whether images are to come with the labels that belong to them in their layout; those without are left out.
    images
        Names of the images that labels are for.

    Raises
    ------
    InputError
        If a path is missing, or a folder holds no image.
    """
    if is_label and len(paths) == len(images) == 1 and _shows_objects(paths[0], images[0]):
        return [Entry(images[0], paths[0])]
    found = [entry for path in paths for entry in _meant_by(path, is_label=is_label, find_truth=find_truth)]
    if len({entry.sequence for entry in found if entry.sequence}) < 2:
        return found
    return [replace(e, name=f"{e.sequence}_{e.name}") if e.sequence else e for e in found]


def is_sparse(names: Sequence[str]) -> bool:
    """Tell whether label images are named as those of the Cell Tracking Challenge, of which many frames have none."""
    return all(TRUTH_FRAME.fullmatch(stem(name)) for name in names)


def _meant_by(path: Location, *, is_label: bool, find_truth: bool) -> list[Entry]:
    if not isinstance(path, Path) or not path.is_dir() or is_item(path):
        return [Entry(stem(p.name), p) for p in list_images([path])]
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not is_item(p))
    sequences = [folder for folder in folders if _is_sequence(folder)]
    bowl = [path] if _shows_one(path) else [folder for folder in folders if (folder / "images").is_dir()]
    if _holds_images(path):
        return _truth_frames(path) if is_label and _is_truth(path) else _plain(path)
    if is_label and TRUTH_FOLDER.fullmatch(path.resolve().name):
        return _truth_frames(path / "SEG")
    if sequences:
        return _frames(sequences, is_label=is_label, find_truth=find_truth)
    if bowl:
        return [_of_bowl(folder, is_label=is_label, find_truth=find_truth) for folder in bowl]
    if is_label and any(_holds_images(folder) for folder in folders):
        return [Entry(folder.name, folder) for folder in folders if _holds_images(folder)]
    return _plain(path)


def _plain(folder: Path) -> list[Entry]:
    sequence = folder.resolve().name if _is_sequence(folder) else ""
    return [Entry(stem(p.name), p, sequence=sequence) for p in list_images([folder])]


def _holds_images(folder: Path) -> bool:
    return any(is_image_name(p) for p in folder.iterdir() if not p.name.startswith("."))


# ------------------------------------------------------------------------------------------- a file for each object


def _shows_objects(path: Location, image: str) -> bool:
    """Tell whether a folder shows the objects of one image: several files, and none is named as the image."""
    if not isinstance(path, Path) or not path.is_dir() or is_item(path) or not _holds_images(path):
        return False
    names = [p.name for p in images_in(path)]
    same_number = match([image], names, numbers) and path.name not in ("masks", image)
    return len(names) > 1 and not match([image], names, stem) and not same_number and not is_sparse(names)


def _shows_one(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _of_bowl(folder: Path, *, is_label: bool, find_truth: bool) -> Entry:
    images, masks = images_in(folder / "images"), folder / "masks"
    if len(images) > 1:
        raise InputError(
            f"{folder / 'images'}: holds {len(images)} images; expected one, with a file for each of its objects "
            f"in {masks.name}/",
            fix=f"unetcli prep {folder / 'images'} --labels LABELS, if there is one label file for each image",
        )
    if is_label:
        return Entry(folder.name, masks)
    return Entry(folder.name, images[0], masks if find_truth and masks.is_dir() else None)


# ------------------------------------------------------------------------------------------- sequences


def _is_sequence(folder: Path) -> bool:
    names = [p.stem for p in folder.iterdir() if is_image_name(p)] if SEQUENCE.fullmatch(folder.resolve().name) else []
    return bool(names) and all(FRAME.fullmatch(name) for name in names)


def _is_truth(folder: Path) -> bool:
    return any(TRUTH_FRAME.fullmatch(p.stem) or TRUTH_PLANE.fullmatch(p.stem) for p in images_in(folder))


def _frames(sequences: Sequence[Path], *, is_label: bool, find_truth: bool) -> list[Entry]:
    truths = {folder: folder.with_name(f"{folder.name}_GT") for folder in sequences}
    known = {folder: truth for folder, truth in truths.items() if (truth / "SEG").is_dir()}
    if is_label:
        if not known:
            raise InputError(
                f"{sequences[0].parent}: holds no truth made by hand; expected {sequences[0].name}_GT/SEG",
                fix=f"name the folder of the truth, such as {sequences[0]}_ST/SEG",
            )
        return [entry for truth in known.values() for entry in _truth_frames(truth / "SEG")]
    if not known or not find_truth:
        return [entry for folder in sequences for entry in _plain(folder)]
    found = [entry for folder, truth in known.items() for entry in _frames_with_truth(folder, truth / "SEG")]
    without = [folder.name for folder in sequences if folder not in known]
    if without:
        found[0] = replace(found[0], notes=(*found[0].notes, f"sequences without truth left out: {listed(without)}"))
    return found


def _frames_with_truth(folder: Path, truth_folder: Path) -> list[Entry]:
    truths = _truth_frames(truth_folder)
    at = {numbers(entry.name): entry.path for entry in truths}
    frames = [replace(frame, truth=at.pop(numbers(frame.name), None)) for frame in _plain(folder)]
    if at:
        raise InputError(
            f"{truth_folder}: {listed([p.name for p in at.values()])} belong to no frame of {folder}",
            fix="add the missing frames, or remove this truth",
        )
    notes = truths[0].notes
    if without := [frame.name for frame in frames if frame.truth is None]:
        notes = (*notes, f"{len(without)} frames of {folder.name} without truth left out: {listed(without)}")
    first, *rest = (frame for frame in frames if frame.truth is not None)
    return [replace(first, notes=notes), *rest]


def _truth_frames(folder: Path) -> list[Entry]:
    """List the truth of a sequence, but for files that show a single plane of a volume."""
    if not folder.is_dir():
        raise InputError(
            f"{folder.parent}: holds no folder {folder.name}; expected the segmentation truth of a sequence",
            fix=f"--labels {folder.parent / 'TRA'}, if its markers are meant" if folder.parent.is_dir() else None,
        )
    images = images_in(folder)
    whole = [p for p in images if not TRUTH_PLANE.fullmatch(p.stem)]
    notes: tuple[str, ...] = ()
    if not whole:
        raise InputError(
            f"{folder}: holds only single planes of volumes ({listed([p.name for p in images])}); expected labels of "
            "whole frames: what is not annotated can not be told from background",
            fix=f"--labels {_silver(folder)}, if the whole volumes are labelled there",
        )
    if len(whole) < len(images):
        planes = [p.name for p in images if p not in whole]
        notes += (f"{len(planes)} labels of single planes left out: {listed(planes)}",)
    if folder.resolve().name == "TRA":
        notes += ("labels of TRA mark cells for tracking: they may be smaller than the cells",)
    sequence = TRUTH_FOLDER.fullmatch(folder.resolve().parent.name)
    first, *rest = (Entry(stem(p.name), p, sequence=sequence[1] if sequence else "") for p in whole)
    return [replace(first, notes=notes), *rest]


def _silver(folder: Path) -> Path:
    return folder.parent.with_name(folder.parent.name.replace("_GT", "_ST")) / "SEG"
