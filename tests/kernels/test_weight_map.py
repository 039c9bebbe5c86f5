import math

import numpy as np
import pytest

from tests.kernels import oracles
from tests.kernels.test_distance import SPACINGS, random_labels
from unetcli.errors import ConfigError
from unetcli.kernels.weight_map import (
    EPSILON,
    border_reach,
    border_term,
    class_balance,
    separation_border,
    weight_map,
)


def test_reach_is_where_the_border_term_falls_below_epsilon():
    reach = border_reach(10, 5)
    assert 10 * math.exp(-(reach**2) / 50) == pytest.approx(EPSILON)
    assert border_reach(10, 5, epsilon=1e-3) == pytest.approx(21.46, abs=0.01)
    assert border_reach(0, 5) == border_reach(EPSILON, 5) == 0


@pytest.mark.parametrize("is_volume", [False, True], ids=["plane", "volume"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("sigma", [0.4, 2.0, 5.0])
def test_border_term_equals_the_equation(is_volume, spacing, sigma):
    rng = np.random.default_rng(0)
    for _ in range(25):
        labels = random_labels(rng, is_volume=is_volume)
        actual = border_term(labels, w0=10, sigma=sigma, spacing=spacing)
        expected = oracles.border_term(labels, 10, sigma, spacing, border_reach(10, sigma))
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=0)


def test_long_lines_with_empty_stretches():
    """Lines of many blocks, most of which are skipped."""
    rng = np.random.default_rng(5)
    for density in (0.0005, 0.002, 0.01):
        labels = np.where(rng.random((1, 40, 300)) < density, rng.integers(1, 9, (1, 40, 300)), 0)
        actual = border_term(labels, w0=10, sigma=3.0)
        expected = oracles.border_term(labels, 10, 3.0, (1, 1, 1), border_reach(10, 3.0))
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=0)


def test_weight_map_is_one_float64_sum_rounded_once():
    rng = np.random.default_rng(2)
    balance = rng.uniform(0.5, 2, 3)
    for _ in range(25):
        labels = random_labels(rng, is_volume=False)
        target = rng.integers(0, 3, labels.shape, np.uint8)
        border = oracles.border_term(labels, 10, 5.0, (1, 1, 1), border_reach(10, 5.0))
        actual = weight_map(labels, target, balance=balance, w0=10, sigma=5.0)
        assert actual.dtype == np.float32
        np.testing.assert_array_max_ulp(actual, (balance[target] + border).astype(np.float32), 1)


def test_no_border_without_height_or_a_second_object():
    labels = np.array([[[1, 0, 2, 0, 0]]])
    assert not border_term(labels, w0=0, sigma=5).any()
    assert not border_term(labels % 2, w0=10, sigma=5).any()
    assert border_term(labels, w0=10, sigma=5)[0, 0].nonzero()[0].tolist() == [1, 3, 4]


def test_any_tile_with_its_halo_gives_the_bytes_of_the_whole():
    rng = np.random.default_rng(1)
    halo = math.ceil(border_reach(10, 1.5))
    balance = np.array([1.3, 0.7])
    for density in (0.005, 0.05, 0.5):
        labels = np.where(rng.random((1, 60, 70)) < density, rng.integers(1, 20, (1, 60, 70)), 0)
        target = (labels > 0).astype(np.uint8)
        whole = weight_map(labels, target, balance=balance, w0=10, sigma=1.5)
        for y in range(0, 60, 17):
            for x in range(0, 70, 23):
                y0, x0 = max(y - halo, 0), max(x - halo, 0)
                read = np.s_[:, y0 : y + 17 + halo, x0 : x + 23 + halo]
                tile = weight_map(labels[read], target[read], balance=balance, w0=10, sigma=1.5)
                core = tile[:, y - y0 : y - y0 + 17, x - x0 : x - x0 + 23]
                assert core.tobytes() == whole[:, y : y + 17, x : x + 23].tobytes()


@pytest.mark.parametrize("is_volume", [False, True], ids=["plane", "volume"])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_separation_border_equals_dilation_of_each_object(is_volume, width):
    rng = np.random.default_rng(0)
    for dtype in (np.uint32, np.int64) * 15:
        labels = random_labels(rng, is_volume=is_volume, dtype=dtype)
        np.testing.assert_array_equal(separation_border(labels, width=width), oracles.separation_border(labels, width))


def test_class_balance_gives_present_classes_the_same_share():
    counts = np.array([600, 0, 30, 370])
    balance = class_balance(counts, "inverse")
    np.testing.assert_allclose(balance * counts, [1000 / 3, 0, 1000 / 3, 1000 / 3])
    assert class_balance(counts, "none").tolist() == [1, 1, 1, 1]
    assert class_balance(np.zeros(2, int)).tolist() == [0, 0]
    with pytest.raises(ConfigError, match="'median' is unknown"):
        class_balance(counts, "median")
