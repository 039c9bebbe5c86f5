"""Independent validators and readers accept what is written, and see the same pixels."""

import json

import numpy as np
import pytest
import zarr

from tests.image.test_foreign import numbered, write_image, write_labels, write_plate
from unetcli.config import PrepConfig
from unetcli.image import new_store, pyramid
from unetcli.image.axes import Axes, Channel, default_channels
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata
from unetcli.image.pyramid import build_pyramids, level_shapes, mean_2x2, nearest_2x2
from unetcli.image.store import open_store
from unetcli.image.tiling import Box, TileGrid
from unetcli.stages import prep

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

UNITS = {"t": "second", "z": "um", "y": "um", "x": "um"}
SCALE = {"t": 30.0, "z": 2.0, "y": 0.5, "x": 0.25}
SIZES = {"t": 2, "c": 3, "z": 2, "y": 37, "x": 21}
TWO = {0: "background", 1: "cell"}
CASES = [
    pytest.param([""], "yx", {}, id="plane without classes"),
    pytest.param([""], "cyx", {0: "background", 1: "nucleus", 2: "membrane"}, id="colour"),
    pytest.param([""], "tczyx", TWO, id="all axes"),
    pytest.param(["a", "b"], "yx", TWO, id="planes"),
    pytest.param(["a", "b"], "zyx", {}, id="volumes without classes"),
]
FORMATS = pytest.mark.parametrize("zarr_format", [3, 2], ids=["0.5", "0.4"])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(new_store, "CHUNK", 8)
    monkeypatch.setattr(new_store, "SHARD", 32)
    monkeypatch.setattr(pyramid, "SMALLEST", 10)


def write(path, names, axis_names, classes, zarr_format):
    """Write images with labels and pyramids as the stages do; return level 0 of each image and its labels."""
    axes = Axes.of(axis_names, SCALE, UNITS)
    shape = tuple(SIZES[a] if a in axis_names else 1 for a in "tczyx")
    new = NewStore(path, stage="prep", settings={}, inputs={}, zarr_format=zarr_format)
    rng, images, labels, described, pixels = np.random.default_rng(0), {}, {}, [], {}
    for name in names:
        place = f"{name}/labels/truth".strip("/")
        images[name] = new.level(name, 0, axes, shape, "uint16")
        labels[place] = new.level(place, 0, axes.without_channels(), (shape[0], 1, *shape[2:]), "uint8")
        pixels[name] = rng.integers(0, 4000, shape).astype("uint16"), rng.integers(0, 2, labels[place].shape)
        for level, block in zip((images[name], labels[place]), pixels[name], strict=True):
            for tile in TileGrid(level.shape, level.shard):
                level.write(tile.core, block[tile.core.slices])
        n_levels = len(level_shapes(shape))
        truth = ImageMetadata("truth", axes.without_channels(), n_levels=n_levels, classes=classes, source="../../")
        channels = default_channels(shape[1])
        described.append(
            ImageMetadata(name, axes, n_levels=n_levels, channels=channels, window=(0.0, 4000.0), labels=(truth,))
        )
    build_pyramids(new, images, mean_2x2)
    build_pyramids(new, labels, nearest_2x2)
    new.finish(described, {"data": {}})
    return pixels


@FORMATS
@pytest.mark.parametrize(("names", "axis_names", "classes"), CASES)
def test_validators_accept_it(tmp_path, names, axis_names, classes, zarr_format):
    yaozarrs = pytest.importorskip("yaozarrs")
    ome_zarr_models = pytest.importorskip("ome_zarr_models")
    from ome_zarr_models.v04.bioformats2raw import BioFormats2Raw as Collection04
    from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw as Collection05

    path = tmp_path / "cells.zarr"
    write(path, names, axis_names, classes, zarr_format)
    if names != [""]:
        (Collection05 if zarr_format == 3 else Collection04).from_zarr(zarr.open_group(path, mode="r"))
    if names == [""] or zarr_format == 3:  # the root of a collection of 0.4 has no version to tell it by
        yaozarrs.validate_zarr_store(str(path))
    for name in names:
        yaozarrs.validate_zarr_store(str(path / name))
        yaozarrs.validate_zarr_store(str(path / name / "labels" / "truth"))
        model = ome_zarr_models.open_ome_zarr(zarr.open_group(path / name, mode="r"))
        assert type(model).__name__ == "Image"


@FORMATS
@pytest.mark.parametrize(("names", "axis_names"), [([""], "tczyx"), (["a", "b"], "yx")], ids=["image", "collection"])
def test_readers_see_the_same_pixels(tmp_path, names, axis_names, zarr_format):
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    path = tmp_path / "cells.zarr"
    pixels = write(path, names, axis_names, TWO, zarr_format)
    for name in names:
        image, _, labels = list(Reader(parse_url(str(path / name), mode="r"))())
        assert "".join(a["name"] for a in image.metadata["axes"]) == axis_names
        for node, level_0 in zip((image, labels), pixels[name], strict=True):
            assert len(node.data) == 3
            expected = level_0
            for k, level in enumerate(node.data):
                if k:
                    expected = half(expected, mean_2x2 if node is image else nearest_2x2)
                found = np.asarray(level.compute(scheduler="synchronous"))
                np.testing.assert_array_equal(found, expected.reshape(found.shape))
                assert found.ndim == len(axis_names.replace("c", "") if node is labels else axis_names)


def half(expected, reduce_2x2):
    """Return the next level of a pyramid."""
    *_, y, x = expected.shape
    return reduce_2x2(expected[..., : y // 2 * 2, : x // 2 * 2])


@FORMATS
@pytest.mark.parametrize(("names", "axis_names"), [([""], "tczyx"), (["a", "b"], "yx")], ids=["image", "collection"])
def test_ngff_zarr_validates_it_and_sees_the_same_pixels(tmp_path, names, axis_names, zarr_format):
    ngff_zarr = pytest.importorskip("ngff_zarr", reason="ngff-zarr is not installed")
    path = tmp_path / "cells.zarr"
    pixels = write(path, names, axis_names, TWO, zarr_format)
    for name in names:
        for place, level_0, reduce_2x2 in (
            (path / name, pixels[name][0], mean_2x2),
            (path / name / "labels" / "truth", pixels[name][1], nearest_2x2),
        ):
            images = ngff_zarr.from_ngff_zarr(place, validate=True).images
            assert len(images) == 3
            expected = level_0
            for image in images:
                found = np.asarray(image.data.compute(scheduler="synchronous"))
                np.testing.assert_array_equal(found, expected.reshape(found.shape))
                expected = half(expected, reduce_2x2)
            assert {a: images[0].scale[a] for a in "yx"} == {a: SCALE[a] for a in "yx"}


@FORMATS
def test_bioio_sees_the_same_pixels(tmp_path, zarr_format):
    pytest.importorskip("bioio_ome_zarr", reason="bioio-ome-zarr is not installed")
    bioio = pytest.importorskip("bioio", reason="bioio is not installed")
    path = tmp_path / "cells.zarr"
    pixels = write(path, [""], "tczyx", TWO, zarr_format)
    image = bioio.BioImage(path)
    np.testing.assert_array_equal(image.get_image_data("TCZYX"), pixels[""][0])
    assert image.channel_names == ["red", "green", "blue"]
    assert SCALE["x"] == image.physical_pixel_sizes.X


@FORMATS
@pytest.mark.parametrize("source", ["plate", "labels", "channels last"])
def test_what_prep_makes_of_stores_of_others_is_valid(tmp_path, source, zarr_format):
    yaozarrs = pytest.importorskip("yaozarrs")
    ome_zarr_models = pytest.importorskip("ome_zarr_models")
    config = {"ngff": "0.5" if zarr_format == 3 else "0.4"}
    if source == "plate":
        expected = write_plate(tmp_path / "a.zarr")
    elif source == "labels":
        expected = {"": numbered(40, 30)}
        write_image(tmp_path / "a.zarr", expected[""], omero={"channels": [{"label": "DAPI", "color": "0000FF"}]})
        write_labels(tmp_path / "a.zarr", {"cells": numbered(40, 30, dtype="int64")})
    else:
        config["axes"] = "yxc"
        expected = {"": numbered(40, 30, 2)}
        write_image(tmp_path / "a.zarr", expected[""], "yxc", omero={"channels": [{"label": "a"}, {"label": "a"}]})
        expected = {"": expected[""].transpose(2, 0, 1)}
    prep.run([tmp_path / "a.zarr"], tmp_path / "o.zarr", PrepConfig(**config))
    for name, array in expected.items():
        yaozarrs.validate_zarr_store(str(tmp_path / "o.zarr" / name))
        group = zarr.open_group(tmp_path / "o.zarr" / name, mode="r")
        assert type(ome_zarr_models.open_ome_zarr(group)).__name__ == "Image"
        np.testing.assert_array_equal(group["0"][...], array)
    if source == "labels":
        yaozarrs.validate_zarr_store(str(tmp_path / "o.zarr" / "labels" / "truth"))


@FORMATS
def test_channels_and_classes_have_names_and_colours(tmp_path, zarr_format):
    path = tmp_path / "cells.zarr"
    write(path, [""], "cyx", {0: "background", 1: "nucleus", 2: "membrane"}, zarr_format)

    def attributes(group):
        file = group / ("zarr.json" if zarr_format == 3 else ".zattrs")
        content = json.loads(file.read_text())
        return content["attributes"]["ome"] if zarr_format == 3 else content

    channels = attributes(path)["omero"]["channels"]
    assert [c["label"] for c in channels] == ["red", "green", "blue"]
    assert [c["color"] for c in channels] == ["FF0000", "00FF00", "0000FF"]
    assert all(c["window"] == {"min": 0, "max": 4000, "start": 0, "end": 4000} for c in channels)
    label = attributes(path / "labels" / "truth")["image-label"]
    assert label["properties"] == [
        {"label-value": 1, "class": "nucleus"},
        {"label-value": 2, "class": "membrane"},
    ]
    assert len({tuple(c["rgba"]) for c in label["colors"]}) == 2
    assert label["source"] == {"image": "../../"}
    assert attributes(path / "labels")["labels"] == ["truth"]


@FORMATS
def test_an_image_within_an_image_is_valid(tmp_path, zarr_format):
    yaozarrs = pytest.importorskip("yaozarrs")
    new = NewStore(tmp_path / "a.zarr", stage="augment", settings={}, inputs={}, zarr_format=zarr_format)
    images = []
    for name in ("a", "b"):
        for group in (name, f"{name}/weights"):
            level = new.level(group, 0, Axes.of("yx"), (1, 1, 1, 9, 9), "float32")
            level.write(Box.whole(level.shape), np.ones(level.shape, "float32"))
        images.append(ImageMetadata(name, Axes.of("yx"), nested=(ImageMetadata(f"{name}/weights", Axes.of("yx")),)))
    new.finish(images, {})
    for name in ("a", "b"):
        yaozarrs.validate_zarr_store(str(new.path / name))
        yaozarrs.validate_zarr_store(str(new.path / name / "weights"))
    assert open_store(new.path / "a" / "weights").images[0].level.shape == (1, 1, 1, 9, 9)


def test_pixels_of_all_levels_lie_in_the_same_place():
    axes = Axes.of("zyx", {"z": 3.0, "y": 0.5, "x": 0.25})
    (multiscale,) = ImageMetadata("", axes, n_levels=4).ome(3)["multiscales"]
    for k, dataset in enumerate(multiscale["datasets"]):
        scale, shift = dataset["coordinateTransformations"]
        for i in range(3):
            covered = np.arange(2**k) + i * 2**k  # pixels of level 0 along y or x
            centre = [i * 3.0, covered.mean() * 0.5, covered.mean() * 0.25]
            found = np.array(scale["scale"]) * i + np.array(shift["translation"])
            np.testing.assert_allclose(found, centre)


def test_units_that_are_not_known_are_left_out():
    (multiscale,) = ImageMetadata("", Axes.of("tcyx", {}, {"y": "um"})).ome(3)["multiscales"]
    assert multiscale["axes"] == [
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space"},
    ]


def test_channels_of_one_name_are_numbered():
    channels = tuple(Channel(name) for name in ("a", "a", "a_2", "b", "a"))
    image = ImageMetadata("", Axes.of("cyx"), channels=channels, window=(0.0, 1.0))
    labels = [channel["label"] for channel in image.ome(3)["omero"]["channels"]]
    assert labels == ["a", "a_2", "a_2_2", "b", "a_3"]
