from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import oracles
from unetcli.kernels.labels import face_pairs, label_components, merge


def random_classes(rng, shape):
    """Noise smoothed by chance: large and tangled as well as tiny components."""
    blocks = rng.integers(1, 4)
    coarse = rng.integers(0, rng.choice([2, 3, 5]), [-(-n // blocks) for n in shape])
    for axis in range(3):
        coarse = coarse.repeat(blocks, axis)
    return coarse[tuple(slice(n) for n in shape)].astype(np.uint8)


def label_by_tiles(classes, cuts):
    """Label each tile alone, then merge: what a driver does with a store."""
    spans = [list(pairwise(c)) for c in cuts]
    ids, first, n = np.zeros(classes.shape, np.int64), [np.empty(0, np.int64)], 0
    raster = np.arange(classes.size).reshape(classes.shape)
    for z in spans[0]:
        for y in spans[1]:
            for x in spans[2]:
                box = slice(*z), slice(*y), slice(*x)
                labels, starts = label_components(classes[box])
                ids[box] = np.where(labels > 0, labels + np.int64(n), 0)
                first.append(raster[box].reshape(-1)[starts])
                n += len(starts)
    pairs = [np.empty((0, 2), np.int64)]
    for axis in range(3):
        for cut in cuts[axis][1:-1]:
            a, b = ([ids.take(i, axis), classes.take(i, axis)] for i in (cut - 1, cut))
            pairs.append(face_pairs(*a, *b))
    return merge(n, np.concatenate(pairs), np.concatenate(first))[ids]


@given(st.integers(0, 2**32), st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)))
@settings(max_examples=200)
def test_any_tiling_equals_scikit_image_on_the_whole(seed, shape):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, shape)
    cuts = [np.unique([0, n, *rng.integers(0, n + 1, rng.integers(0, 4))]) for n in shape]
    np.testing.assert_array_equal(label_by_tiles(classes, cuts), oracles.label(classes))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_first_is_the_first_pixel_in_raster_order(dtype):
    rng = np.random.default_rng(0)
    classes = random_classes(rng, (1, 40, 50)).astype(dtype)
    labels, first = label_components(classes)
    assert labels.dtype == np.uint32
    ids, expected = np.unique(labels, return_index=True)
    assert labels.reshape(-1)[first].tolist() == list(range(1, len(first) + 1))
    assert first.tolist() == expected[ids > 0].tolist()
    np.testing.assert_array_equal(labels, oracles.label(classes))


@pytest.mark.parametrize("shape", [(1, 0, 3), (0, 2, 2), (1, 4, 4)], ids=str)
def test_nothing_but_background(shape):
    labels, first = label_components(np.zeros(shape, np.uint8))
    assert labels.shape == shape
    assert not labels.any()
    assert first.size == 0
    assert merge(0, np.empty((0, 2), np.int64), first).tolist() == [0]


def test_spiral_needs_many_merges():
    classes = np.zeros((1, 41, 41), np.uint8)
    for i in range(0, 20, 2):
        classes[0, i : 41 - i, i] = classes[0, i, i : 41 - i] = 1
        classes[0, 40 - i, i : 41 - i] = classes[0, i + 2 : 41 - i, 40 - i] = 1
    np.testing.assert_array_equal(label_components(classes)[0], oracles.label(classes))


def test_face_pairs_are_unique_and_of_one_class():
    ids_a, ids_b = np.array([[1, 1, 2, 0]], np.uint64), np.array([[5, 5, 6, 7]], np.uint64)
    pairs = face_pairs(ids_a, np.array([[1, 1, 1, 0]]), ids_b, np.array([[1, 1, 2, 1]]))
    assert pairs.tolist() == [[1, 5]]
