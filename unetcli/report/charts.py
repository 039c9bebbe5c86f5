"""Small charts: from values to places in an SVG drawing. What lies along a line is in percent of the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Interval = tuple[float, float]
CalibrationBin = tuple[float, float, int, float, float]
"""Lower and upper end of an interval of the probability, the number of pixels in it, their mean probability, and the
share of them that is foreground in the truth; the last two are nan if there are none."""

MAX_MARKS = 40
"""Values drawn one by one; more are drawn as a histogram."""
N_BARS = 25
SIDE, LEFT, TOP, GAP, BARS = 220, 54, 12, 36, 40
"""Plot of a calibration, in units of the drawing: its square, the margins left and above, and below it the gap for
the labels and the bars of its histogram."""


@dataclass(frozen=True)
class Spread:
    """Values of a score on a line from the smallest to the largest.

    Parameters
    ----------
    low, high
        The ends.
    marks
        Where the values lie; empty if there are too many.
    bars
        Start and height (0..1) of each bar of a histogram, instead of marks; all are equally wide.
    mean_at
        Where the mean lies.
    interval
        Start and width of the interval of the mean.
    """

    low: float
    high: float
    marks: Sequence[float]
    bars: Sequence[tuple[float, float]]
    mean_at: float
    interval: Interval | None


def lay_out_values(values: Sequence[float], mean: float, interval: Interval | None = None) -> Spread | None:
    """Lay out the values of a score.

    Parameters
    ----------
    values
        Finite, one per image.
    mean, interval
        Their mean, and what it may be by chance.

    Returns
    -------
    Spread or None
        None without two different values.

    Examples
    --------
    >>> lay_out_values([0.5, 1.0, 0.75], 0.75).marks
    [0.0, 50.0, 100.0]
    """
    if len(set(values)) < 2:
        return None
    low, high = min(values), max(values)

    def place(value: float) -> float:
        return round(100 * min(max((value - low) / (high - low), 0), 1), 1)

    counts = [0] * N_BARS
    for value in values:
        counts[min(int(N_BARS * (value - low) / (high - low)), N_BARS - 1)] += 1
    is_many = len(values) > MAX_MARKS
    band = (place(interval[0]), place(interval[1])) if interval else None
    return Spread(
        low,
        high,
        marks=[] if is_many else sorted({place(value) for value in values}),
        bars=[(100 * k / N_BARS, round(n / max(counts), 3)) for k, n in enumerate(counts) if n] if is_many else [],
        mean_at=place(mean),
        interval=(band[0], round(band[1] - band[0], 1)) if band else None,
    )


@dataclass(frozen=True)
class Whisker:
    """A difference on a line whose middle is no difference and whose right half is an improvement."""

    start: float
    end: float
    at: float


def lay_out_difference(difference: float, low: float, high: float, better: Literal["higher", "lower"]) -> Whisker:
    """Lay out a difference with its interval, on a scale of its own.

    Parameters
    ----------
    difference, low, high
        Finite.
    better
        Which sign is an improvement.

    Examples
    --------
    >>> lay_out_difference(-0.1, -0.2, 0.0, "lower")
    Whisker(start=50.0, end=95.0, at=72.5)
    """
    sign = 1 if better == "higher" else -1
    reach = max(abs(low), abs(high), abs(difference)) or 1.0
    places = [50 + 45 * sign * value / reach for value in (low, high)]
    return Whisker(min(places), max(places), 50 + 45 * sign * difference / reach)


@dataclass(frozen=True)
class Reliability:
    """A drawing of how often what was predicted is true.

    Parameters
    ----------
    points
        x and y of the bins that hold pixels.
    path
        `d` of the SVG path through them.
    bars
        x, y, width and height of a bar for each bin: how many pixels it holds.
    error
        Expected calibration error: mean distance to the diagonal, weighted by pixels.
    """

    points: Sequence[tuple[float, float]]
    path: str
    bars: Sequence[tuple[float, float, float, float]]
    error: float


def lay_out_reliability(bins: Sequence[CalibrationBin]) -> Reliability | None:
    """Lay out the bins of a calibration: share of foreground over probability, pixels below.

    Parameters
    ----------
    bins
        In order.

    Returns
    -------
    Reliability or None
        None if all bins are empty.
    """
    filled = [(low, high, n, x, y) for low, high, n, x, y in bins if n]
    if not filled:
        return None
    most = max(n for _, _, n, _, _ in filled)
    points = [(round(LEFT + SIDE * x, 1), round(TOP + SIDE * (1 - y), 1)) for *_, x, y in filled]
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    error = sum(n * abs(x - y) for _, _, n, x, y in filled) / sum(n for _, _, n, _, _ in filled)
    return Reliability(points, path, [_bar(low, high, n / most) for low, high, n, _, _ in filled], error)


def _bar(low: float, high: float, share: float) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the bar of a bin, below the axis."""
    height = max(1.0, round(BARS * share, 1))
    x, y = LEFT + SIDE * low + 0.5, TOP + SIDE + GAP + BARS - height
    return round(x, 1), round(y, 1), round(SIDE * (high - low) - 1, 1), height
