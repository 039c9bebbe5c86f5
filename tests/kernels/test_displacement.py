import math

import numpy as np
import pytest
from scipy import ndimage

from tests.kernels import oracles
from unetcli.errors import ConfigError
from unetcli.kernels.displacement import (
    Deformation,
    displacement_field,
    random_deformation,
    source_box,
    warp_image,
    warp_labels,
)

SHAPES = [(1, 31, 44), (1, 1, 9), (7, 12, 15), (2, 3, 1)]
EVERYTHING = {"std_px": 3.0, "rotation_rad": 3.0, "scale": 1.5, "shift_px": 4.0, "flip": True}


def deform(seed, shape, options=EVERYTHING):
    rng = np.random.default_rng(seed)
    grid = tuple(int(n) for n in rng.integers(2, 6, 3))
    return random_deformation(rng, shape, grid=grid, **options)


def read_mirrored(image, lo, hi):
    """Read a box that may lie outside of the image, mirrored at its border."""
    for axis, (a, b) in enumerate(zip(lo, hi, strict=True), start=image.ndim - 3):
        period = max(2 * (image.shape[axis] - 1), 1)
        at = np.abs(np.arange(a, b)) % period
        image = image.take(np.minimum(at, period - at) if image.shape[axis] > 1 else at * 0, axis)
    return image


def whole(shape):
    return (0, 0, 0), shape


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_field_equals_map_coordinates(shape, seed):
    deformation = deform(seed, shape)
    expected = oracles.displacement(deformation)
    np.testing.assert_allclose(displacement_field(deformation, *whole(shape)), expected, atol=1e-11)
    box = tuple(n // 3 for n in shape), tuple(n // 3 + 1 for n in shape)
    inside = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    np.testing.assert_allclose(displacement_field(deformation, *box), expected[(slice(None), *inside)], atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_linear_warp_equals_map_coordinates(shape, seed):
    deformation = deform(seed, shape)
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    lo, hi = source_box(deformation, *whole(shape))
    actual = warp_image(read_mirrored(image, lo, hi), lo, deformation, *whole(shape))
    at = oracles.source_positions(deformation)
    expected = [ndimage.map_coordinates(channel, at, order=1, mode="mirror") for channel in image]
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int64])
def test_labels_take_the_nearest_pixel(shape, dtype):
    for seed in range(5):
        deformation = deform(seed, shape)
        labels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
        lo, hi = source_box(deformation, *whole(shape))
        block = read_mirrored(labels, lo, hi)
        actual = warp_labels(block, lo, deformation, *whole(shape))
        at = np.floor(oracles.source_positions(deformation) + 0.5).astype(int) - lo[:, None, None, None]
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, block[tuple(at)])


@pytest.mark.parametrize("shape", [(1, 20, 24), (6, 9, 10)], ids=["plane", "volume"])
def test_cubic_warp_reproduces_quadratics(shape):
    """Keys' kernel with a = -1/2 is exact for polynomials of second degree."""
    for seed in range(5):
        deformation = deform(seed, shape)
        lo, hi = source_box(deformation, *whole(shape), order=3)
        z, y, x = np.meshgrid(*(np.arange(a, b) / 10 for a, b in zip(lo, hi, strict=True)), indexing="ij")
        block = (1 + y - 0.3 * x * x + 0.2 * y * x + 0.4 * y * y + 0.1 * z * z)[None]
        actual = warp_image(block, lo, deformation, *whole(shape), order=3)[0]
        z, y, x = oracles.source_positions(deformation) / 10
        expected = 1 + y - 0.3 * x * x + 0.2 * y * x + 0.4 * y * y + 0.1 * z * z
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", [1, 3])
def test_identity_changes_nothing(shape, order):
    deformation = Deformation(shape, np.zeros((3, 1, 3, 3)), np.eye(3), np.zeros(3))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    lo, hi = source_box(deformation, *whole(shape), order=order)
    block = read_mirrored(image, lo, hi)
    np.testing.assert_array_equal(warp_image(block, lo, deformation, *whole(shape), order=order), image)


@pytest.mark.parametrize("shape", [(1, 31, 44), (7, 12, 15)], ids=["plane", "volume"])
@pytest.mark.parametrize("order", [1, 3])
def test_any_box_gives_the_bytes_of_the_whole(shape, order):
    rng = np.random.default_rng(0)
    for seed in range(8):
        deformation = deform(seed, shape)
        image = rng.normal(size=(2, *shape)).astype(np.float32)
        labels = rng.integers(0, 99, shape)
        lo, hi = source_box(deformation, *whole(shape), order=order)
        full = warp_image(read_mirrored(image, lo, hi), lo, deformation, *whole(shape), order=order)
        full_labels = warp_labels(read_mirrored(labels, lo, hi), lo, deformation, *whole(shape))
        for _ in range(8):
            start = tuple(rng.integers(0, n) for n in shape)
            stop = tuple(rng.integers(a, n) + 1 for a, n in zip(start, shape, strict=True))
            inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            lo, hi = source_box(deformation, start, stop, order=order)
            tile = warp_image(read_mirrored(image, lo, hi), lo, deformation, start, stop, order=order)
            assert tile.tobytes() == full[(slice(None), *inside)].tobytes()
            tile = warp_labels(read_mirrored(labels, lo, hi), lo, deformation, start, stop)
            assert tile.tobytes() == full_labels[inside].tobytes()


def needed_box(deformation):
    at = oracles.source_positions(deformation).reshape(3, -1)
    hi = np.floor(at.max(1)) + 2
    if deformation.shape[0] == 1:
        hi[0] = 1
    return np.floor(at.min(1)), hi


@pytest.mark.parametrize("shape", [*SHAPES, (1, 90, 70), (9, 30, 40)], ids=str)
def test_source_box_covers_rough_fields(shape):
    for seed in range(30):
        deformation = deform(seed, shape)
        lo, hi = source_box(deformation, *whole(shape))
        needed_lo, needed_hi = needed_box(deformation)
        assert (lo <= needed_lo).all()
        assert (hi >= needed_hi).all()


@pytest.mark.parametrize("shape", [(1, 256, 200), (32, 64, 64)], ids=["plane", "volume"])
def test_source_box_is_tight_for_smooth_fields(shape):
    for seed in range(5):
        deformation = random_deformation(np.random.default_rng(seed), shape, std_px=5.0, rotation_rad=1.0)
        for actual, needed in zip(source_box(deformation, *whole(shape)), needed_box(deformation), strict=True):
            assert (abs(actual - needed) <= 2).all()


def test_a_block_that_is_too_small_is_refused():
    deformation = Deformation((1, 8, 8), np.zeros((3, 1, 3, 3)), np.eye(3), np.array([0, 0, 2.5]))
    with pytest.raises(ConfigError, match="does not cover"):
        warp_image(np.zeros((1, 1, 8, 8), np.float32), (0, 0, 0), deformation, *whole((1, 8, 8)))


def test_random_deformation_of_a_plane_stays_in_the_plane():
    for seed in range(20):
        deformation = deform(seed, (1, 30, 40))
        assert deformation.grid.shape[1] == 1
        assert not deformation.grid[0].any()
        assert deformation.matrix[0].tolist() == [1, 0, 0]
        assert deformation.offset[0] == 0


def test_random_deformation_follows_its_ranges_and_the_generator():
    drawn = [deform(seed, (5, 30, 40), {**EVERYTHING, "rotation_rad": 0.2}) for seed in range(300)]
    scales = np.array([abs(np.linalg.det(d.matrix)) ** (1 / 3) for d in drawn])
    assert scales.min() >= 1 / 1.5
    assert scales.max() <= 1.5
    assert abs(np.log(scales).mean()) < 0.05
    assert max(abs(d.offset).max() for d in drawn) <= 4
    assert all(abs(d.matrix[1, 2] / d.matrix[1, 1]) <= math.tan(0.2) + 1e-9 for d in drawn)
    assert np.mean([d.matrix[0, 0] < 0 for d in drawn]) == pytest.approx(0.5, abs=0.1)
    again = deform(3, (5, 30, 40), {**EVERYTHING, "rotation_rad": 0.2})
    np.testing.assert_array_equal(again.grid, drawn[3].grid)
    np.testing.assert_array_equal(again.matrix, drawn[3].matrix)


def test_displacements_have_the_standard_deviation_asked_for():
    grids = [random_deformation(np.random.default_rng(s), (4, 9, 9), std_px=(0, 5, 10)).grid for s in range(200)]
    np.testing.assert_allclose(np.std(grids, axis=(0, 2, 3, 4)), [0, 5, 10], rtol=0.05)


@pytest.mark.parametrize(
    ("grid", "offset", "message"),
    [(np.ones((3, 1, 3, 3)), np.zeros(3), "moved along z"), (np.zeros((2, 3, 3)), np.zeros(3), "expected")],
    ids=["leaves the plane", "wrong shape"],
)
def test_impossible_deformations_are_refused(grid, offset, message):
    with pytest.raises(ConfigError, match=message):
        Deformation((1, 9, 9), grid, np.eye(3), offset)
