"""Images, labels and weight maps to deformed copies: by shard, halo: what the deformation reaches for."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import AugmentConfig
from unetcli.errors import InputError
from unetcli.image.axes import Axes, Channel
from unetcli.image.dataset import TARGET, TRUTH, WEIGHTS, Dataset, open_dataset
from unetcli.image.location import Location, write
from unetcli.image.new_store import NewStore, collection_groups
from unetcli.image.ngff import ImageMetadata
from unetcli.image.source import Source
from unetcli.image.streaming import Progress, Work, map_tiles, silent
from unetcli.image.tiling import Box, Shape, TileGrid
from unetcli.kernels.displacement import source_positions
from unetcli.report.sheet import SheetSample, draw_sheet
from unetcli.sampling import Position, Sample, draw_sample, examples

Block = NDArray[Any]
PREVIEWS = 6
GRID_SPACING = 4
"""Pixels between the nodes of the grid that shows a deformation."""


def run(
    data: Location,
    out: Location,
    config: AugmentConfig,
    *,
    weights: Location | None = None,
    preview: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write deformed copies of the training images, with labels and weight maps warped by the same field.

    Sample k is a function of the seed and k alone. Its parameters are in ``parameters.csv`` in the store.

    Parameters
    ----------
    data
        A data set with labels.
    out
        The new store, a data set again.
    config
        Settings.
    weights
        Weight maps of the data set, to be warped along.
    preview
        PNG with a sheet of the first samples and their deformed grids.
    dry_run
        Check everything, return what would be done, write nothing.
    overwrite, workers, progress
        See `NewStore` and `map_tiles`.

    Returns
    -------
    dict
        What was written.
    """
    dataset = open_dataset(data)
    ndim = config.ndim or dataset.ndim
    found = examples(dataset, weights)
    planes = [(found[image.name], t, z) for image, t, z in dataset.planes(validation=False) if ndim == 2 or z == 0]
    if not planes:
        raise InputError(f"{data}: has no training images", fix="prepare it with another --split")
    if preview is not None and (preview.is_dir() or not os.access(preview.parent, os.W_OK)):
        raise InputError(
            f"--preview {preview}: can not be written; expected a file in a folder that is there",
            fix="--preview sheet.png",
        )
    samples = [draw_sample(planes, config, config.seed, k, None, ndim) for k in range(config.samples)]
    if dry_run:
        return {"out": str(out), "would_write": f"{len(samples)} samples of {len(planes)} training images"}
    store = NewStore(
        out,
        stage="augment",
        settings={**asdict(config), "ndim": ndim},
        inputs={"data": data, "weights": weights},
        overwrite=overwrite,
    )
    if not store.complete:
        names = [f"sample_{k:05d}" for k in range(config.samples)]
        groups = collection_groups(names)
        works = [
            w for group, sample in zip(groups, samples, strict=True) for w in _works(store, dataset, group, sample)
        ]
        map_tiles(lambda _, *blocks: blocks, works, store.ledger, read=_read, workers=workers, progress=progress)
        write(out / "parameters.csv", _parameters(names, samples))
        metadata = [_metadata(dataset, *parts) for parts in zip(groups, names, samples, strict=True)]
        described = {**dataset.store.attributes["data"], "ndim": ndim, "validation": {}, "class_pixels": None}
        store.finish(metadata, {"data": described})
    if preview is not None:
        mean, std = dataset.normalization()
        draw_sheet([_preview(k, sample, mean, std) for k, sample in enumerate(samples[:PREVIEWS])], preview)
    summary = {"out": str(out), "already_done": store.complete, "samples": len(samples)}
    return {**summary, **({"preview": str(preview)} if preview else {})}


@dataclass(frozen=True)
class DeformedView:
    """One array of a sample as a source: reading a box renders it."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    axes: Axes
    render: Callable[[Position, Position], Block]
    notes: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()

    def read(self, box: Box) -> Block:
        """Return the deformed pixels of a box, (1, c, z, y, x)."""
        z, y, x = (slice(a, b) for a, b in zip(box.start[2:], box.stop[2:], strict=True))
        block = self.render((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
        return block.reshape(box.shape)


def _read(source: Source, box: Box) -> Block:
    return source.read(box.clip(source.shape))  # labels have fewer channels than the image


def _works(store: NewStore, dataset: Dataset, group: str, sample: Sample) -> Iterator[Work]:
    """Yield the tiles of a sample; image, labels and weights are rendered and written together."""
    views = _views(dataset, sample)
    targets = [
        store.level(f"{group}/{place}".strip("/"), 0, v.axes, v.shape, v.dtype, is_label=place.startswith("labels"))
        for place, v in views.items()
    ]
    shape, truth = views[""].shape, targets[1]
    for tile in TileGrid(shape, (1, shape[1], *truth.shard[2:])):
        yield Work(f"{group or 'image'}/{tile.index}", tile, tuple(views.values()), tuple(targets))


def _views(dataset: Dataset, sample: Sample) -> dict[str, DeformedView]:
    """Return the arrays of a sample by the place of each in its group."""
    example, name = sample.example, sample.example.name
    mean, std = dataset.normalization()

    def gray(start: Position, stop: Position) -> Block:
        values = sample.image(start, stop, mean, std) * std[:, None, None, None] + mean[:, None, None, None]
        return _to_dtype(values, example.image.dtype)

    def labels(source: Source) -> DeformedView:
        axes = _sample_axes(source.axes, sample)
        return DeformedView(name, (1, 1, *sample.shape), source.dtype, axes, lambda a, b: sample.labels(source, a, b))

    image_axes = _sample_axes(example.image.axes, sample)
    shape = (1, example.image.shape[1], *sample.shape)
    views = {"": DeformedView(name, shape, example.image.dtype, image_axes, gray)}
    views[f"labels/{TRUTH}"] = labels(example.truth)
    if example.target is not None and example.weights is not None:
        source = example.weights
        views[f"labels/{TARGET}"] = labels(example.target)
        views[WEIGHTS] = DeformedView(
            name,
            (1, 1, *sample.shape),
            np.dtype("float32"),
            _sample_axes(source.axes, sample),
            lambda a, b: sample.weights(source, a, b),
        )
    return views


def _sample_axes(axes: Axes, sample: Sample) -> Axes:
    """Return the axes of a sample: one time point, and z only of volumes."""
    names = [a for a in axes.names if a not in ("t" if sample.shape[0] > 1 else "tz")]
    units = dict(zip(axes.names, axes.units, strict=True))
    return Axes.of("".join(names), {a: axes.scale_of(a) for a in names}, {a: units[a] for a in names})


def _to_dtype(values: Block, dtype: np.dtype[Any]) -> Block:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def _metadata(dataset: Dataset, group: str, name: str, sample: Sample) -> ImageMetadata:
    classes = dict(enumerate(dataset.classes))
    views = _views(dataset, sample)
    named = {TRUTH: classes if dataset.label_kind == "classes" else {}, TARGET: classes}
    labels = tuple(
        ImageMetadata(label, views[f"labels/{label}"].axes, classes=names, source="../../")
        for label, names in named.items()
        if f"labels/{label}" in views
    )
    nested = (ImageMetadata(f"{group}/{WEIGHTS}".strip("/"), views[WEIGHTS].axes),) if WEIGHTS in views else ()
    return ImageMetadata(group, views[""].axes, name, labels=labels, nested=nested)


def _parameters(names: Sequence[str], samples: Sequence[Sample]) -> str:
    """Return the table of the parameters of each sample."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", "image", "t", "z", "displacement_px", "matrix", "offset_px", "gray"])
    for name, s in zip(names, samples, strict=True):
        d = s.deformation
        values = [json.dumps(np.asarray(v).tolist()) for v in (d.grid, d.matrix, d.offset)]
        writer.writerow([name, s.example.name, s.t, s.origin[0], *values, json.dumps(asdict(s.gray))])
    return text.getvalue()


def _preview(k: int, sample: Sample, mean: Block, std: Block) -> SheetSample:
    """Return the middle plane of a sample, its original, and which positions of that it shows."""
    depth, height, width = sample.shape
    example, z = sample.example, depth // 2
    start, stop = (z, 0, 0), (z + 1, height, width)
    lattice = [np.array([z])]
    lattice += [np.linspace(0, n - 1, max(2, n // GRID_SPACING)).round().astype(int) for n in (height, width)]
    corner = (sample.t, 0, sample.origin[0] + z, *sample.origin[1:])
    extent = (1, example.image.shape[1], 1, height, width)
    plane = Box(corner, tuple(a + n for a, n in zip(corner, extent, strict=True)))
    return SheetSample(
        name=f"{example.name}, sample {k}",
        image=sample.image(start, stop, mean, std)[:, 0] * std[:, None, None] + mean[:, None, None],
        labels=sample.labels(example.truth, start, stop)[0],
        weights=sample.weights(example.weights, start, stop)[0] if example.weights else None,
        grid=source_positions(sample.deformation, lattice)[1:, 0],
        original=example.image.read(plane)[0, :, 0],
    )
