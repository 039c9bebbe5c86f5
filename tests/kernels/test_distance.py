import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import oracles
from unetcli.kernels.distance import nearest_two

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (0.3, 0.5, 1.7)]


def random_labels(rng, *, is_volume, dtype=np.uint32):
    """Scattered pixels of few or many ids, from nearly none to nearly all."""
    shape = tuple(rng.integers(1, 12, 3)) if is_volume else (1, *rng.integers(1, 30, 2))
    density = rng.choice([0.003, 0.03, 0.3, 0.9])
    ids = rng.integers(1, rng.choice([2, 3, 6, 50]), shape)
    return np.where(rng.random(shape) < density, ids, 0).astype(dtype)


@pytest.mark.parametrize("is_volume", [False, True], ids=["plane", "volume"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("reach", [0, 1, 2.5, 7, 31.3, np.inf])
def test_equals_one_transform_per_object(is_volume, spacing, reach):
    rng = np.random.default_rng(0)
    for dtype in (np.uint32, np.int64) * 10:
        labels = random_labels(rng, is_volume=is_volume, dtype=dtype)
        for actual, expected in zip(
            nearest_two(labels, spacing=spacing, reach=reach),
            oracles.nearest_two(labels, spacing, reach),
            strict=True,
        ):
            assert actual.dtype == np.float32
            np.testing.assert_allclose(actual, expected, rtol=2e-7)


def test_integer_distances_are_exact():
    labels = random_labels(np.random.default_rng(3), is_volume=False)
    for actual, expected in zip(nearest_two(labels, reach=9), oracles.nearest_two(labels, (1, 1, 1), 9), strict=True):
        np.testing.assert_array_equal(actual, expected.astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 0, 5), (1, 5, 0), (0, 3, 3), (1, 1, 1)], ids=str)
def test_empty_arrays_and_images_without_objects(shape):
    d1, d2 = nearest_two(np.zeros(shape, np.uint32), reach=5)
    assert d1.shape == d2.shape == shape
    assert np.isinf(d1).all()
    assert np.isinf(d2).all()


def test_one_object_has_no_second():
    labels = np.zeros((1, 4, 5), np.int64)
    labels[0, 0, 0] = 7
    d1, d2 = nearest_two(labels, reach=2)
    assert d1[0, 0].tolist() == [0, 1, 2, np.inf, np.inf]
    assert np.isinf(d2).all()


SHAPES = st.one_of(
    st.tuples(st.just(1), st.integers(1, 25), st.integers(1, 150)),
    st.tuples(st.integers(2, 7), st.integers(1, 12), st.integers(1, 80)),
)


ANY_LABELS = {
    "seed": st.integers(0, 2**32),
    "shape": SHAPES,
    "density": st.sampled_from([0, 0.001, 0.01, 0.1, 0.5, 1]),
    "n_ids": st.sampled_from([1, 2, 3, 20]),
    "spacing": st.sampled_from(SPACINGS),
}
"""What `draw_labels` takes, and the pixel size: from nothing to all, of one object or many, of any shape."""


def draw_labels(seed, shape, density, n_ids):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < density, rng.integers(1, n_ids + 1, shape), 0)


@given(**ANY_LABELS, reach=st.sampled_from([0.0, 3.0, 20.0, np.inf]))
@settings(max_examples=200, deadline=None)
def test_any_shape_equals_one_transform_per_object(seed, shape, density, n_ids, spacing, reach):
    labels = draw_labels(seed, shape, density, n_ids)
    found = nearest_two(labels, spacing=spacing, reach=reach)
    np.testing.assert_allclose(found, oracles.nearest_two(labels, spacing, reach), rtol=5e-7)


@given(seed=st.integers(0, 2**32), shape=SHAPES, spacing=st.sampled_from(SPACINGS))
@settings(max_examples=50, deadline=None)
def test_large_ids_change_no_byte(seed, shape, spacing):
    """Ids above 2**24 are worked on in wider numbers."""
    labels = draw_labels(seed, shape, 0.05, 9)
    large = np.where(labels > 0, labels + (2**32 - 10), 0)
    for a, b in zip(*(nearest_two(x, spacing=spacing, reach=20.0) for x in (labels, large)), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", [(1, 700, 3), (1, 3, 700), (700, 2, 2), (2, 700, 2)], ids=str)
def test_distances_of_hundreds_of_pixels(shape):
    labels = np.zeros(shape, np.uint8)
    labels[0, 0, 0], labels[-1, -1, -1] = 1, 2
    expected = oracles.nearest_two(labels, (1, 1, 1), np.inf)
    np.testing.assert_allclose(nearest_two(labels, reach=np.inf), expected, rtol=2e-7)


def test_ids_of_more_than_32_bits_stay_apart():
    labels = np.array([[[1, 0, 1 + 2**32, 0, 1]]])
    d1, d2 = nearest_two(labels, reach=9)
    assert d1[0, 0].tolist() == [0, 1, 0, 1, 0]
    assert d2[0, 0].tolist() == [2, 1, 2, 1, 2]


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_any_tile_with_its_halo_gives_the_bytes_of_the_whole(spacing):
    rng = np.random.default_rng(1)
    reach = 4.6
    for _ in range(40):
        labels = random_labels(rng, is_volume=bool(rng.integers(2)))
        whole = nearest_two(labels, spacing=spacing, reach=reach)
        start = [rng.integers(0, n) for n in labels.shape]
        stop = [rng.integers(a, n) + 1 for a, n in zip(start, labels.shape, strict=True)]
        halo = [int(np.ceil(reach / s)) for s in spacing]
        read = tuple(slice(max(a - h, 0), b + h) for a, b, h in zip(start, stop, halo, strict=True))
        core = tuple(slice(a - r.start, b - r.start) for a, b, r in zip(start, stop, read, strict=True))
        inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        for tile, full in zip(nearest_two(labels[read], spacing=spacing, reach=reach), whole, strict=True):
            assert tile[core].tobytes() == full[inside].tobytes()
