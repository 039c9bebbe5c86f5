"""Settings of what uses a model: `tile-predict` and `export`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from unetcli.config.settings import Config, extents_of, mistake_of_extents, setting

INSTANCES = "Instances"
"""What follows the network, and has options of its own."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Settings of `tile-predict`."""

    tile_size: str | int | None = setting(
        None, "Extent of a tile as the network reads it, pixels: 572, or 32,128,128 for z,y,x. [default: what fits "
        "into memory and is fastest, found by trying]",
    )  # fmt: skip
    precision: str = setting(
        "auto",
        "Of convolutions. float32: tilings agree to 1e-5; bfloat16 to about 0.02, several times as fast on CUDA. auto: "
        "bfloat16 on CUDA devices made for it, float32 on CPUs.",
        choices=("auto", "float32", "bfloat16"),
    )
    engine: str = setting(
        "auto",
        "What runs the network: torch, compiled by it, or on CPUs another library, equal to 1e-5. auto: torch.",
        choices=("auto", "torch", "compiled", "onnxruntime", "openvino"),
    )
    probability_dtype: str = setting(
        "float32",
        "Type of --probabilities and --uncertainty; uint8 holds 255 times the value.",
        choices=("float32", "float16", "uint8"),
    )
    classes: str | None = setting(
        None, "Classes whose probability is written, by name or number: cell,2. [default: all]"
    )
    uncertainty_kind: str = setting(
        "entropy", "What --uncertainty is: entropy of the classes, or their variance over the views of --tta.",
        choices=("entropy", "variance"),
    )  # fmt: skip
    tta: str = setting(
        "none",
        "Average over mirrored (flips: 4), also turned (d4: 8), or rotated views (rotations: 7, as in the paper).",
        choices=("none", "flips", "d4", "rotations"),
    )
    level: int = setting(0, "Level of the image's pyramid that the network sees; 0 is full size.", minimum=0)
    upsample: str = setting(
        "bilinear", "How the result of a level is brought to full size; none leaves it at the level's.",
        choices=("bilinear", "nearest", "none"),
    )  # fmt: skip
    scales: str | None = setting(
        None, "Levels whose probabilities are averaged at full size: 0,1,2. [default: the one of --level]"
    )
    ngff: str = setting("0.5", "Version of OME-Zarr of new stores.", choices=("0.4", "0.5"))
    object_ndim: int | None = setting(
        None, "Objects lie in planes (2) or in volumes (3). [default: as the model]",
        minimum=2, maximum=3, group=INSTANCES,
    )  # fmt: skip
    connectivity: str = setting(
        "faces",
        "How the pixels of an object touch: across faces (4 neighbours, 6 in volumes), or also edges and corners "
        "(full: 8, 26).",
        choices=("faces", "full"),
        group=INSTANCES,
    )
    threshold: float | None = setting(
        None, "Least probability of not being background, of the pixels of objects. [default: as the mask]",
        above=0, maximum=1, group=INSTANCES,
    )  # fmt: skip
    fill_holes: bool = setting(False, "Fill the holes of objects.", group=INSTANCES)
    min_size: int = setting(1, "Leave out objects of fewer pixels.", minimum=1, group=INSTANCES)
    split: str = setting(
        "none",
        "Split objects that touch: where they are narrow (distance to their edge), or improbable (probability).",
        choices=("none", "distance", "probability"),
        group=INSTANCES,
    )
    split_depth: float | None = setting(
        None, "Peaks that rise less above the saddle between them are of one object: pixels, or probability. "
        "[default: 1, or 0.05]",
        above=0, maximum=1000, group=INSTANCES,
    )  # fmt: skip
    split_reach: float = setting(
        32.0, "Distances to the edge of an object beyond this are the same, pixels; necks twice as wide do not split.",
        minimum=1, maximum=1000, group=INSTANCES,
    )  # fmt: skip
    split_sigma: float = setting(
        2.0, "Width of the Gaussian that smooths probabilities before objects are split, pixels; 0 for none.",
        minimum=0, maximum=100, group=INSTANCES,
    )  # fmt: skip

    def instance_settings(self, *, changed: bool = False) -> dict[str, Any]:
        """Return the settings that only instances depend on; or of them, those that are not the default."""
        found = {f.name: (getattr(self, f.name), f.default) for f in fields(self) if f.metadata["group"] == INSTANCES}
        return {name: value for name, (value, default) in found.items() if not changed or value != default}

    def pixel_settings(self) -> dict[str, Any]:
        """Return the settings that the network's output depends on: all but those of instances."""
        names = {f.name for f in fields(self)} - set(self.instance_settings())
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}

    def __post_init__(self) -> None:
        if self.tile_size is not None:
            object.__setattr__(self, "tile_size", str(self.tile_size).replace(" ", ""))
        if self.scales is not None:
            object.__setattr__(self, "scales", str(self.scales).replace(" ", ""))
        super().__post_init__()

    def tile_shape(self, ndim: int) -> tuple[int, ...]:
        """Return the extent of a tile along (y, x) or (z, y, x), pixels.

        Raises
        ------
        ConfigError
            If it is given for axes that there are not.
        """
        return extents_of("--tile-size", str(self.tile_size), ndim)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that the network sees."""
        return (self.level,) if self.scales is None else tuple(map(int, self.scales.split(",")))

    def mistakes(self) -> list[str]:
        """Check what `tile_size` and `scales` hold, and what goes together."""
        found = mistake_of_extents("--tile-size", self.tile_size)
        if self.scales is not None:
            is_list = re.fullmatch(r"\d{1,2}(,\d{1,2})*", self.scales)
            if not is_list or len(set(self.levels)) < len(self.levels):
                found.append(f"--scales {self.scales}: expected different levels, such as 0,1,2")
            if self.level or self.upsample == "none":
                found.append(
                    "--scales with --level or --upsample none: expected --scales alone, which names all levels"
                )
        if self.precision == "bfloat16" and self.engine in ("onnxruntime", "openvino"):
            found.append(f"--precision bfloat16: --engine {self.engine} computes in float32")
        return found + self._mistakes_of_split()

    def _mistakes_of_split(self) -> list[str]:
        """Find settings of splits that are made in another way, or not at all."""
        changed = self.instance_settings(changed=True)
        ways = {"split_depth": None, "split_reach": "distance", "split_sigma": "probability"}
        found = [
            f"--{name.replace('_', '-')} without --split {way or 'distance or probability'}: expected both or neither"
            for name, way in ways.items()
            if name in changed and (self.split != way if way else self.split == "none")
        ]
        if self.split == "probability" and (self.split_depth or 0) > 1:
            found.append(f"--split-depth {self.split_depth:g} of --split probability: expected at most 1")
        return found


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Settings of `export`, all of them for the package of the BioImage Model Zoo (model.zip)."""

    name: str | None = setting(None, "Name of the model. [default: from its architecture and classes]", group="Package")
    description: str | None = setting(None, "What it is for, in a sentence or two.", group="Package")
    author: str | None = setting(None, "Who made it; several separated by semicolons.", group="Package")
    license: str | None = setting(None, "Its license, by the identifier of SPDX, such as CC-BY-4.0.", group="Package")
    cite: str | None = setting(None, "DOI of what to cite, beside the paper of the U-Net.", group="Package")
