"""HDF5 files: one dataset, read region by region."""

from __future__ import annotations

import itertools
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import InputError
from unetcli.image.axes import AXES, Axes
from unetcli.image.cache import LARGEST_BAND, SHARED
from unetcli.image.location import require_local
from unetcli.image.pairing import file_of
from unetcli.image.raw import array_source, check_array, check_budget
from unetcli.image.segments import paste
from unetcli.image.source import (
    AnyArray,
    FileSource,
    Reading,
    Region,
    check_size,
    decoding,
)

MAX_LISTED = 20


def open_hdf5(path: Path, how: Reading) -> FileSource:
    """Open a dataset of an HDF5 file.

    Parameters
    ----------
    path
        ``file.h5/path/to/dataset``, or the file alone if it holds exactly one dataset of two or more axes.

    Notes
    -----
    Links, virtual datasets and external storage are refused: they can lead to any file of the computer.
    """
    h5py = require_h5py(path)
    file_path = require_local(file_of(path))
    with decoding(path, "can not be read as HDF5"), h5py.File(file_path, "r") as file:
        name = path.relative_to(file_path).as_posix() if path != file_path else only_dataset(path, file)
        dataset = find(path, file, name)
        shape, dtype = tuple(int(n) for n in dataset.shape or ()), dataset.dtype
        check_array(path, shape, dtype, is_label=how.is_label)
        check_storage(path, dataset)
        source = array_source(path, shape, dtype, DatasetReader(file_path, name), how.axes or own_axes(dataset))
        make_room(dataset, source.order)
        scale = element_size(dataset, source.axes.names)
    return replace(source, axes=Axes.of(source.axes.names, scale, dict.fromkeys(scale, "micrometer")))


def require_h5py(path: Path) -> Any:  # noqa: ANN401 - a module
    """Import h5py, which is an extra."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{path}: is an HDF5 file, and the package that reads them is not installed",
            fix="pip install 'unetcli[hdf5]'",
        ) from error
    return h5py


class DatasetReader:
    """Reads regions of a dataset; chunks that other regions need too are kept decoded.

    Parameters
    ----------
    path, name
        The file, and the dataset in it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._lock = threading.Lock()  # HDF5 takes one caller at a time
        self._key = object()

    def __call__(self, region: Region) -> AnyArray:
        """Return a region in the order of the file."""
        h5py = require_h5py(self.path)
        with self._lock, h5py.File(self.path, "r") as file:
            dataset = file[self.name]
            if not dataset.chunks:
                return np.asarray(dataset[region])
            out = np.empty([s.stop - s.start for s in region], dataset.dtype.newbyteorder("="))
            ranges = (range(s.start // n, -(-s.stop // n)) for s, n in zip(region, dataset.chunks, strict=True))
            for position in itertools.product(*ranges):
                self._paste_chunk(dataset, position, region, out)
            return out

    def _paste_chunk(self, dataset: Any, position: tuple[int, ...], region: Region, out: AnyArray) -> None:  # noqa: ANN401
        starts = tuple(p * n for p, n in zip(position, dataset.chunks, strict=True))
        ends = zip(starts, dataset.chunks, dataset.shape, strict=True)
        chunk = tuple(slice(a, min(a + n, size)) for a, n, size in ends)
        is_inside = all(r.start <= c.start and c.stop <= r.stop for r, c in zip(region, chunk, strict=True))
        pixels = dataset[chunk] if is_inside else SHARED.get((self._key, position), lambda: np.asarray(dataset[chunk]))
        paste(pixels, starts, region, out)


def only_dataset(path: Path, file: Any) -> str:  # noqa: ANN401 - h5py has no types
    """Return the name of the one dataset that can be an image; links are not followed."""
    h5py = require_h5py(path)
    found: dict[str, str] = {}

    def visit(name: str, item: Any) -> None:  # noqa: ANN401
        if isinstance(item, h5py.Dataset) and len(item.shape or ()) >= 2:
            found[name] = f"{name} ({' x '.join(map(str, item.shape))} {item.dtype})"

    file.visititems(visit)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise InputError(f"{path}: holds no dataset of two or more axes; expected an image")
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    raise InputError(
        f"{path}: holds {len(found)} datasets: {', '.join([*found.values()][:MAX_LISTED])}{more}; expected one",
        fix=f"name one: {path}/{next(iter(found))}",
    )


def find(path: Path, file: Any, name: str) -> Any:  # noqa: ANN401
    """Return a dataset, without going through a link."""
    h5py = require_h5py(path)
    item = file
    for part in name.split("/"):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            inside = ", ".join(list(item)[:MAX_LISTED]) if isinstance(item, h5py.Group) else "a dataset"
            raise InputError(f"{path}: {part} is not in {item.name}, which holds {inside or 'nothing'}")
        if not isinstance(link, h5py.HardLink):
            raise InputError(
                f"{path}: {part} is a link to {getattr(link, 'path', 'something else')}; expected the data itself",
                fix="name the file and the dataset that it links to",
            )
        item = item[part]
    if not isinstance(item, h5py.Dataset):
        raise InputError(
            f"{path}: is a group that holds {', '.join(list(item)[:MAX_LISTED]) or 'nothing'}; expected a dataset",
            fix=f"name one in it: {path}/NAME",
        )
    return item


def check_storage(path: Path, dataset: Any) -> None:  # noqa: ANN401
    """Refuse data that lies in other files, chunks that do not fit into memory, and sizes that can not be true."""
    if dataset.is_virtual or dataset.external:
        raise InputError(
            f"{path}: the pixels lie in other datasets or files; expected them in this one",
            fix="copy the dataset with its pixels, for example with h5repack or h5py",
        )
    if dataset.chunks:
        check_budget(path, math.prod(dataset.chunks) * dataset.dtype.itemsize)
    n_stored = dataset.id.get_storage_size()
    if not n_stored:
        raise InputError(f"{path}: has no pixels stored; expected an image")
    check_size(path, dataset.shape, dataset.dtype, n_stored)


def own_axes(dataset: Any) -> str | None:  # noqa: ANN401
    """Return the axes that a dataset names: by ilastik's ``axistags``, else by the labels of its dimensions."""
    try:
        tags = json.loads(dataset.attrs["axistags"])
        axes = "".join(str(tag["key"]) for tag in tags["axes"])
    except (KeyError, TypeError, ValueError):
        axes = "".join(dimension.label for dimension in dataset.dims)
    axes = axes.lower()
    is_usable = len(axes) == len(dataset.shape) == len(set(axes)) and set("yx") <= set(axes) <= set(AXES)
    return axes if is_usable else None


def element_size(dataset: Any, axes: str) -> dict[str, float]:  # noqa: ANN401
    """Return the pixel size in micrometers that the attribute ``element_size_um`` (z, y, x) gives, by axis."""
    sizes = np.asarray(dataset.attrs.get("element_size_um", ()))
    if sizes.shape != (3,) or sizes.dtype.kind not in "uif" or not all(0 < s < math.inf for s in sizes):
        return {}
    return {a: float(s) for a, s in zip("zyx", sizes, strict=True) if a in axes}


def make_room(dataset: Any, order: str) -> None:  # noqa: ANN401
    """Make room in the cache for a slab of chunks, which tiles in raster order share: one along z and t, all else."""
    if dataset.chunks:
        counts = zip(order, dataset.shape, dataset.chunks, strict=True)
        n_chunks = math.prod(math.ceil(size / n) for a, size, n in counts if a in "cyx")
        SHARED.make_room(min(LARGEST_BAND, n_chunks * math.prod(dataset.chunks) * dataset.dtype.itemsize))
