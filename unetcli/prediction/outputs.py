"""What is written of the class probabilities: how each output is made of them, and the stores that it goes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetcli.errors import ConfigError
from unetcli.image.axes import Channel
from unetcli.image.levels import Subject
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata
from unetcli.image.pyramid import build_pyramids, level_shapes, mean_2x2, nearest_2x2
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, silent
from unetcli.image.tiling import Box

Block = NDArray[Any]


@dataclass(frozen=True)
class Output:
    """What is written of each pixel.

    Parameters
    ----------
    kind
        What the store says that it holds.
    encode
        Makes it, (channels, [z,] y, x), of the class probabilities (classes, [z,] y, x), where these are.
    dtype
        Of what is written.
    channels
        Names; none, where it is the class of each pixel.
    of_variance
        Whether it is made of the variance over the views (1, [z,] y, x), in place of the probabilities.
    """

    kind: str
    encode: Callable[[Tensor], Tensor]
    dtype: str
    channels: tuple[str, ...] = ()
    of_variance: bool = False

    def encoded(self, values: Tensor, n_classes: int) -> Tensor:
        """Make (t, channels, z, y, x) of the class probabilities, and the variance if there is one, (t, c, z, y, x)."""
        used = values[:, n_classes:] if self.of_variance else values[:, :n_classes]
        return torch.stack([self.encode(at_once) for at_once in used])

    def nothing(self, core: Box) -> Block:
        """Make (t, channels, z, y, x) of a core of which nothing is computed: zeros."""
        return np.zeros(core.replace(1, 0, len(self.channels) or 1).shape, self.dtype)


def mask(n_classes: int) -> Output:
    """Return the output that is the most probable class of each pixel, of several the first; uint8 for up to 256."""
    dtype = np.min_scalar_type(n_classes - 1).name
    type_of_torch = torch.uint8 if dtype == "uint8" else torch.int32
    return Output("mask", lambda found: most_probable(found).to(type_of_torch), dtype)


def most_probable(found: Tensor) -> Tensor:
    """Return the number of the most probable class (1, [z,] y, x), of several the first; faster than argmax."""
    best, number = found[:1], torch.zeros_like(found[:1], dtype=torch.int32)
    for k in range(1, len(found)):
        number = torch.where(found[k : k + 1] > best, k, number)
        best = torch.maximum(best, found[k : k + 1])
    return number


def probabilities(classes: Sequence[str], dtype: str, chosen: Sequence[int]) -> Output:
    """Return the output that is the probability of the chosen classes.

    As uint8 it is 255 times that, rounded.
    """
    names = tuple(classes[number] for number in chosen)
    return Output("probabilities", lambda found: _typed(found[list(chosen)], dtype), dtype, names)


def entropy(dtype: str) -> Output:
    """Return the output that is the entropy of the class probabilities, as a part of the largest that there could be.

    That is ``-sum_c p_c log p_c / log(classes)``: 0 where the class is certain, 1 where all are equally probable.
    As uint8 it is 255 times that, rounded.
    """

    def encode(found: Tensor) -> Tensor:
        total = torch.special.entr(found).sum(0, keepdim=True) / math.log(len(found))
        return _typed(total.clamp(0, 1), dtype)

    return Output("uncertainty", encode, dtype, ("entropy",))


def variance(dtype: str) -> Output:
    """Return the output that is the variance over the views (see `predict_views`); as uint8 255 times that, rounded."""
    return Output("uncertainty", lambda found: _typed(found, dtype), dtype, ("variance",), of_variance=True)


def _typed(values: Tensor, dtype: str) -> Tensor:
    return (values * 255).round().to(torch.uint8) if dtype == "uint8" else values.to(getattr(torch, dtype))


def chosen_classes(classes: Sequence[str], chosen: str | None) -> list[int]:
    """Return the numbers of the classes that a user names, by name or number, in the order given; by default all.

    Raises
    ------
    ConfigError
        If the model has no such class, or one is named twice.
    """
    if chosen is None:
        return list(range(len(classes)))
    found: list[int] = []
    for name in (part.strip() for part in chosen.split(",")):
        number = classes.index(name) if name in classes else int(name) if name.isdecimal() else -1
        if not 0 <= number < len(classes) or number in found:
            listed = ", ".join(f"{k} {known}" for k, known in enumerate(classes))
            raise ConfigError(
                f"--classes {chosen}: {name!r} is {'named twice' if number in found else 'no class of the model'}; "
                f"expected some of {listed}",
                fix=f"--classes {classes[-1]}",
            )
        found.append(number)
    return found


@dataclass(frozen=True)
class Written:
    """A store that an output is being written to.

    Parameters
    ----------
    output
        What is written.
    store
        The store.
    subjects
        The images in it, by group.
    """

    output: Output
    store: NewStore
    subjects: Mapping[str, Subject]

    def level(self, group: str, *, deep: bool) -> Level:
        """Create the array of an image, or open it where it was created before."""
        subject, channels = self.subjects[group], self.output.channels
        t, _, *zyx = subject.shape
        axes = subject.axes.with_channels() if channels else subject.axes.without_channels()
        shape = (t, len(channels) or 1, *zyx)
        return self.store.level(group, 0, axes, shape, self.output.dtype, is_label=not channels, deep=deep)

    def complete(
        self, classes: Sequence[str], *, deep: bool, workers: int | None = None, progress: Progress = silent
    ) -> None:
        """Write the further levels, one of four classes, but the mean of four probabilities, and all metadata."""
        if self.store.complete:
            return
        levels = {group: self.level(group, deep=deep) for group in self.subjects}
        reduce_2x2 = mean_2x2 if self.output.channels else nearest_2x2
        build_pyramids(self.store, levels, reduce_2x2, workers=workers, progress=progress)
        self._finish(classes)

    def _finish(self, classes: Sequence[str]) -> None:
        """Write all metadata; from then on the store is complete."""
        metadata = []
        for group, subject in self.subjects.items():
            n_levels = len(level_shapes(subject.shape, self.store.n_levels))
            described = partial(ImageMetadata, group, name=subject.name, first=subject.first, n_levels=n_levels)
            if self.output.channels:
                axes, channels = subject.axes.with_channels(), tuple(map(Channel, self.output.channels))
                metadata.append(described(axes=axes, channels=channels, window=_window(self.output.dtype)))
            else:
                axes = subject.axes.without_channels()
                metadata.append(described(axes=axes, classes=dict(enumerate(classes))))
        described_as: dict[str, Any] = {"kind": self.output.kind, "classes": list(classes)}
        if self.output.channels:
            described_as["channels"] = list(self.output.channels)
        self.store.finish(metadata, {"prediction": described_as})


def _window(dtype: str) -> tuple[float, float]:
    """Return the values to show as black and white."""
    return (0.0, 255.0) if dtype == "uint8" else (0.0, 1.0)
