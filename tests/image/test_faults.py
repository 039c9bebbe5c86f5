"""Faults that metadata alone show: each is found, all of them, and nothing is wrong with what is sound."""

import shutil

import numpy as np
import pytest
import zarr

from tests.image.test_foreign import edit, first, numbered, set_ome, write_image, write_labels, write_plate
from tests.image.test_new_store import make
from unetcli.image.faults import differences, store_faults
from unetcli.image.store import open_store, survey


def faults_of(path):
    return [str(fault) for fault in store_faults(survey(path))]


@pytest.fixture
def image(tmp_path):
    """Return an image of three levels with labels."""
    path = write_image(tmp_path / "a.zarr", numbered(2, 20, 24), "tyx", n_levels=3)
    write_image(path / "labels" / "cells", numbered(2, 20, 24), "tyx", n_levels=3, **{"image-label": {}})
    set_ome(path / "labels", {"labels": ["cells"]})
    return path


def a_level_missing(path):
    shutil.rmtree(path / "1")


def a_level_of_another_type(path):
    zarr.create_array(path / "2", shape=(2, 5, 6), dtype="f4", overwrite=True)


def a_level_of_fewer_times(path):
    zarr.create_array(path / "2", shape=(1, 5, 6), dtype="u2", overwrite=True)


def a_level_of_other_axes(path):
    zarr.create_array(path / "2", shape=(5, 6), dtype="u2", overwrite=True)


def labels_of_another_size(path):
    for k, shape in enumerate([(2, 20, 20), (2, 10, 10), (2, 5, 5)]):
        zarr.create_array(path / "labels" / "cells" / str(k), shape=shape, dtype="u2", overwrite=True)


def labels_of_floats(path):
    zarr.create_array(path / "labels" / "cells" / "0", shape=(2, 20, 24), dtype="f4", overwrite=True)


def labels_listed_but_missing(path):
    set_ome(path / "labels", {"labels": ["cells", "gone"]})


def labels_there_but_not_listed(path):
    set_ome(path / "labels", {"labels": []})


def a_level_of_the_labels_missing(path):
    shutil.rmtree(path / "labels" / "cells" / "2")


DAMAGES = {
    a_level_missing: "/1: is not a readable Zarr array",
    a_level_of_another_type: "/2: level 2 is float32; expected uint16",
    a_level_of_fewer_times: "/2: level 2 is yx 5 x 6; expected the same times and channels",
    a_level_of_other_axes: "/2: has 2 axes (5 x 6); expected (t, y, x)",
    labels_of_another_size: "cells: labels are tyx 2 x 20 x 20; expected tyx 2 x 20 x 24, as their image",
    labels_of_floats: "cells/0: labels are float32; expected integers",
    labels_listed_but_missing: "labels/gone: does not exist; the metadata of its store list it",
    labels_there_but_not_listed: "labels/cells: is not among the label images",
    a_level_of_the_labels_missing: "labels/cells/2: is not a readable Zarr array",
}


def test_a_sound_store_has_none(image, tmp_path):
    assert faults_of(image) == []
    write_plate(tmp_path / "p.zarr")
    assert faults_of(tmp_path / "p.zarr") == []
    assert faults_of(make(tmp_path / "own.zarr", ("a", "b"))) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.replace("_", " "))
def test_each_fault(image, damage):
    damage(image)
    (found,) = faults_of(image)
    assert DAMAGES[damage] in found


def test_all_faults_at_once(image):
    for damage in (a_level_missing, a_level_of_another_type, labels_of_another_size):
        damage(image)
    labels_listed_but_missing(image)
    assert len(faults_of(image)) == 4


def test_every_fault_has_a_remedy(image):
    for damage in DAMAGES:
        if damage is not labels_there_but_not_listed:
            damage(image)
    assert all(fault.fix for fault in store_faults(survey(image)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("type", "images differ in type of pixel: uint16, as a; uint8, as b"),
        ("channels", "images differ in number of channels: 1, as a; 3, as b"),
        ("pixel size", "images differ in pixel size: y 1 micrometer, x 1 micrometer, as a; y 2 micrometer"),
    ],
)
def test_images_that_differ(tmp_path, change, said):
    other = np.ones((3, 10, 12) if change == "channels" else (10, 12), "u1" if change == "type" else "u2")
    write_image(tmp_path / "c.zarr" / "a", numbered(10, 12))
    write_image(tmp_path / "c.zarr" / "b", other, "cyx"[3 - other.ndim :])
    if change == "pixel size":
        edit(
            tmp_path / "c.zarr" / "b",
            lambda ome: first(ome)["datasets"][0]["coordinateTransformations"][0].update(scale=[2, 1]),
        )
    set_ome(tmp_path / "c.zarr", {"bioformats2raw.layout": 3})
    set_ome(tmp_path / "c.zarr" / "OME", {"series": ["a", "b"]})
    (found,) = faults_of(tmp_path / "c.zarr")
    assert said in found


def test_images_alike(tmp_path):
    store = open_store(make(tmp_path / "own.zarr", ("a", "b")))
    assert list(differences("x", [(i.name, i.level) for i in store.images])) == []
    assert list(differences("x", [])) == []


def test_labels_of_different_types_are_a_group_all_the_same(tmp_path):
    path = write_image(tmp_path / "a.zarr", numbered(10, 12))
    write_labels(path, {"cells": numbered(10, 12), "mask": numbered(10, 12, dtype="u1")})
    assert faults_of(path / "labels") == []
