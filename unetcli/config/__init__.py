"""Settings of each stage: every default, unit, range and help text, each in this one place.

A setting becomes an option of its command, an entry of ``--config run.toml`` and a field of the stage's
dataclass, with the same name: ``--sigma`` / ``sigma`` / ``WeightsConfig(sigma=5.0)``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from unetcli.config.augmentation import AugmentConfig, DeformConfig
from unetcli.config.data import RECIPES, EvaluateConfig, LabelConfig, PrepConfig, WeightsConfig
from unetcli.config.model import ExportConfig, PredictConfig
from unetcli.config.settings import Config, setting
from unetcli.config.training import LOSSES, OPTIMIZERS, SCHEDULES, TrainConfig

CONFIGS: dict[str, type[Config]] = {
    "prep": PrepConfig,
    "weights": WeightsConfig,
    "augment": AugmentConfig,
    "train": TrainConfig,
    "tile-predict": PredictConfig,
    "export": ExportConfig,
    "evaluate": EvaluateConfig,
}
"""Settings of each command."""


def default_settings(command: str) -> dict[str, Any]:
    """Return the defaults of a command; of an unknown one, nothing."""
    return dataclasses.asdict(CONFIGS[command]()) if command in CONFIGS else {}


__all__ = [
    "CONFIGS",
    "LOSSES",
    "OPTIMIZERS",
    "RECIPES",
    "SCHEDULES",
    "AugmentConfig",
    "Config",
    "DeformConfig",
    "EvaluateConfig",
    "ExportConfig",
    "LabelConfig",
    "PredictConfig",
    "PrepConfig",
    "TrainConfig",
    "WeightsConfig",
    "default_settings",
    "setting",
]
