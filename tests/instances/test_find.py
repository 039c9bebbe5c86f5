"""Objects found tile by tile, against SciPy and scikit-image on the whole image."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.instances import oracles

any_tiling = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@any_tiling
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([2, 3]), st.integers(1, 3))
def test_ids_equal_scipy_on_the_whole(found, seed, full, ndim, workers):
    rng = np.random.default_rng(seed)
    classes = oracles.blobs(rng, oracles.random_shape(rng, ndim), n_classes=1)
    structure = ndimage.generate_binary_structure(3, 3 if full else 1)
    structure[[0, 2]] &= ndim == 3
    expected, _ = ndimage.label(classes, structure)
    connectivity = "full" if full else "faces"
    np.testing.assert_array_equal(found(classes, ndim=ndim, connectivity=connectivity, workers=workers), expected)


@any_tiling
@given(st.integers(0, 2**32), st.sampled_from([2, 3]), st.integers(1, 30), st.booleans(), st.booleans())
def test_classes_sizes_and_holes(found, seed, ndim, min_size, full, fill):
    rng = np.random.default_rng(seed)
    classes = oracles.blobs(rng, oracles.random_shape(rng, ndim))
    connectivity = "full" if full else "faces"
    ids = found(classes, ndim=ndim, min_size=min_size, fill_holes=fill, connectivity=connectivity)
    if fill:
        classes = oracles.over_planes(oracles.fill_holes, classes, ndim, full=full)
    np.testing.assert_array_equal(ids, oracles.keep_large(oracles.label_all(classes, ndim, full=full), min_size))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
def test_objects_of_a_threshold(found, dtype, threshold):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 2, 70, 50)), (0, 0, 3, 3)) * 20
    probabilities = np.exp(smooth) / np.exp(smooth).sum(axis=0)
    stored = np.rint(probabilities * 255).astype(dtype) if dtype == "uint8" else probabilities.astype(dtype)
    steps = stored * 257.0 if dtype == "uint8" else np.rint(stored.astype(np.float32) * 65535)
    expected = np.where(65535 - steps[0] >= threshold * 65535, 1 + steps[1:].argmax(axis=0), 0).astype(np.uint8)
    ids = found(np.zeros((2, 70, 50), np.uint8), probabilities=stored, threshold=threshold)
    np.testing.assert_array_equal(ids, oracles.label_all(expected, 2, full=False))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 33, 1), (2, 64, 64)], ids=str)
@pytest.mark.parametrize("value", [0, 3])
def test_nothing_and_everything(found, shape, value):
    ids = found(np.full(shape, value, np.uint8), fill_holes=True)
    assert ids.max() == (shape[0] if value else 0)
