import numpy as np
import pytest
from scipy import stats

from unetcli.kernels.gray import GrayVariation, apply_gray, random_gray

NOISY = GrayVariation(contrast=1.2, brightness=-0.3, gamma=0.4, noise=0.5, seed=2**63 + 11)


def test_curve_equals_the_equation():
    values = np.linspace(-9, 9, 500, dtype=np.float32).reshape(2, 5, 5, 10)
    wide = values.astype(np.float64)
    actual = apply_gray(values, (0, 0, 0), GrayVariation(contrast=2, brightness=1, gamma=-0.9))
    expected = 2 * (wide - 0.9 * (np.sqrt(1 + wide**2) - 1)) + 1
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    assert (np.diff(actual.ravel()) > 0).all()


def test_no_variation_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(apply_gray(image, (7, 8, 9), GrayVariation()), image)


@pytest.mark.parametrize("shape", [(2, 1, 40, 50), (1, 9, 11, 13)], ids=["plane", "volume"])
def test_tiles_equal_the_whole(shape):
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    whole = apply_gray(image, (3, 5, 7), NOISY)
    for _ in range(30):
        start = [rng.integers(0, n) for n in shape[1:]]
        box = (
            slice(None),
            *(slice(a, rng.integers(a, n) + 1) for a, n in zip(start, shape[1:], strict=True)),
        )
        tile = apply_gray(image[box], tuple(np.add(start, (3, 5, 7))), NOISY)
        assert tile.tobytes() == whole[box].tobytes()


def test_noise_is_standard_normal_and_white():
    noise = apply_gray(np.zeros((2, 2, 200, 250), np.float32), (0, 0, 0), GrayVariation(noise=1, seed=5))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    for axis in range(4):
        ahead, behind = np.moveaxis(noise, axis, 0)[1:], np.moveaxis(noise, axis, 0)[:-1]
        assert abs(np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]) < 0.01
    other = apply_gray(np.zeros((2, 2, 200, 250), np.float32), (0, 0, 0), GrayVariation(noise=1, seed=6))
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.01


def test_random_variation_stays_in_its_ranges_and_follows_the_generator():
    limits = {"contrast": 1.5, "brightness": 0.2, "gamma": 0.3, "noise": 0.1}
    drawn = [random_gray(np.random.default_rng(seed), **limits) for seed in range(200)]
    assert all(1 / 1.5 <= v.contrast <= 1.5 and abs(v.brightness) <= 0.2 for v in drawn)
    assert all(abs(v.gamma) <= 0.3 and 0 <= v.noise <= 0.1 and 0 <= v.seed < 2**64 for v in drawn)
    assert drawn[3] == random_gray(np.random.default_rng(3), **limits)
    assert len({v.seed for v in drawn}) == 200
