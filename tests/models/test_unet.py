"""The U-Net is the paper's, and its variants keep their promises."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from unetcli.errors import ConfigError, GeometryError
from unetcli.models import build_model
from unetcli.models.blocks import NORMS, SKIPS

PAPER = {
    "ndim": 2,
    "channels": 1,
    "classes": 2,
    "features": (64, 128, 256, 512, 1024),
    "padding": "valid",
    "norm": "none",
    "skip": "concat",
    "dropout": 0.5,
}
SMALL = {**PAPER, "features": (2, 3, 4), "padding": "same", "dropout": 0.0}
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@pytest.fixture(scope="module")
def paper():
    """The network of the paper, without memory for its parameters."""
    with torch.device("meta"):
        return build_model("unet", PAPER)


def test_the_papers_network_takes_572_and_gives_388(paper):
    assert paper(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)


def test_the_papers_network_has_23_convolutions(paper):
    assert sum(isinstance(m, CONVOLUTIONS) for m in paper.modules()) == 23


def test_the_papers_network_has_31_million_parameters(paper):
    assert sum(p.numel() for p in paper.parameters()) == 31_030_658


def test_dropout_is_at_the_end_of_the_contracting_path(paper):
    assert [type(m) for m in paper.dropout] == [nn.Identity] * 3 + [nn.Dropout] * 2
    assert not any(isinstance(m, nn.Dropout) for m in build_model("unet", SMALL).modules())


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    network = build_model("unet", {**PAPER, "features": (64, 64, 128)})
    second = network.contracting[0][3]
    assert float(second.weight.detach().std()) == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            incoming = module.in_channels * (9 if module.kernel_size == (3, 3) else 1)
            assert float(module.weight.detach().std()) == pytest.approx((2 / incoming) ** 0.5, rel=0.2)
            assert not module.bias.any()


def test_equals_the_layers_written_out():
    torch.manual_seed(0)
    network = build_model("unet", {**PAPER, "features": (3, 5), "dropout": 0.0}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    image, p = torch.randn(2, 1, 26, 30), dict(network.named_parameters())

    def block(x, name):
        for i in (0, 3):
            x = functional.conv2d(x, p[f"{name}.{i}.weight"], p[f"{name}.{i}.bias"]).relu()
        return x

    above = block(image, "contracting.0")  # 22, 26
    below = block(functional.max_pool2d(above, 2), "contracting.1")  # 7, 9
    up = functional.conv_transpose2d(below, p["up.0.up.weight"], p["up.0.up.bias"], stride=2)  # 14, 18
    joined = torch.cat([above[:, :, 4:18, 4:22], up], dim=1)
    expected = functional.conv2d(block(joined, "expansive.0"), p["head.weight"], p["head.bias"])
    torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize(
    ("ndim", "norm", "skip"),
    [*itertools.product([2], NORMS, SKIPS), (3, "none", "concat"), (3, "batch", "add")],
)
def test_same_padding_keeps_the_size(ndim, norm, skip):
    network = build_model("unet", {**SMALL, "ndim": ndim, "norm": norm, "skip": skip, "channels": 3, "classes": 4})
    sizes = (8, 12, 16)[-ndim:]
    assert network(torch.randn(2, 3, *sizes)).shape == (2, 4, *sizes)


@pytest.mark.parametrize("skip", SKIPS)
def test_valid_padding_in_3d(skip):
    network = build_model("unet", {**SMALL, "ndim": 3, "padding": "valid", "skip": skip})
    assert network(torch.randn(1, 1, 44, 48, 44)).shape == (1, 2, 4, 8, 4)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_each_parameter_is_trained(padding):
    torch.manual_seed(0)
    network = build_model("unet", {**SMALL, "padding": padding, "features": (8, 8, 8)})
    network(torch.randn(1, 1, 52, 52)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    network = build_model("unet", {**SMALL, "dropout": 0.5, "features": (4, 8, 8)})
    image = torch.randn(1, 1, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(("padding", "size"), [("same", 10), ("same", 6), ("valid", 46), ("valid", 45)])
def test_sizes_that_do_not_fit_are_refused(padding, size):
    with pytest.raises(GeometryError):
        build_model("unet", {**SMALL, "padding": padding})(torch.zeros(1, 1, size, size))


def test_a_shift_by_the_stride_shifts_the_result():
    torch.manual_seed(0)
    network, image = build_model("unet", {**SMALL, "padding": "valid"}), torch.randn(1, 1, 64, 64)
    results = network(image[..., 4:, :60]), network(image[..., :60, 4:])
    torch.testing.assert_close(results[0][..., :-4, 4:], results[1][..., 4:, :-4])


def test_networks_have_names():
    with pytest.raises(ConfigError, match="--arch nope: expected one of unet"):
        build_model("nope", {})
