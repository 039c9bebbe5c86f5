"""Settings of `train`."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from unetcli.architectures import ARCHITECTURES, Architecture
from unetcli.config.augmentation import DeformConfig
from unetcli.config.settings import extents_of, mistake_of_extents, setting

LOSSES = ("weighted-cross-entropy", "cross-entropy", "bce", "dice", "dice-cross-entropy")
OPTIMIZERS = ("sgd", "adam", "adamw")
BEST_BY = ("auto", "validation_iou", "validation_mean_iou", "validation_loss", "validation_pixel_error")
SCHEDULES = ("constant", "step", "cosine", "poly", "one-cycle")
SAMPLINGS = ("uniform", "map", "foreground")
FOREGROUND_SHARE = 0.33


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DeformConfig):
    """Settings of `train`; these defaults are the preset ``default`` of `unetcli.presets`."""

    arch: str = setting(
        "unet", "Architecture; --list-archs describes each.", choices=tuple(ARCHITECTURES), group="Network"
    )
    ndim: int | None = setting(
        None, "The network works in planes (2) or volumes (3). [default: 3 for unet3d and vnet, else 2]",
        minimum=2, maximum=3, group="Network",
    )  # fmt: skip
    features: str | None = setting(
        None, "Channels of each level, full resolution first. [default: 32,64,128,256,512 for unet; else as "
        "--list-archs says]", group="Network",
    )  # fmt: skip
    padding: str = setting("same", "Padding of convolutions.", choices=("valid", "same"), group="Network")
    norm: str = setting(
        "batch", "Normalization of features.", choices=("none", "batch", "instance", "group"), group="Network"
    )
    skip: str | None = setting(
        None, "Skip connections. [default: concat; attention for attention-unet]",
        choices=("concat", "add", "attention"), group="Network",
    )  # fmt: skip
    flat_levels: int = setting(
        0, "In 3D: so many levels, from full resolution on, convolve and pool plane by plane.", minimum=0,
        group="Network",
    )  # fmt: skip
    deep_supervision: bool = setting(
        False, "Of unet++: also train the results of its shallower networks.", group="Network"
    )
    pyramid: int = setting(
        0, "Coarser scales that the network sees as more channels: means over blocks of 2, 4, ... pixels.",
        minimum=0, maximum=6, group="Network",
    )  # fmt: skip
    downsample: int = setting(
        1, "Pixels along each axis that become one before the network.", minimum=1, maximum=32, group="Network"
    )
    upsample: str = setting(
        "bilinear", "How the result of --downsample is brought back to full size.", choices=("bilinear", "nearest"),
        group="Network",
    )  # fmt: skip
    dropout: float = setting(
        0.0, "Dropout at the end of the contracting path.", minimum=0, maximum=0.95, group="Network"
    )
    patch_size: str | int = setting(
        None, "Extent of a training patch as the network reads it, pixels: 256, or 16,128,128 for z,y,x. [default: "
        "256; of volumes 64]", group="Patches",
    )  # fmt: skip
    sampling: str | None = setting(
        None, "Where patches lie: anywhere (uniform), by the sampling map of the weights (map), or a share of them on "
        "pixels of classes other than background (foreground). [default: map, if the weights have one, else uniform]",
        choices=SAMPLINGS, group="Patches",
    )  # fmt: skip
    foreground_share: float = setting(
        FOREGROUND_SHARE, "Of --sampling foreground: share of patches that are centred on a pixel of a class other "
        "than background; all these classes come as often.", above=0, maximum=1, group="Patches",
    )  # fmt: skip
    resize_schedule: str = setting(
        "1", "Resolution over the steps, factor:share of the steps: 4:0.3,2:0.3,1 begins with pixels 4 times as "
        "large.", group="Patches",
    )  # fmt: skip
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
    best_by: str = setting(
        "auto", "Score by which a model is the best. auto: validation_iou, of more than two classes "
        "validation_mean_iou.", choices=BEST_BY,
    )  # fmt: skip
    keep: str | None = setting(
        None, "Which model is the result: the best one, or that of the last step. [default: best, if there is a "
        "validation part]", choices=("best", "last"),
    )  # fmt: skip
    seed: int = setting(0, "Seed of initialization, patches and augmentation.", minimum=0)

    def __post_init__(self) -> None:
        if str(self.patch_size).isdecimal():  # one number is the same, however it was written
            object.__setattr__(self, "patch_size", int(self.patch_size))
        super().__post_init__()
        if self.patch_size is None:
            object.__setattr__(self, "patch_size", 256 if self.axes_of_network == 2 else 64)
        if self.loss is None:
            object.__setattr__(self, "loss", "dice" if self.arch == "vnet" else "weighted-cross-entropy")

    @property
    def feature_list(self) -> tuple[int, ...]:
        """Channels of each level."""
        if self.features is None:
            return ARCHITECTURES[self.arch].features
        return tuple(int(n) for n in self.features.split(","))

    def patch_shape(self, ndim: int) -> tuple[int, ...]:
        """Return the extent of a patch along (y, x) or (z, y, x), pixels.

        Raises
        ------
        ConfigError
            If it is given for axes that there are not.
        """
        return extents_of("--patch-size", self.patch_size, ndim)

    def resize_steps(self) -> list[tuple[int, int]]:
        """Return each factor of `resize_schedule` with the step that it ends before."""
        parts = [part.partition(":") for part in self.resize_schedule.split(",")]
        done = itertools.accumulate(float(share) if share else math.inf for _, _, share in parts)
        ends = [round(min(part, 1) * self.steps) for part in done]
        return [(int(factor), end) for (factor, _, _), end in zip(parts, ends, strict=True)]

    @property
    def axes_of_network(self) -> int:
        """Number of axes that the network works along."""
        return self.ndim or ARCHITECTURES[self.arch].ndim

    def network_settings(self) -> dict[str, Any]:
        """Return what `build_model` takes, but for the channels of the image and of the output."""
        architecture = ARCHITECTURES[self.arch]
        found = {
            "ndim": self.axes_of_network,
            "features": list(self.feature_list),
            "padding": self.padding,
            "norm": self.norm,
            "dropout": self.dropout,
        }
        if architecture.skips:
            found["skip"] = self.skip or architecture.skips[0]
        used = {name: getattr(self, name) for name in ("flat_levels", "deep_supervision", "pyramid")}
        used |= {"downsample": self.downsample, "upsample": self.upsample} if self.downsample > 1 else {}
        return found | {name: value for name, value in used.items() if value}

    def mistakes(self) -> list[str]:
        """Check what `features` and `grid` hold, and what the architecture takes."""
        found = [*super().mistakes(), *self._patch_mistakes()]
        parts = ["1", "1"] if self.features is None else self.features.split(",")
        if len(parts) < 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
            found.append(f"--features {self.features}: expected two or more numbers of channels, such as 32,64,128")
        elif self.arch in ARCHITECTURES:
            found += self._mistakes_of_network(ARCHITECTURES[self.arch])
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            found.append(f"--accumulate {self.accumulate}: expected a divisor of --batch-size {self.batch_size}")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            found.append("--nesterov: expected with --optimizer sgd and a --momentum above 0 only")
        if self.foreground_share != FOREGROUND_SHARE and self.sampling != "foreground":
            found.append(f"--foreground-share {self.foreground_share}: expected with --sampling foreground only")
        return found

    def _mistakes_of_network(self, architecture: Architecture) -> list[str]:
        found, depth = [], len(self.feature_list) - 1
        if self.skip is not None and self.skip not in architecture.skips:
            expected = f"expected {' or '.join(architecture.skips)}" if architecture.skips else "it has none"
            found.append(f"--skip {self.skip}: does not go with --arch {self.arch}; {expected}")
        if self.deep_supervision and not architecture.deep_supervision:
            found.append(f"--deep-supervision: does not go with --arch {self.arch}; expected unet++")
        if self.flat_levels and self.axes_of_network == 2:
            found.append(f"--flat-levels {self.flat_levels}: expected with --ndim 3 only")
        if self.flat_levels > depth:
            found.append(f"--flat-levels {self.flat_levels}: the network has {depth} poolings; expected no more")
        return found

    def _patch_mistakes(self) -> list[str]:
        found = mistake_of_extents("--patch-size", self.patch_size)
        *begins, last = self.resize_schedule.split(",")
        shares = [re.fullmatch(r"[1-9]\d?:(0?\.\d+)", part) for part in begins]
        if not all(shares) or last.strip() != "1" or sum(float(m[1]) for m in shares if m) >= 1:
            found.append(
                f"--resize-schedule {self.resize_schedule}: expected factor:share of the steps, such as 4:0.3,2:0.3,1; "
                "the last is 1, full size, and has the rest of them"
            )
        return found
