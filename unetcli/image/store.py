"""Zarr stores, of others and our own, opened.

A store of our own holds one image, or a collection of images as the groups of a bioformats2raw layout, which
OME-Zarr readers know::

    one.zarr/                     many.zarr/
      zarr.json   ome, unetcli      zarr.json       ome: bioformats2raw.layout; unetcli
      0/  1/ ...  pyramid           OME/zarr.json   series: names in order
      labels/truth/0 ...            image_00/       an image as on the left
                                    image_01/ ...

`unetcli` in the root's attributes says how the store was made; `unetcli.image.new_store` writes them. Those of
others may also be plates of wells, single wells, groups of labels, and plain arrays.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetcli.errors import InputError, UnetcliError, first_line
from unetcli.image.axes import AXES, Axes, Channel, describe_shape
from unetcli.image.groups import find_groups, parsing
from unetcli.image.ledger import require_complete
from unetcli.image.location import Location, nothing_at, reaching, zarr_path
from unetcli.image.multiscale import (
    level_axes,
    ome_of,
    parse_channels,
    parse_multiscale,
    stored_order,
    unit_notes,
)
from unetcli.image.nodes import is_array, is_store, read_attributes, read_metadata
from unetcli.image.pairing import stem
from unetcli.image.raw import array_source, check_array
from unetcli.image.source import MEMORY_BUDGET, check_dtype, check_not_empty, sizes_text
from unetcli.image.tiling import Box, Shape

MAX_PIXELS, MAX_SIDE = 10**13, 10**9
"""No image is larger: metadata that claim more are damaged, and would take memory for each of their tiles."""


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
        the fill value, so the loss of a file would go unnoticed.
    channels
        The channels as the store describes them; empty where it does not.
    order
        The axes as stored, slowest first, where that is not their order in `axes`: ``yxc``.
    notes
        Every assumption that was made when opening, in plain words.
    pages_unnamed
        Whether its planes have no axis name and were taken as z planes.
    """

    path: Location
    axes: Axes
    writable: bool = False
    dense: bool = False
    channels: tuple[Channel, ...] = ()
    order: str = ""
    notes: tuple[str, ...] = ()
    pages_unnamed: bool = False

    @functools.cached_property
    def _array(self) -> zarr.Array[Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zarr warns of what other writers do
                with reaching(self.path):
                    array = zarr.open_array(zarr_path(self.path), mode="r+" if self.writable else "r")
            largest = math.prod(array.chunks) * array.dtype.itemsize
        except UnetcliError:
            raise
        except Exception as error:  # zarr and its codecs raise anything on metadata that can not be
            raise InputError(
                f"{self.path}: is not a readable Zarr array ({first_line(error)})", fix="copy or write the store again"
            ) from error
        if largest > MEMORY_BUDGET:
            raise InputError(
                f"{self.path}: has chunks of {sizes_text(array.chunks)} pixels, {largest / 2**30:.1f} GiB each; "
                f"expected at most {MEMORY_BUDGET / 2**30:.0f} GiB",
                fix="store it again in smaller chunks, for example of 512 x 512 pixels",
            )
        if math.prod(array.shape) > MAX_PIXELS or max(array.shape, default=0) > MAX_SIDE:
            raise InputError(
                f"{self.path}: claims {sizes_text(array.shape)} pixels; expected at most {MAX_PIXELS:.0e}, and "
                f"{MAX_SIDE:.0e} along an axis",
                fix="copy or write the store again",
            )
        return array.with_config({"write_empty_chunks": True, "order": "C"})

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def name(self) -> str:
        """Where the array is, for messages."""
        return str(self.path)

    @property
    def stored_shape(self) -> Shape:
        """Shape of the array as it is stored."""
        return tuple(self._array.shape)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """What the array itself calls its axes; empty where it does not."""
        named = getattr(self._array.metadata, "dimension_names", None) or self._array.attrs.get("_ARRAY_DIMENSIONS")
        return tuple(map(str, named)) if isinstance(named, (list, tuple)) and None not in named else ()

    @property
    def shape(self) -> Shape:
        """Shape as (t, c, z, y, x)."""
        return self._in_order(self._array.shape)

    def _in_order(self, sizes: Shape) -> Shape:
        """Show sizes along the stored axes as (t, c, z, y, x)."""
        order = self.order or self.axes.names
        if len(sizes) != len(order):
            raise InputError(
                f"{self.path}: has {len(sizes)} axes ({sizes_text(sizes)}); expected ({', '.join(order)})",
                fix="write the store again",
            )
        given = dict(zip(order, sizes, strict=True))
        return tuple(given.get(a, 1) for a in AXES)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        return np.dtype(self._array.dtype).newbyteorder("=")

    @property
    def shard(self) -> Shape:
        """Shape of the smallest part that may be written alone, (t, c, z, y, x)."""
        return self._in_order(self._array.shards or self._array.chunks)

    @property
    def chunk(self) -> Shape:
        """Shape of the smallest part that can be read alone, (t, c, z, y, x)."""
        return self._in_order(self._array.chunks)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the pixels of a box inside the image, (t, c, z, y, x).

        Raises
        ------
        InputError
            If the stored bytes are damaged, or lost.
        """
        order = self.order or self.axes.names
        try:
            with reaching(self.path):
                block = np.asarray(self._array[tuple(box.slices[AXES.index(a)] for a in order)])
        except (MemoryError, UnetcliError):
            raise
        except Exception as error:  # codecs raise anything on damaged bytes
            raise InputError(
                f"{self.path}: can not be read at {box} ({first_line(error)}); expected whole chunks",
                fix="copy or make the store again",
            ) from error
        if self.order:
            block = np.ascontiguousarray(block.transpose([order.index(a) for a in self.axes.names]))
        block = block.astype(self.dtype, copy=False).reshape(box.shape)
        if self.dense:
            self._require_shards(box, block)
        return block

    def chunk_files(self) -> Iterator[tuple[Box, Location]]:
        """Yield the box of each chunk (of each shard, where there are any) and the file that it is kept in."""
        shape = self.shape
        for index in np.ndindex(*(-(-n // s) for n, s in zip(shape, self.shard, strict=True))):
            start = tuple(int(i) * s for i, s in zip(index, self.shard, strict=True))
            stop = tuple(min(a + s, n) for a, s, n in zip(start, self.shard, shape, strict=True))
            yield Box(start, stop), self._file(index)

    def _file(self, index: Shape) -> Location:
        """Return the file of the chunk, or shard, of an index."""
        position = tuple(index[AXES.index(a)] for a in self.order or self.axes.names)
        return self.path / self._array.metadata.encode_chunk_key(position)

    def _require_shards(self, box: Box, block: NDArray[Any]) -> None:
        """Refuse zeros that stand for a lost shard; where a pixel is not 0, its shard is there."""
        shards = Box(
            tuple(a // s for a, s in zip(box.start, self.shard, strict=True)),
            tuple(-(-b // s) for b, s in zip(box.stop, self.shard, strict=True)),
        )
        for index in np.ndindex(shards.shape):
            position = tuple(i + a for i, a in zip(index, shards.start, strict=True))
            part = tuple(
                slice(max(i * s - a, 0), (i + 1) * s - a)
                for i, s, a in zip(position, self.shard, box.start, strict=True)
            )
            if not block[part].any() and not _is_stored(self._file(position)):
                raise InputError(
                    f"{self._file(position)}: is missing or empty; expected every part of the store",
                    fix="copy or make the store again",
                )

    def write(self, box: Box, block: NDArray[Any]) -> None:
        """Write whole shards. Nothing else may write to the same shards at the same time."""
        for a, b, n, s in zip(box.start, box.stop, self.shape, self.shard, strict=True):
            assert a % s == 0, f"{box} does not start on shards of {self.shard}"
            assert b % s == 0 or b == n, f"{box} does not end on shards of {self.shard}"
        index = tuple(box.slices[AXES.index(a)] for a in self.axes.names)
        pixels = np.ascontiguousarray(block, dtype=self.dtype).reshape(self.axes.keep(box.shape))
        with reaching(self.path):
            try:
                self._array[index] = pixels
            except FileNotFoundError:  # another process, which completes the store, swept away what is half written
                self._array[index] = pixels


def _is_stored(file: Location) -> bool:
    """Tell whether a shard is there; an empty file of one that was cut off would be read as zeros."""
    return file.is_file() and not (isinstance(file, Path) and not file.stat().st_size)


@dataclass(frozen=True)
class Image:
    """An image in a store: its pyramid and its labels.

    Parameters
    ----------
    name
        Name within its collection, or of the store.
    path
        Folder of the image's group, or of a plain array.
    levels
        The pyramid, finest first; each level has its own pixel size.
    label_names
        Label images that belong to it.
    is_label
        Whether the store describes it as a label image itself.
    version
        Of OME-Zarr, where it is said.
    order_given
        Whether the order of its axes is what the user gave.
    """

    name: str
    path: Location
    levels: tuple[Level, ...]
    label_names: tuple[str, ...] = ()
    is_label: bool = False
    version: str = ""
    order_given: bool = False

    @property
    def level(self) -> Level:
        """The image at full resolution."""
        return self.levels[0]

    @property
    def axes(self) -> Axes:
        """Axes, pixel size and units at full resolution."""
        return self.level.axes

    def at(self, level: int) -> Level:
        """Return one level of the pyramid; 0 is full resolution.

        Raises
        ------
        InputError
            If there is none of this number.
        """
        if not 0 <= level < len(self.levels):
            sizes = ", ".join(f"{k} is {describe_shape(found.shape)}" for k, found in enumerate(self.levels))
            raise InputError(
                f"{self.path}: has no level {level}; there are {len(self.levels)}: {sizes}",
                fix="--level 0" + (f" to --level {len(self.levels) - 1}" if len(self.levels) > 1 else ""),
            )
        return self.levels[level]

    def label_image(self, name: str) -> Image:
        """Return a label image with its pyramid.

        Raises
        ------
        InputError
            If there is none of this name, or its pixels can not be labels.
        """
        if name not in self.label_names:
            raise InputError(
                f"{self.path}: has no labels {name!r} (found: {', '.join(self.label_names) or 'none'})",
                fix=f"--label-name {self.label_names[0]}"
                if self.label_names
                else "unetcli prep IMAGE... --labels LABELS... -o data.zarr",
            )
        path = self.path / "labels" / name
        axes = self.level.order.replace("c", "") if self.order_given else None
        return _open_image(path, name, axes=axes, is_label=True, dense=self.level.dense)

    def labels(self, name: str) -> Level:
        """Return a label image at full resolution; see `label_image`."""
        return self.label_image(name).level


@dataclass(frozen=True)
class Store:
    """An opened store: its images, and what `unetcli` wrote down about them.

    Parameters
    ----------
    kind
        ``image``, ``array``, ``collection``, ``plate``, ``well`` or ``labels``.
    images
        Those that can be opened.
    attributes
        What `unetcli` wrote down.
    faults
        Why the others can not.
    """

    path: Location
    kind: str
    images: tuple[Image, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[InputError, ...] = ()

    def image(self, name: str) -> Image:
        """Return the image of a name."""
        for image in self.images:
            if image.name == name:
                return image
        raise InputError(f"{self.path}: has no image {name!r} (found: {', '.join(i.name for i in self.images)})")


# ------------------------------------------------------------------------------------------- opening


def open_store(path: Location, *, axes: str | None = None, is_label: bool = False) -> Store:
    """Open a Zarr store: an OME-Zarr (0.1 to 0.5) image, collection, plate, well or group of labels, or an array.

    Parameters
    ----------
    axes
        The axes of its images as they are stored, slowest first, instead of what it says.
    is_label
        Whether it is read for labels: integers of any size, or booleans.

    Raises
    ------
    InputError
        If it is missing, unfinished, damaged, of another kind, or any of its images can not be read.
    """
    store = survey(path, axes=axes, is_label=is_label)
    if len(store.faults) > 1:
        more = f"{store.faults[0]} (and {len(store.faults) - 1} more faults)"
        raise InputError(more, fix=f"unetcli info {path} lists them all")
    if store.faults:
        raise store.faults[0]
    return store


def survey(path: Location, *, axes: str | None = None, is_label: bool = False) -> Store:
    """Open a store as `open_store` does, but go on where an image of many can not be opened: it is a fault."""
    require_complete(path)
    if not is_store(path):
        if not path.exists():
            raise nothing_at(path)
        raise InputError(f"{path}: is not an OME-Zarr store", fix=f"unetcli prep {path} -o data.zarr makes one of it")
    if is_array(path):
        return Store(path, "array", (_open_array(path, axes=axes, is_label=is_label),))
    with parsing(path):
        attributes = read_attributes(path)
        ours = attributes.get("unetcli", {})
        ome = ome_of(attributes)
        open_image = partial(_open_image, axes=axes, dense=bool(ours))
        if "multiscales" in ome:
            name = ome["multiscales"][0].get("name") if ours else None  # our own stores remember what they are made of
            return Store(path, "image", (open_image(path, name or stem(path.name), is_label=is_label),), ours)
        kind, groups, faults = find_groups(path, ome, attributes)
        images = []
        for group in groups:
            try:
                images.append(open_image(path / group, group.replace("/", "_"), is_label=is_label or kind == "labels"))
            except InputError as error:
                faults += [error, *_faulty_labels(path / group)]
    if not groups and not faults:
        raise InputError(f"{path}: is a {kind} without images")
    return Store(path, kind, tuple(images), ours, tuple(faults))


def _open_image(
    path: Location, name: str, *, axes: str | None = None, is_label: bool = False, dense: bool = False
) -> Image:
    if not path.exists():
        raise InputError(f"{path}: does not exist; the metadata of its store list it", fix="copy the store again")
    with parsing(path):
        if is_array(path):
            raise InputError(f"{path}: is an array; expected the group of an image", fix="write the store again")
        ome = ome_of(read_attributes(path))
        described = parse_multiscale(path, ome)
        shapes = [_stored_shape(path / level) for level in described.paths]
        first = Level(path / described.paths[0], Axes.of("yx"))
        order = stored_order(path, described, first.stored_shape, first.stored_names, axes)
        ordered = level_axes(path, described, order, shapes)
        stored = "" if order == ordered[0].names else order
        levels = [
            Level(path / place, axes, dense=dense, order=stored)
            for place, axes in zip(described.paths, ordered, strict=True)
        ]
        channels = parse_channels(ome, levels[0].shape[1])
        levels[0] = replace(levels[0], channels=channels, notes=unit_notes(described))
        is_label = is_label or described.is_label
        image = Image(
            name, path, tuple(levels), _label_names(path), is_label, described.version, order_given=axes is not None
        )
    check_not_empty(path, first.stored_shape)
    check_dtype(levels[0].path, levels[0].dtype, is_label=is_label)
    finest = max(range(len(shapes)), key=lambda k: math.prod(shapes[k] or (0,)))
    if shapes[0] and math.prod(shapes[finest] or ()) > math.prod(shapes[0]):
        raise InputError(
            f"{path}: level {described.paths[0]} is {sizes_text(shapes[0])}, but level {described.paths[finest]} is "
            f"{sizes_text(shapes[finest] or ())}; expected full resolution first",
            fix=f"name the array of full resolution: {path / described.paths[finest]}",
        )
    return image


def _faulty_labels(path: Location) -> Iterator[InputError]:
    """Yield why label images can not be opened, where their image can not either."""
    for name in _label_names(path):
        try:
            _open_image(path / "labels" / name, name, is_label=True)
        except InputError as error:
            yield error


def _open_array(path: Location, *, axes: str | None, is_label: bool) -> Image:
    """Open a plain array: its axes are what it calls them, what the user says, or told by the rules for files."""
    array = Level(path, Axes.of("yx"))
    check_array(path, array.stored_shape, array.dtype, is_label=is_label)
    named = "".join(name.lower() for name in array.stored_names)
    if axes is None and len(named) == len(array.stored_names) and set("yx") <= set(named) <= set(AXES):
        axes = named
    if axes is None and array.stored_names and len(array.stored_shape) > 2:
        raise InputError(
            f"{path}: its axes are called {', '.join(array.stored_names)}; expected some of t, c, z, y, x",
            fix=f"name them: --axes {'tczyx'[-len(array.stored_shape) :]}, or another order",
        )
    told = array_source(path, array.stored_shape, array.dtype, lambda _: np.empty(0), axes)
    order = "" if told.order == told.axes.names else told.order
    level = Level(path, told.axes, order=order, notes=told.notes, pages_unnamed=told.pages_unnamed)
    return Image(stem(path.name), path, (level,), is_label=is_label)


def _stored_shape(path: Location) -> tuple[int, ...] | None:
    """Return the shape of an array from its metadata alone; None if it has none."""
    try:
        return tuple(int(n) for n in read_metadata(path)["shape"])
    except (InputError, LookupError, TypeError, ValueError):
        return None


def _label_names(path: Location) -> tuple[str, ...]:
    attributes = read_attributes(path / "labels", missing_ok=True)
    listed = ome_of(attributes).get("labels") or attributes.get("labels")
    return tuple(str(name) for name in listed) if isinstance(listed, list) else ()
