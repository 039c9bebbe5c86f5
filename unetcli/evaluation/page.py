"""What the report shows of an evaluation: its scores, curves, classes, comparison, and pictures of the extremes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.config import EvaluateConfig
from unetcli.evaluation.measuring import Result
from unetcli.evaluation.pairs import Pair
from unetcli.image.tiling import Box
from unetcli.metrics.comparison import mean_over_images
from unetcli.metrics.partitions import components
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, foreground
from unetcli.report.html import Case, Comparison, ConfusionMatrix, Difference, Report, ScoreColumn, extremes
from unetcli.report.pictures import (
    draw_classes,
    draw_error_types,
    draw_errors,
    draw_labels,
    find_error_types,
    to_gray,
    to_png_data_uri,
)


def make_report(
    metrics: Mapping[str, Any],
    columns: Sequence[ScoreColumn],
    results: Sequence[Result],
    pairs: Sequence[Pair],
    config: EvaluateConfig,
    command: str,
) -> Report:
    """Say what the report shows.

    Parameters
    ----------
    metrics
        The content of ``metrics.json``.
    columns
        The scores, without means.
    results, pairs
        The images, in order; those that are shown are read again where they are worst.
    config
        Settings.
    command
        The command line that makes it again.
    """
    mean, pooled = metrics["mean"], metrics["pooled"]
    scores = [replace(column, mean=mean[column.name], pooled=pooled.get(column.name)) for column in columns]
    counts = [{k: v for k, v in row.items() if k != "name"} for row in metrics.get("counts", [{}] * len(results))]
    cases = [Case(r.name, r.scores, counts=found) for r, found in zip(results, counts, strict=True)]
    shown = {case.name for group in extremes(scores, cases) for case in group}
    confusion, bins = metrics.get("confusion"), metrics.get("calibration", [])
    return Report(
        title="Segmentation report",
        scores=scores,
        cases=[
            _with_pictures(case, item, result.worst, config.threshold) if case.name in shown else case
            for case, item, result in zip(cases, pairs, results, strict=True)
        ],
        settings={k: json.dumps(v) for k, v in metrics["settings"].items() if v is not None},
        versions=metrics["versions"],
        command=command,
        curves=_mean_curves(results, config.searched() or CHALLENGE_THRESHOLDS),
        notes=metrics["notes"],
        intervals={name: (found[0], found[1]) for name, found in metrics["intervals"].items() if found is not None},
        comparison=_comparison(metrics["comparison"]) if "comparison" in metrics else None,
        calibration=[(b["low"], b["high"], b["n_pixels"], b["confidence"], b["frequency"]) for b in bins],
        confusion=ConfusionMatrix(confusion["classes"], confusion["pixels"]) if confusion else None,
    )


def _comparison(found: Mapping[str, Any]) -> Comparison:
    scores = {name: Difference(**score) for name, score in found["scores"].items()}
    return Comparison(found["a"], found["b"], scores, found["mean"])


def _with_pictures(case: Case, item: Pair, box: Box, threshold: float) -> Case:
    """Show image, truth, prediction and errors in a box."""
    image = None if item.image is None else item.image.read(box.replace(1, 0, item.image.shape[1]))[0, :, 0]
    shown, remark = _draw_classes(item, box, image) if item.classes else _draw_objects(item, box, image, threshold)
    if image is not None:
        shown = {"image": to_gray(image), **shown}
    return replace(case, pictures={caption: to_png_data_uri(each) for caption, each in shown.items()}, remark=remark)


def _draw_classes(item: Pair, box: Box, image: NDArray[Any] | None) -> tuple[dict[str, NDArray[Any]], str]:
    """Draw classes by their colours; there is nothing to say of objects."""
    truth, prediction = (source.read(box)[0, 0, 0].astype(np.int64) for source in (item.truth, item.prediction))
    for source in item.counted:  # what does not count is no error
        truth[~source.read(box)[0, 0, 0]] = -1
    ground = np.zeros(truth.shape) if image is None else image
    errors = draw_errors(ground, truth, prediction)
    return {"truth": draw_classes(truth), "prediction": draw_classes(prediction), "errors": errors}, ""


def _draw_objects(
    item: Pair, box: Box, image: NDArray[Any] | None, threshold: float
) -> tuple[dict[str, NDArray[Any]], str]:
    """Draw objects white, and their errors by type; say how many there are of each."""
    truth, prediction = item.truth.read(box)[0, 0, 0], item.prediction.read(box)[0, 0, 0]
    is_map = prediction.dtype.kind == "f"
    predicted = foreground(prediction, threshold) if is_map else prediction
    shown: dict[str, NDArray[Any]] = {"truth": draw_labels(truth)}
    shown["prediction"] = prediction if is_map else draw_labels(prediction)
    for source in item.counted:  # what does not count is no error
        counts = source.read(box)[0, 0, 0]
        truth, predicted = (np.where(counts, side, side.dtype.type(0)) for side in (truth, predicted))
    ids, predicted_ids = (components(side) if side.dtype == np.bool_ else side for side in (truth, predicted))
    found = find_error_types(ids, predicted_ids)
    shown["errors"] = draw_error_types(found, ids, image)
    return shown, found.describe()


def _mean_curves(results: Sequence[Result], thresholds: Sequence[float]) -> dict[str, list[tuple[float, float | None]]]:
    """Return the mean over images of each score at each threshold."""
    curves = {}
    for name in results[0].curves:
        columns = zip(*(r.curves[name] for r in results if r.curves), strict=True)
        means = [mean_over_images(column) for column in columns]
        curves[name] = list(zip(thresholds, means, strict=True))
    return curves
