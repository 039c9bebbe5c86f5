"""Images, truth and weight maps to a trained model: by random patch."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from unetcli import __version__
from unetcli.atomic import write_atomically
from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, DeviceError, InputError, is_disk_full
from unetcli.image.dataset import Dataset, open_dataset
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import check_fingerprint
from unetcli.image.location import Location
from unetcli.image.new_store import check_apart
from unetcli.image.streaming import Progress, silent
from unetcli.launch import read_launch
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader, save_model
from unetcli.models.device import choose_device, choose_precision
from unetcli.models.geometry import Geometry, geometry_of
from unetcli.models.losses import LOSSES
from unetcli.report.curves import draw_curves
from unetcli.training.batches import Plane, choose_augmentation, open_planes
from unetcli.training.memory import is_out_of_memory, largest_that_fits
from unetcli.training.optimization import steps_of_epoch
from unetcli.training.processes import Processes, allotted_cpus, check_batch, device_name
from unetcli.training.record import read_rows
from unetcli.training.trainer import Trainer
from unetcli.training.validation import Validator


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
        Folder of the run: ``model.safetensors``, ``best.safetensors``, ``last.ckpt``, ``metrics.csv``, ``timing.csv``,
        ``curves.png``, ``run.json``.
    config
        Settings, of a preset or changed from one.
    weights
        Weight maps of this data set.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; of several processes each takes a CUDA device of its own.
    overwrite
        Start again from nothing.
    workers
        Threads that prepare patches, of each process.
    progress
        Called after each step.

    Returns
    -------
    dict
        Steps, parameters and the last scores; of several processes, from the first one only.

    Raises
    ------
    Unfinished
        If `progress` asks to stop; the checkpoint holds everything.
    """
    if dry_run:
        return _dry_run(_open_task(data, weights, config))
    launch = read_launch()
    # What is wrong with the data is said first; of several processes, when they have met, and by one of them.
    task = _open_task(data, weights, config) if launch.count == 1 else None
    chosen = choose_device(device_name(launch, device))
    processes = Processes(launch, chosen, choose_precision(config.precision, chosen))
    cpus = allotted_cpus(launch)
    if chosen.type == "cpu":
        torch.set_num_threads(cpus)
    with processes.together():
        task = task or _open_task(data, weights, config, n_processes=processes.count)
        check_apart(out, [data, *([weights] if weights else [])])
        training, validation = (open_planes(task.dataset, weights, validation=part) for part in (False, True))
        is_complete = processes.is_first and _is_complete(out, task.plan, overwrite=overwrite)
        if not processes.from_first(is_complete):
            trainer = Trainer.build(task.config, task.header, task.dataset, training, processes, task.epoch_steps)
            _train(trainer, validation, out, task.plan, workers=workers or cpus, progress=progress)
        if not processes.is_first:
            return {}
        summary = _summary(out, already=is_complete)
    if task.dataset.ndim == 3:
        summary["notes"] = ["objects lie in volumes, but this network works plane by plane"]
    return summary


class Task(NamedTuple):
    """What is to be trained, checked."""

    config: TrainConfig
    """With the number of steps that its epochs have."""
    dataset: Dataset
    header: ModelHeader
    plan: Mapping[str, Any]
    """Settings and inputs, which a run that is continued must share."""
    epoch_steps: int


def _open_task(data: Location, weights: Location | None, config: TrainConfig, *, n_processes: int = 1) -> Task:
    """Open a data set, and check that what is asked for can be trained on it."""
    dataset = open_dataset(data)
    dataset.require_labels()
    parameters = network_parameters(config, dataset)
    geometry = geometry_of(config.arch, parameters)
    geometry.check_shape("--patch-size", _patch_shape(config, geometry))
    config.grid_points(ndim=2)
    check_batch(config.batch_size, config.accumulate, n_processes)
    _check_norm(config, geometry, n_processes)
    _check_validation(config, dataset)
    epoch_steps = _epoch_steps(config, geometry, dataset)
    if config.epochs:
        config = replace(config, steps=config.epochs * epoch_steps)
    plan = {
        "stage": "train",
        "settings": asdict(config),
        "inputs": {"data": fingerprint(data), "weights": fingerprint(weights) if weights else None},
    }
    return Task(config, dataset, _header(config, parameters, geometry, dataset, plan), plan, epoch_steps)


def _train(
    trainer: Trainer, validation: Sequence[Plane], out: Path, plan: Mapping[str, Any], *, workers: int,
    progress: Progress,
) -> None:  # fmt: skip
    """Train from where the last checkpoint stands to the end, and write the model."""
    config, processes, dataset = trainer.config, trainer.processes, trainer.dataset
    trainer.resume(out)
    # Of two probabilities, the cross-entropy is that of a sigmoid.
    terms = LOSSES["weighted-cross-entropy" if config.loss == "bce" else config.loss]
    planes = processes.share(validation)
    validator = Validator(planes, dataset, trainer.header.geometry, processes.device, terms)
    try:
        if not trainer.history.augment_on:  # as a checkpoint says
            measured = choose_augmentation(trainer.maker("host"), workers, trainer.seconds_per_step)
            trainer.history.augment_on = processes.from_first(measured)
        if processes.is_first:
            _write_run_file(out, plan, trainer)
        trainer.fit(validator, out, workers=workers, progress=progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        if processes.is_first:
            _write_results(trainer, out)
        return
    raise _out_of_memory(trainer, out)  # here, where no error keeps alive what the step held in memory


def _write_results(trainer: Trainer, out: Path) -> None:
    """Write the curves, then the model, with which the run is complete."""
    draw_curves(trainer.history.rows, out / "curves.png")
    best, model = out / "best.safetensors", out / "model.safetensors"
    if trainer.config.keep == "last" or trainer.history.best is None:
        save_model(model, trainer.result.state_dict(), trainer.header)
        return
    if not best.is_file():
        raise InputError(f"{best}: is missing; expected the best model of this run", fix="--overwrite starts again")
    write_atomically(model, best.read_bytes())


def _out_of_memory(trainer: Trainer, out: Path) -> DeviceError:
    """Say which patch fits, from steps with smaller ones; a run that has saved nothing is removed."""
    config, geometry, processes = trainer.config, trainer.header.geometry, trainer.processes
    whole = _patch_shape(config, geometry)
    shapes = [s for s in _smaller_shapes(geometry, whole) if _is_normalized(config, geometry, s, processes.count)]
    largest = largest_that_fits(shapes, trainer.try_patch) if processes.count == 1 else None
    if processes.is_first and not (out / "last.ckpt").exists():
        shutil.rmtree(out, ignore_errors=True)
    found = f"{processes.device}: out of memory with {config.batch_size} patches of {_joined(whole, ' x ')} pixels"
    if largest == whole:
        return DeviceError(f"{found}; alone, a step of them fits", fix="end other programs that use this memory")
    fits = "" if largest is None else f"; patches of {_joined(largest, ' x ')} fit"
    less = "a smaller --patch-size" if largest is None else f"--patch-size {_joined(largest, ',')}"
    return DeviceError(f"{found}{fits}", fix=f"{less}, or a larger --accumulate, or a smaller --batch-size")


def _joined(shape: Sequence[int], sign: str) -> str:
    """Spell a shape; of one with equal sides, one side."""
    return sign.join(map(str, shape if len(set(shape)) > 1 else shape[:1]))


def _patch_shape(config: TrainConfig, geometry: Geometry) -> tuple[int, ...]:
    """Return the size of a patch along each axis."""
    return (config.patch_size,) * len(geometry.axes)


def _smaller_shapes(geometry: Geometry, shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the legal shapes up to one, smallest first, of about its proportions."""
    steps = [(size - axis.smallest) // axis.stride for axis, size in zip(geometry.axes, shape, strict=True)]
    n = max(1, *steps)
    return [
        tuple(a.smallest + a.stride * (most * i // n) for a, most in zip(geometry.axes, steps, strict=True))
        for i in range(n + 1)
    ]


def _is_normalized(config: TrainConfig, geometry: Geometry, shape: Sequence[int], n_processes: int) -> bool:
    """Tell whether there is more than one value to normalize over at the bottom of the network."""
    together = {"batch": config.batch_size // config.accumulate // n_processes, "instance": 1}
    bottom = (size // axis.stride for axis, size in zip(geometry.axes, shape, strict=True))
    return together.get(config.norm, 2) * math.prod(bottom) > 1


def _check_norm(config: TrainConfig, geometry: Geometry, n_processes: int) -> None:
    """Refuse a normalization over one value: batch and instance normalization have no gradient there."""
    if not _is_normalized(config, geometry, _patch_shape(config, geometry), n_processes):
        raise ConfigError(
            f"--norm {config.norm} with --patch-size {config.patch_size}: one value is left to normalize over at the "
            "bottom of the network; expected more",
            fix=f"--patch-size {2 * config.patch_size}, or --norm group",
        )


def _check_validation(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse settings that ask for scores of a data set without a validation part."""
    asked = [
        *([f"--patience {config.patience}"] if config.patience else []),
        *(["--keep best"] if config.keep == "best" else []),
    ]
    if asked and not any(True for _ in dataset.planes(validation=True)):
        raise ConfigError(
            f"{' and '.join(asked)}: {dataset.store.path} has no validation part to score models on",
            fix="unetcli prep ... --split 0.2",
        )


def _epoch_steps(config: TrainConfig, geometry: Geometry, dataset: Dataset) -> int:
    pixels = sum(math.prod(image.level.shape[3:]) for image, _, _ in dataset.planes(validation=False))
    shape = _patch_shape(config, geometry)
    output = math.prod(size - 2 * axis.margin for axis, size in zip(geometry.axes, shape, strict=True))
    return steps_of_epoch(pixels, output, config.batch_size)


def network_parameters(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what `build_model` takes for a data set.

    Raises
    ------
    ConfigError
        If the loss tells two classes apart, and there are more.
    """
    if config.loss == "bce" and len(dataset.classes) > 2:
        raise ConfigError(
            f"--loss bce: tells two classes apart; the data set has {len(dataset.classes)}: "
            f"{', '.join(dataset.classes)}",
            fix="--loss weighted-cross-entropy",
        )
    return {
        "ndim": 2,
        "channels": len(dataset.statistics),
        "classes": 1 if config.loss == "bce" else max(2, len(dataset.classes)),  # logits
        "features": list(config.feature_list),
        "padding": config.padding,
        "norm": config.norm,
        "skip": config.skip,
        "dropout": config.dropout,
    }


def _dry_run(task: Task) -> dict[str, Any]:
    """Say what would be trained."""
    config, dataset, geometry = task.config, task.dataset, task.header.geometry
    network = build_model(config.arch, task.header.parameters)
    output = config.patch_size - 2 * geometry.axes[-1].margin
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "patch": f"{config.patch_size} pixels in, {output} out, {config.batch_size} in a step",
        "geometry": geometry.describe(),
        "training_planes": sum(1 for _ in dataset.planes(validation=False)),
        "validation_planes": sum(1 for _ in dataset.planes(validation=True)),
        "steps": config.steps,
        "epoch": f"{task.epoch_steps} steps, which show as many pixels as there are",
    }


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


def _write_run_file(out: Path, plan: Mapping[str, Any], trainer: Trainer) -> None:
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
        **trainer.machine,
        "augment_on": trainer.history.augment_on,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "fingerprint": plan,
    }
    write_atomically(out / "run.json", json.dumps(content, indent=1))


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
    scores, times = read_rows(out / "metrics.csv")[-1], read_rows(out / "timing.csv")
    data_wait = sum(t["seconds"] * t["data_wait"] for t in times) / sum(t["seconds"] for t in times)
    return {
        "out": str(out), "already_done": already, "parameters": run_file["parameters"], **scores,
        "waiting_for_data_percent": 100 * data_wait,
    }  # fmt: skip
