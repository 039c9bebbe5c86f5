"""Partition scores against pairs of pixels and entropies; thinning against a plain flooding."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error as scikit_image_rand
from skimage.metrics import variation_of_information

from tests.metrics import oracles
from unetcli.errors import ConfigError
from unetcli.metrics.partitions import (
    ADAPTED_RAND_VARIANTS,
    adapted_rand_error,
    components,
    fg_rand_fscore,
    fg_vi_nats,
    pair_sums,
    rand_error,
    thin_borders,
    v_info,
    v_rand,
    vi,
)
from unetcli.metrics.tables import contingency_table

LABELS = hnp.arrays(np.int64, (2, 5, 6), elements=st.integers(0, 3))
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(LABELS)
def test_rand_error_counts_pairs(pair):
    assert rand_error(contingency_table(*pair)) == pytest.approx(oracles.rand_error(*pair))


@given(LABELS)
def test_v_rand_counts_foreground_pairs(pair):
    assume(pair[0].any())
    assert v_rand(contingency_table(*pair)) == pytest.approx(oracles.v_rand(*pair))


@given(LABELS)
def test_information_is_that_of_singletons(pair):
    assume(pair[0].any())
    t, p = oracles.singletons(*pair)
    apart, joint = oracles.entropy(t) + oracles.entropy(p), oracles.entropy(t, p)
    table = contingency_table(*pair)
    assert fg_vi_nats(table) == pytest.approx(2 * joint - apart, abs=1e-12)
    assert v_info(table) == pytest.approx(2 * (apart - joint) / apart if apart else 0.0, abs=1e-12)


@given(LABELS)
def test_vi_equals_scikit_image(pair):
    split, merge = vi(contingency_table(*pair))
    assert (split, merge) == pytest.approx(tuple(variation_of_information(*pair)), abs=1e-12)


@given(LABELS)
def test_adapted_rand_variant_equals_scikit_image(pair):
    kept = contingency_table(*pair).select(contingency_table(*pair).truth_ids != 0)
    sums = pair_sums(kept)
    assume(sums.truth + sums.prediction > 2 * kept.n_pixels)
    with np.errstate(all="ignore"):  # its precision and recall may be 0/0 where the error is not
        expected, _, _ = scikit_image_rand(*pair)
    assume(not math.isnan(expected))
    assert ADAPTED_RAND_VARIANTS["scikit-image"](contingency_table(*pair)) == pytest.approx(expected)


@given(LABELS)
def test_adapted_rand_of_the_paper_weighs_singletons_more(pair):
    assume(pair[0].any())
    table = contingency_table(*pair)
    assert ADAPTED_RAND_VARIANTS["paper"](table) == 1 - fg_rand_fscore(table)
    assert ADAPTED_RAND_VARIANTS["cremi"](table) == adapted_rand_error(table)
    if not np.any((pair[0] != 0) & (pair[1] == 0)):
        assert adapted_rand_error(table) == pytest.approx(1 - fg_rand_fscore(table))


@given(LABELS.map(lambda pair: pair[0]), st.permutations([1, 2, 3]))
def test_identical_partitions_are_perfect(truth, ids):
    assume(truth.any())
    table = contingency_table(truth, np.array([0, *ids])[truth] * 70_000)
    assert rand_error(table) == 0
    assert v_rand(table) == (1, 1, 1)
    assert vi(table) == (0, 0)
    assert adapted_rand_error(table) == 0
    assert v_info(table) == pytest.approx(1.0 if len(set(truth[truth > 0])) > 1 else 0.0)


def test_split_lowers_split_and_merge_lowers_merge():
    whole, halves = np.ones((1, 4), int), np.array([[1, 1, 2, 2]])
    assert v_rand(contingency_table(whole, halves)) == pytest.approx((2 / 3, 1 / 2, 1))
    assert v_rand(contingency_table(halves, whole)) == pytest.approx((2 / 3, 1, 1 / 2))
    assert vi(contingency_table(whole, halves)) == (1, 0)
    assert vi(contingency_table(halves, whole)) == (0, 1)


def test_pooling_adds_the_pairs_of_several_slices():
    whole, halves = np.ones((1, 4), int), np.array([[1, 1, 2, 2]])
    pooled = v_rand(contingency_table(whole, halves), contingency_table(whole, whole))
    assert pooled.split == (8 + 16) / (16 + 16)


def test_undefined_is_nan():
    empty = contingency_table(np.zeros((3, 3), int), np.ones((3, 3), int))
    scores = [*v_rand(empty), v_info(empty), fg_vi_nats(empty), *vi(empty, ignore_truth_background=True)]
    scores += [variant(empty) for variant in ADAPTED_RAND_VARIANTS.values()]
    assert all(math.isnan(score) for score in scores)
    assert math.isnan(rand_error(contingency_table(np.ones(1, int), np.ones(1, int))))


def test_large_images_do_not_overflow():
    table = contingency_table(np.array([1, 2]), np.array([1, 2]))
    for _ in range(33):  # 2**34 pixels; their pairs need 68 bits
        table = table + table
    assert rand_error(table) == 0
    assert v_rand(table) == (1, 1, 1)


DIAGONAL = np.eye(3, dtype=bool)
CORNERS = np.stack([np.diag([1, 0, 0]), np.diag([0, 1, 0]), np.diag([0, 1, 0])]).astype(bool)


@pytest.mark.parametrize(
    ("mask", "connectivity", "n"),
    [(DIAGONAL, None, 3), (DIAGONAL, 4, 3), (DIAGONAL, 8, 1)]
    + [(CORNERS, connectivity, n) for connectivity, n in ((None, 2), (6, 2), (18, 2), (26, 1))],
)
def test_components_by_connectivity(mask, connectivity, n):
    assert components(mask, connectivity).max() == n


def test_connectivity_is_of_the_dimensions():
    with pytest.raises(ConfigError, match="connectivity: 6; expected 4 or 8 in 2 dimensions"):
        components(DIAGONAL, 6)


@settings(max_examples=200)
@given(MASKS)
def test_thinning_equals_a_plain_flooding(mask):
    segments = components(mask)
    thinned = thin_borders(segments)
    np.testing.assert_array_equal(thinned, oracles.flood(segments))
    assert np.all(thinned[mask] == segments[mask])


@given(MASKS)
def test_grown_segments_never_touch(mask):
    thinned = thin_borders(components(mask))
    assert components(thinned > 0).max() == len(set(thinned[thinned > 0]))


def test_thinning_of_an_empty_slice_is_one_segment():
    assert np.all(thin_borders(np.zeros((4, 3), np.int64)) == 1)
