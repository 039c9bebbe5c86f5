"""Outlines of objects as GeoJSON, as QuPath reads it: object by object, in pixels of full size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.atomic import writing_atomically
from unetcli.errors import ConfigError
from unetcli.image.ngff import PALETTE
from unetcli.image.source import Source
from unetcli.image.streaming import Progress, reduce_tiles, silent, work_on
from unetcli.image.tiling import Box, Tile, TileGrid, spans
from unetcli.instances.table import Objects
from unetcli.kernels.measure import CLASS, START, STOP, TOTAL
from unetcli.kernels.outline import parts_of, trace
from unetcli.labelling import grid_over

Block = NDArray[Any]
BAND = 512
"""Rows of a large object that are read at once."""
MEASURED = ("area", "mean_probability")
"""What of the table QuPath is told; it measures the rest itself."""
LARGEST = 2**28
"""Objects whose boxes have more pixels get no outline: it would not fit into the memory of small machines."""


def check_outlines(path: Path, *, images: int, ndim: int) -> None:
    """Refuse outlines that can not be.

    Raises
    ------
    ConfigError
        If the objects are volumes, there are several images, or the name does not end in .geojson or .json.
    """
    if path.suffix.lower() not in (".geojson", ".json"):
        raise ConfigError(f"--outlines {path}: expected a name that ends in .geojson", fix="--outlines objects.geojson")
    if images > 1:
        raise ConfigError(f"--outlines {path}: one file has the objects of one image; there are {images} images")
    if ndim == 3:
        raise ConfigError(f"--outlines {path}: objects are volumes; expected planes", fix="--object-ndim 2")


def write_outlines(
    path: Path,
    objects: Objects,
    ids: Source,
    *,
    factors: tuple[float, float] = (1, 1),
    workers: int | None = None,
    progress: Progress = silent,
) -> int:
    """Write a feature collection with an outline for each object; the file appears whole.

    Parameters
    ----------
    path
        The file.
    objects
        What was measured of them.
    ids
        Their ids.
    factors
        Pixels of full size that are one pixel of the ids, along (y, x).

    Returns
    -------
    int
        How many objects are too large, and were left out.

    Notes
    -----
    Each object is traced within its box, from the tile in which this begins where it does not reach past it. So
    what is held are tiles and single objects. They follow one another by these tiles, then by id.
    """
    grid = grid_over(ids.shape, 2)
    numbers, first = _by_tile(objects, grid)
    left_out = 0

    def draw(tile: Tile, block: Block) -> tuple[list[str], int]:
        features, too_large = [], 0
        for number in numbers[first[tile.index] : first[tile.index + 1]]:
            mask = _mask_of(objects, int(number), ids, tile, block)
            if mask is None:
                too_large += 1
            else:
                features.append(json.dumps(_feature(objects, int(number), mask, factors), ensure_ascii=False))
        return features, too_large

    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_atomically(path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        separator = "\n"
        works = work_on("outlines", grid, [ids])
        for features, too_large in reduce_tiles(draw, works, workers=workers, progress=progress):
            left_out += too_large
            for feature in features:
                file.write(f"{separator}{feature}".encode())
                separator = ",\n"
        file.write(b"\n]}\n")
    return left_out


def _by_tile(objects: Objects, grid: TileGrid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of all objects by the tile in which their box begins, and where those of each tile begin."""
    t, z, y, x = objects.measured[1:, START:STOP].T
    cores = grid.core
    position = (t // cores[0], np.zeros_like(t), z // cores[2], y // cores[3], x // cores[4])
    tiles = np.ravel_multi_index(position, grid.counts) if len(t) else np.empty(0, np.int64)
    in_order = np.argsort(tiles, kind="stable")
    return in_order + 1, np.searchsorted(tiles[in_order], np.arange(len(grid) + 1))


def _mask_of(objects: Objects, number: int, ids: Source, tile: Tile, block: Block) -> NDArray[np.bool_] | None:
    """Return the pixels of an object within its box (y, x); None if this is too large."""
    (t, z, *start), (t1, z1, *stop) = (
        tuple(int(n) for n in objects.measured[number, columns]) for columns in (slice(START, STOP), slice(STOP, TOTAL))
    )
    box = Box((t, 0, z, *start), (t1, 1, z1, *stop))
    if box.clip(tile.core.stop) == box:
        inside: NDArray[np.bool_] = block[box.relative_to(tile.core.start).slices][0, 0, 0] == number
        return inside
    if np.prod(box.shape) > LARGEST:
        return None
    mask = np.empty(box.shape[3:], np.bool_)
    for y, y1 in spans(start[0], stop[0], BAND):
        mask[y - start[0] : y1 - start[0]] = ids.read(box.replace(3, y, y1))[0, 0, 0] == number
    return mask


def _feature(objects: Objects, number: int, mask: NDArray[np.bool_], factors: tuple[float, float]) -> Mapping[str, Any]:
    """Return the feature of an object: its polygon, or polygons where its parts touch in corners only."""
    t, z, *_ = (int(n) for n in objects.measured[number, START:STOP])
    which = int(objects.measured[number, CLASS])
    start = objects.measured[number, START + 2 : STOP]
    polygons = [[_scaled(ring, start + at, factors) for ring in trace(part)] for part, at in parts_of(mask)]
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": polygons[0]}
    if len(polygons) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
    if t or z:
        geometry["plane"] = {"c": -1, "z": z, "t": t}
    row = objects.row(number)
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": "detection",
            "name": str(number),
            "classification": {"name": row["class"], "color": list(PALETTE[(which - 1) % len(PALETTE)])},
            "measurements": {
                key: value
                for key, value in row.items()
                if key == "id" or (key.startswith(MEASURED) and value is not None)
            },
        },
    }


def _scaled(
    ring: NDArray[np.int64], start: NDArray[np.int64], factors: tuple[float, float]
) -> Sequence[Sequence[float]]:
    """Return a ring of a box as (x, y) in pixels of full size; whole numbers stay so."""
    moved = (ring + start[::-1]) * np.array(factors[::-1])
    whole = moved.astype(np.int64)
    listed: list[list[float]] = (whole if np.array_equal(moved, whole) else moved).tolist()
    return listed
