import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.kernels import oracles
from tests.kernels.deformations import EVERYTHING, SHAPES, deform, layer, whole
from unetcli.errors import ConfigError
from unetcli.kernels.deformation import Deformation, random_deformation, source_box
from unetcli.kernels.warp import Layer, warp

NO_FIELD = np.zeros((3, 1, 3, 3))


def image_of(shape, channels=2, seed=0, dtype="float32"):
    return (np.random.default_rng(seed).normal(100, 20, (channels, *shape))).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16", "float64"])
def test_linear_warp_equals_map_coordinates(shape, dtype):
    for seed in range(10):
        deformation, image = deform(seed, shape), image_of(shape, seed=seed, dtype=dtype)
        (actual,) = warp(deformation, [layer(image, deformation, *whole(shape), 1)])
        at = oracles.source_positions(deformation)
        expected = [ndimage.map_coordinates(c.astype(float), at, order=1, mode="mirror") for c in image]
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 13, 18), (1, 1, 9), (1, 17, 1), (5, 6, 9), (2, 3, 1)], ids=str)
def test_cubic_warp_equals_the_sum_of_keys_kernel(shape):
    for seed in range(10):
        deformation, image = deform(seed, shape), image_of(shape, seed=seed)
        cut = layer(image, deformation, *whole(shape), 3)
        (actual,) = warp(deformation, [cut])
        at = oracles.source_positions(deformation) - np.reshape(cut.origin, (3, 1, 1, 1))
        expected = [oracles.convolved(channel.astype(float), at) for channel in cut.block]
        np.testing.assert_allclose(actual, expected, atol=3e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64", "bool"])
def test_labels_take_the_nearest_pixel(shape, dtype):
    for seed in range(5):
        deformation = deform(seed, shape)
        limit = 2 if dtype == "bool" else np.iinfo(dtype).max
        labels = np.random.default_rng(seed).integers(0, limit, (1, *shape), dtype="uint64").astype(dtype)
        cut = layer(labels, deformation, *whole(shape), 0)
        (actual,) = warp(deformation, [cut])
        at = np.floor(oracles.source_positions(deformation) + 0.5).astype(int) - np.reshape(cut.origin, (3, 1, 1, 1))
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual[0], cut.block[0][tuple(at)])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_identity_changes_nothing(shape, order):
    deformation = Deformation(shape, NO_FIELD, np.eye(3), np.zeros(3))
    image = image_of(shape)
    (actual,) = warp(deformation, [layer(image, deformation, *whole(shape), order)])
    np.testing.assert_array_equal(actual, image)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_flips_and_quarter_turns_are_exact(order):
    image = image_of((1, 21, 21))
    turns = {"flip": [[1, 0, 0], [0, -1, 0], [0, 0, 1]], "turn": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}
    for name, matrix in turns.items():
        deformation = Deformation((1, 21, 21), NO_FIELD, matrix, np.zeros(3))
        (actual,) = warp(deformation, [layer(image, deformation, *whole((1, 21, 21)), order)])
        np.testing.assert_array_equal(actual, image[:, :, ::-1] if name == "flip" else np.rot90(image, 1, (2, 3)))


@settings(max_examples=30)
@given(st.data())
def test_any_boxes_of_any_layers_in_one_pass_give_the_bytes_of_the_whole(data):
    shape = data.draw(st.sampled_from([(1, 31, 44), (1, 9, 300), (7, 12, 15), (1, 1, 1)]), label="shape")
    seed = data.draw(st.integers(0, 30), label="seed")
    deformation = deform(seed, shape)
    layers, expected = [], []
    for order, dtype in ((3, "float32"), (0, "uint32"), (1, "float32"), (0, "uint8"))[: data.draw(st.integers(1, 4))]:
        start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
        stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
        image = image_of(shape, seed=order, dtype=dtype)
        layers.append(layer(image, deformation, start, stop, order))
        (full,) = warp(deformation, [layer(image, deformation, *whole(shape), order)])
        expected.append(full[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))])
    for actual, part in zip(warp(deformation, layers), expected, strict=True):
        assert actual.tobytes() == part.tobytes()


def test_long_lines_and_many_control_points():
    shape = (1, 7, 1200)
    image = image_of(shape, 1)
    for points in (1, 2, 3, 40):
        deformation = random_deformation(np.random.default_rng(points), shape, grid=(1, 2, points), **EVERYTHING)
        (actual,) = warp(deformation, [layer(image, deformation, *whole(shape), 1)])
        at = oracles.source_positions(deformation)
        np.testing.assert_allclose(actual[0], ndimage.map_coordinates(image[0], at, order=1, mode="mirror"), atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 20, 30), (6, 20, 30)], ids=["plane", "volume"])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_far_outside_the_image_is_its_mirror_image(shape, order):
    deformation = deform(0, shape)
    period = 2 * (np.array(shape) - 1)
    away = Deformation(shape, deformation.grid, deformation.matrix, deformation.offset + period * [3, -5, 4])
    image = image_of(shape)
    near, far = (warp(d, [layer(image, d, *whole(shape), order)])[0] for d in (deformation, away))
    np.testing.assert_allclose(far, near, atol=2e-3)


@pytest.mark.parametrize("view", ["cut", "turned", "mirrored", "one channel"])
def test_a_block_may_be_a_view_of_a_larger_array(view):
    shape = (3, 20, 30)
    deformation = deform(1, shape)
    cut = layer(image_of(shape), deformation, *whole(shape), 1)
    large = np.pad(cut.block, 3)
    block = {
        "cut": large[3:-3, 3:-3, 3:-3, 3:-3],
        "turned": np.ascontiguousarray(cut.block.T).T,
        "mirrored": cut.block[..., ::-1].copy()[..., ::-1],
        "one channel": np.broadcast_to(cut.block[:1], cut.block.shape),
    }[view]
    (expected,) = warp(deformation, [Layer(block.copy(), cut.origin, *whole(shape))])
    (actual,) = warp(deformation, [Layer(block, cut.origin, *whole(shape))])
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_box_without_pixels_gives_none(order):
    deformation = deform(0, (1, 8, 8))
    empty = Layer(np.zeros((2, 1, 0, 0), np.float32), (0, 0, 0), (0, 3, 3), (1, 3, 5), order)
    full = layer(image_of((1, 8, 8)), deformation, (0, 3, 3), (1, 4, 5), order)
    assert warp(deformation, [empty])[0].shape == (2, 1, 0, 2)
    nothing, something = warp(deformation, [empty, full])
    assert nothing.shape == (2, 1, 0, 2)
    assert something.tobytes() == warp(deformation, [full])[0].tobytes()


def test_a_block_that_is_too_small_is_refused():
    deformation = Deformation((1, 8, 8), NO_FIELD, np.eye(3), np.array([0, 0, 2.5]))
    with pytest.raises(ConfigError, match="does not cover"):
        warp(deformation, [Layer(np.zeros((1, 1, 8, 8), np.float32), (0, 0, 0), *whole((1, 8, 8)))])
    with pytest.raises(ConfigError, match="order 2"):
        warp(deformation, [Layer(np.zeros((1, 1, 8, 8), np.float32), (0, 0, 0), *whole((1, 8, 8)), order=2)])
    assert source_box(deformation, *whole((1, 8, 8)))[1][2] == 11
