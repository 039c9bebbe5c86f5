"""Streamed statistics are NumPy's of all pixels at once."""

import numpy as np
import pytest

from tests.conftest import Pixels
from unetcli.errors import InputError
from unetcli.image.statistics import PERCENTILES, statistics, tally_channels
from unetcli.image.streaming import reduce_tiles, work_on
from unetcli.image.tiling import TileGrid


def measure(*images, tile=(1, 2, 1, 16, 16), workers=2):
    works = [
        w for i, p in enumerate(images) for w in work_on(str(i), TileGrid(p.shape, tile), [Pixels(p, f"image {i}")])
    ]
    return statistics(reduce_tiles(tally_channels, works, workers=workers))


def random_image(dtype, shape=(2, 2, 3, 33, 41)):
    rng = np.random.default_rng(0)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(30, 5, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def assert_equals_numpy(found, values):
    values = np.asarray(values, dtype=np.float64).ravel()
    assert found["pixels"] == values.size
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-9)
    assert found["std"] == pytest.approx(values.std(), rel=1e-6)
    for p in PERCENTILES:
        expected = np.percentile(values, p, method="inverted_cdf")
        assert found["percentiles"][f"{p:g}"] == pytest.approx(
            expected, abs=found["percentile_error"] * 1.001, rel=1e-9
        )


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_each_channel_equals_numpy(dtype):
    image = random_image(dtype)
    found = measure(image)
    assert len(found) == 2
    for c in range(2):
        assert_equals_numpy(found[c], image[:, c])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16"])
def test_few_bits_have_exact_percentiles(dtype):
    assert measure(random_image(dtype))[0]["percentile_error"] == 0


def test_the_error_of_percentiles_is_small_and_said():
    image = random_image("float32")
    error = measure(image)[0]["percentile_error"]
    assert 0 < error <= np.ptp(image) / 65_000


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [("uint32", 4_000_000_000), ("int32", -2_000_000_000), ("float64", 1e9), ("float32", 1e5)],
)
def test_a_small_spread_on_a_large_offset(dtype, offset):
    image = (offset + np.random.default_rng(0).integers(0, 7, (1, 1, 1, 40, 50))).astype(dtype)
    assert_equals_numpy(measure(image)[0], image)


def test_a_collection_is_measured_as_one():
    images = [random_image("uint16", (1, 1, 1, 20 + i, 30)) // (i + 1) for i in range(3)]
    assert_equals_numpy(measure(*images)[0], np.concatenate([i.ravel() for i in images]))


def test_any_tiling_counts_the_same():
    image = random_image("uint8")
    results = [
        measure(image, tile=t, workers=w) for t, w in (((1, 2, 1, 16, 16), 1), ((2, 2, 3, 7, 41), 3), (image.shape, 1))
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a["percentiles"] == b["percentiles"]
            assert a["mean"] == pytest.approx(b["mean"], rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "float32"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image(dtype, value):
    (found,) = measure(np.full((1, 1, 1, 20, 20), value, dtype))
    assert (found["mean"], found["std"], found["min"], found["max"]) == (value, 0, value, value)
    assert all(p == value for p in found["percentiles"].values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite_are_refused_with_their_place(dtype, value):
    image = random_image(dtype, (1, 1, 1, 40, 40))
    image[0, 0, 0, 20, 3] = value
    with pytest.raises(InputError, match=r"image 0: 1 values are NaN or infinite at .*y 16:32 x 0:16"):
        measure(image)


def test_the_image_with_such_values_is_named():
    images = [random_image("float32", (1, 1, 1, 40, 40)) for _ in range(3)]
    images[1][0, 0, 0, 20, 3] = np.nan
    with pytest.raises(InputError, match="NaN") as caught:
        measure(*images)
    assert "image 1" in str(caught.value)
