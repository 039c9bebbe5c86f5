"""Labels to weight map and training target: by shard, halo: reach of the border term."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import WeightsConfig
from unetcli.errors import ConfigError, InputError
from unetcli.explain import Explained, explain_weights
from unetcli.image.dataset import SAMPLING, TARGET, TRUTH, Dataset, open_dataset
from unetcli.image.density import BlockCounts, block_axes, count_blocks
from unetcli.image.location import Location
from unetcli.image.new_store import NewStore, collection_groups
from unetcli.image.ngff import ImageMetadata
from unetcli.image.store import Level, open_store
from unetcli.image.streaming import Progress, Work, map_tiles, reduce_tiles, silent, work_on
from unetcli.image.tiling import Tile, TileGrid
from unetcli.kernels.weight_map import BALANCES, Borders, class_balance, weight_map
from unetcli.labelling import grid_over, label_parts, over_volumes
from unetcli.objects import ImageLabels, TargetRule
from unetcli.report.figures import require_picture

Block = NDArray[Any]
MOST = 1e6
"""Largest weight of a class that can be given."""


def run(
    data: Location,
    out: Location,
    config: WeightsConfig,
    *,
    objects: Location | None = None,
    explain: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the weight map of each image of a data set, and the class to train each pixel on.

    Three passes: connected parts, where these are the objects; counts of each class; the weights.

    Parameters
    ----------
    data
        A data set with labels.
    out
        The new store: weight maps (float32) and ``labels/target`` (uint8).
    config
        Settings.
    objects
        A data set of the same images whose labels are object ids, for labels of `data` that are classes; by
        default the connected parts of each class are the objects.
    explain
        PNG that shows labels, distances and weights around a narrow border, with a worked pixel.
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
    rule = TargetRule(dataset.label_kind == "classes", ignored_value(config, dataset), config.border_width)
    labels = _image_labels(dataset, objects, relabel=config.relabel)
    ndim = config.ndim or dataset.ndim
    if explain is not None:
        require_picture("--explain", explain)
    if dry_run:
        tiles = sum(len(grid_over(image.truth.shape, ndim)) for image in labels)
        return {"out": str(out), "images": len(labels), "would_compute": f"{tiles} tiles, in {ndim}D"}
    store = NewStore(
        out,
        stage="weights",
        settings={**asdict(config), "ndim": ndim},
        inputs={"data": data, **({"objects": objects} if objects else {})},
        overwrite=overwrite,
    )
    if not store.complete:
        job = _Job(store, dataset, labels, rule, config, ndim, workers, progress)
        job.run()
    drawn = {} if explain is None else {"explained": _explain(out, labels, rule, config, ndim, explain)}
    return {**_summary(out, already=store.complete, ignoring=config.ignore is not None), **drawn}


def _image_labels(dataset: Dataset, objects: Location | None, *, relabel: bool) -> list[ImageLabels]:
    """Return the labels of each image, and what its objects are told from."""
    groups = collection_groups(image.name for image in dataset.images)
    truths = [image.labels(TRUTH) for image in dataset.images]
    values = truths if objects is None else _object_ids(dataset, truths, objects)
    connected = relabel or (objects is None and dataset.label_kind == "classes")
    names = [image.name for image in dataset.images]
    return [ImageLabels(*parts, connected) for parts in zip(names, groups, truths, values, strict=True)]


def _object_ids(dataset: Dataset, truths: Sequence[Level], path: Location) -> list[Level]:
    """Return the object ids of each image, of another data set.

    Raises
    ------
    InputError
        If one of the data sets has other labels than it should, or not the same images.
    """
    other = open_dataset(path)
    other.require_labels()
    for role, found, kind in (("", dataset, "classes"), ("--objects ", other, "instances")):
        if found.label_kind != kind:
            meant = "classes, and ids of their objects in --objects" if kind == "classes" else "ids of objects"
            raise InputError(
                f"{role}{found.store.path}: its labels are {found.label_kind}; expected {meant}",
                fix=f"prepare it with --label-kind {kind}",
            )
    ids = {image.name: image.labels(TRUTH) for image in other.images}
    if len(ids) == len(truths) == 1:
        ids = {dataset.images[0].name: other.images[0].labels(TRUTH)}
    for image, truth in zip(dataset.images, truths, strict=True):
        shape = ids[image.name].shape if image.name in ids else None
        if shape != truth.shape:
            size = "none" if shape is None else "x".join(map(str, shape))
            raise InputError(
                f"--objects {path}: object ids of {image.name} are {size}; expected "
                f"{'x'.join(map(str, truth.shape))}, as the classes in {dataset.store.path}",
                fix="prepare the same images twice, with classes and with instances as labels",
            )
    return [ids[image.name] for image in dataset.images]


@dataclass(frozen=True)
class _Job:
    """One run of the stage: what all passes need."""

    store: NewStore
    dataset: Dataset
    labels: Sequence[ImageLabels]
    rule: TargetRule
    config: WeightsConfig
    ndim: int
    workers: int | None
    progress: Progress

    def run(self) -> None:
        """Find the objects, count the classes, compute the weights, finish the store."""
        ids = [self._find_objects(image) for image in self.labels]
        counts = np.stack([self._count(*pair) for pair in zip(self.labels, ids, strict=True)])
        total = counts.sum(axis=0)
        if not total.sum():
            raise InputError(
                f"--ignore {self.config.ignore}: all pixels of {self.dataset.store.path} have this value; expected "
                "some to train on",
                fix="another --ignore, with --overwrite",
            )
        balance = given_balance(self.config, len(total))
        if balance is None:
            balance = class_balance(counts, str(self.config.balance))
        for image, objects in zip(self.labels, ids, strict=True):
            self._weigh(image, objects, balance)
        pixels = sum(math.prod(image.truth.shape) for image in self.labels)
        described = {
            "classes": self.dataset.classes,
            "balance": balance.tolist(),
            "shares": (total / total.sum()).tolist(),
            "ignored": 1 - float(total.sum()) / pixels,
            "ndim": self.ndim,
        }
        self.store.finish([self._metadata(image) for image in self.labels], {"weights": described})

    def _find_objects(self, image: ImageLabels) -> Level:
        """Return the object ids of an image, each object with one id in all tiles."""
        if not image.connected:
            return image.values
        return label_parts(image.key, image.values, self.store.ledger, self.ndim, self.workers)

    def _count(self, image: ImageLabels, ids: Level) -> NDArray[np.int64]:
        """Count the pixels of each class in the target of an image, and write its sampling map."""
        blocks = BlockCounts(image.truth.shape) if self.config.sampling else None
        n_classes = len(self.dataset.classes)

        def count(tile: Tile, truth: Block, ids: Block) -> tuple[Tile, NDArray[np.int64], NDArray[np.uint16] | None]:
            target, _ = over_volumes(self.rule, self.ndim, truth, ids)
            core: Block = tile.crop_core(target)
            ignored = self.rule.is_ignored(tile.crop_core(truth))
            counts = np.bincount(core.ravel(), minlength=n_classes)
            counts[0] -= np.count_nonzero(ignored)  # their target is 0
            return tile, counts, count_blocks(tile.core, core > 0, (core == 0) & ~ignored) if blocks else None

        total = np.zeros(n_classes, np.int64)
        works = self._works(image, ids, reach=0)
        for tile, counts, found in reduce_tiles(count, works, workers=self.workers, progress=self.progress):
            total += counts
            if blocks and found is not None:
                blocks.add(tile.core, found)
        if blocks and self.config.sampling:
            self._write_sampling(image, blocks.density(self.config.sampling))
        return total

    def _write_sampling(self, image: ImageLabels, density: NDArray[np.float32]) -> None:
        axes, _ = block_axes(image.truth.axes)
        level = self.store.level(f"{image.group}/{SAMPLING}".strip("/"), 0, axes, density.shape, density.dtype)
        for tile in TileGrid(density.shape, level.shard):
            level.write(tile.core, density[tile.core.slices])

    def _weigh(self, image: ImageLabels, ids: Level, balance: NDArray[np.float64]) -> None:
        """Write weights and target of an image."""
        axes, shape = image.truth.axes, image.truth.shape
        labels = f"{image.group}/labels/{TARGET}".strip("/")
        deep = self.ndim == 3
        targets = [
            self.store.level(image.group, 0, axes, shape, "float32", deep=deep),
            self.store.level(labels, 0, axes, shape, "uint8", is_label=True, deep=deep),
        ]
        borders, spacing = borders_of(self.config), image.spacing(self.ndim)

        def weigh_volume(objects: Block, target: Block) -> tuple[Block]:
            weights = weight_map(objects, target, borders, balance=balance, spacing=spacing)
            if image.values is not image.truth:  # pixels of a class but of no object are no background
                weights = np.where((target > 0) & (objects == 0), balance[target].astype(np.float32), weights)
            return (weights,)

        def weigh(tile: Tile, truth: Block, ids: Block) -> tuple[Block, ...]:
            target, objects = over_volumes(self.rule, self.ndim, truth, ids)
            (weights,) = over_volumes(weigh_volume, self.ndim, objects, target)
            weights = tile.crop_core(weights)
            if self.rule.ignored is not None:
                weights = np.where(self.rule.is_ignored(tile.crop_core(truth)), np.float32(0), weights)
            return weights, tile.crop_core(target)

        map_tiles(
            weigh,
            self._works(image, ids, reach=borders.reach, targets=targets),
            self.store.ledger,
            workers=self.workers,
            progress=self.progress,
        )

    def _works(self, image: ImageLabels, ids: Level, *, reach: float, targets: Sequence[Level] = ()) -> Iterator[Work]:
        """Lay tiles whose halo holds the reach of the border term, and of the cut between objects.

        It ends at the edge of the image, past which there is no object, however far the term reaches.
        """
        shape = image.truth.shape
        halo = self.rule.halo(reach, image.spacing(self.ndim), self.ndim)
        tiles = (replace(tile, read=tile.read.clip(shape)) for tile in grid_over(shape, self.ndim, (0, 0, *halo)))
        return work_on(image.key, tiles, [image.truth, ids], targets)

    def _metadata(self, image: ImageLabels) -> ImageMetadata:
        axes, classes = image.truth.axes, dict(enumerate(self.dataset.classes))
        blocks, first = block_axes(axes)
        sampling = ImageMetadata(f"{image.group}/{SAMPLING}".strip("/"), blocks, first=first)
        return ImageMetadata(
            image.group,
            axes,
            image.name,
            labels=(ImageMetadata(TARGET, axes, classes=classes),),
            nested=(sampling,) if self.config.sampling else (),
        )


def borders_of(config: WeightsConfig) -> Borders:
    """Return what pixels gain by their distances to objects."""
    if config.background is None or config.sigma1 is None:
        return Borders(config.w0, config.sigma, inside=config.inside)
    return Borders(config.w0, config.sigma, 1 - config.background, config.sigma1, inside=config.inside)


def given_balance(config: WeightsConfig, n_classes: int) -> NDArray[np.float64] | None:
    """Return the class weights that ``--balance`` or the recipe name one by one; `None` if a rule gives them.

    Raises
    ------
    ConfigError
        If it is neither a rule nor one number for each class.
    """
    if config.background is not None:
        return np.array([config.background] + [1.0] * (n_classes - 1))
    text = str(config.balance)
    if text in BALANCES:
        return None
    try:
        given = np.array([float(n) for n in text.split(",")])
    except ValueError:
        given = np.empty(0)
    if len(given) != n_classes or not (((given >= 0) & (given <= MOST)).all() and given.any()):
        raise ConfigError(
            f"--balance {text}: expected {', '.join(BALANCES)}, or {n_classes} numbers of 0 to {MOST:.0e}, one a class",
            fix=f"--balance {','.join(['1'] * n_classes)}",
        )
    return given


def ignored_value(config: WeightsConfig, dataset: Dataset) -> int | None:
    """Return the value of the truth that ``--ignore`` names.

    Raises
    ------
    ConfigError
        If it is no class, or can be no object id.
    """
    if config.ignore is None:
        return None
    names = dataset.classes if dataset.label_kind == "classes" else ()
    if config.ignore in names:
        return names.index(config.ignore)
    value = int(config.ignore) if config.ignore.isdecimal() else -1
    if names and 0 <= value < len(names):
        return value
    if not names and value > 0:
        return value
    listed = ", ".join(f"{k} {name}" for k, name in enumerate(names))
    expected = f"the number or name of a class: {listed}" if names else "an object id, a whole number above 0"
    raise ConfigError(f"--ignore {config.ignore}: expected {expected}")


def _explain(
    out: Location, labels: Sequence[ImageLabels], rule: TargetRule, config: WeightsConfig, ndim: int, path: Path
) -> str:
    """Draw the formula at a pixel of a narrow border."""
    store = open_store(out)
    pairs = zip(labels, store.images, strict=True)
    explained = [Explained(image, stored.level, stored.labels(TARGET)) for image, stored in pairs]
    background = float(store.attributes["weights"]["balance"][0])
    explain_weights(explained, rule, borders_of(config), background, ndim, path)
    return str(path)


def _summary(out: Location, *, already: bool, ignoring: bool) -> dict[str, Any]:
    store = open_store(out)
    made = store.attributes["weights"]
    named = zip(made["classes"], made["balance"], made["shares"], strict=True)
    return {
        "out": str(out),
        "already_done": already,
        "images": len(store.images),
        "distances": "in planes" if made["ndim"] == 2 else "in volumes",
        "classes": ", ".join(f"{name}: weight {w:.3g}, {share:.1%} of pixels" for name, w, share in named),
        **({"ignored": f"{made['ignored']:.1%} of pixels"} if ignoring else {}),
    }
