"""A network that OpenVINO runs on a CPU, called like any other network."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unetcli.errors import ConfigError, InputError, first_line
from unetcli.models.onnx import logarithms

KEPT = 16
"""Sizes of tiles that the network stays compiled for: those at the edges of images differ."""


class OpenvinoNetwork(nn.Module):
    """A network from an ONNX file that takes gray values and gives probabilities.

    Parameters
    ----------
    content
        The file.
    name
        Of the file, for messages.

    Raises
    ------
    ConfigError
        If `openvino` is not installed.
    InputError
        If it is not ONNX.

    Notes
    -----
    The network is compiled for each size of its input, which takes a fraction of a second, and is faster than one
    for all sizes. By itself OpenVINO would take bfloat16 on processors that have it.
    """

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__()
        runtime = _runtime()
        self._core = runtime.Core()
        try:
            self._model = self._core.read_model(content)
        except Exception as error:
            raise InputError(f"{name}: is not a model ({first_line(error)}); expected ONNX") from error
        self._compiled: dict[tuple[int, ...], Any] = {}

    def to(self, **_: Any) -> OpenvinoNetwork:  # type: ignore[override]  # noqa: ANN401
        """Stay on the CPU."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(n, classes, [z,] y, x)`` of gray values ``(n, channels, [z,] y, x)``."""
        compiled = self._compiled_for(tuple(image.shape))
        found = compiled.create_infer_request().infer([image.contiguous().numpy()], share_inputs=True)
        return logarithms(torch.from_numpy(found[compiled.output(0)]))

    def _compiled_for(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - the runtime has no types
        if shape not in self._compiled:
            while len(self._compiled) >= KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            model = self._model.clone()
            model.reshape(list(shape))
            exact = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
            threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
            self._compiled[shape] = self._core.compile_model(model, "CPU", {**exact, **threads})
        return self._compiled[shape]


def _runtime() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise ConfigError("--engine openvino needs openvino", fix="pip install 'unetcli[openvino]'") from error
    return openvino  # type: ignore[no-any-return]
