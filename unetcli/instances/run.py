"""The instances of a store: begun with the mask, found when it is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from unetcli.image.resample import snapped
from unetcli.image.source import Source
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, silent
from unetcli.instances.find import Segmented, find_objects
from unetcli.instances.outlines import check_outlines, write_outlines
from unetcli.instances.probabilities import OfAllClasses
from unetcli.instances.table import check_table, measure_objects, write_table


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
    stored
        The classes whose probabilities these are.
    classes
        Names of the classes.
    ndim
        Of the objects, as far as images have that many axes.
    """

    subjects: Mapping[str, Subject]
    masks: Sequence[Location]
    probabilities: Location | None
    stored: Sequence[int]
    classes: Sequence[str]
    ndim: int

    def segmented(self) -> Iterator[tuple[str, Subject, Segmented]]:
        """Open the results of each image; yield its group and what it was made of, too."""
        masks = _opened(self.masks)
        probabilities = _opened([self.probabilities]) if self.probabilities is not None else [None] * len(masks)
        for (group, subject), mask, found in zip(self.subjects.items(), masks, probabilities, strict=True):
            ndim = min(self.ndim, 2 + (subject.shape[2] > 1))
            found = found and OfAllClasses(found, self.stored, len(self.classes))
            yield group, subject, Segmented(group or "image", mask, found, ndim)


def _opened(paths: Sequence[Location]) -> list[Source]:
    return [item.source for path in paths for item in open_inputs([path])]


@dataclass(frozen=True)
class Reports:
    """What is told of objects beside their ids.

    Parameters
    ----------
    table
        CSV or Parquet with a row for each object.
    outlines
        GeoJSON with a polygon for each object.
    """

    table: Path | None = None
    outlines: Path | None = None

    @property
    def given(self) -> dict[str, Path]:
        """Those that are asked for, by option."""
        both = {"--table": self.table, "--outlines": self.outlines}
        return {option: path for option, path in both.items() if path is not None}


def check_instances(
    instances: Location | None,
    config: PredictConfig,
    reports: Reports,
    *,
    probabilities: Location | None,
    stored: Sequence[int],
    classes: Sequence[str],
    images: int,
    ndim: int,
) -> None:
    """Refuse settings of instances that can not be followed, before anything is written.

    Raises
    ------
    ConfigError
        If there are such settings but no instances, they need probabilities that are not written (`stored` are the
        classes whose are), or a report can not be.
    """
    if instances is None:
        given = [f"--{name.replace('_', '-')}" for name in config.instance_settings(changed=True)]
        given += list(reports.given)
        if given:
            raise ConfigError(f"{', '.join(given)}: of instances, which are not written", fix="--instances i.zarr")
        return
    check_output(instances, images=images, dtype="uint32", ngff=config.ngff)
    for option, is_given in (
        ("--threshold", config.threshold is not None),
        ("--split probability", config.split == "probability"),
    ):
        if is_given and probabilities is None:
            raise ConfigError(f"{option}: needs the probabilities", fix="--probabilities p.zarr")
        if is_given and len(stored) < len(classes):
            lacking = ", ".join(name for number, name in enumerate(classes) if number not in stored)
            raise ConfigError(
                f"{option}: needs the probabilities of all classes; --classes {config.classes} leaves out {lacking}",
                fix="leave out --classes",
            )
    if reports.table is not None:
        check_table(reports.table)
    if reports.outlines is not None:
        check_outlines(reports.outlines, images=images, ndim=config.object_ndim or ndim)


def write_instances(
    store: NewStore,
    results: Results,
    config: PredictConfig,
    reports: Reports,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Find the objects of all images, if the store is not complete; write reports, and say how many there are.

    Parameters
    ----------
    store
        Begun for the ids of objects.
    results
        The complete masks, with or without probabilities.
    reports
        Written of a complete store, too.
    """
    if not store.complete:
        levels: dict[str, Level] = {}
        counts: dict[str, int] = {}
        for group, subject, segmented in results.segmented():
            axes, shape = subject.axes.without_channels(), segmented.mask.shape
            levels[group] = store.level(group, 0, axes, shape, "uint32", is_label=True, deep=segmented.ndim == 3)
            with store.ledger.present():
                counts[subject.name] = find_objects(
                    segmented, levels[group], config, store.ledger, workers=workers, progress=progress
                )
        build_pyramids(store, levels, nearest_2x2, workers=workers, progress=progress)
        described = {"kind": "instances", "classes": list(results.classes), "objects": counts}
        store.finish(_metadata(store, results.subjects), {"prediction": described})
    counts = store.written()["prediction"]["objects"]
    told = _report(store.path, counts, results, config, reports, workers, progress) if reports.given else {}
    return {"objects": sum(counts.values()), **told}


def _report(
    path: Location,
    counts: Mapping[str, int],
    results: Results,
    config: PredictConfig,
    reports: Reports,
    workers: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the objects of complete ids; write what is asked for."""
    measured, told = [], {option.strip("-"): str(given) for option, given in reports.given.items()}
    ids = _opened([path])
    shared: dict[str, Any] = {"workers": workers, "progress": progress}
    for (_, subject, segmented), source in zip(results.segmented(), ids, strict=True):
        named: dict[str, Any] = {"n": counts[subject.name], "image": subject.name, "classes": results.classes}
        named["stored"] = results.stored
        measured.append(measure_objects(segmented, source, **named, threshold=config.threshold, **shared))
    if reports.table is not None:
        write_table(reports.table, measured)
    if reports.outlines is not None:
        (subject,) = results.subjects.values()
        left_out = write_outlines(reports.outlines, measured[0], ids[0], factors=_factors(subject), **shared)
        told |= {"without_outline": f"{left_out} objects, which are too large"} if left_out else {}
    return told


def _factors(subject: Subject) -> tuple[float, float]:
    """Return how many pixels of full size are one of what is written, along y and x: its first one begins at theirs."""
    y, x = (
        snapped(scale / (scale - 2 * subject.first.get(axis, 0.0)))
        for axis, scale in ((axis, subject.axes.scale_of(axis)) for axis in "yx")
    )
    return y, x


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
