"""Settings of random deformations and gray values, and of `augment`."""

from __future__ import annotations

from dataclasses import dataclass

from unetcli.config.settings import Config, setting
from unetcli.errors import ConfigError

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
