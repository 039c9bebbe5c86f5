"""OME-Zarr stores, of others and our own, opened.

A store holds one image, or a collection of images as the groups of a bioformats2raw layout, which OME-Zarr
readers know::

    one.zarr/                     many.zarr/
      zarr.json   ome, unetcli      zarr.json       ome: bioformats2raw.layout; unetcli
      0/  1/ ...  pyramid           OME/zarr.json   series: names in order
      labels/truth/0 ...            image_00/       an image as on the left
                                    image_01/ ...

`unetcli` in the root's attributes says how the store was made; `unetcli.image.new_store` writes them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from unetcli.errors import InputError, first_line
from unetcli.image.axes import AXES, Axes, Channel
from unetcli.image.ledger import require_complete
from unetcli.image.pairing import stem
from unetcli.image.tiling import Box, Shape


@dataclass(frozen=True)
class Level:
    """One array of a store, read and written as (t, c, z, y, x) whatever axes it has.

    Parameters
    ----------
    path
        Folder of the array.
    axes
        The axes that the array has.
    writable
        Whether it belongs to a store that is being written.
    dense
        Whether all of its shards must be there, as in stores of our own: in others a missing one stands for
        zeros, so the loss of a file would go unnoticed.
    channels
        The channels as the store describes them; empty where it does not.
    """

    path: Path
    axes: Axes
    writable: bool = False
    dense: bool = False
    channels: tuple[Channel, ...] = ()

    @functools.cached_property
    def _array(self) -> zarr.Array[Any]:
        try:
            array = zarr.open_array(self.path, mode="r+" if self.writable else "r")
        except (zarr.errors.ArrayNotFoundError, FileNotFoundError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: is not a readable Zarr array ({first_line(error)})") from error
        return array.with_config({"write_empty_chunks": True, "order": "C"})

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def name(self) -> str:
        """Where the array is, for messages."""
        return str(self.path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed when opening: nothing."""
        return ()

    @property
    def shape(self) -> Shape:
        """Shape as (t, c, z, y, x)."""
        return self.axes.expand(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        return np.dtype(self._array.dtype).newbyteorder("=")

    @property
    def shard(self) -> Shape:
        """Shape of the smallest part that may be written alone, (t, c, z, y, x)."""
        return self.axes.expand(self._array.shards or self._array.chunks)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the pixels of a box inside the image, (t, c, z, y, x).

        Raises
        ------
        InputError
            If the stored bytes are damaged, or lost.
        """
        if self.dense:
            self._require_shards(box)
        index = tuple(box.slices[AXES.index(a)] for a in self.axes.names)
        try:
            block = np.asarray(self._array[index])
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"{self.path}: can not be read at {box} ({first_line(error)}); expected whole chunks",
                fix="copy or make the store again",
            ) from error
        return block.astype(self.dtype, copy=False).reshape(box.shape)

    def _require_shards(self, box: Box) -> None:
        shards = Box(
            tuple(a // s for a, s in zip(box.start, self.shard, strict=True)),
            tuple(-(-b // s) for b, s in zip(box.stop, self.shard, strict=True)),
        )
        for index in np.ndindex(shards.shape):
            position = tuple(i + a for i, a in zip(index, shards.start, strict=True))
            key = self._array.metadata.encode_chunk_key(self.axes.keep(position))
            if not (self.path / key).exists():
                raise InputError(
                    f"{self.path / key}: is missing; expected every part of the store",
                    fix="copy or make the store again",
                )

    def write(self, box: Box, block: NDArray[Any]) -> None:
        """Write whole shards. Nothing else may write to the same shards at the same time."""
        for a, b, n, s in zip(box.start, box.stop, self.shape, self.shard, strict=True):
            assert a % s == 0, f"{box} does not start on shards of {self.shard}"
            assert b % s == 0 or b == n, f"{box} does not end on shards of {self.shard}"
        index = tuple(box.slices[AXES.index(a)] for a in self.axes.names)
        self._array[index] = np.ascontiguousarray(block, dtype=self.dtype).reshape(self.axes.keep(box.shape))


@dataclass(frozen=True)
class Image:
    """An image in a store: its pyramid and its labels.

    Parameters
    ----------
    name
        Name within its collection, or of the store.
    path
        Folder of the image's group.
    axes
        Axes, pixel size and units of level 0.
    level_paths
        Paths of the levels within the group, finest first.
    label_names
        Label images that belong to it.
    dense, channels
        See `Level`.
    """

    name: str
    path: Path
    axes: Axes
    level_paths: tuple[str, ...]
    label_names: tuple[str, ...] = ()
    dense: bool = False
    channels: tuple[Channel, ...] = ()

    @functools.cached_property
    def level(self) -> Level:
        """The image at full resolution."""
        return Level(self.path / self.level_paths[0], self.axes, dense=self.dense, channels=self.channels)

    def at(self, level: int) -> Level:
        """Return a level of the pyramid, with its own pixel size.

        Raises
        ------
        InputError
            If there is no such level.
        """
        if level == 0:
            return self.level
        last = len(self.level_paths) - 1
        if level > last:
            raise InputError(f"{self.path}: has levels 0 to {last}; not {level}", fix=f"--level {last}")
        with _parsing(self.path):
            attributes = read_attributes(self.path)
            multiscale = attributes.get("ome", attributes)["multiscales"][0]
            axes = _axes_of(multiscale, self.path, self.level_paths[level], level)
        return _checked(replace(self.level, path=self.path / self.level_paths[level], axes=axes))

    def labels(self, name: str, like: Shape | None = None) -> Level:
        """Return a label image at full resolution, or at the level that is like an image (t, c, z, y, x).

        Raises
        ------
        InputError
            If there is none of this name.
        """
        if name not in self.label_names:
            raise InputError(
                f"{self.path}: has no labels {name!r} (found: {', '.join(self.label_names) or 'none'})",
                fix="unetcli prep IMAGE... --labels LABELS... -o data.zarr",
            )
        image = _open_image(self.path / "labels" / name, name, dense=self.dense)
        levels = (image.at(k) for k in range(len(image.level_paths) if like else 0))
        return next((level for level in levels if like and level.shape[2:] == like[2:]), image.level)


@dataclass(frozen=True)
class Store:
    """An opened store: its images, and what `unetcli` wrote down about them."""

    path: Path
    images: tuple[Image, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def image(self, name: str) -> Image:
        """Return the image of a name."""
        for image in self.images:
            if image.name == name:
                return image
        raise InputError(f"{self.path}: has no image {name!r} (found: {', '.join(i.name for i in self.images)})")


# ------------------------------------------------------------------------------------------- opening


def is_store(path: Path) -> bool:
    """Tell whether a path is a Zarr group or array of any format."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))


def open_store(path: Path) -> Store:
    """Open an OME-Zarr store (0.4 or 0.5) that holds one image or a collection.

    Raises
    ------
    InputError
        If it is missing, unfinished, damaged, or not OME-Zarr.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist; expected an OME-Zarr store")
    require_complete(path)
    if not is_store(path):
        raise InputError(f"{path}: is not an OME-Zarr store", fix=f"unetcli prep {path} -o data.zarr makes one of it")
    with _parsing(path):
        attributes = read_attributes(path)
        ours = attributes.get("unetcli", {})
        ome = attributes.get("ome", attributes)
        dense = bool(ours)
        if "multiscales" in ome:
            name = ome["multiscales"][0].get("name") if ours else None  # our own stores remember what they are made of
            return Store(path, (_open_image(path, name or stem(path.name), dense=dense),), ours)
        names = _series(path, ome)
        if not names:
            raise InputError(f"{path}: is a collection without images")
        return Store(path, tuple(_open_image(path / name, name, dense=dense) for name in names), ours)


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with the metadata of others into an `InputError` that names the group."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: its OME-Zarr metadata can not be understood ({type(error).__name__}: {first_line(error)})"
        ) from error


def _series(path: Path, ome: Mapping[str, Any]) -> list[str]:
    if "bioformats2raw.layout" not in ome:
        raise InputError(f"{path}: is a Zarr group without 'multiscales'; expected an OME-Zarr image or collection")
    series = read_attributes(path / "OME", missing_ok=True)
    names = series.get("ome", series).get("series")
    return list(names) if names else sorted((p.name for p in path.iterdir() if p.name.isdigit()), key=int)


def _open_image(path: Path, name: str, *, dense: bool = False) -> Image:
    with _parsing(path):
        attributes = read_attributes(path)
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        levels = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        axes = _axes_of(multiscale, path, levels[0])
        image = Image(name, path, axes, levels, _label_names(path), dense)
    _checked(image.level)
    return image


def _checked(level: Level) -> Level:
    shape, names = level._array.shape, level.axes.names
    if len(shape) != len(names) or 0 in shape:
        raise InputError(f"{level.path}: axes are ({', '.join(names)}) but its shape is {shape}")
    return level


def _axes_of(multiscale: Mapping[str, Any], path: Path, level: str, number: int = 0) -> Axes:
    declared = multiscale.get("axes")
    if declared is None:  # OME-Zarr 0.1 and 0.2
        declared = list(AXES[-len(Level(path / level, Axes.of("yx"))._array.shape) :])
    entries = [{"name": a} if isinstance(a, str) else a for a in declared]
    names = [str(a["name"]) for a in entries]
    if any(len(n) != 1 for n in names):
        raise InputError(f"{path}: axes are ({', '.join(names)}); expected some of (t, c, z, y, x)")
    transforms = [
        *multiscale["datasets"][number].get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    ]
    scale = np.ones(len(names))
    for transform in transforms:
        if transform.get("type") == "scale" and "scale" in transform:
            scale *= np.asarray(transform["scale"], dtype=float)
    try:
        return Axes.of(
            "".join(names),
            dict(zip(names, scale, strict=True)),
            {str(a["name"]): a.get("unit") for a in entries},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}", fix=f"unetcli prep {path} -o data.zarr --axes ...") from error


def _label_names(path: Path) -> tuple[str, ...]:
    labels = read_attributes(path / "labels", missing_ok=True)
    return tuple(labels.get("ome", labels).get("labels", ()))


def read_attributes(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a group's attributes, of Zarr format 3 or 2."""
    for file, key in ((path / "zarr.json", "attributes"), (path / ".zattrs", None)):
        if file.is_file():
            content = file.read_bytes()
            try:
                parsed = json.loads(content)
                return dict(parsed.get(key, {}) if key else parsed)
            except (ValueError, TypeError, AttributeError) as error:
                start = content[:40].decode(errors="replace")
                pointer = start.startswith("version https://git-lfs")
                found = "a Git LFS pointer" if pointer else f"no JSON object ({start[:20]!r})"
                raise InputError(
                    f"{file}: is {found}; expected Zarr metadata", fix="git lfs pull" if pointer else None
                ) from error
    if missing_ok or (path / ".zgroup").is_file():
        return {}
    raise InputError(f"{path}: has no Zarr metadata")
