"""Images, labels and weight maps to deformed copies: by shard, halo: what deformation and blur reach for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetcli.config import AugmentConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.axes import Axes, Channel
from unetcli.image.dataset import TARGET, TRUTH, WEIGHTS, Dataset, open_dataset
from unetcli.image.location import Location, write
from unetcli.image.new_store import Layout, NewStore, collection_groups
from unetcli.image.ngff import ImageMetadata
from unetcli.image.resample import resampled
from unetcli.image.source import Source, View, read_mirrored
from unetcli.image.store import Image, open_store
from unetcli.image.streaming import LazyWorks, Progress, Work, map_tiles, silent
from unetcli.image.tiling import Box, Shape, TileGrid
from unetcli.kernels.deformation import Position, source_positions
from unetcli.report.figures import require_picture
from unetcli.report.sheet import SheetSample, draw_sheet
from unetcli.sample_table import describe, read_table, sample_name, table_of
from unetcli.sampling import Example, Sample, draw_sample, examples

Block = NDArray[Any]
PREVIEWS = 6
PREVIEW_PX = 512
"""A larger sample is shown at fewer pixels than it has."""
GRID_NODES = 256
"""At most so many nodes along a side show a deformation: enough for smooth lines."""


@dataclass(frozen=True)
class Numbered:
    """The samples of a run: made when they are asked for, none is kept.

    Parameters
    ----------
    numbers
        Number k of each.
    make
        Returns sample k.
    ndim
        2: each is a plane; 3: each is a volume.
    """

    numbers: Sequence[int]
    make: Callable[[int], Sample]
    ndim: int

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        return ((k, self.make(k)) for k in self.numbers)

    @property
    def groups(self) -> list[str]:
        """Group of each in the store; one alone is the store itself."""
        return collection_groups(map(sample_name, self.numbers))


def run(
    data: Location,
    out: Location,
    config: AugmentConfig,
    *,
    weights: Location | None = None,
    parameters: Location | None = None,
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
    parameters
        Table of an earlier run, its ``parameters.csv``: its samples are made again, and none is drawn.
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
    found = examples(dataset, weights)
    if preview is not None:
        require_picture("--preview", preview)
    samples = _drawn(dataset, found, config) if parameters is None else _listed(parameters, found, config)
    if dry_run:
        return {"out": str(out), **_planned(samples)}
    store = NewStore(
        out,
        stage="augment",
        settings={**asdict(config), "ndim": samples.ndim},
        inputs={"data": data, "weights": weights, "parameters": parameters},
        overwrite=overwrite,
    )
    if not store.complete:
        works = _works(store, dataset, samples)
        map_tiles(
            lambda _, blocks: blocks,
            works,
            store.ledger,
            read=lambda view, box: view.read(box),
            workers=workers,
            progress=progress,
        )
        write(out / "parameters.csv", table_of(samples))
        described = {**dataset.store.attributes["data"], "ndim": samples.ndim, "validation": {}, "class_pixels": None}
        groups = zip(samples.groups, samples, strict=True)
        store.finish((_metadata(dataset, group, k, sample) for group, (k, sample) in groups), {"data": described})
    if preview is not None:
        written = open_store(out).images[:PREVIEWS]
        pairs = zip(samples.numbers, written, strict=False)
        draw_sheet([_preview(k, samples.make(k), image) for k, image in pairs], preview)
    summary = {"out": str(out), "already_done": store.complete, "samples": len(samples.numbers)}
    return {**summary, **({"preview": str(preview)} if preview else {})}


def _drawn(dataset: Dataset, found: Mapping[str, Example], config: AugmentConfig) -> Numbered:
    """Return samples that are functions of the seed and their numbers."""
    ndim = config.ndim or dataset.ndim
    config.grid_points(ndim)
    planes = [(found[image.name], t, z) for image, t, z in dataset.planes(validation=False) if ndim == 2 or z == 0]
    if not planes:
        raise InputError(f"{dataset.store.path}: has no training images", fix="prepare it with another --split")
    return Numbered(
        range(config.samples) if config.replay is None else [config.replay],
        lambda k: draw_sample(planes, config, config.seed, k, config.patch_size, ndim),
        ndim,
    )


def _listed(path: Location, found: Mapping[str, Example], config: AugmentConfig) -> Numbered:
    """Return the samples of a table, or the one of them that is asked for."""
    given = [f.name for f in fields(config) if getattr(config, f.name) != f.default and f.name != "replay"]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"{options}: does not go with --parameters, which says what was drawn", fix="leave it out")
    table = read_table(path, found)
    if config.replay is not None and config.replay not in table:
        raise ConfigError(
            f"--replay {config.replay}: {path} has no such sample; expected one of {min(table)} to {max(table)}"
        )
    ndim = 3 if any(sample.shape[0] > 1 for sample in table.values()) else 2
    return Numbered(list(table) if config.replay is None else [config.replay], table.__getitem__, ndim)


def _planned(samples: Numbered) -> dict[str, Any]:
    """Say what would be written, before compression."""
    n_pixels = n_bytes = 0
    images = set()
    for _, sample in samples:
        images.add(sample.example.name)
        n_pixels += math.prod(sample.shape)
        n_bytes += sum(math.prod(a.shape) * a.dtype.itemsize for a in _arrays(sample).values())
    return {
        "would_write": f"{len(samples.numbers)} samples of {len(images)} training images: {n_pixels / 1e6:.3g} "
        f"megapixels, {n_bytes / 2**20:.3g} MiB before compression",
        "samples": len(samples.numbers),
        "pixels": n_pixels,
        "bytes": n_bytes,
    }


def _works(store: NewStore, dataset: Dataset, samples: Numbered) -> LazyWorks:
    """Return the tiles of all samples; image, labels and weights are rendered and written together."""
    total = n_todo = 0
    for group, (_, sample) in zip(samples.groups, samples, strict=True):
        names = [_tile_name(group, index) for index in range(len(_grid(sample)))]
        total += len(names)
        n_todo += sum(name not in store.ledger for name in names)

    def todo() -> Iterator[Work]:
        for group, (_, sample) in zip(samples.groups, samples, strict=True):
            tiles = [tile for tile in _grid(sample) if _tile_name(group, tile.index) not in store.ledger]
            if not tiles:
                continue
            arrays = _arrays(sample)
            targets = [
                store.level(
                    f"{group}/{place}".strip("/"), 0, a.axes, a.shape, a.dtype, is_label=place.startswith("labels")
                )
                for place, a in arrays.items()
            ]
            axes, shape, dtype = arrays[""]
            view = DeformedView(sample.example.name, shape, dtype, axes, partial(_render, dataset, sample))
            for tile in tiles:
                yield Work(_tile_name(group, tile.index), tile, (view,), tuple(targets))

    return LazyWorks(todo(), n_todo, total)


def _tile_name(group: str, index: int) -> str:
    return f"{group or 'image'}/{index}"


def _grid(sample: Sample) -> TileGrid:
    """Cut a sample to shards of its labels, which are no smaller than those of image and weights."""
    shard = Layout.of((1, 1, *sample.shape)).shard
    n_channels = sample.example.image.shape[1]
    return TileGrid((1, n_channels, *sample.shape), (1, n_channels, *shard[2:]))


class Array(NamedTuple):
    """One array of a sample, as it is stored: axes, shape (t, c, z, y, x) and dtype."""

    axes: Axes
    shape: Shape
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class DeformedView:
    """A sample as a source: reading a box renders all its arrays in one pass.

    Parameters
    ----------
    name
        Of the image that it shows.
    shape, dtype, axes
        Of its image.
    render
        Returns a part, from start to stop (z, y, x), of each of its arrays: (c, z, y, x).
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    axes: Axes
    render: Callable[[Position, Position], list[Block]]
    notes: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()

    def read(self, box: Box) -> Any:  # noqa: ANN401 - a block of each array
        """Return the deformed pixels of a box, (1, c, z, y, x) of each array."""
        (z, y, x), (z_stop, y_stop, x_stop) = box.start[2:], box.stop[2:]
        return tuple(block[None] for block in self.render((z, y, x), (z_stop, y_stop, x_stop)))


def _arrays(sample: Sample) -> dict[str, Array]:
    """Return the arrays of a sample by the place of each in its group."""
    example = sample.example
    sources = {"": example.image, f"labels/{TRUTH}": example.truth}
    if example.target is not None and example.weights is not None:
        sources |= {f"labels/{TARGET}": example.target, WEIGHTS: example.weights}
    return {
        place: Array(
            _sample_axes(source.axes, sample),
            (1, source.shape[1], *sample.shape),
            np.dtype("float32") if place == WEIGHTS else source.dtype,
        )
        for place, source in sources.items()
    }


def _render(dataset: Dataset, sample: Sample, start: Position, stop: Position) -> list[Block]:
    """Render a part of a sample, (c, z, y, x) of each of its arrays."""
    example, (mean, std) = sample.example, dataset.normalization()
    sources = [example.truth, *([example.target] if example.target is not None else [])]
    image, labels, weights = sample.render(start, stop, mean, std, sources)
    image = _to_dtype(image * std[:, None, None, None] + mean[:, None, None, None], example.image.dtype)
    return [image, *(label[None] for label in labels), *([] if weights is None else [weights[None]])]


def _sample_axes(axes: Axes, sample: Sample) -> Axes:
    """Return the axes of a sample: one time point, and z only of volumes."""
    names = [a for a in axes.names if a not in ("t" if sample.shape[0] > 1 else "tz")]
    units = dict(zip(axes.names, axes.units, strict=True))
    return Axes.of("".join(names), {a: axes.scale_of(a) for a in names}, {a: units[a] for a in names})


def _to_dtype(values: Block, dtype: np.dtype[Any]) -> Block:
    """Bring float32 values to a type; what it can not hold is cut off."""
    if dtype.kind == "f":
        return values.clip(*_limits(np.finfo(dtype))).astype(dtype)
    return np.rint(values).clip(*_limits(np.iinfo(dtype))).astype(dtype)


def _limits(limits: np.finfo[Any] | np.iinfo[Any]) -> tuple[np.float32, np.float32]:
    """Return the least and the greatest float32 that lie within the limits of a type."""
    finite = np.finfo(np.float32)
    low, high = np.float32(max(limits.min, finite.min)), np.float32(min(limits.max, finite.max))
    return low, high if float(high) <= limits.max else np.nextafter(high, np.float32(0))


def _metadata(dataset: Dataset, group: str, k: int, sample: Sample) -> ImageMetadata:
    classes = dict(enumerate(dataset.classes))
    arrays = _arrays(sample)
    named = {TRUTH: classes if dataset.label_kind == "classes" else {}, TARGET: classes}
    labels = tuple(
        ImageMetadata(label, arrays[f"labels/{label}"].axes, classes=names, source="../../")
        for label, names in named.items()
        if f"labels/{label}" in arrays
    )
    nested = (ImageMetadata(f"{group}/{WEIGHTS}".strip("/"), arrays[WEIGHTS].axes),) if WEIGHTS in arrays else ()
    stats = dataset.statistics
    low, high = min(s["min"] for s in stats), max(s["max"] for s in stats)
    return ImageMetadata(
        group,
        arrays[""].axes,
        sample_name(k),
        channels=sample.example.image.channels,
        window=(low, max(high, low + 1)),
        labels=labels,
        nested=nested,
    )


@dataclass(frozen=True)
class Region(View):
    """A part of one time point of a source, perhaps reaching past its edges: there it is mirrored.

    Parameters
    ----------
    first
        Its first pixel in the source, (t, c, z, y, x); may be negative.
    extent
        Its shape, (1, c, z, y, x).
    """

    first: Shape
    extent: Shape

    @property
    def shape(self) -> Shape:
        """Shape of the part."""
        return self.extent

    def read(self, box: Box) -> Block:
        """Return the pixels of a box of the part."""
        return read_mirrored(self.source, box.relative_to(tuple(-a for a in self.first)))


def _preview(k: int, sample: Sample, written: Image) -> SheetSample:
    """Return the middle plane of a sample as it was written, its original, and which positions of that it shows."""
    depth, height, width = sample.shape
    example, z = sample.example, depth // 2
    factor = max(1.0, max(height, width) / PREVIEW_PX)

    def plane(source: Source, method: str | None = None) -> Block:
        """Return (c, y, x) of the middle plane; of a large one, so many pixels as are shown."""
        shown = resampled(source, (1, factor, factor), method)
        return shown.read(Box.whole(shown.shape).replace(2, z, z + 1))[0, :, 0]

    image = plane(written.level)
    nodes = [np.array([z]), *(np.linspace(0, n - 1, min(n, GRID_NODES)).round().astype(int) for n in (height, width))]
    corner = (sample.t, 0, *sample.origin)
    original = Region(example.image, corner, (1, example.image.shape[1], *sample.shape))
    has_weights = (written.path / WEIGHTS).exists()
    return SheetSample(
        name=f"{sample_name(k)} of {example.name}" + (f", plane {z} of {depth}" if depth > 1 else ""),
        details=describe(sample),
        image=image,
        labels=plane(written.labels(TRUTH), "nearest")[0],
        weights=plane(open_store(written.path / WEIGHTS).images[0].level)[0] if has_weights else None,
        grid=source_positions(sample.deformation, nodes)[1:, 0] / factor,
        original=plane(original),
    )
