"""The parameters of samples as a table that people read, and from which each sample is made again exactly."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unetcli.errors import ConfigError, InputError
from unetcli.image.location import Location
from unetcli.kernels.deformation import MOST_PX, Deformation
from unetcli.kernels.gray import GrayVariation
from unetcli.sampling import Example, Sample

GRAY = {"contrast": "", "brightness": " std", "gamma": "", "noise": " std", "blur": " px"}
"""Parameters of each channel, and their units."""
AT = ("z", "y", "x")
FIX = "the parameters.csv of a store that unetcli augment wrote, and the data set it was made from"


def sample_name(k: int) -> str:
    """Return what sample k is called."""
    return f"sample_{k:05d}"


def table_of(samples: Iterable[tuple[int, Sample]]) -> str:
    """Return the table of numbered samples as CSV, a line for each.

    Notes
    -----
    ==================================  ================================================================
    ``sample, image, t``                its name; image and time point that it shows
    ``z, y, x``                         first pixel of its region in the image
    ``size_z, size_y, size_x``          pixels of the region
    ``rotation_deg, flip, scale``       the image is turned clockwise, then mirrored along these axes, and
                                        magnified; read off the matrix, for people
    ``shift_z_px``, `_y_`, `_x_`        it shows what lies so far away in the image
    ``interpolation``                   of the image
    ``contrast_0`` and so on            gray values of channel 0, 1, ...: see `GrayVariation`
    ``noise_seed``                      seed of the noise
    ``displacement_px, matrix``         control vectors (3, gz, gy, gx) and affine map as JSON: see `Deformation`
    ==================================  ================================================================

    Numbers have as many digits as tell them apart from all others, so nothing is lost.
    """
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for k, sample in samples:
        row = {"sample": sample_name(k), **_row(sample)}
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()


def _row(sample: Sample) -> dict[str, Any]:
    d, gray = sample.deformation, sample.gray
    rotation_deg, flip, scale = affine_parameters(sample)
    return {
        "image": sample.example.name,
        "t": sample.t,
        **dict(zip(AT, sample.origin, strict=True)),
        **{f"size_{a}": n for a, n in zip(AT, d.shape, strict=True)},
        "rotation_deg": f"{rotation_deg:.4f}",
        "flip": flip,
        "scale": f"{scale:.6f}",
        **{f"shift_{a}_px": float(shift) for a, shift in zip(AT, d.offset, strict=True)},
        "interpolation": sample.interpolation,
        **{f"{name}_{c}": value for name in GRAY for c, value in enumerate(getattr(gray, name))},
        "noise_seed": gray.seed,
        "displacement_px": json.dumps(d.grid.tolist()),
        "matrix": json.dumps(d.matrix.tolist()),
    }


def affine_parameters(sample: Sample) -> tuple[float, str, float]:
    """Return what the matrix of a sample's deformation does to the image, as it is seen with square pixels.

    Returns
    -------
    rotation_deg : float
        The image is first turned clockwise by this, in (-180, 180]. What is mirrored along y is turned by 180
        degrees more and mirrored along x instead: the same picture.
    flip : str
        Then it is mirrored along these axes: z, x, both or none.
    scale : float
        And magnified.
    """
    matrix = sample.deformation.matrix
    area = float(np.linalg.det(matrix[1:, 1:]))
    rotation = math.degrees(math.atan2(matrix[2, 1] / sample.example.image.axes.spacing[1], matrix[1, 1]))
    return rotation, ("z" if matrix[0, 0] < 0 else "") + ("x" if area < 0 else ""), abs(area) ** -0.5


def describe(sample: Sample) -> tuple[str, str]:
    """Say in two lines how a sample was deformed, and how its gray values were varied."""
    rotation_deg, flip, scale = affine_parameters(sample)
    size = np.array(sample.example.image.axes.spacing)[:, None, None, None]
    longest = float(np.linalg.norm(sample.deformation.grid * size, axis=0).max())
    shift = ", ".join(f"{d:.0f}" for d in sample.deformation.offset[1 if sample.shape[0] == 1 else 0 :])
    mirrored = f", mirrored along {' and '.join(flip)}" if flip else ""
    turned = f"turned {rotation_deg:.0f}°{mirrored}, scaled {scale:.2f}, shifted ({shift}) px"
    varied = ", ".join(f"{name} {_span(getattr(sample.gray, name))}{unit}" for name, unit in GRAY.items())
    return f"{turned}, vectors up to {longest:.0f} px", varied


def _span(values: Sequence[float]) -> str:
    texts = list(dict.fromkeys(f"{value:.2f}" for value in values))
    return " / ".join(texts) if len(texts) <= 4 else f"{min(values):.2f} to {max(values):.2f}"


def read_table(path: Location, examples: Mapping[str, Example]) -> dict[int, Sample]:
    """Make the samples of a table again, by number.

    Parameters
    ----------
    path
        The table: a ``parameters.csv``.
    examples
        The images that they are taken from, by name.

    Raises
    ------
    InputError
        If it is no such table, or not one of these images.
    """
    csv.field_size_limit(2**31 - 1)  # of 131,072 characters: the vectors of a fine grid have more
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can not be read as a table of samples ({reason})", fix=FIX) from error
    if not lines:
        raise InputError(f"{path}: has no samples", fix=FIX)
    found: dict[int, Sample] = {}
    for number, line in enumerate(lines, start=2):
        try:
            found[int(line["sample"].removeprefix("sample_"))] = _sample(line, examples)
        except (KeyError, ValueError, TypeError, RecursionError, ConfigError) as error:
            what = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: line {number} is not a sample of augment: {what}", fix=FIX) from error
        except InputError as error:
            raise InputError(f"{path}: line {number}: {error}", fix=FIX) from error
    if len(found) < len(lines):
        raise InputError(f"{path}: has {len(lines)} lines for {len(found)} samples; expected one line each")
    return found


def _sample(line: Mapping[str, str], examples: Mapping[str, Example]) -> Sample:
    """Make one sample of its line."""
    if line["image"] not in examples:
        raise InputError(f"is of the image {line['image']}, which the data set does not have")
    example = examples[line["image"]]
    n_channels, n_t = example.image.shape[1], example.image.shape[0]
    z, y, x = (int(line[a]) for a in AT)
    size_z, size_y, size_x = (int(line[f"size_{a}"]) for a in AT)
    if max(map(abs, (z, y, x))) >= MOST_PX:
        raise InputError(f"begins at {z}, {y}, {x}; expected pixels of an image")
    if not 0 <= int(line["t"]) < n_t or min(size_z, size_y, size_x) < 1 or f"contrast_{n_channels}" in line:
        raise InputError(
            f"time point {line['t']}, {size_z} x {size_y} x {size_x} pixels; expected one of an image of {n_t} time "
            f"points and {n_channels} channels, and some pixels"
        )
    deformation = Deformation(
        (size_z, size_y, size_x),
        np.array(json.loads(line["displacement_px"]), np.float64),
        np.array(json.loads(line["matrix"]), np.float64),
        np.array([float(line[f"shift_{a}_px"]) for a in AT]),
    )
    if not all(np.isfinite(part).all() for part in (deformation.grid, deformation.matrix, deformation.offset)):
        raise InputError("has numbers that are not finite")
    gray = {name: tuple(float(line[f"{name}_{c}"]) for c in range(n_channels)) for name in GRAY}
    if line["interpolation"] not in ("linear", "cubic"):
        raise InputError(f"interpolation is {line['interpolation']}; expected linear or cubic")
    variation = GrayVariation(**gray, seed=int(line["noise_seed"]))
    return Sample(example, int(line["t"]), (z, y, x), deformation, variation, line["interpolation"])
