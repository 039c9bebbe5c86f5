"""Random, deformed samples of a data set: what `augment` writes is what `train` learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetcli.config import DeformConfig
from unetcli.errors import InputError
from unetcli.image.dataset import SAMPLING, TARGET, TRUTH, WEIGHTS, Dataset
from unetcli.image.density import Density
from unetcli.image.fingerprint import fingerprint
from unetcli.image.location import Location
from unetcli.image.source import Source, read_mirrored
from unetcli.image.store import Image, open_store
from unetcli.image.tiling import Box
from unetcli.kernels.deformation import Deformation, Position, random_deformation, source_box
from unetcli.kernels.gray import GrayVariation, apply_gray, random_gray
from unetcli.kernels.warp import ORDERS, Layer, warp

Block = NDArray[Any]
Plane = tuple["Example", int, int]
"""A plane (t, z) of an image; of a volume, z is 0."""


@dataclass(frozen=True)
class Example:
    """One image with what a network is to make of it.

    Parameters
    ----------
    name
        Name of the image.
    image
        Gray values.
    truth
        The labels as prepared: classes or object ids.
    target
        Class of each pixel to train on; `None`: from the truth.
    weights
        Weight map; `None`: every pixel counts the same.
    density
        Where regions are centred; `None`: they lie anywhere.
    first_z
        Which plane of its image the first one is, if others were cut away.
    """

    name: str
    image: Source
    truth: Source
    target: Source | None = None
    weights: Source | None = None
    density: Density | None = None
    first_z: int = 0

    def share(self, t: int, z: int, ndim: int, *, whole: bool) -> float:
        """Return how often a sample is of a plane, or volume: regions by density, or by pixels."""
        if self.density is None or whole:
            _, _, depth, height, width = self.image.shape
            return float(height * width * (1 if ndim == 2 else depth))
        return self.density.total(self.planes(t, z, ndim))

    def planes(self, t: int, z: int, ndim: int) -> slice:
        """Return a plane (t, z), or all of the volume t, as planes counted through t and z."""
        depth = self.image.shape[2]
        return slice(t * depth + z, t * depth + z + 1) if ndim == 2 else slice(t * depth, (t + 1) * depth)


def examples(dataset: Dataset, weights: Location | None) -> dict[str, Example]:
    """Return the images of a data set with truth, target and weights, by name.

    Raises
    ------
    InputError
        If the weights are not of this data set.
    """
    dataset.require_labels()
    maps = {} if weights is None else _weight_images(weights, dataset)
    found = {}
    for image in dataset.images:
        example = Example(image.name, image.level, image.labels(TRUTH))
        if weights is not None:
            example = _with_weights(example, maps, weights, single=len(dataset.images) == 1)
        elif (image.path / WEIGHTS).exists():  # an augmented image brings its own
            weight_map = open_store(image.path / WEIGHTS).images[0].level
            example = replace(example, target=image.labels(TARGET), weights=weight_map)
        found[image.name] = example
    return found


def _weight_images(path: Location, dataset: Dataset) -> Mapping[str, Image]:
    store = open_store(path)
    if "weights" not in store.attributes:
        raise InputError(f"{path}: holds no weight maps", fix="unetcli weights data.zarr -o weights.zarr")
    made_from = store.attributes["fingerprint"]["inputs"].get("data")
    if made_from and made_from != [fingerprint(dataset.store.path)]:
        raise InputError(
            f"{path}: its weight maps were made from another data set than {dataset.store.path}, "
            "or from an older state of it",
            fix=f"give those of this data set; unetcli weights {dataset.store.path} -o new_weights.zarr makes them",
        )
    return {image.name: image for image in store.images}


def _with_weights(example: Example, maps: Mapping[str, Image], path: Location, *, single: bool) -> Example:
    image = next(iter(maps.values())) if single and len(maps) == 1 else maps.get(example.name)
    if image is None or image.level.shape != example.truth.shape:
        found = "none" if image is None else "x".join(map(str, image.level.shape))
        raise InputError(
            f"{path}: weight map of {example.name} is {found}; expected {'x'.join(map(str, example.truth.shape))}",
            fix="make the weights again from this data set",
        )
    if (image.path / SAMPLING).exists():
        blocks = open_store(image.path / SAMPLING).images[0].level
        example = replace(example, density=Density(blocks, example.truth.shape))
    return replace(example, target=image.labels(TARGET), weights=image.level)


def all_ignored(found: str) -> InputError:
    """Return the error for weights that leave nothing to learn from."""
    return InputError(
        f"{found} in all training images, because all their pixels are ignored",
        fix="prepare the data set with another --split, or make the weights with another --ignore",
    )


class Rendering(NamedTuple):
    """What a part of a sample shows.

    Parameters
    ----------
    image : (c, z, y, x) float32
        Gray values, normalized and varied.
    labels : list of (z, y, x)
        Each label image that was asked for, in its dtype.
    weights : (z, y, x) float32
        The weight map; `None` if there is none.
    """

    image: Block
    labels: list[Block]
    weights: Block | None


@dataclass(frozen=True)
class Sample:
    """One deformed view of a part of an image: a function of the seed and its number alone.

    Parameters
    ----------
    example
        Where it is taken from.
    t
        Time point.
    origin
        First pixel (z, y, x) of the region in the image, before it is deformed.
    deformation
        Of the region.
    gray
        Variation of the gray values of each channel.
    interpolation
        Of the image, ``linear`` or ``cubic``.
    """

    example: Example
    t: int
    origin: Position
    deformation: Deformation
    gray: GrayVariation
    interpolation: str

    @property
    def shape(self) -> Position:
        """Extent of the region, (z, y, x)."""
        return self.deformation.shape

    @property
    def _spacing(self) -> tuple[float, float, float]:
        """Pixel size along (z, y, x) in units of that along x; no plane is near one plane."""
        z, y, x = self.example.image.axes.spacing
        return (math.inf if self.shape[0] == 1 else z, y, x)

    def render(
        self,
        start: Position,
        stop: Position,
        mean: Block,
        std: Block,
        labels: Sequence[Source] = (),
        *,
        inside: tuple[Position, Position] | None = None,
    ) -> Rendering:
        """Deform image, labels and weights in one pass; any cut into parts gives the same pixels.

        Parameters
        ----------
        start, stop
            The part (z, y, x), relative to the region.
        mean, std : (c,) float32
            Of each channel; gray values vary in units of `std` around `mean`.
        labels
            Label images of this image: each pixel gets the nearest one's value.
        inside
            The part of labels and weights, where it is a smaller one.

        Returns
        -------
        Rendering
            Gray values are ``(gray values - mean) / std``, deformed, then varied. What the blur looks at around
            the part is rendered too: the deformation goes on outside of the region.
        """
        spacing, near = self._spacing, inside or (start, stop)
        part = _grown(start, stop, self.gray.halo(spacing))
        layers = [self._layer(self.example.image, *part, ORDERS[self.interpolation])]
        layers += [self._layer(source, *near, ORDERS["nearest"]) for source in labels]
        if self.example.weights is not None:
            layers.append(self._layer(self.example.weights, *near, ORDERS["linear"]))
        image, *others = warp(self.deformation, layers)
        image -= mean[:, None, None, None]
        image /= std[:, None, None, None]
        weights = None if self.example.weights is None else others.pop()[0]
        return Rendering(apply_gray(image, start, self.gray, spacing), [label[0] for label in others], weights)

    def blocks(
        self, sources: Sequence[Source], start: Position, stop: Position, order: int
    ) -> tuple[Position, list[Block]]:
        """Read what a part of the region shows, the same pixels of several sources of its image.

        Parameters
        ----------
        sources
            Images of the same size.
        start, stop
            The part (z, y, x), relative to the region; it may reach past it.
        order
            Interpolation, as of `Layer`.

        Returns
        -------
        origin : (z, y, x)
            Where the pixels lie in the region's frame.
        blocks
            The pixels of each source, (c, z, y, x).
        """
        low, high = source_box(self.deformation, start, stop, order=order)
        first, last = (tuple(int(o + a) for o, a in zip(self.origin, end, strict=True)) for end in (low, high))
        boxes = [Box((self.t, 0, *first), (self.t + 1, source.shape[1], *last)) for source in sources]
        read = [read_mirrored(source, box)[0] for source, box in zip(sources, boxes, strict=True)]
        return (int(low[0]), int(low[1]), int(low[2])), read

    def _layer(self, source: Source, start: Position, stop: Position, order: int) -> Layer:
        """Read what a part of the region shows of a source."""
        origin, (block,) = self.blocks([source], start, stop, order)
        return Layer(block, origin, start, stop, order)


def draw_sample(
    planes: Sequence[Plane],
    config: DeformConfig,
    seed: int,
    k: int,
    size: int | None,
    ndim: int,
) -> Sample:
    """Draw sample k.

    Parameters
    ----------
    planes
        (example, t, z) of each plane to choose from; of volumes, z is not looked at.
    config
        Ranges of the augmentation.
    seed, k
        The sample is a function of these alone.
    size
        Side of the region in pixels, at a random place, or centred where there is density; `None`: the whole
        plane or volume.
    ndim
        2 or 3.

    Returns
    -------
    Sample
    """
    rng = np.random.default_rng([seed, k])
    areas = np.array([e.share(t, z, ndim, whole=size is None) for e, t, z in planes], dtype=float)
    if not areas.any():
        raise all_ignored("the sampling map of the weights is 0")
    example, t, z = planes[rng.choice(len(planes), p=areas / areas.sum())]
    origin, shape = _draw_region(rng, example, t, z, size, ndim)
    return vary(rng, example, t, origin, shape, config, ndim)


def vary(
    rng: np.random.Generator,
    example: Example,
    t: int,
    origin: Position,
    shape: Position,
    config: DeformConfig,
    ndim: int,
) -> Sample:
    """Draw how a region of an image is deformed, and how its gray values vary.

    Parameters
    ----------
    rng
        Source of all randomness.
    example, t, origin, shape
        The image, its time point, and first pixel and extent (z, y, x) of the region.
    config
        Ranges of the augmentation.
    ndim
        2 or 3.
    """
    deformation = random_deformation(
        rng,
        shape,
        grid=config.grid_points(ndim),
        std_px=config.elastic,
        rotation_rad=float(np.deg2rad(config.rotation)),
        scale=config.scaling,
        shift_px=config.shift,
        flip=config.flip,
        spacing=example.image.axes.spacing,
    )
    gray = random_gray(
        rng,
        example.image.shape[1],
        together=_vary_together(example.image, config),
        contrast=config.contrast,
        brightness=config.brightness,
        gamma=config.gamma,
        noise=config.noise,
        blur=config.blur,
    )
    return Sample(example, t, origin, deformation, gray, config.interpolation)


def _draw_region(
    rng: np.random.Generator, example: Example, t: int, z: int, size: int | None, ndim: int
) -> tuple[Position, Position]:
    """Choose the first pixel (z, y, x) of a region of a plane or volume, and its extent."""
    _, _, depth, height, width = example.image.shape
    whole = (1 if ndim == 2 else depth, height, width)
    shape = whole if size is None else (min(size, whole[0]), size, size)
    centre: Sequence[int | None] = (None, None, None)
    if example.density and size is not None:
        centre = example.density.draw(rng, example.planes(t, z, ndim))
    first = z if ndim == 2 else place_around(rng, depth, shape[0], centre[0])
    y, x = (place_around(rng, *along) for along in zip(whole[1:], shape[1:], centre[1:], strict=True))
    return (first, y, x), shape


def _vary_together(image: Source, config: DeformConfig) -> bool:
    """Tell whether all channels get the same gray variation: by default, if they are the colours of one picture."""
    if config.vary_channels is not None:
        return config.vary_channels == "together"
    return [channel.name.lower() for channel in image.channels] == ["red", "green", "blue"]


def _grown(start: Position, stop: Position, halo: Position) -> tuple[Position, Position]:
    """Return a box with a margin on all sides."""
    (z, y, x), (z_end, y_end, x_end), (h_z, h_y, h_x) = start, stop, halo
    return (z - h_z, y - h_y, x - h_x), (z_end + h_z, y_end + h_y, x_end + h_x)


def _place(rng: np.random.Generator, n: int, size: int) -> int:
    """Choose the first pixel of a region of a size; one larger than the image lies around its middle."""
    return int(rng.integers(n - size + 1)) if n >= size else (n - size) // 2


def place_around(rng: np.random.Generator, n: int, size: int, centre: int | None) -> int:
    """Choose the first pixel of a region within the image around a centre, if one is given."""
    if centre is None or n < size:
        return _place(rng, n, size)
    return min(max(centre - size // 2, 0), n - size)
