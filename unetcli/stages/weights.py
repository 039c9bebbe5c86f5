"""Labels to weight map and training target: by shard, halo: reach of the border term."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import WeightsConfig
from unetcli.errors import ConfigError
from unetcli.image.dataset import TARGET, TRUTH, Dataset, open_dataset
from unetcli.image.location import Location
from unetcli.image.new_store import Layout, NewStore, collection_groups, create_level
from unetcli.image.ngff import ImageMetadata
from unetcli.image.source import read_filled
from unetcli.image.store import Level, open_store
from unetcli.image.streaming import Progress, Work, map_tiles, reduce_tiles, silent, work_on
from unetcli.image.tiling import Shape, Tile, TileGrid
from unetcli.kernels.labels import face_pairs, label_components, merge
from unetcli.kernels.weight_map import Borders, class_balance, separation_border, weight_map

Block = NDArray[Any]
Spacing = tuple[float, float, float]


def run(
    data: Location,
    out: Location,
    config: WeightsConfig,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the weight map of each image of a data set, and the class to train each pixel on.

    Three passes: connected components, where labels are classes; counts of each class; the weights.

    Parameters
    ----------
    data
        A data set with labels.
    out
        The new store: weight maps (float32) and ``labels/target`` (uint8).
    config
        Settings.
    dry_run
        Check everything, return what would be done, write nothing.
    overwrite, workers, progress
        See `NewStore` and `map_tiles`.

    Returns
    -------
    dict
        Number of images, class weights and share of each class.
    """
    dataset = open_dataset(data)
    dataset.require_labels()
    given_balance(config, len(dataset.classes))
    ndim = config.ndim or dataset.ndim
    if dry_run:
        tiles = sum(len(_grid(image.labels(TRUTH).shape)) for image in dataset.images)
        return {"out": str(out), "images": len(dataset.images), "would_compute": f"{tiles} tiles, in {ndim}D"}
    store = NewStore(
        out,
        stage="weights",
        settings={**asdict(config), "ndim": ndim},
        inputs={"data": data},
        overwrite=overwrite,
    )
    if not store.complete:
        job = _Job(store, dataset, config, ndim, workers, progress)
        pairs = job.find_objects()
        counts = job.count_classes(pairs)
        balance = given_balance(config, len(counts))
        if balance is None:
            balance = class_balance(counts, config.balance)
        job.write_weights(pairs, balance)
        classes = dict(enumerate(dataset.classes))
        metadata = [
            ImageMetadata(group, truth.axes, image.name, labels=(ImageMetadata(TARGET, truth.axes, classes=classes),))
            for image, (group, (truth, _)) in zip(dataset.images, pairs.items(), strict=True)
        ]
        shares = (counts / counts.sum()).tolist()
        described = {"classes": dataset.classes, "balance": balance.tolist(), "shares": shares, "ndim": ndim}
        store.finish(metadata, {"weights": described})
    return _summary(out, already=store.complete)


Pairs = dict[str, tuple[Level, Level]]
"""Group of each image to its truth and its object ids."""


@dataclass(frozen=True)
class _Job:
    """One run of the stage: what all three passes need."""

    store: NewStore
    dataset: Dataset
    config: WeightsConfig
    ndim: int
    workers: int | None
    progress: Progress

    def find_objects(self) -> Pairs:
        groups = collection_groups(image.name for image in self.dataset.images)
        truths = [image.labels(TRUTH) for image in self.dataset.images]
        if self.dataset.label_kind == "instances":
            return {group: (truth, truth) for group, truth in zip(groups, truths, strict=True)}
        return {g: (truth, self._components(g or "image", truth)) for g, truth in zip(groups, truths, strict=True)}

    def _components(self, name: str, truth: Level) -> Level:
        """Give ids to the connected components of the classes of an image.

        They are labelled tile by tile, joined where they touch across faces, and numbered by their first
        pixel: the ids are those of the whole image, whatever the tiling.
        """
        grid = _grid(truth.shape)
        ledger = self.store.ledger
        parts = create_level(ledger.scratch(f"{name}.parts"), truth.axes, truth.shape, "uint32", is_label=True)
        ids = create_level(ledger.scratch(f"{name}.objects"), truth.axes, truth.shape, "uint32", is_label=True)

        def label(_: Tile, classes: Block) -> Block:
            (found,) = over_volumes(lambda volume: (label_components(volume)[0],), self.ndim, classes)
            return _distinct(found, self.ndim)

        map_tiles(label, work_on(f"{name}/parts", grid, [truth], [parts]), ledger, workers=self.workers)
        first = list(reduce_tiles(_first_pixels(truth.shape), work_on(name, grid, [parts]), workers=self.workers))
        offsets = np.cumsum([0, *(len(f) for f in first)])
        axes = (2, 3, 4) if self.ndim == 3 else (3, 4)
        lookup = merge(int(offsets[-1]), _touching(grid, parts, truth, offsets, axes), np.concatenate(first))

        def rename(tile: Tile, block: Block) -> Block:
            return lookup[np.where(block > 0, block + offsets[tile.index], 0)]

        map_tiles(rename, work_on(f"{name}/objects", grid, [parts], [ids]), ledger, workers=self.workers)
        return ids

    def target(self, truth: Block, objects: Block) -> tuple[Block, Block]:
        """Return class per pixel and object ids of a volume, both cut where objects of one class touch."""
        classes = truth if self.dataset.label_kind == "classes" else truth > 0
        if not self.config.border_width:
            return classes.astype(np.uint8), objects
        border = np.zeros(objects.shape, dtype=np.bool_)
        for c in np.unique(classes[classes > 0]):
            border |= separation_border(np.where(classes == c, objects, 0), width=self.config.border_width)
        return np.where(border, 0, classes).astype(np.uint8), np.where(border, 0, objects)

    def count_classes(self, pairs: Pairs) -> NDArray[np.int64]:
        """Count the pixels of each class in the target of the whole data set."""
        n_classes = len(self.dataset.classes)

        def count(tile: Tile, truth: Block, ids: Block) -> NDArray[np.int64]:
            target, _ = over_volumes(self.target, self.ndim, truth, ids)
            return np.bincount(tile.crop_core(target).ravel(), minlength=n_classes)

        works = [w for group, (truth, ids) in pairs.items() for w in self._works(group, truth, ids, reach=0)]
        tables = reduce_tiles(count, works, read=read_filled, workers=self.workers, progress=self.progress)
        return np.sum(list(tables), axis=0)  # type: ignore[no-any-return]

    def write_weights(self, pairs: Pairs, balance: NDArray[np.float64]) -> None:
        config = self.config
        borders = Borders(config.w0, config.sigma)
        for group, (truth, ids) in pairs.items():
            targets = [
                self.store.level(group, 0, truth.axes, truth.shape, "float32"),
                self.store.level(
                    f"{group}/labels/{TARGET}".strip("/"), 0, truth.axes, truth.shape, "uint8", is_label=True
                ),
            ]
            spacing = truth.axes.spacing if self.ndim == 3 else (1.0, 1.0, 1.0)

            def weigh(tile: Tile, truth: Block, ids: Block, spacing: Spacing = spacing) -> tuple[Block, ...]:
                target, cut = over_volumes(self.target, self.ndim, truth, ids)
                (weights,) = over_volumes(
                    lambda objects, classes: (weight_map(objects, classes, borders, balance=balance, spacing=spacing),),
                    self.ndim,
                    cut,
                    target,
                )
                return tile.crop_core(weights), tile.crop_core(target)

            works = self._works(group, truth, ids, reach=borders.reach, targets=targets)
            map_tiles(
                weigh,
                works,
                self.store.ledger,
                read=read_filled,
                workers=self.workers,
                progress=self.progress,
            )

    def _works(
        self, group: str, truth: Level, ids: Level, *, reach: float, targets: Sequence[Level] = ()
    ) -> Iterator[Work]:
        """Lay tiles whose halo holds the reach of the border term, and of the cut between objects."""
        spacing = truth.axes.spacing if self.ndim == 3 else (math.inf, 1.0, 1.0)
        halo = [math.ceil(reach / s) + self.config.border_width for s in spacing]
        if self.ndim == 2:
            halo[0] = 0
        grid = _grid(truth.shape, (0, 0, *halo))
        return work_on(group or "image", grid, [truth, ids], targets)


def _grid(shape: Shape, halo: Shape = (0, 0, 0, 0, 0)) -> TileGrid:
    """Lay tiles on the shards of what is written, whatever those of the labels are."""
    return TileGrid(shape, Layout.of(shape).shard, halo)


def over_volumes(kernel: Callable[..., Sequence[Block]], ndim: int, *blocks: Block) -> tuple[Block, ...]:
    """Run a kernel of (z, y, x) arrays over (t, 1, z, y, x) blocks: over each plane, or each volume."""
    t, _, z, y, x = blocks[0].shape
    volumes = (t * z, 1, y, x) if ndim == 2 else (t, z, y, x)
    results = zip(*(kernel(*parts) for parts in zip(*(b.reshape(volumes) for b in blocks), strict=True)), strict=True)
    return tuple(np.stack(r).reshape(t, 1, z, y, x) for r in results)


def _distinct(labels: Block, ndim: int) -> Block:
    """Renumber components so that those of different planes, or volumes, of a tile have different ids."""
    t, _, z, y, x = labels.shape
    volumes = labels.reshape(t * z if ndim == 2 else t, -1)
    before = np.cumsum([0, *volumes.max(axis=1)[:-1]], dtype=np.uint32)
    return np.where(volumes > 0, volumes + before[:, np.newaxis], 0).astype(np.uint32).reshape(t, 1, z, y, x)


def _first_pixels(shape: Shape) -> Callable[[Tile, Block], NDArray[np.int64]]:
    """Return a function that finds, for each part of a tile, the index of its first pixel in the image."""

    def find(tile: Tile, parts: Block) -> NDArray[np.int64]:
        ids, at = np.unique(parts, return_index=True)
        where = np.unravel_index(at[ids > 0], parts.shape)
        inside = tuple(w + a for w, a in zip(where, tile.core.start, strict=True))
        return np.ravel_multi_index(inside, shape).astype(np.int64)

    return find


def _touching(
    grid: TileGrid, parts: Level, truth: Level, offsets: NDArray[np.int64], axes: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return the pairs of parts, numbered through the image, that touch across the faces of tiles."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for axis, before, after in grid.faces():
        if axis in axes:
            sides = [
                _side(tile, axis, at, parts, truth, int(offsets[tile.index]))
                for tile, at in ((before, before.core.stop[axis] - 1), (after, after.core.start[axis]))
            ]
            found.append(face_pairs(*sides[0], *sides[1]))
    return np.concatenate(found)


def _side(tile: Tile, axis: int, at: int, parts: Level, truth: Level, offset: int) -> tuple[Block, Block]:
    """Return ids, numbered through the image, and classes on one side of a tile, as arrays of one row."""
    box = tile.core.replace(axis, at, at + 1)
    ids = parts.read(box).astype(np.int64).reshape(1, -1)
    return np.where(ids > 0, ids + offset, 0), truth.read(box).reshape(1, -1)


def given_balance(config: WeightsConfig, n_classes: int) -> NDArray[np.float64] | None:
    """Return the class weights that ``--balance`` names one by one; `None` for ``inverse`` and ``none``.

    Raises
    ------
    ConfigError
        If it is neither a rule nor one number for each class.
    """
    if config.balance in ("inverse", "none"):
        return None
    try:
        given = np.array([float(n) for n in config.balance.split(",")])
    except ValueError:
        given = np.empty(0)
    if len(given) != n_classes or not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        raise ConfigError(
            f"--balance {config.balance}: expected inverse, none, or {n_classes} numbers of at least 0, one a class",
            fix=f"--balance {','.join(['1'] * n_classes)}",
        )
    return given


def _summary(out: Location, *, already: bool) -> dict[str, Any]:
    store = open_store(out)
    made = store.attributes["weights"]
    named = zip(made["classes"], made["balance"], made["shares"], strict=True)
    return {
        "out": str(out),
        "already_done": already,
        "images": len(store.images),
        "distances": "in planes" if made["ndim"] == 2 else "in volumes",
        "classes": ", ".join(f"{name}: weight {w:.3g}, {share:.1%} of pixels" for name, w, share in named),
    }
