"""Which files are meant: the images of a folder, and which image belongs to which labels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unetcli.errors import InputError
from unetcli.image.ledger import require_complete
from unetcli.image.location import ZARR_FILES, Location, RemotePath, nothing_at

SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".npz", ".svs", ".h5", ".hdf5", ".hdf", ".ome"})
MAX_LISTED = 10
L = TypeVar("L", bound=Location)


@dataclass(frozen=True)
class Pairs:
    """Which item of one list belongs to which of another.

    Parameters
    ----------
    pairs
        Positions in the first and in the second list, in the order of the first.
    notes
        What was left out, in plain words, to be shown to the user.
    """

    pairs: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()


def list_images(paths: Iterable[Location]) -> list[Location]:
    """List the image files and OME-Zarr stores that are meant by some paths.

    Parameters
    ----------
    paths
        A file or a Zarr store is meant itself, and so is a dataset in an HDF5 file; a folder means the images in
        it, in natural order (``t2`` before ``t10``), without hidden files and without the folders in it.

    Raises
    ------
    InputError
        If a path is missing or a folder holds no image.
    """
    images: list[Location] = []
    for path in paths:
        require_complete(path)
        if not file_of(path).exists():
            raise nothing_at(path)
        images += [path] if is_item(path) else images_in(path)
    return images


def file_of(path: Location) -> Location:
    """Return the file that a path continues into (``file.h5`` for ``file.h5/path/to/dataset``), else the path."""
    if isinstance(path, RemotePath) or path.exists():
        return path
    return next((parent for parent in path.parents if parent.is_file()), path)


def is_item(path: Location) -> bool:
    """Tell whether a path is one image: a file or a Zarr store."""
    return not path.is_dir() or any((path / name).is_file() for name in ZARR_FILES)


def images_in(folder: L) -> list[L]:
    """List the images in a folder in natural order."""
    entries: list[L] = list(folder.iterdir())  # type: ignore[arg-type]
    found = [p for p in entries if not p.name.startswith(".") and is_image_name(p)]
    if not found:
        raise InputError(
            f"{folder}: holds no images; expected TIFF, PNG, JPEG, NumPy, HDF5 or OME-Zarr",
            fix="name a folder whose images lie directly in it",
        )
    return sorted(found, key=lambda p: natural_key(p.name))


def is_image_name(path: Location) -> bool:
    """Tell whether an entry of a folder is named like an image."""
    suffix = path.suffix.lower()
    return suffix == ".zarr" or is_item(path) if path.is_dir() else suffix in SUFFIXES


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts numbers in names by their value."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    key = tuple((0, int(p), "") if p[0].isdigit() else (1, 0, p.lower()) for p in parts)
    return (*key, (2, 0, name))  # the same but for zeros or case: still in a fixed order


def stem(name: str) -> str:
    """Return a name without folder and extension; ``x`` for ``x.ome.tif``, ``x.ome.zarr`` and ``x.companion.ome``.

    Examples
    --------
    >>> stem("a/x.ome.tif"), stem("x.1.png"), stem("x")
    ('x', 'x.1', 'x')
    """
    base = Path(name).name
    suffix = Path(base).suffix.lower()
    if suffix in SUFFIXES or suffix == ".zarr":
        base = base[: -len(suffix)]
        for kind in (".ome", ".companion"):
            if base.lower().endswith(kind):
                base = base[: -len(kind)]
    return base


def numbers(name: str) -> tuple[int, ...]:
    """Return the numbers in the stem of a name."""
    return tuple(int(n) for n in re.findall(r"[0-9]+", stem(name)))


def pair(
    names_a: Sequence[str],
    names_b: Sequence[str],
    *,
    a: str = "images",
    b: str = "labels",
    allow_extra_a: bool = False,
    allow_extra_b: bool = False,
) -> Pairs:
    """Find for each name of one list its partner in another.

    A single one and a single one are always a pair. Else partners have the same stem; else the same numbers
    in their names (``t010`` and ``man_seg010``). All pairs are found by the same rule.

    Parameters
    ----------
    names_a, names_b
        File names; folders and extensions do not count.
    a, b
        What they are, for messages.
    allow_extra_a, allow_extra_b
        Whether names of a list may be left over, with a note: frames without truth, truth of which only a
        part was predicted.

    Raises
    ------
    InputError
        If a name has no partner or several, with the names.

    Examples
    --------
    >>> pair(["t010.tif", "t009.tif"], ["man_seg009.tif", "man_seg010.tif"]).pairs
    ((0, 1), (1, 0))
    """
    if len(names_a) == len(names_b) == 1 and not (allow_extra_a and numbers(names_a[0])):
        return Pairs(((0, 0),))
    found = match(names_a, names_b, stem)
    if len(found) < len(names_a):
        found = max(found, match(names_a, names_b, numbers), key=len)
    lonely_a = [n for i, n in enumerate(names_a) if i not in found]
    lonely_b = [n for j, n in enumerate(names_b) if j not in set(found.values())]
    if (lonely_a and not allow_extra_a) or (lonely_b and not allow_extra_b) or not found:
        raise unpaired(lonely_a, lonely_b, a, b)
    sides = (lonely_a, a, b), (lonely_b, b, a)
    notes = tuple(f"{len(names)} {x} without {y} left out: {listed(names)}" for names, x, y in sides if names)
    return Pairs(tuple(sorted(found.items())), notes)


def match(names_a: Sequence[str], names_b: Sequence[str], key: Callable[[str], Hashable]) -> dict[int, int]:
    """Pair positions whose names have the same key, where just one name of each list has it.

    An empty key, as of a name without numbers, is no key.
    """
    at_a, at_b = positions(names_a, key), positions(names_b, key)
    return {at_a[k][0]: at_b[k][0] for k in at_a if k and len(at_a[k]) == 1 and len(at_b.get(k, ())) == 1}


def positions(names: Sequence[str], key: Callable[[str], Hashable]) -> dict[Hashable, list[int]]:
    """Return the positions of the names of each key."""
    found = defaultdict(list)
    for i, name in enumerate(names):
        found[key(name)].append(i)
    return dict(found)


def unpaired(lonely_a: Sequence[str], lonely_b: Sequence[str], a: str, b: str) -> InputError:
    """Return the error for names without exactly one partner."""
    fix = "give partners the same name but for the extension, or the same numbers: image_07, label_07"
    if not lonely_b:
        fix = f"leave out the {a} without {b}, or add what is missing"
    if not lonely_a:
        fix = f"leave out the {b} without {a}, or add what is missing"
    sides = [f"{len(names)} {what} ({listed(names)})" for names, what in ((lonely_a, a), (lonely_b, b)) if names]
    return InputError(
        f"{' and '.join(sides)} can not be paired; expected exactly one partner each, "
        "of the same name or with the same numbers in its name",
        fix=fix,
    )


def listed(names: Sequence[str]) -> str:
    """List names, at most ten of them."""
    short = [Path(n).name for n in names[:MAX_LISTED]]
    more = len(names) - len(short)
    return ", ".join(short) + (f" and {more} more" if more else "")
