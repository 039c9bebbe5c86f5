"""A sample is a function of the seed and its number alone, and all its parts share one field."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tests.conftest import Pixels
from unetcli.config import DeformConfig
from unetcli.errors import InputError
from unetcli.image.axes import Axes, Channel
from unetcli.image.dataset import TARGET, TRUTH, open_dataset
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata
from unetcli.image.source import read_mirrored
from unetcli.image.tiling import Box
from unetcli.sampling import Example, draw_sample, examples

PLAIN = {"contrast": 1, "brightness": 0, "gamma": 0, "noise": 0}
STILL = {"elastic": 0, "rotation": 0, "scaling": 1, "shift": 0, "flip": False}
ONE = np.ones(2, np.float32)
NONE = np.zeros(2, np.float32)
ALL = DeformConfig(elastic=4, shift=5, blur=1.5)


def example(shape=(1, 2, 1, 60, 70), name="a"):
    rng = np.random.default_rng(len(name))
    image = rng.normal(100, 20, shape).astype("float32")
    labels = rng.integers(0, 5, (shape[0], 1, *(-(-n // 6) for n in shape[2:])))
    for axis in (2, 3, 4):
        labels = labels.repeat(6, axis).take(range(shape[axis]), axis)
    return Example(name, Pixels(image), Pixels(labels), weights=Pixels(image[:, :1]))


def normalization(sample):
    """Return mean and std of each channel."""
    n = sample.example.image.shape[1]
    return np.full(n, 100, np.float32), np.full(n, 20, np.float32)


def render(sample, start=None, stop=None):
    """Return all parts of a sample."""
    start, stop = start or (0, 0, 0), stop or sample.shape
    image, (labels,), weights = sample.render(start, stop, *normalization(sample), [sample.example.truth])
    return image, labels, weights


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.tobytes() == y.tobytes()


CASES = [
    pytest.param((1, 2, 1, 60, 70), None, 2, id="plane"),
    pytest.param((1, 2, 4, 60, 70), 32, 2, id="patch"),
    pytest.param((1, 2, 1, 20, 70), 32, 2, id="larger than the image"),
    pytest.param((2, 2, 8, 30, 20), None, 3, id="volume"),
    pytest.param((1, 2, 20, 30, 30), 12, 3, id="patch of a volume"),
]


@pytest.mark.parametrize(("shape", "size", "ndim"), CASES)
def test_a_sample_depends_on_seed_and_number_only(shape, size, ndim):
    planes = [(example(shape), t, z) for t in range(shape[0]) for z in range(shape[2] if ndim == 2 else 1)]
    first = {k: render(draw_sample(planes, ALL, 3, k, size, ndim)) for k in (0, 1, 7)}
    np.random.seed(5)  # noqa: NPY002 - the global generator does not matter
    for k in (7, 0, 1):
        assert_same(first[k], render(draw_sample(planes, ALL, 3, k, size, ndim)))
    others = [render(draw_sample(planes, ALL, seed, k, size, ndim))[0].tobytes() for seed in (3, 4) for k in range(3)]
    assert len(set(others)) == 6


@pytest.mark.parametrize(("shape", "size", "ndim"), CASES)
@settings(max_examples=8)
@given(st.data())
def test_any_part_is_the_same_part_of_the_whole(shape, size, ndim, data):
    sample = draw_sample([(example(shape), 0, 0)], ALL, 0, data.draw(st.integers(0, 5)), size, ndim)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in sample.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, sample.shape, strict=True))
    cut = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    whole = render(sample)
    assert whole[0].shape == (2, *sample.shape)
    assert_same([np.ascontiguousarray(part[(..., *cut)]) for part in whole], render(sample, start, stop))


@pytest.mark.parametrize(("shape", "size", "ndim"), CASES)
def test_image_labels_and_weights_share_the_field(shape, size, ndim):
    found = example(shape)
    found = Example(
        "a", Pixels(found.truth.pixels.astype("float32")), found.truth, weights=Pixels(found.truth.pixels > 2)
    )
    config = DeformConfig(**PLAIN, elastic=3, shift=4, interpolation="linear")  # which does not overshoot
    sample = draw_sample([(found, 0, 0)], config, 0, 1, size, ndim)
    image, labels, weights = render(sample)
    image = image[0] * 20 + 100
    pure = np.abs(image - labels) < 1e-3  # all pixels that were averaged have one label
    assert pure.mean() > 0.3
    assert (np.abs(weights - (labels > 2))[pure] < 0.01).mean() > 0.99
    assert np.abs(image - labels).max() <= 4 + 1e-3
    near = np.abs(weights - 0.5) > 0.3
    assert ((weights > 0.5) == (labels > 2))[near].mean() > 0.99
    assert labels.dtype == found.truth.dtype
    assert weights.dtype == np.float32


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("ndim", [2, 3])
def test_without_deformation_it_is_a_cut_of_the_image(k, ndim):
    found = example((2, 2, 6, 40, 50))
    sample = draw_sample([(found, 1, 4)], DeformConfig(**PLAIN, **STILL), 0, k, 6 if ndim == 3 else 16, ndim)
    image, labels, weights = render(sample)
    z, y, x = sample.origin
    depth, height, width = sample.shape
    assert (z, depth) == ((4, 1) if ndim == 2 else (0, 6))
    cut = Box((1, 0, z, y, x), (2, 2, z + depth, y + height, x + width))
    np.testing.assert_allclose(image, (found.image.read(cut)[0] - 100) / 20, atol=1e-5)
    np.testing.assert_array_equal(labels, found.truth.read(cut.replace(1, 0, 1))[0, 0])
    np.testing.assert_allclose(weights, found.weights.read(cut.replace(1, 0, 1))[0, 0], rtol=1e-6)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize(("shape", "size", "ndim"), CASES)
def test_labels_and_weights_may_be_asked_for_inside_only(shape, size, ndim, interpolation):
    found = example(shape)
    config = DeformConfig(elastic=4, shift=5, interpolation=interpolation)
    for k in range(5):
        sample = draw_sample([(found, 0, 0)], config, 0, k, size, ndim)
        whole = render(sample)
        inside = tuple(n // 4 for n in sample.shape), tuple(n - n // 4 for n in sample.shape)
        part = sample.render((0, 0, 0), sample.shape, NONE + 100, ONE * 20, [found.truth, found.truth], inside=inside)
        cut = tuple(slice(a, b) for a, b in zip(*inside, strict=True))
        assert part.image.tobytes() == whole[0].tobytes()
        assert [label.tobytes() for label in part.labels] == [whole[1][cut].tobytes()] * 2
        assert part.weights.tobytes() == whole[2][cut].tobytes()


def test_without_weights_and_labels_there_is_the_image_alone():
    found = example()
    sample = draw_sample([(replace(found, weights=None), 0, 0)], ALL, 0, 0, None, 2)
    image, labels, weights = sample.render((0, 0, 0), sample.shape, NONE + 100, ONE * 20)
    assert image.tobytes() == render(draw_sample([(found, 0, 0)], ALL, 0, 0, None, 2))[0].tobytes()
    assert (labels, weights) == ([], None)


def test_a_part_without_pixels_has_none():
    sample = draw_sample([(example(), 0, 0)], ALL, 0, 0, None, 2)
    image, labels, weights = render(sample, (0, 5, 6), (1, 5, 9))
    assert (image.shape, labels.shape, weights.shape) == ((2, 1, 0, 3), (1, 0, 3), (1, 0, 3))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 1, 1, 1, 40), (1, 1, 3, 40, 1), (1, 1, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("ndim", [2, 3])
def test_images_much_smaller_than_their_displacements(shape, ndim):
    found = Example("a", Pixels(np.full(shape, 7.0)), Pixels(np.full(shape, 3, np.uint32)), weights=None)
    config = DeformConfig(**PLAIN, elastic=50, shift=500)
    for k, size in enumerate((None, 16, None)):
        sample = draw_sample([(found, 0, 0)], config, 0, k, size, ndim)
        image, (labels,), _ = sample.render((0, 0, 0), sample.shape, NONE[:1], ONE[:1], [found.truth])
        np.testing.assert_allclose(image, 7, rtol=1e-5)
        assert (labels == 3).all()


def test_cubic_interpolation_keeps_more_of_fine_detail():
    found = example()
    config = {"elastic": 0, "scaling": 1, "shift": 3, "flip": False, **PLAIN}
    still = render(draw_sample([(found, 0, 0)], DeformConfig(**PLAIN, **STILL), 0, 0, None, 2))[0]
    spread = {
        kind: np.mean([
            render(draw_sample([(found, 0, 0)], DeformConfig(**config, interpolation=kind), 0, k, None, 2))[0].std()
            for k in range(5)
        ])
        for kind in ("linear", "cubic")
    }  # fmt: skip
    assert spread["linear"] < 0.8 * still.std()
    assert 1.1 * spread["linear"] < spread["cubic"] < still.std()


@pytest.mark.parametrize(
    ("grid", "ndim", "points"),
    [("3", 2, (1, 3, 3)), ("4,5", 2, (1, 4, 5)), ("3", 3, (3, 3, 3)), ("1,4,5", 3, (1, 4, 5))],
)
def test_each_axis_may_have_control_points_of_its_own(grid, ndim, points):
    found = example((1, 2, 6, 30, 40))
    assert draw_sample([(found, 0, 0)], DeformConfig(grid=grid), 0, 0, None, ndim).deformation.grid.shape[1:] == points


def test_a_deformation_is_the_same_in_space_whatever_the_pixel_size():
    found = example((1, 2, 6, 30, 40))
    spaced = replace(found, image=Pixels(found.image.pixels, axes=Axes.of("zyx", {"z": 2.5, "y": 1.0, "x": 0.5})))
    config = DeformConfig(shift=10)
    spacing = np.array([5, 2, 1])
    for k in range(10):
        plain, other = (draw_sample([(e, 0, 0)], config, 0, k, None, 3).deformation for e in (found, spaced))
        np.testing.assert_allclose(other.grid * spacing[:, None, None, None], plain.grid)
        np.testing.assert_allclose(other.offset * spacing, plain.offset)
        np.testing.assert_allclose(spacing[:, None] * other.matrix / spacing, plain.matrix, atol=1e-12)


def origins(planes, size, ndim, n=200):
    config = DeformConfig(**PLAIN, **STILL)
    return np.array([draw_sample(planes, config, 0, k, size, ndim).origin for k in range(n)])


def test_patches_lie_everywhere_in_a_plane():
    found = origins([(example((1, 2, 3, 40, 30)), 0, 2)], 16, 2)
    assert set(found[:, 0]) == {2}
    assert (found.min(0)[1:].tolist(), found.max(0)[1:].tolist()) == ([0, 0], [24, 14])


def test_patches_lie_everywhere_in_a_volume():
    found = origins([(example((1, 2, 20, 24, 22)), 0, 0)], 12, 3)
    assert found.min(0).tolist() == [0, 0, 0]
    assert found.max(0).tolist() == [8, 12, 10]


def test_a_patch_larger_than_the_image_lies_around_its_middle():
    assert set(map(tuple, origins([(example((1, 2, 1, 10, 21)), 0, 0)], 16, 2, n=20))) <= {(0, -3, x) for x in range(6)}


def test_images_are_drawn_by_their_area():
    planes = [(example((1, 2, 1, 10, 10), "small"), 0, 0), (example((1, 2, 1, 30, 30), "larger"), 0, 0)]
    drawn = [draw_sample(planes, ALL, 0, k, 8, 2).example.name for k in range(300)]
    assert 0.05 < drawn.count("small") / 300 < 0.16


def test_gray_values_vary_in_units_of_the_data_set():
    found = example()
    config = DeformConfig(**STILL, contrast=1, brightness=0, gamma=0, noise=0.5)
    sample = draw_sample([(found, 0, 0)], config, 0, 0, None, 2)
    still = draw_sample([(found, 0, 0)], DeformConfig(**STILL, **PLAIN), 0, 0, None, 2)
    difference = render(sample)[0] - render(still)[0]
    assert len(set(sample.gray.noise)) == 2
    np.testing.assert_allclose(difference.std(axis=(1, 2, 3)), sample.gray.noise, rtol=0.05)


@pytest.mark.parametrize(("shape", "size", "ndim"), CASES)
def test_blur_looks_beyond_the_edge_of_the_sample(shape, size, ndim):
    found = example(shape)
    sample = draw_sample([(found, 0, 0)], DeformConfig(**STILL, **{**PLAIN, "blur": 3.0}), 0, 2, size, ndim)
    o, n = sample.origin, sample.shape
    halo = sample.gray.halo((math.inf if ndim == 2 else 1, 1, 1))
    around = Box((0, 0, *np.subtract(o, halo)), (1, 2, *np.add(np.add(o, n), halo)))
    sharp = (read_mirrored(found.image, around)[0].astype(np.float32) - 100) / 20
    expected = [
        gaussian_filter(channel, sigma * np.sign(halo), radius=np.ceil(4 * sigma * np.sign(halo)).astype(int))
        for channel, sigma in zip(sharp, sample.gray.blur, strict=True)
    ]
    inside = tuple(slice(h, h + k) for h, k in zip(halo, n, strict=True))
    np.testing.assert_allclose(render(sample)[0], np.stack(expected)[(slice(None), *inside)], atol=1e-4)


def test_volumes_are_blurred_by_their_pixel_size():
    found = replace(example((1, 2, 20, 30, 30)), image=Pixels(example((1, 2, 20, 30, 30)).image.pixels))
    found.image.axes = Axes.of("tczyx", {"z": 4.0})
    sample = draw_sample([(found, 0, 0)], DeformConfig(**STILL, **{**PLAIN, "blur": 3.0}), 0, 2, None, 3)
    sharp = (found.image.pixels[0].astype(np.float32) - 100) / 20
    expected = [
        gaussian_filter(channel, (s / 4, s, s), mode="mirror", radius=np.ceil([s, 4 * s, 4 * s]).astype(int))
        for channel, s in zip(sharp, sample.gray.blur, strict=True)
    ]
    np.testing.assert_allclose(render(sample)[0], expected, atol=1e-4)


COLOURS = tuple(map(Channel, ("red", "green", "blue")))
STAINS = tuple(map(Channel, ("DAPI", "GFP", "actin")))


@pytest.mark.parametrize(
    ("channels", "chosen", "together"),
    [
        (COLOURS, None, True), (STAINS, None, False), ((), None, False), (COLOURS, "each", False),
        (STAINS, "together", True),
    ],
    ids=["colours", "stains", "no names", "colours, each", "stains, together"],
)  # fmt: skip
def test_channels_vary_together_if_they_are_colours(channels, chosen, together):
    found = replace(example(), image=Pixels(np.zeros((1, 3, 1, 40, 40), "float32"), channels=channels))
    gray = draw_sample([(found, 0, 0)], DeformConfig(vary_channels=chosen, blur=1), 0, 0, None, 2).gray
    for values in (gray.contrast, gray.brightness, gray.gamma, gray.noise, gray.blur):
        assert len(values) == 3
        assert len(set(values)) == (1 if together else 3)


# ------------------------------------------------------------------------------------------- data sets and weights


def write(path, shapes, labels, attributes, dtype="uint8"):
    """Write a store of images of zeros with labels of ones."""
    new = NewStore(path, stage="test", settings={}, inputs={})
    images = []
    for name, shape in shapes.items():
        group = name if len(shapes) > 1 else ""
        new.level(group, 0, Axes.of("yx"), shape, dtype)
        level = new.level(f"{group}/labels/{labels}".strip("/"), 0, Axes.of("yx"), shape, "uint8")
        level.write(Box.whole(shape), np.ones(shape, "uint8"))
        images.append(ImageMetadata(group, Axes.of("yx"), labels=(ImageMetadata(labels, Axes.of("yx"), classes={}),)))
    new.finish(images, attributes)
    return path


def dataset(path, shapes, label_kind="classes"):
    data = {"ndim": 2, "label_kind": label_kind, "classes": [], "statistics": [], "validation": {}}
    return open_dataset(write(path, shapes, TRUTH, {"data": data}))


A, B = (1, 1, 1, 8, 9), (1, 1, 1, 7, 7)


def test_images_get_their_weights_by_name(tmp_path):
    data = dataset(tmp_path / "d.zarr", {"a": A, "b": B})
    maps = write(tmp_path / "w.zarr", {"b": B, "a": A}, TARGET, {"weights": {}}, "float32")
    found = examples(data, maps)
    assert list(found) == ["a", "b"]
    for name, shape in (("a", A), ("b", B)):
        assert found[name].weights.shape == found[name].target.shape == found[name].truth.shape == shape
        assert found[name].target.read(Box.whole(shape)).all()


def test_one_image_gets_the_one_weight_map_whatever_its_name(tmp_path):
    data = dataset(tmp_path / "cells.zarr", {"cells": A})
    maps = write(tmp_path / "other.zarr", {"other": A}, TARGET, {"weights": {}}, "float32")
    assert examples(data, maps)["cells"].weights.shape == A


def test_without_weights_every_pixel_counts_the_same(tmp_path):
    (found,) = examples(dataset(tmp_path / "d.zarr", {"a": A}), None).values()
    assert found.weights is None
    assert found.target is None


@pytest.mark.parametrize(
    ("shapes", "attributes", "said"),
    [
        ({"a": A, "b": A}, {"weights": {}}, "weight map of b is 1x1x1x8x9; expected 1x1x1x7x7"),
        ({"a": A, "c": B}, {"weights": {}}, "weight map of b is none"),
        ({"a": A, "b": B}, {"data": {}}, "holds no weight maps"),
    ],
    ids=["size", "name", "kind"],
)
def test_weights_of_another_data_set_are_refused(tmp_path, shapes, attributes, said):
    data = dataset(tmp_path / "d.zarr", {"a": A, "b": B})
    with pytest.raises(InputError, match=said):
        examples(data, write(tmp_path / "w.zarr", shapes, TARGET, attributes))


def test_images_without_labels_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no labels"):
        examples(dataset(tmp_path / "d.zarr", {"a": A}, label_kind=None), None)
