"""Augmentation in torch gives what the numba kernels give, within the rounding of float32."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unetcli.kernels.deformation import random_deformation, source_box, source_positions
from unetcli.kernels.gray import GrayVariation, apply_gray
from unetcli.kernels.warp import Layer, warp
from unetcli.models.augmentation import Blocks, augment, blur_radius

TOLERANCE = 1e-4
"""Of images and weights, in standard deviations."""
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
STILL = {"std_px": 0.0, "turn": 0.0, "scale": 1.0, "shift": 0.0}
PLAIN = (1.0, 0.0, 0.0, 0.0, 0.0)
"""Contrast, brightness, gamma, noise, blur."""


@pytest.fixture(autouse=True)
def _needs_its_device(request):
    if "cuda" in request.node.name and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


class Case:
    """A batch of random samples, to be rendered by both ways; by default turned, shifted, mirrored and deformed."""

    def __init__(
        self, seed, *, n=2, size=40, channels=2, order=1, gray=PLAIN, grid=3,
        std_px=5.0, turn=3.14, scale=1.2, shift=3.0, spacing=1.0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        self.size, self.order, self.n, self.spacing = size, order, n, (np.inf, spacing, 1.0)
        self.gray = np.broadcast_to(np.array(gray, float).reshape(-1, 5, 1), (n, 5, channels)).copy()
        self.seeds = rng.integers(2**64, size=n, dtype=np.uint64)
        self.mean, self.std = np.full(channels, 100, np.float32), np.full(channels, 20, np.float32)
        self.deformations = [
            random_deformation(
                rng, (1, size, size), grid=(1, grid, grid), std_px=std_px, rotation_rad=turn, scale=scale,
                shift_px=shift, flip=True,
            )
            for _ in range(n)
        ]  # fmt: skip
        self.reach = blur_radius(float(self.gray[:, 4].max() / min(spacing, 1)))
        self.blocks = [self._block(rng, deformation, channels) for deformation in self.deformations]

    def _block(self, rng, deformation, channels):
        start, stop = (0, -self.reach, -self.reach), (1, self.size + self.reach, self.size + self.reach)
        low, high = source_box(deformation, start, stop, order=self.order)
        shape = tuple(high - low)
        image = rng.normal(100, 20, (channels, *shape)).astype(np.float32)
        return tuple(map(int, low)), image, rng.integers(0, 5, shape), rng.uniform(0, 10, shape).astype(np.float32)

    def tensors(self):
        """Return the blocks as the device takes them."""
        shapes = [labels.shape[1:] for _, _, labels, _ in self.blocks]
        channels = len(self.mean)
        return Blocks(*(
            torch.from_numpy(np.ascontiguousarray(part)) for part in (
                np.concatenate([image.reshape(channels, -1) for _, image, _, _ in self.blocks], 1),
                np.concatenate([labels.ravel() for _, _, labels, _ in self.blocks]),
                np.concatenate([weights.ravel() for _, _, _, weights in self.blocks]),
                np.cumsum([0, *(y * x for y, x in shapes)])[:-1],
                np.array([x for _, x in shapes]),
                np.array([low[1:] for low, _, _, _ in self.blocks]),
                np.stack([d.grid[1:, 0] for d in self.deformations]),
                np.stack([d.matrix[1:, 1:] for d in self.deformations]),
                np.stack([d.offset[1:] for d in self.deformations]),
                np.concatenate([self.gray[:, :4], self.gray[:, 4:] / self.spacing[1], self.gray[:, 4:]], 1),
                self.seeds.view(np.int64),
            )
        ))  # fmt: skip

    def in_torch(self, *, margin=0, device="cpu"):
        device = torch.device(device)
        mean, std = (torch.from_numpy(part).to(device) for part in (self.mean, self.std))
        parts = augment(
            self.tensors(), mean, std, size=self.size, margin=margin, device=device, order=self.order
        )  # fmt: skip
        assert [part.dtype for part in parts] == [torch.float32, torch.int64, torch.float32]
        return [part.cpu().numpy() for part in parts]

    def in_numba(self, k, *, margin=0):
        """Return image, target and weights of sample k, by the kernels."""
        low, image, labels, weights = self.blocks[k]
        deformation, r = self.deformations[k], self.reach
        normal = (image - self.mean[:, None, None, None]) / self.std[:, None, None, None]
        around = (0, -r, -r), (1, self.size + r, self.size + r)
        part = (0, margin, margin), (1, self.size - margin, self.size - margin)
        layers = [Layer(normal, low, *around, self.order), Layer(labels[None], low, *part, 0)]
        warped, target, weights = warp(deformation, [*layers, Layer(weights[None], low, *part, 1)])
        variation = GrayVariation(*map(tuple, self.gray[k].tolist()), seed=int(self.seeds[k]))
        _, y, x = (r - halo for halo in variation.halo(self.spacing))
        warped = warped[:, :, y : self.size + 2 * r - y, x : self.size + 2 * r - x]
        varied = apply_gray(warped, (0, 0, 0), variation, self.spacing)[:, 0]
        return varied, target[0, 0], weights[0, 0]

    def near_a_half(self, k, *, margin=0):
        """Tell which pixels lie within 1e-6 pixels of where the nearest pixel changes."""
        at = np.arange(margin, self.size - margin)
        _, y, x = source_positions(self.deformations[k], (np.arange(1), at, at))[:, 0]
        return (np.abs(y % 1 - 0.5) < 1e-6) | (np.abs(x % 1 - 0.5) < 1e-6)

    def check(self, *, margin=0, device="cpu"):
        image, target, weights = self.in_torch(margin=margin, device=device)
        assert target.shape == weights.shape == (self.n, self.size - 2 * margin, self.size - 2 * margin)
        for k in range(self.n):
            expected_image, expected_target, expected_weights = self.in_numba(k, margin=margin)
            np.testing.assert_allclose(image[k], expected_image, atol=TOLERANCE, rtol=1e-6)
            np.testing.assert_allclose(weights[k], expected_weights, atol=TOLERANCE)
            differ = (target[k] != expected_target) & ~self.near_a_half(k, margin=margin)
            assert not differ.any()


GRAYS = st.tuples(
    st.floats(0.125, 8), st.floats(-5, 5), st.floats(-0.95, 0.95), st.just(0) | st.floats(0, 5),
    st.just(0) | st.floats(0.01, 2.5),
)  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=200)
@given(st.data())
def test_equals_the_kernels(device, data):
    size = data.draw(st.integers(1, 40))
    case = Case(
        data.draw(st.integers(0, 2**32)),
        n=data.draw(st.integers(1, 3)),
        size=size,
        channels=data.draw(st.integers(1, 3)),
        order=data.draw(st.sampled_from([1, 3])),
        grid=data.draw(st.integers(1, 6)),
        std_px=data.draw(st.sampled_from([0.0, 2.0, 10.0])),
        gray=data.draw(GRAYS),
        spacing=data.draw(st.sampled_from([1.0, 0.7, 2.5])),
    )
    case.check(margin=data.draw(st.integers(0, (size - 1) // 2)), device=device)


@pytest.mark.parametrize("device", DEVICES)
def test_samples_and_channels_have_gray_values_of_their_own(device):
    case = Case(1, n=3, channels=2, gray=(1.2, 0.3, -0.2, 0.1, 1.0))
    rng = np.random.default_rng(0)
    case.gray *= rng.uniform(0.1, 1, case.gray.shape)
    case.gray[1, 4, 0] = 0  # one plane is not blurred
    case.check(device=device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_patch_of_the_paper(device):
    Case(2, n=1, size=572, channels=1, order=3, std_px=10, gray=(1.25, 0.25, 0.2, 0.15, 0.0)).check(
        margin=92, device=device
    )


@pytest.mark.parametrize("device", DEVICES)
def test_without_deformation_it_is_the_source(device):
    case = Case(3, **STILL)
    image, target, weights = case.in_torch(device=device)
    for k, (low, source, labels, weight_map) in enumerate(case.blocks):
        y, x = -low[1], -low[2]
        cut = np.s_[..., 0, y : y + case.size, x : x + case.size]
        signs = np.s_[..., :: int(case.deformations[k].matrix[1, 1]), :: int(case.deformations[k].matrix[2, 2])]
        np.testing.assert_array_equal(image[k], ((source - 100) / 20)[cut][signs])
        np.testing.assert_array_equal(target[k], labels[cut][signs])
        np.testing.assert_array_equal(weights[k], weight_map[cut][signs])


@pytest.mark.parametrize("device", DEVICES)
def test_halves_go_to_the_higher_pixel(device):
    case = Case(4, **STILL)
    for deformation in case.deformations:
        deformation.offset[1:] = -0.5
    _, target, _ = case.in_torch(device=device)
    for k in range(case.n):
        np.testing.assert_array_equal(target[k], case.in_numba(k)[1])


@pytest.mark.parametrize("device", DEVICES)
def test_a_sample_does_not_depend_on_its_batch(device):
    case = Case(5, n=3, gray=(1.1, 0, 0.1, 0.2, 0.8))
    together = case.in_torch(device=device)
    whole = case.blocks, case.deformations, case.gray, case.seeds
    for k in range(3):
        case.blocks, case.deformations, case.gray, case.seeds = (part[k : k + 1] for part in whole)
        for a, b in zip(together, case.in_torch(device=device), strict=True):
            np.testing.assert_allclose(a[k : k + 1], b, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_normal(device):
    image, _, _ = Case(6, n=1, size=512, channels=2, gray=(1, 0, 0, 1, 0), std_px=0).in_torch(device=device)
    plain, _, _ = Case(6, n=1, size=512, channels=2, std_px=0).in_torch(device=device)
    noise = (image - plain)[0]
    assert np.abs(noise).max() > 4  # from the tail
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.01
