"""Resampling: equal to an obvious slow version, whatever box is read, and never much of the source at once."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import downscale_local_mean, resize

from tests.conftest import Pixels
from unetcli.errors import UnetcliError
from unetcli.image.axes import Axes
from unetcli.image.resample import BLOCK, Resampled, Resampling, factors_to, resampled, snapped, taps
from unetcli.image.tiling import Box, TileGrid

METHODS = ["area", "bilinear", "nearest"]


def weights(method, factor, i, size):
    """Return how much each source pixel counts for pixel i, along one axis: {pixel: exact weight}."""
    factor = Fraction(factor)
    centre = (i + Fraction(1, 2)) * factor
    if method == "nearest":
        return {min(math.floor(centre + Fraction(1, 10**9)), size - 1): Fraction(1)}  # as a float may round
    if method == "bilinear":
        inside = {}
        for k in range(math.floor(centre) - 1, math.floor(centre) + 2):
            edge = min(max(k, 0), size - 1)
            inside[edge] = inside.get(edge, 0) + max(0, 1 - abs(centre - k - Fraction(1, 2)))
        return inside
    low, high = i * factor, min((i + 1) * factor, Fraction(size))
    covered = {k: min(high, k + 1) - max(low, k) for k in range(size)}
    return {k: w / (high - low) for k, w in covered.items() if w > 0}


def slow(array, factors, method):
    """Resample (z, y, x) pixel by pixel, in exact arithmetic; return floats."""
    shape = [max(1, math.floor(n / f + 1e-6)) for n, f in zip(array.shape, factors, strict=True)]
    found = np.empty(shape)
    tables = [
        [weights(method or ("area" if f > 1 else "bilinear"), f, i, n) for i in range(m)]
        for f, n, m in zip(factors, array.shape, shape, strict=True)
    ]
    for z, y, x in np.ndindex(*shape):
        found[z, y, x] = float(
            sum(
                wz * wy * wx * Fraction(float(array[k, j, i]))
                for k, wz in tables[0][z].items()
                for j, wy in tables[1][y].items()
                for i, wx in tables[2][x].items()
            )
        )
    return found


def whole(source):
    return source.read(Box.whole(source.shape))


def image(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.normal(0, 100, shape).astype(dtype)
    return rng.integers(0, min(60_000, np.iinfo(dtype).max), shape, endpoint=True).astype(dtype)


factors = st.one_of(st.integers(1, 6).map(float), st.floats(0.2, 7), st.sampled_from([0.5, 1.5, 2.5, 2 / 3, 1 / 3]))


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13)),
    st.tuples(st.sampled_from([1.0, 1.0, 2.0, 1.5, 0.5]), factors, factors),
    st.sampled_from([*METHODS, None]),
    st.sampled_from(["float32", "float64"]),
)
def test_equals_the_obvious_slow_version(shape, by, method, dtype):
    array = image(shape, dtype)
    found = whole(resampled(Pixels(array[None, None]), by, method))[0, 0]
    expected = slow(array, by, method)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int32", "float16", "float32"])
@pytest.mark.parametrize("factor", [2, 3, 4, 6, 8])
def test_whole_factors_give_means_of_blocks_rounded_half_to_even(dtype, factor):
    array = image((50, 61), "uint8").astype(dtype) if dtype in ("bool", "float16") else image((50, 61), dtype)
    array[:24, :24] = np.arange(24) % 2  # many means of n.5
    found = whole(resampled(Pixels(array[None, None, None]), (1.0, factor, factor)))[0, 0, 0]
    cut = array[: 50 // factor * factor, : 61 // factor * factor].astype(np.float64)
    mean = downscale_local_mean(cut, (factor, factor))
    expected = mean if array.dtype.kind == "f" else np.rint(mean)
    np.testing.assert_allclose(found, expected.astype(array.dtype), rtol=1e-6)
    assert found.dtype == array.dtype


@pytest.mark.parametrize("factor", [1.3, 2.0, 2.5, 3.7, 8.0])
def test_an_area_mean_is_neither_darker_nor_brighter(factor):
    array = image((1, 1, 1, 400, 400), "uint8")
    found = whole(resampled(Pixels(array), (1.0, factor, factor))).astype(float)
    covered = math.floor(400 / factor) * factor
    assert abs(found.mean() - array[..., : round(covered), : round(covered)].mean()) < 0.6


@pytest.mark.parametrize("factor", [0.25, 0.4, 1.6])
def test_bilinear_is_what_others_make_of_it(factor):
    array = image((40, 40), "float64")
    found = whole(resampled(Pixels(array[None, None, None]), (1.0, factor, factor), "bilinear"))[0, 0, 0]
    size = round(40 / factor)
    expected = resize(array, (size, size), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    where = (np.arange(size) + 0.5) * factor - 0.5
    at = np.meshgrid(where, where, indexing="ij")
    np.testing.assert_allclose(found, ndimage.map_coordinates(array, at, order=1, mode="nearest"), atol=1e-6)


def test_a_ramp_stays_where_it_is():
    ramp = np.broadcast_to(np.arange(60.0) + 0.5, (1, 1, 1, 60, 60))  # the position of each pixel's centre
    for factor in (0.5, 1.5, 2.0, 2.5, 4.0):
        for method in ("area", "bilinear"):
            found = whole(resampled(Pixels(ramp), (1.0, factor, factor), method))[0, 0, 0, 0]
            expected = ((np.arange(len(found)) + 0.5) * factor).clip(0.5, 59.5)
            steps = method == "area" and (factor < 1 or factor % 1)  # parts of pixels, which are flat
            np.testing.assert_allclose(found, expected, atol=0.3 if steps else 1e-9)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.sampled_from([1.0, 2.0, 0.5]), factors, factors),
    st.sampled_from([*METHODS, None]),
    st.sampled_from(["uint8", "float32", "uint32"]),
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 400),
)
def test_any_tiling_gives_the_same_bytes(shape, by, method, dtype, core, block):
    source = resampled(Pixels(image((1, 2, *shape), dtype)), by, method)
    expected = whole(source)
    found = np.empty_like(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetcli.image.resample.BLOCK", block)
        for tile in TileGrid(source.shape, (1, 2, *core)):
            found[tile.core.slices] = source.read(tile.core)
    np.testing.assert_array_equal(found, expected)


@dataclass
class Watched(Pixels):
    """A source of any size that remembers how much was read at once."""

    size: tuple = (1, 1, 1, 20_000, 20_000)
    largest: int = 0

    @property
    def shape(self):
        return self.size

    def read(self, box):
        assert box.clip(self.shape) == box
        self.largest = max(self.largest, math.prod(box.shape))
        return np.zeros(box.shape, self.dtype)


@pytest.mark.parametrize("factor", [1.01, 8.0, 9.77, 256.0, 0.01])
def test_little_is_read_at_once(factor):
    source = Watched(np.zeros(1, np.uint8))
    view = Resampled(source, (1.0, factor, factor))
    side = min(2048, *view.shape[3:], math.ceil(8192 / factor))
    view.read(Box((0, 0, 0, 0, 0), (1, 1, 1, side, side)))
    assert 0 < source.largest <= BLOCK


@pytest.mark.parametrize(
    ("shape", "factor", "expected"),
    [((7, 10), 2.0, (3, 5)), ((7, 10), 2 / 3, (10, 15)), ((3, 1), 4.0, (1, 1)), ((10, 3), 0.1, (100, 30))],
    ids=str,
)
def test_size_and_pixel_size(shape, factor, expected):
    axes = Axes.of("zyx", {"z": 3, "y": 0.25, "x": 0.5}, dict.fromkeys("zyx", "micrometer"))
    source = Resampled(Pixels(np.zeros((1, 1, 1, *shape), np.uint8), axes=axes), (1.0, factor, factor))
    assert source.shape == (1, 1, 1, *expected)
    assert source.axes.scale == (3, 0.25 * factor, 0.5 * factor)
    assert whole(source).shape == source.shape


def test_labels_keep_their_ids():
    ids = np.array([2**40 + 1, 3, 2**53 + 1, 7], np.int64).reshape(1, 1, 1, 2, 2)
    found = whole(resampled(Pixels(ids), (1.0, 0.5, 0.5), "nearest"))
    np.testing.assert_array_equal(found, ids.repeat(2, axis=3).repeat(2, axis=4))


def test_nothing_to_do_is_the_source_itself():
    source = Pixels(np.zeros((1, 1, 1, 4, 4)))
    assert resampled(source, (1.0, 1.0, 1.0), "area") is source


@pytest.mark.parametrize("method", METHODS)
def test_taps_lie_in_the_image_and_count_as_one(method):
    for factor in (0.3, 1.0, 2.0, 2.7):
        found = taps(method, factor, 0, math.floor(23 / factor), 23)
        assert found.index.min() >= 0
        assert found.index.max() < 23
        total = found.weight.sum(axis=1)
        np.testing.assert_allclose(total, factor if method == "area" else 1)


def test_a_part_of_a_block_is_enough():
    array = image((1, 1, 1, 30, 30), "float32")
    way = Resampling(array.shape, (1.0, 0.4, 0.4), "bilinear")
    box = Box((0, 0, 0, 20, 30), (1, 1, 1, 41, 52))
    needed = way.source_box(box)
    assert needed.shape[3] < 12
    more = needed.grow((0, 0, 0, 2, 3)).clip(array.shape)
    np.testing.assert_array_equal(way(array[needed.slices], needed, box), way(array[more.slices], more, box))


UM = Axes.of("zyx", {"z": 2, "y": 0.25, "x": 0.25}, dict.fromkeys("zyx", "micrometer"))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("0.5um", (1, 2, 2)),
        ("250nm", (1, 1, 1)),
        ("4,0.5,0.25um", (2, 2, 1)),
        ("0.125um", (1, 0.5, 0.5)),
        ("0.6um", (1, 2.4, 2.4)),
        ("0.2500001um", (1, 1, 1)),
    ],
)
def test_target_pixel_size(target, expected):
    assert factors_to("a.tif", UM, target) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("axes", "target", "said", "fix"),
    [
        (Axes.of("yx"), "0.5um", r"a\.tif: its pixel size along y is not known", "--pixel-size 0.25um"),
        (UM, "0.5", "--target-pixel-size 0.5: expected one to three", "--target-pixel-size 0.65um"),
        (UM, "5mm", r"--target-pixel-size 5mm: .*a factor of 20000", "units"),
        (UM, "0.1nm", r"--target-pixel-size 0.1nm: ", "units"),
    ],
    ids=["not known", "no unit", "too large", "too small"],
)
def test_target_pixel_sizes_that_make_no_sense(axes, target, said, fix):
    with pytest.raises(UnetcliError, match=said) as error:
        factors_to("a.tif", axes, target)
    assert fix in error.value.fix


@pytest.mark.parametrize(
    ("factor", "expected"), [(2.0000001, 2), (1.9999999, 2), (0.4999999, 0.5), (1.0000001, 1), (2.01, 2.01), (0.3, 0.3)]
)
def test_rounded_pixel_sizes_are_whole_factors(factor, expected):
    assert snapped(factor) == expected
