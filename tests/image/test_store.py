"""Stores of others, and damaged ones, are read as they are or refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.image.test_new_store import make, whole
from unetcli.errors import InputError, UnetcliError
from unetcli.image.store import open_store
from unetcli.image.tiling import Box

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = "ome_zarr_real_images"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
SPARSE = pytest.mark.filterwarnings("ignore:Found an empty list of filters")

FOREIGN = [
    ("ome_zarr/v02_tczyx.zarr", "0", "tczyx", (1, 2, 1, 16, 16), "uint8"),
    ("ome_zarr/v04_czyx_no_chunks_with_labels.zarr", "0", "czyx", (1, 2, 10, 64, 64), "uint16"),
    ("ome_zarr/v04_dev_spatialdata_cyx_float64.zarr", "0", "cyx", (1, 3, 1, 12, 12), "float64"),
    ("ome_zarr/v04_yx_3levels.zarr", "scale0/image", "yx", (1, 1, 1, 10, 10), "uint16"),
    ("ome_zarr/v05_dev_spatialdata_cyx_float64.zarr", "0", "cyx", (1, 3, 1, 12, 12), "float64"),
    ("ome_zarr/v05_tyx_no_chunks_with_labels.zarr", "0", "tyx", (4, 1, 1, 64, 64), "uint16"),
    ("ome_zarr/v05_yx_3levels.zarr", "scale0/image", "yx", (1, 1, 1, 10, 10), "uint16"),
    pytest.param("ome_zarr/bioformats2raw_v01_tczyx_int8/data.zarr", "0/0", "tczyx", None, "int8", marks=SPARSE),
    (f"{REAL}/isbi_train_00-03_ngff-zarr_v04.ome.zarr", "scale0/isbi", "zyx", (1, 1, 4, 512, 512), "uint8"),
    (f"{REAL}/nuclei2d_ome-zarr-py_v05_with_labels.ome.zarr", "s0", "yx", (1, 1, 1, 512, 512), "uint16"),
    (f"{REAL}/nuclei3d_ome-zarr-py_v04_with_labels.ome.zarr", "s0", "zyx", (1, 1, 31, 61, 57), "uint16"),
    (f"{REAL}/u373_t000-001_bioio_v04_tczyx.ome.zarr", "0", "tczyx", (2, 1, 1, 520, 696), "uint8"),
]  # fmt: skip


@needs_data
@pytest.mark.parametrize(("name", "array", "axes", "shape", "dtype"), FOREIGN)
def test_stores_of_others_are_read_as_they_are(name, array, axes, shape, dtype):
    (image,) = open_store(DATA / name).images
    plain = zarr.open_array(DATA / name / array, mode="r")[...]
    assert image.axes.names == axes
    assert image.level.dtype == np.dtype(dtype)
    assert image.level.shape == (shape or plain.shape)
    np.testing.assert_array_equal(whole(image.level), plain.reshape(image.level.shape))
    box = Box(tuple(n // 4 for n in image.level.shape), tuple(n // 4 + 1 for n in image.level.shape))
    np.testing.assert_array_equal(image.level.read(box), plain.reshape(image.level.shape)[box.slices])


@needs_data
@pytest.mark.parametrize("name", ["nuclei2d_ome-zarr-py_v05", "nuclei3d_ome-zarr-py_v04"])
def test_labels_of_others_are_read(name):
    path = DATA / "ome_zarr_real_images" / f"{name}_with_labels.ome.zarr"
    (image,) = open_store(path).images
    assert image.label_names == ("nuclei",)
    labels = image.labels("nuclei")
    plain = zarr.open_array(path / "labels" / "nuclei" / "s0", mode="r")[...]
    assert plain.max() > 10
    np.testing.assert_array_equal(whole(labels), plain.reshape(labels.shape))
    assert labels.shape == image.level.shape


@needs_data
@pytest.mark.parametrize(
    ("name", "scale", "units"),
    [
        ("ome_zarr/v04_yx_3levels.zarr", (4, 30), ("nanometer",) * 2),
        (f"{REAL}/isbi_train_00-03_ngff-zarr_v04.ome.zarr", (50, 4, 4), ("nanometer",) * 3),
        (
            "ome_zarr_real_images/u373_t000-001_bioio_v04_tczyx.ome.zarr",
            (15, 1, 1, 0.65, 0.65),
            ("minute", None, *["micrometer"] * 3),
        ),
    ],
)
def test_pixel_sizes_of_others_are_read(name, scale, units):
    axes = open_store(DATA / name).images[0].axes
    assert axes.scale == pytest.approx(scale)
    assert axes.units == units


PLATE = "ome_zarr/broken_v05_plate.ome.zarr"


@needs_data
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ome_zarr/broken_lfs_pointers_v2.zarr", "is a Git LFS pointer"),
        (PLATE, r"A/2: is an array; expected a well \(and 9 more faults\)"),
        (f"{PLATE}/A", r"without 'multiscales', but holds 1/0, 1/1, 2, 3/0, 3/1"),
        (f"{PLATE}/A/1", "A/1/0/0: is not a readable Zarr array"),
        (f"{PLATE}/A/2", "is not a readable Zarr array"),
        (f"{PLATE}/A/3/0/labels", "annotations: its OME-Zarr metadata"),
        (f"{PLATE}/A/1/0", "is not a readable Zarr array"),
        (f"{PLATE}/B/1/0", "B/1/0"),
        (f"{PLATE}/B/2/0", "is not a readable Zarr array"),
        (f"{PLATE}/C/2/0", "its OME-Zarr metadata describe no image"),
        (f"{PLATE}/C/1/1", "does not exist"),
    ],
)
def test_broken_stores_are_refused(name, said):
    with pytest.raises(InputError, match=said):
        open_store(DATA / name)


@needs_data
def test_broken_labels_are_refused_when_asked_for():
    (image,) = open_store(DATA / PLATE / "A" / "3" / "0").images
    with pytest.raises(InputError, match="annotations"):
        whole(image.labels("annotations"))


# ------------------------------------------------------------------------------------------- broken metadata


def multiscale(attributes):
    return attributes["ome"]["multiscales"][0]


def scale_of_first(attributes):
    return multiscale(attributes)["datasets"][0]["coordinateTransformations"][0]


BROKEN = {
    "ome is null": lambda a: a.update(ome=None),
    "ome is a list": lambda a: a.update(ome=[1]),
    "no multiscales": lambda a: a["ome"].pop("multiscales"),
    "empty multiscales": lambda a: a["ome"].update(multiscales=[]),
    "multiscales is a number": lambda a: a["ome"].update(multiscales=3),
    "no datasets": lambda a: multiscale(a).pop("datasets"),
    "empty datasets": lambda a: multiscale(a).update(datasets=[]),
    "dataset without path": lambda a: multiscale(a)["datasets"][0].pop("path"),
    "dataset not there": lambda a: multiscale(a)["datasets"][0].update(path="7"),
    "dataset is a group": lambda a: multiscale(a)["datasets"][0].update(path="labels"),
    "axis without name": lambda a: multiscale(a)["axes"][0].pop("name"),
    "axis of another name": lambda a: multiscale(a)["axes"][0].update(name="q"),
    "axis of a long name": lambda a: multiscale(a)["axes"][0].update(name="row"),
    "axes in another order": lambda a: multiscale(a)["axes"].reverse(),
    "too few axes": lambda a: multiscale(a)["axes"].pop(),
    "too many axes": lambda a: multiscale(a)["axes"].insert(0, {"name": "z", "type": "space"}),
    "scale of another length": lambda a: scale_of_first(a).update(scale=[1, 2, 3]),
    "scale of zero": lambda a: scale_of_first(a).update(scale=[0, 0]),
    "scale of text": lambda a: scale_of_first(a).update(scale=["a", "b"]),
    "scale is null": lambda a: scale_of_first(a).update(scale=None),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_metadata_that_can_not_be_are_refused(tmp_path, damage):
    path = make(tmp_path / "a.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    damage(metadata["attributes"])
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("labels", [None, 5, {"truth": 1}], ids=["null", "number", "mapping"])
def test_a_list_of_labels_that_can_not_be_is_refused(tmp_path, labels):
    path = make(tmp_path / "a.zarr")
    metadata = json.loads((path / "labels" / "zarr.json").read_text())
    metadata["attributes"]["ome"]["labels"] = labels
    (path / "labels" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(UnetcliError):
        open_store(path).images[0].labels("nuclei")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\xff\x12",
        b"[1]",
        b"null",
        b'{"attributes": null}',
        b"version https://git-lfs.github.com/spec/v1",
    ],
)
@pytest.mark.parametrize("file", ["zarr.json", ".zattrs"])
def test_metadata_that_are_not_metadata_are_refused(tmp_path, file, content):
    path = make(tmp_path / "a.zarr", zarr_format=3 if file == "zarr.json" else 2)
    (path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert str(path) in str(caught.value)


def test_an_array_that_changed_its_type_is_refused(tmp_path):
    path = make(tmp_path / "a.zarr")
    metadata = json.loads((path / "0" / "zarr.json").read_text())
    metadata["data_type"] = "complex7"
    (path / "0" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="is not a readable Zarr array"):
        open_store(path)


@pytest.mark.parametrize(("at", "said"), [("nothing", "does not exist"), (".", "is not an OME-Zarr store")])
def test_what_is_no_store_is_refused(tmp_path, at, said):
    with pytest.raises(InputError, match=said):
        open_store(tmp_path / at)


def test_scales_of_image_and_level_multiply(tmp_path):
    path = make(tmp_path / "a.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    multiscale(metadata["attributes"])["coordinateTransformations"] = [{"type": "scale", "scale": [2, 3]}]
    scale_of_first(metadata["attributes"])["scale"] = [5, 7]
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert open_store(path).images[0].axes.scale == (10, 21)


def test_a_store_may_be_moved(tmp_path):
    path = make(tmp_path / "a.zarr", ("x", "y"))
    shutil.move(path, tmp_path / "b.zarr")
    assert [i.name for i in open_store(tmp_path / "b.zarr").images] == ["x", "y"]
