"""A network as an ONNX file."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unetcli.errors import ConfigError

OPSET = 17
"""Of 2022: what other programs run can be expected to know it, and it has all that the networks need."""
INPUT, OUTPUT = "image", "probabilities"


def to_onnx(network: nn.Module, image: Tensor, sizes_out: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """Write a network as ONNX, for any number of images of any size that it takes.

    Parameters
    ----------
    network
        Takes ``(n, channels, [z,] y, x)``.
    image
        One input, to follow the computation by.
    sizes_out
        Names of the sizes of the output along z, y, x: ``y``, where it is as large as the input, ``y - 184`` etc.
    metadata
        To keep in the file.

    Raises
    ------
    ConfigError
        If `onnx` is not installed.

    Notes
    -----
    The network is traced, by the older one of torch's two exporters: sizes are computed in the graph, whatever
    network it is. The newer one proves sizes beforehand, and can not do so for the crops of `valid` convolutions.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("export needs onnx", fix="pip install 'unetcli[export]'") from error

    axes = "zyx"[-len(sizes_out) :]
    names = {
        INPUT: {0: "n", **dict(enumerate(axes, start=2))},
        OUTPUT: {0: "n", **dict(enumerate(sizes_out, start=2))},
    }
    buffer = io.BytesIO()
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            network.eval(), (image,), buffer, dynamo=False, opset_version=OPSET,  # type: ignore[arg-type]
            input_names=[INPUT], output_names=[OUTPUT], dynamic_axes=names,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter says to programmers: that it is not the newest, and what it can not trace."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
