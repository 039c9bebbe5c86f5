"""Thresholds: the list of the challenge, the scale of stored maps, the comparison in double."""

import numpy as np
import pytest

from unetcli.errors import InputError
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, foreground, to_probabilities


def test_challenge_thresholds_are_summed_in_double():
    assert CHALLENGE_THRESHOLDS == (
        0.0, 0.1, 0.2, 0.30000000000000004, 0.4, 0.5, 0.6, 0.7,
        0.7999999999999999, 0.8999999999999999, 0.9999999999999999,
    )  # fmt: skip


def test_comparison_is_strict_and_in_double():
    values = np.array([0.2, 0.5, 1.0], np.float32)
    assert foreground(values, 0.2).tolist() == [True, True, True]
    assert foreground(values, 0.5).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [(np.uint8, 255), (np.uint16, 65_535), (np.int8, 127), (bool, True), (np.float16, 1.0)],
)
def test_probabilities_reach_one(dtype, largest):
    values = to_probabilities(np.array([0, largest], dtype))
    assert values.dtype == np.float32
    assert values.tolist() == [0.0, 1.0]


def test_a_double_is_not_rounded_across_a_threshold():
    assert foreground(to_probabilities(np.array([0.2, np.nextafter(0.5, 1)])), 0.2).tolist() == [False, True]
    assert foreground(to_probabilities(np.array([np.nextafter(0.5, 1)], ">f8")), 0.5).tolist() == [True]


def test_probabilities_are_numbers():
    with pytest.raises(InputError, match="probabilities: type is"):
        to_probabilities(np.array(["a"]))
