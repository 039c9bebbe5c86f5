"""Scores of one image in flat memory: tables summed over its tiles; planes, windows or volumes for the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import EvaluateConfig
from unetcli.evaluation.pairs import Pair
from unetcli.evaluation.plan import Plan
from unetcli.image.streaming import Progress, available_cpus, reduce_tiles, silent, work_on
from unetcli.image.tiling import Box, Tile
from unetcli.metrics.calibration import calibration_table
from unetcli.metrics.measuring import (
    ImageTotals,
    Measured,
    TypeCounts,
    add_up_counts,
    add_up_slices,
    combine_curve,
    combine_slices,
    measure,
)
from unetcli.metrics.pixels import dice, iou
from unetcli.metrics.scores import CURVES, SCORES
from unetcli.metrics.slices import SummedPair
from unetcli.metrics.tables import ContingencyTable, Counts, confusion_table, contingency_table, sum_tables
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, foreground

Block = NDArray[Any]
Scores = dict[str, float | None]
SHOWN = 2048
"""Edge of the largest picture in a report, pixels."""


@dataclass(frozen=True)
class Result:
    """What was measured on one image.

    Parameters
    ----------
    name
        Of the image.
    scores
        None = undefined.
    totals
        What the image adds to the scores of all images together.
    curves
        Scores at each threshold.
    confusion : (n_classes, n_classes) int64 or None
        Pixels by truth and prediction, if both hold classes.
    calibration
        The table of `calibration_table`, if the prediction is probabilities.
    counts
        What is left after warping, by type, in pixels and clusters, if the warping error is measured.
    worst
        Where most pixels are wrong: a plane, or a part of it as large as a picture may be.
    """

    name: str
    scores: Scores
    totals: ImageTotals
    curves: Mapping[str, Sequence[float | None]]
    confusion: Counts | None
    calibration: Counts | None
    counts: TypeCounts
    worst: Box


@dataclass(frozen=True)
class Part:
    """What was measured on a tile of one plane or volume.

    Parameters
    ----------
    plane
        (t, z); of a volume (t, 0).
    confusions
        By threshold.
    overlaps
        None where the segments are not known from a tile.
    measured
        Scores that do not add up.
    classes
        Confusion of the classes, where both sides hold them.
    calibration
        Of probabilities.
    n_wrong, worst
        Most wrong pixels in a picture, and where it is.
    """

    plane: tuple[int, int]
    confusions: dict[float, Counts]
    overlaps: ContingencyTable | None
    measured: Measured
    classes: Counts | None
    calibration: Counts | None
    n_wrong: int
    worst: Box


def measure_image(
    pair: Pair, plan: Plan, config: EvaluateConfig, *, workers: int | None = None, progress: Progress = silent
) -> Result:
    """Measure one image.

    Parameters
    ----------
    pair
        The image.
    plan
        From `make_plan`.
    config
        Settings.
    workers
        Threads, at most.
    progress
        Called after each tile.

    Raises
    ------
    InputError
        If pixels can not be read, or are no ids, classes or probabilities.
    """
    measured: Measured = {(name, t): [] for name, ts in (plan.summed | plan.whole).items() for t in ts}
    classes: list[Counts] = []
    calibrations: list[Counts] = []
    worst = (-1, Box.whole(pair.truth.shape))
    for parts in _planes(pair, plan, config, workers or available_cpus(), progress):
        for key, values in _add_up(parts, plan).items():
            measured[key] += values
        classes += [part.classes for part in parts if part.classes is not None]
        calibrations += [part.calibration for part in parts if part.calibration is not None]
        worst = max([worst, *((part.n_wrong, part.worst) for part in parts)], key=lambda found: found[0])
    at_wanted = {key: values for key, values in measured.items() if key[1] in plan.wanted.get(key[0], ())}
    scores = combine_slices([at_wanted], plan.names)
    searched = config.searched() or CHALLENGE_THRESHOLDS
    shown = [name for name in CURVES if name in plan.names and pair.has_probabilities]
    curves = {name: combine_curve(measured, name, searched) for name in shown}
    confusion = np.sum(classes, axis=0) if classes else None
    return Result(
        pair.name,
        scores | class_scores(confusion, pair.classes),
        add_up_slices(at_wanted, plan.names),
        curves,
        confusion,
        np.sum(calibrations, axis=0) if calibrations else None,
        add_up_counts(measured),
        worst[1],
    )


def class_scores(confusion: Counts | None, classes: Sequence[str]) -> Scores:
    """Return IoU and Dice of each class, and the mean IoU of those that are there."""
    if confusion is None:
        return {}
    ious = {name: iou(confusion, c) for c, name in enumerate(classes)}
    there = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    found = [value for value, is_there in zip(ious.values(), there, strict=True) if is_there]
    return {
        "mean_iou": float(np.mean(found)) if found else None,
        **{f"iou_{name}": value for name, value in ious.items()},
        **{f"dice_{name}": dice(confusion, c) for c, name in enumerate(classes)},
    }


def _planes(
    pair: Pair, plan: Plan, config: EvaluateConfig, workers: int, progress: Progress
) -> Iterator[tuple[Part, ...]]:
    """Yield the parts of each plane, or volume; tiles may be several planes deep."""
    function = partial(_measure_tile, pair=pair, plan=plan, config=config)
    works = work_on(pair.name, plan.grid, (pair.prediction, pair.truth, *pair.counted))
    tiles = reduce_tiles(function, works, workers=plan.workers(workers), progress=progress)
    for _, slab in itertools.groupby(tiles, key=lambda parts: parts[0].plane):
        yield from zip(*slab, strict=True)


def _add_up(parts: Sequence[Part], plan: Plan) -> Measured:
    """Measure a plane of which all tiles are there: tables are summed, values of windows stay apart."""
    measured: Measured = {key: [v for part in parts for v in part.measured[key]] for key in parts[0].measured}
    tables = [part.overlaps for part in parts if part.overlaps is not None]
    overlaps = sum_tables(tables) if tables else None
    for t in plan.thresholds:
        pair = SummedPair(np.sum([part.confusions[t] for part in parts], axis=0), overlaps, t)
        for name, thresholds in plan.summed.items():
            if t in thresholds:
                measured[name, t] = [SCORES[name].measure(pair)]
    return measured


def _measure_tile(
    tile: Tile, prediction: Block, truth: Block, *counted: Block, pair: Pair, plan: Plan, config: EvaluateConfig
) -> list[Part]:
    """Measure the planes, or the volume, of which a tile holds a part."""
    kept = np.logical_and.reduce(counted)[0, 0] if counted else None
    depth = truth.shape[2] if plan.is_volume else 1
    parts = []
    for z in range(0, truth.shape[2], depth):
        at = slice(z, z + depth)
        t, _, z0, *corner = tile.core.start
        pixels = Pixels((t, z0 + z, *corner), truth[0, 0, at], prediction[0, 0, at], None if kept is None else kept[at])
        parts.append(_measure_pixels(pixels, pair, plan, config))
    return parts


@dataclass(frozen=True)
class Pixels:
    """A tile of one plane (1, y, x), or of a volume (z, y, x), and where it starts, (t, z, y, x)."""

    start: tuple[int, ...]
    truth: Block
    prediction: Block
    counted: NDArray[np.bool_] | None

    def kept(self, array: Block) -> Block:
        """Keep the pixels that count."""
        return array if self.counted is None else array[self.counted]

    def confusion(self, threshold: float) -> Counts:
        """Count the pixels of foreground and background."""
        truth, prediction = self.foreground(threshold)
        return confusion_table(self.kept(truth), self.kept(prediction))

    def foreground(self, threshold: float) -> tuple[Block, Block]:
        """Return the foreground of truth and prediction."""
        is_map = self.prediction.dtype.kind == "f"
        return self.truth != 0, foreground(self.prediction, threshold) if is_map else self.prediction != 0

    def measure(self, plan: Plan, connectivity: int | None) -> Measured:
        """Measure the scores that do not add up; a volume is one slice of three axes."""
        at = np.index_exp[None] if plan.is_volume else np.index_exp[:]
        counted = None if self.counted is None else self.counted[at]
        return measure(self.truth[at], self.prediction[at], counted, plan.whole, connectivity)


def _measure_pixels(pixels: Pixels, pair: Pair, plan: Plan, config: EvaluateConfig) -> Part:
    classes = None
    if pair.classes:
        classes = confusion_table(pixels.kept(pixels.truth), pixels.kept(pixels.prediction), len(pair.classes))
        pixels = replace(pixels, truth=pixels.truth != 0, prediction=pixels.prediction != 0)
    confusions = {t: pixels.confusion(t) for t in plan.thresholds}
    is_tabled = pair.has_ids and any(SCORES[name].sums == "segments" for name in plan.summed)
    overlaps = contingency_table(pixels.kept(pixels.truth), pixels.kept(pixels.prediction)) if is_tabled else None
    measured = pixels.measure(plan, config.connectivity) if plan.whole else {}
    truth, probabilities = pixels.kept(pixels.truth != 0), pixels.kept(pixels.prediction)
    calibration = calibration_table(truth, probabilities) if pair.has_probabilities else None
    n_wrong, worst = _worst_picture(pixels, config.threshold)
    plane = (pixels.start[0], 0 if plan.is_volume else pixels.start[1])
    return Part(plane, confusions, overlaps, measured, classes, calibration, n_wrong, worst)


def _worst_picture(pixels: Pixels, threshold: float) -> tuple[int, Box]:
    """Find the part of a plane, as large as a picture may be, with most wrong pixels; count them."""
    is_wrong = np.not_equal(*pixels.foreground(threshold))
    if pixels.counted is not None:
        is_wrong &= pixels.counted
    _, height, width = is_wrong.shape
    sums = np.add.reduceat(is_wrong, range(0, height, SHOWN), axis=1, dtype=np.int64)
    sums = np.add.reduceat(sums, range(0, width, SHOWN), axis=2)
    dz, row, column = map(int, np.unravel_index(sums.argmax(), sums.shape))
    (t, z, y, x), dy, dx = pixels.start, row * SHOWN, column * SHOWN
    start = (t, 0, z + dz, y + dy, x + dx)
    stop = (t + 1, 1, z + dz + 1, y + min(height, dy + SHOWN), x + min(width, dx + SHOWN))
    return int(sums.max()), Box(start, stop)
