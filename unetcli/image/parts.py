"""Parts of the work on a store: what one of many jobs does, and which of them are missing at the end."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from unetcli.errors import ConfigError

MAX_PARTS = 1000
"""More are not proposed: SLURM takes arrays of up to 1001 jobs, unless it is set up otherwise."""


@dataclass(frozen=True)
class Part:
    """One of several contiguous parts of the shards of a store, cut as equally as can be.

    Parameters
    ----------
    number
        Which one, from 0 on.
    of
        How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``I/N``.

        Raises
        ------
        ConfigError
            If it is not, or I is not below N.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        part = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if part.number >= part.of:
            raise ConfigError(f"--part {text}: expected I/N, with I from 0 to N - 1", fix="--part 0/16")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def span(self, total: int) -> range:
        """Return which of so many shards it has; none, where there are fewer shards than parts."""
        return range(self.number * total // self.of, (self.number + 1) * total // self.of)


@dataclass(frozen=True)
class Phase:
    """What one call does of the work on a store: all of it, or one of its phases.

    Parameters
    ----------
    create
        Make the empty store.
    part
        Compute the shards of this part; None: all.
    finish
        Check that all shards are there; write what is made of them, and the metadata.
    """

    create: bool = False
    part: Part | None = None
    finish: bool = False

    @classmethod
    def of(cls, *, create: bool, part: str | None, finish: bool, overwrite: bool) -> Phase:
        """Read the options of that name.

        Raises
        ------
        ConfigError
            If more than one of them is given, or the store would be removed in the middle.
        """
        named = {"--create": create, f"--part {part}": part is not None, "--finish": finish}
        given = [name for name, is_given in named.items() if is_given]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: are different phases; expected one of them in a call")
        if overwrite and (part or finish):
            raise ConfigError(
                f"{given[0]} --overwrite: would remove what other jobs have made",
                fix="--create --overwrite first, then parts and --finish without",
            )
        return cls(create, Part.parse(part) if part is not None else None, finish)

    @property
    def is_shared(self) -> bool:
        """Whether others may be working on the store at the same time."""
        return self.part is not None or self.finish

    @property
    def computes(self) -> bool:
        """Whether shards are computed."""
        return not (self.create or self.finish)

    @property
    def finishes(self) -> bool:
        """Whether the store is complete afterwards."""
        return not (self.create or self.part)


def parts_with(shards: Collection[int], total: int, n: int) -> list[int]:
    """Return the numbers of those of `n` parts that have one of some shards, of `total`."""
    return [number for number in range(n) if any(k in shards for k in Part(number, n).span(total))]


def array_text(numbers: Iterable[int]) -> str:
    """Write numbers as SLURM's ``--array`` takes them.

    Examples
    --------
    >>> array_text([3, 7, 11, 12, 13])
    '3,7,11-13'
    """
    runs = []
    for _, run in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        first, *_, last = [number for _, number in run] * 2
        runs.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(runs)
