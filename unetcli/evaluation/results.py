"""What `evaluate` found as files say it: the content of ``metrics.json`` and ``metrics.csv``."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unetcli import __version__
from unetcli.config import EvaluateConfig
from unetcli.evaluation.measuring import Result, class_scores
from unetcli.evaluation.pairs import Pair
from unetcli.evaluation.plan import adds_up
from unetcli.metrics.calibration import expected_calibration_error, reliability
from unetcli.metrics.comparison import bootstrap_interval, columns_of, mean_over_images, paired_difference
from unetcli.metrics.measuring import pool_images
from unetcli.metrics.scores import LABELS, SCORES
from unetcli.report.html import ScoreColumn

SCHEMA = 1
OF_MASKS = ("mean_iou", "v_rand", "iou", "pixel_error")
OF_OBJECTS = ("mean_ap", "pq", "seg", "iou")
"""What a report opens with: of masks and classes, and where both sides are object ids."""


@dataclass(frozen=True)
class Compared:
    """Two predictions of the same images: what they are called, and what was measured on the second."""

    a: str
    b: str
    results: Sequence[Result]


def describe_scores(names: Sequence[str], pairs: Sequence[Pair], config: EvaluateConfig) -> list[ScoreColumn]:
    """Say of each score what it is and by which conventions it was measured; no means yet."""
    headline = OF_OBJECTS if all(pair.has_ids for pair in pairs) else OF_MASKS
    columns = [
        ScoreColumn(n, LABELS.get(n, n), SCORES[n].better, _convention(n, pairs, config), None, _reason(n))
        for n in names
    ]
    columns += _of_classes(pairs[0].classes)
    return [replace(c, headline=headline.index(c.name) if c.name in headline else None) for c in columns]


def _of_classes(classes: Sequence[str]) -> list[ScoreColumn]:
    """Describe the scores of each class."""
    if not classes:
        return []
    pooled = "pixels of an image pooled"
    there = f"mean of the IoU of the classes that truth or prediction has, {pooled}"
    columns = [ScoreColumn("mean_iou", "Mean IoU", "higher", there, None, "no pixel counts")]
    for name, label, formula in (("iou", "IoU", "TP/(TP+FP+FN)"), ("dice", "Dice", "2TP/(2TP+FP+FN)")):
        convention = f"{formula} of the class, 1 if neither side has it, {pooled}"
        columns += [ScoreColumn(f"{name}_{c}", f"{label} of {c}", "higher", convention, None) for c in classes]
    return columns


def collect(
    columns: Sequence[ScoreColumn],
    results: Sequence[Result],
    *,
    classes: Sequence[str],
    compared: Compared | None,
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the content of ``metrics.json``, which ``docs/metrics.schema.json`` describes."""
    rows = [{"name": r.name, **r.scores} for r in results]
    values = columns_of([r.scores for r in results])
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "mean": {c.name: mean_over_images(values[c.name]) for c in columns},
        "pooled": _pooled(columns, results, classes),
        "intervals": {c.name: _interval(*bootstrap_interval(values[c.name])) for c in columns},
        "images": rows,
        "undefined": {c.name: c.undefined for c in columns if None in values[c.name]},
        "better": {c.name: c.better for c in columns},
        "conventions": {c.name: c.convention for c in columns},
    }
    if confusions := [r.confusion for r in results if r.confusion is not None]:
        metrics["confusion"] = {"classes": list(classes), "pixels": np.sum(confusions, axis=0).tolist()}
    if any(r.counts for r in results):
        metrics["counts"] = [{"name": r.name, **r.counts} for r in results]
    if calibrations := [r.calibration for r in results if r.calibration is not None]:
        table = np.sum(calibrations, axis=0)
        metrics["calibration"] = [found._asdict() for found in reliability(table) if found.n_pixels]
        error = expected_calibration_error(table)
        metrics["calibration_error"] = None if math.isnan(error) else error
    if compared is not None:
        metrics["comparison"] = _comparison(columns, values, compared, classes)
    return {
        **metrics,
        "notes": list(notes),
        "settings": dict(settings),
        "versions": {"unetcli": __version__, "python": platform.python_version(), "numpy": np.__version__},
    }


def to_csv(metrics: Mapping[str, Any]) -> str:
    """Write a row for each image; of two predictions the second, and the difference, beside the first."""
    names = list(metrics["mean"])
    rows = [dict(row) for row in metrics["images"]]
    columns = list(names)
    if "comparison" in metrics:
        columns = [column for name in names for column in (name, f"{name}_b", f"{name}_difference")]
        for row, other in zip(rows, metrics["comparison"]["images"], strict=True):
            for name in names:
                a, b = row[name], other[name]
                row |= {f"{name}_b": b, f"{name}_difference": None if a is None or b is None else b - a}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _comparison(
    columns: Sequence[ScoreColumn],
    values: Mapping[str, Sequence[float | None]],
    compared: Compared,
    classes: Sequence[str],
) -> dict[str, Any]:
    others = columns_of([r.scores for r in compared.results])
    scores = {}
    for c in columns:
        found = paired_difference(values[c.name], others[c.name], better=c.better)
        difference, low, high = (None if math.isnan(v) else v for v in (found.difference, found.low, found.high))
        scores[c.name] = {"difference": difference, "low": low, "high": high, "better": found.better}
    return {
        "a": compared.a,
        "b": compared.b,
        "mean": {c.name: mean_over_images(others[c.name]) for c in columns},
        "pooled": _pooled(columns, compared.results, classes),
        "scores": scores,
        "images": [{"name": r.name, **r.scores} for r in compared.results],
    }


def _pooled(
    columns: Sequence[ScoreColumn], results: Sequence[Result], classes: Sequence[str]
) -> dict[str, float | None]:
    """Score all images together, with their classes."""
    confusions = [r.confusion for r in results if r.confusion is not None]
    pooled = pool_images([r.totals for r in results], [c.name for c in columns if c.name in SCORES])
    return pooled | class_scores(np.sum(confusions, axis=0) if confusions else None, classes)


def _interval(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [low, high]


def _reason(name: str) -> str:
    return SCORES[name].undefined or "no pixel counts"


def _convention(name: str, pairs: Sequence[Pair], config: EvaluateConfig) -> str:
    """Return the convention of a score as the settings change it."""
    text = SCORES[name].convention.replace("foreground > 0.5", f"foreground > {config.threshold:g}")
    neighbours = config.connectivity or (6 if config.as_volume else 4)
    text = text.replace("4-connected if not set", f"{neighbours}-connected")
    if config.as_volume:
        text = text.replace("over slices", "over volumes")
    if config.window and not all(adds_up(name, pair) for pair in pairs):
        text = text.replace("over slices", f"over windows of {config.window} pixels")
    return text
