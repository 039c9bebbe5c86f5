"""A prepared data set: images with truth, classes, statistics and a split, as `prep` and `augment` write it."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.image.location import Location
from unetcli.image.store import Image, Store, open_store

TRUTH = "truth"
"""Name of the label image that holds the truth: class per pixel, or object ids."""
TARGET = "target"
"""Name of the label image in a weights store that holds the class to train each pixel on."""
WEIGHTS = "weights"
"""Group of an augmented image that holds its weight map."""
SAMPLING = "sampling"
"""Group of an image in a weights store that says where training patches are centred: see `density`."""


@dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Parameters
    ----------
    store
        Where it is kept.
    ndim
        2: each (y, x) plane is a picture of its own. 3: objects lie in (z, y, x) volumes.
    label_kind
        ``classes``, ``instances``, or ``None`` without labels.
    classes
        Name of each class; class 0 is background.
    statistics
        Mean, std, range and percentiles of each channel.
    validation
        Image to its planes (of t and z, counted together) that are kept for validation; ``None`` = all.
    class_pixels
        Number of pixels of each class in the whole collection; ``None`` where nobody counted them.
    channels
        Name of each channel.
    """

    store: Store
    ndim: int
    label_kind: str | None
    classes: tuple[str, ...]
    statistics: tuple[Mapping[str, Any], ...]
    validation: Mapping[str, Sequence[int] | None]
    class_pixels: tuple[int, ...] | None = None
    channels: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[Image, ...]:
        """The images, in order."""
        return self.store.images

    def planes(self, *, validation: bool) -> Iterator[tuple[Image, int, int]]:
        """Yield (image, t, z) of each plane of the training or the validation part."""
        for image in self.images:
            t, _, z, _, _ = image.level.shape
            held = self.validation.get(image.name, ())
            for plane in range(t * z):
                if (held is None or plane in held) == validation:
                    yield image, plane // z, plane % z

    def normalization(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and std of each channel; a constant channel has std 1."""
        mean = np.array([s["mean"] for s in self.statistics], dtype=np.float32)
        std = np.array([s["std"] or 1.0 for s in self.statistics], dtype=np.float32)
        return mean, std

    def require_labels(self) -> None:
        """Raise an `InputError` if there are no labels."""
        if self.label_kind is None:
            raise InputError(
                f"{self.store.path}: has no labels; expected images with truth",
                fix="unetcli prep IMAGE... --labels LABELS... -o data.zarr",
            )


def open_dataset(path: Location) -> Dataset:
    """Open a data set.

    Raises
    ------
    InputError
        If the path is not a complete store that `prep` or `augment` wrote.
    """
    store = open_store(path)
    data = store.attributes.get("data")
    if data is None:
        stage = store.attributes.get("stage")
        if stage:
            raise InputError(
                f"{path}: was written by {stage}, so it was not prepared; expected a data set",
                fix="give the data set that unetcli prep or augment wrote",
            )
        raise InputError(f"{path}: was not prepared", fix=f"unetcli prep {path} -o data.zarr")
    return Dataset(
        store,
        data["ndim"],
        data["label_kind"],
        tuple(data["classes"]),
        tuple(data["statistics"]),
        data["validation"],
        tuple(data["class_pixels"]) if data.get("class_pixels") else None,
        tuple(data.get("channels", ())),
    )


def shares_text(names: Sequence[str], pixels: Sequence[int]) -> str:
    """Say which part of all pixels each class has."""
    return ", ".join(f"{name} {100 * n / sum(pixels):.3g} %" for name, n in zip(names, pixels, strict=True))


def parse_split(text: str | None, planes: Mapping[str, int]) -> dict[str, list[int] | None]:
    """Read ``--split``: which images or planes are kept for validation.

    Parameters
    ----------
    text
        A fraction between 0 and 1, image names (globs), or plane numbers and ranges of the one image.
    planes
        Number of planes of each image, by name.

    Returns
    -------
    dict
        Image name to its planes; ``None`` stands for the whole image.

    Raises
    ------
    InputError
        If it names nothing that is there, or everything.
    """
    if text is None:
        return {}
    single = next(iter(planes)) if len(planes) == 1 else None
    pieces = [p.strip() for p in text.split(",") if p.strip()]
    fraction = re.fullmatch(r"0?\.\d+", text) is not None
    if not pieces or (fraction and float(text) == 0):
        raise InputError(
            f"--split {text}: expected a fraction between 0 and 1, names of images, or plane numbers",
            fix="--split 0.2, --split 'img_1*,img_07', or --split 20-23 for one stack",
        )
    if fraction:
        chosen = _spread(float(text), planes, single)
    elif single and all(re.fullmatch(r"\d+(-\d+)?", p) for p in pieces):
        chosen = {single: sorted({n for p in pieces for n in _plane_range(p, planes[single])})}
    else:
        chosen = {name: None for p in pieces for name in fnmatch.filter(planes, p)}
        missing = [p for p in pieces if not fnmatch.filter(planes, p)]
        if missing:
            raise InputError(
                f"--split {text}: no image is named {', '.join(missing)} (there are {_some(planes)})",
                fix="names of images; or a fraction between 0 and 1; or plane numbers, if there is a single stack",
            )
    if sum(planes[n] if c is None else len(c) for n, c in chosen.items()) >= sum(planes.values()):
        raise InputError(f"--split {text}: leaves nothing to train on")
    return chosen


def _spread(fraction: float, planes: Mapping[str, int], single: str | None) -> dict[str, list[int] | None]:
    """Choose a fraction of the images (of the planes, if there is one image), evenly spread."""
    n = planes[single] if single else len(planes)
    count = max(1, round(fraction * n))
    chosen = [math.floor((i + 0.5) * n / count) for i in range(count)]
    if single:
        return {single: chosen}
    names = list(planes)
    return {names[i]: None for i in chosen}


def _plane_range(text: str, n: int) -> range:
    first, _, last = text.partition("-")
    planes = range(int(first), int(last or first) + 1)
    if not planes or planes[-1] >= n:
        raise InputError(f"--split {text}: expected planes from 0 to {n - 1}")
    return planes


def _some(names: Mapping[str, int]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
