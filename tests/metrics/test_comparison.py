"""Bootstrap intervals are those of a plain loop, and say which of two predictions is better."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.errors import InputError
from unetcli.metrics import ImageScores, compare, summarize
from unetcli.metrics.comparison import N_RESAMPLES, SEED, bootstrap_interval, paired_difference


def oracle(values):
    rng = np.random.default_rng(SEED)
    means = []
    for _ in range(N_RESAMPLES):
        drawn = [values[rng.integers(len(values))] for _ in values]
        means.append(sum(drawn) / len(drawn))
    return np.quantile(means, [0.025, 0.975])


def test_the_interval_is_that_of_a_plain_loop():
    values = np.random.default_rng(1).normal(0.8, 0.1, 12)
    assert bootstrap_interval(values) == pytest.approx(oracle(values), abs=0.006)  # other draws of the same kind


def test_of_many_images_it_is_that_of_the_normal_distribution(monkeypatch):
    values = np.random.default_rng(2).normal(0.5, 0.2, 3000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert bootstrap_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_it_holds_the_values_and_repeats(values):
    low, high = bootstrap_interval(values)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert (low, high) == bootstrap_interval([*values, None, math.nan])


@pytest.mark.parametrize("values", [[], [0.5], [None, 0.5], [None, None]], ids=str)
def test_fewer_than_two_images_have_none(values):
    assert all(map(math.isnan, bootstrap_interval(values)))


@pytest.mark.parametrize(
    ("better", "a", "b", "wins"),
    [
        ("higher", [0.5, 0.6, 0.7], [0.6, 0.7, 0.9], "b"),
        ("higher", [0.6, 0.7, 0.9], [0.5, 0.6, 0.7], "a"),
        ("lower", [0.5, 0.6, 0.7], [0.6, 0.7, 0.9], "a"),
        ("higher", [0.5, 0.9, 0.7], [0.6, 0.7, 0.7], None),
        ("higher", [0.5, None, 0.5], [0.7, 0.1, 0.7], "b"),
        ("higher", [0.5], [0.7], None),
    ],
    ids=["higher is better", "the first", "lower is better", "not clear", "undefined is left out", "one image"],
)
def test_which_is_better(better, a, b, wins):
    found = paired_difference(a, b, better=better)
    assert found.better == wins
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None]
    assert found.difference == pytest.approx(sum(y - x for x, y in pairs) / len(pairs))


def test_scores_of_arrays_are_compared_and_summarized():
    a, b = ([ImageScores({"iou": v, "v_rand": None}) for v in values] for values in ((0.5, 0.7), (0.6, 0.9)))
    assert compare(a, b)["iou"].better == "b"
    assert math.isnan(compare(a, b)["v_rand"].difference)
    assert summarize(b)["iou"].mean == pytest.approx(0.75)
    assert summarize(b)["v_rand"].mean is None


@pytest.mark.parametrize("b", [[], [ImageScores({"dice": 1.0})]], ids=["fewer images", "other scores"])
def test_what_can_not_be_compared_is_refused(b):
    with pytest.raises(InputError, match="expected the same"):
        compare([ImageScores({"iou": 1.0})], b)
