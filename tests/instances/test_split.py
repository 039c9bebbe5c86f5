"""Objects split by a watershed, against climbing pixel by pixel on the whole image."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.instances import oracles
from unetcli.kernels.heights import gaussian_weights

any_tiling = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbered(planes):
    """Number on through planes."""
    before = np.cumsum([0, *(plane.max() for plane in planes)])
    return np.stack([np.where(plane > 0, plane + n, 0) for plane, n in zip(planes, before, strict=False)])


def random_case(seed, ndim):
    rng = np.random.default_rng(seed)
    shape = (2, *rng.integers(1, 75, 2)) if ndim == 2 else (*rng.integers(2, 10, 1), *rng.integers(1, 24, 2))
    return rng, oracles.blobs(rng, shape)


@any_tiling
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([0.1, 0.5, 1, 3]), st.integers(1, 9), st.integers(1, 3))
def test_distances_in_planes(found, seed, full, depth, reach, workers):
    _, classes = random_case(seed, 2)
    options = {"split": "distance", "split_depth": depth, "split_reach": reach, "workers": workers}
    ids = found(classes, connectivity="full" if full else "faces", **options)
    steps = int(np.ceil(depth * 16))
    planes = [oracles.watershed(p, oracles.distances(p, (1, 1), reach), steps, full=full) for p in classes]
    np.testing.assert_array_equal(ids, numbered(planes))


@any_tiling
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([0.1, 0.5, 1]), st.sampled_from([1.0, 2.5]))
def test_distances_in_volumes(found, seed, full, depth, z):
    _, classes = random_case(seed, 3)
    options = {"split": "distance", "split_depth": depth, "split_reach": 4, "scale": {"z": z}}
    ids = found(classes, ndim=3, connectivity="full" if full else "faces", **options)
    heights = oracles.distances(classes, (z, 1, 1), 4)
    expected = oracles.watershed(classes, heights, int(np.ceil(depth * 16)), full=full)
    np.testing.assert_array_equal(ids, expected)


@any_tiling
@given(
    st.integers(0, 2**32), st.sampled_from([2, 3]), st.sampled_from([0.001, 0.05, 0.3]), st.sampled_from([0, 0.7, 2])
)
def test_probabilities(found, seed, ndim, depth, sigma):
    rng, classes = random_case(seed, ndim)
    probabilities = rng.uniform(0, 1, (3, *classes.shape)).astype(np.float32)
    options = {"split": "probability", "split_depth": depth, "split_sigma": sigma}
    ids = found(classes, ndim=ndim, probabilities=probabilities, **options)
    heights = np.zeros(classes.shape, np.int64)
    for value in (1, 2):
        smooth = np.rint(probabilities[value] * 65535).astype(float)
        for axis in range(1 if ndim == 2 else 0, 3):
            smooth = ndimage.correlate1d(smooth, gaussian_weights(sigma) / 4096, axis, mode="mirror")
        heights = np.where(classes == value, np.floor(smooth + 0.5), heights).astype(np.int64)
    steps = int(np.ceil(depth * 65535))
    if ndim == 3:
        expected = oracles.watershed(classes, heights, steps, full=False)
    else:
        expected = numbered(
            [oracles.watershed(*plane, steps, full=False) for plane in zip(classes, heights, strict=True)]
        )
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(("apart", "n"), [(14, 2), (18, 2), (6, 1), (0, 1)])
@pytest.mark.parametrize("at", [32, 40, 25])
def test_two_cells_that_touch(found, apart, n, at):
    y, x = np.indices((64, 96))
    mask = ((y - at) ** 2 + (x - 30) ** 2 <= 100) | ((y - at) ** 2 + (x - 30 - apart) ** 2 <= 100)
    assert found(mask[None].astype(np.uint8), split="distance").max() == n


def test_a_cell_with_a_hole_is_not_split_once_it_is_filled(found):
    y, x = np.indices((64, 64))
    square = (y - 31) ** 2 + (x - 31) ** 2
    ring = ((square <= 400) & (square >= 30))[None].astype(np.uint8)
    assert found(ring, split="distance", fill_holes=True).max() == 1
