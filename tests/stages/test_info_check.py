"""``info --check`` lists all faults, each in one line, exits with 3, and never with a traceback."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conftest import cells, files_of
from tests.image.test_foreign import numbered, set_ome, write_image, write_labels, write_plate
from unetcli.config import PrepConfig
from unetcli.errors import FaultsError
from unetcli.stages import info, prep

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")


@pytest.mark.parametrize("what", ["instances", "weight_maps", "trained", "image", "folder", "array"])
def test_what_is_sound(request, cli, tmp_path, folders, what):
    if what in ("image", "folder"):
        path = folders / "images" / ("img_00.png" if what == "image" else "")
    elif what == "array":
        write_image(tmp_path / "x.zarr", numbered(9, 8))
        path = tmp_path / "x.zarr" / "0"
    else:
        path = request.getfixturevalue(what)
    before = files_of(path.parent)
    assert cli("info", "--check", path, "--json") == 0
    assert cli.json["faults"] == []
    assert cli.json["checked"] == ("everything was read" if what == "trained" else "every pixel was read")
    assert files_of(path.parent) == before


def test_all_faults_are_listed_and_the_exit_code_is_3(cli, instances, copy_of):
    path = copy_of(instances)
    shutil.rmtree(path / "img_00" / "0" / "c")
    (path / "img_01" / "labels" / "truth" / "0" / "zarr.json").unlink()
    assert cli("info", path) == 3
    (fault,) = [line for line in cli.out.splitlines() if line.startswith("fault")]
    assert "img_01/labels/truth/0: is not a readable Zarr array" in fault
    assert "fix: " in fault
    assert cli("info", path, "--check") == 3
    assert sum(line.startswith("fault  img_0") for line in cli.out.splitlines()) == 2
    assert cli.err.splitlines() == [f"error: {path}: 2 faults"]


def test_faults_are_in_the_json_too(cli, instances, copy_of):
    path = copy_of(instances)
    (path / "img_02" / "0" / "c" / "0" / "0").write_bytes(b"")
    assert cli("info", path, "--check", "--json") == 3
    assert any("img_02/0/c/0/0: is missing or empty" in fault for fault in cli.json["faults"])
    assert cli.json["images"] == "3: img_00, img_01, img_02"


def test_a_damaged_model(cli, trained, copy_of):
    run = copy_of(trained)
    content = bytearray((run / "model.safetensors").read_bytes())
    (run / "model.safetensors").write_bytes(content[:-8])
    for options in ([], ["--check"]):
        assert cli("info", run, *options) == 3
        assert cli.err.startswith(f"error: {run}")


def test_a_folder_with_files_that_can_not_be_read(cli, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(cells((30, 40), k)[0]).save(folder / f"{k}.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])
    (folder / "3.tif").write_text("no image")
    assert cli("info", folder, "--check") == 3
    assert cli.err.endswith("2 faults\n")
    assert "4: 0.png, 1.png, 2.png, 3.tif" in cli.out


def test_a_folder_of_images_that_differ_is_described_with_a_note(tmp_path):
    Image.fromarray(cells((30, 40), 0)[0]).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.ones((20, 20), "u2"))
    found = info.run(tmp_path)
    assert found["size"] == "2 different sizes, from yx 20 x 20 to yx 30 x 40"
    assert found["type"] == "uint16, uint8"
    assert any("images differ in type of pixel: uint8, as a; uint16, as b" in note for note in found["notes"])


def test_labels_of_64_bits_are_described(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(600, dtype="int64").reshape(20, 30))
    assert info.run(tmp_path / "ids.npy", check=True)["type"] == "int64"


def test_a_plate(tmp_path):
    write_plate(tmp_path / "p.zarr")
    found = info.run(tmp_path / "p.zarr", check=True)
    assert found["kind"] == "OME-Zarr 0.5 plate, written by another program"
    assert found["images"] == "4: A_1_0, A_1_field_1, B_03_0, B_03_field_1"
    shutil.rmtree(tmp_path / "p.zarr" / "A" / "1" / "0")
    with pytest.raises(FaultsError, match="1 fault") as caught:
        info.run(tmp_path / "p.zarr")
    assert caught.value.result["images"].startswith("3: ")


def test_channels_labels_and_notes_of_a_foreign_store(tmp_path):
    path = write_image(
        tmp_path / "a.zarr", numbered(2, 9, 8), "cyx", omero={"channels": [{"label": "DAPI", "color": "0000ff"}, {}]}
    )
    write_labels(path, {"cells": numbered(9, 8), "mask": numbered(9, 8, dtype="u1")})
    found = info.run(path)
    assert found["channels"] == "2: DAPI (shown in #0000FF), channel_1"
    assert found["labels"] == ["cells: uint16, yx 9 x 8", "mask: uint8, yx 9 x 8"]
    assert info.run(path / "labels" / "mask")["kind"] == "OME-Zarr 0.5 label image, written by another program"
    assert info.run(path / "0")["kind"] == "Zarr array, written by another program"
    set_ome(path / "labels", {"labels": ["cells", "mask", "gone"]})
    with pytest.raises(FaultsError):
        info.run(path)


def test_interpolated_labels_in_a_store(tmp_path):
    mask = np.where(cells((200, 200), 0, pitch=40)[1] > 0, 255, 0).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(mask).resize((300, 300), Image.Resampling.BILINEAR))
    path = write_image(tmp_path / "a.zarr", numbered(300, 300))
    write_labels(path, {"cells": blurred})
    assert info.run(path)["faults"] == []
    with pytest.raises(FaultsError) as caught:
        info.run(path, check=True)
    (fault,) = caught.value.result["faults"]
    assert "rare values between 0 and 255, as after resizing with interpolation" in fault


@needs_data
@pytest.mark.filterwarnings("ignore:Found an empty list of filters")
@pytest.mark.parametrize(
    ("name", "n_faults"),
    [
        *[(p.relative_to(DATA).as_posix(), 0) for p in sorted(DATA.glob("ome_zarr*/*")) if "broken" not in p.name],
        ("ome_zarr/bioformats2raw_v01_tczyx_int8/data.zarr", 0),
        ("ome_zarr/broken_v05_plate.ome.zarr", 13),
        ("ome_zarr/broken_v05_plate.ome.zarr/A/1", 3),
        ("ome_zarr/broken_v05_plate.ome.zarr/B/3/0", 1),
        ("ome_zarr/broken_lfs_pointers_v2.zarr", None),
        ("ome_zarr/broken_v05_plate.ome.zarr/A", None),
    ],
)
def test_stores_of_others(cli, name, n_faults):
    started = time.monotonic()
    code = cli("info", "--check", DATA / name, "--json")
    assert time.monotonic() - started < 10
    if n_faults is None:
        assert (code, cli.out) == (3, "")
        assert cli.err.startswith("error: ")
    else:
        assert len(cli.json["faults"]) == n_faults
        assert code == (3 if n_faults else 0)


@needs_data
def test_each_fault_of_the_broken_plate():
    with pytest.raises(FaultsError) as caught:
        info.run(DATA / "ome_zarr" / "broken_v05_plate.ome.zarr")
    places = {fault.partition(": ")[0] for fault in caught.value.result["faults"]}
    assert places == {
        "A/1/0/0", "A/1/0/labels/annotations", "A/1/1/labels/annotations", "A/2", "A/3/0/labels/annotations", "B/1/0/0",
        "B/1/0/labels/annotations/0", "B/2/0/0", "B/3/0/labels", "B/3/1", "C/1/1", "C/2/0", "C/3",
    }  # fmt: skip
    assert all("(fix: " in fault for fault in caught.value.result["faults"])


def test_a_converted_store_is_sound(tmp_path):
    write_plate(tmp_path / "p.zarr")
    prep.run([tmp_path / "p.zarr"], tmp_path / "o", PrepConfig())
    assert info.run(tmp_path / "o", check=True)["faults"] == []
