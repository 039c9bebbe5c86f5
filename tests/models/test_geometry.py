"""The geometry that is derived from the layers is what perturbed pixels show."""

import pytest
import torch
from torch import nn

from unetcli.errors import GeometryError
from unetcli.models import build_model
from unetcli.models.geometry import AxisGeometry, Geometry, geometry_of, legal_sizes

PARAMETERS = {"ndim": 2, "channels": 1, "classes": 2, "norm": "none", "skip": "concat", "dropout": 0.5}
PAPER = AxisGeometry(stride=16, margin=92, halo=92, reach=96, smallest=188)
SAME = AxisGeometry(stride=16, margin=0, halo=96, reach=94, smallest=16)


def parameters(padding, depth, **changes):
    return {**PARAMETERS, "padding": padding, "features": (1,) * (depth + 1), **changes}


@pytest.mark.parametrize(("padding", "expected"), [("valid", PAPER), ("same", SAME)])
def test_the_papers_network(padding, expected):
    features = (64, 128, 256, 512, 1024)
    assert geometry_of("unet", parameters(padding, 4, features=features, norm="batch", classes=5)) == Geometry(
        (expected,) * 2
    )


def test_legal_sizes_of_the_papers_network():
    assert [n for n in range(180, 240) if PAPER.is_legal(n)] == [188, 204, 220, 236]
    assert PAPER.is_legal(572)
    assert all((n - 12) % 16 == 0 for n in range(188, 700) if PAPER.is_legal(n))
    assert [n for n in range(60) if SAME.is_legal(n)] == [16, 32, 48]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_legal_sizes_are_those_that_fit_through(padding, depth):
    geometry = geometry_of("unet", parameters(padding, depth)).axes[0]
    with torch.device("meta"):
        network = build_model("unet", parameters(padding, depth))
    sizes = range(1, geometry.smallest + 2 * geometry.stride + 1)
    for n in sizes:
        if geometry.is_legal(n):
            assert network(torch.empty(1, 1, n, n, device="meta")).shape[-1] == n - 2 * geometry.margin
        else:
            with pytest.raises((GeometryError, RuntimeError)):
                network(torch.empty(1, 1, n, n, device="meta"))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("changes", [{"skip": "add"}, {"norm": "group"}, {"channels": 3}], ids=str)
def test_what_does_not_change_the_geometry(padding, changes):
    assert geometry_of("unet", parameters(padding, 2, **changes)) == geometry_of("unet", parameters(padding, 2))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_volumes_have_the_geometry_of_planes(padding):
    plane, volume = (geometry_of("unet", parameters(padding, 2, ndim=ndim)) for ndim in (2, 3))
    assert set(plane.axes) == set(volume.axes)
    assert len(volume.axes) == 3


def positive_network(padding, depth):
    """A network in which no path cancels another: more of any input pixel is more of each output it reaches."""
    torch.manual_seed(0)
    network = build_model("unet", parameters(padding, depth, dropout=0.0)).double().eval()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 0.5)
    return network


@pytest.mark.parametrize(
    ("padding", "depth", "before"),
    [("valid", 1, 8), ("valid", 2, 20), ("valid", 3, 44), ("valid", 4, 92),
     ("same", 1, 8), ("same", 2, 22), ("same", 3, 46), ("same", 4, 94)],
)  # fmt: skip
def test_pixels_within_reach_matter_and_no_others(padding, depth, before):
    geometry, network = geometry_of("unet", parameters(padding, depth)).axes[1], positive_network(padding, depth)
    stride = geometry.stride
    first = geometry.halo + stride + -(geometry.halo - geometry.margin) % stride  # of the core, in the input
    size = geometry.next_legal(first + 2 * stride + geometry.reach + geometry.halo + 2 * stride)
    image = torch.rand(1, 1, geometry.next_legal(1), size, dtype=torch.float64)
    core = slice(first - geometry.margin, first - geometry.margin + 2 * stride)

    def core_changes(column):
        changed = image.clone()
        changed[..., column] += 1e9  # larger than its neighbours, so that it is what is pooled
        with torch.no_grad():
            return not torch.equal(network(changed)[..., core], network(image)[..., core])

    assert (first - geometry.margin) % stride == 0
    last = first + 2 * stride - 1
    assert core_changes(first - before)
    assert not core_changes(first - before - 1)
    assert not core_changes(first - geometry.halo - 1)
    assert core_changes(last + geometry.reach)
    assert not core_changes(last + geometry.reach + 1)
    assert before <= geometry.halo < before + stride
    assert (geometry.halo - geometry.margin) % stride == 0


@pytest.mark.parametrize("geometry", [PAPER, SAME], ids=["valid", "same"])
def test_sizes_of_cores_and_of_what_is_read_fit_together(geometry):
    for core in range(1, 400, 7):
        size = geometry.read_size(core)
        assert geometry.is_legal(size)
        assert size >= geometry.halo + core + geometry.reach
        assert size - geometry.stride < max(geometry.smallest, geometry.halo + core + geometry.reach)
        assert geometry.core_size(size) >= core // geometry.stride * geometry.stride
    assert geometry.core_size(geometry.read_size(512)) == 512
    for size in range(1, 300):
        legal = geometry.next_legal(size)
        assert geometry.is_legal(legal)
        assert legal >= size
        assert not any(geometry.is_legal(n) for n in range(size, legal))


@pytest.mark.parametrize(
    ("geometry", "size", "least", "said", "fix"),
    [
        (PAPER, 500, None, "500: the network takes 16*k + 12, from 188 on", [492, 508]),
        (PAPER, 100, None, "100: the network takes 16*k + 12, from 188 on", [188]),
        (PAPER, 190, None, "190: the network takes 16*k + 12, from 188 on", [188, 204]),
        (PAPER, 188, 200, "188: the network takes 16*k + 12, from 204 on", [204]),
        (SAME, 100, None, "100: the network takes 16*k + 0, from 16 on", [96, 112]),
        (SAME, 0, None, "0: the network takes 16*k + 0, from 16 on", [16]),
        (SAME, 32, 206, "32: the network takes 16*k + 0, from 208 on", [208]),
    ],
)  # fmt: skip
def test_sizes_that_the_network_does_not_take(geometry, size, least, said, fix):
    with pytest.raises(GeometryError) as caught:
        geometry.check_size("--patch-size", size, least)
    assert str(caught.value) == f"--patch-size {said}"
    assert caught.value.fix == " or ".join(f"--patch-size {n}" for n in fix)


@pytest.mark.parametrize(("geometry", "size", "least"), [(PAPER, 572, None), (PAPER, 204, 200), (SAME, 16, None)])
def test_sizes_that_the_network_takes(geometry, size, least):
    geometry.check_size("--patch-size", size, least)


Z = AxisGeometry(stride=4, margin=0, halo=8, reach=6, smallest=4)
OF_YX = "16*k + 0, from 16 on along y; 16*k + 0, from 16 on along x"
OF_Z = f"4*k + 0, from 4 on along z; {OF_YX}"


@pytest.mark.parametrize(
    ("axes", "shape", "said", "fix"),
    [
        ((PAPER, PAPER), (500, 500), "500: the network takes 16*k + 12, from 188 on", "{0} 492 or {0} 508"),
        ((SAME, SAME), (100, 96), f"100,96: the network takes {OF_YX}", "{0} 96,96 or {0} 112,96"),
        ((Z, SAME, SAME), (6, 32, 32), f"6,32,32: the network takes {OF_Z}", "{0} 4,32,32 or {0} 8,32,32"),
        ((Z, SAME, SAME), (1, 1, 32), f"1,1,32: the network takes {OF_Z}", "{0} 4,16,32"),
    ],
    ids=["alike", "one axis wrong", "volume", "too small"],
)  # fmt: skip
def test_shapes_that_the_network_does_not_take(axes, shape, said, fix):
    with pytest.raises(GeometryError) as caught:
        Geometry(axes).check_shape("--patch-size", shape)
    assert str(caught.value) == f"--patch-size {said}"
    assert caught.value.fix == fix.format("--patch-size")


def test_shapes_that_the_network_takes():
    Geometry((Z, SAME, SAME)).check_shape("--patch-size", (8, 32, 16))
    Geometry((PAPER, PAPER)).check_shape("--patch-size", (572, 188))


def test_a_geometry_is_said_in_one_line():
    assert Geometry((SAME, SAME)).describe() == "stride 16, halo 96, inputs 16*k + 0, from 16 on"
    assert Geometry((Z, SAME, SAME)).describe().startswith("z: stride 4, halo 8, inputs 4*k + 0, from 4 on; y: stride")


def test_a_network_that_takes_nothing_is_refused():
    with pytest.raises(GeometryError, match="fits through the network"):
        legal_sizes(nn.Conv2d(1, 1, 5000, device="meta"), 2, 0)
