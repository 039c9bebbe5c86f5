"""Prep of the stores of others: converted as they are, or refused for the right reason."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.conftest import cells, pixels
from tests.image.test_foreign import write_image, write_labels, write_plate
from unetcli.config import PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.store import open_store
from unetcli.stages import prep

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def test_one_of_several_label_images_is_chosen_by_name(tmp_path):
    image, ids = cells((30, 40), 2)
    path = write_image(tmp_path / "a.zarr", image, omero={"channels": [{"label": "DAPI", "color": "0000FF"}]})
    write_labels(path, {"cells": ids, "nuclei": (ids % 2).astype("int64")})
    with pytest.raises(InputError, match="several label images beside it: cells, nuclei") as caught:
        prep.run([path], tmp_path / "o", PrepConfig())
    assert caught.value.fix.startswith("--label-name cells")
    prep.run([path], tmp_path / "o", PrepConfig(label_name="nuclei"))
    np.testing.assert_array_equal(pixels(tmp_path / "o", label="truth")[0, 0, 0], ids % 2)
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, 0, 0], image)
    other = tmp_path / "image.npy"
    np.save(other, image)
    prep.run([other], tmp_path / "p", PrepConfig(label_name="cells"), labels=[path])
    np.testing.assert_array_equal(pixels(tmp_path / "p", label="truth")[0, 0, 0], ids)


def test_a_label_name_without_a_store_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="--label-name cells: no OME-Zarr store"):
        prep.run([folders / "images"], tmp_path / "o", PrepConfig(label_name="cells"), labels=[folders / "ids"])


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_a_plate_becomes_a_collection(tmp_path, ngff):
    expected = write_plate(tmp_path / "p.zarr", ngff)
    prep.run([tmp_path / "p.zarr"], tmp_path / "o", PrepConfig(ngff=ngff))
    for name, array in expected.items():
        np.testing.assert_array_equal(pixels(tmp_path / "o", name)[0, 0, 0], array)


def test_names_and_colours_of_channels_are_kept(tmp_path):
    channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"}]
    array = np.random.default_rng(0).integers(0, 99, (2, 20, 30), np.uint8)
    write_image(tmp_path / "a.zarr", array, "cyx", omero={"channels": channels})
    prep.run([tmp_path / "a.zarr"], tmp_path / "o", PrepConfig())
    found = open_store(tmp_path / "o").images[0].level.channels
    assert [(c.name, c.color) for c in found] == [("DAPI", "0000FF"), ("GFP", "00FF00")]


STORES = {
    "ome_zarr/bioformats2raw_v01_tczyx_int8/data.zarr": "0/0",
    "ome_zarr/v02_tczyx.zarr": "0",
    "ome_zarr/v04_czyx_no_chunks_with_labels.zarr": "0",
    "ome_zarr/v04_dev_spatialdata_cyx_float64.zarr": "0",
    "ome_zarr/v04_yx_3levels.zarr": "scale0/image",
    "ome_zarr/v05_dev_spatialdata_cyx_float64.zarr": "0",
    "ome_zarr/v05_tyx_no_chunks_with_labels.zarr": "0",
    "ome_zarr/v05_yx_3levels.zarr": "scale0/image",
    "ome_zarr_real_images/isbi_train_00-03_labels_ngff-zarr_v04.ome.zarr": "scale0/isbi_labels",
    "ome_zarr_real_images/isbi_train_00-03_ngff-zarr_v04.ome.zarr": "scale0/isbi",
    "ome_zarr_real_images/nuclei2d_ome-zarr-py_v05_with_labels.ome.zarr": "s0",
    "ome_zarr_real_images/nuclei3d_ome-zarr-py_v04_with_labels.ome.zarr": "s0",
    "ome_zarr_real_images/u373_t000-001_bioio_v04_tczyx.ome.zarr": "0",
}
BROKEN = {
    "ome_zarr/broken_lfs_pointers_v2.zarr": "is a Git LFS pointer",
    "ome_zarr/broken_v05_plate.ome.zarr": "and 9 more faults",
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
@pytest.mark.filterwarnings("ignore:Found an empty list of filters")
@pytest.mark.parametrize("name", [*STORES, *BROKEN])
def test_each_store_of_others_is_converted_or_refused(name, tmp_path):
    if name in BROKEN:
        with pytest.raises(InputError, match=BROKEN[name]):
            prep.run([DATA / name], tmp_path / "o", PrepConfig())
        return
    plain = zarr.open_array(DATA / name / STORES[name], mode="r")[...]
    found = prep.run([DATA / name], tmp_path / "o", PrepConfig())
    written = zarr.open_array(tmp_path / "o" / "0", mode="r")
    assert written.dtype == plain.dtype
    np.testing.assert_array_equal(written[...], plain)
    assert any("no chunk is stored: all pixels" in note for note in found["notes"]) == ("no_chunks" in name)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_each_folder_of_stores_is_in_the_table():
    folders = [DATA / "ome_zarr", DATA / "ome_zarr_real_images"]
    there = {p.relative_to(DATA).as_posix() for folder in folders for p in folder.iterdir()}
    assert there == {name.removesuffix("/data.zarr") for name in (*STORES, *BROKEN)}
