"""Where what a network finds is written to: a mask, and what is asked for beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError
from unetcli.image.levels import Subject
from unetcli.image.location import Location
from unetcli.image.new_label import NewLabel, check_labels, zarr_format_of
from unetcli.image.new_output import check_output, is_tiff_name, new_output
from unetcli.image.new_store import Layout, NewStore, check_apart
from unetcli.image.ngff import ZARR_FORMATS
from unetcli.image.pyramid import level_shapes
from unetcli.image.store import Store
from unetcli.image.tiling import Shape
from unetcli.prediction import outputs
from unetcli.prediction.outputs import Output, Written


@dataclass(frozen=True)
class Stored:
    """What is stored of an image.

    Parameters
    ----------
    place
        The store or TIFF file.
    dtype
        Of the pixels.
    n_channels
        Of each pixel.
    zarr_format
        Of a store: in format 2 each chunk is a file, in format 3 each shard.
    """

    place: Location
    dtype: str
    n_channels: int = 1
    zarr_format: int = 3

    def files(self, shape: Shape, *, deep: bool) -> int:
        """Return the number of files of an image (t, c, z, y, x) with all its levels."""
        if is_tiff_name(self.place):
            return 1
        levels = [
            files_along(s, deep=deep and k == 0, zarr_format=self.zarr_format)
            for k, s in enumerate(self._levels(shape))
        ]
        return sum(math.prod(counts) + 1 for counts in levels) + 1

    def bytes(self, shape: Shape) -> int:
        """Return the bytes of an image (t, c, z, y, x) with all its levels, before compression."""
        return sum(map(math.prod, self._levels(shape))) * np.dtype(self.dtype).itemsize

    def _levels(self, shape: Shape) -> list[Shape]:
        t, _, *zyx = shape
        return level_shapes((t, self.n_channels, *zyx))


def files_along(shape: Shape, *, deep: bool, zarr_format: int = 3) -> tuple[int, ...]:
    """Return the number of files of an array along each axis (t, c, z, y, x)."""
    layout = Layout.of(shape, deep=deep)
    each = layout.chunk if zarr_format == 2 else layout.shard
    return tuple(math.ceil(n / m) for n, m in zip(shape, each, strict=True))


@dataclass(frozen=True)
class Targets:
    """Where the mask goes, and what is asked for beside it.

    Parameters
    ----------
    out
        A new store or TIFF file for the masks; or None.
    as_label
        Name of labels that masks become, one for each image; or None.
    probabilities, uncertainty
        New stores or TIFF files; or None.
    """

    out: Location | None
    as_label: str | None
    probabilities: Location | None
    uncertainty: Location | None

    def described(self, image: Location) -> str:
        """Say where the masks of a store are."""
        return str(self.out) if self.out else f"{image}, labels {self.as_label}"

    def first(self, source: Store) -> Location:
        """Return where the mask of the first image is, or that of all."""
        return self.out or source.images[0].path / "labels" / str(self.as_label)

    def check_mask(self) -> None:
        """Refuse both places for the mask, and none."""
        if (self.out is None) == (self.as_label is None):
            raise ConfigError(
                f"{'neither' if self.out is None else 'both'} -o and --as-label given; expected one of them",
                fix="-o mask.zarr for a new store, or --as-label prediction for labels beside the image",
            )

    def maps(self, classes: Sequence[str], config: PredictConfig) -> dict[Location, Output]:
        """Return what is written beside the mask, by path."""
        if config.classes is not None and self.probabilities is None:
            raise ConfigError(
                f"--classes {config.classes} without --probabilities: the mask always holds all classes",
                fix="--probabilities p.zarr, or leave out --classes",
            )
        is_entropy = config.uncertainty_kind == "entropy"
        if not is_entropy and (self.uncertainty is None or config.tta == "none"):
            lacking = "--uncertainty" if self.uncertainty is None else "--tta"
            raise ConfigError(
                f"--uncertainty-kind {config.uncertainty_kind} without {lacking}: expected where to write it, and "
                "several views to take it of",
                fix="--uncertainty u.zarr --uncertainty-kind variance --tta d4",
            )
        dtype, maps = config.probability_dtype, {}
        if self.probabilities is not None:
            chosen = outputs.chosen_classes(classes, config.classes)
            maps[self.probabilities] = outputs.probabilities(classes, dtype, chosen)
        if self.uncertainty is not None:
            check_apart(self.uncertainty, list(maps))
            maps[self.uncertainty] = outputs.entropy(dtype) if is_entropy else outputs.variance(dtype)
        return maps

    def check(self, source: Store, maps: Mapping[Location, Output], config: PredictConfig) -> None:
        """Refuse outputs that can not be, before anything is written."""
        if self.out is not None:
            check_output(self.out, images=len(source.images), ngff=config.ngff)
        if self.as_label is not None:
            check_labels(source.images, self.as_label)
            if config.level and config.upsample == "none":
                raise ConfigError(
                    f"--as-label {self.as_label} --level {config.level} --upsample none: labels have the size of their "
                    "image",
                    fix="leave out --upsample none; or -o mask.zarr in place of --as-label",
                )
        for path, output in maps.items():
            check_output(path, images=len(source.images), dtype=output.dtype, ngff=config.ngff)

    def stored(self, source: Store, maps: Mapping[Location, Output], classes: Sequence[str], ngff: str) -> list[Stored]:
        """Tell what is stored of each image."""
        own, dtype = ZARR_FORMATS[ngff], outputs.mask(len(classes)).dtype
        mask = Stored(self.first(source), dtype, zarr_format=own if self.out else zarr_format_of(source.images[0]))
        return [mask, *(Stored(path, made.dtype, len(made.channels), own) for path, made in maps.items())]

    def begin(
        self,
        source: Store,
        groups: Mapping[str, Subject],
        maps: Mapping[Location, Output],
        classes: Sequence[str],
        ngff: str,
        begun: Mapping[str, Any],
        run_with: Mapping[str, Any],
    ) -> tuple[list[Written], list[Written]]:
        """Begin the masks, and what is written beside them.

        Parameters
        ----------
        source, groups
            The images; what is segmented of them, by group.
        maps
            As `maps` returns it.
        classes
            Of the model.
        ngff
            Version of OME-Zarr of new stores.
        begun, run_with
            Further parameters of `NewStore`, and those of `new_output`.

        Raises
        ------
        ConfigError
            If some are complete and others are not.
        """
        options: dict[str, Any] = {"zarr_format": ZARR_FORMATS[ngff], **begun, **run_with}

        def begin(path: Location, stage: str) -> NewStore:
            return new_output(path, stage=stage, **options)

        mask = outputs.mask(len(classes))
        if self.out is not None:
            masks = [Written(mask, begin(self.out, "tile-predict"), groups)]
        else:
            labels = [
                NewLabel(source.path, i, str(self.as_label), stage="tile-predict", **begun) for i in source.images
            ]
            masks = [Written(mask, label, {group: groups[group]}) for label, group in zip(labels, groups, strict=True)]
        others = [Written(made, begin(path, f"tile-predict {made.kind}"), groups) for path, made in maps.items()]
        done = [written.store.path for written in masks if written.store.complete]
        missing = [written.store.path for written in others if not written.store.complete]
        if done and missing:
            raise ConfigError(f"{done[0]} is complete, but {missing[0]} is not", fix="--overwrite makes all again")
        return masks, others
