"""Where training patches lie: every pixel of the foreground can be drawn, and whatever is drawn is in the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Pixels, cells
from tests.test_sampling import example
from tests.training.test_batches import maker
from unetcli.config import PrepConfig, TrainConfig, WeightsConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.dataset import open_dataset
from unetcli.image.density import count_classes
from unetcli.image.tiling import Box
from unetcli.sampling import Example
from unetcli.stages import prep, weights
from unetcli.training.places import Foreground, Places, mirrored_note, open_planes
from unetcli.training.validation import _position


class Data:
    """A data set of three classes."""

    label_kind = "classes"
    classes = ("background", "a", "b")


def labelled(classes, weights=None):
    """Return an example of classes (z, y, x)."""
    classes = np.asarray(classes, np.uint8)[None, None]
    maps = None if weights is None else Pixels(np.asarray(weights, np.float32)[None, None])
    return Example("a", Pixels(classes.astype(np.float32)), Pixels(classes), weights=maps)


@pytest.mark.parametrize("ndim", [2, 3])
@settings(max_examples=10)
@given(st.integers(0, 99), st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)), st.booleans())
def test_each_pixel_of_a_class_has_one_number(ndim, seed, shape, weighted):
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(0, 3, shape) for _ in range(2)]
    arrays[0].flat[0] = 1  # there is some
    maps = [rng.integers(0, 2, shape) if weighted else np.ones(shape) for _ in arrays]
    maps[0].flat[0] = 1
    items = [labelled(a, w if weighted else None) for a, w in zip(arrays, maps, strict=True)]
    planes = [(item, 0, z) for item in items for z in (range(shape[0]) if ndim == 2 else [0])]
    foreground = Foreground.of(planes, Data(), ndim, workers=2)
    for chosen in foreground.classes:
        found = [foreground.pixel(chosen, n) for n in range(foreground.plane_ends[-1, chosen])]
        named = [(plane // (shape[0] if ndim == 2 else 1), *pixel) for plane, pixel in found]
        expected = [
            (i, *map(int, at))
            for i, (a, w) in enumerate(zip(arrays, maps, strict=True))
            for at in np.argwhere((a == chosen) & (w > 0))
        ]
        assert sorted(named) == expected


@given(st.integers(0, 99), st.tuples(st.integers(1, 80), st.integers(1, 80)))
def test_classes_are_counted_in_blocks(seed, shape):
    rng = np.random.default_rng(seed)
    classes, counted = rng.integers(0, 3, shape), rng.random(shape) < 0.5
    for mask in (None, counted):
        found = count_classes(classes, mask, 3)
        for c, row, column in np.ndindex(found.shape):
            part = slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32)
            is_class = (classes[part] == c) & (True if mask is None else mask[part])
            assert found[c, row, column] == is_class.sum()


def places_of(planes, ndim=2, **changes):
    return Places.of(planes, TrainConfig(**changes), Data(), ndim, workers=2)


def rare():
    """Return a plane with 2,000 pixels of one class and 4 of another."""
    classes = np.zeros((1, 200, 200))
    classes[0, :40, :50], classes[0, 150:152, 170:172] = 1, 2
    return labelled(classes)


def test_a_share_of_the_patches_is_centred_on_the_foreground_and_rare_classes_come_as_often():
    places = places_of([(rare(), 0, 0)], sampling="foreground", foreground_share=0.5)
    centres = [places.draw(np.random.default_rng(k), (1, 1, 1), (0, 0, 0))[2] for k in range(1000)]
    drawn = [int(rare().truth.pixels[0, 0][at]) for at in centres]
    assert drawn.count(2) / 1000 == pytest.approx(0.25, abs=0.04)
    assert drawn.count(1) / 1000 == pytest.approx(0.25 + 0.5 * 0.05, abs=0.04)
    assert drawn.count(0) / 1000 == pytest.approx(0.475, abs=0.05)


def test_planes_are_drawn_by_their_pixels():
    planes = [(example((1, 2, 1, 10, 10), "small"), 0, 0), (example((1, 2, 1, 30, 30), "larger"), 0, 0)]
    places = places_of(planes)
    drawn = [places.draw(np.random.default_rng(k), (1, 8, 8), (0, 0, 0))[0].name for k in range(500)]
    assert drawn.count("small") / 500 == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("sampling", ["uniform", "foreground"])
@pytest.mark.parametrize(
    ("shape", "patch", "margin"),
    [
        ((1, 60, 70), (1, 32, 32), (0, 0, 0)),
        ((1, 60, 70), (1, 60, 60), (0, 8, 8)),
        ((20, 30, 40), (8, 16, 16), (2, 4, 4)),
    ],
    ids=["same", "valid", "volume"],
)
def test_the_output_of_a_patch_lies_in_the_image_and_reaches_its_edges(shape, patch, margin, sampling):
    ndim = 2 if shape[0] == 1 else 3
    places = places_of([(labelled(np.ones(shape)), 0, 0)], ndim, sampling=sampling)
    origins = np.array([places.draw(np.random.default_rng(k), patch, margin)[2] for k in range(400)])
    first, last = (origins + margin), origins + patch - margin
    assert first.min(axis=0).tolist() == [0, 0, 0]
    assert last.max(axis=0).tolist() == list(shape)


@pytest.mark.parametrize(
    ("item", "changes", "error", "said"),
    [
        (rare(), {"sampling": "map"}, ConfigError, "--sampling map: the weights have none"),
        (labelled(np.zeros((1, 40, 40))), {"sampling": "foreground"}, InputError, "show background only"),
        (labelled(np.ones((1, 40, 40)), np.zeros((1, 40, 40))), {}, InputError, "the weights are 0 in all"),
    ],
    ids=["no map", "no foreground", "no weights"],
)
def test_what_can_not_be_drawn_is_said(item, changes, error, said):
    with pytest.raises(error, match=said):
        places_of([(item, 0, 0)], **changes)


def test_nothing_to_train_on(tmp_path, instances):
    with pytest.raises(InputError, match="no training images"):
        Places.of([], TrainConfig(), open_dataset(instances), 2, workers=1)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Return a volume with object ids, planes 12 to 15 for validation, and its weights with a sampling map."""
    folder = tmp_path_factory.mktemp("volume")
    for name, array in zip(("i.npy", "l.npy"), cells((16, 40, 44), 1), strict=True):
        np.save(folder / name, array)
    config = PrepConfig(axes="zyx", pixel_size="2,1,1um", split="12-15")
    prep.run([folder / "i.npy"], folder / "d", config, labels=[folder / "l.npy"])
    weights.run(folder / "d", folder / "w", WeightsConfig(sampling=0.1))
    return folder / "d", folder / "w"


def test_planes_kept_for_validation_are_a_volume_of_their_own(volume):
    dataset = open_dataset(volume[0])
    (whole,) = (image.level.read(Box.whole(image.level.shape)) for image in dataset.images)
    for validation, part in ((False, slice(12)), (True, slice(12, 16))):
        ((found, t, z),) = open_planes(dataset, volume[1], 3, validation=validation)
        assert (t, z) == (0, 0)
        assert _position(found, 0, 3) == [f"z {(part.start or 0) + 3}"]
        np.testing.assert_array_equal(found.image.read(Box.whole(found.image.shape)), whole[:, :, part])
        assert found.truth.shape == found.target.shape == found.weights.shape == (1, 1, *whole[0, 0, part].shape)
        assert found.density.blocks.shape[2] == found.image.shape[2]
        assert found.image.axes.spacing == (2, 1, 1)


@pytest.mark.parametrize("sampling", ["uniform", "map", "foreground"])
def test_batches_of_volumes(volume, sampling):
    made = maker(*volume, ndim=3, patch_size="8,16,12", sampling=sampling, margin=1, batch_size=2)
    image, target, weight = made.make(0)
    assert (image.shape, target.shape, weight.shape) == ((2, 1, 8, 16, 12), (2, 6, 14, 10), (2, 6, 14, 10))
    assert set(target.unique().tolist()) <= {0, 1}
    assert weight.min() > 0


def test_a_batch_is_a_cut_of_a_volume_where_nothing_is_varied(volume):
    still = {"elastic": 0, "rotation": 0, "scaling": 1, "flip": False, "contrast": 1, "brightness": 0, "gamma": 0}
    made = maker(volume[0], ndim=3, patch_size="8,16,12", batch_size=1, noise=0, **still)
    (sample,), mean, std = made.samples(3), *made.dataset.normalization()
    (z, y, x), batch = sample.origin, made.make(3)
    cut = np.s_[0, 0, z : z + 8, y : y + 16, x : x + 12]
    example = made.places.planes[0][0]
    image, truth = (source.read(Box.whole(source.shape)) for source in (example.image, example.truth))
    np.testing.assert_allclose(batch.image[0, 0], (image[cut] - mean[0]) / std[0], atol=1e-5)
    np.testing.assert_array_equal(batch.target[0], truth[cut] > 0)


def test_volumes_thinner_than_a_patch_are_mirrored_and_said(volume):
    made = maker(volume[0], ndim=3, patch_size="32,16,16", batch_size=1)
    assert made.make(0).image.shape == (1, 1, 32, 16, 16)
    (note,) = mirrored_note(made.places.planes, (32, 16, 16))
    assert note.startswith("the training volume is (")
    assert mirrored_note(made.places.planes, (12, 16, 16)) == []
