"""A network over tiles of images: what is read for a tile, and what comes of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError, DeviceError, GeometryError, InputError
from unetcli.image.axes import Channel, known_names
from unetcli.image.ledger import JointLedger, Ledger
from unetcli.image.levels import LevelTile, Subject, size_note
from unetcli.image.new_store import Layout
from unetcli.image.source import read_mirrored
from unetcli.image.store import Level, Store
from unetcli.image.streaming import Progress, Work, available_cpus, silent, stream_tiles
from unetcli.image.tiling import Box, TileGrid
from unetcli.models.checkpoint import ModelHeader, load_model
from unetcli.models.device import choose_device
from unetcli.models.geometry import Geometry
from unetcli.models.onnx import OnnxNetwork, has_cuda
from unetcli.models.overlap_tile import VIEWS, aligned, context, predict_views
from unetcli.prediction.outputs import Output

logger = logging.getLogger(__name__)
Block = NDArray[Any]
DEFAULT_STEP = {2: {"cpu": 512, "cuda": 1024}, 3: {"cpu": 64, "cuda": 96}}
"""Core of a tile by axes of the network and device: wasted context falls with its size, memory grows."""
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
SEAM_SAMPLE = {2: 1024, 3: 96}
SEAM_TOLERANCE = 1e-4
"""Tiles of different sizes are rounded differently; seams are orders of magnitude larger."""
NOT_LOCAL = {"instance", "group"}
"""Normalizations that look at a whole tile: for these no tiling equals the whole image."""


@dataclass(frozen=True)
class Predictor:
    """A loaded network, ready to run over tiles."""

    network: nn.Module
    header: ModelHeader
    device: torch.device
    step: tuple[int, ...]
    config: PredictConfig

    @classmethod
    def load(cls, model: Path, config: PredictConfig, device_name: str) -> Predictor:
        """Load a model on a device and choose the tile."""
        network, header = load_model(model)
        if device_name == "auto" and isinstance(network, OnnxNetwork) and not has_cuda():
            device_name = "cpu"
            logger.info("device: cpu (the onnxruntime that is installed has no other)")
        axes, device = header.geometry.axes, choose_device(device_name)
        step = tuple(aligned(axis, DEFAULT_STEP[header.ndim][device.type]) for axis in axes)
        if config.tile_size is not None:
            sizes = config.tile_shape(header.ndim)
            header.geometry.check_shape("--tile-size", sizes, [axis.read_size(axis.stride) for axis in axes])
            step = tuple(axis.core_size(size) for axis, size in zip(axes, sizes, strict=True))
        if device.type == "cpu":
            torch.set_num_threads(available_cpus())
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa would show at the seams
        torch.backends.cudnn.deterministic = True
        network = network.to(device=device, memory_format=LAYOUT[header.ndim])  # type: ignore[call-overload]
        return cls(network, header, device, step, config)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the network."""
        return self.header.geometry

    @property
    def first(self) -> int:
        """The first of the axes t, c, z, y, x that the network works along."""
        return 5 - self.header.ndim

    def settled(self, ledgers: Sequence[Ledger]) -> Predictor:
        """Compute as the first process did that works on some stores: each core of a tile has its own rounding.

        Raises
        ------
        ConfigError
            If that was on another kind of device.
        """
        found: dict[str, Any] = {"step": list(self.step), "device": self.device.type}
        for ledger in ledgers:
            found = ledger.settle("computed", found)
        if found["device"] != self.device.type:
            raise ConfigError(
                f"the store was begun on {found['device']}; this is {self.device.type}, which rounds differently",
                fix=f"--device {found['device']}, or --overwrite to make it again",
            )
        return replace(self, step=tuple(found["step"]))

    def read_sizes(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return the extent of a tile as the network reads it, by that of its core."""
        return tuple(axis.read_size(n) for axis, n in zip(self.geometry.axes, step, strict=True))

    def check(self, source: Store) -> None:
        """Refuse images that the network can not take, and results in place of images."""
        stage = str(source.attributes.get("stage", ""))
        if stage == "weights" or stage.startswith("tile-predict"):
            raise InputError(f"{source.path}: was written by {stage}; expected images", fix="give the images")
        n_trained, trained = self.header.channels, known_names([Channel(name) for name in self.header.channel_names])
        names = [Channel(name) for name in source.attributes.get("data", {}).get("channels", ())]
        for image in source.images:
            if self.header.ndim == 3 and image.level.shape[2] == 1:
                raise InputError(
                    f"{image.path}: has one plane; the model takes volumes",
                    fix="a model of planes (unetcli train --ndim 2); or, where the axis t of the image is z, "
                    "unetcli prep IMAGE --axes zyx",
                )
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
            "tile": f"{_text(self.read_sizes(self.step))} pixels in, core {_text(self.step)}",
            "device": str(self.device),
        }

    def tiles(self, subject: Subject) -> Iterator[LevelTile]:
        """Yield the tiles of an image: one for each shard that is written."""
        t, _, *zyx = subject.shape
        classes = len(self.header.classes)
        shard = Layout.of((t, 1, *zyx), deep=self.header.ndim == 3).shard
        strides = [axis.stride for axis in self.geometry.axes]
        for tile in TileGrid((t, classes, *zyx), (1, classes, *shard[2:])):
            inner = subject.inner(tile.core, strides)
            read = self.read_box(inner, subject.level.shape[1])
            yield LevelTile(tile.index, tile.core, read, inner, subject.way)

    def count_tiles(self, subjects: list[Subject]) -> int:
        """Return the number of passes through the network, of one view."""
        total = 0
        for shape in (tile.inner.shape for subject in subjects for tile in self.tiles(subject)):
            apart = math.prod(shape[: self.first]) // shape[1]
            along = zip(shape[self.first :], self.step, strict=True)
            total += apart * math.prod(math.ceil(n / step) for n, step in along)
        return total

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

    def run_over(
        self,
        works: Sequence[Work],
        outputs: Sequence[Output],
        ledger: JointLedger,
        *,
        workers: int | None = None,
        progress: Progress = silent,
    ) -> None:
        """Predict all tiles that are not on record yet; write each output to the target at its place."""

        def predict(tile: LevelTile, block: Block) -> tuple[Block, ...]:
            result = tile.bring_back(self.predict(tile.inner, block))
            return tuple(output.of_time_points(result) for output in outputs)

        stream_tiles(predict, works, ledger, read=read_mirrored, workers=workers, progress=progress)

    def predict(self, core: Box, block: Block, step: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return the probabilities (t, classes, z, y, x) of a core from the block that was read for it."""
        t, _, *zyx = core.shape
        result = np.empty((t, len(self.header.classes), *zyx), dtype=np.float32)
        try:
            for i, *planes in np.ndindex(t, *core.shape[2 : self.first]):  # planes one by one, volumes as they are
                part = (i, slice(None), *planes)
                result[part] = self._predict_one(block[part], core.shape[self.first :], step or self.step)
        except torch.OutOfMemoryError as error:
            smaller = [aligned(axis, n // 2) for axis, n in zip(self.geometry.axes, self.step, strict=True)]
            raise DeviceError(
                f"out of memory on {self.device} with tiles of {_text(self.read_sizes(self.step))} pixels",
                fix=f"--tile-size {_text(self.read_sizes(smaller), ',')}",
            ) from error
        return result

    def _predict_one(self, image: Block, core: Sequence[int], step: Sequence[int]) -> Block:
        shape = (-1, *(1,) * self.header.ndim)
        mean, std = (np.array(v, dtype=np.float32).reshape(shape) for v in (self.header.mean, self.header.std))
        normal = torch.from_numpy((image.astype(np.float32) - mean) / std).to(self.device)
        with torch.inference_mode():
            result = predict_views(self.network, self.geometry, normal, core, step, VIEWS[self.config.tta])
        return result.cpu().numpy()

    def read_box(self, core: Box, channels: int, step: Sequence[int] | None = None) -> Box:
        """Return what the network needs for a core."""
        read = core.replace(1, 0, channels)
        around = context(self.geometry, core.shape[self.first :], step or self.step)
        for i, axis, n in zip(range(self.first, 5), self.geometry.axes, around, strict=True):
            first = core.start[i]
            read = read.replace(i, first - n, first + aligned(axis, core.shape[i]) + n)
        return read

    def verify_seams(self, level: Level) -> float:
        """Return the greatest difference of probabilities between tiles and one large tile, on a sample.

        Raises
        ------
        GeometryError
            If it is more than rounding.
        """
        sample = SEAM_SAMPLE[self.header.ndim]
        box = Box.whole(level.shape)
        for i in (0, 2, 3, 4):
            n = level.shape[i]
            stride, size = (self.geometry.axes[i - self.first].stride, sample) if i >= self.first else (1, 1)
            size = min(n, size)
            first = (n - size) // 2 // stride * stride
            box = box.replace(i, first, first + size)
        axes = self.geometry.axes
        whole = [aligned(axis, sample) for axis in axes]
        half = [aligned(axis, math.ceil(n / 2)) for axis, n in zip(axes, box.shape[self.first :], strict=True)]
        results = []
        for step in ([min(a, b) for a, b in zip(self.step, half, strict=True)], whole):
            block = read_mirrored(level, self.read_box(box, level.shape[1], step))
            results.append(self.predict(box, block, step))
        difference = float(np.abs(results[0] - results[1]).max())
        if difference > SEAM_TOLERANCE and not self.seam_note():
            raise GeometryError(
                f"tiles differ from the whole by {difference:.2g} in probability; expected rounding only"
            )
        return difference


def _text(sizes: Sequence[int], between: str = "x") -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else between.join(map(str, sizes))


def _listed(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""
