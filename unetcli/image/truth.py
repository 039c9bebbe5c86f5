"""What the values of label images mean: classes with names, or ids of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError, InputError
from unetcli.image.source import Source
from unetcli.image.streaming import reduce_tiles, work_on
from unetcli.image.tiling import Tile, TileGrid

Block = NDArray[Any]
SAMPLE_TILE = (1, 16, 1, 2048, 2048)
"""Tiles in which label values are collected: files have no shards."""


@dataclass(frozen=True)
class LabelMap:
    """What label values become.

    Parameters
    ----------
    kind
        ``classes`` or ``instances``.
    values
        Of classes: the label values.
    names
        Name of each class; of instances, background and object.
    indices
        Of classes: the class of each label value.
    """

    kind: str
    values: tuple[int, ...]
    names: tuple[str, ...]
    indices: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which labels are stored: uint32 for ids, uint8 for classes."""
        return np.dtype(np.uint32 if self.kind == "instances" else np.uint8)

    def __call__(self, _: Tile, block: Block) -> Block:
        """Turn label values to class indices (uint8), or keep ids (uint32)."""
        if self.kind == "instances":
            return block.astype(self.dtype)
        values = np.asarray(self.values)
        order = np.argsort(values)
        at = np.searchsorted(values, block, sorter=order).clip(max=len(values) - 1)
        mapped: Block = np.array(self.indices, dtype=self.dtype)[order[at]]
        return mapped


def make_label_map(
    truths: Sequence[Source], notes: list[str], *, kind: str | None = None, classes: str | None = None
) -> LabelMap | None:
    """Find out what the values of label images mean.

    Parameters
    ----------
    truths
        All label images of a collection.
    notes
        Assumptions are added here, in plain words.
    kind
        ``classes`` or ``instances``; by default two values are classes, more are instances.
    classes
        ``VALUE=NAME`` of each class, as `--classes` takes them.

    Returns
    -------
    LabelMap or None
        None without labels.

    Raises
    ------
    InputError, ConfigError
        If values and settings do not fit.
    """
    if not truths:
        if classes:
            raise ConfigError("--classes: there are no labels", fix="--labels LABELS")
        return None
    named = _parse_classes(classes) if classes else {}
    values = _label_values(truths, named)
    if named:
        names = tuple(dict.fromkeys(named.values()))  # values of one name are one class
        return LabelMap("classes", tuple(named), names, tuple(names.index(name) for name in named.values()))
    is_given = kind is not None
    kind = kind or ("classes" if len(values) == 2 else "instances")
    if not is_given:
        shown = f"{len(values)} values" if len(values) > 8 else f"the values {values}"
        notes.append(f"labels hold {shown}: taken as {kind} (--label-kind says otherwise)")
    if kind == "instances":
        if values[0] < 0 or values[-1] >= 2**32:
            raise InputError(f"{truths[0].name}: ids are {values[0]} to {values[-1]}; expected 0 to {2**32 - 1}")
        return LabelMap("instances", (), ("background", "object"), ())
    if len(values) > 255:
        raise InputError(
            f"{truths[0].name}: labels hold {len(values)} values; expected at most 255 classes",
            fix="--label-kind instances, if these are object ids",
        )
    names = ("background", "foreground") if len(values) == 2 else tuple(f"class_{v}" for v in values)
    return LabelMap("classes", tuple(values), names, tuple(range(len(values))))


def _label_values(truths: Sequence[Source], named: Mapping[int, str]) -> list[int]:
    """Return all values of the labels, in order; refuse those that no class is named for, and a single one."""
    works = [w for truth in truths for w in work_on(truth.name, TileGrid(truth.shape, SAMPLE_TILE), [truth])]
    found: set[int] = set()
    for work, unique in zip(works, reduce_tiles(lambda _, block: np.unique(block), works), strict=True):
        found.update(int(value) for value in unique)
        if named and not found <= named.keys():
            raise InputError(
                f"{work.sources[0].name}: labels hold the values {sorted(found - named.keys())[:5]} at "
                f"{work.tile.core}; expected those of --classes: {sorted(named)}"
            )
    if len(found) < 2:
        raise InputError(
            f"{truths[0].name}: labels hold only the value {min(found)}; expected background and something else",
            fix="check that these are the labels, and not empty ones",
        )
    return sorted(found)


def _parse_classes(text: str) -> dict[int, str]:
    try:
        pairs = [piece.split("=") for piece in text.split(",")]
        classes = {int(value): name.strip() for value, name in pairs}
    except ValueError:
        classes = {}
    if len(set(classes.values())) < 2 or len(classes) != text.count("=") or not all(classes.values()):
        raise ConfigError(f"--classes {text}: expected VALUE=NAME for each class", fix="--classes 0=membrane,255=cell")
    return classes
