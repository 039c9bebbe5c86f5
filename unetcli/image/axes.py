"""NGFF axes: names, types, units and pixel size, always in the order t, c, z, y, x."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unetcli.errors import ConfigError, InputError

AXES = "tczyx"
"""All axes, in the one order that every shape tuple of this package has."""

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}

UNIT_SYNONYMS = {
    "um": "micrometer", "µm": "micrometer", "μm": "micrometer", "micron": "micrometer", "microns": "micrometer",
    "nm": "nanometer", "mm": "millimeter", "cm": "centimeter", "m": "meter", "Å": "angstrom",
    "s": "second", "sec": "second", "ms": "millisecond", "min": "minute", "h": "hour", "d": "day",
}  # fmt: skip
MICROMETERS = {
    "angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip
SPACE_UNITS = frozenset(MICROMETERS)
TIME_UNITS = frozenset({"millisecond", "second", "minute", "hour", "day"})


@dataclass(frozen=True)
class Channel:
    """A channel as its file calls it: name, and colour to show it in (``RRGGBB``, empty where not known)."""

    name: str
    color: str = ""


@dataclass(frozen=True)
class Axes:
    """The axes that an image has, with the size of one pixel along each.

    Parameters
    ----------
    names
        A part of ``tczyx``, in that order, with at least ``y`` and ``x``.
    scale
        Size of one pixel along each axis, > 0; 1 where it is not known.
    units
        NGFF unit of each axis, ``None`` where it is not known.

    Raises
    ------
    InputError
        If the names are not such a part, or a pixel size is not a finite number above 0.
    """

    names: str
    scale: tuple[float, ...]
    units: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if not is_ordered(self.names):
            raise InputError(
                f"axes are ({', '.join(self.names)}); expected some of (t, c, z, y, x) in this order, with y and x"
            )
        if not all(0 < s < float("inf") for s in self.scale):
            raise InputError(f"pixel size is {self.scale}; expected finite numbers above 0")

    @classmethod
    def of(
        cls,
        names: str,
        scale: Mapping[str, float] | None = None,
        units: Mapping[str, str | None] | None = None,
    ) -> Axes:
        """Make axes from mappings; what they leave out has scale 1 and no unit."""
        scale, units = scale or {}, units or {}
        return cls(
            names,
            tuple(float(scale.get(a, 1.0)) for a in names),
            tuple(known_unit(a, units.get(a)) for a in names),
        )

    def scale_of(self, name: str) -> float:
        """Return the pixel size along an axis; 1 for an axis that is not there."""
        return self.scale[self.names.index(name)] if name in self.names else 1.0

    def micrometers_of(self, name: str) -> float | None:
        """Return the pixel size along an axis of space in µm; None where it is not known."""
        unit = self.units[self.names.index(name)] if name in self.names else None
        return self.scale_of(name) * MICROMETERS[unit] if unit in MICROMETERS else None

    def scaled(self, factors: Mapping[str, float]) -> Axes:
        """Return the same axes with pixels so many times as large."""
        scale = tuple(s * factors.get(a, 1) for a, s in zip(self.names, self.scale, strict=True))
        return replace(self, scale=scale)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Pixel size along (z, y, x) in units of the pixel size along x."""
        return tuple(self.scale_of(a) / self.scale_of("x") for a in "zyx")  # type: ignore[return-value]

    def without_channels(self) -> Axes:
        """Return the same axes but ``c``: those of a label image."""
        keep = [i for i, a in enumerate(self.names) if a != "c"]
        return Axes(
            "".join(self.names[i] for i in keep),
            tuple(self.scale[i] for i in keep),
            tuple(self.units[i] for i in keep),
        )

    def with_channels(self) -> Axes:
        """Return the same axes and ``c``: those of a probability map."""
        if "c" in self.names:
            return self
        at = self.names.startswith("t")
        return Axes(
            self.names[:at] + "c" + self.names[at:],
            (*self.scale[:at], 1.0, *self.scale[at:]),
            (*self.units[:at], None, *self.units[at:]),
        )

    def keep(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Pick from a (t, c, z, y, x) tuple what belongs to these axes."""
        return tuple(shape[AXES.index(a)] for a in self.names)

    def expand(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Fill a tuple of these axes up to (t, c, z, y, x) with ones."""
        given = dict(zip(self.names, shape, strict=True))
        return tuple(given.get(a, 1) for a in AXES)

    def describe(self) -> str:
        """Say the axes and the pixel size in a few words."""
        sizes = [f"{a} {s:g} {u}" for a, s, u in zip(self.names, self.scale, self.units, strict=True) if u]
        return f"axes {self.names}" + (f", pixel size {', '.join(sizes)}" if sizes else ", pixel size not known")


def default_channels(n: int) -> tuple[Channel, ...]:
    """Return names for channels that have none: three are red, green and blue."""
    if n == 3:
        return (Channel("red", "FF0000"), Channel("green", "00FF00"), Channel("blue", "0000FF"))
    return tuple(Channel(f"channel_{c}") for c in range(n))


def known_names(channels: Sequence[Channel]) -> tuple[str, ...]:
    """Return the names of channels, if they say what was recorded; none if some only count, or name a colour.

    Examples
    --------
    >>> known_names([Channel("DAPI")]), known_names([Channel("Channel:0")]), known_names(default_channels(3))
    (('DAPI',), (), ())
    """
    names = tuple(channel.name for channel in channels)
    says_nothing = re.compile(r"(channel|chan|ch|c|red|green|blue|r|g|b|gr[ae]y)?[\W\d_]*", flags=re.IGNORECASE)
    return () if any(says_nothing.fullmatch(name) for name in names) else names


def describe_shape(shape: tuple[int, ...]) -> str:
    """Say a (t, c, z, y, x) shape without the axes of one pixel: ``zyx 30 x 512 x 512``."""
    kept = [(a, n) for a, n in zip(AXES, shape, strict=True) if n > 1 or a in "yx"]
    return f"{''.join(a for a, _ in kept)} {' x '.join(str(n) for _, n in kept)}"


def is_ordered(names: str) -> bool:
    """Tell whether the names are a part of ``tczyx`` in that order, with ``y`` and ``x``."""
    positions = [AXES.find(a) for a in names]
    return -1 not in positions and positions == sorted(set(positions)) and names.endswith("yx")


def known_unit(axis: str, unit: str | None) -> str | None:
    """Return the NGFF name of a unit; ``None`` if it is not one ("pixel" breaks readers, so it is dropped)."""
    name = UNIT_SYNONYMS.get(unit or "", unit or "").lower()
    allowed = {"time": TIME_UNITS, "space": SPACE_UNITS}.get(TYPES.get(axis, ""), frozenset())
    return name if name in allowed else None


def parse_pixel_size(text: str, option: str = "--pixel-size") -> tuple[dict[str, float], str]:
    """Read a pixel size: ``0.65um`` for y and x, or ``50,4,4nm`` for z, y and x.

    Returns
    -------
    scale : dict
        Pixel size by axis name.
    unit : str
        NGFF unit.

    Raises
    ------
    ConfigError
        If the text is not one to three positive numbers and a unit of length.
    """
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzµμ ")
    unit = known_unit("x", text[len(digits) :].strip())
    try:
        numbers = [float(n) for n in digits.split(",")]
    except ValueError:
        numbers = []
    if unit is None or len(numbers) not in (1, 2, 3) or not all(0 < n < float("inf") for n in numbers):
        raise ConfigError(
            f"{option} {text}: expected one to three positive numbers and a unit of length",
            fix=f"{option} 0.65um, or {option} 50,4,4nm for z, y, x",
        )
    if len(numbers) == 1:
        numbers *= 2
    return dict(zip("zyx"[-len(numbers) :], numbers, strict=True)), unit
