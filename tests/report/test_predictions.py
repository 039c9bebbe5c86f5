"""Sheets of predictions: one row each, every pixel shown, colours that are explained."""

import numpy as np
import pytest

from tests.conftest import read_png
from unetcli.errors import InputError
from unetcli.report.pictures import ADDED, CONFUSED, MISSED, class_colour, draw_classes, draw_errors
from unetcli.report.predictions import MAX_PREDICTIONS, Prediction, draw_predictions


def prediction(shape, *, channels=1, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (channels, *shape)).astype(np.uint8)
    truth, predicted = rng.integers(-1, classes, shape), rng.integers(0, classes, shape)
    return Prediction(f"img_{seed}", "worst", (0, 512), image, truth, predicted, 0.5)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([prediction((512, 512))], ("background", "cell")),
        ([prediction((40, 60), seed=k) for k in range(4)], ("background", "cell")),
        ([prediction((64, 48), channels=3, classes=9)], tuple("abcdefghi")),
        ([prediction((1, 1)), prediction((7, 90), channels=2)], ("background", "cell")),
        ([prediction((64, 64), classes=40)], tuple(f"class number {k}" for k in range(40))),
    ],
    ids=["a large tile", "several", "nine classes in colour", "tiny", "forty classes"],
)
def test_each_pixel_is_shown(tmp_path, rows, names):
    draw_predictions(rows, names, "step 2 of 6", tmp_path / "sheet.png")
    (width, height), _, picture = read_png(tmp_path / "sheet.png")
    assert width >= 4 * max(row.truth.shape[1] for row in rows)
    assert height >= sum(row.truth.shape[0] for row in rows)
    assert picture.std() > 1
    draw_predictions(rows, names, "step 2 of 6", tmp_path / "again.png")
    assert (tmp_path / "sheet.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize("n", [0, MAX_PREDICTIONS + 1])
def test_number_of_rows(tmp_path, n):
    with pytest.raises(InputError, match=f"{n} predictions to draw"):
        draw_predictions([prediction((8, 8))] * n, ("a", "b"), "", tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


def rgb(colour):
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])


def test_classes_have_colours_of_their_own_and_none_is_that_of_an_error():
    classes = np.array([[-1, 0, 1, 2, 9, 10]])
    picture = draw_classes(classes)
    assert (picture[0] == [rgb(class_colour(k)) for k in (-1, 0, 1, 2, 9, 1)]).all()
    colours = [class_colour(k) for k in range(-1, 10)]
    assert len(set(colours)) == len(colours)
    assert not {MISSED, ADDED, CONFUSED} & set(colours)


def test_errors_are_told_apart_and_unknown_pixels_are_none():
    truth = np.array([[0, 1, 0, 1, 2, -1, -1]] * 3)
    predicted = np.array([[0, 1, 1, 0, 1, 1, 0]] * 3)
    picture = draw_errors(np.full((1, *truth.shape), 7.0), truth, predicted).astype(int)[1]
    gray = np.array([128, 128, 128])
    for x, colour in ((2, ADDED), (3, MISSED), (4, CONFUSED)):
        assert np.abs(picture[x] - (0.25 * gray + 0.75 * rgb(colour))).max() <= 1
    for x in (0, 5, 6):
        assert (picture[x] == gray).all()
