"""The curves of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetcli.errors import InputError
from unetcli.report.figures import save_png, styled_figure
from unetcli.report.pictures import BLUE, CONFUSED, GRAY, GREEN, INK, MISSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, "#E69F00", GREEN, MISSED, CONFUSED, "#56B4E9", GRAY, "#7F3C8D", "#8C564B", "#A6D854")
"""Of the lines of a panel."""
ROWS = 3
"""Panels below one another."""


@dataclass(frozen=True)
class Panel:
    """Scores that are drawn in one panel.

    Parameters
    ----------
    title
        Above it.
    lines
        Name of each line, and its column of the rows. The best value of the first is ringed.
    better
        Which direction is better: ``higher`` or ``lower``.
    """

    title: str
    lines: Mapping[str, str]
    better: str


def draw_curves(rows: Sequence[Mapping[str, float]], panels: Sequence[Panel], path: Path) -> None:
    """Draw the losses, the learning rate and the validation scores of a training run as a PNG.

    Parameters
    ----------
    rows
        In the order of training, each with `step`, `loss` and `learning_rate`, and with `validation_loss` and the
        columns of the panels where it was validated.
    panels
        Of the scores.
    path
        The PNG.

    Raises
    ------
    InputError
        There is no row.

    Notes
    -----
    The loss is drawn on a logarithmic axis where it spans more than a factor of ten.
    """
    if not rows:
        raise InputError(f"{path}: there is nothing to draw; expected at least one row of training")
    columns = math.ceil(len(panels) / ROWS)
    n_rows = min(len(panels), ROWS)
    with styled_figure((5.2 + 4.8 * columns, max(4.0, 1.9 * n_rows))) as figure:
        grid = figure.add_gridspec(1, 1 + columns)
        left = grid[0, 0].subgridspec(2, 1, height_ratios=(3, 1))
        loss, rate = figure.add_subplot(left[0]), figure.add_subplot(left[1])
        _draw_loss(loss, rows)
        _draw_line(rate, *_series(rows, "learning_rate"), color=GRAY)
        rate.set(title="Learning rate", xlabel="step", ylim=(0, None))
        rate.sharex(loss)
        loss.tick_params(labelbottom=False)
        places = [grid[0, 1 + c].subgridspec(n_rows, 1) for c in range(columns)]
        for k, panel in enumerate(panels):
            axis = figure.add_subplot(places[k // ROWS][k % ROWS], sharex=loss)
            _draw_scores(axis, rows, panel)
            is_last = k % ROWS == n_rows - 1 or k == len(panels) - 1
            axis.tick_params(labelbottom=is_last)
            axis.set_xlabel("step" if is_last else "")
        save_png(figure, path)


def _series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of the rows that have the key."""
    return [row["step"] for row in rows if key in row], [row[key] for row in rows if key in row]


def _draw_line(axis: Axes, steps: Sequence[float], values: Sequence[float], **style: Any) -> None:  # noqa: ANN401
    """Draw a curve over steps; few points are marked one by one."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.plot(steps, values, marker="o" if len(steps) <= 40 else None, **style)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw_loss(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw the losses."""
    drawn: list[float] = []
    last: list[str] = []
    for key, name, colour in (("loss", "training", INK), ("validation_loss", "validation", GREEN)):
        steps, values = _series(rows, key)
        if values:
            _draw_line(axis, steps, values, color=colour, label=name)
            last.append(f"{name} {values[-1]:.4g}")
            drawn += [value for value in values if math.isfinite(value)]
    axis.set_title("Loss")
    _annotate(axis, ", ".join(last))
    if drawn and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        _set_log(axis, max(drawn) / min(drawn))
    if len(last) > 1:
        axis.legend(loc="best")


def _set_log(axis: Axes, span: float) -> None:
    """Make the y axis logarithmic, with ticks one can read."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1000 else (1,)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _draw_scores(axis: Axes, rows: Sequence[Mapping[str, float]], panel: Panel) -> None:
    """Draw the scores of a panel; ring the best value of the first, and say it."""
    for k, (name, key) in enumerate(panel.lines.items()):
        steps, values = _series(rows, key)
        if not values:
            continue
        colour = COLOURS[k % len(COLOURS)]
        _draw_line(axis, steps, values, color=colour, label=f"{name} {values[-1]:.3f}", zorder=3 if k == 0 else 2)
        if k == 0:
            best = (max if panel.better == "higher" else min)(values)
            at = steps[values.index(best)]
            axis.plot([at], [best], "o", markersize=7, markerfacecolor="none", markeredgecolor=colour)
            _annotate(axis, f"last {values[-1]:.4g}, best {best:.4g} at step {at:,.0f}")
    axis.set_title(panel.title)
    if len(panel.lines) > 2:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, handlelength=1.2)
    elif len(panel.lines) == 2:
        axis.legend(loc="best", fontsize=7, handlelength=1.2)


def _annotate(axis: Axes, text: str) -> None:
    """Write values at the right end of the title's line."""
    axis.set_title(text, loc="right", fontsize=8, fontweight="normal", color="#555555")
