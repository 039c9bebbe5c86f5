"""The instances of a store: begun with the mask, found when it is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError
from unetcli.image.inputs import open_inputs
from unetcli.image.levels import Subject
from unetcli.image.location import Location
from unetcli.image.new_output import check_output
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata
from unetcli.image.pyramid import build_pyramids, level_shapes, nearest_2x2
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, silent
from unetcli.instances.find import Segmented, find_objects


@dataclass(frozen=True)
class Results:
    """What the network's run left, complete.

    Parameters
    ----------
    subjects
        The images, by group.
    masks
        Where their masks are: a store or file of all, or one of each.
    probabilities
        Where their probabilities are, if anywhere.
    classes
        Names of the classes.
    ndim
        Of the objects, as far as images have that many axes.
    """

    subjects: Mapping[str, Subject]
    masks: Sequence[Location]
    probabilities: Location | None
    classes: Sequence[str]
    ndim: int

    def segmented(self) -> Iterator[tuple[str, Subject, Segmented]]:
        """Open the results of each image; yield its group and what it was made of, too."""
        masks = _opened(self.masks)
        probabilities = _opened([self.probabilities]) if self.probabilities is not None else [None] * len(masks)
        for (group, subject), mask, found in zip(self.subjects.items(), masks, probabilities, strict=True):
            ndim = min(self.ndim, 2 + (subject.shape[2] > 1))
            yield group, subject, Segmented(group or "image", mask, found, ndim)


def _opened(paths: Sequence[Location]) -> list[Source]:
    return [item.source for path in paths for item in open_inputs([path])]


def check_instances(
    instances: Location | None, config: PredictConfig, *, probabilities: Location | None, images: int
) -> None:
    """Refuse settings of instances that can not be followed, before anything is written.

    Raises
    ------
    ConfigError
        If there are such settings but no instances, or they need probabilities that are not written.
    """
    if instances is None:
        given = [f"--{name.replace('_', '-')}" for name in config.instance_settings(changed=True)]
        if given:
            raise ConfigError(f"{', '.join(given)}: of instances, which are not written", fix="--instances i.zarr")
        return
    check_output(instances, images=images, dtype="uint32")
    for option, is_given in (
        ("--threshold", config.threshold is not None),
        ("--split probability", config.split == "probability"),
    ):
        if is_given and probabilities is None:
            raise ConfigError(f"{option}: needs the probabilities", fix="--probabilities p.zarr")


def write_instances(
    store: NewStore,
    results: Results,
    config: PredictConfig,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Find the objects of all images and finish the store, if it is not complete; say how many there are.

    Parameters
    ----------
    store
        Begun for the ids of objects.
    results
        The complete masks, with or without probabilities.
    """
    if not store.complete:
        levels: dict[str, Level] = {}
        counts: dict[str, int] = {}
        for group, subject, segmented in results.segmented():
            axes, shape = subject.axes.without_channels(), segmented.mask.shape
            levels[group] = store.level(group, 0, axes, shape, "uint32", is_label=True, deep=segmented.ndim == 3)
            counts[subject.name] = find_objects(
                segmented, levels[group], config, store.ledger, workers=workers, progress=progress
            )
        build_pyramids(store, levels, nearest_2x2, workers=workers, progress=progress)
        described = {"kind": "instances", "classes": list(results.classes), "objects": counts}
        store.finish(_metadata(store, results.subjects), {"prediction": described})
    return {"objects": sum(store.written()["prediction"]["objects"].values())}


def _metadata(store: NewStore, subjects: Mapping[str, Subject]) -> list[ImageMetadata]:
    return [
        ImageMetadata(
            group,
            subject.axes.without_channels(),
            subject.name,
            n_levels=len(level_shapes(subject.shape, store.n_levels)),
            classes={},
            first=subject.first,
        )
        for group, subject in subjects.items()
    ]
