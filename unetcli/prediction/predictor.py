"""A network over tiles of images: what is read for a tile, and what comes of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError, GeometryError, InputError, Unfinished
from unetcli.image.axes import Channel, known_names
from unetcli.image.ledger import JointLedger, Ledger
from unetcli.image.levels import Elsewhere, LevelTile, Subject, size_note
from unetcli.image.new_store import Layout
from unetcli.image.source import Source, read_mirrored
from unetcli.image.store import Level, Store
from unetcli.image.streaming import Progress, Work, available_cpus, silent, stream_tiles
from unetcli.image.tiling import Box, Tile, TileGrid
from unetcli.models.checkpoint import ModelHeader, load_model
from unetcli.models.device import choose_devices, has_fast_bfloat16
from unetcli.models.geometry import Geometry
from unetcli.models.onnx import OnnxNetwork, has_cuda
from unetcli.models.overlap_tile import aligned
from unetcli.models.views import VIEWS, Spans
from unetcli.prediction.engine import NOT_LOCAL, Engine
from unetcli.prediction.networks import RUNTIMES, choose_engine, network_for
from unetcli.prediction.outputs import Output
from unetcli.prediction.tile_choice import as_step, choose_step

logger = logging.getLogger(__name__)
Block = NDArray[Any]
SEAM_SAMPLE = {2: 1024, 3: 96}
SEAM_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""Tiles of different sizes are rounded differently; seams are far larger."""
COMPUTED = "computed"
"""What the processes that write a store call the choices that they agreed on."""
LOOK_AHEAD = 4
"""Shards whose results are on their way from a CUDA device, or being written."""
NOTHING = Box.whole((0,) * 5)


@dataclass(frozen=True)
class Predictor:
    """A loaded network, ready to run over tiles.

    Parameters
    ----------
    engines
        The network on each device.
    header
        Of the model.
    config
        Settings.
    engine_name
        What runs the network.
    is_settled
        Whether the tile is as the settings or an earlier run want it.
    """

    engines: tuple[Engine, ...]
    header: ModelHeader
    config: PredictConfig
    engine_name: str
    is_settled: bool

    @classmethod
    def load(
        cls, model: Path, config: PredictConfig, device_names: str, begun: Mapping[str, Any] = MappingProxyType({})
    ) -> Predictor:
        """Load a model on devices.

        Parameters
        ----------
        model, config
            The model and its settings.
        device_names
            As `choose_devices` takes them, or ``auto``.
        begun
            The `choices` that the output was begun with: what is left to us is as it was then.
        """
        network, header = load_model(model)
        if device_names == "auto" and isinstance(network, OnnxNetwork) and not has_cuda():
            device_names = "cpu"
            logger.info("device: cpu (the onnxruntime that is installed has no other)")
        devices = choose_devices(device_names)
        if devices[0].type == "cpu":
            torch.set_num_threads(available_cpus())
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa would show at the seams
        torch.backends.cudnn.deterministic = True
        name = choose_engine(_as_begun(config.engine, begun.get("engine")), network, devices)
        precision = _precision(_as_begun(config.precision, begun.get("precision")), name, devices)
        step, is_settled = _first_step(config, header, as_step(begun.get("step"), header.geometry))
        networks = [network, *(load_model(model)[0] for _ in devices[1:])]
        settings: dict[str, Any] = {
            "precision": precision,
            "views": VIEWS[config.tta],
            "variance": config.uncertainty_kind == "variance",
        }
        engines = tuple(
            Engine(*network_for(name, part, header), device, step, **settings)
            for part, device in zip(networks, devices, strict=True)
        )
        return cls(engines, header, config, name, is_settled)

    @classmethod
    def idle(cls, model: Path, config: PredictConfig) -> Predictor:
        """Load a model to cut images into shards only: what computes is chosen where it is computed."""
        return cls.load(model, replace(config, engine="auto", precision="auto"), "cpu")

    @property
    def device(self) -> torch.device:
        """The device, of several the first."""
        return self.engines[0].device

    @property
    def step(self) -> tuple[int, ...]:
        """Extent of the core of one tile, along each axis of the network."""
        return self.engines[0].step

    @property
    def choices(self) -> dict[str, Any]:
        """What may be chosen here, and the bytes follow from."""
        return {
            "step": list(self.step),
            "precision": self.engines[0].precision,
            "engine": self.engine_name,
            "device": self.device.type,
        }

    def settle(self, ledgers: Iterable[Ledger]) -> None:
        """Compute as the first process did that worked on some stores: each tile size has its own rounding.

        Raises
        ------
        ConfigError
            If that needs another predictor.
        Unfinished
            If it needs one that the same command makes when it is called again.
        """
        found = self.choices
        for ledger in ledgers:
            found = ledger.settle(COMPUTED, found)
        for name in ("device", "precision", "engine"):
            if found[name] != self.choices[name]:
                if getattr(self.config, name, None) == "auto":
                    raise Unfinished(
                        f"another process has just begun the output with --{name} {found[name]}; this one was about to "
                        f"take {self.choices[name]}",
                        fix="run the same command again: it follows",
                    )
                raise ConfigError(
                    f"the output was begun with --{name} {found[name]}; this is {self.choices[name]}, which rounds "
                    "differently",
                    fix=f"--{name} {found[name]}, or --overwrite to make it again",
                )
        for engine in self.engines:
            engine.use(found["step"])

    def choose_tile(self, subjects: Iterable[Subject]) -> None:
        """Choose the tile for images, if neither the settings nor an earlier run did."""
        if self.is_settled:
            return
        shards = [self.tile(replace(subject, region=None), self.grid(subject)[0]) for subject in subjects]
        core = tuple(map(max, zip(*(shard.inner.shape[self.first :] for shard in shards), strict=True)))
        pixels = max(math.prod(shard.read.shape) // shard.read.shape[1] for shard in shards)
        held = 8 * self.header.channels + 12 * len(self.header.classes)  # as float32: gray values, mean over views
        step = choose_step(self.engines[0], core, held * pixels)
        for engine in self.engines[1:]:
            engine.use(step)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the network."""
        return self.header.geometry

    @property
    def first(self) -> int:
        """The first of the axes t, c, z, y, x that the network works along."""
        return 5 - self.header.ndim

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

    def grid(self, subject: Subject) -> TileGrid:
        """Return the cores that an image is written by: one for each shard."""
        t, _, *zyx = subject.shape
        shard = Layout.of((t, 1, *zyx), deep=self.header.ndim == 3).shard
        return TileGrid((t, len(self.header.classes), *zyx), (1, len(self.header.classes), *shard[2:]))

    def tile(self, subject: Subject, tile: Tile) -> LevelTile:
        """Return what one of them needs of the image, with the step as it is now."""
        part = subject.region.part(tile.core) if subject.region else tile.core
        others = tuple((other.level, self._at_level(tile, part, other)) for other in subject.others if part)
        return replace(self._at_level(tile, part, subject), others=others)

    def _at_level(self, tile: Tile, part: Box | None, subject: Subject) -> LevelTile:
        """Return what a tile of the output needs of a level."""
        inner = subject.inner(part, [axis.stride for axis in self.geometry.axes]) if part else NOTHING
        read = self.read_box(inner, subject.level.shape[1]) if part else NOTHING
        return LevelTile(tile.index, tile.core, read, inner, subject.way, part, subject.region)

    def count_tiles(self, subjects: Iterable[Subject]) -> int:
        """Return the number of passes through the network, of one view."""
        total = 0
        tiles = (self.tile(subject, tile) for subject in subjects for tile in self.grid(subject))
        for tile in (tile for tile in tiles if tile.part):
            for shape in (at_level.inner.shape for at_level in _at_all_levels(tile)):
                apart = math.prod(shape[: self.first]) // shape[1]
                along = zip(shape[self.first :], self.step, strict=True)
                total += apart * math.prod(math.ceil(n / step) for n, step in along)
        return total

    def notes(self, source: Store) -> dict[str, Any]:
        """Say where the promise of no seams can not hold, and where objects look larger or smaller than in training."""
        sizes = [size_note(image, self.config.levels[0], self.header.pixel_size) for image in source.images]
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
        free: SimpleQueue[Engine] = SimpleQueue()
        for engine in self.engines:
            free.put(engine)

        def predict(tile: LevelTile, *blocks: Block) -> Callable[[], tuple[Block, ...]]:
            engine = free.get()
            try:
                return self._begin(engine, tile, blocks, outputs)
            finally:
                free.put(engine)

        n, works = len(self.engines), [_with_all_levels(work) for work in works]
        writers = LOOK_AHEAD * n if self.device.type == "cuda" else n
        stream_tiles(predict, works, ledger, read=_read, workers=workers, devices=n, writers=writers, progress=progress)

    def _begin(
        self, engine: Engine, tile: LevelTile, blocks: Sequence[Block], outputs: Sequence[Output]
    ) -> Callable[[], tuple[Block, ...]]:
        """Begin to predict a tile; what this returns waits for what is written of it."""
        if not tile.part:
            return lambda: tuple(output.nothing(tile.core) for output in outputs)
        n, core = len(self.header.classes), self._spans(tile.inner)
        if tile.is_full_size and not tile.others:
            t, _, *zyx = tile.part.relative_to(tile.inner.start).slices

            def encode(pixels: Tensor) -> list[Tensor]:
                found = engine.probabilities(pixels, core)[(t, slice(None), *zyx)]
                return [output.encoded(found, n) for output in outputs]

            wait = engine.submit(blocks[0], encode)
            return lambda: tuple(tile.in_core(written) for written in wait())

        def begin(at_level: LevelTile, block: Block) -> Callable[[], Block]:
            spans = self._spans(at_level.inner)
            wait = engine.submit(block, lambda pixels: [engine.probabilities(pixels, spans)])
            return lambda: at_level.bring_back(wait()[0])

        waiting = [begin(at_level, block) for at_level, block in zip(_at_all_levels(tile), blocks, strict=True)]

        def bring_back() -> tuple[Block, ...]:
            total = waiting[0]()
            for wait in waiting[1:]:
                total = total + wait()
            found = torch.from_numpy(total / np.float32(len(waiting)))
            return tuple(tile.in_core(output.encoded(found, n).numpy()) for output in outputs)

        return bring_back

    def predict(self, core: Box, block: Block, step: Sequence[int]) -> NDArray[np.float32]:
        """Return the probabilities (t, classes, z, y, x) of a core from the block that was read for it.

        Where the settings ask for the variance over the views, that is one channel more.
        """
        engine, spans = self.engines[0], self._spans(core)
        (found,) = engine.submit(block, lambda pixels: [engine.probabilities(pixels, spans, step)])()
        return found

    def read_box(self, core: Box, channels: int, step: Sequence[int] | None = None) -> Box:
        """Return what the network needs for a core."""
        read = core.replace(1, 0, channels)
        spans = VIEWS[self.config.tta].read(self.geometry, self._spans(core), step or self.step)
        for i, span in enumerate(spans, start=self.first):
            read = read.replace(i, *span)
        return read

    def _spans(self, core: Box) -> Spans:
        """Return the extent of a core along the axes of the network."""
        return list(zip(core.start[self.first :], core.stop[self.first :], strict=True))

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
        if difference > SEAM_TOLERANCE[self.engines[0].precision] and not self.seam_note():
            raise GeometryError(
                f"tiles differ from the whole by {difference:.2g} in probability; expected rounding only"
            )
        return difference


def _read(source: Source, box: Box) -> Block:
    if isinstance(source, Elsewhere):
        return source.read(box)
    return np.empty(box.shape) if box == NOTHING else read_mirrored(source, box)


def _at_all_levels(tile: LevelTile) -> list[LevelTile]:
    return [tile, *(other for _, other in tile.others)]


def _with_all_levels(work: Work) -> Work:
    """Let a work read the further levels, too."""
    others = work.tile.others if isinstance(work.tile, LevelTile) else ()
    return replace(work, sources=(*work.sources, *(Elsewhere(level, other.read) for level, other in others)))


def _as_begun(name: str, begun: str | None) -> str:
    return begun if name == "auto" and begun else name


def _precision(name: str, engine: str, devices: tuple[torch.device, ...]) -> str:
    """Return the precision; ``auto`` is bfloat16 where all devices are CUDA devices that are made for it."""
    if engine in RUNTIMES:
        if name == "bfloat16":
            raise ConfigError(f"--precision bfloat16: {engine} computes in float32", fix="leave it out")
        return "float32"
    if name == "auto":
        is_fast = all(device.type == "cuda" and has_fast_bfloat16(device) for device in devices)
        name = "bfloat16" if is_fast else "float32"
        logger.info("precision: %s", name)
    return name


def _first_step(
    config: PredictConfig, header: ModelHeader, begun: tuple[int, ...] | None
) -> tuple[tuple[int, ...], bool]:
    """Return the step of the settings, or that an earlier run went with, and whether it stays."""
    axes = header.geometry.axes
    if config.tile_size is None:
        return begun or tuple(axis.stride for axis in axes), begun is not None
    sizes = config.tile_shape(header.ndim)
    header.geometry.check_shape("--tile-size", sizes, [axis.read_size(axis.stride) for axis in axes])
    return tuple(axis.core_size(size) for axis, size in zip(axes, sizes, strict=True)), True


def _listed(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""
