"""Image files to one OME-Zarr store: by shard, no halo."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.axes import Axes, default_channels, describe_shape, parse_pixel_size
from unetcli.image.dataset import TRUTH, parse_split, shares_text
from unetcli.image.inputs import Input, join_labels, open_entries
from unetcli.image.layouts import list_entries
from unetcli.image.location import Location
from unetcli.image.new_output import check_output, is_tiff_name, new_output
from unetcli.image.new_store import Layout, NewStore, collection_groups
from unetcli.image.ngff import ZARR_FORMATS, ImageMetadata
from unetcli.image.pyramid import build_pyramids, create_two_levels, level_shapes, mean_2x2, mode_2x2, nearest_2x2
from unetcli.image.resample import factors_to, resampled
from unetcli.image.selection import check_channel_order, select_channels, select_planes
from unetcli.image.source import Reading, Source
from unetcli.image.statistics import check_finite, statistics, tally_channels
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, Work, map_and_reduce_tiles, map_tiles, silent, work_on
from unetcli.image.tiling import Tile, TileGrid
from unetcli.image.truth import LabelMap, make_label_map, overlap_notes, swap_notes

Block = NDArray[Any]
RESERVED = {"ome", "labels", "zarr.json"}
"""Names that mean something else in a collection."""


@dataclass(frozen=True)
class Item:
    """One image to convert, with its truth."""

    name: str
    image: Source
    truth: Source | None
    axes: Axes


def run(
    images: Sequence[Location],
    out: Location,
    config: PrepConfig,
    *,
    labels: Sequence[Location] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Convert images, and their labels, to one OME-Zarr store, or one image to an OME-TIFF.

    Parameters
    ----------
    images
        Files, folders of files, or OME-Zarr stores. More than one image becomes a collection.
    out
        The new store; of one image without labels also a TIFF file, told by its name.
    config
        Settings.
    labels
        Truth: paired with the images by name, else by the numbers in the names.
    dry_run
        Check everything, return what would be done, write nothing.
    overwrite, workers, progress
        See `NewStore` and `map_tiles`.

    Returns
    -------
    dict
        What was written, and every assumption that was made on the way (``notes``).

    Raises
    ------
    InputError
        If a file can not be read, or images and labels do not fit.
    """
    entries = list_entries(images, find_truth=not labels)
    entries = [e for e in entries if e.path in images or e.path.resolve() != out.resolve()]  # -o among the files
    how = Reading(config.axes, level=config.level)
    meant: dict[str, Any] = {"threshold": config.label_threshold, "label_name": config.label_name}
    opened = open_entries(entries, how, **meant, with_labels=not labels)
    used, notes = join_labels(opened, labels, how, **meant)
    items = [_view(item, config) for item in _check(_items(used, config))]
    check_output(out, images=len(items), labels=bool(labels), ngff=config.ngff)
    notes = list(dict.fromkeys([*notes, *(note for item in items for note in _notes(item))]))
    if is_tiff_name(out) and items[0].truth is not None:
        items = [replace(item, truth=None) for item in items]
        notes.append("the labels beside the image are left out: a TIFF file holds one image")
    label_map = _label_map(items, config, notes)
    ndim = _ndim(items, config, label_map, notes)
    validation = parse_split(config.split, {i.name: i.image.shape[0] * i.image.shape[2] for i in items})
    summary = _summary(out, items, label_map, validation, notes)
    if dry_run:
        return {**summary, "would_write": _planned(items)}
    store = new_output(
        out,
        workers=workers,
        progress=progress,
        stage="prep",
        settings={**asdict(config), "names": [item.name for item in items]},
        inputs={
            "images": list(dict.fromkeys(file for i in used for file in i.files)),
            "labels": list(dict.fromkeys(file for i in used for file in i.truth_files)),
        },
        overwrite=overwrite,
        zarr_format=ZARR_FORMATS[config.ngff],
    )
    if not store.complete:
        reduce_2x2 = mode_2x2 if config.label_pyramid == "mode" else nearest_2x2
        stats = _convert(store, items, label_map, reduce_2x2, workers, progress)
        _finish(store, items, label_map, stats, {"ndim": ndim, "validation": validation})
    return {**summary, "already_done": store.complete}


# ------------------------------------------------------------------------------------------- reading


def _items(opened: list[Input], config: PrepConfig) -> list[Item]:
    names = _group_names([i.name for i in opened])
    sources = [select_channels(i.source, config.channels, config.channel_names) for i in opened]
    items = [Item(name, s, i.labels, s.axes) for name, s, i in zip(names, sources, opened, strict=True)]
    if config.pixel_size:
        items = [replace(item, axes=_with_pixel_size(item.axes, config.pixel_size)) for item in items]
    return items


def _label_map(items: list[Item], config: PrepConfig, notes: list[str]) -> LabelMap | None:
    """Find out what label values mean; say what looks wrong."""
    truths = [item.truth for item in items if item.truth is not None]
    if truths:
        notes += [*swap_notes(items[0].image, truths[0]), *overlap_notes(truths)]
    label_map = make_label_map(truths, notes, **config.meaning())
    if label_map and label_map.kind == "instances" and config.label_pyramid == "mode":
        raise ConfigError(
            "--label-pyramid mode: labels are ids of objects, of which it removes small ones; expected classes",
            fix="--label-pyramid nearest",
        )
    return label_map


def _view(item: Item, config: PrepConfig) -> Item:
    """Keep the planes that are asked for, and give image and labels the pixel size that is asked for."""
    factors = (1.0, config.downsample, config.downsample)
    if config.target_pixel_size:
        factors = factors_to(item.name, item.axes, config.target_pixel_size)
    image = resampled(select_planes(item.image, config.planes), factors, config.resample)
    axes = item.axes.scaled(dict(zip("zyx", factors, strict=True)))
    truth = item.truth and resampled(select_planes(item.truth, config.planes), factors, "nearest")
    return replace(item, image=image, truth=truth, axes=axes)


def _with_pixel_size(axes: Axes, text: str) -> Axes:
    scale, unit = parse_pixel_size(text)
    known = dict(zip(axes.names, axes.scale, strict=True))
    units = dict(zip(axes.names, axes.units, strict=True))
    return Axes.of(axes.names, {**known, **scale}, {**units, **dict.fromkeys(scale, unit)})


def _group_names(names: Sequence[str]) -> list[str]:
    """Return names that any file system and any reader of Zarr takes, and that mean nothing else in a store.

    Raises
    ------
    ConfigError
        If two images have the same name.
    """
    collection_groups(names)
    groups: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "image"
        plain = f"image_{plain}" if plain.lower() in RESERVED else plain
        taken = {group.lower() for group in groups}  # some file systems do not tell a from A
        numbered = (f"{plain}_{k}" for k in itertools.count(2))
        groups.append(next(g for g in itertools.chain([plain], numbered) if g.lower() not in taken))
    return groups


def _check(items: list[Item]) -> list[Item]:
    """Refuse labels of another size than their image, images of different types or channels."""
    if not items:
        raise InputError("no images were given", fix="unetcli prep IMAGE... -o data.zarr")
    first = items[0].image
    for item in items:
        image, truth = item.image, item.truth
        expected = (image.shape[0], 1, *image.shape[2:])
        if truth is not None and truth.shape[1] != 1:
            raise InputError(
                f"{truth.name}: labels have {truth.shape[1]} channels ({describe_shape(truth.shape)}); expected "
                f"{describe_shape(expected)}, one channel of object ids or class values",
                fix="save them as one grey channel",
            )
        if truth is not None and truth.shape != expected:
            raise InputError(
                f"{truth.name}: labels are {describe_shape(truth.shape)}; expected {describe_shape(expected)}, "
                f"as {image.name}",
                fix="give the labels that were drawn on this image, at its size",
            )
        if image.shape[1] != first.shape[1] or image.dtype != first.dtype:
            raise InputError(
                f"{image.name}: has {image.shape[1]} channels of {image.dtype}; expected {first.shape[1]} of "
                f"{first.dtype}, as {first.name}",
                fix="one data set holds images of one kind: prepare the others apart",
            )
    check_channel_order([item.image for item in items])
    return items


def _notes(item: Item) -> list[str]:
    return [*item.image.notes, *(item.truth.notes if item.truth else ())]


def _ndim(items: list[Item], config: PrepConfig, label_map: LabelMap | None, notes: list[str]) -> int:
    depth = max(item.image.shape[2] for item in items)
    if config.ndim is not None:
        return config.ndim
    if depth == 1:
        return 2
    unnamed = any(getattr(item.image, "pages_unnamed", False) for item in items)
    ndim = 3 if label_map and label_map.kind == "instances" and not unnamed else 2
    meaning = "volumes with objects in 3D" if ndim == 3 else "stacks of separate 2D planes"
    notes.append(f"images with {depth} z planes are taken as {meaning} (--ndim {5 - ndim} says otherwise)")
    return ndim


# ------------------------------------------------------------------------------------------- writing


def _convert(
    store: NewStore,
    items: list[Item],
    label_map: LabelMap | None,
    reduce_labels: Callable[[Block], Block],
    workers: int | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Write level 0 of all images and labels, their pyramids, and measure the gray values."""
    groups = collection_groups(item.name for item in items)
    images: dict[str, Level] = {}
    truths: dict[str, Level] = {}
    works: list[Work] = []
    for group, item in zip(groups, items, strict=True):
        shape, dtype = item.image.shape, _stored_dtype(item.image.dtype)
        target = create_two_levels(store, group, item.axes, shape, dtype, mean_2x2)
        images[group] = target.finer
        works += work_on(f"{group}/0", target.grid, [item.image], [target])
    tallies = map_and_reduce_tiles(_as_stored, tally_channels, works, store.ledger, workers=workers, progress=progress)
    stats = statistics(tallies)
    if label_map:
        works = []
        for group, item in zip(groups, items, strict=True):
            assert item.truth is not None
            place = f"{group}/labels/{TRUTH}".strip("/")
            axes, shape, dtype = item.axes.without_channels(), item.truth.shape, label_map.dtype
            target = create_two_levels(store, place, axes, shape, dtype, reduce_labels, is_label=True)
            truths[place] = target.finer
            works += work_on(f"{place}/0", target.grid, [item.truth], [target])
        map_tiles(label_map, works, store.ledger, workers=workers, progress=progress)
    build = partial(build_pyramids, store, above=1, workers=workers, progress=progress)
    build(images, mean_2x2)
    build(truths, reduce_labels)
    return stats


def _as_stored(tile: Tile, block: Block) -> Block:
    """Return gray values in the type in which they are kept; refuse those that are not finite."""
    check_finite(tile, block)
    return block.astype(_stored_dtype(block.dtype), copy=False)


def _stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which gray values are kept: the file's, where readers of OME-Zarr know it."""
    unknown = {"bool": "uint8", "float16": "float32"}
    return np.dtype(unknown.get(dtype.name, dtype))


def _finish(
    store: NewStore,
    items: list[Item],
    label_map: LabelMap | None,
    stats: list[dict[str, Any]],
    data: Mapping[str, Any],
) -> None:
    channels = items[0].image.channels or default_channels(len(stats))
    window = (
        min(s["min"] for s in stats),
        max(max(s["max"] for s in stats), min(s["min"] for s in stats) + 1),
    )
    metadata = []
    for group, item in zip(collection_groups(i.name for i in items), items, strict=True):
        n_levels = len(level_shapes(item.image.shape))
        image = ImageMetadata(group, item.axes, item.name, n_levels, channels, window)
        if label_map:
            named = dict(enumerate(label_map.names)) if label_map.kind == "classes" else {}
            axes = item.axes.without_channels()
            truth = ImageMetadata(TRUTH, axes, n_levels=n_levels, classes=named, source="../../")
            image = replace(image, labels=(truth,))
        metadata.append(image)
    described = {
        **data,
        "channels": [channel.name for channel in channels],
        "label_kind": label_map.kind if label_map else None,
        "classes": label_map.names if label_map else (),
        "class_values": label_map.values if label_map else (),
        "class_indices": label_map.indices if label_map else (),
        "class_pixels": label_map.pixels if label_map else None,
        "statistics": stats,
    }
    store.finish(metadata, {"data": described})


def _summary(
    out: Location,
    items: list[Item],
    label_map: LabelMap | None,
    validation: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    first = items[0].image
    return {
        "out": str(out),
        "images": len(items),
        "size": describe_shape(first.shape) if len({i.image.shape for i in items}) == 1 else "various sizes",
        "dtype": str(_stored_dtype(first.dtype)),
        "axes": "; ".join(dict.fromkeys(item.axes.describe().removeprefix("axes ") for item in items)),
        "labels": f"{label_map.kind} ({', '.join(label_map.names)})" if label_map else "none",
        **({"shares": shares_text(label_map.names, label_map.pixels)} if label_map else {}),
        "validation": ", ".join(n if p is None else f"{n} planes {list(p)}" for n, p in validation.items()) or "none",
        "notes": notes,
    }


def _planned(items: list[Item]) -> str:
    """Say how much would be written."""
    layouts = [(item.image, Layout.of(item.image.shape)) for item in items]
    tiles = sum(len(TileGrid(image.shape, layout.shard)) for image, layout in layouts)
    size = sum(math.prod(image.shape) * image.dtype.itemsize for image, _ in layouts)
    return f"{tiles} shards of images, {size / 2**20:,.0f} MiB before compression, and pyramids of a third of that"
