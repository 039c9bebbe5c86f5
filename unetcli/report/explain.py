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
    from matplotlib.image import AxesImage

Picture = NDArray[Any]
PANEL_INCHES = 2.9
CLOSE_UP = 8
"""Least pixels on each side of the worked pixel in the second row."""
FIRST, SECOND = "#0072B2", MISSED
"""Colours of what belongs to the nearest and to the second nearest object."""
NAMES = ("A", "B")
"""What the nearest two objects are called, where labels have no ids."""
NAMED_PIXELS = 80
"""Objects with fewer pixels in the window have no room for their id."""
TITLES = {
    "labels": "objects, cut apart where they touch",
    "$d_1$": "how far is the nearest object?",
    "$d_2$": "how far is the second nearest?",
    "weights": "high where two objects are near",
}


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

    def words(self) -> str:
        """Say what the symbols stand for."""
        symbols = rf"$w_0$ = {_short(self.w0)} and $\sigma$ = {_short(self.sigma)} pixels"
        border = f"{symbols}: height and width of the border term"
        if not self.w1:
            return f"$w_c$ = {_short(self.background)}: weight of the class, here background;   {border}"
        far = rf"$\lambda$ = {_short(self.background)}: weight of background far from objects"
        return rf"{far};   $\sigma_1$ = {_short(self.sigma1)} pixels: width of their surroundings;   {border}"

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
    with styled_figure((4 * PANEL_INCHES + 0.6, 2 * PANEL_INCHES + 2.1)) as figure:
        grid = figure.add_gridspec(3, 4, height_ratios=[PANEL_INCHES, PANEL_INCHES, 1.2])
        for row, draw in enumerate((_draw_window, _draw_close_up)):
            panels = [figure.add_subplot(grid[row, k]) for k in range(4)]
            draw(figure, panels, shown)
        _write_formula(figure.add_subplot(grid[2, :]), shown)
        save_png(figure, path)


def _draw_maps(panels: list[Axes], shown: Explanation) -> list[AxesImage]:
    """Draw labels, d1, d2 and weights, in pixels of the image."""
    (y, x), (n_y, n_x) = shown.corner, shown.labels.shape
    how: dict[str, Any] = {"extent": (x - 0.5, x + n_x - 0.5, y + n_y - 0.5, y - 0.5), "interpolation": "nearest"}
    distances: dict[str, Any] = {"cmap": "YlGnBu_r", "vmin": 0, "vmax": min(shown.reach, 3 * shown.formula.sigma)}
    near = [np.minimum(d, shown.reach) for d in (shown.d1, shown.d2)]
    drawn = [
        panels[0].imshow(_colours(shown.labels), **how),
        *(panel.imshow(d, **distances, **how) for panel, d in zip(panels[1:3], near, strict=True)),
        panels[3].imshow(shown.weights, cmap="inferno", vmin=0, **how),
    ]
    for panel in panels:
        panel.grid(visible=False)
        panel.locator_params(nbins=5, integer=True)
        panel.tick_params(length=2, labelsize=6.5)
    return drawn


def _draw_window(figure: Figure, panels: list[Axes], shown: Explanation) -> None:
    """Draw the whole window, with titles and scales."""
    from matplotlib.ticker import MaxNLocator

    drawn = _draw_maps(panels, shown)
    for panel, (title, text) in zip(panels, TITLES.items(), strict=True):
        panel.set_title(f"{title}\n", fontsize=10)
        panel.text(0, 1.03, text, transform=panel.transAxes, color=GRAY, fontsize=8)
        _square(panel, _position(shown, shown.pixel), _half(shown) + 0.5, INK if panel is panels[0] else "white")
    names = "numbers: ids of the objects" if shown.has_ids else "A, B: the two nearest objects"
    for panel, image, name in zip(panels, drawn, (names, "$d_1$, pixels", "$d_2$, pixels", "$w$"), strict=True):
        extend = "max" if panel in panels[1:3] else "neither"
        bar = figure.colorbar(image, ax=panel, location="bottom", aspect=28, pad=0.03, extend=extend, label=name)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=7)
        bar.locator = MaxNLocator(6)
        bar.update_ticks()
        if panel is panels[0] and bar.solids is not None:  # only takes room, so that the panels are in line
            bar.solids.set_alpha(0)
            bar.ax.tick_params(labelcolor="none")
    _name_objects(panels[0], shown)


def _name_objects(panel: Axes, shown: Explanation) -> None:
    """Write ids on objects that are large enough; where the labels have none, the names of the nearest two."""
    from scipy.ndimage import distance_transform_edt

    names = {n.label: name for n, name in zip(shown.nearest, NAMES, strict=False)}
    ids, sizes = np.unique(shown.labels[shown.labels > 0], return_counts=True)
    for label in ids[sizes >= NAMED_PIXELS]:
        name = str(label) if shown.has_ids else names.get(int(label), "")
        depth = distance_transform_edt(np.pad(shown.labels == label, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        panel.text(shown.corner[1] + x, shown.corner[0] + y, name, ha="center", va="center", fontsize=7)


def _draw_close_up(_: Figure, panels: list[Axes], shown: Explanation) -> None:
    """Draw the surroundings of the worked pixel, with the lines to the nearest two objects."""
    _draw_maps(panels, shown)
    half, (y, x) = _half(shown), _position(shown, shown.pixel)
    for panel, lines in zip(panels, ((0, 1), (0,), (1,), ()), strict=True):
        panel.set_xlim(x - half - 0.5, x + half + 0.5)
        panel.set_ylim(y + half + 0.5, y - half - 0.5)
        _square(panel, (y, x), 0.5, INK if panel is panels[0] else "white", width=1.6)
        for n in lines:
            if n < len(shown.nearest):
                _line(panel, shown, n)
    panels[0].set_title("the square, enlarged", fontsize=8, fontweight="normal", color=GRAY)
    _note(panels[3], (y - 0.1 * half - 1, x), f"$w$ = {shown.weights[shown.pixel]:.2f}", INK)


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


def _square(panel: Axes, at: tuple[int, int], half: float, colour: str, *, width: float = 1.2) -> None:
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
    marked = f"The marked pixel, y {y}, x {x} of {shown.place}"
    texts = [
        panel.text(0, 1, marked, fontsize=10, fontweight="bold", va="top"),
        panel.text(0, 0.76, _distances(shown), fontsize=9, va="top"),
        panel.text(0, 0.52, shown.formula.words(), fontsize=9, va="top"),
        panel.text(0, 0.14, shown.formula.symbols(), fontsize=11, va="center", color=GRAY),
        panel.text(0.36, 0.14, shown.formula.numbers(d1, d2), fontsize=11, va="center"),
    ]
    for text in texts:
        text.set_in_layout(False)  # a long one does not squeeze the panels


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
