"""Holes of objects, against SciPy on the whole image."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Pixels
from tests.instances import oracles
from unetcli.image.ledger import Ledger
from unetcli.image.tiling import Box
from unetcli.instances.holes import fill_holes


def filled(folder, classes, ndim, *, full=False, workers=2):
    level = fill_holes("image", Pixels(classes), Ledger(folder / "x", {}), ndim, full=full, workers=workers)
    return level.read(Box.whole(level.shape))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (["#####", "#...#", "#...#", "#####"], ["#####", "#####", "#####", "#####"]),
        (["#####", "#...#", "#.a.#", "#...#", "#####"], ["#####", "#...#", "#.a.#", "#...#", "#####"]),
        (["##a", "#.a", "##a"], ["##a", "#.a", "##a"]),
        (["###", "#.#", "#.#"], ["###", "#.#", "#.#"]),
        (["####", "#.##", "##.#", "####"], ["####", "####", "####", "####"]),
        ([".##.", "#..#", ".##."], [".##.", "#..#", ".##."]),
    ],
    ids=["hole", "with another object", "between two", "open to the edge", "diagonal", "of several objects"],
)
def test_what_a_hole_is(tmp_path, small_tiles, picture, expected):
    classes, wanted = (np.array([[".#a".index(c) for c in row] for row in p], np.uint8) for p in (picture, expected))
    np.testing.assert_array_equal(filled(tmp_path, classes[None, None, None], 2)[0, 0, 0], wanted)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([2, 3]), st.integers(1, 3))
def test_any_tiling_equals_scipy_on_the_whole(small_tiles, tmp_path_factory, seed, full, ndim, workers):
    rng = np.random.default_rng(seed)
    classes = oracles.blobs(rng, oracles.random_shape(rng, ndim))
    found = filled(tmp_path_factory.mktemp("holes"), classes[None, None], ndim, full=full, workers=workers)[0, 0]
    np.testing.assert_array_equal(found, oracles.over_planes(oracles.fill_holes, classes, ndim, full=full))
