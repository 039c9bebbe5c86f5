"""A network in an ONNX file, called like any other network: what runs it is `onnxruntime`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unetcli.errors import ConfigError, DeviceError, InputError, first_line

SUFFIX = ".onnx"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxNetwork(nn.Module):
    """A network from an ONNX file that takes gray values and gives probabilities.

    Parameters
    ----------
    content
        The file. Given as bytes, it can not refer to other files.
    name
        Of the file, for messages.

    Raises
    ------
    ConfigError
        If `onnxruntime` is not installed.
    InputError
        If it is not ONNX.
    """

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__()
        self.content, self.name = content, name
        self.session = self._open(torch.device("cpu"))

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def to(self, *, device: torch.device, **_: Any) -> OnnxNetwork:  # type: ignore[override]  # noqa: ANN401
        """Open the network on a device.

        Raises
        ------
        DeviceError
            If `onnxruntime` can not use it.
        """
        self.session = self._open(device)
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(n, classes, [z,] y, x)`` of gray values ``(n, channels, [z,] y, x)``."""
        try:
            (found,) = self.session.run(None, {self.session.get_inputs()[0].name: image.cpu().numpy()})
        except Exception as error:  # the runtime has no kind of its own for it
            if "allocat" in str(error):
                raise torch.OutOfMemoryError(first_line(error)) from error
            raise
        return logarithms(torch.from_numpy(found).to(image.device))

    def _open(self, device: torch.device) -> Any:  # noqa: ANN401 - the runtime has no types
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        settings: dict[str, Any] = {}
        if device.type == "cuda":
            # As for torch: the 10 bits of mantissa of TF32 would show at the seams.
            settings = {"device_id": device.index or 0, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
        provider = PROVIDERS[device.type]
        if provider not in runtime.get_available_providers():
            raise _no_device(device)
        try:
            session = runtime.InferenceSession(self.content, options, [(provider, settings)])
        except Exception as error:
            raise InputError(f"{self.name}: is not a model ({first_line(error)}); expected ONNX") from error
        if provider not in session.get_providers():  # its libraries can not be loaded: it would take the CPU unasked
            raise _no_device(device)
        return session


def logarithms(probabilities: Tensor) -> Tensor:
    """Return logits of probabilities: their softmax is the probabilities again."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def has_cuda() -> bool:
    """Tell whether the `onnxruntime` that is installed is made for CUDA."""
    return PROVIDERS["cuda"] in _runtime().get_available_providers()


def _no_device(device: torch.device) -> DeviceError:
    return DeviceError(
        f"--device {device}: the onnxruntime that is installed can not use it",
        fix="--device cpu; or pip install onnxruntime-gpu in place of onnxruntime; or the model.safetensors of the run",
    )


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("ONNX models need onnxruntime", fix="pip install 'unetcli[export]'") from error
    return onnxruntime  # type: ignore[no-any-return]
