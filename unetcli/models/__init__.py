"""Networks from composable blocks, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from unetcli.errors import ConfigError
from unetcli.models.unet import unet

MODELS: dict[str, Callable[..., nn.Module]] = {"unet": unet}
"""Name of an architecture to its builder, which takes plain values only."""


def build_model(arch: str, parameters: Mapping[str, Any]) -> nn.Module:
    """Build a network by its name.

    Raises
    ------
    ConfigError
        If there is no architecture of that name.
    """
    if arch not in MODELS:
        raise ConfigError(f"--arch {arch}: expected one of {', '.join(MODELS)}")
    return MODELS[arch](**parameters)
