"""What `--split` means, and which planes are trained on."""

import json

import numpy as np
import pytest

from unetcli.errors import InputError
from unetcli.image.axes import Axes
from unetcli.image.dataset import open_dataset, parse_split
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata

STACK = {"isbi": 30}
MANY = {"img_1": 1, "img_2": 1, "img_10": 1, "other": 1, "stack": 6}


@pytest.mark.parametrize(
    ("text", "planes", "expected"),
    [
        (None, MANY, {}),
        ("20-23", STACK, {"isbi": [20, 21, 22, 23]}),
        ("0", STACK, {"isbi": [0]}),
        ("29,3,3-5", STACK, {"isbi": [3, 4, 5, 29]}),
        (" 1 , 2 ", STACK, {"isbi": [1, 2]}),
        ("0.2", STACK, {"isbi": [2, 7, 12, 17, 22, 27]}),
        (".5", {"a": 2}, {"a": [1]}),
        ("0.001", STACK, {"isbi": [15]}),
        ("0.4", MANY, {"img_2": None, "other": None}),
        ("img_1*", MANY, {"img_1": None, "img_10": None}),
        ("img_1,stack", MANY, {"img_1": None, "stack": None}),
        ("img_?,img_1", MANY, {"img_1": None, "img_2": None}),
        ("7", {"7": 1, "8": 1}, {"7": None}),
    ],
)
def test_split(text, planes, expected):
    assert parse_split(text, planes) == expected


@pytest.mark.parametrize(
    ("text", "planes", "said"),
    [
        ("30", STACK, "expected planes from 0 to 29"),
        ("28-31", STACK, "expected planes from 0 to 29"),
        ("7-3", STACK, "expected planes from 0 to 29"),
        ("0-29", STACK, "leaves nothing to train on"),
        ("isbi", STACK, "leaves nothing to train on"),
        ("*", MANY, "leaves nothing to train on"),
        ("0.5", {"a": 1}, "leaves nothing to train on"),
        ("0.99", {"a": 1, "b": 1}, "leaves nothing to train on"),
        ("img_3", MANY, r"no image is named img_3 \(there are img_1, img_2, img_10, other, stack\)"),
        ("img_1,nope,none", MANY, "no image is named nope, none"),
        ("x", {f"i{k}": 1 for k in range(9)}, "i4 and 4 more"),
        ("1.5", STACK, "--split 1.5"),
        ("-0.5", STACK, "--split -0.5"),
        ("", STACK, "--split"),
        (",", STACK, "--split ,"),
        ("", MANY, "--split"),
        ("0.0", STACK, "--split 0.0"),
    ],
)
def test_a_split_that_can_not_be_is_refused(text, planes, said):
    with pytest.raises(InputError, match=said):
        parse_split(text, planes)


def make(path, shapes, attributes):
    """Write a data set of images of zeros."""
    store = NewStore(path, stage="prep", settings={}, inputs={})
    images = []
    for name, shape in shapes.items():
        group = name if len(shapes) > 1 else ""
        store.level(group, 0, Axes.of("tzyx"), shape, "uint8")
        images.append(ImageMetadata(group, Axes.of("tzyx")))
    store.finish(images, attributes)
    return path


DATA = {
    "ndim": 2,
    "label_kind": None,
    "classes": [],
    "statistics": [{"mean": 3.0, "std": 2.0}, {"mean": 7.0, "std": 0.0}],
}


def test_each_plane_is_in_one_part(tmp_path):
    shapes = {"a": (1, 1, 1, 4, 4), "b": (2, 1, 3, 4, 4), "c": (1, 1, 2, 4, 4)}
    path = make(tmp_path / "d.zarr", shapes, {"data": {**DATA, "validation": {"a": None, "b": [1, 4]}}})
    dataset = open_dataset(path)
    parts = [[(i.name, t, z) for i, t, z in dataset.planes(validation=v)] for v in (True, False)]
    assert parts[0] == [("a", 0, 0), ("b", 0, 1), ("b", 1, 1)]
    assert parts[1] == [("b", 0, 0), ("b", 0, 2), ("b", 1, 0), ("b", 1, 2), ("c", 0, 0), ("c", 0, 1)]


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    dataset = open_dataset(make(tmp_path / "d.zarr", {"a": (1, 1, 1, 4, 4)}, {"data": {**DATA, "validation": {}}}))
    mean, std = dataset.normalization()
    np.testing.assert_array_equal(mean, np.array([3, 7], np.float32))
    np.testing.assert_array_equal(std, np.array([2, 1], np.float32))


def test_a_store_that_was_not_prepared_is_refused(tmp_path):
    path = make(tmp_path / "d.zarr", {"a": (1, 1, 1, 4, 4)}, {"weights": {}})
    with pytest.raises(InputError, match="was not prepared"):
        open_dataset(path)


def test_labels_are_asked_for(tmp_path):
    path = make(tmp_path / "d.zarr", {"a": (1, 1, 1, 4, 4)}, {"data": {**DATA, "validation": {}}})
    with pytest.raises(InputError, match="has no labels") as caught:
        open_dataset(path).require_labels()
    assert "--labels" in caught.value.fix


def test_foreign_stores_are_refused(tmp_path):
    path = make(tmp_path / "d.zarr", {"a": (1, 1, 1, 4, 4)}, {})
    metadata = json.loads((path / "zarr.json").read_text())
    del metadata["attributes"]["unetcli"]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="was not prepared"):
        open_dataset(path)
