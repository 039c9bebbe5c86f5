"""The curves of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetcli.errors import InputError
from unetcli.report.figures import save_png, styled_figure
from unetcli.report.pictures import BLUE, GREEN, INK, MISSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses and validation scores of a training run as a PNG.

    Parameters
    ----------
    rows
        In the order of training, each with `step` and `loss`, and with `validation_loss`,
        `validation_iou` and `validation_pixel_error` where it was validated.
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
    validated = any("validation_iou" in row for row in rows)
    with styled_figure((10.4, 4.0) if validated else (5.6, 4.0)) as figure:
        if validated:
            panels = figure.subplot_mosaic([["loss", "iou"], ["loss", "error"]])
            _draw_score(panels["iou"], rows, "validation_iou", "Validation IoU", BLUE, max)
            _draw_score(panels["error"], rows, "validation_pixel_error", "Validation pixel error", MISSED, min)
            panels["iou"].tick_params(labelbottom=False)
            panels["error"].set_xlabel("step")
            _draw_loss(panels["loss"], rows)
            panels["iou"].sharex(panels["loss"])
            panels["error"].sharex(panels["loss"])
        else:
            _draw_loss(figure.subplots(), rows)
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
    axis.set_xlabel("step")
    if drawn and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        _set_log(axis, max(drawn) / min(drawn))
    if len(last) > 1:
        axis.legend(loc="upper right")


def _set_log(axis: Axes, span: float) -> None:
    """Make the y axis logarithmic, with ticks one can read."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1000 else (1,)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _draw_score(
    axis: Axes,
    rows: Sequence[Mapping[str, float]],
    key: str,
    title: str,
    colour: str,
    better: Callable[[list[float]], float],
) -> None:
    """Draw a validation score, its best value ringed."""
    steps, values = _series(rows, key)
    _draw_line(axis, steps, values, color=colour)
    axis.set_title(title)
    if values:
        best = better(values)
        at = steps[values.index(best)]
        axis.plot([at], [best], "o", markersize=7, markerfacecolor="none", markeredgecolor=colour)
        _annotate(axis, f"last {values[-1]:.4g}, best {best:.4g} at step {at:,.0f}")


def _annotate(axis: Axes, text: str) -> None:
    """Write values at the right end of the title's line."""
    axis.set_title(text, loc="right", fontsize=8, fontweight="normal", color="#555555")
