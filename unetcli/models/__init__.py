"""Networks from composable blocks, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from unetcli.architectures import ARCHITECTURES
from unetcli.errors import ConfigError
from unetcli.models.plan import Plan
from unetcli.models.scales import Downsampled, WithPyramid


def build_model(arch: str, parameters: Mapping[str, Any]) -> nn.Module:
    """Build a network by its name.

    Parameters
    ----------
    arch
        One of `ARCHITECTURES`.
    parameters
        Plain values: those of a `Plan`, and ``pyramid`` (levels that are put beside the
        image as channels), ``downsample`` (pixels that become one before the network) and ``upsample`` (how its
        result is brought back: ``bilinear`` or ``nearest``).

    Raises
    ------
    ConfigError
        If there is no architecture of that name.
    """
    if arch not in ARCHITECTURES:
        raise ConfigError(f"--arch {arch}: expected one of {', '.join(ARCHITECTURES)}")
    values = {"pyramid": 0, "downsample": 1, "upsample": "bilinear", **parameters}  # earlier models have none of these
    pyramid, factor, upsample = (values.pop(name) for name in ("pyramid", "downsample", "upsample"))
    ndim, flat_levels = values["ndim"], values.get("flat_levels", 0)
    module, function = ARCHITECTURES[arch].builder.split(".")
    builder = getattr(import_module(f"unetcli.models.{module}"), function)
    network: nn.Module = builder(Plan(**{**values, "channels": values["channels"] * (1 + pyramid)}))
    if pyramid:
        network = WithPyramid(network, ndim, pyramid, flat_levels=flat_levels)
    if factor > 1:
        network = Downsampled(network, ndim, factor, upsample, flat=flat_levels > 0)
    return network
