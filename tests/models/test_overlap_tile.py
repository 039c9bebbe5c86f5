"""A region computed tile by tile equals one pass over the whole."""

import pytest
import torch

from unetcli.models import build_model
from unetcli.models.geometry import geometry_of
from unetcli.models.overlap_tile import aligned, predict_core, read_extent

PARAMETERS = {"ndim": 2, "channels": 2, "classes": 3, "skip": "concat", "dropout": 0.5}


def make(padding, depth, norm="batch", skip="concat", ndim=2):
    """Make a network with tiny widths, random parameters and random running statistics."""
    torch.manual_seed(0)
    features = tuple(range(3, 4 + depth))
    parameters = {**PARAMETERS, "padding": padding, "features": features, "norm": norm, "skip": skip, "ndim": ndim}
    network, geometry = build_model("unet", parameters), geometry_of("unet", parameters)
    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval(), geometry


def whole_pass(network, geometry, image, first, core):
    """Compute a core that starts at `first` in one pass over the whole image, which reaches far past it."""
    legal = [a.next_legal(n - a.stride + 1) for a, n in zip(geometry.axes, image.shape[1:], strict=True)]
    with torch.inference_mode():
        probabilities = network(image[(None, slice(None), *(slice(n) for n in legal))])[0].softmax(0)
    at = [f - axis.margin for f, axis in zip(first, geometry.axes, strict=True)]
    assert all(a % axis.stride == 0 for a, axis in zip(at, geometry.axes, strict=True))
    return cut(probabilities, at, core)


def cut(image, first, extent):
    """Cut a box out of ``(c, [z,] y, x)``."""
    return image[(slice(None), *(slice(a, a + n) for a, n in zip(first, extent, strict=True)))]


def before(first, geometry):
    """Return where the context of a core begins."""
    return [f - axis.halo for f, axis in zip(first, geometry.axes, strict=True)]


def large_image(geometry, core):
    """Make an image with much more context around the core than is needed, and say where the core starts."""
    first = [axis.halo + aligned(axis, axis.halo) for axis in geometry.axes]
    sizes = [axis.next_legal(3 * f + aligned(axis, n)) for axis, f, n in zip(geometry.axes, first, core, strict=True)]
    return torch.randn(2, *sizes), first


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("depth", "core", "steps"),
    [
        (2, (37, 50), (8, 20, 52)),
        (2, (1, 3), (4,)),
        (3, (24, 41), (16, 48)),
        (4, (17, 32), (16, 32)),
    ],
    ids=["depth 2", "tiny core", "depth 3", "depth 4"],
)
def test_any_step_equals_the_whole(padding, depth, core, steps):
    network, geometry = make(padding, depth)
    image, first = large_image(geometry, core)
    expected = whole_pass(network, geometry, image, first, core)
    assert expected.shape == (3, *core)
    for size in steps:
        step = (size, size)
        block = cut(image, before(first, geometry), read_extent(geometry, core, step))
        with torch.inference_mode():
            found = predict_core(network, geometry, block, core, step)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_volumes_equal_the_whole_too(padding):
    network, geometry = make(padding, 1, ndim=3)
    core = (5, 10, 13)
    image, first = large_image(geometry, core)
    expected = whole_pass(network, geometry, image, first, core)
    for step in ((2, 4, 4), (4, 6, 6), (8, 16, 16)):
        with torch.inference_mode():
            block = cut(image, before(first, geometry), read_extent(geometry, core, step))
            torch.testing.assert_close(predict_core(network, geometry, block, core, step), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("norm", "skip"), [("none", "concat"), ("none", "add"), ("batch", "add")])
def test_variants_have_no_seams(norm, skip):
    network, geometry = make("same", 2, norm, skip)
    image, first = large_image(geometry, (19, 30))
    expected = whole_pass(network, geometry, image, first, (19, 30))
    block = cut(image, before(first, geometry), image.shape[1:])
    with torch.inference_mode():
        found = predict_core(network, geometry, block, (19, 30), (8, 16))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_core_off_the_stride_would_differ():
    """Shows that the tests above can fail: this is what alignment is for."""
    network, geometry = make("same", 2)
    image, first = large_image(geometry, (16, 16))
    expected = whole_pass(network, geometry, image, first, (16, 16))
    start = first[0] - geometry.axes[0].halo + 1
    with torch.inference_mode():
        found = predict_core(network, geometry, image[:, start:, start:], (15, 15), (8, 8))
    assert float((found - expected[:, 1:, 1:]).abs().max()) > 1e-3


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("core", [1, 4, 13, 40])
@pytest.mark.parametrize("step", [12, 64])
def test_what_is_read_is_enough_and_is_all_used(padding, core, step):
    _, geometry = make(padding, 2)
    sizes = []

    class Spy(torch.nn.Module):
        def forward(self, tile):
            assert all(geometry.axes[0].is_legal(n) for n in tile.shape[2:])
            sizes.append(tile.storage_offset() % tile.stride(2) + tile.shape[3])
            height, width = (n - 2 * geometry.axes[0].margin for n in tile.shape[2:])
            return torch.zeros(1, 2, height, width)

    extent = read_extent(geometry, (core, core), (step, step))
    predict_core(Spy(), geometry, torch.zeros(2, *extent), (core, core), (step, step))
    assert max(sizes) == extent[1]


def test_results_are_probabilities():
    network, geometry = make("same", 2)
    extent = read_extent(geometry, (10, 10), (8, 8))
    with torch.inference_mode():
        found = predict_core(network, geometry, torch.randn(2, *extent), (10, 10), (8, 8))
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(0), torch.ones(10, 10))
