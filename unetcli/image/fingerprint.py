"""Short digests that tell whether an input is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unetcli.image.location import ZARR_FILES, Location, RemotePath, UnseenError
from unetcli.image.store import open_store

WHOLE = 16 * 2**20
"""A file of up to this many bytes is read whole."""
SAMPLE = 2**16
"""Of a larger one, and of each file of a folder, so many bytes from either end: headers, and the index of a
shard with its checksums."""

LISTS = frozenset({"zarr.json", ".zattrs", ".zgroup"})
"""Files of the metadata of a group."""


def fingerprint(path: Location) -> str:
    """Return a digest of a file, or of all files of a folder, that does not depend on where it lies.

    Of a file larger than 16 MiB, and of the files of a store, size and both ends count: a digest of a whole
    slide would cost as much as reading it. What this can miss is a change in the middle of an uncompressed
    file that keeps its size. Of a store in a bucket names, sizes and tags count, which one listing gives; of a
    store on a web server, which lists nothing, all metadata.

    Label images that `tile-predict` attached to a local store are results, so they, and the lists of labels that
    name them, do not count.
    """
    if isinstance(path, RemotePath):
        try:
            entries: list[Any] = path.contents()
        except UnseenError:
            entries = list(_metadata(path))
        return hashlib.sha256("\n".join(map(str, entries)).encode()).hexdigest()[:16]
    files = _without_results(sorted(p for p in path.rglob("*") if p.is_file())) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        digest.update(_sample(file, 2 * SAMPLE if path.is_dir() else WHOLE))
    return digest.hexdigest()[:16]


def _metadata(path: RemotePath) -> Iterator[tuple[str, bytes]]:
    """Yield place and content of the metadata of a store, its images, their levels and labels."""
    groups: list[Location] = [path]
    for image in open_store(path).images:
        levels = [level.path for level in image.levels]
        labels = [image.path / "labels" / name for name in image.label_names]
        groups += [image.path, *levels, *labels, *(image.labels(name).path for name in image.label_names)]
    for group in groups:
        found = [file for name in ZARR_FILES if (file := group / name).is_file()]
        yield from ((str(file)[len(str(path)) :], file.read_bytes()) for file in found)


def _without_results(files: list[Path]) -> list[Path]:
    lists = {f for f in files if f.parent.name == "labels" and f.name in LISTS}
    described = [f for f in files if f.parent.parent.name == "labels" and f.name in LISTS]
    results = {f.parent for f in described if b'"unetcli"' in f.read_bytes()}
    ledgers = {f.parent for f in files if f.parent.suffix == ".unetcli" and f.parent.parent.name == "labels"}
    results |= ledgers | {ledger.with_suffix("") for ledger in ledgers}
    return [f for f in files if f not in lists and results.isdisjoint(f.parents)]


def _sample(file: Path, whole: int) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= whole:
            return stream.read()
        head = stream.read(SAMPLE)
        stream.seek(size - SAMPLE)
        return head + stream.read()
