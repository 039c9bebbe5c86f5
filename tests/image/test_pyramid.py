"""Each level is the mean, or the nearest pixel, of the one before, whatever the tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.conftest import Pixels
from unetcli.image import new_store, pyramid
from unetcli.image.axes import Axes
from unetcli.image.new_store import NewStore
from unetcli.image.pyramid import build_pyramids, create_two_levels, level_shapes, mean_2x2, mode_2x2, nearest_2x2
from unetcli.image.streaming import map_tiles, work_on
from unetcli.image.tiling import Box


def exact_mode(block):
    """Most frequent of 2x2 pixels, counted; of equally frequent ones the upper left pixel."""
    out = block[..., ::2, ::2].copy()
    for *rest, y, x in np.ndindex(out.shape):
        four = block[*rest, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        out[*rest, y, x] = max(four, key=four.count)  # the first of equals
    return out


INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32"]


def exact_mean(block):
    """Mean of 2x2 pixels in float64, exact for 32 bits; `rint` rounds half to even."""
    *rest, y, x = block.shape
    mean = block.astype(np.float64).reshape(*rest, y // 2, 2, x // 2, 2).mean(axis=(-3, -1))
    return np.rint(mean).astype(block.dtype)


@settings(max_examples=40)
@given(st.sampled_from(INTEGERS).flatmap(lambda d: hnp.arrays(d, (1, 2, 1, 4, 6))))
def test_integers_are_rounded_half_to_even(block):
    result = mean_2x2(block)
    assert result.dtype == block.dtype
    np.testing.assert_array_equal(result, exact_mean(block))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_extreme_values_do_not_overflow(dtype):
    limits = np.iinfo(dtype)
    for value in (limits.min, limits.max):
        assert (mean_2x2(np.full((1, 1, 1, 2, 2), value, dtype)) == value).all()


def test_halves_go_up_as_often_as_down():
    block = np.arange(4096)[:, None, None] + np.array([[0, 0], [1, 1]])
    assert mean_2x2(block.astype("uint16")).mean() == block.mean()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_averaged(dtype):
    block = np.random.default_rng(0).normal(size=(1, 1, 2, 8, 6)).astype(dtype)
    np.testing.assert_allclose(mean_2x2(block), block.reshape(1, 1, 2, 4, 2, 3, 2).mean(axis=(4, 6)), atol=1e-6)


def test_labels_keep_their_values():
    block = np.array([[7, 1, 2, 2], [1, 1, 2, 2]], dtype=np.uint32)
    assert nearest_2x2(block).tolist() == [[7, 2]]


@given(hnp.arrays("uint8", (1, 1, 2, 6, 8), elements=st.integers(0, 3)))
def test_the_most_frequent_class_stays(block):
    result = mode_2x2(block)
    assert result.dtype == block.dtype
    np.testing.assert_array_equal(result, exact_mode(block))


@pytest.mark.parametrize("share", [0.5, 0.3], ids=["half", "less"])
def test_of_equally_frequent_classes_none_grows(share):
    edges = (np.random.default_rng(0).random((400, 400)) < share).repeat(2, axis=1).astype("uint8")  # ties, mostly
    ties = edges[::2, ::2] != edges[1::2, ::2]
    assert mode_2x2(edges).mean() == pytest.approx(edges.mean(), abs=0.01)
    assert ties.mean() > 0.4


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 512), [(512, 512)]),
        ((1024, 1024), [(1024, 1024)]),
        ((1025, 30), [(1025, 30), (512, 15)]),
        ((4100, 2049), [(4100, 2049), (2050, 1024), (1025, 512), (512, 256)]),
        ((1, 5000), [(1, 5000)]),
        ((3, 9000), [(3, 9000), (1, 4500)]),
    ],
)
def test_levels_end_at_one_screen(shape, expected):
    assert level_shapes((2, 3, 5, *shape)) == [(2, 3, 5, *s) for s in expected]


@pytest.mark.parametrize("shard", [8, 32], ids=["many tiles", "few tiles"])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 64, 64), (1, 1, 1, 37, 51), (2, 1, 3, 33, 20), (1, 5, 1, 19, 40), (1, 2, 1, 3, 70)],
    ids=["even", "odd", "volume", "channels", "narrow"],
)
@pytest.mark.parametrize(
    ("reduce_2x2", "oracle"),
    [(mean_2x2, exact_mean), (nearest_2x2, lambda b: b[..., ::2, ::2]), (mode_2x2, exact_mode)],
)
@pytest.mark.parametrize("together", [False, True], ids=["level by level", "two at once"])
def test_any_tiling_gives_the_same_levels(tmp_path, monkeypatch, shape, shard, reduce_2x2, oracle, together):
    monkeypatch.setattr(new_store, "CHUNK", 4)
    monkeypatch.setattr(new_store, "SHARD", shard)
    monkeypatch.setattr(pyramid, "SMALLEST", 10)
    pixels = np.random.default_rng(0).choice(np.array([0, 1, 2, 2**16 - 1], "uint16"), shape)
    new = NewStore(tmp_path / "a.zarr", stage="prep", settings={}, inputs={})
    if together:
        both = create_two_levels(new, "", Axes.of("tczyx"), shape, np.dtype("uint16"), reduce_2x2)
        works = work_on("0", both.grid, [Pixels(pixels)], [both])
        map_tiles(lambda _, block: block, works, new.ledger, workers=2)
        first = both.finer
    else:
        first = new.level("", 0, Axes.of("tczyx"), shape, "uint16")
        first.write(Box.whole(shape), pixels)
    build_pyramids(new, {"": first}, reduce_2x2, above=int(together), workers=2)
    np.testing.assert_array_equal(first.read(Box.whole(shape)), pixels)
    shapes = level_shapes(shape)
    assert len(shapes) > 1
    for k, expected_shape in enumerate(shapes[1:], start=1):
        y, x = (n // 2 * 2 for n in pixels.shape[3:])
        pixels = oracle(pixels[..., :y, :x])
        level = new.level("", k, Axes.of("tczyx"), expected_shape, "uint16")
        assert level.shape == expected_shape
        np.testing.assert_array_equal(level.read(Box.whole(level.shape)), pixels)


def test_images_of_different_sizes_have_their_own_depth(tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 10)
    new = NewStore(tmp_path / "a.zarr", stage="prep", settings={}, inputs={})
    shapes = {"small": (1, 1, 1, 8, 8), "large": (1, 1, 1, 50, 30)}
    levels = {name: new.level(name, 0, Axes.of("yx"), shape, "uint8") for name, shape in shapes.items()}
    for level in levels.values():
        level.write(Box.whole(level.shape), np.full(level.shape, 9, "uint8"))
    build_pyramids(new, levels, mean_2x2)
    assert sorted(p.name for p in (tmp_path / "a.zarr" / "small").iterdir()) == ["0"]
    assert sorted(p.name for p in (tmp_path / "a.zarr" / "large").iterdir()) == ["0", "1", "2", "3"]
    last = new.level("large", 3, Axes.of("yx"), (1, 1, 1, 6, 3), "uint8")
    assert (last.read(Box.whole(last.shape)) == 9).all()


def test_finished_tiles_are_not_built_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 10)
    new = NewStore(tmp_path / "a.zarr", stage="prep", settings={}, inputs={})
    first = new.level("", 0, Axes.of("yx"), (1, 1, 1, 40, 40), "uint8")
    first.write(Box.whole(first.shape), np.zeros(first.shape))
    build_pyramids(new, {"": first}, mean_2x2)

    def never(_):
        raise AssertionError

    build_pyramids(new, {"": first}, never)
