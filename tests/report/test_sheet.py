"""Sheets of samples: the same samples give the same picture, whatever they lack."""

import numpy as np
import pytest

from tests.conftest import read_png
from unetcli.errors import InputError
from unetcli.report.sheet import SheetSample, draw_sheet


def _sample(k=0, *, shape=(32, 40)):
    y, x = shape
    labels = np.zeros(shape, int)
    labels[4:12, 5:20], labels[12:20, 5:20] = 1, 2  # they touch
    grid = np.stack(np.meshgrid(np.linspace(0, y - 1, 9), np.linspace(0, x - 1, 9), indexing="ij"))
    image = np.random.default_rng(k).normal(100, 10, (2, *shape))
    return SheetSample(f"sample {k}", image, labels, 1.0 + labels, grid + np.sin(grid[::-1]), image)


@pytest.mark.parametrize("n", [1, 5])
def test_all_columns(tmp_path, n):
    draw_sheet([_sample(k) for k in range(n)], tmp_path / "a.png")
    draw_sheet([_sample(k) for k in range(n)], tmp_path / "b.png")
    (x, y), info, _ = read_png(tmp_path / "a.png")
    assert x > 1400
    assert y > 250 * n
    assert set(info) <= {"dpi"}
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_only_image_and_labels(tmp_path):
    sample = SheetSample("flat", np.zeros((9, 7), np.uint8), np.zeros((9, 7), int))
    draw_sheet([sample] * 12, tmp_path / "sheet.png")
    assert read_png(tmp_path / "sheet.png")[2].std() > 1


def test_columns_that_some_samples_lack(tmp_path):
    bare = SheetSample("bare", _sample().image, _sample().labels)
    draw_sheet([bare, _sample()], tmp_path / "sheet.png")
    assert read_png(tmp_path / "sheet.png")[0][0] > 1400


def test_a_grid_that_does_not_deform_is_straight(tmp_path):
    sample, (y, x) = _sample(), (32, 40)
    still = np.stack(np.meshgrid(np.arange(y), np.arange(x), indexing="ij")).astype(float)
    draw_sheet([SheetSample("still", sample.image, sample.labels, grid=still)], tmp_path / "sheet.png")
    picture = read_png(tmp_path / "sheet.png")[2].astype(float)
    blue = picture[..., 2] - picture[..., 0] > 30  # the image is gray, the outline yellow
    assert blue.sum(axis=0).max() > 200  # a line fills its row or column of pixels
    assert blue.sum(axis=1).max() > 200


def test_three_channels_are_colours(tmp_path):
    red = np.zeros((3, 20, 24), np.uint8)
    red[0, 5:15, 5:15] = 200
    draw_sheet([SheetSample("red", red, np.zeros((20, 24), int))], tmp_path / "sheet.png")
    picture = read_png(tmp_path / "sheet.png")[2].astype(int)
    assert ((picture[..., 0] > 250) & (picture[..., 1:].max(axis=-1) < 5)).mean() > 0.05


def test_details_stand_above_the_sample_and_take_room(tmp_path):
    heights = []
    for details in ((), ("turned", "brighter")):
        sample = SheetSample("a", _sample().image, _sample().labels, details=details)
        draw_sheet([sample, sample], tmp_path / "sheet.png")
        heights.append(read_png(tmp_path / "sheet.png")[0][1])
    assert heights[1] > heights[0] + 100


def test_very_many_labels_leave_the_image_to_be_seen(tmp_path):
    labels = np.arange(60 * 60).reshape(60, 60)  # each pixel is an object
    draw_sheet([SheetSample("many", np.zeros((60, 60)), labels)], tmp_path / "sheet.png")
    picture = read_png(tmp_path / "sheet.png")[2].astype(int)
    assert not (np.abs(picture - [0xF0, 0xE4, 0x42]).max(axis=-1) < 10).any()


def test_a_sample_of_one_line_is_drawn_without_a_grid(tmp_path):
    red = np.zeros((3, 1, 30), np.uint8)
    red[0, :, 5:] = 255
    draw_sheet([SheetSample("line", red, red[0], grid=np.zeros((2, 1, 30)))], tmp_path / "sheet.png")
    picture = read_png(tmp_path / "sheet.png")[2].astype(int)
    reds = (picture[..., 0] > 200) & (picture[..., 1:3].max(axis=-1) < 50)
    assert reds[:, : reds.shape[1] // 2].any()
    assert reds[:, reds.shape[1] // 2 :].any()


def test_the_edge_of_the_original_is_drawn_where_it_came_to_lie(tmp_path):
    y, x = 40, 40
    shifted = np.stack(np.meshgrid(np.arange(y), np.arange(x) + 20.0, indexing="ij")).astype(float)
    image = np.zeros((y, x), np.uint8)
    draw_sheet([SheetSample("right half", image, image.astype(int), grid=shifted)], tmp_path / "sheet.png")
    picture = read_png(tmp_path / "sheet.png")[2].astype(int)
    blue = picture[..., 2] - picture[..., 0] > 40
    columns = np.nonzero(blue.any(axis=0))[0]
    panel = 0.5 * picture.shape[1]  # there are two: with the grid, with the labels
    assert columns.max() < 0.58 * panel  # nothing right of its middle, but for the width of the line


@pytest.mark.parametrize("n", [0, 13])
def test_number_of_samples(tmp_path, n):
    with pytest.raises(InputError, match=f"{n} samples"):
        draw_sheet([_sample()] * n, tmp_path / "sheet.png")
