"""Scores of a data set as one HTML file that needs nothing else: no network, fonts or scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from unetcli.atomic import write_atomically
from unetcli.report import charts, pictures, threshold_plot
from unetcli.report.charts import (
    CalibrationBin,
    Interval,
    Spread,
    Whisker,
    lay_out_difference,
    lay_out_reliability,
    lay_out_values,
)
from unetcli.report.threshold_plot import Point, ThresholdPlot, plot_thresholds

"""Scores that the verdict names; the first of them ranks the images. The mean IoU is that of classes, of which the
others take all but the first together."""
N_EXAMPLES = 3
"""Worst images shown, and best ones."""
MAX_ROWS = 300
"""Images listed; of more, the worst are."""
FEW = 10
"""Images below which an interval is said to be rough."""

Counts = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Kind of count to types to units to numbers: ``{"warping_types": {"split": {"pixels": 31, "clusters": 2}}}``."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class ScoreColumn:
    """A score, and its mean over all images.

    Parameters
    ----------
    name
        As in `metrics.json`.
    label
        As people write it: ``V_Rand``, ``pixel error``.
    better
        Which direction is better.
    convention
        What tells it from others of its name.
    mean
        None = undefined on every image.
    undefined
        Why it may be undefined; empty if it never is.
    pooled
        Of all images together; None if there is no such value.
    headline
        Its place among the scores that the page opens with, of which the first also ranks the images; None: not there.
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    convention: str
    mean: float | None
    undefined: str = ""
    pooled: float | None = None
    headline: int | None = None


@dataclass(frozen=True)
class Case:
    """One image.

    Parameters
    ----------
    name
        Of the image.
    scores
        Name of each score to its value; None = undefined.
    pictures
        Caption to data URI (`to_png_data_uri`), in the order shown. Only those of `extremes` are.
    remark
        What the pictures show, in words.
    counts
        Of the image; the report shows their sums.
    """

    name: str
    scores: Mapping[str, float | None]
    pictures: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    counts: Counts = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A score of model B minus that of model A, the mean over the images that both were scored on.

    Parameters
    ----------
    difference
        None if there is no such image.
    low, high
        Its 95 % interval, paired by image; None with fewer than two images.
    better
        ``a`` or ``b``; None if the interval does not tell.
    """

    difference: float | None
    low: float | None
    high: float | None
    better: Literal["a", "b"] | None


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images. All else in a report is of A.

    Parameters
    ----------
    a, b
        Their names.
    scores
        Name of each score to the difference.
    means_b
        Name of each score to the mean of B.
    """

    a: str
    b: str
    scores: Mapping[str, Difference]
    means_b: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfusionMatrix:
    """Pixels by class.

    Parameters
    ----------
    names
        Of the classes.
    counts : (n_classes, n_classes)
        Pixels by truth (rows) and prediction (columns).
    """

    names: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Report:
    """What a report says.

    Parameters
    ----------
    title
        Heading of the page.
    scores
        Columns of the table, in order.
    cases
        Images, in order.
    settings, versions, command
        How the scores were made; the command line makes them again.
    curves
        Name of a score to its value at increasing thresholds; None = undefined.
    notes
        Sentences that a reader has to know, shown below the verdict.
    intervals
        Name of a score to the 95 % interval of its mean over images.
    comparison
        With another model.
    calibration
        Of the probabilities.
    confusion
        Of the classes.
    """

    title: str
    scores: Sequence[ScoreColumn]
    cases: Sequence[Case]
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    comparison: Comparison | None = None
    calibration: Sequence[CalibrationBin] = ()
    confusion: ConfusionMatrix | None = None
    command: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the page opens with.

    Parameters
    ----------
    main
        The score that ranks the images; None if none is defined anywhere.
    others
        The other headline scores.
    worst
        The worst image by the main score; None if there is but one image, or all have the same value.
    is_perfect
        Whether all images have the best value that there is.
    difference
        Of the main score between two models.
    caveats
        Sentences that change how to read the rest.
    """

    main: ScoreColumn | None
    others: list[ScoreColumn]
    worst: Case | None
    is_perfect: bool
    difference: Difference | None
    caveats: Sequence[str]


def write_report(path: Path, report: Report) -> None:
    """Write a report; the file is there whole or not at all, and the same report gives the same bytes.

    Parameters
    ----------
    path
        The HTML file; its folder must exist.
    report
        All text in it is escaped.

    Examples
    --------
    >>> column = ScoreColumn("iou", "IoU", "higher", "TP/(TP+FP+FN)", 0.9)
    >>> report = Report("Nuclei", [column], [Case("a", {"iou": 0.9})])
    >>> write_report(Path("report.html"), report)  # doctest: +SKIP
    """
    parts = {
        "comparison": list(_compare(report)),
        "examples": _examples(report),
        "plots": list(_plots(report)),
        "reliability": lay_out_reliability(report.calibration),
        "counts": sum_counts([case.counts for case in report.cases]),
    }
    text = _template().render(
        report=report,
        verdict=_judge(report),
        sections=_sections(report, parts),
        spreads={score.name: _spread(score, report) for score in report.scores},
        rows=_rows(report),
        box=threshold_plot,
        square=charts,
        colours=pictures,
        legend=pictures.class_legend(report.confusion.names) if report.confusion else pictures.LEGEND,
        **parts,
    )
    write_atomically(path, text.encode("utf-8"))


def extremes(scores: Sequence[ScoreColumn], cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Choose the images to show.

    Parameters
    ----------
    scores, cases
        As in `Report`; the cases need no pictures yet.

    Returns
    -------
    worst, best : list of Case
        Up to three each, the most extreme first; no image is in both. Images on which the ranking score is
        undefined are in neither.
    """
    ranking = ranking_score(scores, cases)
    if ranking is None:
        return [], []
    ranked = _rank(ranking, cases)
    n_best = min(N_EXAMPLES, len(ranked) // 2)
    n_worst = min(N_EXAMPLES, len(ranked) - n_best)
    return ranked[:n_worst], ranked[::-1][:n_best]


def ranking_score(scores: Sequence[ScoreColumn], cases: Sequence[Case]) -> ScoreColumn | None:
    """Choose the score that ranks images: a headline score if there is one, defined on some image."""
    usable = (
        score for score in [*_headline(scores), *scores] if any(case.scores[score.name] is not None for case in cases)
    )
    return next(usable, None)


def _headline(scores: Sequence[ScoreColumn]) -> list[ScoreColumn]:
    placed = [(score.headline, score) for score in scores if score.headline is not None]
    return [score for _, score in sorted(placed, key=lambda pair: pair[0])]


def format_number(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits.

    Examples
    --------
    >>> [format_number(value) for value in (1, 0.90006, 12345.0, 0, -1.5e-7)]
    ['1.000', '0.9001', '12345', '0', '-1.500×10⁻⁷']
    """
    if value == 0:
        return "0"
    if 1e4 <= abs(value) < 1e6:
        return f"{value:.0f}"
    mantissa, _, exponent = f"{value:#.{digits}g}".partition("e")
    return mantissa.rstrip(".") + ("×10" + str(int(exponent)).translate(_RAISED) if exponent else "")


def split_subscript(label: str) -> tuple[str, str, str]:
    """Split ``V_Rand``, which papers write with a subscript, into what is before it, it, and the rest.

    Examples
    --------
    >>> split_subscript("V_Rand split"), split_subscript("IoU")
    (('V', 'Rand', ' split'), ('IoU', '', ''))
    """
    found = re.fullmatch(r"([A-Z])_(\w+)(.*)", label)
    return (found[1], found[2], found[3]) if found else (label, "", "")


def format_signed(value: float) -> str:
    """Write a difference with its sign and three significant digits.

    Examples
    --------
    >>> [format_signed(value) for value in (0.25, -0.25, 0)]
    ['+0.250', '−0.250', '0']
    """
    return {1: "+", 0: "", -1: "−"}[(value > 0) - (value < 0)] + format_number(abs(value), 3)


def sum_counts(parts: Sequence[Counts]) -> dict[str, dict[str, dict[str, int]]]:
    """Add up the counts of images.

    Examples
    --------
    >>> sum_counts([{"types": {"split": {"pixels": 3}}}, {"types": {"split": {"pixels": 4}}}])
    {'types': {'split': {'pixels': 7}}}
    """
    total: dict[str, dict[str, dict[str, int]]] = {}
    for kind, name, unit, n in (
        (kind, name, unit, n)
        for counts in parts
        for kind, types in counts.items()
        for name, units in types.items()
        for unit, n in units.items()
    ):
        units = total.setdefault(kind, {}).setdefault(name, {})
        units[unit] = units.get(unit, 0) + n
    return total


@cache
def _template() -> Template:
    """Return the page, ready to be filled."""
    environment = Environment(
        loader=PackageLoader("unetcli.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "signed": format_signed, "split_subscript": split_subscript}
    return environment.get_template("report.html.j2")


def _judge(report: Report) -> Verdict:
    """Choose what the page opens with."""
    main = ranking_score(report.scores, report.cases)
    n = len(report.cases)
    caveats = []
    if incomplete := sum(None in (case.scores[s.name] for s in report.scores) for case in report.cases):
        have = "1 image has" if incomplete == 1 else f"{incomplete} images have"
        caveats.append(f"{have} a score that is undefined; a mean leaves it out.")
    if report.intervals and 1 < n < FEW:
        caveats.append(f"With only {n} images the 95\N{NO-BREAK SPACE}% intervals are rough.")
    others = [score for score in _headline(report.scores) if score is not main]
    if main is None:
        return Verdict(None, others, None, False, None, caveats)
    values = {value for case in report.cases if (value := case.scores[main.name]) is not None}
    worst, _ = extremes(report.scores, report.cases)
    is_perfect = all(  # the headline agrees: V_Rand alone is 1 also where nothing is predicted of a single object
        case.scores[s.name] == (1.0 if s.better == "higher" else 0.0) for s in [main, *others] for case in report.cases
    )
    difference = report.comparison.scores.get(main.name) if report.comparison else None
    return Verdict(main, others, worst[0] if len(values) > 1 else None, is_perfect, difference, caveats)


def _sections(report: Report, parts: Mapping[str, object]) -> dict[str, str]:
    """List the sections of the page in order: id to heading."""
    one = len(report.cases) == 1
    sections = (
        ("comparison", "Comparison", parts["comparison"]),
        ("scores", "Scores" if one else "Mean scores", report.scores),
        ("examples", "The image" if one else "Worst and best images", parts["examples"]),
        ("images", "All images", report.scores and len(report.cases) > 1),
        ("thresholds", "Choice of the threshold", parts["plots"]),
        ("calibration", "Calibration", parts["reliability"]),
        ("confusion", "Classes", report.confusion),
        ("counts", "Types of error", parts["counts"]),
        ("settings", "How it was made", report.settings or report.versions or report.command),
    )
    return {name: heading for name, heading, content in sections if content}


def _rows(report: Report) -> Sequence[Case]:
    """Choose the images to list: all in their order, or, of too many, the worst first."""
    main = ranking_score(report.scores, report.cases)
    if len(report.cases) <= MAX_ROWS or main is None:
        return report.cases[:MAX_ROWS]
    return _rank(main, report.cases)[:MAX_ROWS]


def _rank(score: ScoreColumn, cases: Sequence[Case]) -> list[Case]:
    """Sort the images on which a score is defined, the worst first."""
    sign = 1 if score.better == "higher" else -1
    defined = [(sign * value, case) for case in cases if (value := case.scores[score.name]) is not None]
    return [case for _, case in sorted(defined, key=lambda pair: pair[0])]


def _compare(report: Report) -> Iterator[tuple[ScoreColumn, Difference, Whisker | None]]:
    """Lay out the differences of the scores that were compared."""
    differences = report.comparison.scores if report.comparison else {}
    for score in report.scores:
        if each := differences.get(score.name):
            yield score, each, _whisker(each, score.better)


def _whisker(each: Difference, better: Literal["higher", "lower"]) -> Whisker | None:
    """Lay out a difference; None without an interval."""
    if each.difference is None or each.low is None or each.high is None:
        return None
    return lay_out_difference(each.difference, each.low, each.high, better)


def _plots(report: Report) -> Iterator[tuple[str, ThresholdPlot]]:
    """Lay out the curves that are defined somewhere, each with its label."""
    columns = {score.name: score for score in report.scores}
    for name, points in report.curves.items():
        column = columns.get(name)
        if plot := plot_thresholds(points, column.better if column else None):
            yield (column.label if column else name), plot


def _spread(score: ScoreColumn, report: Report) -> Spread | None:
    """Lay out the values of a score; None without two different ones."""
    values = [value for case in report.cases if (value := case.scores[score.name]) is not None]
    return None if score.mean is None else lay_out_values(values, score.mean, report.intervals.get(score.name))


def _examples(report: Report) -> list[tuple[str, list[Case]]]:
    """Choose the images that are shown, under their headings."""
    worst, best = extremes(report.scores, report.cases)
    return [(head, part) for head, part in (("Worst", worst), ("Best", best)) if any(case.pictures for case in part)]
