"""What runs a network: torch itself, or what makes a faster program of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from unetcli.errors import ConfigError
from unetcli.export.onnx import to_onnx
from unetcli.models.checkpoint import ModelHeader
from unetcli.models.device import has_compiler
from unetcli.models.onnx import OnnxNetwork
from unetcli.models.openvino import OpenvinoNetwork
from unetcli.models.portable import Portable

RUNTIMES: dict[str, Callable[[bytes, str], nn.Module]] = {"onnxruntime": OnnxNetwork, "openvino": OpenvinoNetwork}
"""Those that run ONNX."""


def choose_engine(name: str, network: nn.Module, devices: tuple[torch.device, ...]) -> str:
    """Return what runs a network; ``auto`` is torch, and of a model that is ONNX, onnxruntime.

    Raises
    ------
    ConfigError
        If it can not run this network, or not on these devices.
    """
    is_onnx = isinstance(network, OnnxNetwork)
    if name == "auto":
        return "onnxruntime" if is_onnx else "torch"
    if is_onnx and name not in RUNTIMES:
        raise ConfigError(f"--engine {name}: the model is ONNX", fix=f"--engine {' or '.join(RUNTIMES)}, or the run")
    if name in RUNTIMES and not is_onnx and any(device.type == "cuda" for device in devices):
        raise ConfigError(f"--engine {name}: is for CPUs", fix="--device cpu, or --engine torch or compiled")
    if name == "compiled" and not has_compiler(devices[0]):
        raise ConfigError(
            "--engine compiled: there is no C++ compiler" + (" or no Triton" if devices[0].type == "cuda" else ""),
            fix="--engine torch",
        )
    return name


def network_for(engine: str, network: nn.Module, header: ModelHeader) -> tuple[nn.Module, ModelHeader]:
    """Return a network as an engine runs it, and its header: where the network normalizes, with mean 0, deviation 1."""
    if engine == "compiled":
        return torch.compile(network), header  # type: ignore[return-value]
    if engine == "torch" or (engine == "onnxruntime" and isinstance(network, OnnxNetwork)):
        return network, header
    if isinstance(network, OnnxNetwork):
        return RUNTIMES[engine](network.content, network.name), header
    n, axes = header.channels, header.geometry.axes
    image = torch.zeros(1, n, *(axis.smallest for axis in axes))
    portable = Portable(network, header.mean, header.std).eval()
    content = to_onnx(portable, image, [f"out_{name}" for name in "zyx"[-header.ndim :]], {})
    return RUNTIMES[engine](content, "the network"), replace(header, mean=(0.0,) * n, std=(1.0,) * n)
