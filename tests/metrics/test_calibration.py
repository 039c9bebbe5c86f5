"""Calibration against a walk over pixels; tables add up exactly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetcli.errors import InputError
from unetcli.metrics.calibration import calibration_table, expected_calibration_error, reliability

MAPS = st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(dtype, (6, 5), elements=st.floats(0, 1, width=8 * np.dtype(dtype).itemsize))
)
TRUTH = hnp.arrays(bool, (6, 5))


@given(TRUTH, MAPS, st.integers(1, 12))
def test_bins_hold_what_lies_in_them(truth, probabilities, n_bins):
    p = probabilities.astype(np.float64)
    bins = reliability(calibration_table(truth, probabilities, n_bins))
    error = 0.0
    for k, found in enumerate(bins):
        inside = np.minimum(np.floor(p * n_bins), n_bins - 1) == k
        assert (found.low, found.high, found.n_pixels) == (k / n_bins, (k + 1) / n_bins, inside.sum())
        if inside.any():
            assert found.confidence == pytest.approx(p[inside].mean(), abs=1e-7)
            assert found.frequency == truth[inside].mean()
            error += inside.mean() * abs(truth[inside].mean() - p[inside].mean())
        else:
            assert math.isnan(found.confidence)
            assert math.isnan(found.frequency)
    assert expected_calibration_error(calibration_table(truth, probabilities, n_bins)) == pytest.approx(error, abs=1e-7)


@given(TRUTH, MAPS, st.integers(0, 6))
def test_tables_add_up_exactly(truth, probabilities, y):
    halves = [calibration_table(truth[part], probabilities[part]) for part in (slice(y), slice(y, None))]
    np.testing.assert_array_equal(sum(halves), calibration_table(truth, probabilities))


def test_a_map_that_says_what_happens_is_calibrated():
    truth = np.arange(100) % 4 == 0
    assert expected_calibration_error(calibration_table(truth, np.full(100, 0.25))) == 0
    assert expected_calibration_error(calibration_table(truth, np.full(100, 0.75))) == 0.5
    assert math.isnan(expected_calibration_error(calibration_table(truth[:0], np.empty(0))))


@pytest.mark.parametrize("values", [[0.0, 1.5], [-0.1, 0], [0.5, np.nan]])
def test_values_are_probabilities(values):
    with pytest.raises(InputError, match="prediction: values are"):
        calibration_table(np.ones(2, bool), np.array(values))


def test_shapes_must_agree():
    with pytest.raises(InputError, match="prediction: shape is"):
        calibration_table(np.ones(2, bool), np.ones(3))
