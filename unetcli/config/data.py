"""Settings of what makes and reads data: `prep`, `weights` and `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unetcli.config.settings import Config, mistake_of_extents, setting


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Config):
    """What the values of label images mean, the same in `prep` and `evaluate`."""

    label_kind: str | None = setting(
        None, "What label values mean; of boundaries and cells, the boundaries become class 0. [default: two values, "
        "and colours, are classes, more are instances]",
        choices=("instances", "classes", "boundaries"), group="Labels",
    )  # fmt: skip
    classes: str | None = setting(
        None, "Label value or colour of each class, background first: 0=membrane,255=cell, or '#ff0000=cell'.",
        group="Labels",
    )  # fmt: skip
    label_threshold: int | None = setting(
        None, "Label values from this one on are 1, others 0: for masks with smooth edges, or stored as JPEG.",
        group="Labels",
    )  # fmt: skip
    boundary_value: int | None = setting(
        None, "With --label-kind boundaries: their value. [default: the one of fewer pixels]", group="Labels"
    )

    def mistakes(self) -> list[str]:
        """Check which settings of labels go together."""
        found = []
        if self.boundary_value is not None and self.label_kind != "boundaries":
            found.append("--boundary-value: expected with --label-kind boundaries only")
        if self.classes and self.label_kind in ("instances", "boundaries"):
            found.append(f"--classes: does not go with --label-kind {self.label_kind}")
        if self.label_threshold is not None and self.label_kind == "instances":
            found.append("--label-threshold: makes two classes, which --label-kind instances does not fit")
        return found

    def meaning(self) -> dict[str, Any]:
        """Return the arguments of `make_label_map`; a threshold leaves 0 and 1 of all values."""
        boundary = self.boundary_value
        if boundary is not None and self.label_threshold is not None:
            boundary = int(boundary >= self.label_threshold)
        return {"kind": self.label_kind, "classes": self.classes, "boundary": boundary}


@dataclass(frozen=True, kw_only=True)
class PrepConfig(LabelConfig):
    """Settings of `prep`."""

    axes: str | None = setting(None, "Axes of the files, slowest first, such as zyx or yxc. [default: the file's]")
    pixel_size: str | None = setting(None, "Pixel size: 0.65um, or 50,4,4nm for z,y,x. [default: the file's]")
    level: int = setting(0, "Level of pyramids to read; 0 is full size.", minimum=0, group="Selection")
    channels: str | None = setting(
        None, "Channels to keep, in this order: 0,2 or DAPI,GFP. [default: all]", group="Selection"
    )
    channel_names: str | None = setting(
        None, "Names of the channels that are kept: DAPI,GFP. [default: the file's]", group="Selection"
    )
    planes: str | None = setting(
        None, "Planes to keep, of z (of t, where there is one z): 20-40,50. [default: all]", group="Selection"
    )
    downsample: float = setting(
        1.0, "Pixels along y and x that become one; 2.5 is fine.", minimum=1, maximum=256, group="Resampling"
    )
    target_pixel_size: str | None = setting(
        None, "Resample to pixels of 0.5um, or of 2,0.5,0.5um for z,y,x. [default: the file's]", group="Resampling"
    )
    resample: str | None = setting(
        None, "What new pixels are made of; of labels, the nearest. [default: area to shrink, bilinear to enlarge]",
        choices=("area", "bilinear"), group="Resampling",
    )  # fmt: skip
    ndim: int | None = setting(
        None, "Objects lie in planes (2) or volumes (3). [default: 3 for ids in z-stacks with named axes]",
        minimum=2, maximum=3,
    )  # fmt: skip
    label_pyramid: str = setting(
        "nearest", "How labels are halved: one of four pixels, or the most frequent class.",
        choices=("nearest", "mode"), group="Labels",
    )  # fmt: skip
    label_name: str | None = setting(
        None, "Which label image of an OME-Zarr store is the truth. [default: truth, or the only one]", group="Labels"
    )
    split: str | None = setting(
        None, "Validation part: a fraction such as 0.2, image names (img_1*,img_07), or planes (20-23) of one stack.",
        group="Labels",
    )  # fmt: skip
    ngff: str = setting("0.5", "Version of OME-Zarr to write.", choices=("0.4", "0.5"))

    def mistakes(self) -> list[str]:
        """Refuse two pixel sizes to resample to, and settings of labels that do not go together."""
        two = self.target_pixel_size and self.downsample != 1
        return [*super().mistakes(), *(["--downsample and --target-pixel-size: expected one of them"] if two else [])]


RECIPES: dict[str, dict[str, Any]] = {
    # Eq. 2 of arXiv 1505.04597.
    "paper": {"w0": 10.0, "sigma": 5.0, "balance": "inverse"},
    # The authors' later tool for Fiji.
    "plugin": {"w0": 50.0, "sigma": 6.0, "background": 0.1, "sigma1": 10.0},
}
"""Formulas of weights: the settings that each has, with its defaults."""


def _default_of(name: str) -> str:
    """Say the default of a setting of the recipes."""
    values = {recipe: settings[name] for recipe, settings in RECIPES.items() if name in settings}
    return f"[default: {', '.join(f'{value} ({recipe})' for recipe, value in values.items())}]"


@dataclass(frozen=True, kw_only=True)
class WeightsConfig(Config):
    """Settings of `weights`; those that depend on the recipe are filled in from `RECIPES` where not given.

    ``paper``: w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), the second term on background. ``plugin``: on background
    b + (1 - b) exp(-d1^2 / (2 sigma1^2)) + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) with b the setting `background`, and 1
    on objects.
    """

    recipe: str = setting("paper", "Formula of the weights.", choices=tuple(RECIPES))
    w0: float = setting(
        None, f"Height of the border term; 0 leaves it out. {_default_of('w0')}", minimum=0, maximum=1e6
    )
    sigma: float = setting(
        None, f"Width of the border term, pixels (of x, where z differs). {_default_of('sigma')}",
        minimum=0.01, maximum=1e6,
    )  # fmt: skip
    balance: str | None = setting(
        None, "Class weights w_c: inverse or median frequency, none, or a number for each class (1,2.5). "
        f"{_default_of('balance')}",
    )  # fmt: skip
    background: float | None = setting(
        None, f"Weight of background far from objects. {_default_of('background')}", minimum=0, maximum=1
    )
    sigma1: float | None = setting(
        None, f"Width of the surroundings of objects, whose weight nears 1, pixels. {_default_of('sigma1')}",
        minimum=0.01, maximum=1e6,
    )  # fmt: skip
    inside: bool = setting(False, "Narrow borders also weigh on the pixels of objects, not on background alone.")
    border_width: int = setting(
        1, "Pixels of objects that touch another one turn to background, so deep from the contact.", minimum=0
    )
    ignore: str | None = setting(
        None, "Label value, or name of the class, of pixels that count nowhere: weight 0, no object.", group="Labels"
    )
    relabel: bool = setting(
        False, "Each connected part of an id is an object of its own: for ids that repeat.", group="Labels"
    )
    ndim: int | None = setting(
        None, "Distances in planes (2) or volumes (3). [default: as prepared]", minimum=2, maximum=3
    )
    sampling: float | None = setting(
        None, "Also write where to centre training patches: density 1 on objects, and this on background. "
        "[default: anywhere]", above=0, maximum=1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in RECIPES[self.recipe].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def mistakes(self) -> list[str]:
        """Refuse settings of another recipe."""
        return [
            f"--{name} {getattr(self, name)}: expected with --recipe {other} only"
            for other, settings in RECIPES.items()
            for name in settings
            if name not in RECIPES.get(self.recipe, RECIPES[other]) and getattr(self, name) is not None
        ]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelConfig):
    """Settings of `evaluate`."""

    metrics: str | None = setting(None, "Metrics, separated by commas. [default: those that fit the input]")
    prediction_kind: str | None = setting(
        None, "What the prediction holds. [default: from the store; floats are probabilities, two values a mask, "
        "more are labels]", choices=("mask", "labels", "probabilities", "classes"),
    )  # fmt: skip
    threshold: float = setting(
        0.5, "Probabilities above it are foreground, in the scores that search no threshold.", minimum=0, maximum=1
    )
    thresholds: str | None = setting(
        None, "Thresholds of the scores that search the best: 0.3,0.5,0.7. [default: 0 to 1 by 0.1]"
    )
    connectivity: int | None = setting(
        None, "Neighbours of a pixel in the components of a mask: 4 or 8, of volumes 6, 18 or 26. [default: 4; 6]"
    )
    as_volume: bool = setting(False, "Score a stack as one volume, with components in 3D, in place of plane by plane.")
    window: str | None = setting(
        None, "Scores that do not add up over tiles are measured in windows of YxX pixels: 2048x2048. [default: planes]"
    )
    ignore_label: int | None = setting(None, "Pixels with this value in the truth do not count.", group="Labels")
    fail_under: str | None = setting(None, "Exit with 7 if a mean is worse: iou=0.9,warping_error=0.001.")

    def mistakes(self) -> list[str]:
        """Check what is written as text, and which settings go together."""
        found = super().mistakes()
        try:
            found += [f"--thresholds {t:g}: expected 0 to 1" for t in self.searched() or () if not 0 <= t <= 1]
        except ValueError:
            found.append(f"--thresholds {self.thresholds}: expected numbers from 0 to 1, such as 0.3,0.5,0.7")
        known = (6, 18, 26) if self.as_volume else (4, 8)
        if self.connectivity not in (None, *known):
            of = "volumes" if self.as_volume else "planes"
            found.append(f"--connectivity {self.connectivity}: expected {' or '.join(map(str, known))} for {of}")
        if self.window is not None and self.as_volume:
            found.append("--window: does not go with --as-volume")
        window = self.window and self.window.replace("x", ",")
        if window is not None and (mistake_of_extents("--window", window) or window.count(",") > 1):
            found.append(f"--window {self.window}: expected pixels, such as 512 or 512x1024")
        return found

    def searched(self) -> tuple[float, ...] | None:
        """Return the thresholds that were given, in order."""
        return tuple(sorted({float(t) for t in self.thresholds.split(",")})) if self.thresholds is not None else None
