"""Images, truth and weight maps to a trained model: by random patch."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unetcli import __version__
from unetcli.atomic import write_atomically
from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, DeviceError, InputError, is_disk_full
from unetcli.image.dataset import Dataset, open_dataset
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import check_fingerprint
from unetcli.image.location import Location
from unetcli.image.new_store import check_apart
from unetcli.image.streaming import Progress, available_cpus, silent
from unetcli.metrics.scores import parse_names
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader, save_model
from unetcli.models.device import choose_device, choose_precision
from unetcli.models.geometry import Geometry, geometry_of
from unetcli.report.curves import draw_curves
from unetcli.training.batches import choose_augmentation, open_planes
from unetcli.training.optimization import steps_of_epoch
from unetcli.training.record import Record, panels_of, read_rows
from unetcli.training.trainer import Trainer
from unetcli.training.validation import Validator, validation_term


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
    tensorboard: bool = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a network on a data set; called again, go on where the last checkpoint stands.

    Parameters
    ----------
    data
        A data set with labels.
    out
        Folder of the run: ``model.safetensors``, ``last.ckpt``, ``metrics.csv``, ``timing.csv``, ``curves.png``,
        ``validation/``, ``tensorboard/``, ``run.json``.
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
    tensorboard
        Whether to write events for TensorBoard, where that is installed.
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
    metrics = [] if config.validate_metrics is None else parse_names("--validate-metrics", config.validate_metrics)
    dataset = open_dataset(data)
    dataset.require_labels()
    parameters = network_parameters(config, dataset)
    geometry = geometry_of(config.arch, parameters)
    geometry.check_size("--patch-size", config.patch_size)
    config.grid_points(ndim=2)
    _check_norm(config, geometry)
    epoch_steps = _epoch_steps(config, geometry, dataset)
    if config.epochs:
        config = replace(config, steps=config.epochs * epoch_steps)
    if dry_run:
        return _dry_run(config, parameters, geometry, dataset, epoch_steps)
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
    trainer = Trainer.build(config, parameters, geometry, dataset, chosen, precision, epoch_steps)
    trainer.resume(out / "last.ckpt")
    workers = workers or available_cpus()
    try:
        if not trainer.augment_on:  # as a checkpoint says
            host = trainer.maker(training, "host")
            trainer.augment_on = choose_augmentation(host, workers, trainer.seconds_per_step)
        machine = {"device": str(chosen), "precision": precision, "augment_on": trainer.augment_on}
        _write_run_file(out, plan, trainer.network, machine)
        validator = Validator(validation, dataset, geometry, chosen, validation_term(config.loss), metrics)
        record = Record(
            out, config.steps, config.validate_every, dataset.classes, progress, has_tensorboard=tensorboard
        )
        trainer.fit(training, validator, record, workers=workers, progress=progress)
        record.close()
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"--device {device}: out of memory with {config.batch_size} patches of {config.patch_size} pixels",
            fix="a smaller --batch-size or --patch-size",
        ) from error
    header = _header(config, parameters, geometry, dataset, plan)
    draw_curves(trainer.rows, panels_of(trainer.rows), out / "curves.png")
    save_model(out / "model.safetensors", trainer.result.state_dict(), header)
    summary = _summary(out, already=False)
    if dataset.ndim == 3:
        summary["notes"] = ["objects lie in volumes, but this network works plane by plane"]
    return summary


def _check_norm(config: TrainConfig, geometry: Geometry) -> None:
    """Refuse a normalization over one value: batch and instance normalization have no gradient there."""
    bottom = (config.patch_size // geometry.stride) ** 2 * (config.batch_size if config.norm == "batch" else 1)
    if config.norm in ("batch", "instance") and bottom == 1:
        raise ConfigError(
            f"--norm {config.norm} with --patch-size {config.patch_size}: one value is left to normalize over at the "
            "bottom of the network; expected more",
            fix=f"--patch-size {2 * config.patch_size}, or --norm group",
        )


def _epoch_steps(config: TrainConfig, geometry: Geometry, dataset: Dataset) -> int:
    pixels = sum(math.prod(image.level.shape[3:]) for image, _, _ in dataset.planes(validation=False))
    return steps_of_epoch(pixels, (config.patch_size - 2 * geometry.margin) ** 2, config.batch_size)


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


def _dry_run(
    config: TrainConfig, parameters: Mapping[str, Any], geometry: Geometry, dataset: Dataset, epoch_steps: int
) -> dict[str, Any]:
    """Say what would be trained."""
    network = build_model(config.arch, parameters)
    output = config.patch_size - 2 * geometry.margin
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "patch": f"{config.patch_size} pixels in, {output} out, {config.batch_size} in a step",
        "geometry": f"stride {geometry.stride}, halo {geometry.halo}, inputs {geometry.stride}*k + "
        f"{geometry.smallest % geometry.stride}",
        "training_planes": sum(1 for _ in dataset.planes(validation=False)),
        "validation_planes": sum(1 for _ in dataset.planes(validation=True)),
        "steps": config.steps,
        "epoch": f"{epoch_steps} steps, which show as many pixels as there are",
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
