"""Prediction and truth to scores: by image, slice by slice."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli import __version__
from unetcli.atomic import write_atomically
from unetcli.config import EvaluateConfig, LabelConfig
from unetcli.errors import BelowBoundError, ConfigError, InputError
from unetcli.image.axes import describe_shape
from unetcli.image.fingerprint import fingerprint
from unetcli.image.inputs import Input, open_inputs
from unetcli.image.layouts import is_sparse
from unetcli.image.ledger import check_fingerprint
from unetcli.image.location import Location, making
from unetcli.image.new_store import check_apart
from unetcli.image.pairing import pair
from unetcli.image.source import Source
from unetcli.image.streaming import Progress, silent
from unetcli.image.tiling import Box
from unetcli.image.truth import show_truth
from unetcli.metrics.partitions import components
from unetcli.metrics.scores import LABELS, SCORES, parse_names, score_curves, score_image
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, to_probabilities
from unetcli.report.html import Case, Report, ScoreColumn, extremes, write_report
from unetcli.report.pictures import draw_error_types, draw_labels, find_error_types, to_gray, to_png_data_uri

Block = NDArray[Any]
Scores = dict[str, float | None]
SCHEMA = 1
LABEL_SETTINGS = {field.name for field in fields(LabelConfig)}


def run(
    prediction: Location,
    truth: Location,
    out: Path,
    config: EvaluateConfig,
    *,
    images: Location | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score predictions against the truth; write ``metrics.json``, ``metrics.csv`` and ``report.html``.

    Parameters
    ----------
    prediction, truth
        Stores, files, or folders of files; paired by name, else by the numbers in the names.
    out
        Folder of the report.
    config
        Settings.
    images
        The pictures that were segmented, to be shown in the report.
    overwrite
        Replace a report that was made with other settings or inputs.
    progress
        Called after each image.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    InputError
        If images have no partner, or other sizes than theirs.
    BelowBoundError
        If a mean is worse than ``fail_under`` asks for; the report is written all the same.
    """
    names = list(SCORES) if config.metrics is None else parse_names("--metrics", config.metrics)
    bounds = _parse_bounds(config.fail_under, names)
    check_apart(out, [prediction, truth])
    pairs, notes = _pair_up(prediction, truth, images, config)
    settings = {
        "metrics": names,
        "prediction_kind": config.prediction_kind,
        **{k: v for k, v in asdict(config).items() if k in LABEL_SETTINGS and v is not None},
        "inputs": {"prediction": fingerprint(prediction), "truth": fingerprint(truth)},
    }
    _check_out(out, settings, overwrite=overwrite)
    if dry_run:
        return {
            "pairs": [f"{p.name}: {p.truth.name}" for p in pairs],
            "metrics": ", ".join(names),
            "notes": notes,
        }
    results = []
    for done, item in enumerate(pairs, start=1):
        results.append(_score(item, names, config))
        progress(done, len(pairs))
    metrics = _collect(results, names, settings, notes)
    with making(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1))  # first: it marks the folder as a report
    write_atomically(out / "metrics.csv", _table(metrics["images"], names))
    places = [str(prediction), str(truth), "-o", str(out), *(["--images", str(images)] if images else [])]
    command = shlex.join(["unetcli", "evaluate", *places, *config.to_options()])
    write_report(out / "report.html", replace(_report(metrics, results, pairs, config), command=command))
    worse = _below(metrics["mean"], bounds)
    if worse:
        raise BelowBoundError("; ".join(worse), result=metrics)
    return metrics


@dataclass(frozen=True)
class Pair:
    """A prediction and its truth, and the picture where it is known."""

    name: str
    prediction: Input
    truth: Source
    image: Source | None


@dataclass(frozen=True)
class Result:
    """What was measured on one image."""

    name: str
    scores: Scores
    curves: Mapping[str, Sequence[float | None]]


# ------------------------------------------------------------------------------------------- inputs


def _pair_up(
    prediction: Location, truth: Location, images: Location | None, config: EvaluateConfig
) -> tuple[list[Pair], list[str]]:
    predictions = open_inputs([prediction])
    names = [i.name for i in predictions]
    truths = open_inputs([truth], is_label=True, threshold=config.label_threshold, images=names)
    found = pair(
        names,
        [i.name for i in truths],
        a="predictions",
        b="truth",
        allow_extra_a=is_sparse([i.name for i in truths]),
        allow_extra_b=config.fail_under is None,  # a gate must not pass what was never predicted
    )
    notes = [*found.notes, *(note for i in truths for note in i.notes), *_notes(predictions[0])]
    pictures = {i: truths[j].source for i, j in found.pairs if truths[j].labels is not None}
    if images is not None:
        shown = open_inputs([images])
        those = [names[i] for i, _ in found.pairs], [i.name for i in shown]
        found_pictures = pair(*those, a="predictions", b="images", allow_extra_b=True).pairs
        pictures = {found.pairs[i][0]: shown[j].source for i, j in found_pictures}
    pairs = [
        _check(Pair(names[i], predictions[i], truths[j].labels or truths[j].source, pictures.get(i)))
        for i, j in found.pairs
    ]
    meant = show_truth([p.truth for p in pairs], notes, is_cut=config.label_threshold is not None, **config.meaning())
    return [replace(p, truth=source) for p, source in zip(pairs, meant, strict=True)], notes


def _notes(prediction: Input) -> list[str]:
    """Say how predictions are taken where that could surprise."""
    notes = []
    classes = prediction.attributes.get("prediction", {}).get("classes", ())
    if len(classes) > 2:
        notes.append(f"the prediction has {len(classes)} classes: all but {classes[0]} count as foreground")
    if "data" in prediction.attributes:
        notes.append("the prediction is a data set of unetcli prep: its gray values are taken as labels")
    return notes


def _check(item: Pair) -> Pair:
    """Refuse a truth or a picture of another size than the prediction, and a truth that can not be labels."""
    t, _, *zyx = item.prediction.source.shape
    wanted = (t, 1, *zyx)
    for kind, source in (("truth", item.truth), ("the picture", item.image)):
        if source is not None and (found := (source.shape[0], 1, *source.shape[2:])) != wanted:
            raise InputError(
                f"{source.name}: {kind} is {describe_shape(found)}; expected {describe_shape(wanted)}, "
                f"as {item.prediction.source.name}",
                fix="bring all to the size of the image that was segmented",
            )
    if item.truth.shape[1] != 1:
        raise InputError(f"{item.truth.name}: truth has {item.truth.shape[1]} channels; expected one")
    if item.truth.dtype.kind not in "bui":
        raise InputError(f"{item.truth.name}: truth is {item.truth.dtype}; expected integers (labels or classes)")
    return item


def _slices(source: Source) -> Block:
    """Read an image as a stack (n, c, y, x) of its planes."""
    t, c, z, y, x = source.shape
    return source.read(Box.whole(source.shape)).transpose(0, 2, 1, 3, 4).reshape(t * z, c, y, x)


def _truth_of(source: Source) -> Block:
    """Return truth (n, y, x): a mask if it holds two values, else object ids."""
    values = _slices(source)[:, 0]
    return values != 0 if len(np.unique(values)) <= 2 else values


def _prediction_of(item: Input, kind: str | None) -> Block:
    """Return a prediction (n, y, x): a bool mask, integer labels, or float probabilities of foreground.

    Of several classes the foreground is everything but class 0. Integer probabilities are divided by the
    largest value of their type.
    """
    values = _slices(item.source)
    kind = kind or item.attributes.get("prediction", {}).get("kind")
    if kind is None:
        few = values.dtype.kind in "bui" and len(np.unique(values)) <= 2
        kind = "probabilities" if values.dtype.kind == "f" else "mask" if few else "labels"
    if kind == "probabilities":
        probabilities = to_probabilities(values)
        if values.shape[1] > 2:  # as in the mask: the likeliest class counts
            mask: Block = probabilities.argmax(axis=1) != 0
            return mask
        return 1 - probabilities[:, 0] if values.shape[1] == 2 else probabilities[:, 0]
    if values.shape[1] != 1:
        raise InputError(
            f"{item.source.name}: has {values.shape[1]} channels of {values.dtype}; expected one, or probabilities",
            fix="--prediction-kind probabilities, if each channel is a class",
        )
    return values[:, 0] != 0 if kind == "mask" else values[:, 0]


# ------------------------------------------------------------------------------------------- scores


def _score(item: Pair, names: Sequence[str], config: EvaluateConfig) -> Result:
    truth, prediction = _truth_of(item.truth), _prediction_of(item.prediction, config.prediction_kind)
    try:
        scores = score_image(truth, prediction, names=names)
        curves = score_curves(truth, prediction) if prediction.dtype.kind == "f" else {}
    except InputError as error:
        raise InputError(f"{item.name}: {error}", fix=error.fix) from error
    return Result(item.name, scores, curves)


def _with_pictures(case: Case, item: Pair, config: EvaluateConfig) -> Case:
    """Show the slice with most wrong pixels: image, truth, prediction, errors."""
    truth, prediction = _truth_of(item.truth), _prediction_of(item.prediction, config.prediction_kind)
    predicted = prediction > 0.5 if prediction.dtype.kind == "f" else prediction != 0
    worst = int(((truth != 0) != predicted).sum(axis=(1, 2)).argmax())
    shown = {"truth": draw_labels(truth[worst])}
    shown["prediction"] = prediction[worst] if prediction.dtype.kind == "f" else draw_labels(prediction[worst])
    if item.image is not None:
        shown = {"image": to_gray(_slices(item.image)[worst]), **shown}
    ids, predicted_ids = (
        components(mask[worst]) if values.dtype.kind in "bf" else values[worst]
        for values, mask in ((truth, truth), (prediction, predicted))
    )
    shown["errors"] = draw_error_types(ids, predicted_ids, shown.get("image"))
    pictures = {caption: to_png_data_uri(picture) for caption, picture in shown.items()}
    return replace(case, pictures=pictures, remark=find_error_types(ids, predicted_ids).describe())


def _collect(
    results: Sequence[Result], names: Sequence[str], settings: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    mean: Scores = {}
    for name in names:
        defined = [v for r in results if (v := r.scores[name]) is not None]
        mean[name] = float(np.mean(defined)) if defined else None
    undefined = {n: SCORES[n].undefined for n in names if any(r.scores[n] is None for r in results)}
    return {
        "schema": SCHEMA,
        "mean": mean,
        "images": [{"name": r.name, **r.scores} for r in results],
        "undefined": undefined,
        "conventions": {n: SCORES[n].convention for n in names},
        "notes": list(notes),
        "settings": dict(settings),
        "versions": {"unetcli": __version__, "python": platform.python_version(), "numpy": np.__version__},
    }


def _parse_bounds(text: str | None, names: Sequence[str]) -> dict[str, float]:
    try:
        bounds = {n.strip(): float(v) for n, v in (p.split("=") for p in (text or "").split(",") if p)}
    except ValueError:
        raise ConfigError(f"--fail-under {text}: expected NAME=NUMBER, such as iou=0.9") from None
    if not all(math.isfinite(bound) for bound in bounds.values()):
        raise ConfigError(f"--fail-under {text}: expected finite numbers")
    missing = [n for n in bounds if n not in names]
    if missing:
        raise ConfigError(
            f"--fail-under {text}: {', '.join(missing)} is not measured; expected some of {', '.join(names)}"
        )
    return bounds


def _below(mean: Scores, bounds: Mapping[str, float]) -> list[str]:
    """Say which means are worse than their bound; what is undefined is."""
    worse = []
    for name, bound in bounds.items():
        value = mean[name]
        failed = value is None or (value < bound if SCORES[name].better == "higher" else value > bound)
        if failed:
            worse.append(f"{name} is {'undefined' if value is None else f'{value:.4g}'}, asked for {bound:g}")
    return worse


# ------------------------------------------------------------------------------------------- report


def _check_out(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse to replace what is not a report, or a report of something else."""
    metrics = out / "metrics.json"
    try:
        found = json.loads(metrics.read_text())["settings"] if metrics.exists() else None
        is_report = isinstance(found, dict) or (out.is_dir() and _holds_nothing(out)) or not out.exists()
    except (ValueError, TypeError, LookupError):
        is_report = False
    if not is_report:
        raise InputError(f"{out}: exists and is not a report", fix="another -o")
    if found is not None and not overwrite:
        check_fingerprint(out, found, settings)


def _holds_nothing(folder: Path) -> bool:
    """Tell whether a folder is empty, but for a file that was being written when its writer was killed."""
    return all(path.name.startswith(".") and path.name.endswith(".partial") for path in folder.iterdir())


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _report(
    metrics: Mapping[str, Any],
    results: Sequence[Result],
    pairs: Sequence[Pair],
    config: EvaluateConfig,
) -> Report:
    columns = [
        ScoreColumn(n, LABELS.get(n, n), SCORES[n].better, SCORES[n].convention, value, SCORES[n].undefined)
        for n, value in metrics["mean"].items()
    ]
    cases = [Case(r.name, r.scores) for r in results]
    shown = {case.name for group in extremes(columns, cases) for case in group}
    return Report(
        title="Segmentation report",
        scores=columns,
        cases=[
            _with_pictures(case, item, config) if case.name in shown else case
            for case, item in zip(cases, pairs, strict=True)
        ],
        settings={k: json.dumps(v) for k, v in metrics["settings"].items() if v is not None},
        versions=metrics["versions"],
        curves=_mean_curves(results),
        notes=metrics["notes"],
    )


def _mean_curves(results: Sequence[Result]) -> dict[str, list[tuple[float, float | None]]]:
    """Return the mean over images of each score at each threshold."""
    curves = {}
    for name in results[0].curves:
        columns = zip(*(r.curves[name] for r in results if r.curves), strict=True)
        defined = [[v for v in column if v is not None] for column in columns]
        means = [float(np.mean(values)) if values else None for values in defined]
        curves[LABELS.get(name, name)] = list(zip(CHALLENGE_THRESHOLDS, means, strict=True))
    return curves
