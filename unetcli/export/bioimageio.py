"""A package of the BioImage Model Zoo: a model with all that other programs need to run it and to show it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ConfigError

FloatArray = NDArray[np.float32]
U_NET = {
    "text": "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015",
    "doi": "10.1007/978-3-319-24574-4_28",
}


@dataclass(frozen=True)
class SpaceAxis:
    """How a network takes an axis, in pixels.

    Parameters
    ----------
    name
        z, y or x.
    smallest, stride
        Legal sizes of the input are ``smallest + n * stride``.
    margin
        Pixels that the output is smaller than the input, a side.
    halo
        Pixels to throw away of the output at each side, so that tiles fit together.
    pixel_size, unit
        Where known: size of a pixel, and its unit.
    """

    name: str
    smallest: int
    stride: int
    margin: int
    halo: int
    pixel_size: float | None = None
    unit: str | None = None

    def described(self) -> dict[str, Any]:
        """Return what input and output say of the axis alike."""
        known = {"scale": self.pixel_size, "unit": self.unit} if self.pixel_size and self.unit else {}
        return {"type": "space", "id": self.name, **known}

    def input(self) -> dict[str, Any]:
        """Describe the axis of the input."""
        return {**self.described(), "size": {"min": self.smallest, "step": self.stride}}

    def output(self, of: str) -> dict[str, Any]:
        """Describe the axis of the output, by that of the input."""
        size = {"tensor_id": of, "axis_id": self.name, "offset": -2 * self.margin}
        return {**self.described(), "size": size, **({"halo": self.halo} if self.halo else {})}


@dataclass(frozen=True)
class Card:
    """What is said about a model to people."""

    name: str
    description: str
    documentation: str
    authors: tuple[str, ...]
    license: str | None
    dois: tuple[str, ...]
    tags: tuple[str, ...]
    cover: bytes
    """A picture, PNG; twice as wide as high."""


def package(
    model: bytes,
    opset: int,
    card: Card,
    axes: Sequence[SpaceAxis],
    names: tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]],
    example: tuple[FloatArray, FloatArray],
) -> bytes:
    """Return a zipped package with one ONNX model.

    Parameters
    ----------
    model, opset
        The ONNX file, and the version of its operators.
    card
        What is said about it.
    axes
        Along z, y, x.
    names
        Of the input and of the output: their name to those of their channels.
    example : (n, c, [z,] y, x) float32
        An input and its output, which whoever runs the model can compare.

    Raises
    ------
    ConfigError
        If what is said of it is not what the Zoo takes, or `bioimageio.spec` is not installed.
    """
    try:
        from bioimageio.spec import ValidationContext, save_bioimageio_package
        from bioimageio.spec.model.v0_5 import ModelDescr
        from pydantic import ValidationError
    except ImportError as error:
        raise ConfigError("packages need bioimageio.spec", fix="pip install 'unetcli[export]'") from error

    (inputs, outputs), (image, probabilities) = names, example
    (of,) = inputs
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        (root / "model.onnx").write_bytes(model)
        (root / "cover.png").write_bytes(card.cover)
        (root / "README.md").write_text(card.documentation)
        np.save(root / "input.npy", image)
        np.save(root / "output.npy", probabilities)
        described = {
            "type": "model", "format_version": "0.5.12", "version": "1", "name": card.name,
            "description": card.description, "documentation": {"source": "README.md"},
            "authors": [{"name": name} for name in card.authors], "license": card.license,
            "cite": [U_NET, *({"text": doi, "doi": doi} for doi in card.dois)], "tags": list(card.tags),
            "covers": [{"source": "cover.png"}],
            "inputs": [_tensor(inputs, [axis.input() for axis in axes], "input.npy") | {"pad": {"mode": "reflect"}}],
            "outputs": [_tensor(outputs, [axis.output(of) for axis in axes], "output.npy")],
            "weights": {"onnx": {"source": "model.onnx", "opset_version": opset}},
        }  # fmt: skip
        try:
            # Errors of the reader's log are for programmers; nothing is ever loaded from the network, for nothing
            # here refers to it.
            with ValidationContext(root=root, log_warnings=False):
                save_bioimageio_package(ModelDescr.model_validate(described), output_path=root / "package.zip")
        except ValidationError as error:
            raise _refused(error) from error
        return (root / "package.zip").read_bytes()


def _tensor(names: Mapping[str, Sequence[str]], axes: list[dict[str, Any]], test: str) -> dict[str, Any]:
    ((name, channels),) = names.items()
    return {
        "id": name,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(channels)}, *axes],
        "data": {"type": "float32"},
        "test_tensor": {"source": test},
    }


def _refused(error: Any) -> ConfigError:  # noqa: ANN401 - pydantic comes with the extra
    """Say which of the options the Zoo does not take; what does not come from an option is a fault of ours."""
    fields = ("name", "description", "authors", "license", "cite")
    options = {field: f"--{field.removesuffix('s')}" for field in fields}
    found = {str(e["loc"][0]): e["msg"] for e in error.errors() if str(e["loc"][0]) in options}
    if not found:
        raise error
    return ConfigError("; ".join(f"{options[field]}: {message}" for field, message in found.items()))
