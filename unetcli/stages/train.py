"""Images, truth and weight maps to a trained model: by random patch."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unetcli.config import TrainConfig
from unetcli.config.settings import spell
from unetcli.errors import DeviceError
from unetcli.image.location import Location
from unetcli.image.new_store import check_apart
from unetcli.image.streaming import Progress, available_cpus, silent
from unetcli.launch import Launch, read_launch
from unetcli.models.device import choose_device, choose_precision
from unetcli.models.geometry import Geometry
from unetcli.models.memory import available_memory, is_out_of_memory
from unetcli.models.summary import count_parameters
from unetcli.sampling import Plane
from unetcli.training.batches import choose_augmentation
from unetcli.training.estimate import measure_step
from unetcli.training.memory import largest_that_fits
from unetcli.training.places import Places, mirrored_note, open_planes
from unetcli.training.processes import Processes, allotted_cpus, device_name
from unetcli.training.record import Record
from unetcli.training.run_folder import is_complete, summarize, write_results, write_run_file
from unetcli.training.task import Task, is_normalized, open_task, validation_metrics
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
        return _dry_run(open_task(data, weights, config), weights, choose_device(device))
    launch = read_launch()
    # What is wrong with the data is said first; of several processes, when they have met, and by one of them.
    task = open_task(data, weights, config) if launch.count == 1 else None
    chosen = choose_device(device_name(launch, device))
    processes = Processes(launch, chosen, choose_precision(config.precision, chosen))
    cpus = allotted_cpus(launch)
    if chosen.type == "cpu":
        torch.set_num_threads(cpus)
    with processes.together():
        task = task or open_task(data, weights, config, n_processes=processes.count)
        check_apart(out, [data, *([weights] if weights else [])])
        ndim, workers = task.config.axes_of_network, workers or patch_threads(cpus, chosen)
        places = _open_places(task, weights, workers=workers)
        validation = open_planes(task.dataset, weights, ndim, validation=True)
        is_done = processes.is_first and is_complete(out, task.plan, overwrite=overwrite)
        if not processes.from_first(is_done):
            trainer = _build(task, places, processes)
            config, classes = task.config, task.header.classes
            record = Record(
                out, config.steps, config.validate_every, classes, progress, config.best_by, has_tensorboard=tensorboard
            )
            _train(trainer, validation, record, task.plan, workers=workers, progress=progress)
        if not processes.is_first:
            return {}
        summary = summarize(out, already=is_done)
    notes = _notes(task, places)
    return {**summary, **({"notes": notes} if notes else {})}


def patch_threads(cpus: int, device: torch.device) -> int:
    """Return how many threads prepare patches by default, of the processors that a process has.

    On a CPU patches take a few percent of a step, and the network wants all processors: a quarter of them, for more
    would only hold it up.
    """
    return cpus if device.type == "cuda" else max(1, cpus // 4)


def _notes(task: Task, places: Places) -> list[str]:
    """Say what in a data set of volumes this network does not make the most of."""
    if task.config.axes_of_network == 3:
        return mirrored_note(places.planes, task.patch.output)
    return ["objects lie in volumes, but this network works plane by plane"] if task.dataset.ndim == 3 else []


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
        validation_term(config.loss), validation_metrics(config),
    )  # fmt: skip
    try:
        if not trainer.history.augment_on:  # as a checkpoint says
            measured = choose_augmentation(trainer.maker("host"), workers, trainer.seconds_per_step)
            trainer.history.augment_on = processes.from_first(measured)
        if processes.is_first:
            write_run_file(out, plan, trainer)
        trainer.fit(validator, record, workers=workers, progress=progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        if processes.is_first:
            write_results(trainer, out)
        return
    finally:
        record.close()
    raise _out_of_memory(trainer, out)  # here, where no error keeps alive what the step held in memory


def _out_of_memory(trainer: Trainer, out: Path) -> DeviceError:
    """Say which patch fits, from steps with smaller ones; a run that has saved nothing is removed."""
    config, geometry, processes = trainer.config, trainer.header.geometry, trainer.processes
    whole = config.patch_shape(len(geometry.axes))
    shapes = [s for s in _smaller_shapes(geometry, whole) if is_normalized(config, geometry, s, processes.count)]
    largest = largest_that_fits(shapes, trainer.try_patch) if processes.count == 1 else None
    if processes.is_first and not (out / "last.ckpt").exists():
        shutil.rmtree(out, ignore_errors=True)
    found = f"{processes.device}: out of memory with {config.batch_size} patches of {spell(whole, ' x ')} pixels"
    if largest == whole:
        return DeviceError(f"{found}; alone, a step of them fits", fix="end other programs that use this memory")
    fits = "" if largest is None else f"; patches of {spell(largest, ' x ')} fit"
    less = "a smaller --patch-size" if largest is None else f"--patch-size {spell(largest, ',')}"
    return DeviceError(f"{found}{fits}", fix=f"{less}, or a larger --accumulate, or a smaller --batch-size")


def _smaller_shapes(geometry: Geometry, shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the legal shapes up to one, smallest first, of about its proportions."""
    steps = [(size - axis.smallest) // axis.stride for axis, size in zip(geometry.axes, shape, strict=True)]
    n = max(1, *steps)
    return [
        tuple(a.smallest + a.stride * (most * i // n) for a, most in zip(geometry.axes, steps, strict=True))
        for i in range(n + 1)
    ]


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
        "patch": f"{spell(shape, ' x ')} pixels in, {spell(output, ' x ')} out, {config.batch_size} in a step",
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
