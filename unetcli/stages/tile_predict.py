"""Image and model to mask and probabilities: by shard, halo: the network's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError, DeviceError, GeometryError, InputError
from unetcli.image.axes import Channel, known_names
from unetcli.image.ledger import JointLedger
from unetcli.image.levels import LevelTile, Subject, size_note
from unetcli.image.location import Location
from unetcli.image.new_label import NewLabel, check_labels
from unetcli.image.new_output import check_output, new_output
from unetcli.image.new_store import Layout, NewStore, check_apart, collection_groups
from unetcli.image.ngff import ImageMetadata
from unetcli.image.pyramid import build_pyramids, level_shapes, nearest_2x2
from unetcli.image.source import read_mirrored
from unetcli.image.store import Level, Store, open_store
from unetcli.image.streaming import Progress, Work, available_cpus, silent, stream_tiles
from unetcli.image.tiling import Box, TileGrid
from unetcli.models.checkpoint import ModelHeader, load_model, model_file
from unetcli.models.device import choose_device
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.models.overlap_tile import VIEWS, aligned, context, predict_views

Block = NDArray[Any]
DEFAULT_STEP = {"cpu": 512, "cuda": 1024}
"""Core of a tile by device: wasted context falls with its size, memory grows."""
SEAM_SAMPLE = 1024
SEAM_TOLERANCE = 1e-4
"""Tiles of different sizes are rounded differently; seams are orders of magnitude larger."""
NOT_LOCAL = {"instance", "group"}
"""Normalizations that look at a whole tile: for these no tiling equals the whole image."""


def run(
    image: Location,
    out: Location | None,
    config: PredictConfig,
    *,
    model: Path,
    as_label: str | None = None,
    probabilities: Location | None = None,
    verify_seams: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Segment each image of a store; called again, go on where it stopped.

    Parameters
    ----------
    image
        An OME-Zarr store.
    out
        The new store, or of one image a TIFF file: class of each pixel (uint8). None with `as_label`.
    config
        Settings.
    model
        A model file, or the folder of a training run.
    as_label
        Attach the mask to each image in place of a new store: name of the label image.
    probabilities
        Also write the probability of each class to this store or TIFF file.
    verify_seams
        Compare tiles with one large tile on a sample first.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    dry_run
        Check everything, return what would be done, write nothing.
    overwrite, workers, progress
        See `NewStore` and `stream_tiles`.

    Returns
    -------
    dict
        Images, tiles, and with `verify_seams` the greatest difference.
    """
    if (out is None) == (as_label is None):
        raise ConfigError(
            f"{'neither' if out is None else 'both'} -o and --as-label given; expected one of them",
            fix="-o mask.zarr for a new store, or --as-label prediction for labels beside the image",
        )
    source = open_store(image)
    predictor = Predictor.load(model, config, device)
    predictor.check(source)
    subjects = [Subject.of(i, config.level, config.upsample) for i in source.images]
    notes = predictor.notes(source)
    groups = dict(zip(collection_groups(s.name for s in subjects), subjects, strict=True))
    _check_outputs(source, out, as_label, probabilities, config)
    if dry_run:
        return {**predictor.dry_run(subjects), **notes}
    settings = {
        **asdict(config),
        "step": predictor.step,
        "device": predictor.device.type,
        "outputs": ["mask", *(["probabilities"] if probabilities else [])],
    }
    inputs = {"image": image, "model": model_file(model)}
    begun: dict[str, Any] = {"settings": settings, "inputs": inputs, "overwrite": overwrite}
    masks, maps = _begin(source, groups, out or as_label or "", probabilities, begun, workers, progress)
    done = [mask.path for mask, _ in masks if mask.complete]
    if done and not all(store.complete for store in maps):
        raise ConfigError(f"{done[0]} is complete, but {probabilities} is not", fix="--overwrite makes both again")
    written = str(out) if out else f"{image}, labels {as_label}"
    summary: dict[str, Any] = {"out": written, "already_done": len(done) == len(masks), "images": len(source.images)}
    if verify_seams:
        summary["greatest_difference_at_seams"] = predictor.verify_seams(subjects[0].level)
    for mask, images in masks:
        if not mask.complete:
            open_stores = [store for store in (mask, *maps) if not store.complete]
            works, levels = _lay_out(images, predictor, open_stores)
            predictor.run_over(works, JointLedger([store.ledger for store in open_stores]), workers, progress)
            build_pyramids(mask, levels, nearest_2x2, workers=workers, progress=progress)
    for store, images in [*((store, groups) for store in maps), *masks]:  # the masks last: they stand for the run
        if not store.complete:
            _finish(store, images, predictor.header, of_classes=store not in maps)
    if not summary["already_done"]:
        summary["tiles"] = predictor.count_tiles(subjects)
    return {**summary, **notes}


def _check_outputs(
    source: Store, out: Location | None, as_label: str | None, probabilities: Location | None, config: PredictConfig
) -> None:
    """Refuse outputs that can not be, before anything is written."""
    if out is not None:
        check_output(out, images=len(source.images))
    if as_label is not None:
        check_labels(source.images, as_label)
        if config.level and config.upsample == "none":
            raise ConfigError(
                f"--as-label {as_label} --level {config.level} --upsample none: labels have the size of their image",
                fix="leave out --upsample none; or -o mask.zarr in place of --as-label",
            )
    if probabilities is not None:
        check_output(probabilities, images=len(source.images), dtype=config.probability_dtype)


def _begin(
    source: Store,
    groups: dict[str, Subject],
    out: Location | str,
    probabilities: Location | None,
    begun: dict[str, Any],
    workers: int | None,
    progress: Progress,
) -> tuple[list[tuple[NewStore, dict[str, Subject]]], list[NewStore]]:
    """Begin the outputs: masks with the images that each is of, and maps of probabilities, one or none.

    The masks are a new store, or, where `out` is the name of labels, one for each image.
    """

    def begin(path: Location, stage: str) -> NewStore:
        return new_output(path, stage=stage, workers=workers, progress=progress, **begun)

    if probabilities is not None:
        check_apart(probabilities, [*begun["inputs"].values(), *([] if isinstance(out, str) else [out])])
    masks: list[tuple[NewStore, dict[str, Subject]]]
    if not isinstance(out, str):
        masks = [(begin(out, "tile-predict"), groups)]
    else:
        labels = [NewLabel(source.path, i, out, stage="tile-predict", **begun) for i in source.images]
        masks = [(label, {group: groups[group]}) for label, group in zip(labels, groups, strict=True)]
    maps = [begin(probabilities, "tile-predict probabilities")] if probabilities is not None else []
    return masks, maps


@dataclass(frozen=True)
class Predictor:
    """A loaded network, ready to run over tiles."""

    network: nn.Module
    header: ModelHeader
    device: torch.device
    step: int
    config: PredictConfig

    @classmethod
    def load(cls, model: Path, config: PredictConfig, device_name: str) -> Predictor:
        """Load a model on a device and choose the tile."""
        network, header = load_model(model)
        axis, device = header.geometry.axes[-1], choose_device(device_name)
        step = aligned(axis, DEFAULT_STEP[device.type])
        if config.tile_size is not None:
            axis.check_size("--tile-size", config.tile_size, axis.read_size(axis.stride))
            step = axis.core_size(config.tile_size)
        if device.type == "cpu":
            torch.set_num_threads(available_cpus())
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa would show at the seams
        torch.backends.cudnn.deterministic = True
        network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, header, device, step, config)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the network."""
        return self.header.geometry

    @property
    def axis(self) -> AxisGeometry:
        """Geometry along y and x, which are alike."""
        return self.geometry.axes[-1]

    def check(self, source: Store) -> None:
        """Refuse images that the network can not take, and results in place of images."""
        stage = str(source.attributes.get("stage", ""))
        if stage == "weights" or stage.startswith("tile-predict"):
            raise InputError(f"{source.path}: was written by {stage}; expected images", fix="give the images")
        n_trained, trained = self.header.channels, known_names([Channel(name) for name in self.header.channel_names])
        names = [Channel(name) for name in source.attributes.get("data", {}).get("channels", ())]
        for image in source.images:
            n_found, found = image.level.shape[1], known_names(names or image.level.channels)
            if n_found != n_trained:
                chosen = ",".join(trained or map(str, range(n_trained)))
                raise InputError(
                    f"{image.path}: has {n_found} channels{_listed(found)}; the model was trained with "
                    f"{n_trained}{_listed(trained)}",
                    fix=f"unetcli prep IMAGE --channels {chosen} -o chosen.zarr, and segment that"
                    if n_found > n_trained
                    else None,
                )
            if trained and found and [n.lower() for n in found] != [n.lower() for n in trained]:
                raise InputError(
                    f"{image.path}: has the channels {', '.join(found)}; the model was trained on {', '.join(trained)}",
                    fix=f"unetcli prep IMAGE --channels {','.join(trained)} -o chosen.zarr, and segment that; if only "
                    f"the names differ, --channel-names {','.join(trained)}",
                )

    def dry_run(self, subjects: list[Subject]) -> dict[str, Any]:
        """Say what would be computed."""
        shapes = [subject.level.shape for subject in subjects]
        return {
            "images": len(shapes),
            "megapixels": sum(math.prod(s) // s[1] for s in shapes) / 1e6,
            "tiles": self.count_tiles(subjects),
            "tile": f"{self.axis.read_size(self.step)} pixels in, core {self.step}",
            "device": str(self.device),
        }

    def tiles(self, subject: Subject) -> Iterator[LevelTile]:
        """Yield the tiles of an image: one for each shard that is written."""
        t, _, *zyx = subject.shape
        classes = len(self.header.classes)
        shard = Layout.of((t, 1, *zyx)).shard
        for tile in TileGrid((t, classes, *zyx), (1, classes, *shard[2:])):
            inner = subject.inner(tile.core, self.axis.stride)
            read = self.read_box(inner, subject.level.shape[1])
            yield LevelTile(tile.index, tile.core, read, inner, subject.way)

    def count_tiles(self, subjects: list[Subject]) -> int:
        """Return the number of passes through the network, of one view."""
        inner = (tile.inner.shape for subject in subjects for tile in self.tiles(subject))
        return sum(t * z * math.ceil(y / self.step) * math.ceil(x / self.step) for t, _, z, y, x in inner)

    def notes(self, source: Store) -> dict[str, Any]:
        """Say where the promise of no seams can not hold, and where objects look larger or smaller than in training."""
        sizes = [size_note(image, self.config.level, self.header.pixel_size) for image in source.images]
        notes = [note for note in dict.fromkeys([self.seam_note(), *sizes]) if note]
        return {"notes": notes} if notes else {}

    def seam_note(self) -> str | None:
        """Say where the promise of no seams can not hold."""
        norm = self.header.parameters.get("norm")
        if norm not in NOT_LOCAL:
            return None
        return f"{norm} normalization looks at each tile as a whole: the result depends on the tile size"

    def run_over(self, works: list[Work], ledger: JointLedger, workers: int | None, progress: Progress) -> None:
        """Predict and write all tiles that are not done yet."""
        n_outputs = len(works[0].targets) if works else 1

        def predict(tile: LevelTile, block: Block) -> tuple[Block, ...]:
            result = tile.bring_back(self.predict(tile.inner, block))
            mask = result.argmax(axis=1, keepdims=True).astype(np.uint8)
            return (mask, self._quantize(result))[:n_outputs]

        stream_tiles(predict, works, ledger, read=read_mirrored, workers=workers, progress=progress)

    def predict(self, core: Box, block: Block, step: int | None = None) -> NDArray[np.float32]:
        """Return the probabilities (t, classes, z, y, x) of a core from the block that was read for it."""
        t, _, z, y, x = core.shape
        result = np.empty((t, len(self.header.classes), z, y, x), dtype=np.float32)
        try:
            for i in range(t):
                for j in range(z):
                    result[i, :, j] = self._predict_plane(block[i, :, j], (y, x), step or self.step)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"out of memory on {self.device} with tiles of {self.axis.read_size(self.step)} pixels",
                fix=f"--tile-size {self.axis.read_size(aligned(self.axis, self.step // 2))}",
            ) from error
        return result

    def _predict_plane(self, plane: Block, core: tuple[int, int], step: int) -> Block:
        mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.header.mean, self.header.std))
        image = torch.from_numpy((plane.astype(np.float32) - mean) / std).to(self.device)
        with torch.inference_mode():
            result = predict_views(self.network, self.geometry, image, core, (step, step), VIEWS[self.config.tta])
        return result.cpu().numpy()

    def _quantize(self, probabilities: Block) -> Block:
        if self.config.probability_dtype == "uint8":
            probabilities = np.rint(probabilities * 255)
        return probabilities.astype(self.config.probability_dtype)

    def read_box(self, core: Box, channels: int, step: int | None = None) -> Box:
        """Return what the network needs for a core."""
        read = core.replace(1, 0, channels)
        around = context(self.geometry, core.shape[3:], (step or self.step,) * 2)
        for axis, n in zip((3, 4), around, strict=True):
            first = core.start[axis]
            read = read.replace(axis, first - n, first + aligned(self.axis, core.shape[axis]) + n)
        return read

    def verify_seams(self, level: Level) -> float:
        """Return the greatest difference of probabilities between tiles and one large tile, on a sample.

        Raises
        ------
        GeometryError
            If it is more than rounding.
        """
        stride = self.axis.stride
        box = Box.whole(level.shape)
        for axis in range(5):
            n = level.shape[axis]
            size = min(n, SEAM_SAMPLE) if axis > 2 else 1
            first = (n - size) // 2 // stride * stride if axis > 2 else n // 2
            box = box.replace(axis, first, first + size) if axis != 1 else box
        whole = aligned(self.axis, SEAM_SAMPLE)
        step = min(self.step, aligned(self.axis, math.ceil(max(box.shape[3:]) / 2)))
        results = []
        for s in (step, whole):
            block = read_mirrored(level, self.read_box(box, level.shape[1], s))
            results.append(self.predict(box, block, s))
        difference = float(np.abs(results[0] - results[1]).max())
        if difference > SEAM_TOLERANCE and not self.seam_note():
            raise GeometryError(
                f"tiles differ from the whole by {difference:.2g} in probability; expected rounding only"
            )
        return difference


def _listed(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _lay_out(
    groups: dict[str, Subject], predictor: Predictor, stores: list[NewStore]
) -> tuple[list[Work], dict[str, Level]]:
    """Create the arrays of all outputs; return the tiles over them, and the masks."""
    works: list[Work] = []
    masks = {}
    classes = len(predictor.header.classes)
    for group, subject in groups.items():
        t, _, *zyx = subject.shape
        masks[group] = stores[0].level(group, 0, subject.axes.without_channels(), (t, 1, *zyx), "uint8", is_label=True)
        targets = [masks[group]]
        for store in stores[1:]:
            dtype = predictor.config.probability_dtype
            targets.append(store.level(group, 0, subject.axes.with_channels(), (t, classes, *zyx), dtype))
        for tile in predictor.tiles(subject):
            works.append(Work(f"{group or 'image'}/{tile.index}", tile, (subject.level,), tuple(targets)))
    return works, masks


def _finish(store: NewStore, groups: dict[str, Subject], header: ModelHeader, *, of_classes: bool) -> None:
    metadata = []
    for group, subject in groups.items():
        described = partial(ImageMetadata, group, name=subject.name, first=subject.first)
        if of_classes:
            axes, n_levels = subject.axes.without_channels(), len(level_shapes(subject.shape, store.n_levels))
            metadata.append(described(axes=axes, n_levels=n_levels, classes=dict(enumerate(header.classes))))
        else:
            axes, channels = subject.axes.with_channels(), tuple(map(Channel, header.classes))
            metadata.append(described(axes=axes, channels=channels, window=(0.0, 1.0)))
    kind = "mask" if of_classes else "probabilities"
    store.finish(metadata, {"prediction": {"kind": kind, "classes": header.classes}})
