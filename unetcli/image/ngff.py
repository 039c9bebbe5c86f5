"""OME-Zarr metadata of images, labels and their pyramids, as it is written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unetcli.image.axes import TYPES, Axes, Channel

ZARR_FORMATS = {"0.4": 2, "0.5": 3}
"""Versions of OME-Zarr that are written, and the format of Zarr of each."""


@dataclass(frozen=True)
class ImageMetadata:
    """What is said about an image, or a label image, in its group.

    Parameters
    ----------
    group
        Path of the group within the store (or within ``labels``); empty for the store itself.
    axes
        Axes of level 0.
    name
        What it is called; by default the last part of the group.
    n_levels
        Number of levels, each half as large as the one before along y and x.
    channels
        Its channels, where it has any; one without a colour is shown in white.
    window
        Range of gray values to show.
    classes
        Names by class value: makes it a label image. Empty for a label image of ids.
    source
        For a label image, where the image lies that it belongs to.
    labels
        Label images that belong to it.
    nested
        Further images within its group.
    first
        Where the centre of its first pixel lies, by axis, if not at 0.
    """

    group: str
    axes: Axes
    name: str = ""
    n_levels: int = 1
    channels: tuple[Channel, ...] = ()
    window: tuple[float, float] | None = None
    classes: Mapping[int, str] | None = None
    source: str | None = None
    labels: tuple[ImageMetadata, ...] = ()
    nested: tuple[ImageMetadata, ...] = ()
    first: Mapping[str, float] = field(default_factory=dict)

    def ome(self, zarr_format: int) -> dict[str, Any]:
        """Return the OME-Zarr metadata."""
        version = {"version": "0.4"} if zarr_format == 2 else {}
        multiscale = {
            **version,
            "name": self.name or self.group.rpartition("/")[2],
            "axes": [
                {"name": a, "type": TYPES[a], **({"unit": unit} if unit else {})}
                for a, unit in zip(self.axes.names, self.axes.units, strict=True)
            ],
            "datasets": [self._dataset(level) for level in range(self.n_levels)],
        }
        metadata: dict[str, Any] = {"multiscales": [multiscale]}
        if self.classes is not None:
            metadata["image-label"] = {**version, **self._label_properties()}
        elif self.channels and self.window and "c" in self.axes.names:
            metadata["omero"] = {"channels": self._channels()}
        return metadata

    def _dataset(self, level: int) -> dict[str, Any]:
        factors = [2**level if a in "yx" else 1 for a in self.axes.names]
        scale = [s * f for s, f in zip(self.axes.scale, factors, strict=True)]
        # The centre of a 2x2 block lies half a pixel from the centre of its first pixel.
        scaled = zip(self.axes.names, self.axes.scale, factors, strict=True)
        shift = [self.first.get(a, 0.0) + s * (f - 1) / 2 for a, s, f in scaled]
        return {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": scale},
                {"type": "translation", "translation": shift},
            ],
        }

    def _channels(self) -> list[dict[str, Any]]:
        low, high = self.window or (0.0, 1.0)
        return [
            {
                "label": label,
                "color": channel.color or "FFFFFF",
                "active": True,
                "window": {"min": low, "max": high, "start": low, "end": high},
            }
            for label, channel in zip(_unique([c.name for c in self.channels]), self.channels, strict=True)
        ]

    def _label_properties(self) -> dict[str, Any]:
        classes = {value: name for value, name in (self.classes or {}).items() if value}
        described = {
            "colors": [{"label-value": v, "rgba": [*PALETTE[(v - 1) % len(PALETTE)], 160]} for v in classes],
            "properties": [{"label-value": v, "class": name} for v, name in classes.items()],
        }
        return {
            **(described if classes else {}),
            **({"source": {"image": self.source}} if self.source else {}),
        }


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, numbered where others had them before: some readers find channels by name."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{k}" for k in itertools.count(2))
        found.append(next(n for n in itertools.chain([name], numbered) if n not in found))
    return found


PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (153, 153, 153),
)  # fmt: skip
"""Colours that colour-blind people can tell apart (Okabe and Ito 2008)."""
