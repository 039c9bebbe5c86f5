import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path
from scipy import ndimage

from unetcli.kernels.outline import trace


def area(ring):
    x, y = ring.T
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2


def drawn(rings, shape):
    """Return the pixels whose centres are inside of an odd number of rings."""
    y, x = np.indices(shape) + 0.5
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= Path(ring).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(shape)
    return inside


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_rings_are_those_of_a_valid_polygon(seed):
    rng = np.random.default_rng(seed)
    labels, n = ndimage.label(rng.random(rng.integers(1, 14, 2)) < rng.uniform(0.3, 0.9))
    for mask in (labels == i for i in range(1, n + 1)):
        rings = trace(mask)
        np.testing.assert_array_equal(drawn(rings, mask.shape), mask)
        assert [area(ring) > 0 for ring in rings] == [True] + [False] * (len(rings) - 1)
        assert sum(map(area, rings)) == mask.sum()
        for ring in rings:
            assert ring[0].tolist() == ring[-1].tolist()
            assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1  # touches itself nowhere
            along_x = np.diff(np.concatenate([ring, ring[1:2]]), axis=0)[:, 0] != 0
            assert (along_x[1:] != along_x[:-1]).all()  # corners only


@pytest.mark.parametrize(
    ("mask", "n_rings"),
    [(["###", "#.#", "###"], 2), (["####", "#.##", "##.#", "####"], 3), (["###", "#..", "#.#", "###"], 1), (["."], 0)],
    ids=["hole", "holes that touch", "bay", "nothing"],
)
def test_holes(mask, n_rings):
    assert len(trace(np.array([[c == "#" for c in row] for row in mask]))) == n_rings
