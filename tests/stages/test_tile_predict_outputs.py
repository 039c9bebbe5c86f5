"""What tile-predict writes, and of which views: the same for any tiling."""

import itertools
import math

import numpy as np
import pytest
import tifffile
import torch
import zarr

from tests.conftest import cells, pixels
from tests.stages.test_tile_predict import make_model, prepared, whole_image
from unetcli.config import EvaluateConfig, PredictConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.store import open_store
from unetcli.image.tiling import Box, mirror_index
from unetcli.models.checkpoint import load_model, save_model
from unetcli.prediction import outputs
from unetcli.stages import evaluate, tile_predict


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "same": make_model(folder / "same.safetensors"),
        "valid": make_model(folder / "valid.safetensors", padding="valid"),
        "three classes": make_model(folder / "three.safetensors", classes=3),
        "volumes": make_model(folder / "volumes.safetensors", ndim=3, features=(2, 3)),
    }


def predict(data, folder, model, *, shard=4096, tile=None, beside=("probabilities",), options=None, **config):
    """Write a mask and other outputs with shards and tiles of some size; return the pixels by output."""
    folder.mkdir()
    if tile is not None:
        axes = load_model(model)[1].geometry.axes
        config["tile_size"] = ",".join(str(axis.read_size(tile * axis.stride)) for axis in axes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetcli.image.new_store.SHARD", shard)
        patch.setattr("unetcli.image.new_store.CHUNK", min(shard, 16))
        patch.setattr("unetcli.image.new_store.DEEP_CHUNK", min(shard, 8))
        patch.setattr("unetcli.image.new_store.DEPTH", min(shard, 4))
        places = {name: folder / name for name in beside}
        tile_predict.run(
            data, folder / "mask", PredictConfig(**config), model=model, device="cpu", **places, **(options or {})
        )
    return {name: pixels(folder / name) for name in ("mask", *beside)}


# ------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("tta", ["flips", "d4", "rotations"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("same", (70, 51)), ("valid", (33, 90)), ("same", (3, 5)), ("volumes", (5, 12, 18))], ids=str
)
def test_views_have_no_seams(tmp_path, models, tta, kind, shape):
    data = prepared(tmp_path, cells(shape, 0)[0], **({"axes": "zyx"} if len(shape) == 3 else {}))
    whole = predict(data, tmp_path / "whole", models[kind], tta=tta)
    tiled = predict(data, tmp_path / "tiled", models[kind], tta=tta, shard=32, tile=2)
    np.testing.assert_allclose(tiled["probabilities"], whole["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(tiled["mask"][:, 0], tiled["probabilities"].argmax(1))


def test_rotations_see_the_image_mirrored_at_its_edges(tmp_path, models):
    """An image that ends farther away, as its mirror image goes on, is the same to what lies near the first pixel."""
    image = cells((40, 30), 0)[0]
    rows, columns = (mirror_index(0, n + 400, n) for n in image.shape)
    (tmp_path / "large").mkdir()
    large = prepared(tmp_path / "large", image[np.ix_(rows, columns)])
    expected = predict(large, tmp_path / "e", models["same"], tta="rotations")["probabilities"]
    found = predict(prepared(tmp_path, image), tmp_path / "m", models["same"], tta="rotations")["probabilities"]
    np.testing.assert_allclose(found, expected[..., :40, :30], atol=1e-5)


def test_rotations_differ_from_the_image_alone_but_not_much(tmp_path, models):
    image = cells((80, 70), 0)[0]
    data = prepared(tmp_path, image)
    found = predict(data, tmp_path / "m", models["same"], tta="rotations")["probabilities"][0, :, 0]
    plain = whole_image(models["same"], image[None])
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert 1e-3 < np.abs(found - plain).mean() < 0.2


# ------------------------------------------------------------------------------------------- classes, uncertainty


def entropy(probabilities):
    """Return the entropy (y, x) of probabilities (classes, y, x), as a part of the largest, one pixel at a time."""
    n, *shape = probabilities.shape
    result = np.zeros(shape)
    for at in np.ndindex(*shape):
        result[at] = -sum(p * math.log(p) for p in map(float, probabilities[(slice(None), *at)]) if p) / math.log(n)
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3), ("uint8", 0.51 / 255)])
@pytest.mark.parametrize("kind", ["same", "three classes"])
def test_uncertainty_is_the_entropy_of_the_classes(tmp_path, models, kind, dtype, tolerance):
    image = cells((40, 30), 0)[0]
    data = prepared(tmp_path, image)
    found = predict(data, tmp_path / "m", models[kind], beside=("uncertainty",), probability_dtype=dtype)
    assert found["uncertainty"].dtype == dtype
    scaled = found["uncertainty"][0, 0, 0].astype(float) / (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose(scaled, entropy(whole_image(models[kind], image[None])), atol=tolerance)


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 0, 0], 0), ([1 / 3, 1 / 3, 1 / 3], 1), ([0.5, 0.5, 0], math.log(2) / math.log(3))]
)
def test_entropy_is_0_where_the_class_is_certain_and_1_where_all_are_alike(values, expected):
    made = outputs.entropy("float32").encode(torch.tensor(values)[:, None, None])
    np.testing.assert_allclose(made, np.full((1, 1, 1), expected), atol=1e-6)


@pytest.mark.parametrize("tta", ["flips", "rotations"])
def test_variance_over_the_views_has_no_seams_either(tmp_path, models, tta):
    data = prepared(tmp_path, cells((50, 41), 0)[0])
    config = {"tta": tta, "uncertainty_kind": "variance", "beside": ("probabilities", "uncertainty")}
    whole = predict(data, tmp_path / "whole", models["same"], **config)
    tiled = predict(data, tmp_path / "tiled", models["same"], shard=32, tile=2, **config)
    plain = predict(data, tmp_path / "plain", models["same"], tta=tta)
    np.testing.assert_allclose(tiled["uncertainty"], whole["uncertainty"], atol=1e-5)
    np.testing.assert_array_equal(whole["probabilities"], plain["probabilities"])
    assert whole["uncertainty"].shape == (1, 1, 1, 50, 41)
    assert 0 <= whole["uncertainty"].min() < 1e-3 < whole["uncertainty"].max() <= 0.25


@pytest.mark.parametrize(
    ("chosen", "numbers"), [("class_2,class_0", [2, 0]), ("1", [1]), (" 0 , class_1 ", [0, 1])], ids=str
)
def test_probabilities_of_chosen_classes(tmp_path, models, chosen, numbers):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    every = predict(data, tmp_path / "all", models["three classes"])
    found = predict(data, tmp_path / "some", models["three classes"], classes=chosen)
    np.testing.assert_array_equal(found["probabilities"], every["probabilities"][:, numbers])
    np.testing.assert_array_equal(found["mask"], every["mask"])
    names = [channel.name for channel in open_store(tmp_path / "some" / "probabilities").images[0].level.channels]
    assert names == [f"class_{k}" for k in numbers]


@pytest.mark.parametrize(
    ("config", "paths", "message"),
    [
        ({"classes": "cell"}, ["probabilities"], r"'cell' is no class .* 0 class_0, 1 class_1, 2 class_2"),
        ({"classes": "3"}, ["probabilities"], "'3' is no class"),
        ({"classes": "1,class_1"}, ["probabilities"], "named twice"),
        ({"classes": "1"}, [], "--classes 1 without --probabilities"),
        ({"uncertainty_kind": "variance", "tta": "d4"}, [], "variance without --uncertainty"),
        ({"uncertainty_kind": "variance"}, ["uncertainty"], "variance without --tta"),
        ({}, ["mask", "mask"], "apart"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_what_can_not_be_written_is_refused_before_anything_is(tmp_path, models, config, paths, message):
    data = prepared(tmp_path, cells((20, 30), 0)[0])
    places = {name: tmp_path / name for name in paths if name != "mask"}
    if "mask" in paths:
        places = {"probabilities": tmp_path / "p", "uncertainty": tmp_path / "p"}
    with pytest.raises(ConfigError, match=message):
        tile_predict.run(
            data, tmp_path / "mask", PredictConfig(**config), model=models["three classes"], device="cpu", **places
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.npy", "image.zarr"]


def test_masks_of_many_classes_are_uint16(tmp_path):
    model = make_model(tmp_path / "many.safetensors", classes=300)
    network, header = load_model(model)
    with torch.no_grad():
        list(network.parameters())[-1][290] += 1e3
    save_model(model, network.state_dict(), header)
    found = predict(prepared(tmp_path, cells((20, 30), 0)[0]), tmp_path / "m", model, beside=())
    assert found["mask"].dtype == np.uint16
    assert (found["mask"] == 290).all()


# ------------------------------------------------------------------------------------------- stores


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_other_programs_can_read_what_is_written(tmp_path, models, monkeypatch, ngff, axes):
    yaozarrs = pytest.importorskip("yaozarrs")
    ome_zarr_models = pytest.importorskip("ome_zarr_models")
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 8)
    shape = (50, 41) if axes == "yx" else (3, 50, 41)
    data = prepared(tmp_path, cells(shape, 0)[0], axes=axes, pixel_size="0.5um", ngff=ngff)
    names = ("mask", "probabilities", "uncertainty", "instances")
    predict(data, tmp_path / "m", models["same"], shard=32, ngff=ngff, beside=names[1:])
    as_label = {"as_label": "cells", "model": models["same"], "device": "cpu"}
    tile_predict.run(data, None, PredictConfig(), **as_label)
    for path in (*(tmp_path / "m" / name for name in names), data / "labels" / "cells"):
        yaozarrs.validate_zarr_store(str(path))
        ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))
        image = open_store(path).images[0]
        assert image.version == ngff
        assert len(image.levels) == 4
        assert image.level.axes.micrometers_of("x") == 0.5


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_versions_hold_the_same_pixels(tmp_path, models, ngff):
    data = prepared(tmp_path, cells((50, 41), 0)[0])
    default = predict(data, tmp_path / "default", models["same"], beside=("probabilities", "uncertainty"))
    found = predict(data, tmp_path / "m", models["same"], ngff=ngff, shard=32, beside=("probabilities", "uncertainty"))
    assert (tmp_path / "m" / "mask" / ("zarr.json" if ngff == "0.5" else ".zattrs")).exists()
    for name, expected in default.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("uint8", 0.51)])
def test_pyramids_are_means_of_probabilities_and_pixels_of_masks(tmp_path, models, monkeypatch, dtype, tolerance):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 8)
    data = prepared(tmp_path, cells((50, 41), 0)[0])
    names = ("probabilities", "uncertainty")
    predict(data, tmp_path / "m", models["three classes"], shard=32, probability_dtype=dtype, beside=names)
    for name in ("mask", *names):
        levels = open_store(tmp_path / "m" / name).images[0].levels
        assert len(levels) == 4
        for finer, coarser in itertools.pairwise(level.read(Box.whole(level.shape)) for level in levels):
            y, x = coarser.shape[3:]
            blocks = finer[..., : 2 * y, : 2 * x].reshape(*finer.shape[:3], y, 2, x, 2)
            expected = blocks[..., 0, :, 0] if name == "mask" else blocks.astype(float).mean((4, 6))
            np.testing.assert_allclose(coarser, expected, atol=tolerance)


def test_tiff_files_of_maps_are_pyramids_too(tmp_path, models, monkeypatch):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 20)
    data = prepared(tmp_path, cells((90, 70), 0)[0], pixel_size="0.5um")
    stores = predict(data, tmp_path / "m", models["same"], beside=("probabilities", "uncertainty"))
    places = {name: tmp_path / f"{name}.ome.tif" for name in ("probabilities", "uncertainty")}
    tile_predict.run(data, tmp_path / "mask.tif", PredictConfig(), model=models["same"], device="cpu", **places)
    for name, path in places.items():
        with tifffile.TiffFile(path) as tiff:
            assert [level.shape[-2:] for level in tiff.series[0].levels] == [(90, 70), (45, 35), (22, 17), (11, 8)]
            np.testing.assert_array_equal(np.squeeze(tiff.asarray()), np.squeeze(stores[name]))


@pytest.mark.parametrize(
    ("config", "path", "fails"),
    [
        ({}, "probabilities", False),
        ({"classes": "class_1"}, "probabilities", False),
        ({"classes": "class_0"}, "probabilities", True),
        ({"classes": "class_2,class_1"}, "probabilities", True),
        ({}, "uncertainty", True),
    ],
    ids=str,
)
def test_evaluate_refuses_what_has_no_foreground(tmp_path, models, config, path, fails):
    picture, truth = cells((40, 30), 0)
    np.save(tmp_path / "truth.npy", truth)
    data = prepared(tmp_path, picture)
    predict(data, tmp_path / "m", models["three classes"], beside=("probabilities", "uncertainty"), **config)
    arguments = tmp_path / "m" / path, tmp_path / "truth.npy", tmp_path / "report", EvaluateConfig()
    if not fails:
        evaluate.run(*arguments)
        return
    with pytest.raises(InputError, match=f"holds the {path}"):
        evaluate.run(*arguments)
