"""Model to a file for other programs: ONNX, or a package of the BioImage Model Zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetcli.atomic import write_atomically
from unetcli.config import ExportConfig
from unetcli.errors import ConfigError, InputError
from unetcli.export.bioimageio import Card, SpaceAxis, package
from unetcli.export.onnx import INPUT, OPSET, OUTPUT, to_onnx
from unetcli.image.axes import MICROMETERS
from unetcli.models.checkpoint import ModelHeader, header_metadata, load_model, model_file
from unetcli.models.geometry import AxisGeometry
from unetcli.models.onnx import SUFFIX, OnnxNetwork
from unetcli.models.portable import Portable
from unetcli.report.pictures import to_gray, to_png

FloatArray = NDArray[np.float32]
TOLERANCE = 1e-4
"""Of probabilities, between onnxruntime and torch: rounding is hundreds of times smaller."""
KINDS = {SUFFIX: "ONNX", ".zip": "package of the BioImage Model Zoo"}


def run(
    model: Path, out: Path, config: ExportConfig, *, overwrite: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Write a model as ONNX, or as a package of the BioImage Model Zoo that holds it.

    Parameters
    ----------
    model
        The folder of a training run, or its model file.
    out
        The new file: ``model.onnx`` or ``model.zip``.
    config
        Settings.
    overwrite
        Replace the file, if it is there.
    dry_run
        Check everything, return what would be written, write nothing.

    Returns
    -------
    dict
        The file, the sizes that it takes, and how far it is from torch.

    Raises
    ------
    ConfigError
        If the file is there, is of neither kind, or what it needs is not installed.
    InputError
        If the ONNX model does not give what the network gives; then nothing is written.
    """
    file = model_file(model)
    if out.suffix not in KINDS:
        raise ConfigError(f"-o {out}: expected model.onnx, or model.zip for the BioImage Model Zoo")
    if file.suffix == SUFFIX:
        raise ConfigError(f"{file}: is ONNX already", fix="give the run, or its model.safetensors")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists already", fix="--overwrite replaces it")
    network, header = load_model(file)
    portable = Portable(network, header.mean, header.std).eval()
    content = to_onnx(portable, _images(header, 1, [1] * header.ndim), _sizes_out(header), header_metadata(header))
    difference = _check(content, portable, header, file)
    if out.suffix == ".zip":
        content = _packed(content, portable, header, config)
    if not dry_run:
        write_atomically(out, content)
    return {
        "out": str(out),
        "kind": KINDS[out.suffix],
        "inputs": "; ".join(f"{name}: {axis.sizes()}" for name, axis in _named(header)),
        "megabytes": len(content) / 1e6,
        "greatest_difference_to_torch": difference,
    }


def _named(header: ModelHeader) -> list[tuple[str, AxisGeometry]]:
    return list(zip("zyx"[-header.ndim :], header.geometry.axes, strict=True))


def _images(header: ModelHeader, n: int, steps: list[int], least: list[int] | None = None) -> Tensor:
    """Draw images with the gray values of the training: as smooth as pictures, so many strides above some size."""
    smallest = least or [axis.smallest for axis in header.geometry.axes]
    sizes = [s + k * axis.stride for axis, s, k in zip(header.geometry.axes, smallest, steps, strict=True)]
    blur = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[header.ndim](5, stride=1)
    noise = torch.randn((n, header.channels, *(s + 4 for s in sizes)), generator=torch.Generator().manual_seed(0))
    smooth: Tensor = blur(noise)
    shape = (1, -1, *(1,) * header.ndim)
    return smooth / smooth.std() * torch.tensor(header.std).reshape(shape) + torch.tensor(header.mean).reshape(shape)


def _sizes_out(header: ModelHeader) -> list[str]:
    return [f"{name} - {2 * axis.margin}" if axis.margin else name for name, axis in _named(header)]


def _check(content: bytes, portable: Portable, header: ModelHeader, file: Path) -> float:
    """Return how far the ONNX model is from the network: for a batch, and for another size along each axis."""
    onnx = OnnxNetwork(content, str(file))
    worst = 0.0
    for n, steps in ((2, [2] * header.ndim), (1, list(range(3, 3 + header.ndim)))):
        images = _images(header, n, steps)
        with torch.inference_mode():
            worst = max(worst, float((onnx(images).exp() - portable(images)).abs().max()))
    if not worst <= TOLERANCE:
        raise InputError(f"{file}: as ONNX it differs from torch by {worst:.2g}; expected at most {TOLERANCE:g}")
    return worst


# ------------------------------------------------------------------------------------------- the package


def _packed(content: bytes, portable: Portable, header: ModelHeader, config: ExportConfig) -> bytes:
    axes = [_space_axis(name, axis, header) for name, axis in _named(header)]
    image = _images(header, 1, [1] * header.ndim, [axis.smallest for axis in axes])
    with torch.inference_mode():
        probabilities = portable(image)
    channels = header.channel_names or tuple(f"channel_{i}" for i in range(header.channels))
    names = {INPUT: channels}, {OUTPUT: header.classes}
    example = image.numpy(), probabilities.numpy()
    return package(content, OPSET, _card(header, config, _cover(*example)), axes, names, example)


def _cover(image: FloatArray, probabilities: FloatArray) -> bytes:
    """Draw the example: what the network saw of it, and beside it where it found something; of volumes a plane."""
    margins = [(a - b) // 2 for a, b in zip(image.shape[2:], probabilities.shape[2:], strict=True)]
    inside = tuple(slice(m, n - m) for m, n in zip(margins, image.shape[2:], strict=True))
    shown = image[0][:, *inside]
    found = 1 - probabilities[0, 0]
    if found.ndim == 3:
        shown, found = shown[:, len(found) // 2], found[len(found) // 2]
    return to_png(np.concatenate([to_gray(shown), np.rint(255 * found).astype(np.uint8)], axis=1))


def _space_axis(name: str, axis: AxisGeometry, header: ModelHeader) -> SpaceAxis:
    """Describe an axis so that tiles of any size fit together, with the same halo at both of their sides.

    The smallest size is the first one that leaves something of a tile.
    """
    halo = symmetric_halo(axis)
    smallest = axis.next_legal(2 * (axis.margin + halo) + 1)
    return SpaceAxis(name, smallest, axis.stride, axis.margin, halo, *_exact_size(name, header))


def _exact_size(name: str, header: ModelHeader) -> tuple[float | None, str | None]:
    """Return the size of a pixel, and its unit, as far as known, so that readers can count in it.

    They compute ``int(n * size / size)``, which loses a pixel to rounding with 0.65 micrometer, but not with 650
    nanometer: numbers with few digits are exact.
    """
    unit = str(header.pixel_size.get("unit"))
    size_um = float(header.pixel_size.get(name, 0)) * MICROMETERS.get(unit, 0)
    for found, as_unit in ((float(header.pixel_size.get(name, 0)), unit), (size_um * 1e3, "nanometer")):
        size = round(found, 3)
        if unit in MICROMETERS and size and abs(size / found - 1) < 1e-3 and _counts_exactly(size):
            return size, as_unit
    size = float(round(size_um * 1e6))
    return (size, "picometer") if size else (None, None)


def _counts_exactly(size: float) -> bool:
    pixels = np.arange(1, 2**14)
    return bool(((pixels * size / size).astype(int) == pixels).all())


def symmetric_halo(axis: AxisGeometry) -> int:
    """Return how much of the output of a tile to throw away at both sides, so that tiles of any size fit together.

    Notes
    -----
    What is left has to start and to end on the stride, counted from that of its neighbours, and is not to depend on
    anything outside of the tile. For the paper's network, whose output is 4 pixels longer than multiples of 16, that
    is 10; `same` padding needs the whole halo.
    """
    least = max(axis.halo, axis.reach) - axis.margin
    output = axis.smallest - 2 * axis.margin
    fits = [h for h in range(least, least + 2 * axis.stride) if (output - 2 * h) % axis.stride == 0]
    return min(fits, key=lambda h: (h % axis.stride != 0, h), default=least)


def _card(header: ModelHeader, config: ExportConfig, cover: bytes) -> Card:
    classes = ", ".join(header.classes)
    description = config.description or f"Segments images of microscopes into {classes} ({header.arch})."
    return Card(
        name=config.name or f"{header.arch} {header.ndim}D for {' and '.join(header.classes[1:])}".replace("_", " "),
        description=description,
        documentation=_documentation(header, description),
        authors=_split(config.author),
        license=config.license,
        dois=_split(config.cite),
        tags=("segmentation", "semantic-segmentation", "unet", f"{header.ndim}d", "unetcli"),
        cover=cover,
    )


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(";") if part.strip())


def _documentation(header: ModelHeader, description: str) -> str:
    sizes = "".join(
        f"| {name} | {axis.sizes()} | {2 * axis.margin} less | {symmetric_halo(axis)} |\n"
        for name, axis in _named(header)
    )
    gray = "".join(
        f"| {name} | {mean:g} | {std:g} |\n"
        for name, mean, std in zip(
            header.channel_names or map(str, range(header.channels)), header.mean, header.std, strict=True
        )
    )
    pixel = ", ".join(f"{a} {header.pixel_size[a]:g}" for a in "zyx" if a in header.pixel_size)
    unit = header.pixel_size.get("unit")
    return f"""# {header.arch} in {header.ndim}D

{description}

- **Input**: `{INPUT}`, gray values as they are in the image, float32. The model normalizes them itself, by the values
  of its training: do not normalize them before.
- **Output**: `{OUTPUT}` of {", ".join(header.classes)}, in this order; they add up to 1.
- **Pixel size** of the training: {f"{pixel} {unit}" if unit else "not known"}.

| axis | sizes of the input | size of the output | halo of the output |
|---|---|---|---|
{sizes}
| channel | mean in training | standard deviation |
|---|---|---|
{gray}
## Validation

Compare masks with hand-made ones of images that were not used for training, by IoU, and look at the worst of them:
`unetcli tile-predict new.zarr --model model.onnx -o mask.zarr`, then `unetcli evaluate mask.zarr truth/ -o report/`.
The model file holds all that `unetcli` needs.
"""
