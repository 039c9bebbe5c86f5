"""Training curves: the same rows give the same picture, with and without validation."""

import math

import pytest

from tests.conftest import read_png
from unetcli.errors import InputError
from unetcli.report.curves import Panel, draw_curves
from unetcli.report.figures import DPI

IOU = Panel("IoU and Dice", {"IoU": "validation_iou", "Dice": "validation_dice"}, "higher")
ERROR = Panel("Pixel error", {"Pixel error": "validation_pixel_error"}, "lower")
CLASSES = Panel("IoU of each class", {f"class {k}": f"validation_iou_{k}" for k in range(12)}, "higher")


def _rows(n, *, validated=True):
    rows = [{"step": 100 * k, "learning_rate": 1e-3, "loss": math.exp(-k)} for k in range(1, n + 1)]
    names = ["validation_loss", *(column for panel in (IOU, ERROR, CLASSES) for column in panel.lines.values())]
    return [row | (dict.fromkeys(names, 0.5 / row["step"]) if validated else {}) for row in rows]


@pytest.mark.parametrize("n", [1, 12, 60])
@pytest.mark.parametrize(
    ("panels", "columns"), [([], 0), ([IOU, ERROR], 1), ([IOU, CLASSES, ERROR, ERROR], 2)], ids=["none", "two", "four"]
)
def test_size_and_metadata(tmp_path, n, panels, columns):
    draw_curves(_rows(n, validated=bool(panels)), panels, tmp_path / "curves.png")
    size, info, picture = read_png(tmp_path / "curves.png")
    assert size[0] == pytest.approx((5.2 + 4.8 * columns) * DPI)
    assert set(info) <= {"dpi"}
    assert picture.std() > 1
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_same_rows_same_bytes_whatever_the_users_style(tmp_path):
    import matplotlib

    draw_curves(_rows(5), [IOU], tmp_path / "a.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "savefig.dpi": 30}):
        draw_curves(_rows(5), [IOU], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_validated_now_and_then(tmp_path):
    draw_curves([*_rows(3, validated=False), *_rows(6)[3:]], [IOU, ERROR], tmp_path / "curves.png")
    assert read_png(tmp_path / "curves.png")[0][0] == 10.0 * DPI


def test_without_rows(tmp_path):
    with pytest.raises(InputError, match="nothing to draw"):
        draw_curves([], [], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
