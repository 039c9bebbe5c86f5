"""Images, truth and weight maps to a trained model: by random patch."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn, optim

from unetcli import __version__
from unetcli.atomic import write_atomically
from unetcli.batches import BatchMaker, Patches, Plane, ahead, choose_augmentation, classes_of, open_planes
from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, DeviceError, InputError, Unfinished, is_disk_full
from unetcli.image.dataset import Dataset, open_dataset
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import check_fingerprint
from unetcli.image.location import Location
from unetcli.image.new_store import check_apart
from unetcli.image.source import read_mirrored
from unetcli.image.streaming import Progress, available_cpus, silent
from unetcli.image.tiling import Box, TileGrid
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader, load_checkpoint, save_checkpoint, save_model
from unetcli.models.device import choose_device, choose_precision
from unetcli.models.geometry import Geometry, geometry_of
from unetcli.models.losses import weighted_cross_entropy
from unetcli.models.overlap_tile import predict_core, read_extent
from unetcli.report.curves import draw_curves
from unetcli.sampling import Example

Row = dict[str, float]

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter], TrainConfig], optim.Optimizer]] = {
    "sgd": lambda p, c: optim.SGD(p, c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay),
    "adamw": lambda p, c: optim.AdamW(p, c.learning_rate, weight_decay=c.weight_decay),
}
SCHEDULES: dict[str, Callable[[optim.Optimizer, TrainConfig], optim.lr_scheduler.LRScheduler]] = {
    "constant": lambda o, _: optim.lr_scheduler.ConstantLR(o, factor=1.0),
    "one-cycle": lambda o, c: optim.lr_scheduler.OneCycleLR(
        o, c.learning_rate, total_steps=max(c.steps, 2), pct_start=0.15
    ),
}
VALIDATION_TILE = 512
LOSSES_AHEAD = {"cpu": 1, "cuda": 8}
"""Steps that are begun before their losses are looked at: to look at one is to wait for the device."""


def run(
    data: Location,
    out: Path,
    config: TrainConfig,
    *,
    weights: Location | None = None,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a network on a data set; called again, go on where the last checkpoint stands.

    Parameters
    ----------
    data
        A data set with labels.
    out
        Folder of the run: ``model.safetensors``, ``last.ckpt``, ``metrics.csv``, ``timing.csv``, ``curves.png``,
        ``run.json``.
    config
        Settings, of a preset or changed from one.
    weights
        Weight maps of this data set.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    overwrite
        Start again from nothing.
    workers
        Threads that prepare patches.
    progress
        Called after each step.

    Returns
    -------
    dict
        Steps, parameters and the last scores.

    Raises
    ------
    Unfinished
        If `progress` asks to stop; the checkpoint holds everything.
    """
    dataset = open_dataset(data)
    dataset.require_labels()
    parameters = network_parameters(config, dataset)
    geometry = geometry_of(config.arch, parameters)
    geometry.check_shape("--patch-size", (config.patch_size,) * len(geometry.axes))
    config.grid_points(ndim=2)
    _check_norm(config, geometry)
    if dry_run:
        return _dry_run(config, parameters, geometry, dataset)
    plan = {
        "stage": "train",
        "settings": asdict(config),
        "inputs": {"data": fingerprint(data), "weights": fingerprint(weights) if weights else None},
    }
    check_apart(out, [data, *([weights] if weights else [])])
    training, validation = (open_planes(dataset, weights, validation=part) for part in (False, True))
    chosen = choose_device(device)
    if _is_complete(out, plan, overwrite=overwrite):
        return _summary(out, already=True)
    torch.manual_seed(config.seed)
    if chosen.type == "cpu":
        torch.set_num_threads(available_cpus())
    precision = choose_precision(config.precision, chosen)
    trainer = Trainer.build(config, parameters, geometry, dataset, chosen, precision)
    trainer.resume(out / "last.ckpt")
    workers = workers or available_cpus()
    try:
        if not trainer.augment_on:  # as a checkpoint says
            host = trainer.maker(training, "host")
            trainer.augment_on = choose_augmentation(host, workers, trainer.seconds_per_step)
        machine = {"device": str(chosen), "precision": precision, "augment_on": trainer.augment_on}
        _write_run_file(out, plan, trainer.network, machine)
        trainer.fit(training, validation, out, workers=workers, progress=progress)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"--device {device}: out of memory with {config.batch_size} patches of {config.patch_size} pixels",
            fix="a smaller --batch-size or --patch-size",
        ) from error
    header = _header(config, parameters, geometry, dataset, plan)
    draw_curves(trainer.rows, out / "curves.png")
    save_model(out / "model.safetensors", trainer.network.state_dict(), header)
    summary = _summary(out, already=False)
    if dataset.ndim == 3:
        summary["notes"] = ["objects lie in volumes, but this network works plane by plane"]
    return summary


def _check_norm(config: TrainConfig, geometry: Geometry) -> None:
    """Refuse a normalization over one value: batch and instance normalization have no gradient there."""
    bottom = (config.patch_size // geometry.axes[-1].stride) ** 2 * (config.batch_size if config.norm == "batch" else 1)
    if config.norm in ("batch", "instance") and bottom == 1:
        raise ConfigError(
            f"--norm {config.norm} with --patch-size {config.patch_size}: one value is left to normalize over at the "
            "bottom of the network; expected more",
            fix=f"--patch-size {2 * config.patch_size}, or --norm group",
        )


def network_parameters(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what `build_model` takes for a data set."""
    return {
        **config.network_settings(),
        "channels": len(dataset.statistics),
        "classes": max(2, len(dataset.classes)),
    }


def _dry_run(
    config: TrainConfig, parameters: Mapping[str, Any], geometry: Geometry, dataset: Dataset
) -> dict[str, Any]:
    """Say what would be trained."""
    network = build_model(config.arch, parameters)
    output = config.patch_size - 2 * geometry.axes[-1].margin
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "patch": f"{config.patch_size} pixels in, {output} out, {config.batch_size} in a step",
        "geometry": geometry.describe(),
        "training_planes": sum(1 for _ in dataset.planes(validation=False)),
        "validation_planes": sum(1 for _ in dataset.planes(validation=True)),
        "steps": config.steps,
    }


@dataclass
class Trainer:
    """A network in training: the loop, written out."""

    config: TrainConfig
    geometry: Geometry
    dataset: Dataset
    fabric: Fabric
    network: nn.Module
    optimizer: Any
    scheduler: optim.lr_scheduler.LRScheduler
    rows: list[Row]
    losses: list[float]
    timing: list[Row]
    step: int = 0
    waited: float = 0.0  # seconds for data, since the last validation
    worked: float = 0.0  # and for all else in the steps
    augment_on: str = ""  # empty until it is chosen
    unread: list[Tensor] = field(default_factory=list)  # losses that the device may not have computed yet

    @classmethod
    def build(
        cls,
        config: TrainConfig,
        parameters: Mapping[str, Any],
        geometry: Geometry,
        dataset: Dataset,
        device: torch.device,
        precision: str,
    ) -> Trainer:
        """Set up network, optimizer and schedule on a device."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the device was said already
        fabric = Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        )
        network = build_model(config.arch, parameters).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = OPTIMIZERS[config.optimizer](network.parameters(), config)
        scheduler = SCHEDULES[config.schedule](optimizer, config)
        network, optimizer = fabric.setup(network, optimizer)
        return cls(config, geometry, dataset, fabric, network, optimizer, scheduler, [], [], [])

    def fit(
        self,
        training: list[Plane],
        validation: list[Plane],
        out: Path,
        *,
        workers: int,
        progress: Progress,
    ) -> None:
        """Train up to the last step; validate, and save a checkpoint, every so many steps."""
        config = self.config
        self.network.train()
        maker = self.maker(training, self.augment_on)
        depth = max(workers, LOSSES_AHEAD[self.fabric.device.type]) + 1
        asked = time.perf_counter()
        for made in ahead(maker.make, range(self.step, config.steps), workers=workers, depth=depth):
            given = time.perf_counter()
            self._train_on(maker.place(made))
            validate = self.step % config.validate_every == 0 or self.step == config.steps
            if validate or len(self.unread) >= LOSSES_AHEAD[self.fabric.device.type]:
                self._read_losses()
            self.waited, self.worked = self.waited + given - asked, self.worked + time.perf_counter() - given
            if validate:
                self._note_times(out)
                self._validate(validation, out)
                self.save(out / "last.ckpt")
            try:
                progress(self.step, config.steps)
            except (Unfinished, KeyboardInterrupt):
                self._read_losses()
                self.save(out / "last.ckpt")
                raise
            asked = time.perf_counter()

    def maker(self, planes: list[Plane], augment_on: str) -> BatchMaker:
        """Return what makes the batches, augmented on the ``host`` or on the ``device``."""
        return BatchMaker(
            planes, self.config, self.dataset, self.geometry.axes[-1].margin, self.fabric.device, augment_on
        )

    def _train_on(self, batch: Patches) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = weighted_cross_entropy(self.network(batch.image).float(), batch.target, batch.weights)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self.unread.append(loss.detach())

    def _read_losses(self) -> None:
        """Wait for the device; refuse to go on, and to save anything, after a loss that is not finite."""
        values = torch.stack(self.unread).tolist() if self.unread else []
        self.unread = []
        for step, value in enumerate(values, self.step - len(values) + 1):
            if not math.isfinite(value):
                raise ConfigError(
                    f"the loss is {value} at step {step}; training can not go on",
                    fix=f"a smaller --learning-rate than {self.config.learning_rate:g}, with --overwrite",
                )
        self.losses += values

    def seconds_per_step(self, batch: Patches) -> float:
        """Measure passes forward and backward on a CUDA device; leave everything as it was."""
        n, start = 8, 0.0
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.train()
        with torch.random.fork_rng(devices=[self.fabric.device]):
            for k in range(2 * n):
                if k == n:  # what came before was to get ready
                    torch.cuda.synchronize(self.fabric.device)
                    start = time.perf_counter()
                self.fabric.backward(
                    weighted_cross_entropy(self.network(batch.image).float(), batch.target, batch.weights)
                )
            torch.cuda.synchronize(self.fabric.device)
        seconds = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        self.network.load_state_dict(before)
        return seconds / n

    def _validate(self, planes: list[Plane], out: Path) -> None:
        """Add a row to the metrics: overlap-tile prediction of the validation planes, summed over tiles."""
        row: Row = {
            "step": self.step,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "loss": float(np.mean(self.losses)),
        }
        self.losses = []
        if planes:
            self.network.eval()
            with torch.inference_mode():
                total = np.sum([t for plane in planes for t in self._score_plane(plane)], axis=0)
            self.network.train()
            loss, weight, wrong, both, either, pixels = total
            if pixels:  # else all are ignored
                row |= {
                    "validation_loss": float(loss / weight),
                    "validation_pixel_error": float(wrong / pixels),
                    "validation_iou": float(both / either) if either else 1.0,
                }
        self.rows.append(row)
        _write_rows(out / "metrics.csv", self.rows)

    def _note_times(self, out: Path) -> None:
        """Add a row to the times: they differ from run to run, so they are kept apart from the metrics."""
        seconds = self.waited + self.worked
        self.timing.append({"step": self.step, "seconds": seconds, "data_wait": self.waited / seconds})
        self.waited = self.worked = 0.0
        _write_rows(out / "timing.csv", self.timing)

    def _score_plane(self, plane: Plane) -> Iterator[NDArray[np.float64]]:
        """Yield weighted loss, weight, wrong, foreground in both, in either, and pixels, of each tile.

        Pixels of weight 0 count in none of them.
        """
        example, t, z = plane
        mean, std = self.dataset.normalization()
        for tile in TileGrid(example.image.shape, (1, example.image.shape[1], 1, VALIDATION_TILE, VALIDATION_TILE)):
            if (tile.core.start[0], tile.core.start[2]) != (t, z):
                continue
            probabilities = self._predict(example, tile.core, mean, std)
            target_box = replace(tile.core, start=_channel(tile.core.start, 0), stop=_channel(tile.core.stop, 1))
            labels = (example.target or example.truth).read(target_box)[0, 0, 0]
            target = classes_of(example, labels, self.dataset.label_kind).astype(np.int64)
            weights = example.weights.read(target_box)[0, 0, 0] if example.weights else np.ones(target.shape)
            likelihood = np.take_along_axis(probabilities, target[None], axis=0)[0]
            loss, counts = -(weights * np.log(likelihood.clip(1e-12))).sum(), weights > 0
            predicted, target = probabilities.argmax(axis=0)[counts], target[counts]
            yield np.array([
                loss, weights.sum(), (predicted != target).sum(),
                ((predicted > 0) & (target > 0)).sum(), ((predicted > 0) | (target > 0)).sum(), target.size,
            ])  # fmt: skip

    def _predict(self, example: Example, core: Box, mean: NDArray[Any], std: NDArray[Any]) -> NDArray[np.float32]:
        extent, step = core.shape[3:], (VALIDATION_TILE,) * 2
        block = core
        for axis, n in zip((3, 4), read_extent(self.geometry, extent, step), strict=True):
            first = core.start[axis] - self.geometry.axes[-1].halo
            block = block.replace(axis, first, first + n)
        pixels = read_mirrored(example.image, block)[0, :, 0]
        image = torch.from_numpy((pixels.astype(np.float32) - mean[:, None, None]) / std[:, None, None])
        result = predict_core(self.network, self.geometry, self.fabric.to_device(image), extent, step)
        return result.cpu().numpy()

    def save(self, path: Path) -> None:
        """Write everything that training needs to go on."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rows": self.rows,
            "losses": self.losses,
            "timing": self.timing,
            "waited": self.waited,
            "worked": self.worked,
            "augment_on": self.augment_on,
            "random_state": torch.get_rng_state(),
        }
        save_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        state = load_checkpoint(path)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.rows, self.losses = state["step"], state["rows"], state["losses"]
        self.timing, self.waited, self.worked = state["timing"], state["waited"], state["worked"]
        self.augment_on = state["augment_on"]
        torch.set_rng_state(state["random_state"])


def _channel(position: tuple[int, ...], c: int) -> tuple[int, ...]:
    return (position[0], c, *position[2:])


def _is_complete(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Tell whether a run is finished; refuse to go on with one that was begun otherwise."""
    run_file = out / "run.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a training run", fix="another -o")
    if overwrite and run_file.exists():
        shutil.rmtree(out)
    if out.is_dir() and any(out.iterdir()):
        if not run_file.exists():
            raise InputError(f"{out}: exists and is not a training run", fix="another -o, or remove it by hand")
        if any((out / name).exists() for name in ("last.ckpt", "model.safetensors")):  # else nothing is lost
            check_fingerprint(out, json.loads(run_file.read_text())["fingerprint"], plan)
    return (out / "model.safetensors").exists()


def _write_run_file(out: Path, plan: Mapping[str, Any], network: nn.Module, machine: Mapping[str, str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{out}: can not be written ({error.strerror})") from error
    content = {
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **machine,
        "parameters": sum(p.numel() for p in network.parameters()),
        "fingerprint": plan,
    }
    write_atomically(out / "run.json", json.dumps(content, indent=1))


def _write_rows(path: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.8g}" for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _read_rows(path: Path) -> list[Row]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _header(
    config: TrainConfig,
    parameters: Mapping[str, Any],
    geometry: Geometry,
    dataset: Dataset,
    plan: Mapping[str, Any],
) -> ModelHeader:
    mean, std = dataset.normalization()
    axes = dataset.images[0].axes
    sizes = {a: axes.scale_of(a) for a in "zyx" if a in axes.names}
    return ModelHeader(
        arch=config.arch,
        parameters=parameters,
        geometry=geometry,
        classes=dataset.classes,
        channels=len(mean),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        pixel_size={**sizes, "unit": axes.units[-1]},
        provenance={"version": __version__, **plan},
        channel_names=dataset.channels,
    )


def _summary(out: Path, *, already: bool) -> dict[str, Any]:
    run_file = json.loads((out / "run.json").read_text())
    scores, times = _read_rows(out / "metrics.csv")[-1], _read_rows(out / "timing.csv")
    data_wait = sum(t["seconds"] * t["data_wait"] for t in times) / sum(t["seconds"] for t in times)
    return {
        "out": str(out), "already_done": already, "parameters": run_file["parameters"], **scores,
        "waiting_for_data_percent": 100 * data_wait,
    }  # fmt: skip
