"""Settings of what uses a model: `tile-predict` and `export`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from unetcli.config.settings import Config, extents_of, mistake_of_extents, setting

INSTANCES = "Instances"
"""What follows the network, and has options of its own."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Settings of `tile-predict`."""

    tile_size: str | int | None = setting(
        None, "Extent of a tile as the network reads it, pixels: 572, or 32,128,128 for z,y,x. [default: a core of "
        "512, on CUDA 1024; of volumes 64, on CUDA 96]",
    )  # fmt: skip
    probability_dtype: str = setting(
        "float32",
        "Type of --probabilities; uint8 holds 255 times the probability.",
        choices=("float32", "float16", "uint8"),
    )
    tta: str = setting(
        "none",
        "Average over mirrored (flips: 4) or also turned (d4: 8) views of the image.",
        choices=("none", "flips", "d4"),
    )
    level: int = setting(0, "Level of the image's pyramid that the network sees; 0 is full size.", minimum=0)
    upsample: str = setting(
        "bilinear", "How the result of a level is brought to full size; none leaves it at the level's.",
        choices=("bilinear", "nearest", "none"),
    )  # fmt: skip
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
        super().__post_init__()

    def tile_shape(self, ndim: int) -> tuple[int, ...]:
        """Return the extent of a tile along (y, x) or (z, y, x), pixels.

        Raises
        ------
        ConfigError
            If it is given for axes that there are not.
        """
        return extents_of("--tile-size", str(self.tile_size), ndim)

    def mistakes(self) -> list[str]:
        """Check what `tile_size` holds."""
        return mistake_of_extents("--tile-size", self.tile_size)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Settings of `export`, all of them for the package of the BioImage Model Zoo (model.zip)."""

    name: str | None = setting(None, "Name of the model. [default: from its architecture and classes]", group="Package")
    description: str | None = setting(None, "What it is for, in a sentence or two.", group="Package")
    author: str | None = setting(None, "Who made it; several separated by semicolons.", group="Package")
    license: str | None = setting(None, "Its license, by the identifier of SPDX, such as CC-BY-4.0.", group="Package")
    cite: str | None = setting(None, "DOI of what to cite, beside the paper of the U-Net.", group="Package")
