"""The picture of a worked pixel: its numbers are those of the formula, and it can always be drawn."""

import math

import numpy as np
import pytest

from tests.conftest import read_png
from unetcli.report.explain import Explanation, Formula, Nearest, draw_explanation

PAPER = Formula(0.62, 10, 5)
PLUGIN = Formula(0.1, 50, 6, 0.9, 10)


def _explanation(nearest, *, formula=PAPER, has_ids=True, shape=(60, 70)):
    labels = np.zeros(shape, int)
    labels[5:25, 5:30], labels[30:50, 5:30] = 12, 7
    y, x = np.indices(shape)
    d1, d2 = np.hypot(y - 27, x - 20), np.full(shape, np.inf)
    return Explanation("a, z 3", (100, 200), labels, d1, d2, 1 + d1, (27, 20), nearest, has_ids, formula, 31.3)


@pytest.mark.parametrize("formula", [PAPER, PLUGIN], ids=["paper", "plugin"])
@pytest.mark.parametrize(
    "nearest",
    [(), (Nearest(12, 3.0, (24, 20)),), (Nearest(12, 3.0, (24, 20)), Nearest(7, 3.61, (30, 22), -2))],
    ids=["no object", "one object", "two objects"],
)
def test_the_same_input_gives_the_same_picture(tmp_path, nearest, formula):
    for name, has_ids in (("a", True), ("b", True), ("c", False)):
        draw_explanation(_explanation(nearest, formula=formula, has_ids=has_ids), tmp_path / f"{name}.png")
    (x, y), info, _ = read_png(tmp_path / "a.png")
    assert x > 1800
    assert y > 1100
    assert set(info) <= {"dpi"}
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 3)])
def test_windows_of_small_images(tmp_path, shape):
    zeros = np.zeros(shape)
    shown = Explanation("a", (0, 0), zeros.astype(int), zeros, zeros, zeros, (0, 0), (), True, PAPER, 20.0)
    draw_explanation(shown, tmp_path / "a.png")
    assert read_png(tmp_path / "a.png")[2].std() > 1


@pytest.mark.parametrize(
    ("formula", "d1", "d2", "ends"),
    [
        (PAPER, 2.2, 3.6, r"0.62 + 5.10 \;=\; \mathbf{5.72}$"),
        (PAPER, 2.2, math.inf, r"0.62 + 0.00 \;=\; \mathbf{0.62}$"),
        (PLUGIN, 2, 3, r"0.10 + 0.88 + 35.33 \;=\; \mathbf{36.31}$"),
        (PLUGIN, math.inf, math.inf, r"0.10 + 0.00 + 0.00 \;=\; \mathbf{0.10}$"),
    ],
)
def test_numbers_of_the_formula(formula, d1, d2, ends):
    text = formula.numbers(d1, d2)
    assert text.endswith(ends)
    assert "inf" not in text
    assert all(symbol in formula.symbols() for symbol in ("w_0", r"\sigma"))
