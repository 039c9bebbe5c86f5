"""Presets of `train`: settings that go together, each by a name."""

from __future__ import annotations

import dataclasses
from typing import Any

from unetcli.config import TrainConfig
from unetcli.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {
    # As published (arXiv 1505.04597); the learning rate and the number of steps are not in the paper.
    "paper": {
        "features": "64,128,256,512,1024",
        "padding": "valid",
        "norm": "none",
        "dropout": 0.5,
        "patch_size": 572,
        "batch_size": 1,
        "steps": 40_000,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "momentum": 0.99,
        "weight_decay": 0.0,
        "schedule": "constant",
        "clip_norm": 0.0,
        "scaling": 1.0,
        "flip": False,
        "gamma": 0.0,
        "noise": 0.0,
        "precision": "float32",
        "validate_every": 1000,
        "keep": "last",
    },
    # As most often implemented again for ISBI 2012: whole images of 512 pixels, one in a step.
    "classic": {
        "features": "64,128,256,512,1024",
        "patch_size": 512,
        "loss": "bce",
        "batch_size": 1,
        "epochs": 60,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "momentum": 0.99,
        "weight_decay": 5e-4,
        "schedule": "step",
        "clip_norm": 0.0,
        "elastic": 0.0,
        "rotation": 0.0,
        "scaling": 1.0,
        "contrast": 1.0,
        "brightness": 0.0,
        "gamma": 0.0,
        "noise": 0.0,
        "precision": "float32",
    },
    "default": {},
    # Two CPU cores, minutes.
    "fast": {
        "features": "16,32,64,128,256",
        "batch_size": 4,
        "steps": 2500,
        "learning_rate": 3e-3,
        "validate_every": 100,
    },
}
"""What each preset sets differently from the defaults of `TrainConfig`, and nothing else."""


ONLY_WITH = {"momentum": ("optimizer", "sgd"), "decay": ("schedule", "step"), "decay_every": ("schedule", "step")}
"""What some settings need to have an effect."""


def with_preset(preset: str, **given: Any) -> TrainConfig:  # noqa: ANN401 - any setting
    """Return the settings of a preset, changed by what is given; given steps replace its epochs.

    Raises
    ------
    ConfigError
        If there is no preset of that name, if both steps and epochs are given, or what has no effect.
    """
    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    if given.get("steps") is not None and given.get("epochs") is not None:
        raise ConfigError(f"--steps {given['steps']} and --epochs {given['epochs']}: expected one of them")
    length = {"epochs": None} if "steps" in given else {}
    made = TrainConfig(**{**PRESETS[preset], **length, **given})
    idle = [
        f"{_option(name)} {given[name]}: expected with {_option(other)} {value} only"
        for name, (other, value) in ONLY_WITH.items()
        if name in given and getattr(made, other) != value
    ]
    if idle:
        raise ConfigError("; ".join(idle))
    return made


def preset_table() -> list[tuple[str, ...]]:
    """Return each setting in which presets differ, and its value in each; the first row names the presets."""
    presets = {name: dataclasses.asdict(with_preset(name)) for name in PRESETS}
    for settings in presets.values():
        settings["steps"] = None if settings["epochs"] else settings["steps"]
    rows = [
        (_option(field.name), *(_shown(settings[field.name]) for settings in presets.values()))
        for field in dataclasses.fields(TrainConfig)
    ]
    return [("setting", *presets), *(row for row in rows if len(set(row[1:])) > 1)]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: Any) -> str:  # noqa: ANN401 - any setting
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
