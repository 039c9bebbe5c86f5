"""Pictures: colours lie where prediction and truth differ, and gray values keep their order."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from unetcli.errors import InputError
from unetcli.report.pictures import (
    ADDED,
    MERGED,
    MISSED,
    OUTLINE,
    SPLIT,
    draw_error_types,
    draw_labels,
    find_error_types,
    overlay,
    to_gray,
    to_png_data_uri,
)


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


def _ids(*rows):
    """Ids by letters; a dot is background. Ids are huge and have gaps."""
    return np.array([[0 if letter == "." else 1000 * ord(letter) + 2**40 for letter in row] for row in rows])


def drawn(truth, prediction, image):
    return draw_error_types(find_error_types(truth, prediction), truth, image)


class TestErrorTypes:
    TRUTH = ("aaaaa.bb.cc..dd",
             "aaaaa.bb.cc..dd")  # fmt: skip
    PREDICTION = ("pp.qq.rrrrr.s..",
                  "pp.qq.rr.rr.s..")  # fmt: skip
    TYPES = ("ss-ss.mm+mm.+--",
             "ss-ss.mm.mm.+--")  # fmt: skip

    def test_by_hand(self):
        found = find_error_types(_ids(*self.TRUTH), _ids(*self.PREDICTION))
        for letter, mask in zip("sm+-", (found.split, found.merged, found.added, found.missed), strict=True):
            np.testing.assert_array_equal(mask, [[each == letter for each in row] for row in self.TYPES])
        assert found.describe() == "Objects: 4 true, 4 predicted; 1 split, 1 merging, 1 false positive, 1 missed"

    @pytest.mark.parametrize(
        ("truth", "prediction", "split", "merged"),
        [
            ("aaaaaaaaaabbbbbbbbbb", "pppppppppppqqqqqqqqq", 0, 0),
            ("aaaaaaaaaabbbbbbbbbb", "ppppppppppppqqqqqqqq", 1, 1),
            ("aaaaaaaaaaaaaaaaaaaa", "ppppppppppppppppppq.", 1, 0),
            ("aaaaaaaaaa.bb.......", "pppp.qqqqqqqq.......", 1, 1),
            ("aaaa................", "....................", 0, 0),
            ("....................", "pppp................", 0, 0),
        ],
        ids=["a-tenth-is-not-more", "more-than-a-tenth", "crumb", "both", "no-prediction", "no-truth"],
    )
    def test_what_counts_as_covered(self, truth, prediction, split, merged):
        found = find_error_types(_ids(truth), _ids(prediction))
        assert (found.n_split, found.n_merged) == (split, merged)
        assert found.merged.any() == bool(merged)

    def test_each_wrong_pixel_has_one_type(self):
        rng = np.random.default_rng(0)
        truth, prediction = (np.kron(rng.integers(0, 5, (8, 8)), np.ones((3, 3), int)) for _ in range(2))
        found = find_error_types(truth, prediction)
        n_types = sum(mask.astype(int) for mask in (found.split, found.merged, found.added, found.missed))
        assert n_types.max() == 1
        np.testing.assert_array_equal(found.added | found.missed, (truth > 0) != (prediction > 0))

    @pytest.mark.parametrize("image", [None, np.full((2, 15), 7.0)], ids=["truth-beneath", "image-beneath"])
    def test_colours(self, image):
        picture = drawn(_ids(*self.TRUTH), _ids(*self.PREDICTION), image).astype(float)
        colours = {"s": SPLIT, "m": MERGED, "+": ADDED, "-": MISSED}
        for y, x in ((0, 2), (1, 12), (1, 13)):
            distance = {k: np.abs(picture[y, x] - _colour(v)).sum() for k, v in colours.items()}
            assert min(distance, key=distance.get) == self.TYPES[y][x]

    def test_what_is_right_is_untouched_but_for_outlines(self):
        truth = np.zeros((7, 7), int)
        truth[1:6, 1:6] = 3
        picture = drawn(truth, truth * 2, np.arange(49).reshape(7, 7))
        assert (picture[2:5, 2:5] == to_gray(np.arange(49).reshape(7, 7))[2:5, 2:5, None]).all()
        assert (picture[1, 1:6] > 200).all()

    def test_shapes_differ(self):
        with pytest.raises(InputError, match="shapes"):
            find_error_types(np.zeros((4, 4), int), np.zeros((4, 5), int))
        with pytest.raises(InputError, match="shapes"):
            drawn(np.zeros((4, 4), int), np.zeros((4, 4), int), np.zeros((5, 4)))


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
