"""Prediction and truth to scores: by image, in flat memory."""

from __future__ import annotations

import json
import logging
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unetcli.atomic import write_atomically
from unetcli.config import EvaluateConfig
from unetcli.errors import BelowBoundError, ConfigError, InputError
from unetcli.evaluation.measuring import Result, measure_image
from unetcli.evaluation.page import make_report
from unetcli.evaluation.pairs import Others, Pair, open_pairs
from unetcli.evaluation.plan import Plan, choose_names, images_at_once, make_plan
from unetcli.evaluation.results import Compared, collect, describe_scores, to_csv
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import check_fingerprint
from unetcli.image.location import Location, making
from unetcli.image.new_store import check_apart
from unetcli.image.streaming import Progress, available_cpus, in_order, silent
from unetcli.metrics.scores import parse_names
from unetcli.report.html import write_report

logger = logging.getLogger(__name__)

NOT_SETTINGS = ("metrics", "fail_under")
"""Of the configuration: names are written as they were chosen, and bounds do not change what is measured."""
METRICS, TABLE, REPORT = "metrics.json", "metrics.csv", "report.html"
"""What is written; the first marks the folder as a report."""


def run(
    prediction: Location,
    truth: Location,
    out: Path,
    config: EvaluateConfig,
    *,
    images: Location | None = None,
    roi: Location | None = None,
    compare: Location | None = None,
    overwrite: bool = False,
    workers: int | None = None,
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
    roi
        Masks of the regions of interest: pixels outside of them do not count.
    compare
        Other predictions of the same images, to be compared with the first.
    overwrite
        Replace a report that was made with other settings or inputs.
    workers
        Threads; by default as many as there are processors.
    progress
        Called after each tile.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    InputError
        If images have no partner, other sizes than theirs, or planes that a score needs whole and that are too large.
    BelowBoundError
        If a mean is worse than ``fail_under`` asks for; the report is written all the same.
    """
    asked = None if config.metrics is None else parse_names("--metrics", config.metrics)
    bounds = _parse_bounds(config.fail_under)
    inputs = {"prediction": prediction, "truth": truth, "roi": roi, "compare": compare}
    given = {name: place for name, place in inputs.items() if place is not None}
    check_apart(out, list(given.values()))
    pairs, others, notes = open_pairs(prediction, truth, Others(images, roi, compare), config)
    names, left_out = choose_names([*pairs, *others], asked, config)
    notes += left_out
    columns = describe_scores(names, [*pairs, *others], config)
    _check_bounds(config, bounds, [column.name for column in columns])
    settings = {"metrics": names, **_settings(config), "inputs": {k: fingerprint(v) for k, v in given.items()}}
    _check_out(out, settings, overwrite=overwrite)
    _check_writable(out)
    if dry_run:
        return {
            "pairs": [f"{p.name}: {p.truth.name}" for p in pairs],
            "metrics": ", ".join(column.name for column in columns),
            "notes": notes,
        }
    plans = [make_plan(item, names, config) for item in [*pairs, *others]]
    measured = _measure([*pairs, *others], plans, config, workers, progress)
    results, of_others = measured[: len(pairs)], measured[len(pairs) :]
    metrics = collect(
        columns,
        results,
        classes=pairs[0].classes,
        compared=None if compare is None else Compared(*_names_of(prediction, compare), of_others),
        settings=settings,
        notes=notes,
    )
    places = {"-o": out, "--images": images, "--roi": roi, "--compare": compare}
    options = [text for name, place in places.items() if place is not None for text in (name, str(place))]
    command = shlex.join(["unetcli", "evaluate", str(prediction), str(truth), *options, *config.to_options()])
    report = make_report(metrics, columns, results, pairs, config, command)
    with making(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (TABLE, REPORT):  # those of other settings do not stay beside new scores, whatever happens now
            (out / name).unlink(missing_ok=True)
        write_atomically(out / METRICS, json.dumps(metrics, indent=1))
        write_atomically(out / TABLE, to_csv(metrics))
        write_report(out / REPORT, report)
    logger.info("report: %s", out / REPORT)
    if worse := _below(metrics, bounds):
        raise BelowBoundError("; ".join(worse), result=metrics)
    return metrics


def _measure(
    pairs: Sequence[Pair], plans: Sequence[Plan], config: EvaluateConfig, workers: int | None, progress: Progress
) -> list[Result]:
    """Measure all images: small ones several at once, others tile by tile; progress counts their tiles together."""
    total, before = sum(len(plan.grid) for plan in plans), 0
    results = []
    if (at_once := images_at_once(plans, workers or available_cpus())) > 1:
        for result in in_order(lambda pair: measure_image(*pair, config), zip(pairs, plans, strict=True), at_once):
            results.append(result)
            progress(len(results), total)
        return results
    for item, plan in zip(pairs, plans, strict=True):
        done_before = before

        def advance(done: int, _: int, done_before: int = done_before) -> None:
            progress(done_before + done, total)

        results.append(measure_image(item, plan, config, workers=workers, progress=advance))
        before += len(plan.grid)
    return results


def _settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return what the scores depend on: all that was not left at its default, and the kind and the threshold."""
    defaults, always = asdict(EvaluateConfig()), ("prediction_kind", "threshold")
    return {
        name: value
        for name, value in asdict(config).items()
        if name not in NOT_SETTINGS and (name in always or value != defaults[name])
    }


def _names_of(a: Location, b: Location) -> tuple[str, str]:
    """Call two predictions by their names, or by their whole paths if these are alike."""
    return (str(a), str(b)) if a.name == b.name else (a.name, b.name)


# ------------------------------------------------------------------------------------------- bounds


def _parse_bounds(text: str | None) -> dict[str, float]:
    try:
        given = [(n.strip(), float(v)) for n, v in (p.split("=") for p in (text or "").split(",") if p)]
    except ValueError:
        raise ConfigError(f"--fail-under {text}: expected NAME=NUMBER, such as iou=0.9") from None
    bounds = dict(given)
    if len(bounds) < len(given):
        raise ConfigError(f"--fail-under {text}: a name is given twice; expected one bound for each")
    if not all(math.isfinite(bound) for bound in bounds.values()):
        raise ConfigError(f"--fail-under {text}: expected finite numbers")
    return bounds


def _check_bounds(config: EvaluateConfig, bounds: Mapping[str, float], names: Sequence[str]) -> None:
    missing = [n for n in bounds if n not in names]
    if missing:
        raise ConfigError(
            f"--fail-under {config.fail_under}: {', '.join(missing)} is not measured; expected some of "
            f"{', '.join(names)}"
        )


def _below(metrics: Mapping[str, Any], bounds: Mapping[str, float]) -> list[str]:
    """Say which means are worse than their bound; what is undefined is."""
    worse = []
    for name, bound in bounds.items():
        value = metrics["mean"][name]
        failed = value is None or (value < bound if metrics["better"][name] == "higher" else value > bound)
        if failed:
            worse.append(f"{name} is {'undefined' if value is None else f'{value:.4g}'}, asked for {bound:g}")
    return worse


# ------------------------------------------------------------------------------------------- folder


def _check_out(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse to replace what is not a report, or a report of something else."""
    metrics = out / METRICS
    try:
        found = json.loads(metrics.read_text())["settings"] if metrics.exists() else None
        is_report = isinstance(found, dict) or (out.is_dir() and _holds_nothing(out)) or not out.exists()
    except (ValueError, TypeError, LookupError):
        is_report = False
    if not is_report:
        raise InputError(f"{out}: exists and is not a report", fix="another -o")
    if found is not None and not overwrite:
        check_fingerprint(out, _spelled(found), _spelled(settings))


def _spelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write lists as the options do, so that they are compared, and shown, as one."""
    return {name: ",".join(map(str, v)) if isinstance(v, list) else v for name, v in settings.items()}


def _check_writable(out: Path) -> None:
    """Refuse a place that can not be written to, before time is spent on what goes there."""
    with making(out):
        there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


def _holds_nothing(folder: Path) -> bool:
    """Tell whether a folder is empty, but for a file that was being written when its writer was killed."""
    return all(path.name.startswith(".") and path.name.endswith(".partial") for path in folder.iterdir())
