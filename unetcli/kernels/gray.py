"""Gray-value variation of images: contrast, brightness, gamma and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class GrayVariation:
    """One variation of the gray values of an image of mean 0 and standard deviation 1.

    Parameters
    ----------
    contrast
        Factor, > 0.
    brightness
        Offset, in standard deviations of the image.
    gamma
        Curvature, -1 < gamma < 1. Positive darkens the middle against the bright, as a gamma exponent
        above 1 does; 0 is linear.
    noise
        Standard deviation of the Gaussian noise, in standard deviations of the image; >= 0.
    seed
        Seed of the noise, 0 <= seed < 2**64.
    """

    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    seed: int = 0


def random_gray(
    rng: np.random.Generator,
    *,
    contrast: float = 1.0,
    brightness: float = 0.0,
    gamma: float = 0.0,
    noise: float = 0.0,
) -> GrayVariation:
    """Draw a variation.

    Parameters
    ----------
    rng
        Source of all randomness, the seed of the noise included.
    contrast
        Largest factor, >= 1; log-uniform in [1 / contrast, contrast].
    brightness, gamma
        Largest magnitude; uniform in [-brightness, brightness] and [-gamma, gamma], gamma < 1.
    noise
        Largest standard deviation; uniform in [0, noise].
    """
    log_contrast, offset, curvature = rng.uniform(-1, 1, 3)
    return GrayVariation(
        contrast=float(contrast**log_contrast),
        brightness=float(brightness * offset),
        gamma=float(gamma * curvature),
        noise=float(noise * rng.uniform()),
        seed=int(rng.integers(2**64, dtype=np.uint64)),
    )


def apply_gray(
    image: NDArray[np.floating], origin: tuple[int, int, int], variation: GrayVariation
) -> NDArray[np.float32]:
    """Vary the gray values of an image or of a tile of it.

    Parameters
    ----------
    image : (c, z, y, x) float32
        Gray values, normalized to mean 0 and standard deviation 1 over the whole image.
    origin : (z, y, x)
        Position of the first pixel in the whole image; tiles then agree with the whole, byte for byte.
    variation
        What to apply, the same to all channels; the noise differs between channels.

    Returns
    -------
    (c, z, y, x) float32

    Notes
    -----
    ``contrast * (v + gamma * (sqrt(1 + v**2) - 1)) + brightness + noise * n``, summed in float64. The
    curve rises everywhere, with slopes from ``1 - |gamma|`` to ``1 + |gamma|``, leaves 0 in place and
    needs no bounds of the gray values, which a power would.

    The standard normal `n` depends on seed, channel and position alone: splitmix64 [1]_ hashes them to two
    uniform numbers of 32 bits, which the Box-Muller transform [2]_ turns to a normal one.

    References
    ----------
    .. [1] Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    .. [2] Box, Muller, "A note on the generation of random normal deviates", Annals of Mathematical
       Statistics 29, 1958.
    """
    image = np.ascontiguousarray(image)
    out = np.empty(image.shape, np.float32)
    curve = (float(variation.contrast), float(variation.brightness), float(variation.gamma))
    if variation.noise > 0:
        z, y, x = (int(start) for start in origin)
        _bend_with_noise(image, (z, y, x), curve, float(variation.noise), np.uint64(variation.seed), out)
    else:
        _bend(image.reshape(-1), curve, out.reshape(-1))
    return out


@njit(nogil=True, cache=True)
def _bend(image, curve, out):
    """Apply the curve to a flat image."""
    for p in range(image.size):
        out[p] = _curve(image[p], *curve)


@njit(nogil=True, cache=True)
def _bend_with_noise(image, origin, curve, noise, seed, out):
    """Apply the curve and add noise: each line of x is a splitmix64 stream of its own, entered at x."""
    n_c, n_z, n_y, n_x = image.shape
    for c in range(n_c):
        for z in range(n_z):
            plane = _mix(_mix(seed + _GOLDEN * np.uint64(c + 1)) + np.uint64(origin[0] + z))
            for y in range(n_y):
                line = _mix(plane + _GOLDEN * np.uint64(origin[1] + y + 1))
                for x in range(n_x):
                    bits = _mix(line + _GOLDEN * np.uint64(origin[2] + x + 1))
                    value = _curve(image[c, z, y, x], *curve)
                    out[c, z, y, x] = value + noise * _standard_normal(bits)


@njit(nogil=True, cache=True)
def _curve(value, contrast, brightness, gamma):
    """Return the gray value without noise."""
    value = np.float64(value)
    return contrast * (value + gamma * (np.sqrt(1 + value * value) - 1)) + brightness


@njit(nogil=True, cache=True)
def _mix(bits):
    """Scramble 64 bits: the output function of splitmix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


@njit(nogil=True, cache=True)
def _standard_normal(bits):
    """Turn 64 random bits to a normal number, Box-Muller; never infinite, at most 6.7."""
    above_zero = (np.float64(bits >> np.uint64(32)) + 1.0) * 2.0**-32
    angle = np.float64(bits & np.uint64(0xFFFFFFFF)) * (2 * np.pi * 2.0**-32)
    return np.sqrt(-2 * np.log(above_zero)) * np.cos(angle)
