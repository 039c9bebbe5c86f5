"""Test-time augmentation: any tiling gives the mean over views of the whole image."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from tests.models.test_overlap_tile import cut, large_image, make, whole_pass
from unetcli.models.overlap_tile import aligned
from unetcli.models.views import VIEWS, QuarterTurns, Rotations, predict_views, rotated

PADDINGS = ("valid", "same")


def predicted(network, geometry, image, core, step, views, **options):
    """Predict a core of an image that is large enough, from what is read for it."""
    read = views.read(geometry, core, step)
    assert all(a >= 0 and b <= n for (a, b), n in zip(read, image.shape[1:], strict=True)), "the test needs more image"
    block = cut(image, [a for a, _ in read], [b - a for a, b in read])
    with torch.inference_mode():
        return predict_views(network, geometry, block, core, step, views, **options)


def shown(image, angle, spans):
    """Rotate a large image (c, y, x) about its first pixel, slowly: what rows and columns of a view show."""
    v, u = np.meshgrid(*(np.arange(*span) for span in spans), indexing="ij")
    at = [v * np.cos(angle) - u * np.sin(angle), v * np.sin(angle) + u * np.cos(angle)]
    planes = [map_coordinates(plane, at, order=1, mode="constant") for plane in image.numpy().astype(np.float64)]
    return torch.from_numpy(np.stack(planes).astype(np.float32))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_any_step_and_tiling_gives_the_same(padding, views):
    network, geometry = make(padding, 2)
    image, core = torch.randn(2, 640, 640), [(280, 300), (320, 351)]
    expected = predicted(network, geometry, image, core, (64, 64), views)
    assert expected.shape == (3, 20, 31)
    found = predicted(network, geometry, image, core, (8, 12), views)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for part in itertools.product([(280, 284), (284, 297), (296, 300)], [(320, 321), (336, 351)]):
        inner = predicted(network, geometry, image, list(part), (16, 16), views)
        at = [a - first for (a, _), (first, _) in zip(part, core, strict=True)]
        torch.testing.assert_close(inner, cut(expected, at, [b - a for a, b in part]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_volumes_are_the_same_for_any_tiling_too(padding, views):
    network, geometry = make(padding, 1, ndim=3)
    image, core = torch.randn(2, 48, 160, 160), [(20, 25), (70, 80), (72, 85)]
    expected = predicted(network, geometry, image, core, (8, 16, 16), views)
    for step, part in (((2, 4, 6), core), ((4, 6, 6), [(22, 25), (74, 79), (84, 85)])):
        found = predicted(network, geometry, image, part, step, views)
        at = [a - first for (a, _), (first, _) in zip(part, core, strict=True)]
        torch.testing.assert_close(found, cut(expected, at, [b - a for a, b in part]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("n", [1, 3, 7])
def test_rotations_equal_those_of_the_whole_image(padding, n):
    network, geometry = make(padding, 2)
    axis = geometry.axes[0]
    image, core = torch.randn(2, 560, 560), [(240, 263), (280, 301)]
    total = 0
    for k in range(n):
        angle = 2 * np.pi * k / n
        # One pass over all of the view that could matter, far around the rotated core.
        middle = np.array([np.cos(angle) * 250 + np.sin(angle) * 290, -np.sin(angle) * 250 + np.cos(angle) * 290])
        first = [int(m - 60) // axis.stride * axis.stride for m in middle]
        size = axis.next_legal(120 + 2 * axis.halo)
        view = shown(image, angle, [(f - axis.halo, f - axis.halo + size) for f in first])
        with torch.inference_mode():
            seen = network(view[None])[0].softmax(0)[:, axis.halo - axis.margin :, axis.halo - axis.margin :]
        y, x = np.meshgrid(*(np.arange(*span) for span in core), indexing="ij")
        back = [np.cos(angle) * y + np.sin(angle) * x - first[0], -np.sin(angle) * y + np.cos(angle) * x - first[1]]
        total += np.stack([map_coordinates(c, back, order=1) for c in seen.numpy().astype(np.float64)])
    found = predicted(network, geometry, image, core, (16, 16), Rotations(n))
    np.testing.assert_allclose(found, total / n, atol=1e-5)


@pytest.mark.parametrize("views", [VIEWS["none"], Rotations(1)], ids=["none", "one rotation"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_one_view_is_the_image_as_it_is(padding, views):
    network, geometry = make(padding, 2)
    image, first = large_image(geometry, (20, 31))
    core = [(first[0], first[0] + 20), (first[1], first[1] + 31)]
    expected = whole_pass(network, geometry, image, first, (20, 31))
    torch.testing.assert_close(predicted(network, geometry, image, core, (8, 8), views), expected, atol=1e-5, rtol=0)


def test_one_rotation_reads_and_computes_what_the_image_as_it_is_needs():
    _, geometry = make("same", 2)
    core = [(40, 104), (64, 128)]
    plain, turned = (views.read(geometry, core, (32, 32)) for views in (VIEWS["none"], Rotations(1)))
    assert all(a <= c and d <= b for (a, b), (c, d) in zip(plain, turned, strict=True))


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, np.pi, 0.3, -2.5])
def test_a_picture_is_rotated_about_its_first_pixel(angle):
    image = torch.rand(3, 80, 80)
    centre = np.array([np.cos(angle) * 40 + np.sin(angle) * 40, -np.sin(angle) * 40 + np.cos(angle) * 40]).astype(int)
    wanted = [(int(c) - 9, int(c) + 12) for c in centre]
    found = rotated(image[:, 3:79, 1:], [(3, 79), (1, 80)], wanted, angle)
    torch.testing.assert_close(found, shown(image, angle, wanted), atol=1e-6, rtol=0)


def test_interpolated_pixels_do_not_depend_on_where_an_image_is_cut():
    image, spans = torch.rand(1, 400, 400), [(95_000, 95_400), (32_900, 33_300)]
    angle = np.arctan2(33_100, 95_200)
    far = round(np.hypot(33_100, 95_200))  # the middle of the image lies on this row of the view, and on column 0
    wanted = [(far - 20, far + 20), (-30, 30)]
    whole = rotated(image, spans, wanted, angle)
    part = rotated(image[:, 50:, 20:350], [(95_050, 95_400), (32_920, 33_250)], wanted, angle)
    assert torch.equal(part, whole)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flipped", [False, True])
def test_all_quarter_turns_turn_with_the_image(turns, flipped):
    network, geometry = make("same", 2)
    step = (12, 12)

    def turn(picture):
        turned = torch.rot90(picture, turns, (-2, -1))
        return turned.flip(-1) if flipped else turned

    core = [(80, 100), (80, 104)]
    read = VIEWS["d4"].read(geometry, core, step)
    block = cut(torch.randn(2, 200, 200), [a for a, _ in read], [b - a for a, b in read])
    extent = (20, 24) if turns % 2 == 0 else (24, 20)
    with torch.inference_mode():
        expected = turn(predict_views(network, geometry, block, core, step, VIEWS["d4"]))
        found = predict_views(network, geometry, turn(block), [(0, n) for n in extent], step, VIEWS["d4"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_quarter_turns_are_all_different():
    picture = torch.arange(6.0).reshape(2, 3)
    for name, n in (("none", 1), ("flips", 4), ("d4", 8)):
        seen = {
            str((torch.rot90(picture, t, (0, 1)).flip(-1) if f else torch.rot90(picture, t, (0, 1))).tolist())
            for t, f in VIEWS[name].turns
        }
        assert len(seen) == len(VIEWS[name].turns) == n


@pytest.mark.parametrize("name", VIEWS)
def test_variance_is_that_of_the_views(name):
    network, geometry = make("same", 2)
    image, core, views = torch.randn(2, 560, 560), [(240, 260), (280, 300)], VIEWS[name]
    read = views.read(geometry, core, (32, 32))
    block = cut(image, [a for a, _ in read], [b - a for a, b in read])
    with torch.inference_mode():
        each = torch.stack(list(views.seen(network, geometry, block, core, (32, 32), 1)))
    assert len(each) == {"none": 1, "flips": 4, "d4": 8, "rotations": 7}[name]
    found = predicted(network, geometry, image, core, (32, 32), views, variance=True)
    torch.testing.assert_close(found[:-1], each.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[-1], each.var(0, correction=0).mean(0), atol=1e-6, rtol=1e-4)
    assert (found[-1].max() > 1e-4) == (name != "none")


def test_cores_start_on_the_stride_of_their_view():
    """Shows that the tests above can fail: a core off the stride is another picture to the network."""
    network, geometry = make("same", 2)
    image, views = torch.randn(2, 200, 200), QuarterTurns(((0, False),))
    expected = predicted(network, geometry, image, [(80, 96), (80, 96)], (16, 16), views)
    found = predicted(network, geometry, image, [(81, 96), (81, 96)], (16, 16), views)
    assert float((found - expected[:, 1:, 1:]).abs().max()) > 1e-3
    assert aligned(geometry.axes[0], 15) == 16
