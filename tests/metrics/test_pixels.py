"""Pixel scores: by hand, against sets of pixels, at the edges of their definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from unetcli.metrics.pixels import class_scores, dice, iou, max_pixel_fscore, pixel_error, pixel_fscore
from unetcli.metrics.tables import confusion_table

PAIRS = hnp.arrays(bool, (2, 6, 5))


@given(PAIRS)
def test_scores_equal_those_of_sets(pair):
    truth, prediction = (set(np.flatnonzero(mask)) for mask in pair)
    table = confusion_table(*pair)
    union, both = truth | prediction, truth & prediction
    assert iou(table) == (len(both) / len(union) if union else 1.0)
    assert dice(table) == (2 * len(both) / (len(truth) + len(prediction)) if union else 1.0)
    assert pixel_error(table) == len(union - both) / 30
    assert pixel_fscore(table) == dice(table)


@given(hnp.arrays(bool, (4, 5)))
def test_identical_pair_is_perfect(mask):
    table = confusion_table(mask, mask)
    assert (iou(table), dice(table), pixel_error(table)) == (1.0, 1.0, 0.0)


def test_one_class_against_all_others():
    table = np.array([[5, 1, 0], [0, 4, 2], [0, 0, 8]])
    assert [iou(table, k) for k in range(3)] == [5 / 6, 4 / 7, 8 / 10]
    assert pixel_error(table) == 3 / 20
    assert [tuple(scores) for scores in class_scores(table)] == [
        (iou(table, k), dice(table, k), precision, recall)
        for k, (precision, recall) in enumerate([(1, 5 / 6), (4 / 5, 4 / 6), (8 / 10, 1)])
    ]


def test_a_class_that_is_nowhere():
    absent = class_scores(np.diag([3, 0]))[1]
    assert (absent.iou, absent.dice) == (1, 1)
    assert math.isnan(absent.precision)
    assert math.isnan(absent.recall)


def test_pixel_error_without_a_pixel_is_undefined():
    assert math.isnan(pixel_error(np.zeros((2, 2), np.int64)))


def test_max_pixel_fscore_finds_the_best_threshold():
    truth = np.array([[0, 0, 1, 1]])
    probabilities = np.array([[0.1, 0.65, 0.7, 0.9]], np.float32)
    assert max_pixel_fscore(truth, probabilities, [0.0, 0.5]) == pytest.approx(0.8)
    assert max_pixel_fscore(truth, probabilities, [0.0, 0.66, 0.8]) == 1.0
    assert max_pixel_fscore(truth, probabilities) == pytest.approx(0.8)
