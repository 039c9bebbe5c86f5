"""What is written of the class probabilities: how each output is made of them, and the stores that it goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unetcli.image.axes import Channel
from unetcli.image.levels import Subject
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata
from unetcli.image.pyramid import level_shapes
from unetcli.image.store import Level

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
    """

    kind: str
    encode: Callable[[Tensor], Tensor]
    dtype: str
    channels: tuple[str, ...] = ()


def mask() -> Output:
    """Return the output that is the most probable class of each pixel; of several the first."""
    return Output("mask", lambda probabilities: probabilities.argmax(0, keepdim=True).to(torch.uint8), "uint8")


def probabilities(classes: Sequence[str], dtype: str) -> Output:
    """Return the output that is the probability of each class; as uint8 it is 255 times that, rounded."""

    def encode(found: Tensor) -> Tensor:
        return (found * 255).round().to(torch.uint8) if dtype == "uint8" else found.to(getattr(torch, dtype))

    return Output("probabilities", encode, dtype, tuple(classes))


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

    def finish(self, classes: Sequence[str]) -> None:
        """Write all metadata; from then on the store is complete."""
        metadata = []
        for group, subject in self.subjects.items():
            described = partial(ImageMetadata, group, name=subject.name, first=subject.first)
            if self.output.channels:
                axes, channels = subject.axes.with_channels(), tuple(map(Channel, self.output.channels))
                metadata.append(described(axes=axes, channels=channels, window=(0.0, 1.0)))
            else:
                axes, n_levels = subject.axes.without_channels(), len(level_shapes(subject.shape, self.store.n_levels))
                metadata.append(described(axes=axes, n_levels=n_levels, classes=dict(enumerate(classes))))
        self.store.finish(metadata, {"prediction": {"kind": self.output.kind, "classes": list(classes)}})
