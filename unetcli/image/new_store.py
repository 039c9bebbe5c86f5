"""OME-Zarr stores that are being written: begun, filled by tiles, finished whole.

Metadata is written last, the root's very last, by one atomic rename: until then no reader can mistake a
store for a complete one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from unetcli import __version__
from unetcli.errors import ConfigError, InputError
from unetcli.image.axes import Axes
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import Ledger, begin_anew, check_fingerprint, forget, has_remains, read_plan
from unetcli.image.location import ZARR_FILES, Location, empty, making, reaching, require_writable, write, zarr_path
from unetcli.image.ngff import ImageMetadata
from unetcli.image.nodes import is_store, read_attributes
from unetcli.image.store import Level
from unetcli.image.tiling import Shape

FORMAT = 1
CHUNK = 512
SHARD = 2048
DEEP_CHUNK, DEPTH = 256, 64
TOGETHER = 4
"""Up to so many channels share a chunk: they are always read together."""


@dataclass(frozen=True)
class Layout:
    """How an array is cut in a store: chunk and shard, both (t, c, z, y, x)."""

    chunk: Shape
    shard: Shape

    @classmethod
    def of(cls, shape: Shape, *, deep: bool = False) -> Layout:
        """Choose chunks of 512 and shards of 2048 squared pixels; small planes share a shard.

        With `deep`, for work with a halo in all three dimensions: chunks of 256 squared pixels, and shards
        of up to 64 planes and as many pixels as else.
        """
        _, c, z, y, x = shape
        cc = c if c <= TOGETHER else 1
        budget = SHARD * SHARD // cc
        chunk, side = (DEEP_CHUNK, _power_of_two(math.isqrt(budget // min(z, DEPTH)))) if deep else (CHUNK, SHARD)
        cy, cx = min(chunk, y), min(chunk, x)
        sy, sx = (c * math.ceil(min(side, n) / c) for c, n in ((cy, y), (cx, x)))
        sz = min(z, DEPTH) if deep else min(z, _power_of_two(budget // (sy * sx)))
        return cls((1, cc, 1, cy, cx), (1, cc, sz, sy, sx))


def _power_of_two(n: int) -> int:
    """Return the largest power of two up to `n`, so that shards of any two arrays nest; at least 1."""
    return int(2 ** (max(n, 1).bit_length() - 1))


def create_level(
    path: Location,
    axes: Axes,
    shape: Shape,
    dtype: np.dtype[Any] | str,
    *,
    is_label: bool = False,
    deep: bool = False,
    zarr_format: int = 3,
    attributes: Mapping[str, Any] | None = None,
) -> Level:
    """Create an array, or open it where it was created before; labels are worth a slower compression.

    Processes that create it at once write the same metadata; what one of them wrote to it is left alone.
    """
    if not any((path / name).is_file() for name in ("zarr.json", ".zarray")):
        layout = Layout.of(shape, deep=deep)
        effort = 3 if is_label else 1
        compressor: Any = ZstdCodec(level=effort, checksum=True)
        sharded: dict[str, Any] = {"shards": axes.keep(layout.shard), "dimension_names": list(axes.names)}
        if zarr_format == 2:
            compressor = numcodecs.Zstd(level=effort, checksum=True)
            sharded = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        with reaching(path), suppress(ContainsArrayError):
            zarr.create_array(
                zarr_path(path, new=True),
                shape=axes.keep(shape),
                dtype=dtype,
                chunks=axes.keep(layout.chunk),
                compressors=compressor,
                fill_value=0,
                zarr_format=zarr_format,  # type: ignore[arg-type]
                attributes=dict(attributes or {}),
                **sharded,
            )
    return Level(path, axes, writable=True, dense=True)


def check_apart(out: Location, inputs: Sequence[Location]) -> None:
    """Refuse an output that is, lies in or holds an input or another output: no stage changes its input."""
    for path in inputs:
        a, b = out.resolve(), path.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise ConfigError(
                f"{out}: is, lies in or holds {path}; inputs and outputs lie apart", fix="another output path"
            )


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
    shared
        Whether other processes may be writing it, too: then nothing that is there is ever removed. None for a stage
        that is never cut into jobs.

    Raises
    ------
    ConfigError
        If the path holds a store that was made with other settings or inputs.
    InputError
        If the path holds something that is not ours.
    """

    n_levels: int | None = None
    """How many levels each image gets; by default as many as it takes to end at one screen."""

    def __init__(
        self,
        path: Location,
        *,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Location | Sequence[Location] | None],
        overwrite: bool = False,
        zarr_format: int = 3,
        shared: bool | None = None,
    ) -> None:
        self.path, self.stage, self.zarr_format = path, stage, zarr_format
        self._is_cut = shared is not None
        paths = {role: [given] if isinstance(given, Location) else list(given or ()) for role, given in inputs.items()}
        require_writable(path)
        check_apart(path, [p for listed in paths.values() for p in listed])
        digests = {role: [fingerprint(p) for p in listed] for role, listed in paths.items()}
        self.fingerprint = json.loads(json.dumps({"stage": stage, "settings": settings, "inputs": digests}))
        found = self._find()
        if found == "complete" and not overwrite:
            check_fingerprint(path, self.written()["fingerprint"], self.fingerprint)
        self.complete = found == "complete" and not overwrite
        anew = overwrite or found == "remains"
        if anew and shared:
            raise ConfigError(
                f"{path}: holds what is left of another run; one job of many does not remove it",
                fix="first the same command with --create",
            )
        if self.complete:
            forget(path)  # what a run left there that was killed at its very end
        else:
            with making(path):
                self._begin(anew=anew, is_begun=found == "begun" and not anew)

    def _find(self) -> str:
        """Tell what is there: nothing, remains to be removed, a store that was begun, or a complete one.

        Another process may be beginning the same store just now: plan, arrays and record, in this order. So they are
        looked at in the opposite order: what is missing then was not there before either.
        """
        recorded = has_remains(self.path)
        exists = self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))
        plan = read_plan(self.path)
        if plan is not None:
            return "begun" if plan and (exists or not recorded) else "remains"
        if not exists:
            return "remains" if recorded else "nothing"
        if is_store(self.path) and "unetcli" in read_attributes(self.path):
            return "complete"
        if self._is_cut and self._is_marked():
            return "without a record"
        raise InputError(f"{self.path}: exists and was not made by unetcli", fix="another -o, or remove it by hand")

    @property
    def _mark(self) -> dict[str, Any]:
        """What each array says of the run that it belongs to, if that may be one of many jobs."""
        if not self._is_cut:
            return {}
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()[:16]
        return {"unetcli": {"run": digest}}

    def _is_marked(self) -> bool:
        """Tell whether arrays of this run are there, whose record and root were removed: with no tile on record."""
        files = (file for name in ("zarr.json", ".zattrs") for file in self.path.rglob(name))
        return any(read_attributes(file.parents[0], missing_ok=True) == self._mark for file in files)

    def written(self) -> dict[str, Any]:
        """Return what was written down about the complete output that is there."""
        return dict(read_attributes(self.path)["unetcli"])

    def _begin(self, *, anew: bool, is_begun: bool) -> None:
        """Make folder and ledger, or go on with those that are there.

        The record goes before the bytes: if this is killed at any moment, no tile is on record whose bytes are
        gone. Of the bytes, the root's metadata goes first, so that no reader finds a store with holes.
        """
        if anew:
            begin_anew(self.path)
            for name in ZARR_FILES:
                (self.path / name).unlink(missing_ok=True)
            empty(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(self.path, self.fingerprint, is_begun=is_begun)

    @property
    def _pixels(self) -> Location:
        """Folder of the arrays."""
        return self.path

    def level(
        self,
        group: str,
        level: int,
        axes: Axes,
        shape: Shape,
        dtype: np.dtype[Any] | str,
        *,
        is_label: bool = False,
        deep: bool = False,
    ) -> Level:
        """Create one array of an image, ``group/level``; an empty `group` is the store itself."""
        path = self._pixels / group / str(level)
        options: dict[str, Any] = {"is_label": is_label, "deep": deep, "zarr_format": self.zarr_format}
        return create_level(path, axes, shape, dtype, attributes=self._mark, **options)

    def finish(self, images: Iterable[ImageMetadata], attributes: Mapping[str, Any]) -> None:
        """Write all metadata, the root's last, and forget the ledger.

        Parameters
        ----------
        images
            The images with their labels. One image of an empty group is the store itself.
        attributes
            What else to write down under ``unetcli``.
        """
        for partial in self.path.rglob("*.partial"):  # left by a writer that was killed
            partial.unlink(missing_ok=True)
        for array in self.path.rglob(".zarray"):
            _leave_out_checksum(array)
        groups = []
        root: dict[str, Any] = {"bioformats2raw.layout": 3}
        for image in images:
            groups.append(image.group)
            self._finish_labels(image)
            for nested in image.nested:
                self._write_group(nested.group, self._ome(nested.ome(self.zarr_format)))
            if image.group:
                self._write_group(image.group, self._ome(image.ome(self.zarr_format)))
            else:
                root = image.ome(self.zarr_format)
        if groups != [""]:
            self._write_group("OME", self._ome({"series": groups}))
        self._write_group("", {**self._ome(root), "unetcli": self._ours(attributes)})
        forget(self.path)

    def _ours(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written down about this output."""
        made = {"format": FORMAT, "stage": self.stage, "version": __version__}
        return {**made, **attributes, "fingerprint": self.fingerprint, **self.ledger.settled()}

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
        write_group(self.path / group, attributes, self.zarr_format)


def _leave_out_checksum(array: Location) -> None:
    """Say nothing of checksums in the metadata of a Zarr 2 array: some readers do not know the word.

    What was compressed has its checksum all the same, and each decoder of zstd checks it.
    """
    metadata = json.loads(array.read_bytes())
    if metadata["compressor"].pop("checksum", None) is not None:
        write(array, json.dumps(metadata, indent=4))


def write_group(path: Location, attributes: Mapping[str, Any], zarr_format: int) -> None:
    """Create a group with attributes, or replace those of one that is there, by one atomic step."""
    with reaching(path):
        try:
            zarr.create_group(zarr_path(path, new=True), attributes=dict(attributes), zarr_format=zarr_format)  # type: ignore[arg-type]
        except ContainsGroupError:
            zarr.open_group(zarr_path(path), mode="r+", use_consolidated=False).attrs.put(dict(attributes))


def collection_groups(names: Iterable[str]) -> list[str]:
    """Return the group of each image of a collection: its name; one image alone is the store itself.

    Raises
    ------
    InputError
        If two images have the same name.
    """
    groups = list(names)
    if len(set(groups)) < len(groups):
        twice = sorted({n for n in groups if groups.count(n) > 1})
        raise InputError(
            f"images share the names {', '.join(twice)}; expected a name of its own for each",
            fix="is one given twice, or does the folder hold an earlier output? else rename one",
        )
    return groups if len(groups) > 1 else [""]
