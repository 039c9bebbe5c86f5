"""What the objects of labels are, and which class each pixel is to be trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.store import Level
from unetcli.kernels.weight_map import separation_border

Block = NDArray[Any]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image.

    Parameters
    ----------
    name, group
        Of the image, and of its group in the new store.
    truth
        Classes or ids.
    values
        What the objects are told from: ids, or classes.
    connected
        Whether each connected part of `values` is an object; else each value is one.
    """

    name: str
    group: str
    truth: Level
    values: Level
    connected: bool

    @property
    def key(self) -> str:
        """What the image is called in the ledger and in messages."""
        return self.group or "image"

    def spacing(self, ndim: int) -> Spacing:
        """Return the distance of neighbouring pixels along z, y, x in pixels of x; in planes all are 1."""
        return self.truth.axes.spacing if ndim == 3 else (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class TargetRule:
    """How labels become what a network is trained on.

    Parameters
    ----------
    is_classes
        Whether the truth holds a class per pixel; else ids of objects, which are all of class 1.
    ignored
        Value of the truth whose pixels count nowhere.
    border_width
        How deep objects that touch one of the same class turn to background, pixels.
    """

    is_classes: bool
    ignored: int | None
    border_width: int

    def __call__(self, truth: Block, objects: Block) -> tuple[Block, Block]:
        """Return class per pixel (uint8) and object ids of a volume, both cut where objects of one class touch.

        Parameters
        ----------
        truth, objects : (z, y, x) int
            The labels, and ids of objects: those outside of the classes are left out.
        """
        classes = truth if self.is_classes else truth > 0
        if self.ignored is not None:
            classes = np.where(self.is_ignored(truth), 0, classes)
        if self.ignored is not None or self.is_classes:
            objects = np.where(classes > 0, objects, 0)
        classes = classes.astype(np.uint8, copy=False)
        if not self.border_width:
            return classes, objects
        border = np.zeros(objects.shape, dtype=np.bool_)
        for of_one_class in self._by_class(classes, objects):
            border |= separation_border(of_one_class, width=self.border_width)
        return np.where(border, 0, classes), np.where(border, 0, objects)

    def _by_class(self, classes: Block, objects: Block) -> Iterator[Block]:
        if not self.is_classes:
            yield objects
            return
        for c in np.flatnonzero(np.bincount(classes.ravel())[1:]) + 1:
            yield np.where(classes == c, objects, 0)

    def is_ignored(self, truth: Block) -> NDArray[np.bool_]:
        """Return where pixels count nowhere."""
        if self.ignored is None:
            return np.zeros(truth.shape, dtype=np.bool_)
        found: NDArray[np.bool_] = truth == self.ignored
        return found

    def halo(self, reach: float, spacing: Spacing, ndim: int) -> tuple[int, int, int]:
        """Return how many pixels (z, y, x) around a tile count in it: the reach of distances, and what cuts objects."""
        z, y, x = (math.ceil(reach / s) + self.border_width for s in spacing)
        return (z if ndim == 3 else 0, y, x)
