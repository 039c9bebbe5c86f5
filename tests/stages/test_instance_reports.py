"""Tables and outlines of objects, against scikit-image on the whole image."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
from skimage import measure

from tests.conftest import Pixels, cells, pixels
from tests.kernels.test_outline import area, drawn
from tests.stages.test_instances import segment
from tests.stages.test_tile_predict import make_model, prepared
from unetcli.config import PrepConfig
from unetcli.errors import ConfigError
from unetcli.image.axes import Axes
from unetcli.instances.find import Segmented
from unetcli.instances.outlines import write_outlines
from unetcli.instances.table import measure_objects
from unetcli.stages import prep


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "m.safetensors", classes=3)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("config", "ndim"),
    [
        ({}, 2),
        ({"threshold": 0.35}, 2),
        ({"fill_holes": True, "split": "distance"}, 2),
        ({}, 3),
        pytest.param({"fill_holes": True, "split": "distance"}, 3, marks=pytest.mark.slow),
        pytest.param({"threshold": 0.35}, 3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_table_of_the_whole_image(tmp_path, small_tiles, ndim, config):
    model = make_model(tmp_path / "m.safetensors", classes=3, ndim=ndim, features=[2, 3])
    data = prepared(tmp_path, cells((5, 60, 50), 0)[0], axes="zyx", pixel_size="2,0.5,0.5um")
    written = {"instances": tmp_path / "i", "probabilities": tmp_path / "p", "table": tmp_path / "t.csv"}
    segment(data, tmp_path / "m", model, config, **written)
    ids, mask, found = (pixels(tmp_path / name)[0] for name in ("i", "m", "p"))
    if "threshold" in config:
        steps = np.rint(found * 65535)
        mask = np.where(65535 - steps[:1] >= 0.35 * 65535, 1 + steps[1:].argmax(axis=0), 0)
    rows = rows_of(tmp_path / "t.csv")
    assert [int(row["id"]) for row in rows] == list(range(1, ids.max() + 1))
    size, unit = ("area", 0.25) if ndim == 2 else ("volume", 0.5)
    for row, region in zip(rows, measure.regionprops(ids[0]), strict=True):
        inside = ids[0] == region.label
        of_class = mask[0][inside].max()
        assert row["class"] == f"class_{of_class}"
        assert int(row[f"{size}_px"]) == region.area
        assert float(row[f"{size}_um{ndim}"]) == region.area * unit
        assert float(row["mean_probability"]) == pytest.approx(found[of_class][inside].mean(), abs=1e-5)
        lower, upper = np.split(np.array(region.bbox), 2)
        for axis, centroid, start, stop in zip("zyx", region.centroid, lower, upper, strict=True):
            if ndim == 2 and axis == "z":
                assert int(row["z"]) == start == stop - 1
                continue
            assert float(row[f"centroid_{axis}_px"]) == pytest.approx(centroid)
            assert (int(row[f"{axis}_start"]), int(row[f"{axis}_stop"])) == (start, stop)


@pytest.mark.parametrize("chosen", ["2,0,1", "class_1", "2,0"])
def test_probabilities_of_chosen_classes(tmp_path, model, small_tiles, chosen):
    data = prepared(tmp_path, cells((100, 90), 0)[0])
    tables = {}
    for name, config in (("all", {}), ("chosen", {"classes": chosen})):
        written = {"instances": tmp_path / f"i_{name}", "probabilities": tmp_path / f"p_{name}"}
        reports = {"table": tmp_path / f"{name}.csv", "outlines": tmp_path / f"{name}.geojson"}
        segment(data, tmp_path / f"m_{name}", model, config, **written, **reports)
        tables[name] = rows_of(reports["table"])
        features = json.loads(reports["outlines"].read_text())["features"]
        found = {measured["id"]: measured for measured in (f["properties"]["measurements"] for f in features)}
        for row in tables[name]:
            assert ("mean_probability" in found[int(row["id"])]) == (row["mean_probability"] != "")
    is_known = {f"class_{k}": f"{k}" in chosen for k in range(3)}
    assert {row["class"] for row in tables["all"]} == {"class_1", "class_2"}
    for row in tables["all"]:
        row["mean_probability"] *= is_known[row["class"]]
    assert tables["chosen"] == tables["all"]


@pytest.mark.parametrize("config", [{"threshold": 0.6}, {"split": "probability"}], ids=str)
def test_all_classes_in_another_order_give_the_same_objects(tmp_path, model, small_tiles, config):
    data = prepared(tmp_path, cells((100, 90), 0)[0])
    for name, order in (("a", "0,1,2"), ("b", "2,0,1")):
        written = {"instances": tmp_path / f"i_{name}", "probabilities": tmp_path / f"p_{name}"}
        segment(data, tmp_path / f"m_{name}", model, {**config, "classes": order}, **written)
    np.testing.assert_array_equal(pixels(tmp_path / "i_a"), pixels(tmp_path / "i_b"))


def test_the_same_bytes_for_any_tiling(tmp_path, model, monkeypatch):
    data = prepared(tmp_path, cells((100, 90), 0)[0])
    segment(data, tmp_path / "m", model, probabilities=tmp_path / "p")
    tables = []
    for shard, workers in ((32, 1), (64, 3), (2048, 1)):
        monkeypatch.setattr("unetcli.image.new_store.SHARD", shard)
        monkeypatch.setattr("unetcli.image.new_store.CHUNK", 16)
        for name, config in (("i", {}), ("split", {"split": "probability", "fill_holes": True})):
            table = tmp_path / f"{name}{shard}.csv"
            written = {"instances": tmp_path / f"{name}{shard}", "probabilities": tmp_path / "p", "table": table}
            segment(data, tmp_path / "m", model, config, workers=workers, **written)
            tables.append(table.read_bytes())
    assert tables[:2] == tables[2:4] == tables[4:]


def test_reports_of_ids_that_are_there(tmp_path, model, small_tiles):
    data = prepared(tmp_path, cells((100, 90), 0)[0])
    first = {"table": tmp_path / "1.csv", "outlines": tmp_path / "1.geojson"}
    segment(data, tmp_path / "m", model, instances=tmp_path / "i", **first)
    again = {"table": tmp_path / "2.csv", "outlines": tmp_path / "2.geojson"}
    result = segment(data, tmp_path / "m", model, instances=tmp_path / "i", workers=1, **again)
    assert result["table"] == str(tmp_path / "2.csv")
    for a, b in zip(first.values(), again.values(), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_collection_has_one_table(tmp_path, model, small_tiles):
    (tmp_path / "images").mkdir()
    for i, shape in enumerate([(40, 50), (33, 71)]):
        np.save(tmp_path / "images" / f"i_{i}.npy", cells(shape, i)[0])
    prep.run([tmp_path / "images"], tmp_path / "d", PrepConfig())
    result = segment(tmp_path / "d", tmp_path / "m", model, instances=tmp_path / "i", table=tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    assert len(rows) == result["objects"]
    assert {row["image"] for row in rows} == {"i_0", "i_1"}
    with pytest.raises(ConfigError, match="has the objects of one image; there are 2"):
        segment(tmp_path / "d", tmp_path / "n", model, instances=tmp_path / "j", outlines=tmp_path / "o.geojson")


def rasterized(features, shape):
    """Draw polygons back into ids."""
    ids = np.zeros(shape, np.int64)
    for feature in features:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for rings in polygons:
            arrays = [np.array(ring) for ring in rings]
            assert [area(ring) > 0 for ring in arrays] == [True] + [False] * (len(rings) - 1)
            ids[drawn(arrays, shape)] = feature["properties"]["measurements"]["id"]
    return ids


@pytest.mark.parametrize("connectivity", ["faces", "full"])
@pytest.mark.parametrize("workers", [1, 3])
def test_outlines_drawn_again_are_the_objects(tmp_path, model, small_tiles, connectivity, workers):
    data = prepared(tmp_path, cells((100, 90), 0)[0])
    written = {"instances": tmp_path / "i", "outlines": tmp_path / "o.geojson"}
    segment(data, tmp_path / "m", model, {"connectivity": connectivity}, workers=workers, **written)
    collection = json.loads((tmp_path / "o.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    ids = pixels(tmp_path / "i")[0, 0, 0]
    np.testing.assert_array_equal(rasterized(collection["features"], ids.shape), ids)
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        described = feature["properties"]
        assert described["objectType"] == "detection"
        assert described["classification"]["name"] in ("class_1", "class_2")
        assert described["measurements"]["area_px"] == (ids == described["measurements"]["id"]).sum()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_parts_of_an_object(tmp_path):
    ids = Pixels(np.eye(700, dtype=np.uint32)[None, None, None], axes=Axes.of("yx"))
    segmented = Segmented("image", Pixels(ids.pixels.astype(np.uint8)), None, 2)
    objects = measure_objects(segmented, ids, n=1, image="image", classes=("no", "yes"), stored=())
    tracemalloc.start()
    write_outlines(tmp_path / "o.geojson", objects, ids, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (feature,) = json.loads((tmp_path / "o.geojson").read_text())["features"]
    np.testing.assert_array_equal(rasterized([feature], (700, 700)), ids.pixels[0, 0, 0])
    assert peak < 40 * ids.pixels.size


def test_outlines_of_a_level_are_in_pixels_of_full_size(tmp_path, model, monkeypatch):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 16)
    data = prepared(tmp_path, cells((96, 64), 0)[0], pixel_size="0.65um")
    config = {"level": 2, "upsample": "none"}
    segment(data, tmp_path / "m", model, config, instances=tmp_path / "i", outlines=tmp_path / "o.geojson")
    features = json.loads((tmp_path / "o.geojson").read_text())["features"]
    ids = pixels(tmp_path / "i")[0, 0, 0].repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(rasterized(features, ids.shape), ids)


def test_planes_are_named(tmp_path, model):
    data = prepared(tmp_path, cells((3, 40, 30), 0)[0], axes="zyx")
    segment(data, tmp_path / "m", model, instances=tmp_path / "i", outlines=tmp_path / "o.geojson")
    features = json.loads((tmp_path / "o.geojson").read_text())["features"]
    planes = {f["geometry"].get("plane", {"z": 0})["z"] for f in features}
    assert planes == {z for z in range(3) if pixels(tmp_path / "i")[0, 0, z].any()}


def test_parquet_has_the_rows_of_csv(tmp_path, model):
    parquet = pytest.importorskip("pyarrow.parquet")
    data = prepared(tmp_path, cells((60, 50), 0)[0])
    for name in ("t.csv", "t.parquet"):
        segment(data, tmp_path / "m", model, instances=tmp_path / "i", table=tmp_path / name)
    found = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [{k: str(v) for k, v in row.items()} for row in found] == rows_of(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "t.txt", "instances": "i"}, r"expected a name that ends in \.csv or \.parquet"),
        ({"outlines": "o.txt", "instances": "i"}, r"expected a name that ends in \.geojson"),
        ({"table": "t.csv", "outlines": "o.geojson"}, "--table, --outlines: of instances"),
    ],
    ids=["no table", "no outlines", "of nothing"],
)
def test_what_can_not_be(tmp_path, model, options, message):
    data = prepared(tmp_path, cells((20, 20), 0)[0])
    with pytest.raises(ConfigError, match=message):
        segment(data, tmp_path / "m", model, **{k: tmp_path / v for k, v in options.items()})
    assert not (tmp_path / "m").exists()
