import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from unetcli.errors import ConfigError
from unetcli.kernels.gray import GrayVariation, apply_gray, random_gray

PLANE = (math.inf, 1.0, 1.0)
RANGES = {"contrast": 1.5, "brightness": 0.4, "gamma": 0.3, "noise": 0.2, "blur": 2.0}


def still(n=1, *, seed=0, **values):
    """Return a variation of n channels that changes nothing but what is given."""
    plain = {"contrast": 1.0, "brightness": 0.0, "gamma": 0.0, "noise": 0.0, "blur": 0.0}
    given = {k: v if isinstance(v, tuple) else (v,) * n for k, v in {**plain, **values}.items()}
    return GrayVariation(**given, seed=seed)


def blurred(image, blur, spacing):
    """Blur each channel by SciPy, and cut the margin of all off."""
    halo = [math.ceil(4 * max(blur) / size) for size in spacing]
    inside = tuple(slice(h, n - h) for h, n in zip(halo, image.shape[1:], strict=True))
    found = []
    for channel, sigma in zip(image.astype(np.float64), blur, strict=True):
        sigmas = [sigma / size for size in spacing]
        found.append(ndimage.gaussian_filter(channel, sigmas, radius=[math.ceil(4 * s) for s in sigmas])[inside])
    return np.stack(found)


def equation(values, v):
    """Apply the curve as it is written down, in float64."""
    contrast, brightness, gamma = (np.array(part)[:, None, None, None] for part in (v.contrast, v.brightness, v.gamma))
    return contrast * (values + gamma * (np.sqrt(1 + values**2) - 1)) + brightness


CASES = [
    pytest.param((1, 1, 40, 50), PLANE, id="plane"),
    pytest.param((3, 1, 33, 47), (math.inf, 1.5, 1.0), id="oblong pixels"),
    pytest.param((2, 21, 19, 23), (1.0, 1.0, 1.0), id="volume"),
    pytest.param((2, 9, 25, 23), (5.0, 1.0, 1.0), id="thick slices"),
    pytest.param((1, 5, 20, 21), (12.5, 1.0, 1.0), id="slices of EM"),
]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("seed", range(12))
def test_blur_and_curve_equal_scipy_and_the_equation(shape, spacing, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 2, shape).astype(np.float32)
    drawn = replace(random_gray(rng, shape[0], **RANGES), noise=(0.0,) * shape[0])
    expected = equation(blurred(image, drawn.blur, spacing), drawn)
    actual = apply_gray(image, (0, 0, 0), drawn, spacing)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_curve_rises_everywhere():
    values = np.linspace(-9, 9, 5000, dtype=np.float32).reshape(1, 1, 50, 100)
    for gamma in (-0.95, 0.95):
        assert (np.diff(apply_gray(values, (0, 0, 0), still(gamma=gamma)).ravel()) > 0).all()


def test_no_variation_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(apply_gray(image, (7, 8, 9), still(2)), image)


def test_channels_vary_on_their_own():
    image = np.random.default_rng(0).normal(size=(3, 1, 30, 30)).astype(np.float32)
    values = {"contrast": (1.0, 2.0, 1.0), "brightness": (0.0, 0.0, 1.0), "blur": (1.0, 0.0, 0.0)}
    both = apply_gray(image, (0, 0, 0), still(3, **values), PLANE)
    inner = image[:, :, 4:-4, 4:-4]
    assert both[0].std() < 0.5 * inner[0].std()
    np.testing.assert_array_equal(both[1], 2 * inner[1])
    np.testing.assert_array_equal(both[2], inner[2] + np.float32(1))


@given(data=st.data())
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_tiles_equal_the_whole(shape, spacing, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    drawn = random_gray(rng, shape[0], **RANGES)
    halo = drawn.halo(spacing)
    image = rng.normal(size=(shape[0], *np.add(shape[1:], np.multiply(2, halo)))).astype(np.float32)
    whole = apply_gray(image, (3, 5, 7), drawn, spacing)
    assert whole.shape == shape
    start = [data.draw(st.integers(0, n - 1)) for n in shape[1:]]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape[1:], strict=True)]
    cut = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    wide = tuple(slice(a, b + 2 * h) for a, b, h in zip(start, stop, halo, strict=True))
    tile = apply_gray(image[(slice(None), *wide)], tuple(np.add(start, (3, 5, 7))), drawn, spacing)
    assert tile.tobytes() == whole[(slice(None), *cut)].tobytes()


def test_an_image_of_no_pixels_stays_one():
    assert apply_gray(np.zeros((2, 0, 5, 5), np.float32), (0, 0, 0), still(2, noise=1.0)).shape == (2, 0, 5, 5)
    assert apply_gray(np.zeros((0, 1, 5, 5), np.float32), (0, 0, 0), still(0)).shape == (0, 1, 5, 5)


@pytest.fixture(scope="module")
def noise():
    """Return noise of two channels, of two million pixels."""
    return apply_gray(np.zeros((2, 2, 500, 1000), np.float32), (0, 0, 0), still(2, noise=1.0, seed=5))


def test_noise_is_standard_normal_far_into_its_tails(noise):
    values = noise.ravel().astype(np.float64)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    edges = stats.norm.ppf(np.linspace(0, 1, 4001))
    assert stats.chisquare(np.histogram(values, edges)[0]).pvalue > 1e-3
    for bound in (3.0, 3.6541528853610088, 4.0, 4.5):  # the second is where the tail of the ziggurat begins
        for sign in (-1, 1):
            expected = stats.norm.sf(bound) * values.size
            assert abs((sign * values > bound).sum() - expected) < 4 * math.sqrt(expected)


def test_noise_is_white_and_differs_between_channels_and_seeds(noise):
    for axis in range(4):
        ahead, behind = np.moveaxis(noise, axis, 0)[1:], np.moveaxis(noise, axis, 0)[:-1]
        assert abs(np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]) < 0.003
    other = apply_gray(np.zeros(noise.shape, np.float32), (0, 0, 0), still(2, noise=1.0, seed=6))
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.003


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_noise_of_any_seed_has_both_signs(seed):
    values = apply_gray(np.zeros((1, 1, 50, 50), np.float32), (0, 0, 0), still(noise=1.0, seed=seed))
    assert abs((values > 0).mean() - 0.5) < 0.04
    assert abs(values.std() - 1) < 0.06


def test_random_variation_stays_in_its_ranges_and_follows_the_generator():
    rng = np.random.default_rng(0)
    drawn = [random_gray(rng, 2, **RANGES) for _ in range(400)]
    for name, low, high in [
        ("contrast", 1 / 1.5, 1.5), ("brightness", -0.4, 0.4), ("gamma", -0.3, 0.3), ("noise", 0, 0.2), ("blur", 0, 2),
    ]:  # fmt: skip
        values = np.array([getattr(v, name) for v in drawn])
        assert values.shape == (400, 2)
        assert low <= values.min() < values.max() <= high
        spread = np.log(values) if name == "contrast" else values
        low, high = (math.log(low), math.log(high)) if name == "contrast" else (low, high)
        assert stats.kstest(((spread - low) / (high - low)).ravel(), "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.2
    assert drawn[0] == random_gray(np.random.default_rng(0), 2, **RANGES)
    assert len({v.seed for v in drawn}) == 400


def test_channels_can_vary_together():
    drawn = random_gray(np.random.default_rng(0), 3, together=True, **RANGES)
    for values in (drawn.contrast, drawn.brightness, drawn.gamma, drawn.noise, drawn.blur):
        assert len(values) == 3
        assert len(set(values)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"contrast": 0.0}, {"gamma": 1.0}, {"noise": -0.1}, {"blur": -1.0}, {"brightness": math.nan},
        {"blur": math.inf}, {"gamma": (0.1, 0.2, 0.3)}, {"seed": -1}, {"seed": 2**64},
    ],
    ids=str,
)  # fmt: skip
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        still(2, **wrong)


@pytest.mark.parametrize(
    ("shape", "blur"), [((1, 1, 9, 9), 0.0), ((2, 1, 15, 16), 2.0), ((2, 1, 16, 15), 2.0)], ids=["channels", "y", "x"]
)
def test_an_image_that_does_not_fit_is_refused(shape, blur):
    with pytest.raises(ConfigError, match="expected 2 channels"):
        apply_gray(np.zeros(shape, np.float32), (0, 0, 0), still(2, blur=blur), PLANE)
