"""Models on disk: parameters, and everything needed to use them, in one file without pickle."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unetcli.architectures import ARCHITECTURES
from unetcli.atomic import write_atomically
from unetcli.errors import InputError, first_line
from unetcli.models import build_model
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.models.onnx import SUFFIX, OnnxNetwork

FORMAT = 1
KEY = "unetcli"
"""Of the header among the metadata of a file."""


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says about itself.

    Parameters
    ----------
    arch, parameters
        How to rebuild the network: `build_model`.
    geometry
        How its output lies on its input.
    classes
        Name of each class; class 0 is background.
    channels
        Number of channels of the image.
    mean, std : one number for each channel
        The network takes ``(image - mean) / std``.
    pixel_size
        Pixel size along z, y, x of the images it was trained on, and the unit.
    provenance
        How it was made.
    channel_names
        Name of each channel, where known.
    """

    arch: str
    parameters: Mapping[str, Any]
    geometry: Geometry
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_size: Mapping[str, Any]
    provenance: Mapping[str, Any]
    channel_names: tuple[str, ...] = ()

    @property
    def ndim(self) -> int:
        """Number of axes that the network works along: 2 or 3."""
        return len(self.geometry.axes)


def save_model(path: Path, parameters: Mapping[str, Tensor], header: ModelHeader) -> None:
    """Write a model file; it is there whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in parameters.items()}
    write_atomically(path, safetensors.torch.save(tensors, header_metadata(header)))


def header_metadata(header: ModelHeader) -> dict[str, str]:
    """Return a header as the metadata of a file, of any kind."""
    return {KEY: json.dumps({"format": FORMAT, **asdict(header)}, sort_keys=True)}


def load_model(path: Path) -> tuple[nn.Module, ModelHeader]:
    """Rebuild a network from a model file, or from the folder of a training run.

    Returns
    -------
    network
        Takes ``(image - mean) / std`` by the header, and returns logits.
    header
        As in the file; of ONNX, whose graph normalizes, with mean 0 and standard deviation 1.

    Raises
    ------
    InputError
        If it is missing, damaged, or not a model of this package.
    """
    file = model_file(path)
    header = read_header(file)
    if file.suffix == SUFFIX:
        n = header.channels
        return OnnxNetwork(file.read_bytes(), str(file)).eval(), replace(header, mean=(0.0,) * n, std=(1.0,) * n)
    with torch.device("meta"):  # no memory is taken before what the header claims is seen to be there
        network = build_model(header.arch, header.parameters)
    try:
        with safe_open(file, framework="pt") as tensors:
            parameters = {name: tensors.get_tensor(name).clone() for name in tensors.keys()}  # noqa: SIM118
        network.load_state_dict(parameters, assign=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{file}: parameters do not fit its header ({first_line(error)})") from error
    return network.float().eval(), header


def read_header(path: Path) -> ModelHeader:
    """Read what a model file says about itself."""
    file = model_file(path)
    text = _metadata(file).get(KEY)
    if text is None:
        raise InputError(f"{file}: was not written by unetcli; expected its header in the metadata")
    try:
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise InputError(f"{file}: has a newer format", fix="pip install --upgrade unetcli")
        fields.setdefault("channel_names", ())  # models of earlier versions have none
        for name in ("classes", "mean", "std", "channel_names"):
            fields[name] = tuple(fields[name])
        if fields["arch"] not in ARCHITECTURES:
            raise InputError(
                f"{file}: has the architecture {fields['arch']}; expected one of {', '.join(ARCHITECTURES)}",
                fix="pip install --upgrade unetcli",
            )
        with torch.device("meta"):
            build_model(fields["arch"], fields["parameters"])  # else they are found wrong where they are used
        _check_fields(fields)
        return ModelHeader(**{**fields, "geometry": _geometry(fields["geometry"], fields["parameters"])})
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{file}: the header of the model can not be understood ({type(error).__name__}: {first_line(error)})"
        ) from error


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Refuse names and numbers that are none, or too few or too many: else a result would be wrong in silence."""
    size, parameters = fields["pixel_size"], fields["parameters"]
    numbers = [*fields["mean"], *fields["std"], *(size[a] for a in "zyx" if a in size)]
    names = [*fields["classes"], *fields["channel_names"], parameters["padding"]]
    if not (isinstance(size, dict) and all(map(math.isfinite, numbers)) and all(isinstance(n, str) for n in names)):
        raise ValueError("expected names of classes and channels, and numbers for mean, std and pixel size")
    if not fields["channels"] == parameters["channels"] == len(fields["mean"]) == len(fields["std"]):
        raise ValueError(f"expected a mean and a std for each of {parameters['channels']} channels")
    if len(fields["classes"]) != max(2, parameters["classes"]):
        raise ValueError(f"has {len(fields['classes'])} classes; the network, {max(2, parameters['classes'])}")


def _geometry(fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> Geometry:
    """Read a geometry; models of earlier versions have one for all axes."""
    axes = fields["axes"] if "axes" in fields else [fields] * parameters["ndim"]
    numbers = [(n, int(name == "stride")) for axis in axes for name, n in axis.items()]
    if len(axes) != parameters["ndim"] or not all(isinstance(n, int) and n >= least for n, least in numbers):
        raise ValueError(f"expected strides from 1 on, and sizes from 0 on, along each of {parameters['ndim']} axes")
    return Geometry(tuple(AxisGeometry(**axis) for axis in axes))


def _metadata(file: Path) -> dict[str, str]:
    if file.suffix == SUFFIX:
        return OnnxNetwork(file.read_bytes(), str(file)).metadata
    try:
        with safe_open(file, framework="pt") as tensors:
            return tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: is not a model ({first_line(error)}); expected safetensors") from error


def model_file(path: Path) -> Path:
    """Return the model file of a training run, or the path itself."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path}: does not exist; expected a model", fix="unetcli train makes one")
    if not file.is_file():
        begun = (path / "last.ckpt").is_file()
        raise InputError(
            f"{path}: has no model.safetensors",
            fix="training has not finished: run the same train command again" if begun else "unetcli train makes one",
        )
    if zipfile.is_zipfile(file) and file.suffix == ".zip":
        raise InputError(
            f"{file}: is a package for other programs; expected a model",
            fix="the run it was made of, or the model.onnx in it: unzip it",
        )
    return file


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write what training needs to go on; the file is there whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Tensors and plain values only: no code is run."""
    try:
        return dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:
        raise InputError(
            f"{path}: is damaged ({first_line(error)[:80]})",
            fix="--overwrite starts again from nothing",
        ) from error
