"""Small plots of a score over thresholds: from points to the coordinates of an SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float | None]

WIDTH, HEIGHT = 300, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 16, 36
"""Margins around the axes; the left one holds the labels of the y axis."""


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in units of the drawing, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class ThresholdPlot:
    """A drawing of one curve.

    Parameters
    ----------
    path
        `d` of an SVG path; a gap where the score is undefined.
    x_ticks, y_ticks
        Ticks of the axes.
    best_x, best_y
        Where the best value lies, in units of the drawing; None if no direction is better.
    best, best_threshold
        The best value, at the first threshold that has it.
    """

    path: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    best_x: float | None = None
    best_y: float | None = None
    best: float | None = None
    best_threshold: float | None = None


def plot_thresholds(points: Sequence[Point], better: Literal["higher", "lower"] | None = None) -> ThresholdPlot | None:
    """Lay out a curve.

    Parameters
    ----------
    points
        Threshold and score, thresholds increasing; None = undefined.
    better
        Which direction is better, if the best value is to be marked.

    Returns
    -------
    ThresholdPlot or None
        None if the score is undefined everywhere.

    Examples
    --------
    >>> plot_thresholds([(0.0, 0.0), (1.0, 1.0)]).path
    'M44.0 164.0 L286.0 16.0'
    """
    defined = [(threshold, score) for threshold, score in points if score is not None]
    if not defined:
        return None
    xs = nice_ticks(min(t for t, _ in defined), max(t for t, _ in defined))
    ys = nice_ticks(min(s for _, s in defined), max(s for _, s in defined))

    def to_x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - xs[0]) / (xs[-1] - xs[0])

    def to_y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - ys[0]) / (ys[-1] - ys[0])

    path, pen_up = [], True
    for threshold, score in points:
        if score is not None:
            path.append(f"{'M' if pen_up else 'L'}{to_x(threshold):.1f} {to_y(score):.1f}")
        pen_up = score is None
    x_ticks = [Tick(to_x(x), label) for x, label in zip(xs, tick_labels(xs), strict=True)]
    y_ticks = [Tick(to_y(y), label) for y, label in zip(ys, tick_labels(ys), strict=True)]
    if better is None:
        return ThresholdPlot(" ".join(path), x_ticks, y_ticks)
    sign = 1 if better == "higher" else -1
    at, best = max(defined, key=lambda point: sign * point[1])
    return ThresholdPlot(" ".join(path), x_ticks, y_ticks, to_x(at), to_y(best), best, at)


def nice_ticks(low: float, high: float) -> list[float]:
    """Choose three to seven round numbers that enclose a range.

    Parameters
    ----------
    low, high
        Finite; the same number is widened by a tenth of itself.

    Returns
    -------
    list of float
        Multiples of 1, 2, 2.5 or 5 times a power of ten; the first at most `low`, the last at least `high`.

    Examples
    --------
    >>> nice_ticks(0.03, 0.98)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = 0.1 * abs(low) or 0.1
        low, high = low - margin, high + margin
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power > 0.999 * raw)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Write ticks with as many decimals as the longest needs.

    Examples
    --------
    >>> tick_labels([0, 0.5, 1]), tick_labels([0, 2e-05])
    (['0.0', '0.5', '1.0'], ['0', '2e-5'])
    """
    if max(abs(tick) for tick in ticks) < 1e-3:
        return [f"{tick:g}".replace("e-0", "e-") for tick in ticks]
    n_decimals = max(len(f"{tick:.10f}".rstrip("0").partition(".")[2]) for tick in ticks)
    return [f"{tick:.{n_decimals}f}" for tick in ticks]
