"""Tiled prediction of volumes: networks in 3D, with tiles and halos in z too."""

import numpy as np
import pytest
import torch

from tests.conftest import assert_same_files, cells, pixels
from tests.stages.test_tile_predict import make_model, prepared
from unetcli.config import PredictConfig
from unetcli.errors import ConfigError, GeometryError, InputError
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.models.checkpoint import load_model
from unetcli.stages import tile_predict


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny = {"ndim": 3, "features": (2, 3)}
    return {
        "same": make_model(folder / "same.safetensors", **tiny),
        "valid": make_model(folder / "valid.safetensors", **tiny, padding="valid"),
        "three classes": make_model(folder / "three.safetensors", **tiny, classes=3, norm="batch"),
        "two channels": make_model(folder / "two.safetensors", **tiny, channels=2),
        "flat": make_model(folder / "flat.safetensors", **tiny, parameters={"flat_levels": 1}),
        "planes": make_model(folder / "planes.safetensors", features=(2, 3)),
    }


def whole_volume(model, image):
    """Return the probabilities of one pass over the whole mirrored volume (c, z, y, x)."""
    network, header = load_model(model)
    axes = header.geometry.axes
    sizes = [axis.next_legal(axis.halo + n + axis.reach) for axis, n in zip(axes, image.shape[1:], strict=True)]
    around = [(axis.halo, s - axis.halo - n) for axis, s, n in zip(axes, sizes, image.shape[1:], strict=True)]
    padded = np.pad((image.astype(np.float32) - 100) / 50, [(0, 0), *around], mode="reflect")
    with torch.inference_mode():
        result = network(torch.from_numpy(padded)[None]).softmax(dim=1)[0].numpy()
    inside = [slice(a.halo - a.margin, a.halo - a.margin + n) for a, n in zip(axes, image.shape[1:], strict=True)]
    return result[(slice(None), *inside)]


def predict(image, folder, model, name="m", **options):
    settings = {k: options.pop(k) for k in ("tile_size", "tta", "level", "upsample") if k in options}
    maps = folder / f"{name}_p"
    config = PredictConfig(**settings)
    result = tile_predict.run(image, folder / name, config, model=model, probabilities=maps, device="cpu", **options)
    return pixels(maps)[0] if maps.exists() else result


@pytest.mark.parametrize("shape", [(2, 3, 5), (7, 12, 17), (3, 40, 9)], ids=str)
@pytest.mark.parametrize("kind", ["same", "valid", "three classes", "flat"])
def test_equals_the_whole_volume_at_once(tmp_path, models, small_tiles, kind, shape):
    volume = cells(shape, 0)[0]
    data = prepared(tmp_path, volume, axes="zyx")
    found = predict(data, tmp_path, models[kind])
    np.testing.assert_allclose(found, whole_volume(models[kind], volume[None]), atol=1e-5)
    np.testing.assert_array_equal(pixels(tmp_path / "m")[0, 0], found.argmax(axis=0))
    assert open_store(tmp_path / "m").images[0].axes.names == "zyx"


@pytest.mark.parametrize("kind", ["same", "valid"])
def test_tile_sizes_agree(tmp_path, models, kind):
    volume = cells((9, 22, 18), 1)[0]
    data = prepared(tmp_path, volume, axes="zyx")
    axes = load_model(models[kind])[1].geometry.axes
    expected = whole_volume(models[kind], volume[None])
    for steps in ((2, 4, 6), (100, 5, 100)):
        sizes = [axis.read_size(n * axis.stride) for axis, n in zip(axes, steps, strict=True)]
        found = predict(data, tmp_path, models[kind], f"m{steps[0]}", tile_size=",".join(map(str, sizes)))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_several_times_and_channels(tmp_path, models, small_tiles):
    series = np.random.default_rng(0).integers(0, 255, (2, 2, 5, 12, 9), np.uint8)
    data = prepared(tmp_path, series, axes="tczyx")
    predict(data, tmp_path, models["two channels"])
    found = pixels(tmp_path / "m_p")
    for t in range(2):
        np.testing.assert_allclose(found[t], whole_volume(models["two channels"], series[t]), atol=1e-5)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, models, small_tiles):
    data = prepared(tmp_path, cells((6, 40, 30), 3)[0], axes="zyx")
    for workers in (1, 4):
        predict(data, tmp_path, models["same"], f"m{workers}", workers=workers)
    assert_same_files(tmp_path / "m1", tmp_path / "m4")
    assert_same_files(tmp_path / "m1_p", tmp_path / "m4_p")


@pytest.mark.parametrize(("tta", "turns"), [("flips", (0, 2)), ("d4", range(4))])
def test_views_turn_and_mirror_the_planes(tmp_path, models, small_tiles, tta, turns):
    volume = cells((6, 16, 12), 0)[0]  # multiples of the stride: the whole is turned without another size
    data = prepared(tmp_path, volume, axes="zyx")
    views = [(k, flipped) for k in turns for flipped in (False, True)]
    expected = 0
    for k, flipped in views:
        view = np.rot90(volume, k, (1, 2))
        result = whole_volume(models["same"], (view[..., ::-1] if flipped else view)[None])
        result = result[..., ::-1] if flipped else result
        expected = expected + np.rot90(result, -k, (2, 3)) / len(views)
    np.testing.assert_allclose(predict(data, tmp_path, models["same"], tta=tta), expected, atol=1e-5)


@pytest.mark.parametrize("upsample", ["none", "nearest"])
def test_a_level_in_place_of_the_volume(tmp_path, models, small_tiles, monkeypatch, upsample):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 16)
    data = prepared(tmp_path, cells((6, 32, 32), 0)[0], axes="zyx")
    level = open_store(data).images[0].at(1)
    expected = whole_volume(models["same"], level.read(Box.whole(level.shape))[0])
    if upsample == "nearest":
        expected = expected.repeat(2, axis=2).repeat(2, axis=3)
    found = predict(data, tmp_path, models["same"], level=1, upsample=upsample)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_verify_seams(tmp_path, models, small_tiles):
    data = prepared(tmp_path, cells((20, 30, 26), 0)[0], axes="zyx")
    config = PredictConfig()
    result = tile_predict.run(data, tmp_path / "m", config, model=models["same"], device="cpu", verify_seams=True)
    assert 0 <= result["greatest_difference_at_seams"] < 1e-5


def test_dry_run_says_the_tile_along_each_axis(tmp_path, models):
    data = prepared(tmp_path, cells((8, 30, 26), 0)[0], axes="zyx")
    described = predict(data, tmp_path, models["same"], tile_size="18,34,34", dry_run=True)
    axis = load_model(models["same"])[1].geometry.axes[0]
    assert (
        described["tile"] == f"18x34x34 pixels in, core {axis.core_size(18)}x{axis.core_size(34)}x{axis.core_size(34)}"
    )
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("kind", "size", "error", "said"),
    [
        ("same", "17", GeometryError, "--tile-size 17: the network takes 2"),
        ("same", "18,17,18", GeometryError, r"--tile-size 18,17,18: the network takes 2\*k \+ 0, from 18 on along z"),
        ("same", "18,18", ConfigError, "--tile-size 18,18: expected one number, or 3 for z,y,x"),
        ("planes", "18,18,18", ConfigError, "--tile-size 18,18,18: expected one number, or 2 for y,x"),
    ],
)
def test_tile_sizes_that_can_not_be(tmp_path, models, kind, size, error, said):
    data = prepared(tmp_path, cells((4, 20, 20), 0)[0], axes="zyx")
    with pytest.raises(error, match=said) as caught:
        predict(data, tmp_path, models[kind], tile_size=size)
    advised = caught.value.fix.rpartition("--tile-size ")[2]
    predict(data, tmp_path, models[kind], tile_size=advised)


@pytest.mark.parametrize("size", ["a", "0", "16,", "1,2,3,4", "-3"])
def test_what_is_no_tile_size(size):
    with pytest.raises(ConfigError, match="--tile-size"):
        PredictConfig(tile_size=size)


def test_one_plane_is_no_volume(tmp_path, models):
    data = prepared(tmp_path, cells((20, 20), 0)[0])
    with pytest.raises(InputError, match="has one plane; the model takes volumes") as caught:
        predict(data, tmp_path, models["same"])
    assert "--ndim 2" in caught.value.fix
    assert not (tmp_path / "m").exists()
