"""Training curves: the same rows give the same picture, with and without validation."""

import math

import pytest

from tests.conftest import read_png
from unetcli.errors import InputError
from unetcli.report.curves import draw_curves
from unetcli.report.figures import DPI


def _rows(n, *, validated=True):
    rows = [{"step": 100 * k, "learning_rate": 1e-3, "loss": math.exp(-k)} for k in range(1, n + 1)]
    scores = ("validation_loss", "validation_pixel_error", "validation_iou")
    return [row | (dict.fromkeys(scores, 0.5 / row["step"]) if validated else {}) for row in rows]


@pytest.mark.parametrize("n", [1, 12, 60])
@pytest.mark.parametrize("validated", [True, False])
def test_size_and_metadata(tmp_path, n, validated):
    draw_curves(_rows(n, validated=validated), tmp_path / "curves.png")
    size, info, picture = read_png(tmp_path / "curves.png")
    assert size == ((10.4 if validated else 5.6) * DPI, 4 * DPI)
    assert set(info) <= {"dpi"}
    assert picture.std() > 1
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_same_rows_same_bytes_whatever_the_users_style(tmp_path):
    import matplotlib

    draw_curves(_rows(5), tmp_path / "a.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "savefig.dpi": 30}):
        draw_curves(_rows(5), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_validated_now_and_then(tmp_path):
    draw_curves([*_rows(3, validated=False), *_rows(6)[3:]], tmp_path / "curves.png")
    assert read_png(tmp_path / "curves.png")[0][0] == 10.4 * DPI


def test_without_rows(tmp_path):
    with pytest.raises(InputError, match="nothing to draw"):
        draw_curves([], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
