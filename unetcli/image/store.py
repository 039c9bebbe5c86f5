"""OME-Zarr stores: open what others wrote, create our own, finish them whole.

A store holds one image, or a collection of images as the groups of a bioformats2raw layout, which OME-Zarr
readers know::

    one.zarr/                     many.zarr/
      zarr.json   ome, unetcli      zarr.json       ome: bioformats2raw.layout; unetcli
      0/  1/ ...  pyramid           OME/zarr.json   series: names in order
      labels/truth/0 ...            image_00/       an image as on the left
                                    image_01/ ...

Metadata is written last, the root's very last, by one atomic rename: until then no reader can mistake a
store for a complete one. `unetcli` in the root's attributes says how the store was made.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from unetcli import __version__
from unetcli.errors import ConfigError, InputError
from unetcli.image.axes import AXES, Axes
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import Ledger, check_fingerprint, ledger_path
from unetcli.image.ngff import ImageMetadata
from unetcli.image.pairing import stem
from unetcli.image.tiling import Box, Shape

FORMAT = 1
CHUNK = 512
SHARD = 2048
TOGETHER = 4
"""Up to so many channels share a chunk: they are always read together."""


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
    """

    path: Path
    axes: Axes
    writable: bool = False

    @functools.cached_property
    def _array(self) -> zarr.Array[Any]:
        try:
            array = zarr.open_array(self.path, mode="r+" if self.writable else "r")
        except (zarr.errors.ArrayNotFoundError, FileNotFoundError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: is not a readable Zarr array ({_first_line(error)})") from error
        return array.with_config({"write_empty_chunks": True, "order": "C"})

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "axes": self.axes, "writable": self.writable}

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
            If the stored bytes are damaged.
        """
        index = tuple(box.slices[AXES.index(a)] for a in self.axes.names)
        try:
            block = np.asarray(self._array[index])
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"{self.path}: can not be read at {box} ({_first_line(error)}); expected whole chunks",
                fix="copy or make the store again",
            ) from error
        return block.astype(self.dtype, copy=False).reshape(box.shape)

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
    """

    name: str
    path: Path
    axes: Axes
    level_paths: tuple[str, ...]
    label_names: tuple[str, ...] = ()

    @functools.cached_property
    def level(self) -> Level:
        """The image at full resolution."""
        return Level(self.path / self.level_paths[0], self.axes)

    def labels(self, name: str) -> Level:
        """Return a label image at full resolution.

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
        return _open_image(self.path / "labels" / name, name).level


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
    if ledger_path(path).exists():
        raise InputError(f"{path}: is not complete", fix="run the command that writes it again: it continues")
    if not is_store(path):
        raise InputError(f"{path}: is not an OME-Zarr store", fix=f"unetcli prep {path} -o data.zarr makes one of it")
    attributes = _attributes(path)
    ours = attributes.get("unetcli", {})
    ome = attributes.get("ome", attributes)
    if "multiscales" in ome:
        name = ome["multiscales"][0].get("name") if ours else None  # our own stores remember what they were made of
        return Store(path, (_open_image(path, name or stem(path.name)),), ours)
    names = _series(path, ome)
    return Store(path, tuple(_open_image(path / name, name) for name in names), ours)


def _series(path: Path, ome: Mapping[str, Any]) -> list[str]:
    if "bioformats2raw.layout" not in ome:
        raise InputError(f"{path}: is a Zarr group without 'multiscales'; expected an OME-Zarr image or collection")
    series = _attributes(path / "OME", missing_ok=True)
    names = series.get("ome", series).get("series")
    return list(names) if names else sorted((p.name for p in path.iterdir() if p.name.isdigit()), key=int)


def _open_image(path: Path, name: str) -> Image:
    attributes = _attributes(path)
    ome = attributes.get("ome", attributes)
    try:
        multiscale = ome["multiscales"][0]
        levels = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        axes = _axes_of(multiscale, path, levels[0])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its OME-Zarr metadata lacks {error}") from error
    image = Image(name, path, axes, levels, _label_names(path))
    if len(image.level._array.shape) != len(axes.names) or 0 in image.level.shape:
        raise InputError(f"{path}: axes are ({', '.join(axes.names)}) but its shape is {image.level._array.shape}")
    return image


def _axes_of(multiscale: Mapping[str, Any], path: Path, level: str) -> Axes:
    declared = multiscale.get("axes")
    if declared is None:  # OME-Zarr 0.1 and 0.2
        declared = list(AXES[-len(Level(path / level, Axes.of("yx"))._array.shape) :])
    entries = [{"name": a} if isinstance(a, str) else a for a in declared]
    names = [str(a["name"]) for a in entries]
    if any(len(n) != 1 for n in names):
        raise InputError(f"{path}: axes are ({', '.join(names)}); expected some of (t, c, z, y, x)")
    transforms = [
        *multiscale["datasets"][0].get("coordinateTransformations", ()),
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
    labels = _attributes(path / "labels", missing_ok=True)
    return tuple(labels.get("ome", labels).get("labels", ()))


def _attributes(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a group's attributes, of Zarr format 3 or 2."""
    for file, key in ((path / "zarr.json", "attributes"), (path / ".zattrs", None)):
        if file.is_file():
            try:
                content = json.loads(file.read_bytes())
                return dict(content.get(key, {}) if key else content)
            except (ValueError, TypeError) as error:
                start = file.read_bytes()[:40].decode(errors="replace")
                pointer = start.startswith("version https://git-lfs")
                found = "a Git LFS pointer" if pointer else f"not JSON ({start[:20]!r})"
                raise InputError(
                    f"{file}: is {found}; expected Zarr metadata", fix="git lfs pull" if pointer else None
                ) from error
    if missing_ok or (path / ".zgroup").is_file():
        return {}
    raise InputError(f"{path}: has no Zarr metadata")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# ------------------------------------------------------------------------------------------- creating


@dataclass(frozen=True)
class Layout:
    """How an array is cut in a store: chunk and shard, both (t, c, z, y, x)."""

    chunk: Shape
    shard: Shape

    @classmethod
    def of(cls, shape: Shape) -> Layout:
        """Choose chunks of 512 and shards of 2048 squared pixels; small planes share a shard."""
        _, c, z, y, x = shape
        cy, cx = min(CHUNK, y), min(CHUNK, x)
        sy, sx = (chunk * math.ceil(min(SHARD, n) / chunk) for chunk, n in ((cy, y), (cx, x)))
        cc = c if c <= TOGETHER else 1
        planes = max(1, SHARD * SHARD // (sy * sx * cc))
        sz = min(z, 2 ** (planes.bit_length() - 1))  # powers of two, so that shards of any two arrays nest
        return cls((1, cc, 1, cy, cx), (1, cc, sz, sy, sx))


def create_level(
    path: Path,
    axes: Axes,
    shape: Shape,
    dtype: np.dtype[Any] | str,
    *,
    is_label: bool = False,
    zarr_format: int = 3,
) -> Level:
    """Create an array, or open it where it was created before; labels are worth a slower compression."""
    if not (path / "zarr.json").exists() and not (path / ".zarray").exists():
        layout = Layout.of(shape)
        effort = 3 if is_label else 1
        compressor: Any = ZstdCodec(level=effort, checksum=True)
        sharded: dict[str, Any] = {"shards": axes.keep(layout.shard), "dimension_names": list(axes.names)}
        if zarr_format == 2:
            compressor = numcodecs.Zstd(level=effort, checksum=True)
            sharded = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        zarr.create_array(
            path,
            shape=axes.keep(shape),
            dtype=dtype,
            chunks=axes.keep(layout.chunk),
            compressors=compressor,
            fill_value=0,
            zarr_format=zarr_format,  # type: ignore[arg-type]
            overwrite=True,
            **sharded,
        )
    return Level(path, axes, writable=True)


def check_apart(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output that lies in an input, or holds one: no stage changes its input."""
    for path in inputs:
        a, b = out.resolve(), path.resolve()
        if a == b or a in b.parents or (b in a.parents and is_store(b)):
            raise ConfigError(f"-o {out}: is, or lies in, or holds the input {path}", fix="another -o")


class NewStore:
    """A store that is being written: begun, filled by tiles, finished whole.

    Parameters
    ----------
    path
        The store.
    stage
        The command that writes it.
    settings
        What its bytes follow from besides the inputs: the stage's config and what was derived from it.
    inputs
        Role of each input to its path, or paths.
    overwrite
        Remove a store of an earlier run first, complete or not.
    zarr_format
        3 for OME-Zarr 0.5, 2 for 0.4.

    Raises
    ------
    ConfigError
        If the path holds a store that was made with other settings or inputs.
    InputError
        If the path holds something that is not ours.
    """

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path | Sequence[Path] | None],
        overwrite: bool = False,
        zarr_format: int = 3,
    ) -> None:
        self.path, self.stage, self.zarr_format = path, stage, zarr_format
        paths = {role: [given] if isinstance(given, Path) else list(given or ()) for role, given in inputs.items()}
        check_apart(path, [p for listed in paths.values() for p in listed])
        digests = {role: [fingerprint(p) for p in listed] for role, listed in paths.items()}
        self.fingerprint = json.loads(json.dumps({"stage": stage, "settings": settings, "inputs": digests}))
        self.complete = False
        begun = ledger_path(path).exists()
        if overwrite:
            self._remove_old()
        elif path.exists() and not begun:
            self._check_complete()
        if not self.complete:
            self.ledger = Ledger(path, self.fingerprint)
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{path}: can not be written ({error.strerror})") from error

    def _remove_old(self) -> None:
        if self.path.exists() and not ledger_path(self.path).exists() and not self._is_ours():
            raise InputError(f"{self.path}: exists and was not made by unetcli", fix="another -o, or remove it by hand")
        Path.mkdir(ledger_path(self.path), parents=True, exist_ok=True)  # from here on it is not complete
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(ledger_path(self.path))

    def _is_ours(self) -> bool:
        return is_store(self.path) and "unetcli" in _attributes(self.path)

    def _check_complete(self) -> None:
        if self.path.is_dir() and not any(self.path.iterdir()):
            return
        if not self._is_ours():
            raise InputError(f"{self.path}: exists and was not made by unetcli", fix="another -o, or remove it by hand")
        check_fingerprint(self.path, _attributes(self.path)["unetcli"]["fingerprint"], self.fingerprint)
        self.complete = True

    def level(
        self, group: str, level: int, axes: Axes, shape: Shape, dtype: np.dtype[Any] | str, *, is_label: bool = False
    ) -> Level:
        """Create one array of an image, ``group/level``; an empty `group` is the store itself."""
        path = self.path / group / str(level)
        return create_level(path, axes, shape, dtype, is_label=is_label, zarr_format=self.zarr_format)

    def finish(self, images: Sequence[ImageMetadata], attributes: Mapping[str, Any]) -> None:
        """Write all metadata, the root's last, and forget the ledger.

        Parameters
        ----------
        images
            The images with their labels. One image of an empty name is the store itself.
        attributes
            What else to write down under ``unetcli``.
        """
        for partial in self.path.rglob("*.partial"):  # left by a writer that was killed
            partial.unlink()
        ours = {
            "format": FORMAT,
            "stage": self.stage,
            "version": __version__,
            **attributes,
            "fingerprint": self.fingerprint,
        }
        for image in images:
            self._finish_labels(image)
            for nested in image.nested:
                self._write_group(nested.group, self._ome(nested.ome(self.zarr_format)))
            if image.group:
                self._write_group(image.group, self._ome(image.ome(self.zarr_format)))
        if [image.group for image in images] == [""]:
            root = images[0].ome(self.zarr_format)
        else:
            self._write_group("OME", self._ome({"series": [image.group for image in images]}))
            root = {"bioformats2raw.layout": 3}
        self._write_group("", {**self._ome(root), "unetcli": ours})
        self.ledger.remove()

    def _finish_labels(self, image: ImageMetadata) -> None:
        if not image.labels:
            return
        for label in image.labels:
            self._write_group(f"{image.group}/labels/{label.group}".strip("/"), self._ome(label.ome(self.zarr_format)))
        names = [label.group for label in image.labels]
        # vizarr looks for the list beside 'ome', other readers inside it.
        attributes = {**self._ome({"labels": names}), "labels": names}
        self._write_group(f"{image.group}/labels".strip("/"), attributes)

    def _ome(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        if self.zarr_format == 2:
            return dict(metadata)
        return {"ome": {"version": "0.5", **metadata}}

    def _write_group(self, group: str, attributes: Mapping[str, Any]) -> None:
        path = self.path / group
        if not is_store(path):
            zarr.create_group(path, attributes=dict(attributes), zarr_format=self.zarr_format)  # type: ignore[arg-type]
        else:
            zarr.open_group(path, mode="r+", use_consolidated=False).attrs.put(dict(attributes))


def collection_groups(names: Iterable[str]) -> list[str]:
    """Return the group of each image of a collection: its name; one image alone is the store itself.

    Raises
    ------
    ConfigError
        If two images have the same name.
    """
    groups = list(names)
    if len(set(groups)) < len(groups):
        twice = sorted({n for n in groups if groups.count(n) > 1})
        raise ConfigError(f"images share the names {', '.join(twice)}; expected a name of its own for each")
    return groups if len(groups) > 1 else [""]
