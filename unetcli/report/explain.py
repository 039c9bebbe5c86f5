"""A picture of where weights come from: labels, distances and weights side by side, with one worked pixel."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unetcli.report.figures import save_png, styled_figure
from unetcli.report.pictures import GRAY, INK, MISSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[Any]
PANEL_INCHES = 2.9
CLOSE_UP = 8
"""Least pixels on each side of the worked pixel in the second row."""
FIRST, SECOND = "#0072B2", MISSED
"""Colours of what belongs to the nearest and to the second nearest object."""
NAMES = ("A", "B")
"""What the two objects are called."""


@dataclass(frozen=True)
class Nearest:
    """An object near the worked pixel.

    Parameters
    ----------
    label
        Its id.
    distance
        Of its nearest pixel.
    pixel
        Where that lies, (y, x) in the window, perhaps outside of it.
    planes
        How many planes above the worked pixel.
    """

    label: int
    distance: float
    pixel: tuple[int, int]
    planes: int = 0


@dataclass(frozen=True)
class Formula:
    """``background + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) + w1 exp(-d1^2 / (2 sigma1^2))``."""

    background: float
    w0: float
    sigma: float
    w1: float = 0.0
    sigma1: float = 1.0

    def symbols(self) -> str:
        """Return the formula as mathematical text."""
        first = r"w_c" if not self.w1 else r"\lambda + (1 - \lambda)\,\exp\left(-\frac{d_1^2}{2\,\sigma_1^2}\right)"
        return rf"$w \;=\; {first} + w_0\,\exp\left(-\frac{{(d_1 + d_2)^2}}{{2\,\sigma^2}}\right)$"

    def numbers(self, d1: float, d2: float) -> str:
        """Return the formula with numbers put in, as mathematical text."""
        surroundings = self.w1 * math.exp(-(d1**2) / (2 * self.sigma1**2))
        border = self.w0 * math.exp(-((d1 + d2) ** 2) / (2 * self.sigma**2))
        terms, values = [_short(self.background)], [f"{self.background:.2f}"]
        if self.w1:
            squared = "0" if math.isinf(d1) else rf"\frac{{{_short(d1)}^2}}{{2 \cdot {_short(self.sigma1)}^2}}"
            terms += [_exp(self.w1, squared, is_far=math.isinf(d1))]
            values += [f"{surroundings:.2f}"]
        squared = rf"\frac{{({_short(d1)} + {_short(d2)})^2}}{{2 \cdot {_short(self.sigma)}^2}}"
        terms += [_exp(self.w0, squared, is_far=math.isinf(d2))]
        values += [f"{border:.2f}"]
        total = f"{self.background + surroundings + border:.2f}"
        return rf"$w \;=\; {' + '.join(terms)} \;=\; {' + '.join(values)} \;=\; \mathbf{{{total}}}$"


def _exp(height: float, squared: str, *, is_far: bool) -> str:
    return rf"{_short(height)} \cdot 0" if is_far else rf"{_short(height)}\,\exp\left(-{squared}\right)"


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the picture shows.

    Parameters
    ----------
    place
        Name of the image, and the plane.
    corner
        Where the window begins in it, (y, x).
    labels : (y, x) int
        Object ids, cut where they touch.
    d1, d2 : (y, x) float
        Distances to the nearest and second nearest object, infinite beyond `reach`.
    weights : (y, x) float
    pixel
        The worked pixel (y, x), in the window.
    nearest
        The nearest two objects, fewer where there are none.
    has_ids
        Whether the ids are those of the labels, so that they are told.
    formula
        Of background pixels.
    reach
        Largest distance that is measured.
    """

    place: str
    corner: tuple[int, int]
    labels: Picture
    d1: Picture
    d2: Picture
    weights: Picture
    pixel: tuple[int, int]
    nearest: tuple[Nearest, ...]
    has_ids: bool
    formula: Formula
    reach: float


def draw_explanation(shown: Explanation, path: Path) -> None:
    """Draw labels, distances and weights of a window, close-ups around the worked pixel, and the formula.

    Parameters
    ----------
    shown
        What to draw.
    path
        The PNG.
    """
    with styled_figure((4 * PANEL_INCHES + 0.6, 2 * PANEL_INCHES + 2.0)) as figure:
        grid = figure.add_gridspec(3, 4, height_ratios=[PANEL_INCHES, PANEL_INCHES, 1.0])
        for row, draw in enumerate((_draw_window, _draw_close_up)):
            panels = [figure.add_subplot(grid[row, k]) for k in range(4)]
            draw(figure, panels, shown)
        _write_formula(figure.add_subplot(grid[2, :]), shown)
        save_png(figure, path)


def _draw_maps(figure: Figure, panels: list[Axes], shown: Explanation, *, bars: bool) -> None:
    """Draw labels, d1, d2 and weights, in pixels of the image."""
    (y, x), (n_y, n_x) = shown.corner, shown.labels.shape
    extent = (x - 0.5, x + n_x - 0.5, y + n_y - 0.5, y - 0.5)
    farthest = min(shown.reach, 4 * shown.formula.sigma)
    panels[0].imshow(_colours(shown.labels), extent=extent, interpolation="nearest")
    for panel, distance, name in ((panels[1], shown.d1, "$d_1$"), (panels[2], shown.d2, "$d_2$")):
        drawn = panel.imshow(distance, cmap="YlGnBu_r", vmin=0, vmax=farthest, extent=extent, interpolation="nearest")
        if bars:
            _bar(figure, drawn, panel, f"{name}, pixels", extend="max")
    drawn = panels[3].imshow(shown.weights, cmap="inferno", vmin=0, extent=extent, interpolation="nearest")
    if bars:
        _bar(figure, drawn, panels[3], "weight $w$")
    for panel in panels:
        panel.grid(visible=False)
        panel.locator_params(nbins=5, integer=True)
        panel.tick_params(length=2, labelsize=6.5)


def _bar(figure: Figure, drawn: Any, panel: Axes, title: str, extend: str = "neither") -> None:  # noqa: ANN401 - an image
    bar = figure.colorbar(drawn, ax=panel, location="bottom", aspect=28, pad=0.03, extend=extend, label=title)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7)


def _draw_window(figure: Figure, panels: list[Axes], shown: Explanation) -> None:
    _draw_maps(figure, panels, shown, bars=True)
    for panel, title, text in zip(
        panels,
        ("labels", "$d_1$", "$d_2$", "weights"),
        (
            "each object in a colour of its own",
            "how far is the nearest object?",
            "how far is the second nearest?",
            "high where two objects are near",
        ),
        strict=True,
    ):
        panel.set_title(f"{title}\n", fontsize=10)
        panel.text(0, 1.03, text, transform=panel.transAxes, color=GRAY, fontsize=8)
    half, (y, x) = _half(shown), _position(shown, shown.pixel)
    for panel in panels:
        _square(panel, (y, x), half + 0.5, colour=INK if panel is panels[0] else "white")


def _draw_close_up(figure: Figure, panels: list[Axes], shown: Explanation) -> None:
    _draw_maps(figure, panels, shown, bars=False)
    half, (y, x) = _half(shown), _position(shown, shown.pixel)
    for k, panel in enumerate(panels):
        panel.set_xlim(x - half - 0.5, x + half + 0.5)
        panel.set_ylim(y + half + 0.5, y - half - 0.5)
        _square(panel, (y, x), 0.5, colour=INK if k == 0 else "white", width=1.6)
        lines = {0: (0, 1), 1: (0,), 2: (1,), 3: ()}[k]
        for n in lines:
            if n < len(shown.nearest):
                _line(panel, shown, n)
    panels[0].set_title("the square, enlarged", fontsize=8, fontweight="normal", color=GRAY)
    value = float(shown.weights[shown.pixel])
    _note(panels[3], (y - 1.2, x), f"w = {value:.2f}", INK)


def _line(panel: Axes, shown: Explanation, n: int) -> None:
    """Draw the line from the worked pixel to the nearest pixel of an object, and its length."""
    nearest, colour = shown.nearest[n], (FIRST, SECOND)[n]
    (y, x), (far_y, far_x) = _position(shown, shown.pixel), _position(shown, nearest.pixel)
    panel.plot([x, far_x], [y, far_y], color="white", linewidth=3.2)
    panel.plot([x, far_x], [y, far_y], color=colour, linewidth=1.8, marker="o", markersize=3.5, markevery=[1])
    away = np.array([far_y - y, far_x - x]) / max(math.hypot(far_y - y, far_x - x), 1)
    _note(panel, (far_y + 1.6 * away[0], far_x + 1.6 * away[1]), f"$d_{n + 1}$ = {_short(nearest.distance)}", colour)


def _note(panel: Axes, at: tuple[float, float], text: str, colour: str) -> None:
    panel.text(
        at[1], at[0], text, ha="center", va="center", fontsize=8, color=colour, fontweight="bold", clip_on=True,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8},
    )  # fmt: skip


def _square(panel: Axes, at: tuple[int, int], half: float, *, colour: str, width: float = 1.2) -> None:
    from matplotlib.patches import Rectangle

    corner = (at[1] - half, at[0] - half)
    panel.add_patch(Rectangle(corner, 2 * half, 2 * half, fill=False, edgecolor=colour, linewidth=width))


def _half(shown: Explanation) -> int:
    """Return how many pixels on each side of the worked pixel the close-ups show."""
    away = [abs(a - b) for n in shown.nearest for a, b in zip(n.pixel, shown.pixel, strict=True)]
    return max([CLOSE_UP, *(n + 3 for n in away)])


def _position(shown: Explanation, pixel: tuple[int, int]) -> tuple[int, int]:
    return shown.corner[0] + pixel[0], shown.corner[1] + pixel[1]


def _write_formula(panel: Axes, shown: Explanation) -> None:
    """Write in words, symbols and numbers what the weight of the worked pixel is."""
    panel.set_axis_off()
    y, x = _position(shown, shown.pixel)
    d1, d2 = ([n.distance for n in shown.nearest] + [math.inf, math.inf])[:2]
    panel.text(0, 0.95, f"The marked pixel, y {y}, x {x} of {shown.place}", fontsize=10, fontweight="bold", va="top")
    panel.text(0, 0.62, _distances(shown), fontsize=9, va="top")
    panel.text(0, 0.28, shown.formula.symbols(), fontsize=11, va="top", color=GRAY)
    panel.text(0.36, 0.28, shown.formula.numbers(d1, d2), fontsize=11, va="top")


def _distances(shown: Explanation) -> str:
    """Say which objects are how far."""
    texts = []
    for k, which in enumerate(("nearest", "second nearest")):
        if k >= len(shown.nearest):
            texts.append(f"there is no {which} object within {shown.reach:.0f} pixels")
            break
        found = shown.nearest[k]
        name = f"object {found.label}" if shown.has_ids else f"object {NAMES[k]}"
        plane = f", {abs(found.planes)} planes {'up' if found.planes > 0 else 'down'}" if found.planes else ""
        texts.append(f"$d_{k + 1}$ = {_short(found.distance)} pixels to the {which} one, {name}{plane}")
    return ";   ".join(texts)


def _colours(labels: Picture) -> NDArray[np.float64]:
    """Show objects in colours that differ from id to id, on a light ground."""
    ids, at = np.unique(labels, return_inverse=True)
    table = [
        (0.95, 0.95, 0.95) if i == 0 else colorsys.hls_to_rgb((int(i) * 0.61803) % 1, 0.62 + 0.1 * (int(i) % 3), 0.55)
        for i in ids
    ]
    return np.array(table)[at.reshape(labels.shape)]
