"""Objects through the command: of masks that are made, or are there; begun, stopped, gone on with."""

import numpy as np
import pytest

from tests.conftest import Stopped, assert_same_files, cells, count_calls, files_of, pixels, stop_after
from tests.instances import oracles
from tests.stages.test_tile_predict import make_model, prepared
from unetcli.config import PredictConfig, PrepConfig
from unetcli.errors import ConfigError
from unetcli.image.store import open_store
from unetcli.stages import evaluate, prep, tile_predict


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "m.safetensors", classes=3)


def segment(image, out, model, config=None, **options):
    return tile_predict.run(image, out, PredictConfig(**(config or {})), model=model, device="cpu", **options)


def expected_ids(mask, ndim=2, **options):
    classes = pixels(mask)[0, 0]
    return oracles.label_all(classes, ndim, full=False)


@pytest.mark.parametrize("ending", ["zarr", "ome.tif"])
def test_the_ids_are_those_of_the_whole_mask(tmp_path, model, small_tiles, ending):
    data = prepared(tmp_path, cells((3, 90, 70), 0)[0], axes="zyx", pixel_size="0.5um")
    mask, ids = tmp_path / f"m.{ending}", tmp_path / "i.zarr"
    result = segment(data, mask, model, instances=ids)
    plain = tmp_path / "plain.zarr"
    segment(data, plain, model)
    np.testing.assert_array_equal(pixels(ids)[0, 0], expected_ids(plain))
    store = open_store(ids)
    assert store.images[0].level.dtype == np.uint32
    assert store.images[0].axes == open_store(data).images[0].axes
    assert store.attributes["prediction"]["kind"] == "instances"
    assert result["objects"] == store.attributes["prediction"]["objects"]["image"] == pixels(ids).max()


def test_a_complete_mask_is_not_predicted_again(tmp_path, model, small_tiles, monkeypatch):
    data = prepared(tmp_path, cells((90, 70), 0)[0])
    segment(data, tmp_path / "m", model)
    before = files_of(tmp_path / "m")
    monkeypatch.setattr("unetcli.prediction.predictor.Predictor.predict", None)
    for name, config in (("i", {}), ("large", {"min_size": 20})):
        assert not segment(data, tmp_path / "m", model, config, instances=tmp_path / name)["already_done"]
    assert files_of(tmp_path / "m") == before
    np.testing.assert_array_equal(
        pixels(tmp_path / "large")[0, 0], oracles.keep_large(pixels(tmp_path / "i")[0, 0], 20)
    )
    assert segment(data, tmp_path / "m", model, instances=tmp_path / "i")["already_done"]
    with pytest.raises(ConfigError, match="settings min_size was"):
        segment(data, tmp_path / "m", model, {"min_size": 3}, instances=tmp_path / "i")


@pytest.mark.parametrize("kind", ["zarr", "label"])
def test_a_collection(tmp_path, model, small_tiles, kind):
    (tmp_path / "images").mkdir()
    for i, shape in enumerate([(40, 50), (33, 71), (5, 6)]):
        np.save(tmp_path / "images" / f"i_{i}.npy", cells(shape, i)[0])
    prep.run([tmp_path / "images"], tmp_path / "d", PrepConfig())
    segment(tmp_path / "d", tmp_path / "m", model)
    written = {"out": tmp_path / "m"} if kind == "zarr" else {"out": None, "as_label": "cells"}
    segment(tmp_path / "d", model=model, **written, instances=tmp_path / "i")
    for image in open_store(tmp_path / "i").images:
        expected = oracles.label_all(pixels(tmp_path / "m", image.name)[0, 0], 2, full=False)
        np.testing.assert_array_equal(pixels(tmp_path / "i", image.name)[0, 0], expected)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(tmp_path, model, small_tiles, workers):
    data = prepared(tmp_path, cells((60, 70), 3)[0])
    config = {"fill_holes": True, "min_size": 2, "threshold": 0.4, "split": "distance"}
    segment(data, tmp_path / "m", model, probabilities=tmp_path / "p")

    def go(name, **options):
        segment(data, tmp_path / "m", model, config, instances=tmp_path / name, probabilities=tmp_path / "p", **options)

    calls = count_calls(lambda p: go("whole", progress=p))
    for after in range(0, calls, max(1, calls // 8)):
        name = f"stopped_{after}"
        with pytest.raises(Stopped):
            go(name, progress=stop_after(after), workers=workers)
        go(name)
        assert_same_files(tmp_path / name, tmp_path / "whole")


def test_volumes(tmp_path, small_tiles):
    model = make_model(tmp_path / "m.safetensors", ndim=3, features=[2, 3])
    data = prepared(tmp_path, cells((9, 40, 30), 0)[0], axes="zyx")
    segment(data, tmp_path / "m", model, instances=tmp_path / "i")
    np.testing.assert_array_equal(pixels(tmp_path / "i")[0, 0], expected_ids(tmp_path / "m", 3))
    segment(data, tmp_path / "m", model, {"object_ndim": 2}, instances=tmp_path / "planes")
    np.testing.assert_array_equal(pixels(tmp_path / "planes")[0, 0], expected_ids(tmp_path / "m", 2))


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"min_size": 5, "fill_holes": True}, {}, "--fill-holes, --min-size: of instances"),
        ({"threshold": 0.5}, {"instances": "i"}, "--threshold: needs the probabilities"),
        ({"split": "probability"}, {"instances": "i"}, "--split probability: needs the probabilities"),
        ({"threshold": 0.5, "classes": "1,2"}, {"instances": "i", "probabilities": "p"}, "leaves out class_0"),
        ({"split": "probability", "classes": "0,1"}, {"instances": "i", "probabilities": "p"}, "leaves out class_2"),
        ({}, {"instances": "m"}, "inputs and outputs lie apart"),
        ({}, {"instances": "u", "uncertainty": "u"}, "inputs and outputs lie apart"),
        ({}, {"instances": "i", "table": "image.zarr/t.csv"}, "inputs and outputs lie apart"),
        ({}, {"instances": "i", "outlines": "i/o.json"}, "inputs and outputs lie apart"),
        ({"split_depth": 3}, {"instances": "i"}, "--split-depth without --split"),
        ({"split_sigma": 3, "split": "distance"}, {"instances": "i"}, "--split-sigma without --split probability"),
        ({"split_reach": 9, "split": "probability"}, {"instances": "i"}, "--split-reach without --split distance"),
        ({"split_depth": 2, "split": "probability"}, {"instances": "i"}, "--split-depth 2 .* at most 1"),
        ({}, {"instances": "image.zarr"}, "inputs and outputs lie apart"),
    ],
    ids=[
        *("settings of nothing", "no probabilities", "none to split by", "no background", "no class"),
        *("over the mask", "over the uncertainty", "a table in the image", "outlines in the ids", "depth of no split"),
        *("sigma of distances", "reach of probabilities", "depth of probabilities", "over the image"),
    ],
)
def test_what_can_not_be(tmp_path, model, config, options, message):
    data = prepared(tmp_path, cells((20, 20), 0)[0])
    before = files_of(data)
    with pytest.raises(ConfigError, match=message):
        segment(data, tmp_path / "m", model, config, **{k: tmp_path / v for k, v in options.items()})
    assert files_of(data) == before
    assert {path.name for path in tmp_path.iterdir()} == {"image.npy", "image.zarr"}


def test_they_are_scored_as_objects(tmp_path, instances, trained):
    segment(instances, tmp_path / "m", trained, instances=tmp_path / "i")
    from unetcli.config import EvaluateConfig

    metrics = evaluate.run(tmp_path / "i", instances, tmp_path / "report", EvaluateConfig(metrics="ap50"))
    assert len(metrics["images"]) == 3
