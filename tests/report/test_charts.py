"""Charts: values lie where they should, in percent of the way."""

import math

import pytest

from unetcli.report.charts import (
    LEFT,
    MAX_MARKS,
    SIDE,
    TOP,
    lay_out_difference,
    lay_out_reliability,
    lay_out_values,
)


class TestValues:
    def test_few_are_marks(self):
        spread = lay_out_values([2.0, 4.0, 3.0, 4.0], 3.25, (2.5, 3.75))
        assert (spread.low, spread.high) == (2, 4)
        assert spread.marks == [0, 50, 100]
        assert not spread.bars
        assert spread.mean_at == 62.5
        assert spread.interval == (25, 62.5)

    def test_many_are_bars(self):
        spread = lay_out_values([0.0] * MAX_MARKS + [1.0] * (MAX_MARKS // 2), 1 / 3)
        assert not spread.marks
        assert spread.bars == [(0, 1), (96, 0.5)]
        assert spread.interval is None

    @pytest.mark.parametrize("values", [[], [0.5], [0.5] * 9])
    def test_nothing_to_spread(self, values):
        assert lay_out_values(values, 0.5) is None


@pytest.mark.parametrize(
    ("better", "difference", "is_right"),
    [("higher", 1.0, True), ("higher", -1.0, False), ("lower", -1.0, True), ("lower", 1.0, False)],
)
def test_an_improvement_lies_right(better, difference, is_right):
    whisker = lay_out_difference(difference, difference - 0.5, difference + 0.5, better)
    assert (whisker.start > 50) == (whisker.at > 50) == is_right
    assert 5 <= whisker.start < whisker.at < whisker.end <= 95


def test_no_difference_lies_in_the_middle():
    whisker = lay_out_difference(0, 0, 0, "higher")
    assert (whisker.start, whisker.at, whisker.end) == (50, 50, 50)


def test_calibrated_bins_lie_on_the_diagonal():
    bins = [(0, 0.5, 4, 0.25, 0.25), (0.5, 0.6, 0, math.nan, math.nan), (0.6, 1, 1, 0.75, 0.75)]
    plot = lay_out_reliability(bins)
    assert plot.points == [(LEFT + SIDE / 4, TOP + 3 * SIDE / 4), (LEFT + 3 * SIDE / 4, TOP + SIDE / 4)]
    assert plot.path.count("L") == 1
    (x, y, width, height), (_, lower, _, short) = plot.bars
    assert (x, width) == (LEFT + 0.5, SIDE / 2 - 1)
    assert y + height == lower + short
    assert height == 4 * short
    assert lay_out_reliability(bins[1:2]) is None


def test_the_calibration_error_is_the_mean_distance_to_the_diagonal():
    drawn = lay_out_reliability([(0.0, 0.5, 30, 0.2, 0.1), (0.5, 1.0, 10, 0.9, 0.4), (0.9, 1.0, 0, math.nan, math.nan)])
    assert drawn.error == pytest.approx((30 * 0.1 + 10 * 0.5) / 40)
