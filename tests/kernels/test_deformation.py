import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import oracles
from tests.kernels.deformations import EVERYTHING, SHAPES, deform, displacement_field, whole
from unetcli.errors import ConfigError
from unetcli.kernels.deformation import (
    Deformation,
    random_deformation,
    source_box,
    source_positions,
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_field_equals_map_coordinates(shape, seed):
    deformation = deform(seed, shape)
    expected = oracles.displacement(deformation)
    np.testing.assert_allclose(displacement_field(deformation, *whole(shape)), expected, atol=1e-11)
    box = tuple(n // 3 for n in shape), tuple(n // 3 + 1 for n in shape)
    inside = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    np.testing.assert_allclose(displacement_field(deformation, *box), expected[(slice(None), *inside)], atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_positions_equal_the_field_and_the_affine_map(shape):
    for seed in range(20):
        deformation = deform(seed, shape)
        lattice = [np.arange(0, n, 3) for n in shape]
        expected = oracles.source_positions(deformation)[(slice(None), *np.ix_(*lattice))]
        np.testing.assert_allclose(source_positions(deformation, lattice), expected, atol=1e-10)


@pytest.mark.parametrize("points", [2, 3, 5])
def test_outside_of_the_region_the_field_is_mirrored(points):
    deformation = random_deformation(np.random.default_rng(points), (4, 9, 12), grid=(points,) * 3)
    field = displacement_field(deformation, (-3, -8, -11), (7, 17, 23))
    np.testing.assert_allclose(
        field, np.pad(field[:, 3:7, 8:17, 11:23], ((0, 0), (3, 3), (8, 8), (11, 11)), mode="reflect"), atol=1e-10
    )


def test_one_control_point_moves_an_axis_as_a_whole():
    deformation = random_deformation(np.random.default_rng(0), (6, 20, 30), grid=(1, 3, 1))
    field = displacement_field(deformation, *whole((6, 20, 30)))
    np.testing.assert_allclose(field, np.broadcast_to(field[:, :1, :, :1], field.shape), atol=1e-12)
    assert np.ptp(field, axis=2).min() > 1


@pytest.mark.parametrize(
    ("shape", "grid"), [((50, 70), (3, 3)), ((41, 64), (2, 5)), ((9, 20, 25), (2, 3, 4))], ids=["3x3", "2x5", "volume"]
)
def test_field_is_that_of_elasticdeform(shape, grid):
    elasticdeform = pytest.importorskip("elasticdeform", reason="elasticdeform is not installed")
    vectors = np.random.default_rng(0).normal(size=(len(shape), *grid)) * 3
    ramps = [n.astype(float) for n in np.indices(shape)]  # resampled linearly, a ramp shows its own positions
    shown = elasticdeform.deform_grid(ramps, vectors, order=1, mode="nearest")
    full = np.zeros((3, *([1] * (3 - len(shape))), *grid))
    full[3 - len(shape) :] = vectors.reshape(len(shape), *full.shape[1:])
    deformation = Deformation((*([1] * (3 - len(shape))), *shape), full, np.eye(3), np.zeros(3))
    ours = source_positions(deformation, [np.arange(n) for n in deformation.shape])[3 - len(shape) :]
    for at, there, n in zip(ours.reshape(len(shape), *shape), shown, shape, strict=True):
        np.testing.assert_allclose(at.clip(0, n - 1), there, atol=1e-3)


def needed_box(deformation, start, stop):
    inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    at = oracles.source_positions(deformation)[(slice(None), *inside)].reshape(3, -1)
    hi = np.floor(at.max(1)) + 2
    if deformation.shape[0] == 1:
        hi[0] = 1
    return np.floor(at.min(1)), hi


@pytest.mark.parametrize("shape", [*SHAPES, (1, 90, 70), (9, 30, 40)], ids=str)
def test_source_box_covers_rough_fields(shape):
    for seed in range(30):
        deformation = deform(seed, shape)
        lo, hi = source_box(deformation, *whole(shape))
        needed_lo, needed_hi = needed_box(deformation, *whole(shape))
        assert (lo <= needed_lo).all()
        assert (hi >= needed_hi).all()


@settings(max_examples=100)
@given(st.data())
def test_source_box_covers_any_box(data):
    shape = data.draw(st.tuples(st.sampled_from([1, 1, 5]), st.integers(1, 150), st.integers(1, 150)))
    grid = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)))
    seed = data.draw(st.integers(0, 99))
    deformation = random_deformation(np.random.default_rng(seed), shape, grid=grid, **{**EVERYTHING, "std_px": 40})
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    lo, hi = source_box(deformation, start, stop)
    needed_lo, needed_hi = needed_box(deformation, start, stop)
    assert (lo <= needed_lo).all()
    assert (hi >= needed_hi).all()
    wider_lo, wider_hi = source_box(deformation, start, stop, order=3)
    assert ((lo - wider_lo).max(), (wider_hi - hi).max()) == (1, 1)


@pytest.mark.parametrize("shape", [(1, 256, 200), (32, 64, 64)], ids=["plane", "volume"])
def test_source_box_is_tight_for_smooth_fields(shape):
    for seed in range(5):
        deformation = random_deformation(np.random.default_rng(seed), shape, std_px=5.0, rotation_rad=1.0)
        found, needed = source_box(deformation, *whole(shape)), needed_box(deformation, *whole(shape))
        assert all((abs(a - b) <= 2).all() for a, b in zip(found, needed, strict=True))


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
    grids = [random_deformation(np.random.default_rng(s), (4, 9, 9), std_px=5).grid for s in range(200)]
    np.testing.assert_allclose(np.std(grids, axis=(0, 2, 3, 4)), 5, rtol=0.05)


@pytest.mark.parametrize("shape", [(1, 30, 40), (5, 30, 40)], ids=["plane", "volume"])
def test_in_space_a_deformation_is_the_same_for_any_spacing(shape):
    spacing = np.array([5.0, 2.0, 1.0])
    for seed in range(20):
        plain, spaced = (
            random_deformation(np.random.default_rng(seed), shape, **EVERYTHING, spacing=s)
            for s in ((1, 1, 1), spacing)
        )
        np.testing.assert_allclose(spaced.grid * spacing[:, None, None, None], plain.grid, atol=1e-12)
        np.testing.assert_allclose(spaced.offset * spacing, plain.offset, atol=1e-12)
        np.testing.assert_allclose(spacing[:, None] * spaced.matrix / spacing, plain.matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("grid", "offset", "message"),
    [
        (np.ones((3, 1, 3, 3)), np.zeros(3), "moved along z"),
        (np.zeros((2, 3, 3)), np.zeros(3), "expected"),
        (np.zeros((3, 1, 3, 3)), np.array([0, 0, 2.0**30]), "may reach"),
        (np.eye(3)[:, 1].reshape(3, 1, 1, 1) * 1e300, np.zeros(3), "may reach"),
    ],
    ids=["leaves the plane", "wrong shape", "shifted too far", "vectors too long"],
)
def test_impossible_deformations_are_refused(grid, offset, message):
    with pytest.raises(ConfigError, match=message):
        Deformation((1, 9, 9), grid, np.eye(3), offset)
