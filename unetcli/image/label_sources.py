"""Label files as people have them, shown as one channel of values: colours, masks with edges in between, objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import InputError
from unetcli.image.axes import Axes, Channel, describe_shape
from unetcli.image.files import open_file
from unetcli.image.inspect import interpolated
from unetcli.image.pairing import images_in
from unetcli.image.source import AnyArray, Source, View
from unetcli.image.tiling import Box

COLOUR = 2**24
"""A colour is shown as the value ``COLOUR + 0xRRGGBB``; greys keep their value."""


@dataclass(frozen=True)
class ShownLabels(View):
    """A label image whose pixels are shown as something else, box by box.

    Parameters
    ----------
    source
        The labels as they are stored.
    shown_dtype
        Of the pixels that `show` returns.
    show
        Takes a block (t, c, z, y, x) with all channels, returns one of a single channel.
    """

    shown_dtype: np.dtype[Any]
    show: Callable[[AnyArray], AnyArray]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what is shown."""
        return self.shown_dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the source, with one channel."""
        return (self.source.shape[0], 1, *self.source.shape[2:])

    @property
    def axes(self) -> Axes:
        """Axes of the source but ``c``."""
        return self.source.axes.without_channels()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Nothing: values of labels are no channels."""
        return ()

    @property
    def is_coloured(self) -> bool:
        """Whether the values are colours."""
        return self.show is colour_values

    def read(self, box: Box) -> AnyArray:
        """Return what is shown of a box that lies inside the image."""
        return self.show(self.source.read(box.replace(1, 0, self.source.shape[1])))


def one_channel(source: Source, *, threshold: int | None = None) -> Source:
    """Show a label image as one channel of values, if it is coloured or has a threshold.

    Parameters
    ----------
    source
        Labels; RGB and RGBA (whose alpha does not count) are coloured.
    threshold
        This value and larger ones are shown as 1, the others as 0; of a colour its brightest channel counts. Of
        files of one bit a pixel there is nothing between.

    Returns
    -------
    Source
        The same one if there is nothing to do.
    """
    is_coloured = source.shape[1] in (3, 4) and source.dtype == np.uint8
    if threshold is not None and (is_coloured or source.shape[1] == 1):
        lowest = 1 if source.dtype == np.bool_ else threshold
        return ShownLabels(source, np.dtype(np.uint8), partial(at_least, lowest))
    return ShownLabels(source, np.dtype(np.uint32), colour_values) if is_coloured else source


def colour_values(block: AnyArray) -> AnyArray:
    """Return a value for each colour of a block (t, c, z, y, x) of three or more channels: see `COLOUR`."""
    red, green, blue = (block[:, k : k + 1].astype(np.uint32) for k in range(3))
    is_grey = (red == green) & (green == blue)
    return np.where(is_grey, red, COLOUR + (red << 16) + (green << 8) + blue).astype(np.uint32)


def at_least(threshold: int, block: AnyArray) -> AnyArray:
    """Return 1 where the brightest of up to three channels is at least a threshold, else 0."""
    brightest: AnyArray = block[:, :3].max(axis=1, keepdims=True)
    return (brightest >= threshold).astype(np.uint8)


def same_white(sources: Sequence[Source]) -> list[Source]:
    """Show files of one bit a pixel with white as 255, if others have more: drawn alike, saved differently."""
    if len({source.dtype == np.bool_ for source in sources}) < 2:
        return list(sources)
    white = partial(np.multiply, np.uint8(255), dtype=np.uint8)
    return [ShownLabels(s, np.dtype(np.uint8), white) if s.dtype == np.bool_ else s for s in sources]


@dataclass(frozen=True)
class ObjectFiles:
    """A folder with a file for each object, shown as ids: the k-th file in the order of names is object k.

    Each file is read whole. Where objects overlap, the first one stays.

    Parameters
    ----------
    path
        The folder.
    files
        In the order of their ids.
    shape, axes
        Of each file.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, ...]
    axes: Axes
    channels: tuple[Channel, ...] = ()
    notes: tuple[str, ...] = ("labels have a file for each object: ids count them in the order of their names",)

    @property
    def name(self) -> str:
        """The folder, for messages."""
        return str(self.path)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids."""
        return np.dtype(np.uint32)

    def read(self, box: Box) -> AnyArray:
        """Return the ids in a box that lies inside the image."""
        ids = np.zeros(box.shape, self.dtype)
        for k, mask in enumerate(self._masks(), start=1):
            ids[mask[box.slices] & (ids == 0)] = k
        return ids

    def n_overlapping(self) -> int:
        """Count the pixels that belong to several objects."""
        once, twice = np.zeros((2, *self.shape), np.bool_)
        for mask in self._masks():
            twice |= once & mask
            once |= mask
        return int(np.count_nonzero(twice))

    def _masks(self) -> Iterator[AnyArray]:
        return (_object_mask(path) for path in self.files)


def open_objects(folder: Path) -> ObjectFiles:
    """Open a folder with a file for each object.

    Raises
    ------
    InputError
        If a file can not be read or has another size than the first; whether each holds one object is seen
        when it is read.
    """
    files = sorted(images_in(folder), key=lambda path: path.name)
    first = open_file(files[0], is_label=True)
    shape = (first.shape[0], 1, *first.shape[2:])
    for path in files[1:]:
        other = open_file(path, is_label=True).shape
        if (other[0], 1, *other[2:]) != shape:
            raise InputError(
                f"{path}: is {describe_shape((other[0], 1, *other[2:]))}; expected {describe_shape(shape)}, "
                f"as {files[0].name}",
                fix="give the masks of one image, all at its size",
            )
    return ObjectFiles(folder, tuple(files), shape, first.axes.without_channels())


def _object_mask(path: Path) -> AnyArray:
    """Read where the one object of a file is: what is brighter than half of its brightest pixel.

    The files are not kept open: there are as many as objects, and a decoded one stays in memory.
    """
    source = open_file(path, is_label=True)
    pixels = source.read(Box.whole(source.shape))[:, :3].max(axis=1, keepdims=True)
    values, counts = np.unique(pixels, return_counts=True)
    if len(values) > 2 and not interpolated(values, counts):
        raise InputError(
            f"{path}: holds {len(values)} values; expected two, as each file of a folder shows one object",
            fix="name labels of many objects as their images are named",
        )
    mask: AnyArray = pixels > values[-1] / 2
    return mask
