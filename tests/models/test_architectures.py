"""Each architecture is its paper's, and its derived geometry is what perturbed pixels show."""

import pytest
import torch
from torch import nn

from unetcli.architectures import ARCHITECTURES
from unetcli.errors import GeometryError
from unetcli.models import build_model
from unetcli.models.blocks import NORMS, he_init
from unetcli.models.geometry import geometry_of, receptive_field
from unetcli.models.overlap_tile import predict_core, read_extent
from unetcli.models.sliding_window import patch_size
from unetcli.models.summary import count_parameters, describe_architectures


def parameters(arch, **changes):
    """Return the parameters of an architecture as published."""
    made = ARCHITECTURES[arch]
    values = {"ndim": made.ndim, "channels": 1, "classes": 2, "features": made.features, "padding": "same"}
    values |= {"norm": "none", "dropout": 0.0, **({"skip": made.skips[0]} if made.skips else {})}
    return {**values, **changes}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_convolution_of_one_pixel_has_a_stride(arch):
    """The weight gradient of one writes past its memory in oneDNN (torch 2.13 on a CPU, channels last)."""
    network = build_model(arch, parameters(arch))
    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    assert convolutions
    assert not [m for m in convolutions if max(m.kernel_size) == 1 < max(m.stride)]


def on_meta(arch, shape, **changes):
    with torch.device("meta"):
        network = build_model(arch, parameters(arch, **changes)).eval()
        return network, network(torch.empty(shape))


# ------------------------------------------------------------------------------------------- papers


PAPER = (64, 128, 256, 512, 1024)


@pytest.mark.parametrize(
    ("arch", "changes", "expected"),
    [
        ("unet", {"features": PAPER}, 31_030_658),
        ("unet3d", {"channels": 3, "classes": 3}, 19_069_955 + 896),  # the paper: no biases of up-convolutions
        ("unet3d", {"channels": 3, "classes": 3, "norm": "batch"}, 19_069_955 + 896 + 4672),  # nor of the norms
        ("attention-unet", {"features": PAPER}, 31_379_782),  # the paper has volumes and other channels
        ("unet++", {"classes": 1}, 9_041_601),  # the paper: 9.04 M
        ("unet++", {"classes": 1, "deep_supervision": True}, 9_041_700),
        ("resunet", {"classes": 1, "channels": 3}, 8_214_593),
        ("vnet", {}, 65_175_314),
        ("sliding-window", {}, 219_290),
    ],
)
def test_parameters_of_the_papers(arch, changes, expected):
    assert count_parameters(arch, parameters(arch, **changes)) == expected


def test_the_residual_network_has_the_papers_7_8_million_but_for_its_shortcuts():
    with torch.device("meta"):
        network = build_model("resunet", parameters("resunet", classes=1, channels=3))
    n = sum(p.numel() for name, p in network.named_parameters() if "shortcut" not in name)
    assert round(n / 1e6, 1) == 7.8


@pytest.mark.parametrize(
    ("arch", "changes", "shape", "expected"),
    [
        ("unet", {"features": PAPER, "padding": "valid"}, (1, 1, 572, 572), (388, 388)),
        ("unet3d", {"channels": 3, "padding": "valid"}, (1, 3, 116, 132, 132), (28, 44, 44)),
        ("vnet", {}, (1, 1, 64, 128, 128), (64, 128, 128)),
        ("resunet", {"channels": 3}, (1, 3, 224, 224), (224, 224)),
        ("unet++", {}, (1, 1, 96, 96), (96, 96)),
        ("attention-unet", {"ndim": 3}, (1, 1, 32, 48, 16), (32, 48, 16)),
        ("sliding-window", {"padding": "valid"}, (1, 1, 95, 95), (1, 1)),
    ],
)
def test_sizes_of_the_papers(arch, changes, shape, expected):
    _, result = on_meta(arch, shape, **changes)
    assert result.shape == (1, 2, *expected)


@pytest.mark.parametrize(
    ("arch", "expected"), [("unet", 204), ("unet3d", 100), ("vnet", 548), ("resunet", 79), ("sliding-window", 95)]
)
def test_receptive_fields(arch, expected):
    assert receptive_field(arch, parameters(arch)) == (expected,) * ARCHITECTURES[arch].ndim


def test_the_v_net_has_as_many_convolutions_as_in_its_figure():
    network, _ = on_meta("vnet", (1, 1, 16, 16, 16))
    wide = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (5, 5, 5)]
    assert len(wide) == 1 + 2 + 3 + 3 + 3 + 3 + 3 + 2 + 1
    assert [w.out_channels for w in wide[-4:]] == [128, 64, 64, 32]


def test_the_table_of_architectures_is_made_of_its_layers():
    rows = {row["name"]: row for row in describe_architectures()}
    assert list(rows) == list(ARCHITECTURES)
    assert rows["unet3d"]["parameters"] == "19.07 M"
    assert (rows["unet"]["stride"], rows["unet"]["margin if valid"]) == ("16", "92")
    assert rows["sliding-window"]["receptive field"] == "95"


# ------------------------------------------------------------------------------------------- geometry


def small(arch, ndim, padding, **changes):
    """Return a small network, larger in none but the number of levels that show what there is to see."""
    features = (2, 2) if arch == "vnet" or (arch == "sliding-window" and ndim == 3) else (2, 2, 2)
    return parameters(arch, **{"ndim": ndim, "padding": padding, "features": features, **changes})


VARIANTS = [
    ("unet", {}),
    ("unet", {"skip": "add"}),
    ("unet3d", {}),
    ("attention-unet", {}),
    ("unet++", {"deep_supervision": True}),
    ("resunet", {}),
    ("resunet", {"skip": "attention"}),
    ("vnet", {}),
    ("sliding-window", {}),
]
WRAPPED = [
    ("unet", {"pyramid": 2}),
    ("unet", {"downsample": 2, "upsample": "bilinear"}),
    ("unet", {"downsample": 3, "upsample": "nearest", "features": (2, 2)}),
    ("unet", {"downsample": 2, "pyramid": 1, "features": (2, 2)}),
]
FLAT = [(arch, {"flat_levels": 1, **changes}) for arch, changes in VARIANTS if changes != {"skip": "add"}]
CASES = [
    *((arch, ndim, padding, c) for arch, c in VARIANTS for ndim in (2, 3) for padding in ("valid", "same")),
    *((arch, 2, padding, c) for arch, c in WRAPPED for padding in ("valid", "same")),
    *((arch, 3, padding, c) for arch, c in FLAT for padding in ("valid", "same")),
    ("sliding-window", 2, "same", {"pyramid": 1}),
    ("unet", 3, "same", {"flat_levels": 1, "pyramid": 1, "features": (2, 2)}),
    ("unet", 3, "same", {"flat_levels": 1, "downsample": 2, "features": (2, 2)}),
]


def name_of(case):
    arch, ndim, padding, changes = case
    return "-".join([arch, f"{ndim}d", padding, *(f"{k}={v}" for k, v in changes.items())]).replace(" ", "")


def positive(arch, values):
    """Make a network in which no path cancels another: more of any input pixel is more of each output it reaches."""
    torch.manual_seed(0)
    network = build_model(arch, values).double().eval()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
        parameter.data /= parameter[0].numel()
    for name, module in network.named_modules():
        if name.endswith("coefficient"):  # attention that is neither 0 nor 1
            for parameter in module.parameters():
                nn.init.constant_(parameter, 1e-3)
    return network


@pytest.mark.parametrize("case", CASES, ids=map(name_of, CASES))
def test_pixels_outside_the_read_box_do_not_matter_and_those_at_its_edge_do(case):
    arch, ndim, padding, changes = case
    values = small(arch, ndim, padding, **changes)
    geometry, network = geometry_of(arch, values), positive(arch, values)
    for axis, along in enumerate(geometry.axes):
        first = along.halo + along.stride  # of the core, in the input
        sizes = [a.smallest for a in geometry.axes]
        sizes[axis] = along.next_legal(first + along.stride + along.reach + along.halo + along.stride)
        image = torch.rand(1, 1, *sizes, dtype=torch.float64)
        with torch.no_grad():
            expected = network(image).narrow(2 + axis, first - along.margin, along.stride)

            def changes_the_core(position, image=image, axis=axis, along=along, first=first, expected=expected):
                changed = image.clone()
                changed.narrow(2 + axis, position, 1).add_(10)
                found = network(changed).narrow(2 + axis, first - along.margin, along.stride)
                return not torch.equal(found, expected)

            last = first + along.stride - 1 + along.reach
            assert not changes_the_core(first - along.halo - 1)
            assert any(changes_the_core(first - along.halo + k) for k in range(along.stride))
            assert changes_the_core(last)
            assert not changes_the_core(last + 1)


@pytest.mark.parametrize("case", CASES, ids=map(name_of, CASES))
def test_tiles_equal_the_whole(case):
    arch, ndim, padding, changes = case
    values = small(arch, ndim, padding, **({"features": (2, 2), **changes} if ndim == 3 else changes))
    torch.manual_seed(0)
    geometry, network = geometry_of(arch, values), build_model(arch, values).eval()
    core = [2 * axis.stride + 1 for axis in geometry.axes]
    steps = [axis.stride for axis in geometry.axes]
    # The middle of one pass over much more.
    first = [axis.halo + axis.stride for axis in geometry.axes]
    sizes = [
        axis.next_legal(f + n + axis.reach + axis.halo) for axis, f, n in zip(geometry.axes, first, core, strict=True)
    ]
    image = torch.randn(1, *sizes)

    def cut(whole, start, extent):
        return whole[(slice(None), *(slice(a, a + n) for a, n in zip(start, extent, strict=True)))]

    with torch.inference_mode():
        whole = network(image[None])[0].softmax(0)
        expected = cut(whole, [f - a.margin for f, a in zip(first, geometry.axes, strict=True)], core)
        for step in (steps, [2 * n for n in steps]):
            before = [f - a.halo for f, a in zip(first, geometry.axes, strict=True)]
            block = cut(image, before, read_extent(geometry, core, step))
            found = predict_core(network, geometry, block, core, step)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_flat_levels_leave_z_alone():
    for arch in ARCHITECTURES:
        values = small(arch, 3, "valid", features=(2, 2, 2))
        z, y, x = geometry_of(arch, {**values, "flat_levels": 2}).axes
        assert y == x == geometry_of(arch, values).axes[2]
        assert z.stride == 1
        assert z.margin < y.margin


@pytest.mark.parametrize("arch", ["unet3d", "unet", "vnet"])
def test_flat_levels_have_windows_of_one_plane(arch):
    network, _ = on_meta(arch, (1, 1, 8, 16, 16), ndim=3, features=(4, 8, 16, 32), flat_levels=1)
    width = 5 if arch == "vnet" else 3
    kernels = [m.kernel_size for m in network.modules() if isinstance(m, nn.Conv3d) and max(m.kernel_size) == width]
    assert kernels.count((1, width, width)) == (2 if arch == "vnet" else 4)
    assert kernels.count((width,) * 3) == len(kernels) - kernels.count((1, width, width))


def test_a_network_whose_sizes_do_not_go_together_is_refused():
    with pytest.raises(GeometryError, match="fits through the network") as caught:
        geometry_of("unet", parameters("unet", padding="valid", pyramid=3))  # sizes 16 k + 12 have no blocks of 8
    assert "--pyramid" in caught.value.fix


# ------------------------------------------------------------------------------------------- behaviour


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_each_norm_any_channels_any_classes(arch, norm, ndim):
    values = parameters(arch, ndim=ndim, features=(3, 4), norm=norm, channels=3, classes=5, dropout=0.5)
    network = build_model(arch, values)
    size = geometry_of(arch, values).axes[0].next_legal(8)
    result = network(torch.randn(2, 3, *(size,) * ndim))
    assert result.shape == (2, 5, *(size,) * ndim)
    result.square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize(
    ("arch", "skip"), [(arch, skip) for arch, made in ARCHITECTURES.items() for skip in made.skips]
)
def test_each_skip_connection_of_an_architecture(arch, skip):
    network = build_model(arch, parameters(arch, ndim=2, features=(4, 6, 8), skip=skip))
    assert network(torch.randn(1, 1, 16, 24)).shape == (1, 2, 16, 24)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_deep_supervision_gives_all_results_in_training_and_their_mean_after(padding):
    torch.manual_seed(0)
    network = build_model("unet++", small("unet++", 2, padding, deep_supervision=True))
    image = torch.randn(1, 1, 60, 60)
    several = network(image)
    assert [part.shape for part in several] == [network.eval()(image).shape] * 2
    torch.testing.assert_close(network(image), torch.stack(several).mean(0))
    alone = build_model("unet++", small("unet++", 2, padding))
    assert isinstance(alone(image), torch.Tensor)


def patch_classifier(dense, ndim, channels, classes, features, flat_levels):
    """Make the network that classifies one patch, not dilated, with the parameters of a dense one."""
    conv, pool = (nn.Conv2d, nn.MaxPool2d) if ndim == 2 else (nn.Conv3d, nn.MaxPool3d)
    layers, before = [], channels
    for i, after in enumerate(features[:-1]):
        z = (1, 1) if i < flat_levels else ((4, 5, 4)[i - flat_levels], 2)
        size = (4, 5, 4)[i]
        layers += [conv(before, after, (z[0], size, size)[-ndim:]), nn.ReLU(), pool((z[1], 2, 2)[-ndim:])]
        before = after
    layers += [conv(before, features[-1], 3), nn.ReLU(), conv(features[-1], classes, 1)]
    network = nn.Sequential(*layers)
    given = [p.detach() for p in dense.parameters()]
    for parameter, value in zip(network.parameters(), given, strict=True):
        parameter.data = value
    return network


@pytest.mark.parametrize(
    ("ndim", "features", "flat_levels"),
    [(2, (3, 4), 0), (2, (3, 4, 5), 0), (2, (2, 2, 2, 3), 0), (3, (2, 3), 0), (3, (2, 2, 3), 1)],
)
def test_the_sliding_window_gives_what_each_patch_alone_gives(ndim, features, flat_levels):
    torch.manual_seed(0)
    values = parameters("sliding-window", ndim=ndim, features=features, padding="valid", flat_levels=flat_levels)
    dense = build_model("sliding-window", values).eval()
    alone = patch_classifier(dense, ndim, 1, 2, features, flat_levels)
    patch = patch_size(ndim, len(features) - 1, flat_levels)
    assert receptive_field("sliding-window", values) == patch
    image = torch.randn(1, 1, *(n + 4 for n in patch))
    with torch.inference_mode():
        result = dense(image)
        assert result.shape[2:] == (5,) * ndim
        for at in ((0,) * ndim, (1, 2, 3)[:ndim], (4,) * ndim):
            one = alone(image[(0, 0, *(slice(a, a + n) for a, n in zip(at, patch, strict=True)))][None, None])
            assert one.shape[2:] == (1,) * ndim
            torch.testing.assert_close(result[(slice(None), slice(None), *at)], one.flatten(1), atol=1e-6, rtol=1e-5)
    same = build_model("sliding-window", {**values, "padding": "same"}).eval()
    same.load_state_dict(dense.state_dict())
    torch.testing.assert_close(same(image)[(..., *(slice(n // 2, n // 2 + 5) for n in patch))], result)


def test_the_published_sliding_window_classifies_patches_of_95_pixels():
    assert patch_size(2, 4) == (95, 95)
    assert patch_size(3, 4, flat_levels=4) == (3, 95, 95)


def test_a_pyramid_is_means_over_blocks():
    torch.manual_seed(0)
    network = build_model("unet", parameters("unet", features=(2, 3), channels=2, pyramid=2))
    seen = []
    network.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.randn(1, 2, 8, 12)
    network(image)
    assert seen[0].shape == (1, 6, 8, 12)
    assert torch.equal(seen[0][:, :2], image)
    for k in (1, 2):
        n = 2**k
        means = image.reshape(1, 2, 8 // n, n, 12 // n, n).mean((3, 5))
        expected = means.repeat_interleave(n, 2).repeat_interleave(n, 3)
        torch.testing.assert_close(seen[0][:, 2 * k : 2 * k + 2], expected)


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_downsampling_works_on_means_and_comes_back_to_full_size(upsample, ndim):
    torch.manual_seed(0)
    values = parameters("unet", ndim=ndim, features=(2, 3))
    network = build_model("unet", {**values, "downsample": 3, "upsample": upsample}).eval()
    inner = build_model("unet", values).eval()
    inner.load_state_dict({k.removeprefix("network."): v for k, v in network.state_dict().items()})
    image = torch.randn(1, 1, *(12,) * ndim)
    small_image = image.reshape(1, 1, *(4, 3) * ndim).mean(tuple(range(3, 3 + 2 * ndim, 2)))
    result, coarse = network(image), inner(small_image)
    assert result.shape == (1, 2, *(12,) * ndim)
    centres = (..., *(slice(1, None, 3),) * ndim)
    torch.testing.assert_close(result[centres], coarse)  # the middle pixel of each block has the value of the block
    if upsample == "nearest":
        torch.testing.assert_close(result[(..., *(slice(0, None, 3),) * ndim)], coarse)


def test_models_of_earlier_versions_have_none_of_the_later_parameters():
    old = {
        "ndim": 2, "channels": 1, "classes": 2, "features": [2, 3], "padding": "same", "norm": "none",
        "skip": "concat", "dropout": 0.0,
    }  # fmt: skip
    names = list(build_model("unet", old).state_dict())
    assert names[:4] == [
        "contracting.0.0.weight",
        "contracting.0.0.bias",
        "contracting.0.3.weight",
        "contracting.0.3.bias",
    ]
    assert "up.0.up.weight" in names


def test_all_convolutions_are_drawn_for_their_incoming_nodes():
    torch.manual_seed(0)
    for arch in ARCHITECTURES:
        network = build_model(arch, parameters(arch, ndim=2, features=(32, 64, 64)))
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
                incoming = module.weight[0].numel()
                assert float(module.weight.detach().std()) == pytest.approx((2 / incoming) ** 0.5, rel=0.1)
    he_init(nn.Conv2d(1, 1, 1, bias=False))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_each_network_can_be_traced(arch, padding):
    values = small(arch, 2, padding, deep_supervision=True) if arch == "unet++" else small(arch, 2, padding)
    network = build_model(arch, {**values, "pyramid": 1 if padding == "same" else 0}).eval()
    size = geometry_of(arch, values).axes[0].next_legal(16)
    image = torch.randn(1, 1, size, size)
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(image), network(image))
