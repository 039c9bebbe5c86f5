"""Scores of objects against all assignments of small label images, in exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics import oracles
from unetcli.metrics.objects import (
    AP_TWENTIETHS,
    aji,
    average_precision,
    count_matches,
    det,
    mean_average_precision,
    panoptic_quality,
    seg,
)
from unetcli.metrics.scores import SCORES
from unetcli.metrics.slices import SummedPair
from unetcli.metrics.tables import contingency_table

IDS = np.array([0, 1, 7, 2**32 + 5, 2**40])
"""With gaps, and beyond 32 bits."""
PAIRS = st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 4)).map(lambda pair: IDS[pair])
)
VOLUMES = hnp.arrays(np.int64, (2, 2, 2, 3), elements=st.integers(0, 3))
ALL = [average_precision, mean_average_precision, lambda t: panoptic_quality(t).pq, seg, det, aji]


def side_by_side(*pairs):
    """One image of several, each (truth, prediction) of one line, their ids set apart."""
    parts = [np.where(np.array(pair) > 0, np.array(pair) + 100 * k, 0) for k, pair in enumerate(pairs)]
    return np.concatenate(parts, axis=1)


@settings(max_examples=60)
@given(st.one_of(PAIRS, VOLUMES), st.integers(1, 19))
def test_matches_are_the_most_of_all_assignments(pair, twentieths):
    table = contingency_table(*pair)
    expected = oracles.most_matches(*pair, Fraction(twentieths, 20))
    assert count_matches(table.objects, twentieths) == expected
    n_truth, n_prediction = (len(oracles.object_pixels(labels)) for labels in pair)
    if n_truth + n_prediction:
        assert average_precision(table, twentieths) == expected / (n_truth + n_prediction - expected)


@pytest.mark.parametrize("twentieths", AP_TWENTIETHS)
def test_an_iou_of_exactly_the_threshold_counts(twentieths):
    truth = np.ones((1, 20), np.int64)
    table = contingency_table(truth, np.where(np.arange(20) < twentieths, 3, 0)[None])
    assert average_precision(table, twentieths) == 1
    assert average_precision(table, twentieths + 1) == 0
    assert mean_average_precision(table) == pytest.approx((twentieths - 9) / 10)


@settings(max_examples=60)
@given(PAIRS)
def test_panoptic_quality_takes_an_iou_above_half(pair):
    matched = [iou for row in oracles.iou_matrix(*pair) for iou in row if iou > Fraction(1, 2)]
    n_objects = sum(len(oracles.object_pixels(labels)) for labels in pair)
    assume(n_objects)
    found = panoptic_quality(contingency_table(*pair))
    assert found.rq == pytest.approx(2 * len(matched) / n_objects)
    assert found.sq == pytest.approx(float(sum(matched)) / max(len(matched), 1))
    assert found.pq == pytest.approx(2 * float(sum(matched)) / n_objects)


def test_an_iou_of_half_is_found_but_not_for_panoptic_quality():
    table = contingency_table(np.array([1, 1]), np.array([1, 0]))
    assert average_precision(table) == 1
    assert panoptic_quality(table) == (0, 0, 0)


@settings(max_examples=60)
@given(st.one_of(PAIRS, VOLUMES))
def test_seg_and_det_take_what_covers_more_than_half(pair):
    found = oracles.partners(*pair)
    assume(found)
    matched = [partner for partner in found if partner]
    used = {j for _, j in matched}
    n_spurious = len(oracles.object_pixels(pair[1])) - len(used)
    work = 5 * (len(matched) - len(used)) + 10 * (len(found) - len(matched)) + n_spurious
    table = contingency_table(*pair)
    assert seg(table) == pytest.approx(sum(iou for iou, _ in matched) / len(found))
    assert det(table) == pytest.approx(1 - min(work, 10 * len(found)) / (10 * len(found)))


@pytest.mark.parametrize("name", ["seg", "det"])
def test_seg_and_det_pool_the_objects_of_several_slices(name):
    good, bad = (contingency_table(np.array(t), np.array(p)) for t, p in (([1, 2, 3], [4, 5, 6]), ([1], [0])))
    slices = [SCORES[name].measure(SummedPair(np.zeros((2, 2)), table, 0.5)) for table in (good, bad)]
    assert SCORES[name].combine(slices) == 3 / 4


@settings(max_examples=100)
@given(PAIRS)
def test_aji_is_that_of_the_best_assignment(pair):
    assume(pair.any())
    found = aji(contingency_table(*pair))
    assert any(found == pytest.approx(expected) for expected in oracles.one_to_one_aji(*pair))


def test_aji_prefers_pairs_that_reach_half():
    truth, prediction = [1, 1, 1, 1, 2, 2, 2], [5, 5, 6, 6, 6, 6, 0]  # 1-5 and 2-6 are 1/2 and 2/5, 1-6 is 1/3
    assert aji(contingency_table(np.array(truth), np.array(prediction))) == 4 / 7


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 3), min_size=6, max_size=6)] * 2), min_size=1, max_size=3))
def test_aji_of_images_far_apart_adds_up(pairs):
    joined = side_by_side(*pairs)
    assume(joined.any())
    parts = [np.array(pair) for pair in pairs if np.any(pair)]
    areas = [np.count_nonzero(part.any(axis=0)) for part in parts]
    best = [oracles.one_to_one_aji(*part) for part in parts]
    low, high = (
        sum(pick(values) * area for values, area in zip(best, areas, strict=True)) / sum(areas) for pick in (min, max)
    )
    assert low - 1e-12 <= aji(contingency_table(*joined)) <= high + 1e-12


@pytest.mark.parametrize("score", ALL)
def test_identical_objects_are_perfect(score):
    labels = IDS[np.arange(12).reshape(3, 4) % 5]
    assert score(contingency_table(labels, labels)) == 1


def test_without_objects():
    none, some = np.zeros((3, 2), np.int64), np.arange(6).reshape(3, 2)
    assert all(math.isnan(score(contingency_table(none, none))) for score in ALL)
    assert [score(contingency_table(some, none)) for score in ALL] == [0] * 6
    spurious = [score(contingency_table(none, some)) for score in ALL]
    assert spurious == pytest.approx([0, 0, 0, math.nan, math.nan, 0], nan_ok=True)
