"""Images, truth and weight maps to a trained model: by random patch."""

from __future__ import annotations

import json
import logging
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
from unetcli.image.streaming import Progress, available_cpus, silent
from unetcli.launch import Launch, read_launch
from unetcli.metrics.scores import parse_names
from unetcli.models.checkpoint import ModelHeader, save_model
from unetcli.models.device import choose_device, choose_precision
from unetcli.models.geometry import Geometry, geometry_of
from unetcli.models.summary import count_parameters
from unetcli.report.curves import draw_curves
from unetcli.sampling import Plane
from unetcli.training.batches import choose_augmentation, host_only
from unetcli.training.estimate import available_memory, measure_step
from unetcli.training.memory import is_out_of_memory, largest_that_fits
from unetcli.training.optimization import steps_of_epoch
from unetcli.training.places import Places, mirrored_note, open_planes
from unetcli.training.processes import Processes, allotted_cpus, check_batch, device_name
from unetcli.training.record import Record, best_row, panels_of, read_rows
from unetcli.training.resizing import Resolution, resolutions
from unetcli.training.trainer import Trainer
from unetcli.training.validation import Validator, validation_term

FILES = [
    "model.safetensors: the model", "best.safetensors: the best one so far", "last.ckpt: to go on",
    "metrics.csv: losses and scores", "timing.csv: seconds of steps and validations", "curves.png",
    "validation/: sheets of predictions", "tensorboard/: events", "run.json: settings, versions, inputs",
]  # fmt: skip
"""What is written."""

logger = logging.getLogger(__name__)


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
        Folder of the run: ``model.safetensors``, ``best.safetensors``, ``last.ckpt``, ``metrics.csv``, ``timing.csv``,
        ``curves.png``, ``validation/``, ``tensorboard/``, ``run.json``.
    config
        Settings, of a preset or changed from one.
    weights
        Weight maps of this data set.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; of several processes each takes a CUDA device of its own.
    overwrite
        Start again from nothing.
    workers
        Threads that prepare patches, of each process; by default `patch_threads`.
    tensorboard
        Whether to write events for TensorBoard, where that is installed.
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
        return _dry_run(_open_task(data, weights, config), weights, choose_device(device))
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
        ndim, workers = task.config.axes_of_network, workers or patch_threads(cpus, chosen)
        places = _open_places(task, weights, workers=workers)
        validation = open_planes(task.dataset, weights, ndim, validation=True)
        is_complete = processes.is_first and _is_complete(out, task.plan, overwrite=overwrite)
        if not processes.from_first(is_complete):
            trainer = _build(task, places, processes)
            config, classes = task.config, task.header.classes
            record = Record(
                out, config.steps, config.validate_every, classes, progress, config.best_by, has_tensorboard=tensorboard
            )
            _train(trainer, validation, record, task.plan, workers=workers, progress=progress)
        if not processes.is_first:
            return {}
        summary = _summary(out, already=is_complete)
    notes = _notes(task, places)
    return {**summary, **({"notes": notes} if notes else {})}


def _notes(task: Task, places: Places) -> list[str]:
    """Say what in a data set of volumes this network does not make the most of."""
    if task.config.axes_of_network == 3:
        return mirrored_note(places.planes, task.patch.output)
    return ["objects lie in volumes, but this network works plane by plane"] if task.dataset.ndim == 3 else []


class Task(NamedTuple):
    """What is to be trained, checked."""

    config: TrainConfig
    """With the number of steps that its epochs have."""
    dataset: Dataset
    header: ModelHeader
    plan: Mapping[str, Any]
    """Settings and inputs, which a run that is continued must share."""
    epoch_steps: int
    patch: Resolution
    """What the network sees in the last steps."""


def patch_threads(cpus: int, device: torch.device) -> int:
    """Return how many threads prepare patches by default, of the processors that a process has.

    On a CPU patches take a few percent of a step, and the network wants all processors: a quarter of them, for more
    would only hold it up.
    """
    return cpus if device.type == "cuda" else max(1, cpus // 4)


def _open_task(data: Location, weights: Location | None, config: TrainConfig, *, n_processes: int = 1) -> Task:
    """Open a data set, and check that what is asked for can be trained on it."""
    dataset = open_dataset(data)
    dataset.require_labels()
    parameters = network_parameters(config, dataset)
    geometry = geometry_of(config.arch, parameters)
    ndim = len(geometry.axes)
    _check_depth(config, dataset, ndim)
    config.grid_points(ndim)
    found = [resolution for _, resolution in resolutions(config, geometry, dataset)]
    check_batch(config.batch_size, config.accumulate, n_processes)
    for resolution in found:
        _check_norm(config, geometry, resolution.shape[-ndim:], n_processes)
    _check_validation(config, dataset)
    config = _with_best_by(config, dataset.classes)
    if config.augment_on == "device" and (reason := host_only(config, ndim)):
        raise ConfigError(f"--augment-on device: does not go with {reason}", fix="--augment-on host")
    epoch_steps = _epoch_steps(config, found[-1], dataset)
    if config.epochs:
        config = replace(config, steps=config.epochs * epoch_steps)
    if config.warmup >= config.steps:
        raise ConfigError(f"--warmup {config.warmup}: expected fewer than the {config.steps} steps of the training")
    plan = {
        "stage": "train",
        "settings": asdict(config),
        "inputs": {"data": fingerprint(data), "weights": fingerprint(weights) if weights else None},
    }
    return Task(config, dataset, _header(config, parameters, geometry, dataset, plan), plan, epoch_steps, found[-1])


def _open_places(task: Task, weights: Location | None, *, workers: int) -> Places:
    """Return where patches of the training images lie."""
    ndim = task.config.axes_of_network
    planes = open_planes(task.dataset, weights, ndim, validation=False)
    if task.config.loss == "weighted-cross-entropy" and all(example.weights is None for example, _, _ in planes):
        logger.info("weights: none are given, so that all pixels count the same (unetcli weights makes a map)")
    return Places.of(planes, task.config, task.dataset, ndim, workers=workers)


def _build(task: Task, places: Places, processes: Processes) -> Trainer:
    """Set up the training; say so, where the network alone does not fit into memory."""
    try:
        return Trainer.build(task.config, task.header, task.dataset, places, processes, task.epoch_steps)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        n = count_parameters(task.header.arch, task.header.parameters)
        found = f"{processes.device}: out of memory with the {n / 1e6:,.0f} million parameters of the network alone"
        raise DeviceError(found, fix="smaller --features") from error


def _train(
    trainer: Trainer, validation: Sequence[Plane], record: Record, plan: Mapping[str, Any], *, workers: int,
    progress: Progress,
) -> None:  # fmt: skip
    """Train from where the last checkpoint stands to the end, and write the model."""
    config, processes, out = trainer.config, trainer.processes, record.out
    trainer.resume(out)
    validator = Validator(
        processes.share(validation), trainer.dataset, trainer.header.geometry, processes.device,
        validation_term(config.loss), _validation_metrics(config),
    )  # fmt: skip
    try:
        if not trainer.history.augment_on:  # as a checkpoint says
            measured = choose_augmentation(trainer.maker("host"), workers, trainer.seconds_per_step)
            trainer.history.augment_on = processes.from_first(measured)
        if processes.is_first:
            _write_run_file(out, plan, trainer)
        trainer.fit(validator, record, workers=workers, progress=progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        if processes.is_first:
            _write_results(trainer, out)
        return
    finally:
        record.close()
    raise _out_of_memory(trainer, out)  # here, where no error keeps alive what the step held in memory


def _write_results(trainer: Trainer, out: Path) -> None:
    """Write the curves, then the model, with which the run is complete."""
    draw_curves(trainer.history.rows, panels_of(trainer.history.rows), out / "curves.png")
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
    whole = config.patch_shape(len(geometry.axes))
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


def _check_norm(config: TrainConfig, geometry: Geometry, shape: Sequence[int], n_processes: int) -> None:
    """Refuse a normalization over one value: batch and instance normalization have no gradient there."""
    if not _is_normalized(config, geometry, shape, n_processes):
        raise ConfigError(
            f"--norm {config.norm} with patches of {_joined(shape, ' x ')} pixels: one value is left to normalize over "
            "at the bottom of the network; expected more",
            fix=f"--patch-size {','.join(str(2 * n) for n in config.patch_shape(len(shape)))}, or --norm group",
        )


def _check_depth(config: TrainConfig, dataset: Dataset, ndim: int) -> None:
    """Refuse a network of volumes for images of one plane, which could not be segmented with it either."""
    planes = [image.path for image in dataset.images if image.level.shape[2] == 1]
    if ndim == 3 and planes:
        asked = "--ndim 3" if config.ndim == 3 else f"--arch {config.arch}"
        other = "--ndim 2" if config.ndim == 3 else f"--arch unet, or --arch {config.arch} --ndim 2"
        raise ConfigError(
            f"{asked}: {planes[0]} has one plane; expected volumes",
            fix=f"{other}; or, where the axis t of the image is z, unetcli prep IMAGE --axes zyx",
        )


def _validation_metrics(config: TrainConfig) -> list[str]:
    """Return the scores of whole planes that are asked for."""
    return [] if config.validate_metrics is None else parse_names("--validate-metrics", config.validate_metrics)


def _check_validation(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse settings that ask for scores of a data set without a validation part."""
    asked = [
        *([f"--validate-metrics {config.validate_metrics}"] if _validation_metrics(config) else []),
        *([f"--patience {config.patience}"] if config.patience else []),
        *(["--keep best"] if config.keep == "best" else []),
    ]
    if asked and not any(True for _ in dataset.planes(validation=True)):
        raise ConfigError(
            f"{' and '.join(asked)}: {dataset.store.path} has no validation part to score models on",
            fix="unetcli prep ... --split 0.2",
        )


def _with_best_by(config: TrainConfig, classes: Sequence[str]) -> TrainConfig:
    """Settle by which score a model is the best: of several classes by that which looks at each of them."""
    if config.best_by == "validation_mean_iou" and len(classes) <= 2:
        raise ConfigError(
            "--best-by validation_mean_iou: expected with more than two classes only", fix="--best-by validation_iou"
        )
    of_classes = "validation_mean_iou" if len(classes) > 2 else "validation_iou"
    return replace(config, best_by=of_classes) if config.best_by == "auto" else config


def _epoch_steps(config: TrainConfig, patch: Resolution, dataset: Dataset) -> int:
    pixels = sum(math.prod(image.level.shape[3:]) for image, _, _ in dataset.planes(validation=False))
    return steps_of_epoch(pixels, math.prod(patch.output), config.batch_size)


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
        **config.network_settings(),
        "channels": len(dataset.statistics),
        "classes": 1 if config.loss == "bce" else max(2, len(dataset.classes)),  # logits
    }


def _dry_run(task: Task, weights: Location | None, device: torch.device) -> dict[str, Any]:
    """Say what would be trained, and what it would take: from steps with random patches."""
    config, geometry = task.config, task.header.geometry
    processes = Processes(Launch(), device, choose_precision(config.precision, device))
    if device.type == "cpu":
        torch.set_num_threads(available_cpus())
    places = _open_places(task, weights, workers=available_cpus())
    trainer = _build(task, places, processes)
    shape, n_validations = config.patch_shape(len(geometry.axes)), math.ceil(config.steps / config.validate_every)
    output = [size - 2 * axis.margin for axis, size in zip(geometry.axes, shape, strict=True)]
    planes = {part: sum(1 for _ in task.dataset.planes(validation=part)) for part in (False, True)}
    channels = ",".join(map(str, config.feature_list))
    said = {
        "network": f"{config.arch}, {channels} channels, padding {config.padding}, norm {config.norm}",
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "geometry": geometry.describe(),
        "patch": f"{_joined(shape, ' x ')} pixels in, {_joined(output, ' x ')} out, {config.batch_size} in a step",
        "training_planes": planes[False],
        "validation_planes": planes[True],
        "steps": config.steps,
        "epoch": f"{task.epoch_steps} steps, which show as many pixels as there are",
        "epochs": config.steps / task.epoch_steps,
        "validations": n_validations,
        **{name: trainer.machine[name] for name in ("device", "precision")},
    }
    logger.info("measuring steps with random patches")
    cost = measure_step(trainer, shape, available_memory(device))
    said["step_memory_gb"] = cost.memory / 1e9
    notes = _notes(task, places)
    if cost.seconds is None:
        return {**said, "notes": [*notes, f"a step does not fit into the free memory of {device}: so it was not timed"]}
    # A pass forward takes a third of one forward and backward.
    pixels = sum(math.prod(image.level.shape[3:]) for image, _, _ in task.dataset.planes(validation=True))
    of_validation = cost.seconds / 3 * pixels / (config.batch_size * math.prod(output))
    return {
        **said,
        "step_seconds": cost.seconds,
        "validation_seconds": of_validation,
        "minutes": (config.steps * cost.seconds + n_validations * of_validation) / 60,
        "files": FILES,
        **({"notes": notes} if notes else {}),
    }


def _is_complete(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Tell whether a run is finished; refuse to go on with one that was begun otherwise."""
    run_file = out / "run.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a training run", fix="another -o")
    begun = _plan_of(out) if run_file.exists() else None
    if begun is None and out.is_dir() and any(not path.match(".*.partial") for path in out.iterdir()):
        raise InputError(f"{out}: exists and is not a training run", fix="another -o, or remove it by hand")
    if begun is not None and overwrite:
        _remove(out)
    elif any((out / name).exists() for name in ("last.ckpt", "model.safetensors")):  # else nothing is lost
        check_fingerprint(out, begun or {}, plan)
    return (out / "model.safetensors").exists()


def _plan_of(out: Path) -> dict[str, Any] | None:
    """Return the plan of a run; `None` where the file is not one of a run."""
    try:
        plan = json.loads((out / "run.json").read_text())["fingerprint"]
        return dict(plan) if plan["stage"] == "train" else None
    except (ValueError, LookupError, TypeError):
        return None


def _remove(out: Path) -> None:
    """Remove a run: what makes it complete at first, what tells that it is one at last, whenever this is cut short."""
    (out / "model.safetensors").unlink(missing_ok=True)
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "run.json":
            path.unlink()
    shutil.rmtree(out)


def _write_run_file(out: Path, plan: Mapping[str, Any], trainer: Trainer) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{out}: can not be written ({error.strerror})") from error
    for partial in out.glob(".*.partial"):  # of a run that was killed while it wrote
        partial.unlink(missing_ok=True)
    if (out / "last.ckpt").exists():
        _warn_of_rounding(out, trainer.machine)
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


def _warn_of_rounding(out: Path, machine: Mapping[str, Any]) -> None:
    """Say what of a machine is not as it was when a run was begun, so that sums are rounded otherwise."""
    before = json.loads((out / "run.json").read_text())
    changed = [f"{k} was {before[k]}, is {v}" for k, v in machine.items() if k in before and before[k] != v]
    if changed:
        logger.warning(
            "%s: goes on otherwise: %s; by rounding, its results differ from those of a run never stopped",
            out, ", ".join(changed),
        )  # fmt: skip


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
    """Say what came out, where it is, and what to do with it."""
    run_file = json.loads((out / "run.json").read_text())
    rows, times = read_rows(out / "metrics.csv"), read_rows(out / "timing.csv")
    settings = run_file["fingerprint"]["settings"]
    seconds = sum(t["seconds"] for t in times)
    best = best_row(rows, settings["best_by"]) if settings["best_by"] in rows[-1] else None
    shown = rows[-1] if best is None or settings["keep"] == "last" else best
    return {
        "out": str(out), "already_done": already, "parameters": run_file["parameters"], **shown,
        "step": int(shown["step"]), "last_step": int(rows[-1]["step"]),
        **({} if best is None else {"best_step": int(best["step"])}),
        "waiting_for_data_percent": 100 * sum(t["seconds"] * t["data_wait"] for t in times) / seconds,
        "next": f"unetcli tile-predict IMAGE --model {out} -o mask.zarr",
    }  # fmt: skip
