"""What is to be trained: the settings checked against the data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from unetcli import __version__
from unetcli.config import TrainConfig
from unetcli.config.settings import spell
from unetcli.errors import ConfigError
from unetcli.image.dataset import Dataset, open_dataset
from unetcli.image.fingerprint import fingerprint
from unetcli.image.location import Location
from unetcli.metrics.scores import parse_names
from unetcli.models.checkpoint import ModelHeader
from unetcli.models.geometry import Geometry, geometry_of
from unetcli.training.batches import host_only
from unetcli.training.optimization import steps_of_epoch
from unetcli.training.processes import check_batch
from unetcli.training.resizing import Resolution, resolutions


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


def open_task(data: Location, weights: Location | None, config: TrainConfig, *, n_processes: int = 1) -> Task:
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


def is_normalized(config: TrainConfig, geometry: Geometry, shape: Sequence[int], n_processes: int) -> bool:
    """Tell whether there is more than one value to normalize over at the bottom of the network."""
    together = {"batch": config.batch_size // config.accumulate // n_processes, "instance": 1}
    bottom = (size // axis.stride for axis, size in zip(geometry.axes, shape, strict=True))
    return together.get(config.norm, 2) * math.prod(bottom) > 1


def _check_norm(config: TrainConfig, geometry: Geometry, shape: Sequence[int], n_processes: int) -> None:
    """Refuse a normalization over one value: batch and instance normalization have no gradient there."""
    if not is_normalized(config, geometry, shape, n_processes):
        raise ConfigError(
            f"--norm {config.norm} with patches of {spell(shape, ' x ')} pixels: one value is left to normalize over "
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


def validation_metrics(config: TrainConfig) -> list[str]:
    """Return the scores of whole planes that are asked for."""
    return [] if config.validate_metrics is None else parse_names("--validate-metrics", config.validate_metrics)


def _check_validation(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse settings that ask for scores of a data set without a validation part."""
    asked = [
        *([f"--validate-metrics {config.validate_metrics}"] if validation_metrics(config) else []),
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
