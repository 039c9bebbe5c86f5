"""Distances and contours against all pairs of pixels."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics import oracles
from unetcli.errors import InputError
from unetcli.metrics.distances import assd, boundary_f, edge_distances, hausdorff, hd95

SHAPES = st.one_of(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)
)
PAIRS = SHAPES.flatmap(lambda shape: hnp.arrays(bool, (2, *shape)))
FULL = np.ones((4, 5), bool)
EMPTY = np.zeros((4, 5), bool)


@settings(max_examples=80)
@given(PAIRS)
def test_distances_are_those_of_all_pairs_of_edge_pixels(pair):
    assume(pair[0].any() and pair[1].any())
    truth, prediction = (oracles.edge_pixels(mask) for mask in pair)
    forward, backward = oracles.nearest(truth, prediction), oracles.nearest(prediction, truth)
    found = edge_distances(*pair)
    assert sorted(found.truth) == pytest.approx(sorted(forward))
    assert sorted(found.prediction) == pytest.approx(sorted(backward))
    assert hausdorff(found) == pytest.approx(max(forward + backward))
    assert hd95(found) == pytest.approx(max(np.percentile(forward, 95), np.percentile(backward, 95)))
    assert assd(found) == pytest.approx(np.mean(forward + backward))


@settings(max_examples=80)
@given(PAIRS, st.sampled_from([0, 1, 1.5, 2, 3, 100]))
def test_boundary_f_counts_contour_pixels_within_the_tolerance(pair, tolerance_px):
    truth, prediction = (oracles.contour_pixels(mask) for mask in pair)
    found = boundary_f(*pair, tolerance_px)
    if not (truth and prediction):
        assert found == (not truth and not prediction)
        return
    recall = np.mean([d <= tolerance_px for d in oracles.nearest(truth, prediction)])
    precision = np.mean([d <= tolerance_px for d in oracles.nearest(prediction, truth)])
    assert found == pytest.approx(2 * precision * recall / (precision + recall) if precision + recall else 0)


def test_the_rim_of_the_image_is_an_edge():
    assert len(edge_distances(FULL, FULL).truth) == 14
    assert hausdorff(edge_distances(FULL, np.pad(FULL[1:-1, 1:-1], 1))) == math.sqrt(2)


def test_far_apart():
    masks = np.zeros((2, 3, 3000), bool)
    masks[0, 0, 0] = masks[1, 2, 2999] = True
    assert hausdorff(edge_distances(*masks)) == math.hypot(2, 2999)


@pytest.mark.parametrize(("truth", "prediction"), [(EMPTY, EMPTY), (EMPTY, FULL), (FULL, EMPTY)])
def test_distances_to_nothing_are_undefined(truth, prediction):
    distances = edge_distances(truth, prediction)
    assert all(math.isnan(score(distances)) for score in (hausdorff, hd95, assd))


@pytest.mark.parametrize("function", [edge_distances, boundary_f])
def test_shapes_must_agree(function):
    with pytest.raises(InputError, match="prediction: shape is"):
        function(FULL, FULL.T)
