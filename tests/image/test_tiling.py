"""Cores cover an image once; read boxes are cores with a halo; the mirror image is NumPy's."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetcli.image.tiling import Box, TileGrid, mirror_index, spans

five = st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(1, 23)] * 2)
cores = st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(1, 9)] * 2)
halos = st.tuples(*[st.integers(0, 2)] * 3, *[st.integers(0, 30)] * 2)


@given(five, cores, halos)
def test_cores_cover_the_image_once(shape, core, halo):
    grid = TileGrid(shape, core, halo)
    seen = np.zeros(shape, dtype=int)
    for index, tile in enumerate(grid):
        assert tile.index == index
        assert tile.core.clip(shape) == tile.core
        assert tile.read == tile.core.grow(halo)
        assert all(a % c == 0 for a, c in zip(tile.core.start, core, strict=True))
        seen[tile.core.slices] += 1
    assert (seen == 1).all()
    assert len(grid) == len(list(grid)) == math.prod(grid.counts)


@settings(max_examples=30)
@given(five, cores, halos)
def test_the_core_is_cut_out_of_what_was_read(shape, core, halo):
    for tile in TileGrid(shape, core, halo):
        rows = np.arange(tile.read.start[3], tile.read.stop[3])[:, None]
        columns = np.arange(tile.read.start[4], tile.read.stop[4])
        block = np.broadcast_to(1000 * rows + columns, tile.read.shape)
        first = 1000 * tile.core.start[3] + tile.core.start[4]
        for kept, shape_kept in (
            (tile.crop_core(block), tile.core.shape),
            (tile.crop_core(block[0, 0, 0]), tile.core.shape[3:]),
        ):
            assert kept.shape == shape_kept
            assert kept.flat[0] == first


@pytest.mark.parametrize(
    ("shape", "core"),
    [
        ((1, 1, 1, 5, 7), (1, 1, 1, 2, 3)),
        ((2, 1, 3, 4, 4), (1, 1, 2, 2, 4)),
        ((2, 2, 2, 3, 3), (1, 1, 1, 2, 2)),
        ((1, 1, 1, 4, 4), (1, 1, 1, 8, 8)),
    ],
    ids=["plane", "volumes", "all axes", "one tile"],
)
def test_faces_are_all_pairs_of_neighbours(shape, core):
    tiles = list(TileGrid(shape, core))
    expected = []
    for a, b in itertools.product(tiles, tiles):
        apart = [i for i in range(5) if a.core.start[i] != b.core.start[i]]
        if len(apart) == 1 and b.core.start[apart[0]] == a.core.stop[apart[0]]:
            expected.append((apart[0], a.index, b.index))
    assert sorted((axis, a.index, b.index) for axis, a, b in TileGrid(shape, core).faces()) == sorted(expected)


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_there_are_no_tiles_past_the_last(index):
    with pytest.raises(IndexError):
        TileGrid((1, 1, 1, 4, 4), (1, 1, 1, 2, 2))[index]


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 60))
def test_mirror_index_is_numpys_reflection(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(mirror_index(-before, size + after, size), expected)


@given(st.integers(1, 9), st.integers(-40, 40), st.integers(1, 20))
def test_any_range_shows_the_same_mirror_image(size, start, n):
    whole = mirror_index(-40, 70, size)
    np.testing.assert_array_equal(mirror_index(start, start + n, size), whole[start + 40 : start + 40 + n])


@given(st.integers(-20, 20), st.integers(0, 50), st.integers(1, 13))
def test_spans_follow_one_another(start, n, step):
    pieces = list(spans(start, start + n, step))
    assert [i for a, b in pieces for i in range(a, b)] == list(range(start, start + n))
    assert all(b - a == step for a, b in pieces[:-1])


def test_boxes():
    box = Box((0, 0, 0, -2, 5), (1, 3, 1, 4, 9))
    assert box.shape == (1, 3, 1, 6, 4)
    assert box.clip((1, 2, 1, 8, 7)) == Box((0, 0, 0, 0, 5), (1, 2, 1, 4, 7))
    assert box.grow((0, 0, 1, 2, 3)) == Box((0, 0, -1, -4, 2), (1, 3, 2, 6, 12))
    assert box.relative_to((0, 0, 0, -2, 5)) == Box.whole(box.shape)
    assert box.replace(3, 7, 8) == Box((0, 0, 0, 7, 5), (1, 3, 1, 8, 9))
    assert str(box) == "c 0:3 y -2:4 x 5:9"


def test_a_box_outside_clips_to_nothing():
    assert math.prod(Box((0, 0, 0, 9, 0), (1, 1, 1, 12, 4)).clip((1, 1, 1, 8, 8)).shape) == 0
