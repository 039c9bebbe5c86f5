"""Training patches are centred where there is density, and lie anywhere without one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Pixels
from tests.test_sampling import ALL, PLAIN, STILL, example
from unetcli.config import DeformConfig
from unetcli.errors import InputError
from unetcli.image.density import BlockCounts, Density, count_blocks
from unetcli.image.tiling import TileGrid
from unetcli.sampling import draw_sample

STILL_CONFIG = DeformConfig(**STILL, **PLAIN)


def dense(density, shape):
    """Return an example of a shape with a density for each block (t, 1, z, y, x)."""
    return replace(example(shape), density=Density(Pixels(np.asarray(density, np.float32)), shape))


def centres(planes, n, ndim=2):
    """Return t, z, y and x of the first regions of one pixel."""
    drawn = [draw_sample(planes, STILL_CONFIG, 0, k, 1, ndim) for k in range(n)]
    return np.array([(s.t, *s.origin) for s in drawn])


def test_regions_are_centred_by_density():
    shape = (1, 1, 1, 70, 100)
    density = np.array([[0.0, 1.0, 0.0, 0.25], [0.5, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    at = centres([(dense(density[None, None, None], shape), 0, 0)], 2000)
    y, x = at[:, 2], at[:, 3]
    counts = np.histogram2d(y, x, bins=[[0, 32, 64, 96], [0, 32, 64, 96, 128]])[0]
    mass = density * np.outer([32, 32, 6], [32, 32, 32, 4])
    assert not counts[density == 0].any()
    np.testing.assert_allclose(counts / 2000, mass / mass.sum(), atol=0.035)
    assert set(y[(y < 32) & (x >= 32) & (x < 64)]) == set(range(32))  # anywhere in the block
    assert set(x[y >= 64]) == set(range(32, 64))


def test_planes_are_drawn_by_their_density():
    shape = (2, 1, 2, 40, 40)
    density = np.zeros((2, 1, 2, 2, 2))
    density[0, 0, 1], density[1, 0, 0] = 1, 0.5
    item = dense(density, shape)
    at = centres([(item, t, z) for t in range(2) for z in range(2)], 600)
    planes, counts = np.unique(at[:, :2], axis=0, return_counts=True)
    assert planes.tolist() == [[0, 1], [1, 0]]
    assert counts[0] / 600 == pytest.approx(2 / 3, abs=0.06)
    assert set(centres([(item, t, 0) for t in range(2)], 50, ndim=3)[:, 1]) == {0, 1}


def test_regions_in_volumes_are_centred_by_density():
    density = np.zeros((1, 1, 10, 2, 2))
    density[0, 0, 7, 1, 0] = 1
    at = centres([(dense(density, (1, 1, 10, 60, 50)), 0, 0)], 40, ndim=3)
    assert set(at[:, 1]) == {7}
    assert at[:, 2].min() >= 32
    assert at[:, 3].max() < 32


def test_a_region_by_density_lies_in_the_image():
    density = np.zeros((1, 1, 1, 2, 2))
    density[..., 1, 1] = 1
    for k in range(20):
        sample = draw_sample([(dense(density, (1, 1, 1, 40, 50)), 0, 0)], STILL_CONFIG, 0, k, 32, 2)
        assert sample.origin[:2] == (0, 8)  # the centre is at 32 or more, but the image ends at 40
        assert 16 <= sample.origin[2] <= 18
    large = draw_sample([(dense(density, (1, 1, 1, 40, 50)), 0, 0)], STILL_CONFIG, 0, 0, 60, 2)
    assert large.origin == (0, -10, -5)


def test_a_density_of_nothing():
    planes = [(dense(np.zeros((1, 1, 1, 2, 2)), (1, 1, 1, 40, 50)), 0, 0)]
    with pytest.raises(InputError, match="sampling map of the weights is 0"):
        draw_sample(planes, STILL_CONFIG, 0, 0, 16, 2)
    draw_sample(planes, STILL_CONFIG, 0, 0, None, 2)  # a whole plane has no centre to choose


def test_without_a_density_regions_lie_where_they_always_did():
    plain = [(example((1, 2, 4, 60, 70)), 0, z) for z in range(4)]
    found = [draw_sample(plain, ALL, 3, k, 32, 2).origin for k in range(4)]
    assert found == [(0, 5, 9), (1, 16, 15), (0, 16, 28), (0, 8, 12)]


@given(st.data())
def test_blocks_add_up_whatever_the_parts(data):
    shape = (
        data.draw(st.integers(1, 2)),
        1,
        data.draw(st.integers(1, 2)),
        *data.draw(st.tuples(*[st.integers(1, 80)] * 2)),
    )
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, shape)
    counts = BlockCounts(shape)
    for tile in TileGrid(shape, (1, 1, 1, *data.draw(st.tuples(*[st.integers(5, 90)] * 2)))):
        part = kinds[tile.core.slices]
        counts.add(tile.core, count_blocks(tile.core, part == 1, part == 2))
    found = counts.density(0.5)
    density = np.array([0, 1, 0.5])[kinds]
    for t, c, z, y, x in np.ndindex(found.shape):
        block = density[t, c, z, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
        assert found[t, c, z, y, x] == pytest.approx(block.mean())
