"""What each architecture is, in numbers that its layers are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from unetcli.architectures import ARCHITECTURES
from unetcli.models import build_model
from unetcli.models.geometry import along_axis


def count_parameters(arch: str, parameters: Mapping[str, Any]) -> int:
    """Return how many parameters a network has, without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(arch, parameters).parameters())


def describe_architectures() -> list[dict[str, str]]:
    """Return a row for each architecture: by default channels, of one channel and two classes, with `same` padding."""
    rows = []
    for name, architecture in ARCHITECTURES.items():
        parameters = {
            "ndim": architecture.ndim, "channels": 1, "classes": 2, "features": architecture.features,
            "padding": "same", "norm": "batch", "dropout": 0.0,
        }  # fmt: skip
        parameters |= {"skip": architecture.skips[0]} if architecture.skips else {}
        along_x = architecture.ndim - 1
        same, field = along_axis(name, parameters, along_x)
        valid, _ = along_axis(name, {**parameters, "padding": "valid"}, along_x)
        rows.append({
            "name": name, "paper": architecture.paper, "axes": f"{architecture.ndim}D",
            "channels": ",".join(map(str, architecture.features)),
            "parameters": f"{count_parameters(name, parameters) / 1e6:.2f} M",
            "stride": str(same.stride), "margin if valid": str(valid.margin),
            "receptive field": str(field), "what": architecture.about,
        })  # fmt: skip
    return rows
