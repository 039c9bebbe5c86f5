"""Tables: what they count, and that they add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics import oracles
from unetcli.errors import InputError
from unetcli.metrics.tables import confusion_table, contingency_table

IDS = st.sampled_from([0, 1, 2, 3, 65_535, 65_536, 10**12])
PAIRS = hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(0, 12), st.integers(0, 12)), elements=IDS)


def as_dict(table):
    ids = zip(table.truth_ids.tolist(), table.prediction_ids.tolist(), strict=True)
    return dict(zip(ids, table.counts.tolist(), strict=True))


def assert_same(one, other):
    for field in ("truth_ids", "prediction_ids", "counts"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@given(PAIRS)
def test_contingency_counts_each_pair(pair):
    truth, prediction = pair
    table = contingency_table(truth, prediction)
    assert as_dict(table) == oracles.pair_counts(truth, prediction)
    assert list(as_dict(table)) == sorted(as_dict(table))
    assert table.n_pixels == truth.size


@given(PAIRS, st.integers(0, 12), st.integers(0, 12))
def test_contingency_adds_up_over_any_split(pair, y, x):
    truth, prediction = pair
    corners = [(slice(None, y), slice(None, x)), (slice(None, y), slice(x, None))]
    corners += [(slice(y, None), slice(None, x)), (slice(y, None), slice(x, None))]
    tiles = [contingency_table(truth[corner], prediction[corner]) for corner in corners]
    assert_same(tiles[3] + tiles[0] + tiles[2] + tiles[1], contingency_table(truth, prediction))


@given(hnp.arrays(np.uint8, (2, 7, 9), elements=st.integers(0, 2)), st.integers(0, 7))
def test_confusion_adds_up_over_any_split(pair, y):
    truth, prediction = pair
    halves = (confusion_table(truth[part], prediction[part], 3) for part in (slice(y), slice(y, None)))
    np.testing.assert_array_equal(sum(halves), confusion_table(truth, prediction, 3))


def test_contingency_of_many_pairs():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 300, (2, 200, 200)).astype(np.uint32) * 70_001
    assert as_dict(contingency_table(truth, prediction)) == oracles.pair_counts(truth, prediction)


@pytest.mark.parametrize("dtype", [bool, "uint8", "int16", ">u2", "int32", "uint32", "uint64"])
def test_contingency_of_any_type(dtype):
    labels = np.eye(5, dtype=dtype)
    assert as_dict(contingency_table(labels, labels)) == {(0, 0): 20, (1, 1): 5}
    assert as_dict(contingency_table(labels, 7 * np.eye(5, dtype=np.int64).T)) == {(0, 0): 20, (1, 7): 5}


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_that_a_double_can_not_tell_apart(dtype):
    labels = np.array([2**53, 2**53 + 1], dtype)
    assert contingency_table(labels, labels).truth_ids.tolist() == [2**53, 2**53 + 1]


def test_a_table_of_part_of_an_image():
    truth, prediction = np.random.default_rng(0).integers(0, 4, (2, 30, 40))
    window = contingency_table(truth[3:20:2, ::-3], prediction[3:20:2, ::-3])  # not one piece of memory
    assert as_dict(window) == oracles.pair_counts(truth[3:20:2, ::-3], prediction[3:20:2, ::-3])


def test_segment_sizes():
    table = contingency_table(np.array([0, 5, 5, 9]), np.array([2, 1, 2, 2]))
    assert [part.tolist() for part in table.truth] == [[0, 5, 9], [1, 2, 1], [0, 1, 1, 2]]
    assert [part.tolist() for part in table.prediction] == [[1, 2], [1, 3], [1, 0, 1, 1]]


def test_confusion_rows_are_truth():
    assert confusion_table(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 3).tolist() == [
        [1, 0, 0],
        [1, 1, 0],
        [0, 1, 0],
    ]


@pytest.mark.parametrize("table", [confusion_table, contingency_table])
def test_shapes_must_agree(table):
    with pytest.raises(InputError, match="prediction: shape is"):
        table(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_ids_are_integers():
    with pytest.raises(InputError, match="truth: type is float64"):
        contingency_table(np.zeros(3), np.zeros(3, int))


@pytest.mark.parametrize("classes", [[0, 2], [-1, 0]])
def test_classes_out_of_range_are_refused(classes):
    with pytest.raises(InputError, match="truth: classes are"):
        confusion_table(np.array(classes), np.array([0, 0]))
