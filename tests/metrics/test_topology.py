"""Warping: simple rings by labelling, passes by naive repetition, classes by the table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics import oracles
from unetcli.errors import InputError
from unetcli.metrics.partitions import components
from unetcli.metrics.topology import (
    SIMPLE_RINGS,
    LeftoverClass,
    classify_leftover,
    count_classes,
    warp,
    warping_error,
    warping_types,
)

CLOCKWISE = [(0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0)]  # from above, in a 3x3 patch
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
TRUTH_AND_MAP = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(bool, shape),
        hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])),
        hnp.arrays(bool, shape),
    )
)


def test_simple_rings_equal_the_definition():
    for ring in range(256):
        patch = np.zeros((3, 3), bool)
        for k, position in enumerate(CLOCKWISE):
            patch[position] = ring >> k & 1
        assert SIMPLE_RINGS[ring] == oracles.is_simple(patch), patch
    assert SIMPLE_RINGS.sum() == 116


@settings(max_examples=60)
@given(TRUTH_AND_MAP, st.sampled_from([0.0, 0.2, 0.5]), st.booleans())
def test_passes_equal_naive_repetition(arrays, threshold, is_masked):
    truth, prediction, mask = arrays
    mask = mask if is_masked else None
    warping = warp(truth, prediction, threshold=threshold, mask=mask)
    warped, n_left = oracles.warp(truth, prediction, threshold, mask)
    np.testing.assert_array_equal(warping.warped, warped)
    assert warping.n_leftover == n_left
    assert warping.error == n_left / truth.size


@given(TRUTH_AND_MAP)
def test_warping_keeps_the_number_of_objects(arrays):
    truth, prediction, _ = arrays
    assert components(warp(truth, prediction).warped).max() == components(truth).max()


@settings(max_examples=60)
@given(TRUTH_AND_MAP, st.sampled_from([1, 2, None]))
def test_classes_equal_the_table(arrays, radius):
    truth, prediction, _ = arrays
    warping = warp(truth, prediction)
    classes = classify_leftover(warping, radius=radius)
    np.testing.assert_array_equal(classes != 0, warping.leftover)
    for y, x in np.argwhere(warping.leftover):
        expected = oracles.leftover_class(warping.warped, y, x, 100 if radius is None else radius)
        assert LeftoverClass(classes[y, x]).name.lower() == expected


def two_cells():
    cells = np.ones((9, 9), bool)
    cells[:, 4] = False
    return cells


def test_identical_costs_nothing():
    assert warping_error(two_cells(), two_cells()) == 0


@pytest.mark.parametrize(("shift_px", "n_left"), [(1, 0), (2, 10)])  # 2: about its length
def test_a_membrane_moves_one_pixel_for_free(shift_px, n_left):
    assert warp(two_cells(), np.roll(two_cells(), shift_px, axis=1)).n_leftover == n_left


def test_the_truth_is_the_first_argument():
    empty, box = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    box[2:6, 2:7] = True
    assert warp(box, empty).n_leftover == 1  # a missing object shrinks to a pixel
    assert warp(empty, box).n_leftover == 20  # a spurious one can not begin
    assert count_classes(classify_leftover(warp(box, empty)))["object_deletion"] == 1
    assert warping_types(warp(empty, box))["object_addition"] == (20, 1)


def test_a_gap_is_a_merge_and_a_line_a_split():
    gap, line = two_cells(), np.ones((9, 9), bool)
    gap[3, 4] = True
    assert count_classes(classify_leftover(warp(two_cells(), gap)))["merge"] == 1
    line[:, 4] = False
    assert count_classes(classify_leftover(warp(np.ones((9, 9), bool), line)))["split"] == 1


def test_mask_shields_its_zeros():
    gap = two_cells()
    gap[3, 4] = True
    mask = np.ones((9, 9), np.uint8)
    mask[3, 4] = 0
    assert warping_error(two_cells(), gap, mask=mask) == 0


def test_shapes_must_agree():
    with pytest.raises(InputError, match="mask: shape is"):
        warp(two_cells(), two_cells(), mask=np.ones((2, 2)))
    with pytest.raises(InputError, match="prediction: shape is"):
        warp(two_cells(), np.ones((2, 2)))
