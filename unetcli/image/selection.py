"""Some channels and planes of an image, chosen by number or by name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unetcli.errors import InputError
from unetcli.image.axes import AXES, Channel, default_channels, known_names
from unetcli.image.source import AnyArray, Source, View
from unetcli.image.tiling import Box


@dataclass(frozen=True)
class Selection(View):
    """A source with some of its channels or planes, in any order.

    Parameters
    ----------
    source
        The whole image.
    chosen
        Axis (0 = t, 1 = c, 2 = z) to the positions along it that are kept.
    named
        What the kept channels are called.
    """

    chosen: Mapping[int, Sequence[int]]
    named: tuple[Channel, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(t, c, z, y, x) of what is kept."""
        return tuple(len(self.chosen[a]) if a in self.chosen else n for a, n in enumerate(self.source.shape))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The kept channels."""
        return self.named

    def read(self, box: Box) -> AnyArray:
        """Return the pixels of a box; neighbours in the source are read together, what lies between them is not."""
        out = np.empty(box.shape, self.dtype)
        parts = [
            list(runs(self.chosen[axis][extent])) if axis in self.chosen else [(slice(None), extent)]
            for axis, extent in enumerate(box.slices)
        ]
        for part in itertools.product(*parts):
            region = Box(tuple(of.start for _, of in part), tuple(of.stop for _, of in part))
            out[tuple(into for into, _ in part)] = self.source.read(region)
        return out


def runs(positions: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield each run of ascending neighbours: where it is among the positions, and what it covers.

    Examples
    --------
    >>> list(runs([4, 5, 0]))
    [(slice(0, 2, None), slice(4, 6, None)), (slice(2, 3, None), slice(0, 1, None))]
    """
    first = 0
    for i in range(1, len(positions) + 1):
        if i == len(positions) or positions[i] != positions[i - 1] + 1:
            yield slice(first, i), slice(positions[first], positions[i - 1] + 1)
            first = i


def select_channels(source: Source, channels: str | None, names: str | None) -> Source:
    """Keep some channels of an image, and name them.

    Parameters
    ----------
    source
        The image.
    channels
        Numbers from 0 on, or names: ``0,2`` or ``DAPI,GFP``, in the order wanted; by default all.
    names
        What the kept channels are called: ``DAPI,GFP``; by default as before.

    Raises
    ------
    InputError
        If a channel is not there or given twice, or the names are not one for each channel.
    """
    if channels is None and names is None:
        return source
    there = source.channels or default_channels(source.shape[1])
    positions = list(range(len(there))) if channels is None else _positions(source.name, channels, there)
    kept = tuple(there[i] for i in positions)
    if names is not None:
        given = [n.strip() for n in names.split(",")]
        if len(given) != len(kept) or len(set(given)) < len(given) or not all(given):
            raise InputError(
                f"--channel-names {names}: expected {len(kept)} different names, one for each channel of {source.name}",
                fix="--channels chooses the channels, --channel-names names those that are kept",
            )
        kept = tuple(replace(channel, name=name) for channel, name in zip(kept, given, strict=True))
    return Selection(source, {1: positions}, kept)


def _positions(where: str, text: str, there: Sequence[Channel]) -> list[int]:
    """Read the numbers or names of channels."""
    names = [channel.name.lower() for channel in there]
    found = []
    for piece in (p.strip() for p in text.split(",")):
        position = int(piece) if piece.isdecimal() else names.index(piece.lower()) if piece.lower() in names else -1
        if not 0 <= position < len(there) or position in found:
            listed = ", ".join(f"{i} {channel.name}" for i, channel in enumerate(there))
            problem = "is given twice" if position in found else "is not there"
            raise InputError(f"--channels {text}: {piece or 'nothing'} {problem}; {where} has the channels {listed}")
        found.append(position)
    return found


def select_planes(source: Source, planes: str | None) -> Source:
    """Keep some z planes of an image, or time points where it has a single z plane.

    Parameters
    ----------
    source
        The image, or its labels.
    planes
        Numbers from 0 on and ranges with both ends, ascending: ``20-40,50``; by default all.

    Raises
    ------
    InputError
        If a plane is not there, or the planes are not in ascending order.
    """
    if planes is None:
        return source
    axis = 2 if source.shape[2] > 1 else 0
    n = source.shape[axis]
    ends = [re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", piece) for piece in planes.split(",")]
    ranges = [range(int(e[1]), int(e[2] or e[1]) + 1) if e else range(0) for e in ends]
    ascending = all(a and b and a[-1] < b[0] for a, b in itertools.pairwise([range(-1, 0), *ranges, range(n, n + 1)]))
    if not ascending:
        raise InputError(
            f"--planes {planes}: {source.name} has {n} planes along {AXES[axis]}; expected ascending numbers or "
            f"ranges from 0 to {n - 1}, such as 0-9,15"
        )
    return Selection(source, {axis: list(itertools.chain(*ranges))}, source.channels)


def check_channel_order(sources: Sequence[Source]) -> None:
    """Refuse images whose channels have the same names in another order.

    Raises
    ------
    InputError
        With the two orders.
    """
    first = known_names(sources[0].channels)
    for source in sources:
        found = known_names(source.channels)
        if found != first and sorted(found) == sorted(first):
            raise InputError(
                f"{source.name}: its channels are {', '.join(found)}; expected {', '.join(first)}, as "
                f"{sources[0].name}",
                fix=f"--channels {','.join(first)}",
            )
