"""Each part of a network does what its name says, in 2D and in 3D."""

import pytest
import torch
from torch import nn

from unetcli.errors import GeometryError
from unetcli.models.blocks import (
    MAX_POOL,
    NORMS,
    AttentionGate,
    ConvBlock,
    Down,
    ResidualBlock,
    Up,
    add,
    center_crop,
    concatenate,
    he_init,
    up_convolution,
)

DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3], ids=["2D", "3D"])


@DIMENSIONS
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("padding", "lost"), [("valid", 4), ("same", 0)])
def test_a_block_has_two_convolutions(ndim, padding, lost, norm):
    block = ConvBlock((3,) * ndim, 3, 5, padding=padding, norm=NORMS[norm](ndim))
    result = block(torch.randn(2, 3, *(9,) * ndim))
    assert result.shape == (2, 5, *(9 - lost,) * ndim)
    assert (result >= 0).all()
    assert sum(isinstance(m, (nn.Conv2d, nn.Conv3d)) for m in block.modules()) == 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 12, 20, 30, 64])
def test_each_norm_takes_any_number_of_channels(norm, channels):
    features = 7 + 3 * torch.randn(4, channels, 6, 6)
    result = NORMS[norm](2)(channels)(features)
    assert result.shape == features.shape
    if norm == "none":
        assert result is features
    else:
        assert abs(float(result.detach().mean())) < 1e-3
        assert float(result.detach().std()) == pytest.approx(1, abs=0.1)


@DIMENSIONS
def test_pooling_takes_the_largest_of_two_along_each_axis(ndim):
    features = torch.arange(4.0**ndim).reshape(1, 1, *(4,) * ndim)
    pooled = Down(MAX_POOL[ndim]((2,) * ndim))(features)
    assert pooled.shape == (1, 1, *(2,) * ndim)
    torch.testing.assert_close(pooled.flatten(), features[(..., *(slice(1, None, 2),) * ndim)].flatten())


@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (7, 7), (1, 4), (0, 4), (4, 4, 3)], ids=str)
def test_odd_sizes_are_not_pooled(shape):
    with pytest.raises(GeometryError, match="can not be pooled by 2"):
        Down(MAX_POOL[len(shape)](2))(torch.zeros(1, 1, *shape))


@DIMENSIONS
@pytest.mark.parametrize(("skip", "channels"), [(concatenate, 6), (add, 3)], ids=["concat", "add"])
def test_going_up_doubles_the_size_and_joins(ndim, skip, channels):
    up = Up(up_convolution((2,) * ndim, 8, 3), skip=skip)
    contracting = torch.randn(2, 3, *(12,) * ndim)
    below = torch.randn(2, 8, *(4,) * ndim)
    result = up(below, contracting)
    assert result.shape == (2, channels, *(8,) * ndim)
    middle = contracting[(..., *(slice(2, 10),) * ndim)]
    if skip is concatenate:
        torch.testing.assert_close(result[:, :3], middle)
        torch.testing.assert_close(result[:, 3:], up.up(below))
    else:
        torch.testing.assert_close(result, middle + up.up(below))


@pytest.mark.parametrize(
    ("size", "wanted", "first"),
    [((8, 8), (4, 4), (2, 2)), ((9, 6), (4, 6), (2, 0)), ((5, 7), (5, 1), (0, 3))],
)
def test_the_middle_is_cut_out(size, wanted, first):
    features = torch.arange(float(size[0] * size[1])).reshape(1, 1, *size)
    expected = features[:, :, first[0] : first[0] + wanted[0], first[1] : first[1] + wanted[1]]
    torch.testing.assert_close(center_crop(features, wanted), expected)


@DIMENSIONS
def test_weights_are_drawn_for_their_incoming_nodes(ndim):
    torch.manual_seed(0)
    up = Up(up_convolution((2,) * ndim, 256, 128), skip=add)
    block = ConvBlock((3,) * ndim, 32, 64, padding="same", norm=NORMS["none"](ndim))
    for part in (up, block):
        he_init(part)
    assert float(up.up.weight.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.03)
    assert float(block[0].weight.detach().std()) == pytest.approx((2 / (3**ndim * 32)) ** 0.5, rel=0.03)
    assert float(block[3].weight.detach().std()) == pytest.approx((2 / (3**ndim * 64)) ** 0.5, rel=0.03)
    assert not any(m.bias.any() for m in (up.up, block[0], block[3]))


@DIMENSIONS
def test_attention_weights_the_contracting_path_alone(ndim):
    torch.manual_seed(0)
    gate = AttentionGate(ndim, 6, 4)
    contracting, up = torch.randn(2, 6, *(5,) * ndim), torch.randn(2, 4, *(5,) * ndim)
    result = gate(contracting, up)
    assert torch.equal(result[:, 6:], up)
    ratio = result[:, :6] / contracting
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))  # one weight for all channels
    assert (ratio > 0).all()
    assert (ratio < 1).all()
    w_x, w_g, psi = gate.of_contracting, gate.of_gating, gate.coefficient[1]
    at = (0, slice(None), *(2,) * ndim)
    inner = w_x.weight.flatten(1) @ contracting[at] + w_g.weight.flatten(1) @ up[at] + w_g.bias
    expected = (psi.weight.flatten(1) @ inner.relu() + psi.bias).sigmoid()
    torch.testing.assert_close(ratio[(0, 0, *(2,) * ndim)], expected[0])


@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize(("padding", "lost"), [("same", 0), ("valid", 1)])
def test_a_residual_block_adds_what_came_in_at_the_same_place(down, padding, lost):
    block = ResidualBlock((3, 3), 1, 1, padding=padding, norm=NORMS["none"](2), down=(down, down), first=True)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(block.shortcut.weight)
    image = torch.randn(1, 1, 12, 16)
    first = lost + down * lost  # what each convolution loses, the second in steps of the first
    expected = image[..., first::down, first::down]
    result = block(image)
    lost_in_all = {(1, 0): 0, (1, 1): 4, (2, 0): 0, (2, 1): 3}[down, lost]
    assert result.shape[2:] == (12 // down - lost_in_all, 16 // down - lost_in_all)
    torch.testing.assert_close(result, expected[..., : result.shape[2], : result.shape[3]])
