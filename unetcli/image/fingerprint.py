"""Short digests that tell whether an input is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unetcli.image.location import ZARR_FILES, Location, RemotePath, UnseenError, nothing_at
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

    Label images that `tile-predict` attached to a store are results, so they, and the lists of labels that
    name them, do not count.
    """
    if isinstance(path, RemotePath):
        return hashlib.sha256("\n".join(map(str, _remote_entries(path))).encode()).hexdigest()[:16]
    if not path.exists():
        raise nothing_at(path)
    files = [path]
    if path.is_dir():
        places = sorted(PurePosixPath(p.relative_to(path).as_posix()) for p in path.rglob("*") if p.is_file())
        files = [path / place for place in _without_results(places, lambda place: (path / place).read_bytes())]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        digest.update(_sample(file, 2 * SAMPLE if path.is_dir() else WHOLE))
    return digest.hexdigest()[:16]


def _remote_entries(path: RemotePath) -> list[Any]:
    try:
        found = {PurePosixPath(key): (key, size, tag) for key, size, tag in path.contents()}
    except UnseenError:
        return list(_metadata(path))
    kept = _without_results(list(found), lambda place: (path / str(place)).read_bytes())
    return [found[place] for place in kept]


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


def _without_results(files: list[PurePosixPath], read: Callable[[PurePosixPath], bytes]) -> list[PurePosixPath]:
    """Leave out label images that were attached, those that are being attached, and the lists of labels.

    Parameters
    ----------
    files
        All files of a store, by their place in it.
    read
        Returns what is in one of them.
    """
    lists = {f for f in files if f.parent.name == "labels" and f.name in LISTS}
    described = [f for f in files if f.parent.parent.name == "labels" and f.name in LISTS]
    results = {f.parent for f in described if b'"unetcli"' in read(f)}
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
