"""Pictures: the same input gives the same bytes, and colours lie where prediction and truth differ."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from unetcli.errors import InputError
from unetcli.report.pictures import (
    ADDED,
    DPI,
    MISSED,
    OUTLINE,
    SheetSample,
    draw_curves,
    draw_labels,
    draw_sheet,
    overlay,
    to_gray,
    to_png_data_uri,
)


def _rows(n, *, validated=True):
    rows = [{"step": 100 * k, "learning_rate": 1e-3, "loss": math.exp(-k)} for k in range(1, n + 1)]
    scores = ("validation_loss", "validation_pixel_error", "validation_iou")
    return [row | (dict.fromkeys(scores, 0.5 / row["step"]) if validated else {}) for row in rows]


def _sample(k=0, *, shape=(32, 40)):
    y, x = shape
    labels = np.zeros(shape, int)
    labels[4:12, 5:20], labels[12:20, 5:20] = 1, 2  # they touch
    grid = np.stack(np.meshgrid(np.linspace(0, y - 1, 9), np.linspace(0, x - 1, 9), indexing="ij"))
    image = np.random.default_rng(k).normal(100, 10, (2, *shape))
    return SheetSample(f"sample {k}", image, labels, 1.0 + labels, grid + np.sin(grid[::-1]), image)


def _png(path):
    with Image.open(path) as picture:
        return picture.size, picture.info, np.asarray(picture.convert("RGB"))


def _from_uri(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def _colour(text):
    return np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)], float)


def _nearest(pixel):
    """Name the colour whose direction from gray the pixel has."""
    tint = pixel - pixel.mean()
    cosine = {}
    for name in (MISSED, ADDED, OUTLINE):
        pure = _colour(name) - _colour(name).mean()
        cosine[name] = tint @ pure / (np.linalg.norm(tint) * np.linalg.norm(pure))
    return max(cosine, key=cosine.get)


class TestDrawCurves:
    @pytest.mark.parametrize("n", [1, 12, 60])
    @pytest.mark.parametrize("validated", [True, False])
    def test_size_and_metadata(self, tmp_path, n, validated):
        draw_curves(_rows(n, validated=validated), tmp_path / "curves.png")
        size, info, picture = _png(tmp_path / "curves.png")
        assert size == ((10.4 if validated else 5.6) * DPI, 4 * DPI)
        assert set(info) <= {"dpi"}
        assert picture.std() > 1
        assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]

    def test_same_rows_same_bytes_whatever_the_users_style(self, tmp_path):
        import matplotlib

        draw_curves(_rows(5), tmp_path / "a.png")
        with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "savefig.dpi": 30}):
            draw_curves(_rows(5), tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_validated_now_and_then(self, tmp_path):
        draw_curves([*_rows(3, validated=False), *_rows(6)[3:]], tmp_path / "curves.png")
        assert _png(tmp_path / "curves.png")[0][0] == 10.4 * DPI

    def test_without_rows(self, tmp_path):
        with pytest.raises(InputError, match="nothing to draw"):
            draw_curves([], tmp_path / "curves.png")
        assert not list(tmp_path.iterdir())


class TestDrawSheet:
    @pytest.mark.parametrize("n", [1, 5])
    def test_all_columns(self, tmp_path, n):
        draw_sheet([_sample(k) for k in range(n)], tmp_path / "a.png")
        draw_sheet([_sample(k) for k in range(n)], tmp_path / "b.png")
        (x, y), info, _ = _png(tmp_path / "a.png")
        assert x > 1400
        assert y > 250 * n
        assert set(info) <= {"dpi"}
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_only_image_and_labels(self, tmp_path):
        sample = SheetSample("flat", np.zeros((9, 7), np.uint8), np.zeros((9, 7), int))
        draw_sheet([sample] * 12, tmp_path / "sheet.png")
        assert _png(tmp_path / "sheet.png")[2].std() > 1

    def test_columns_that_some_samples_lack(self, tmp_path):
        bare = SheetSample("bare", _sample().image, _sample().labels)
        draw_sheet([bare, _sample()], tmp_path / "sheet.png")
        assert _png(tmp_path / "sheet.png")[0][0] > 1400

    def test_a_grid_that_does_not_deform_is_straight(self, tmp_path):
        sample, (y, x) = _sample(), (32, 40)
        still = np.stack(np.meshgrid(np.arange(y), np.arange(x), indexing="ij")).astype(float)
        draw_sheet([SheetSample("still", sample.image, sample.labels, grid=still)], tmp_path / "sheet.png")
        picture = _png(tmp_path / "sheet.png")[2].astype(float)
        blue = picture[..., 2] - picture[..., 0] > 30  # the image is gray, the outline yellow
        assert blue.sum(axis=0).max() > 200  # a line fills its row or column of pixels
        assert blue.sum(axis=1).max() > 200

    @pytest.mark.parametrize("n", [0, 13])
    def test_number_of_samples(self, tmp_path, n):
        with pytest.raises(InputError, match=f"{n} samples"):
            draw_sheet([_sample()] * n, tmp_path / "sheet.png")


class TestOverlay:
    def test_colours_lie_where_truth_and_prediction_differ(self):
        image = np.random.default_rng(0).integers(0, 255, (24, 24)).astype(np.uint16)
        truth, prediction = np.zeros((2, 24, 24), int)
        truth[2:14, 2:14] = 7
        prediction[8:20, 2:14] = 3
        picture = overlay(image, truth, prediction).astype(float)
        colourless = np.ptp(picture, axis=2) == 0
        inner = np.zeros((24, 24), bool)
        inner[9:13, 3:13] = True  # both, off the outline
        assert colourless[inner].all()
        assert colourless[(truth == 0) & (prediction == 0)].all()
        assert (picture[inner][:, 0] == to_gray(image)[inner]).all()
        assert {_nearest(pixel) for pixel in picture[(truth > 0) & (prediction == 0)]} == {MISSED}
        assert {_nearest(pixel) for pixel in picture[(truth == 0) & (prediction > 0)]} == {ADDED}
        assert {_nearest(pixel) for pixel in picture[13, 2:14]} == {OUTLINE}

    def test_touching_objects_of_the_truth_are_parted(self):
        truth = np.repeat([[1, 1, 1, 2, 2, 2]], 6, axis=0)
        picture = overlay(np.full((6, 6), 5.0), truth, truth > 0)
        assert (np.ptp(picture, axis=2) > 0)[0].tolist() == [False, False, True, True, False, False]

    def test_shapes_differ(self):
        with pytest.raises(InputError, match="shapes"):
            overlay(np.zeros((4, 4)), np.zeros((4, 5), int), np.zeros((4, 4), int))


def test_to_gray_fills_the_range_and_averages_channels():
    image = np.stack([np.arange(100.0).reshape(10, 10)] * 2) * 1e4 - 5
    gray = to_gray(image)
    assert gray.shape == (10, 10)
    assert (gray.min(), gray.max()) == (0, 255)
    assert (to_gray(np.full((3, 4), 9)) == 128).all()
    assert to_gray(image / 2, like=image).max() < 130


def test_to_gray_needs_a_plane():
    with pytest.raises(InputError, match="expected"):
        to_gray(np.zeros((1, 1, 4, 4)))


def test_draw_labels_parts_touching_objects():
    assert draw_labels(np.array([[1, 1, 2, 0]])).tolist() == [[255, 255, 0, 0]]
    assert draw_labels(np.ones((2, 2), bool)).all()


class TestToPngDataUri:
    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
    def test_small_pictures_come_back(self, dtype):
        array = np.eye(5, dtype=dtype)
        factor = 1 if dtype == np.uint8 else 255
        np.testing.assert_array_equal(_from_uri(to_png_data_uri(array)), factor * np.eye(5))

    def test_large_pictures_are_reduced(self):
        assert _from_uri(to_png_data_uri(np.zeros((300, 900, 3), np.uint8), max_side=90)).shape == (30, 90, 3)
        assert _from_uri(to_png_data_uri(np.zeros((2, 4000), np.uint8))).shape == (1, 512)

    @pytest.mark.parametrize("array", [np.zeros((2, 2), int), np.full((2, 2), 1.5), np.full((2, 2), np.nan)])
    def test_what_is_no_picture(self, array):
        with pytest.raises(InputError, match="picture"):
            to_png_data_uri(array)
