"""A setting: its default, unit, range and help text, in one place."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
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

    def to_options(self) -> list[str]:
        """Write the settings that are not the defaults as options of the command.

        Examples
        --------
        >>> from unetcli.config import EvaluateConfig
        >>> EvaluateConfig(metrics="iou,dice").to_options()
        ['--metrics', 'iou,dice']
        """
        options = []
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), field.name.replace("_", "-")
            if isinstance(value, bool):
                options += [] if value == field.default else [f"--{name}" if value else f"--no-{name}"]
            elif value != field.default:
                options += [f"--{name}", str(value)]
        return options


def extents_of(option: str, value: str | int, ndim: int) -> tuple[int, ...]:
    """Return the extent along (y, x) or (z, y, x) that a setting gives as one number, or as one for each axis.

    Raises
    ------
    ConfigError
        If it is given for axes that there are not.
    """
    extents = tuple(int(n) for n in str(value).split(","))
    if len(extents) not in (1, ndim):
        raise ConfigError(
            f"{option} {value}: expected one number, or {ndim} for {'z,y,x'[-2 * ndim + 1 :]}",
            fix=f"{option} {','.join(map(str, (*extents[:1], *extents)[-ndim:]))}",
        )
    return extents if len(extents) == ndim else extents * ndim


def spell(extents: Sequence[int], between: str = "x") -> str:
    """Spell extents as `extents_of` reads them: equal ones as one number."""
    return str(extents[0]) if len(set(extents)) == 1 else between.join(map(str, extents))


def mistake_of_extents(option: str, value: str | int | None) -> list[str]:
    """Say what is wrong with a setting that is given as `extents_of` takes it."""
    if value is None or re.fullmatch(r" *0*[1-9]\d{0,6}( *, *0*[1-9]\d{0,6}){0,2} *", str(value)):
        return []
    return [f"{option} {value}: expected pixels, such as 256 or 16,128,128 for z,y,x"]


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
