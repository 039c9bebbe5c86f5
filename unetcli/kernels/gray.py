"""Gray-value variation of images, channel by channel: blur, gamma, contrast, brightness and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetcli.errors import ConfigError

TRUNCATE = 4
"""Where a Gaussian is cut off, in standard deviations: 6e-5 of its area lies beyond."""
ISOTROPIC = (1.0, 1.0, 1.0)
_BLOCK = 2048  # pixels that the blur adds up at a time, so that they stay in the first-level cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TAIL = 3.6541528853610088  # where the tail begins if the ziggurat has 256 layers


@dataclass(frozen=True)
class GrayVariation:
    """One variation of the gray values of an image whose channels have mean 0 and standard deviation 1.

    Parameters
    ----------
    contrast
        Factor of each channel, > 0; 1 changes nothing.
    brightness
        Offset of each channel, in its standard deviations; 0 changes nothing.
    gamma
        Curvature of each channel, -1 < gamma < 1. Positive darkens the middle against the bright, as a gamma
        exponent above 1 does; 0 changes nothing.
    noise
        Standard deviation of the Gaussian noise of each channel, in its standard deviations; >= 0.
    blur
        Standard deviation of the Gaussian blur of each channel, in pixels of x; >= 0.
    seed
        Seed of the noise, 0 <= seed < 2**64.

    Raises
    ------
    ConfigError
        If a number is out of its range, or the channels are not as many for all.
    """

    contrast: tuple[float, ...]
    brightness: tuple[float, ...]
    gamma: tuple[float, ...]
    noise: tuple[float, ...]
    blur: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        channels = [self.contrast, self.brightness, self.gamma, self.noise, self.blur]
        is_possible = (
            len({len(values) for values in channels}) == 1
            and all(math.isfinite(value) for values in channels for value in values)
            and all(contrast > 0 for contrast in self.contrast)
            and all(abs(gamma) < 1 for gamma in self.gamma)
            and all(value >= 0 for value in (*self.noise, *self.blur))
            and 0 <= self.seed < 2**64
        )
        if not is_possible:
            raise ConfigError(
                f"{self}: expected as many finite numbers each, contrast > 0, -1 < gamma < 1, "
                "noise and blur >= 0, 0 <= seed < 2**64"
            )

    def halo(self, spacing: tuple[float, float, float] = ISOTROPIC) -> tuple[int, int, int]:
        """Return how many pixels (z, y, x) around a box the blur looks at.

        Parameters
        ----------
        spacing : (z, y, x)
            Pixel sizes in units of that along x; infinite along an axis that is not blurred.
        """
        z, y, x = (_radius(max(self.blur, default=0.0), size) for size in spacing)
        return z, y, x


def random_gray(
    rng: np.random.Generator,
    n_channels: int,
    *,
    together: bool = False,
    contrast: float = 1.0,
    brightness: float = 0.0,
    gamma: float = 0.0,
    noise: float = 0.0,
    blur: float = 0.0,
) -> GrayVariation:
    """Draw a variation.

    Parameters
    ----------
    rng
        Source of all randomness, the seed of the noise included.
    n_channels
        Number of channels.
    together
        Draw once for all channels, instead of once for each.
    contrast
        Largest factor, >= 1; log-uniform in [1 / contrast, contrast].
    brightness, gamma
        Largest magnitude; uniform in [-brightness, brightness] and [-gamma, gamma], gamma < 1.
    noise, blur
        Largest standard deviation; uniform in [0, noise] and [0, blur].
    """
    drawn = rng.random((5, 1 if together else n_channels)).repeat(n_channels if together else 1, axis=1)
    signed = 2 * drawn - 1
    return GrayVariation(
        contrast=tuple((contrast ** signed[0]).tolist()),
        brightness=tuple((brightness * signed[1]).tolist()),
        gamma=tuple((gamma * signed[2]).tolist()),
        noise=tuple((noise * drawn[3]).tolist()),
        blur=tuple((blur * drawn[4]).tolist()),
        seed=int(rng.integers(2**64, dtype=np.uint64)),
    )


def apply_gray(
    image: NDArray[np.floating],
    origin: tuple[int, int, int],
    variation: GrayVariation,
    spacing: tuple[float, float, float] = ISOTROPIC,
) -> NDArray[np.float32]:
    """Vary the gray values of an image or of a tile of it: blur, then the curve, then noise.

    Parameters
    ----------
    image : (c, z, y, x) float32
        Gray values, normalized to mean 0 and standard deviation 1 of each channel over the whole image; with a
        margin of ``variation.halo(spacing)`` pixels on each side.
    origin : (z, y, x)
        Position, in the whole image, of the first pixel that is returned; tiles then agree with the whole,
        byte for byte.
    variation
        What to apply.
    spacing : (z, y, x)
        Pixel sizes in units of that along x; infinite along an axis that is not blurred.

    Returns
    -------
    (c, z, y, x) float32
        The image without its margin.

    Raises
    ------
    ConfigError
        If the channels are not those of the variation, or the image is not larger than its margin.

    Notes
    -----
    ``contrast * (b + gamma * (sqrt(1 + b**2) - 1)) + brightness + noise * n``, where b is the image blurred by a
    Gaussian of standard deviation ``blur / spacing`` pixels along each axis, cut off at ``ceil(4 * blur / spacing)``
    pixels and normalized to a sum of 1. The curve rises everywhere, with slopes from ``1 - |gamma|`` to
    ``1 + |gamma|``, leaves 0 in place and needs no bounds of the gray values, which a power would.

    The standard normal n depends on seed, channel and position alone: splitmix64 [1]_ hashes them to 64 random
    bits, which the ziggurat method [2]_, exact but for the rounding of numbers, turns to a normal number; where it
    rejects one (1.2 % of pixels) the hash is hashed again.

    References
    ----------
    .. [1] Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    .. [2] Marsaglia, Tsang, "The ziggurat method for generating random variables", Journal of Statistical
       Software 5, 2000.
    """
    halo = variation.halo(spacing)
    shape = tuple(n - 2 * margin for n, margin in zip(image.shape[1:], halo, strict=True))
    if len(image) != len(variation.contrast) or min(shape) < 0:
        raise ConfigError(
            f"image of {image.shape} (c, z, y, x) pixels; expected {len(variation.contrast)} channels "
            f"and a margin of {halo} pixels on each side"
        )
    out = np.empty((len(image), *shape), np.float32)
    z, y, x = (int(start) for start in origin)
    for c, channel in enumerate(out):
        _bend(
            np.ascontiguousarray(_blurred(image[c], halo, variation.blur[c], spacing)).reshape(-1),
            np.float32(variation.contrast[c]),
            np.float32(variation.brightness[c]),
            np.float32(variation.gamma[c]),
            channel.reshape(-1),
        )
        if variation.noise[c] > 0:
            _add_noise(np.uint64(variation.seed), (c, z, y, x), np.float32(variation.noise[c]), channel)
    return out


def _radius(blur: float, size: float) -> int:
    """Return how far a Gaussian reaches along an axis of pixels of a size."""
    return math.ceil(TRUNCATE * blur / size)


def _blurred(channel, halo, blur, spacing) -> NDArray[np.float32]:
    """Blur one channel and cut off its margin."""
    radii = [_radius(blur, size) for size in spacing]
    # Where another channel is blurred more, the margin is wider than this one needs.
    spare = [margin - radius for margin, radius in zip(halo, radii, strict=True)]
    block = channel[tuple(slice(cut, n - cut) for cut, n in zip(spare, channel.shape, strict=True))]
    for axis, (radius, size) in enumerate(zip(radii, spacing, strict=True)):
        if radius == 0:
            continue
        steps = np.arange(radius + 1) * (size / blur)
        weights = np.exp(-(steps**2) / 2)
        weights /= weights[0] + 2 * weights[1:].sum()
        shape = list(block.shape)
        step = math.prod(shape[axis + 1 :])
        lines = np.ascontiguousarray(block, np.float32).reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))
        shape[axis] -= 2 * radius
        block = np.empty(shape, np.float32)
        _convolve(lines, step, weights.astype(np.float32), block.reshape(len(lines), math.prod(shape[axis:])))
    return block


@njit(nogil=True, cache=True)
def _convolve(lines, step, weights, out):
    """Convolve lines of pixels, in which neighbours lie `step` apart, by the half of a symmetric kernel.

    Blocks of pixels are added up tap by tap, which the compiler turns to vector instructions for any `step`.
    """
    radius = weights.size - 1
    for n in range(out.shape[0]):
        for first in range(0, out.shape[1], _BLOCK):
            sums = out[n, first : first + _BLOCK]
            middle = lines[n, first + radius * step :]
            for p in range(sums.size):
                sums[p] = weights[0] * middle[p]
            for k in range(1, radius + 1):
                before = lines[n, first + (radius - k) * step :]
                after = lines[n, first + (radius + k) * step :]
                for p in range(sums.size):
                    sums[p] += weights[k] * (before[p] + after[p])


@njit(nogil=True, cache=True)
def _bend(values, contrast, brightness, gamma, out):
    """Apply the curve to pixels."""
    one = np.float32(1)
    for p in range(values.size):
        value = np.float32(values[p])
        out[p] = contrast * (value + gamma * (np.sqrt(one + value * value) - one)) + brightness


@njit(nogil=True, cache=True)
def _mix(bits):
    """Scramble 64 bits: the output function of splitmix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


@njit(nogil=True, cache=True)
def _add_noise(seed, origin, noise, out):
    """Add noise to a channel: each line of x is a splitmix64 stream of its own, entered at x."""
    n_z, n_y, n_x = out.shape
    stream = _mix(seed + _GOLDEN * np.uint64(origin[0] + 1))
    for z in range(n_z):
        plane = _mix(stream + np.uint64(origin[1] + z))
        for y in range(n_y):
            line = _mix(plane + _GOLDEN * np.uint64(origin[2] + y + 1)) + _GOLDEN * np.uint64(origin[3])
            for x in range(n_x):
                line += _GOLDEN
                out[z, y, x] += noise * np.float32(_standard_normal(_mix(line)))


def _ziggurat() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the right edges of 256 layers of equal area under exp(-x**2 / 2), and the heights there.

    Layer 0 holds the tail: a rectangle as wide as its area asks for stands for both.
    """
    height = math.exp(-(_TAIL**2) / 2)
    area = _TAIL * height + math.sqrt(math.pi / 2) * math.erfc(_TAIL / math.sqrt(2))
    edges = [area / height, _TAIL]
    while len(edges) < 256:
        edges.append(math.sqrt(-2 * math.log(area / edges[-1] + math.exp(-(edges[-1] ** 2) / 2))))
    found = np.array([*edges, 0.0])
    return found, np.exp(-(found**2) / 2)


_EDGES, _HEIGHTS = _ziggurat()


@njit(nogil=True, cache=True)
def _standard_normal(bits):
    """Turn 64 random bits to a normal number."""
    layer, at = _point(bits)
    if abs(at) < _EDGES[layer + np.uint64(1)]:
        return at
    return _decide(bits, layer, at)


@njit(nogil=True, cache=True)
def _point(bits):
    """Choose a layer of the ziggurat, and a place in it."""
    layer = bits & np.uint64(255)
    return layer, (np.float64(bits >> np.uint64(11)) * 2.0**-52 - 1.0) * _EDGES[layer]


@njit(nogil=True, cache=True)
def _decide(bits, layer, at):
    """Go on where a place is not under the layer above: in the tail, under the curve, or beyond it."""
    while True:
        bits = _mix(bits + _GOLDEN)
        if layer == 0:
            beyond = -np.log(_above_zero(bits)) / _TAIL
            bits = _mix(bits + _GOLDEN)
            if -2 * np.log(_above_zero(bits)) > beyond * beyond:
                return math.copysign(_TAIL + beyond, at)
            continue
        low, high = _HEIGHTS[layer], _HEIGHTS[layer + np.uint64(1)]
        if low + (high - low) * _above_zero(bits) < np.exp(-0.5 * at * at):
            return at
        bits = _mix(bits + _GOLDEN)
        layer, at = _point(bits)
        if abs(at) < _EDGES[layer + np.uint64(1)]:
            return at


@njit(nogil=True, cache=True)
def _above_zero(bits):
    """Turn 64 random bits to a uniform number in (0, 1]."""
    return (np.float64(bits >> np.uint64(11)) + 1.0) * 2.0**-53
