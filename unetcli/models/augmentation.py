"""Augmentation of a batch on the device of the network: what the numba kernels do, in torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_TAIL = 3.6541528853610088
"""Where the tail begins if the ziggurat has 256 layers."""
_ROUNDS = 8
"""Of deciding where the ziggurat rejects: one number in 1e13 would need more."""


class Blocks(NamedTuple):
    """Source pixels of a batch of n planar samples, and how each of them is deformed and varied.

    Blocks differ in size, so their pixels, line by line, follow one another in flat buffers; of any type of numbers,
    for what is small is copied to the device sooner.
    """

    image: Tensor
    """(c, pixels), gray values."""
    target: Tensor
    """(pixels,), class of each pixel."""
    weights: Tensor
    """(pixels,), weight map."""
    first: Tensor
    """(n,) int64, where each block begins in the buffers."""
    width: Tensor
    """(n,) int64, length of its lines."""
    origin: Tensor
    """(n, 2) int64, its first pixel (y, x) in the region's frame."""
    grid: Tensor
    """(n, 2, gy, gx) float64, displacement vectors (y, x) in pixels."""
    matrix: Tensor
    """(n, 2, 2) float64, linear part of the affine map from the output to the source."""
    offset: Tensor
    """(n, 2) float64, shift of the source positions in pixels."""
    gray: Tensor
    """(n, 6, c) float64: contrast, brightness, gamma, noise and blur (standard deviations along y and x, pixels)."""
    seed: Tensor
    """(n,) int64, seed of the noise: the bits of an unsigned number."""


def blur_radius(sigma_px: float) -> int:
    """Return how far a Gaussian blur reaches: it is cut off at four standard deviations."""
    return math.ceil(4 * sigma_px)


def augment(
    blocks: Blocks,
    mean: Tensor,
    std: Tensor,
    *,
    size: int,
    margin: int,
    device: torch.device,
    order: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Deform and vary a batch.

    Parameters
    ----------
    blocks
        On the CPU, best pinned. Each block covers what its region shows, by the order of interpolation, with
        `blur_radius` of the largest blur of the batch around the region.
    mean, std : (c,) float32
        Of each channel, on `device`; gray values vary in units of `std` around `mean`.
    size
        Side of the square regions, pixels.
    margin
        How much the output of the network lacks at each side: target and weights are cut by it.
    device
        Where to compute, and where the result lies. The host does not wait for it.
    order
        Interpolation of the image, 1 (linear) or 3 (cubic, Keys' with a = -1/2). Weights are always linear,
        the target takes the nearest pixel; halves go to the higher one.

    Returns
    -------
    image : (n, c, y, x) float32
        ``(gray values - mean) / std``, deformed, blurred, then varied.
    target : (n, y, x) int64
    weights : (n, y, x) float32

    Notes
    -----
    All parts share one computation of positions, in float64, so these agree with those of the numba kernels to
    1e-9 pixels, and a target differs only where a position is within rounding of a half. Images differ by the
    rounding of float32, of the interpolation and of the curve: for contrasts up to 8 by at most 1e-4 standard
    deviations, or 1e-6 of larger values. The noise is the same hash of seed, channel and position, in 64-bit
    integers that wrap around. Only planes: what volumes need differs in every step.
    """
    reach = blur_radius(float(blocks.gray[:, 4:].max()))
    is_noisy = bool(blocks.gray[:, 3].any())
    b = Blocks(*(part.to(device, non_blocking=True) for part in blocks))
    corner, fraction = _positions(b, size, reach)
    line = b.width[:, None, None]
    normal = (b.image.float() - mean[:, None]) / std[:, None]
    image = _interpolate(normal, corner, line, fraction, order).transpose(0, 1)
    for axis in (2, 3):
        image = _blur(image, b.gray[:, 2 + axis], reach, axis)
    contrast, brightness, gamma, noise = b.gray[:, :4, :, None, None].float().unbind(1)
    image = contrast * (image + gamma * ((1 + image * image).sqrt() - 1)) + brightness
    if is_noisy:
        image = image + noise * _noise(b.seed, image.shape)
    inside = slice(reach + margin, reach + size - margin)
    corner, fraction = corner[:, inside, inside], fraction[:, :, inside, inside]
    up = (fraction >= 0.5).long()
    target = b.target.long()[corner + up[0] * line + up[1]]
    weights = _interpolate(b.weights.float()[None], corner, line, fraction, 1)[0]
    return image, target, weights


def _positions(b: Blocks, size: int, reach: int) -> tuple[Tensor, Tensor]:
    """Find what the pixels of the regions, and `reach` around them, show of the blocks.

    Returns the place in the buffers of the source pixel at or below, (n, y, x), and the rest, (2, n, y, x) float32.
    """
    centre = (size - 1) / 2
    basis = [_basis(size, g, reach, b.grid.device) for g in b.grid.shape[2:]]
    relative = torch.arange(-reach, size + reach, dtype=torch.float64, device=b.grid.device) - centre
    turned = torch.einsum("nij,njab->niab", b.matrix, b.grid)
    field = basis[0] @ turned @ basis[1].T
    affine = b.matrix[..., 0, None, None] * relative[:, None] + b.matrix[..., 1, None, None] * relative
    position = field + affine + (b.offset + centre)[..., None, None]
    below = position.floor()
    corner = below.long() - b.origin[..., None, None]
    place = b.first[:, None, None] + corner[:, 0] * b.width[:, None, None] + corner[:, 1]
    return place, (position - below).float().transpose(0, 1)


@lru_cache(maxsize=16)
def _basis(size: int, n_grid: int, reach: int, device: torch.device) -> Tensor:
    """Weigh the control points of an axis in an interpolating cubic spline with mirrored boundary, (pixels, n_grid)."""
    at = torch.arange(-reach, size + reach, dtype=torch.float64) * ((n_grid - 1) / max(size - 1, 1))
    knots = torch.arange(n_grid, dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(_b_splines(knots, n_grid), _b_splines(at, n_grid), left=False)
    return weights.to(device)


def _b_splines(at: Tensor, n: int) -> Tensor:
    """Evaluate the n cubic B-splines of a mirrored axis, (len(at), n)."""
    period = max(2 * n - 2, 1)
    below = at.floor()
    values = torch.zeros(len(at), n, dtype=torch.float64)
    for k in (-1, 0, 1, 2):
        distance = (at - below - k).abs()
        inner, outer = 2 / 3 - distance**2 * (1 - distance / 2), (2 - distance) ** 3 / 6
        knot = (below.long() + k) % period
        knot = torch.minimum(knot, period - knot) % n
        values.scatter_add_(1, knot[:, None], torch.where(distance < 1, inner, outer)[:, None])
    return values


def _interpolate(pixels: Tensor, corner: Tensor, line: Tensor, fraction: Tensor, order: int) -> Tensor:
    """Interpolate buffers (c, pixels) at positions (n, y, x); return (c, n, y, x)."""
    result = torch.zeros((), device=pixels.device)
    for y, weight_y in _taps(fraction[0], order):
        row = torch.zeros((), device=pixels.device)
        for x, weight_x in _taps(fraction[1], order):
            row = row + weight_x * pixels[:, corner + (y * line + x)]
        result = result + weight_y * row
    return result


def _taps(f: Tensor, order: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the pixels, counted from the one below, that an interpolation takes along an axis, and their weights."""
    if order == 1:
        yield from ((0, 1 - f), (1, f))
        return
    yield -1, f * (f * (2 - f) - 1) / 2
    yield 0, (f * f * (3 * f - 5) + 2) / 2
    yield 1, f * (f * (4 - 3 * f) + 1) / 2
    yield 2, f * f * (f - 1) / 2


def _blur(image: Tensor, sigma_px: Tensor, reach: int, axis: int) -> Tensor:
    """Blur planes (n, c, y, x) along an axis, each by its own Gaussian (n, c); lose `reach` pixels at both ends."""
    if not reach:
        return image
    distance = torch.arange(-reach, reach + 1, device=image.device)
    sigma = sigma_px[..., None]
    kernel = torch.exp(-(distance**2) / (2 * sigma**2).clamp(min=1e-12)) * (distance.abs() <= (4 * sigma).ceil())
    kernel = (kernel / kernel.sum(-1, keepdim=True)).float()[..., None, None]
    result = torch.zeros((), device=image.device)
    for k in range(2 * reach + 1):
        result = result + kernel[..., k, :, :] * image.narrow(axis, k, image.shape[axis] - 2 * reach)
    return result


def _noise(seed: Tensor, shape: torch.Size) -> Tensor:
    """Return standard normal numbers (n, c, y, x) float32, a function of seed, channel and position."""
    c, y, x = (_GOLDEN * torch.arange(1, extent + 1, device=seed.device) for extent in shape[1:])
    plane = _mix(_mix(seed[:, None] + c))
    return _standard_normal(_mix(_mix(plane[..., None] + y)[..., None] + x).ravel()).reshape(shape).float()


@lru_cache(maxsize=4)
def _ziggurat(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the right edges of 256 layers of equal area under exp(-x**2 / 2), and the heights there."""
    height = math.exp(-(_TAIL**2) / 2)
    area = _TAIL * height + math.sqrt(math.pi / 2) * math.erfc(_TAIL / math.sqrt(2))
    edges = [area / height, _TAIL]
    while len(edges) < 256:
        edges.append(math.sqrt(-2 * math.log(area / edges[-1] + math.exp(-(edges[-1] ** 2) / 2))))
    found = torch.tensor([*edges, 0.0], dtype=torch.float64)
    return found.to(device), torch.exp(-(found**2) / 2).to(device)


def _standard_normal(bits: Tensor) -> Tensor:
    """Turn 64 random bits to a normal number each, float64: the ziggurat method, as the numba kernel's.

    What is rejected (1.2 %) is collected to a buffer of fixed size, with room for far more: were its size that of what
    it holds, the host had to wait for the device to hear it.
    """
    n, room = len(bits), len(bits) // 32 + 256
    layer, at = _point(bits)
    is_open = at.abs() >= _ziggurat(bits.device)[0][layer + 1]
    slot = torch.where(is_open, is_open.cumsum(0) - 1, room).clamp(max=room)
    rejected = torch.full((room + 1,), n, device=bits.device)
    rejected = rejected.scatter_(0, slot, torch.arange(n, device=bits.device))[:room]
    values = torch.cat([at, at[:1]])  # the last takes what slots without a pixel give
    return values.index_put_((rejected,), _decide(bits[rejected.clamp(max=n - 1)]))[:n]


def _point(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Choose layers of the ziggurat, and places in them."""
    layer = bits & 255
    return layer, (_shifted(bits, 11).double() * 2.0**-52 - 1) * _ziggurat(bits.device)[0][layer]


def _decide(bits: Tensor) -> Tensor:
    """Go on where places are not under the layer above: in the tail, under the curve, or beyond it."""
    edges, heights = _ziggurat(bits.device)
    layer, at = _point(bits)
    value, is_open = at, torch.ones_like(bits, dtype=torch.bool)
    for _ in range(_ROUNDS):
        bits = _mix(bits + _GOLDEN)
        first = _above_zero(bits)
        bits = _mix(bits + _GOLDEN)
        next_layer, next_at = _point(bits)
        in_tail, beyond = layer == 0, -first.log() / _TAIL
        is_under = heights[layer] + (heights[layer + 1] - heights[layer]) * first < torch.exp(-0.5 * at * at)
        ends_tail = -2 * _above_zero(bits).log() > beyond * beyond
        found = torch.where(in_tail, torch.copysign(_TAIL + beyond, at), torch.where(is_under, at, next_at))
        value = torch.where(is_open, found, value)
        ends = torch.where(in_tail, ends_tail, is_under | (next_at.abs() < edges[next_layer + 1]))
        is_open = is_open & ~ends
        layer, at = torch.where(in_tail, layer, next_layer), torch.where(in_tail, at, next_at)
    return value


def _above_zero(bits: Tensor) -> Tensor:
    """Turn 64 random bits to uniform numbers in (0, 1]."""
    return (_shifted(bits, 11).double() + 1) * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64 bits: the output function of splitmix64."""
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, n: int) -> Tensor:
    """Shift to the right as if without sign: torch has no arithmetic of unsigned 64 bits."""
    return bits.bitwise_right_shift(n).bitwise_and(2 ** (64 - n) - 1)
