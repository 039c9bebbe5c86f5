"""Settings of each stage: every default, unit, range and help text, each in this one place.

A setting becomes an option of its command, an entry of ``--config run.toml`` and a field of the stage's
dataclass, with the same name: ``--sigma`` / ``sigma`` / ``WeightsConfig(sigma=5.0)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unetcli.errors import ConfigError


def setting(
    default: Any,  # noqa: ANN401 - the type of the field
    help: str,  # noqa: A002 - what typer calls it
    *,
    minimum: float = -math.inf,
    above: float = -math.inf,
    maximum: float = math.inf,
    choices: tuple[str, ...] = (),
    group: str = "Settings",
) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare a setting: its default, one line of help with the unit, and its range."""
    metadata = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
        "group": group,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of the settings of a stage; checks all ranges at once.

    Raises
    ------
    ConfigError
        With every setting that is out of its range.
    """

    def __post_init__(self) -> None:
        mistakes = [m for field in dataclasses.fields(self) if (m := _mistake(field, getattr(self, field.name)))]
        mistakes += self.mistakes()
        if mistakes:
            raise ConfigError("; ".join(mistakes))

    def mistakes(self) -> list[str]:
        """Return what is wrong with settings that depend on each other."""
        return []


def _mistake(field: dataclasses.Field[Any], value: Any) -> str | None:  # noqa: ANN401 - any setting
    rule, option = field.metadata, "--" + field.name.replace("_", "-")
    if value is None:
        return None
    if rule["choices"] and value not in rule["choices"]:
        return f"{option} {value}: expected one of {', '.join(rule['choices'])}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            return f"{option} {value}: expected a finite number"
        if value < rule["minimum"] or value > rule["maximum"] or value <= rule["above"]:
            return f"{option} {value}: expected {_range(rule)}"
    return None


def _range(rule: Mapping[str, Any]) -> str:
    low, above, high = rule["minimum"], rule["above"], rule["maximum"]
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    if math.isfinite(above) and math.isfinite(high):
        return f"above {above:g}, at most {high:g}"
    return (
        f"above {above:g}"
        if math.isfinite(above)
        else f"at least {low:g}"
        if math.isfinite(low)
        else f"at most {high:g}"
    )


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


MOST_POINTS = 64


@dataclass(frozen=True, kw_only=True)
class DeformConfig(Config):
    """Settings of augmentation, the same in `augment` and `train`."""

    elastic: float = setting(
        10.0, "Std of displacements on the control grid, pixels (of x, where z or y differ).", minimum=0,
        maximum=1000, group="Augmentation",
    )  # fmt: skip
    grid: str = setting("3", "Control points along each axis: 3, or 2,5,5 for z,y,x.", group="Augmentation")
    rotation: float = setting(180.0, "Largest rotation, degrees.", minimum=0, maximum=180, group="Augmentation")
    scaling: float = setting(
        1.1, "Largest scaling, and 1/this the smallest.", minimum=1, maximum=4, group="Augmentation"
    )
    shift: float = setting(0.0, "Largest shift, pixels (of x).", minimum=0, maximum=10**6, group="Augmentation")
    flip: bool = setting(True, "Mirror along each axis, every other time.", group="Augmentation")
    interpolation: str = setting(
        "cubic", "Of deformed images; weights are linear, labels the nearest.", choices=("linear", "cubic"),
        group="Augmentation",
    )  # fmt: skip
    contrast: float = setting(
        1.25, "Largest contrast factor, and 1/this the smallest.", minimum=1, maximum=8, group="Augmentation"
    )
    brightness: float = setting(
        0.25, "Largest offset, up or down, in std of the channel.", minimum=0, maximum=5, group="Augmentation"
    )
    gamma: float = setting(
        0.2, "Largest curvature of the gray values, up or down.", minimum=0, maximum=0.95, group="Augmentation"
    )
    noise: float = setting(
        0.15, "Largest std of Gaussian noise, in std of the channel.", minimum=0, maximum=5, group="Augmentation"
    )
    blur: float = setting(
        0.0, "Largest std of a Gaussian blur, pixels (of x, where z or y differ).", minimum=0, maximum=20,
        group="Augmentation",
    )  # fmt: skip
    vary_channels: str | None = setting(
        None, "Gray values vary in each channel on its own, or in all together. [default: together if the channels are "
        "red, green, blue, else each]", choices=("each", "together"), group="Augmentation",
    )  # fmt: skip

    def grid_points(self, ndim: int) -> tuple[int, int, int]:
        """Return the control points along z, y and x, for planes (`ndim` 2) or volumes (3).

        Raises
        ------
        ConfigError
            If they are given for axes that there are not.
        """
        points = [int(n) for n in self.grid.split(",")]
        if len(points) not in (1, ndim):
            raise ConfigError(
                f"--grid {self.grid}: expected one number, or {ndim} for {'z,y,x' if ndim == 3 else 'y,x of planes'}",
                fix=f"--grid {','.join(map(str, ([3] * ndim)))}",
            )
        z, y, x = [1, *(points * 2)[:2]] if ndim == 2 else (points * 3)[:3]
        return z, y, x

    def mistakes(self) -> list[str]:
        """Check what `grid` holds."""
        parts = [part.strip() for part in self.grid.split(",")]
        if len(parts) > 3 or not all(p.isdecimal() and 1 <= int(p) <= MOST_POINTS for p in parts):
            return [f"--grid {self.grid}: expected up to three numbers from 1 to {MOST_POINTS}, such as 3 or 2,5,5"]
        return []


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(DeformConfig):
    """Settings of `augment`."""

    samples: int = setting(100, "Number of augmented samples.", minimum=1)
    seed: int = setting(0, "Sample k is a function of (seed, k) alone.", minimum=0)
    shift: float = setting(20.0, "Largest shift, pixels (of x).", minimum=0, maximum=10**6, group="Augmentation")
    patch_size: int | None = setting(
        None, "Side of samples cut at random places, pixels. [default: whole images]", minimum=1, maximum=2**20
    )
    replay: int | None = setting(None, "Write this one sample alone, as a run of many writes it.", minimum=0)
    ndim: int | None = setting(None, "Planes (2) or volumes (3). [default: as prepared]", minimum=2, maximum=3)


LOSSES = ("weighted-cross-entropy", "cross-entropy", "bce", "dice", "dice-cross-entropy")
OPTIMIZERS = ("sgd", "adam", "adamw")
BEST_BY = ("validation_iou", "validation_loss", "validation_pixel_error")
SCHEDULES = ("constant", "step", "cosine", "poly", "one-cycle")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DeformConfig):
    """Settings of `train`; these defaults are the preset ``default`` of `unetcli.presets`."""

    arch: str = setting("unet", "Architecture.", group="Network")
    features: str = setting("32,64,128,256,512", "Channels of each level, full resolution first.", group="Network")
    padding: str = setting("same", "Padding of convolutions.", choices=("valid", "same"), group="Network")
    norm: str = setting(
        "batch", "Normalization of features.", choices=("none", "batch", "instance", "group"), group="Network"
    )
    skip: str = setting("concat", "Skip connections.", choices=("concat", "add"), group="Network")
    dropout: float = setting(
        0.0, "Dropout at the end of the contracting path.", minimum=0, maximum=0.95, group="Network"
    )
    patch_size: int = setting(256, "Side of a training patch as the network reads it, pixels.", minimum=1)
    loss: str = setting(
        None, "Loss; bce is for two classes. [default: weighted-cross-entropy; of vnet, dice]", choices=LOSSES,
        group="Optimization",
    )  # fmt: skip
    batch_size: int = setting(8, "Patches in a step.", minimum=1, group="Optimization")
    accumulate: int = setting(
        1, "Parts in which a step is computed, one after the other: less memory, the same step.", minimum=1,
        group="Optimization",
    )  # fmt: skip
    steps: int = setting(8000, "Number of optimization steps.", minimum=1, group="Optimization")
    epochs: int | None = setting(
        None, "In place of --steps: how often as many patches are seen as the training pixels hold.", minimum=1,
        group="Optimization",
    )  # fmt: skip
    optimizer: str = setting("adamw", "Optimizer.", choices=OPTIMIZERS, group="Optimization")
    learning_rate: float = setting(2e-3, "Learning rate, the highest of the schedule.", above=0, group="Optimization")
    momentum: float = setting(0.9, "Momentum of SGD.", minimum=0, maximum=0.9999, group="Optimization")
    nesterov: bool = setting(False, "Nesterov's momentum, of SGD.", group="Optimization")
    weight_decay: float = setting(1e-2, "Weight decay.", minimum=0, group="Optimization")
    schedule: str = setting("one-cycle", "Learning rate over the steps.", choices=SCHEDULES, group="Optimization")
    decay: float = setting(
        0.1, "Of the schedule step: what the learning rate is multiplied by.", above=0, maximum=1, group="Optimization"
    )
    decay_every: int = setting(30, "Of the schedule step: after so many epochs.", minimum=1, group="Optimization")
    warmup: int = setting(
        0, "Steps over which the learning rate rises linearly to that of the schedule.", minimum=0,
        group="Optimization",
    )  # fmt: skip
    clip_norm: float = setting(
        12.0, "Longest gradient: a longer one is scaled to this norm; 0: as it is.", minimum=0, group="Optimization"
    )
    ema: float = setting(
        0.0, "What is left at each step of the moving average of the parameters, which is validated and saved, such as "
        "0.999; 0: no average.", minimum=0, maximum=0.99999, group="Optimization",
    )  # fmt: skip
    precision: str = setting(
        "auto", "Arithmetic: bfloat16 (parameters stay float32) where the device is made for it, else float32.",
        choices=("auto", "float32", "bfloat16"),
    )  # fmt: skip
    augment_on: str = setting(
        "auto", "Where patches are deformed: by threads of the host, or on the device. auto: on CUDA where the threads "
        "would keep the device waiting, by a measurement.", choices=("auto", "host", "device"), group="Augmentation",
    )  # fmt: skip
    compile: str = setting(
        "auto", "Compile the network, which takes a minute: on CUDA with a C++ compiler, or as you say.",
        choices=("auto", "on", "off"),
    )  # fmt: skip
    validate_every: int = setting(500, "Steps between validations and checkpoints.", minimum=1)
    validate_metrics: str | None = setting(
        None, "Also score validation planes by metrics of evaluate, separated by commas: v_rand,warping_error. Each "
        "plane is then held in memory. [default: pixel_error, iou and dice only]",
    )  # fmt: skip
    patience: int = setting(
        0, "Stop after so many validations without a better score; 0: train to the last step.", minimum=0
    )
    best_by: str = setting("validation_iou", "Score by which a model is the best.", choices=BEST_BY)
    keep: str | None = setting(
        None, "Which model is the result: the best one, or that of the last step. [default: best, if there is a "
        "validation part]", choices=("best", "last"),
    )  # fmt: skip
    seed: int = setting(0, "Seed of initialization, patches and augmentation.", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss is None:
            object.__setattr__(self, "loss", "dice" if self.arch == "vnet" else "weighted-cross-entropy")

    @property
    def feature_list(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(n) for n in self.features.split(","))

    def mistakes(self) -> list[str]:
        """Check what `features` and `grid` hold, and what goes with SGD only."""
        found = super().mistakes()
        parts = self.features.split(",")
        if len(parts) < 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
            found.append(f"--features {self.features}: expected two or more numbers of channels, such as 32,64,128")
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            found.append(f"--accumulate {self.accumulate}: expected a divisor of --batch-size {self.batch_size}")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            found.append("--nesterov: expected with --optimizer sgd and a --momentum above 0 only")
        return found


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Settings of `tile-predict`."""

    tile_size: int | None = setting(
        None,
        "Side of a tile as the network reads it, pixels. [default: a core of 512, on CUDA 1024]",
        minimum=1,
    )
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


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelConfig):
    """Settings of `evaluate`."""

    metrics: str | None = setting(None, "Metrics, separated by commas. [default: those that fit the input]")
    prediction_kind: str | None = setting(
        None, "What the prediction holds. [default: from the store; floats are probabilities, two values a mask, "
        "more are labels]", choices=("mask", "labels", "probabilities"),
    )  # fmt: skip
    fail_under: str | None = setting(None, "Exit with 7 if a mean is worse: iou=0.9,warping_error=0.001.")


CONFIGS: dict[str, type[Config]] = {
    "prep": PrepConfig,
    "weights": WeightsConfig,
    "augment": AugmentConfig,
    "train": TrainConfig,
    "tile-predict": PredictConfig,
    "evaluate": EvaluateConfig,
}
"""Settings of each command."""


def default_settings(command: str) -> dict[str, Any]:
    """Return the defaults of a command; of an unknown one, nothing."""
    return dataclasses.asdict(CONFIGS[command]()) if command in CONFIGS else {}
