"""Scores of a data set as one HTML file that needs nothing else: no network, fonts or scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined

from unetcli.atomic import write_atomically
from unetcli.report import pictures, threshold_plot
from unetcli.report.threshold_plot import Point, ThresholdPlot, plot_thresholds

HEADLINE = ("v_rand", "iou", "pixel_error")
"""Scores that the verdict names; the first of them ranks the images."""
N_EXAMPLES = 3
"""Worst images shown, and best ones."""
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
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    convention: str
    mean: float | None
    undefined: str = ""


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
    """

    name: str
    scores: Mapping[str, float | None]
    pictures: Mapping[str, str] = field(default_factory=dict)


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
    settings, versions
        How the scores were made.
    curves
        Name of a score to its value at increasing thresholds; None = undefined.
    notes
        Sentences that a reader has to know, shown below the verdict.
    """

    title: str
    scores: Sequence[ScoreColumn]
    cases: Sequence[Case]
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Spread:
    """Values of a score on a line from the smallest to the largest, each as a percentage of the way."""

    low: float
    high: float
    at: Sequence[float]
    mean_at: float


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
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": format_number, "split_subscript": split_subscript}
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    ranking = ranking_score(report.scores, report.cases)
    worst, best = extremes(report.scores, report.cases)
    text = template.render(
        report=report,
        headline=[score for name in HEADLINE for score in report.scores if score.name == name],
        spreads={score.name: _spread(score, report.cases) for score in report.scores},
        incomplete=sum(None in (case.scores[s.name] for s in report.scores) for case in report.cases),
        plots=list(_plots(report)),
        box=threshold_plot,
        ranking=ranking,
        examples=[part for part in (("Worst", worst), ("Best", best)) if _has_pictures(part[1])],
        colours=pictures,
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
    sign = 1 if ranking.better == "higher" else -1
    defined = [(sign * value, case) for case in cases if (value := case.scores[ranking.name]) is not None]
    ranked = [case for _, case in sorted(defined, key=lambda pair: pair[0])]
    n_best = min(N_EXAMPLES, len(ranked) // 2)
    n_worst = min(N_EXAMPLES, len(ranked) - n_best)
    return ranked[:n_worst], ranked[::-1][:n_best]


def ranking_score(scores: Sequence[ScoreColumn], cases: Sequence[Case]) -> ScoreColumn | None:
    """Choose the score that ranks images: a headline score if there is one, defined on some image."""
    by_rank = sorted(scores, key=lambda score: (*HEADLINE, score.name).index(score.name))
    usable = (score for score in by_rank if any(case.scores[score.name] is not None for case in cases))
    return next(usable, None)


def format_number(value: float) -> str:
    """Write a number with four significant digits.

    Examples
    --------
    >>> [format_number(value) for value in (1, 0.90006, 12345.0, 0, -1.5e-7)]
    ['1.000', '0.9001', '12345', '0', '-1.500×10⁻⁷']
    """
    if value == 0:
        return "0"
    if 1e4 <= abs(value) < 1e6:
        return f"{value:.0f}"
    mantissa, _, exponent = f"{value:#.4g}".partition("e")
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


def _plots(report: Report) -> Iterator[tuple[str, ThresholdPlot]]:
    """Lay out the curves that are defined somewhere, each with its label."""
    columns = {score.name: score for score in report.scores}
    for name, points in report.curves.items():
        column = columns.get(name)
        if plot := plot_thresholds(points, column.better if column else None):
            yield (column.label if column else name), plot


def _spread(score: ScoreColumn, cases: Sequence[Case]) -> Spread | None:
    """Lay out the values of a score; None without two different ones."""
    values = [value for case in cases if (value := case.scores[score.name]) is not None]
    if score.mean is None or len(set(values)) < 2:
        return None
    low, high = min(values), max(values)
    at = sorted({round(100 * (value - low) / (high - low), 1) for value in values})
    return Spread(low, high, at, round(100 * (score.mean - low) / (high - low), 1))


def _has_pictures(cases: Sequence[Case]) -> bool:
    """Tell whether there is something to show."""
    return any(case.pictures for case in cases)
