import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import oracles
from tests.kernels.test_distance import ANY_LABELS, SPACINGS, draw_labels, random_labels
from unetcli.errors import ConfigError
from unetcli.kernels.weight_map import (
    EPSILON,
    Borders,
    border_reach,
    class_balance,
    separation_border,
    weight_map,
)

BORDERS = {
    "narrow": Borders(sigma=0.4),
    "middle": Borders(sigma=2.0),
    "paper": Borders(),
    "plugin": Borders(w0=50, sigma=6, w1=0.9, sigma1=10),
    "surroundings farther than borders": Borders(w0=3, sigma=1, w1=0.9, sigma1=4),
    "surroundings alone": Borders(w0=0, w1=2, sigma1=3),
    "inside": Borders(sigma=2.0, inside=True),
    "all": Borders(w0=5, sigma=1.5, w1=1, sigma1=2, inside=True),
}


def border_terms(labels, borders, spacing=(1.0, 1.0, 1.0)):
    """The weight map of classes that weigh nothing."""
    return weight_map(labels, np.zeros(labels.shape, np.uint8), borders, balance=np.zeros(1), spacing=spacing)


def test_reach_is_where_the_border_term_falls_below_epsilon():
    reach = border_reach(10, 5)
    assert 10 * math.exp(-(reach**2) / 50) == pytest.approx(EPSILON)
    assert border_reach(10, 5, epsilon=1e-3) == pytest.approx(21.46, abs=0.01)
    assert border_reach(0, 5) == border_reach(EPSILON, 5) == 0


@pytest.mark.parametrize("is_volume", [False, True], ids=["plane", "volume"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("borders", BORDERS.values(), ids=BORDERS)
def test_terms_equal_the_equation(is_volume, spacing, borders):
    rng = np.random.default_rng(0)
    for _ in range(25):
        labels = random_labels(rng, is_volume=is_volume)
        actual = border_terms(labels, borders, spacing)
        np.testing.assert_allclose(actual, oracles.border_terms(labels, borders, spacing), rtol=1e-6, atol=EPSILON)


@given(**ANY_LABELS, borders=st.sampled_from(list(BORDERS.values())))
@settings(max_examples=200, deadline=None)
def test_any_shape_equals_the_equation(seed, shape, density, n_ids, spacing, borders):
    labels = draw_labels(seed, shape, density, n_ids)
    expected = oracles.border_terms(labels, borders, spacing)
    np.testing.assert_allclose(border_terms(labels, borders, spacing), expected, rtol=2e-6, atol=EPSILON)


@pytest.mark.parametrize("shape", [(1, 0, 5), (1, 5, 0), (0, 3, 3), (1, 1, 1)], ids=str)
def test_nothing_but_background_weighs_its_class(shape):
    target = np.zeros(shape, np.uint8)
    assert (
        weight_map(target, target, Borders(), balance=np.array([0.7])).tolist()
        == np.full(shape, np.float32(0.7)).tolist()
    )


def test_long_lines_with_empty_stretches():
    """Lines of many blocks, most of which are skipped."""
    rng = np.random.default_rng(5)
    for density in (0.0005, 0.002, 0.01):
        labels = np.where(rng.random((1, 40, 300)) < density, rng.integers(1, 9, (1, 40, 300)), 0)
        actual = border_terms(labels, Borders(sigma=3.0))
        expected = oracles.border_terms(labels, Borders(sigma=3.0), (1, 1, 1))
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=EPSILON)


def test_an_object_as_far_as_another_counts_once_that_comes_nearer():
    labels = np.zeros((12, 10, 70), np.uint8)
    labels[1, 2] = 1
    labels[11, 2] = 2
    labels[6, 6] = 2  # looked at last: until then both are 5 pixels from z 6, y 2
    actual = border_terms(labels, Borders())
    np.testing.assert_allclose(actual, oracles.border_terms(labels, Borders(), (1, 1, 1)), rtol=1e-6, atol=EPSILON)


def test_weight_map_is_one_float64_sum_rounded_once():
    rng = np.random.default_rng(2)
    balance = rng.uniform(0.5, 2, 3)
    for _ in range(25):
        labels = random_labels(rng, is_volume=False)
        target = rng.integers(0, 3, labels.shape, np.uint8)
        border = oracles.border_terms(labels, Borders(), (1, 1, 1))
        actual = weight_map(labels, target, Borders(), balance=balance)
        assert actual.dtype == np.float32
        np.testing.assert_array_max_ulp(actual, (balance[target] + border).astype(np.float32), 1)


def test_no_border_without_height_or_a_second_object():
    labels = np.array([[[1, 0, 2, 0, 0]]])
    assert not border_terms(labels, Borders(w0=0)).any()
    assert not border_terms(labels % 2, Borders()).any()
    assert border_terms(labels, Borders())[0, 0].nonzero()[0].tolist() == [1, 3, 4]


def test_any_tile_with_its_halo_gives_the_bytes_of_the_whole():
    rng = np.random.default_rng(1)
    halo = math.ceil(border_reach(10, 1.5))
    balance = np.array([1.3, 0.7])
    for density in (0.005, 0.05, 0.5):
        labels = np.where(rng.random((1, 60, 70)) < density, rng.integers(1, 20, (1, 60, 70)), 0)
        target = (labels > 0).astype(np.uint8)
        whole = weight_map(labels, target, Borders(sigma=1.5), balance=balance)
        for y in range(0, 60, 17):
            for x in range(0, 70, 23):
                y0, x0 = max(y - halo, 0), max(x - halo, 0)
                read = np.s_[:, y0 : y + 17 + halo, x0 : x + 23 + halo]
                tile = weight_map(labels[read], target[read], Borders(sigma=1.5), balance=balance)
                core = tile[:, y - y0 : y - y0 + 17, x - x0 : x - x0 + 23]
                assert core.tobytes() == whole[:, y : y + 17, x : x + 23].tobytes()


@pytest.mark.parametrize("is_volume", [False, True], ids=["plane", "volume"])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_separation_border_equals_dilation_of_each_object(is_volume, width):
    rng = np.random.default_rng(0)
    for dtype in (np.uint32, np.int64) * 15:
        labels = random_labels(rng, is_volume=is_volume, dtype=dtype)
        np.testing.assert_array_equal(separation_border(labels, width=width), oracles.separation_border(labels, width))


@pytest.mark.parametrize("shape", [(1, 0, 5), (1, 5, 0), (0, 3, 3), (1, 1, 1), (3, 1, 1), (1, 1, 4)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int64])
def test_separation_border_of_odd_shapes(shape, dtype):
    labels = (np.arange(math.prod(shape)) % 3).reshape(shape).astype(dtype)
    expected = oracles.separation_border(labels, 2) if labels.size else np.zeros(shape, bool)
    np.testing.assert_array_equal(separation_border(labels, width=2), expected)


def test_class_balance_gives_present_classes_the_same_share():
    counts = np.array([[500, 0, 0, 370], [100, 0, 30, 0]])
    balance = class_balance(counts, "inverse")
    np.testing.assert_allclose(balance * counts.sum(axis=0), [1000 / 3, 0, 1000 / 3, 1000 / 3])
    assert class_balance(counts, "none").tolist() == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="'mean' is unknown"):
        class_balance(counts, "mean")


@pytest.mark.parametrize("mode", ["inverse", "median"])
def test_class_balance_of_nothing(mode):
    assert class_balance(np.zeros((3, 2), int), mode).tolist() == [0, 0]


def test_median_balance_looks_at_the_images_that_have_a_class():
    counts = np.array([[90, 10, 0], [20, 0, 80], [50, 50, 0]])
    frequency = np.array([160 / 300, 60 / 200, 80 / 100])
    np.testing.assert_allclose(class_balance(counts, "median"), np.median(frequency) / frequency)
