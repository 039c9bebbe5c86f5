"""Whatever a path is, it is said in plain words, without changing it; what it is not, in one line."""

import re

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from safetensors.numpy import save_file

from tests.conftest import SIZE, TINY, Stopped, cells, files_of, stop_after
from unetcli import __version__
from unetcli.config import AugmentConfig, EvaluateConfig, PredictConfig, PrepConfig, TrainConfig
from unetcli.errors import InputError
from unetcli.stages import augment, evaluate, info, prep, tile_predict, train


def prepared(folder, array, **config):
    np.save(folder / "image.npy", array)
    prep.run([folder / "image.npy"], folder / "d.zarr", PrepConfig(**config))
    return folder / "d.zarr"


# ------------------------------------------------------------------------------------------- stores


def test_a_data_set_with_object_ids(instances):
    found = info.run(instances)
    assert found["kind"] == "OME-Zarr 0.5 collection of images (bioformats2raw layout), written by unetcli prep"
    assert found["images"] == "3: img_00, img_01, img_02"
    assert found["size"] == f"yx {SIZE} x {SIZE}"
    assert found["type"] == "uint8"
    assert found["labels"] == ["truth: uint32, of 3 images"]
    assert found["levels"] == f"1: yx {SIZE} x {SIZE}"
    assert found["chunks"] == f"{SIZE} x {SIZE}, 1 file at full resolution"
    assert found["made_by"] == f"unetcli prep, version {__version__}"
    assert found["settings"] == "split img_02"
    assert found["faults"] == []
    assert found["classes"] == "instances: background, object"
    assert found["validation"] == "img_02"


def test_a_data_set_with_classes(classes):
    found = info.run(classes)
    assert found["classes"].startswith("classes: ")
    assert found["validation"] == "none"


def test_the_gray_values_are_those_of_the_pixels(tmp_path):
    image = cells((30, 40), 1)[0]
    found = info.run(prepared(tmp_path, image))
    assert found["gray_values"] == [f"{image.min()} to {image.max()}, mean {image.mean():.4g}"]
    assert found["labels"] == "none"


def test_each_channel_has_its_gray_values(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    prep.run([tmp_path / "rgb.png"], tmp_path / "d.zarr", PrepConfig())
    found = info.run(tmp_path / "d.zarr")
    assert found["gray_values"] == [f"{c.min()} to {c.max()}, mean {c.mean():.4g}" for c in np.moveaxis(rgb, -1, 0)]
    assert "cyx 3 x 20 x 30" in found["size"]
    assert found["channels"] == "3: red (shown in #FF0000), green (shown in #00FF00), blue (shown in #0000FF)"


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_axes_and_pixel_size(tmp_path, ngff):
    found = info.run(
        prepared(tmp_path, np.zeros((5, 30, 40), np.uint16), axes="zyx", pixel_size="2,0.5,0.5um", ngff=ngff)
    )
    assert found["size"] == "zyx 5 x 30 x 40"
    assert found["type"] == "uint16"
    assert found["axes"] == "zyx"
    assert found["pixel_size"] == "z 2 micrometer, y 0.5 micrometer, x 0.5 micrometer"
    assert found["kind"].startswith(f"OME-Zarr {ngff} image")


def test_levels_chunks_and_shards(tmp_path):
    found = info.run(prepared(tmp_path, np.zeros((2100, 8), np.uint8)))
    assert found["levels"] == "3: yx 2100 x 8, yx 1050 x 4, yx 525 x 2"
    assert found["chunks"] == "512 x 8 in shards of 2048 x 8, 2 files at full resolution"


@pytest.mark.parametrize(
    ("stage", "kind", "labels"), [("weights", "float32", "target"), ("augment", "uint8", "truth")], ids=str
)
def test_stores_say_what_wrote_them(request, instances, tmp_path, stage, kind, labels):
    if stage == "weights":
        path = request.getfixturevalue("weight_maps")
    else:
        path = tmp_path / "a.zarr"
        augment.run(instances, path, AugmentConfig(samples=2, elastic=2))
    found = info.run(path)
    assert found["kind"].endswith(f", written by unetcli {stage}")
    assert found["type"] == kind
    assert [line.partition(":")[0] for line in found["labels"]] == [labels]


def test_masks_and_probabilities(instances, trained, tmp_path):
    tile_predict.run(
        instances, tmp_path / "m", PredictConfig(), model=trained, probabilities=tmp_path / "p", device="cpu"
    )
    mask, probabilities = info.run(tmp_path / "m"), info.run(tmp_path / "p")
    assert mask["kind"].endswith(", written by unetcli tile-predict")
    assert probabilities["kind"].endswith(", written by unetcli tile-predict probabilities")
    assert mask["classes"] == "background, object"
    assert (mask["type"], probabilities["type"]) == ("uint8", "float32")
    assert f"cyx 2 x {SIZE} x {SIZE}" in probabilities["size"]


def test_a_label_image_of_a_store(instances):
    found = info.run(instances / "img_00" / "labels" / "truth")
    assert found["size"] == f"yx {SIZE} x {SIZE}"
    assert found["type"] == "uint32"
    assert found["labels"] == "none"


def test_a_store_of_another_program(tmp_path):
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=2)
    group.create_array("0", shape=(8, 9), chunks=(8, 9), dtype="uint8")
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]},
    ]
    found = info.run(tmp_path / "x.zarr")
    assert found["kind"] == "OME-Zarr 0.4 image, written by another program"
    assert found["size"] == "yx 8 x 9"


def test_an_unfinished_store_is_said_to_be_one(folders, tmp_path):
    with pytest.raises(Stopped):
        prep.run([folders / "images"], tmp_path / "d", PrepConfig(), progress=stop_after(1))
    with pytest.raises(InputError, match="d: is not complete") as caught:
        info.run(tmp_path / "d")
    assert "again" in caught.value.fix


# ------------------------------------------------------------------------------------------- models


def test_a_run_and_its_model_file_are_the_same(trained):
    found = info.run(trained)
    assert found == info.run(trained / "model.safetensors")
    assert found["kind"] == "model"
    assert found["architecture"].startswith("unet in 2D: features 4, 8; ")
    assert (found["classes"], found["channels"]) == ("background, object", 1)
    assert "stride 2" in found["geometry"]
    assert found["paper"] == "Ronneberger, Fischer, Brox 2015"
    assert (found["parameters"], found["receptive_field"]) == (1714, "18 x 18")
    assert found["pixel_size"] == "not known"


def test_a_run_that_has_not_finished(instances, tmp_path):
    with pytest.raises(Stopped):
        train.run(instances, tmp_path / "run", TrainConfig(**TINY), device="cpu", progress=stop_after(3))
    with pytest.raises(InputError, match="run: has no model") as caught:
        info.run(tmp_path / "run")
    assert "not finished" in caught.value.fix


def damaged(path, trained):
    path.write_bytes((trained / "model.safetensors").read_bytes()[:-100])


def foreign(path, _):
    save_file({"a": np.zeros(3)}, path)


def of_nonsense(path, _):
    save_file({"a": np.zeros(3)}, path, metadata={"unetcli": "{"})


def incomplete(path, _):
    save_file({"a": np.zeros(3)}, path, metadata={"unetcli": '{"format": 1, "arch": "unet"}'})


def pickled(path, _):
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.")


def empty(path, _):
    path.write_bytes(b"")


@pytest.mark.parametrize("make", [damaged, foreign, of_nonsense, incomplete, pickled, empty], ids=lambda f: f.__name__)
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path, trained, make, cli):
    make(tmp_path / "x.safetensors", trained)
    assert cli("info", tmp_path / "x.safetensors") == 3
    assert cli.err.startswith(f"error: {tmp_path / 'x.safetensors'}: ")
    assert cli.err.count("error") == 1
    assert cli.out == ""


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_an_image_file(tmp_path, suffix):
    array = cells((20, 31), 0)[0]
    path = tmp_path / f"x.{suffix}"
    {"png": lambda: Image.fromarray(array).save(path), "npy": lambda: np.save(path, array)}.get(
        suffix, lambda: tifffile.imwrite(path, array)
    )()
    found = info.run(path)
    assert (found["kind"], found["size"], found["type"]) == ("image file", "yx 20 x 31", "uint8")


def test_what_a_file_says_about_its_axes(tmp_path):
    tifffile.imwrite(
        tmp_path / "x.ome.tif", np.zeros((2, 7, 20, 31), np.uint16), metadata={
            "axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 2, "PhysicalSizeZUnit": "µm",
        },
    )  # fmt: skip
    found = info.run(tmp_path / "x.ome.tif")
    assert found["size"] == "czyx 2 x 7 x 20 x 31"
    assert found["pixel_size"] == "z 2 micrometer, y 0.5 micrometer, x 0.5 micrometer"


def test_a_guess_is_printed_as_a_note(tmp_path, cli):
    np.save(tmp_path / "x.npy", np.zeros((3, 20, 31), np.uint8))
    notes = info.run(tmp_path / "x.npy")["notes"]
    assert notes
    assert cli("info", tmp_path / "x.npy") == 0
    for note in notes:
        assert note in cli.out


# ------------------------------------------------------------------------------------------- odd paths


def nothing(folder):
    return folder / "x"


def an_empty_folder(folder):
    (folder / "x").mkdir()
    return folder / "x"


def an_empty_file(folder):
    (folder / "x").write_bytes(b"")
    return folder / "x"


def a_text(folder):
    (folder / "x.tif").write_text("this is not an image")
    return folder / "x.tif"


def a_group_without_images(folder):
    zarr.create_group(folder / "x.zarr")
    return folder / "x.zarr"


def metadata_that_is_not_json(folder):
    (folder / "x.zarr").mkdir()
    (folder / "x.zarr" / "zarr.json").write_text("{")
    return folder / "x.zarr"


def an_empty_collection(folder):
    zarr.create_group(folder / "x.zarr", attributes={"ome": {"bioformats2raw.layout": 3, "version": "0.5"}})
    return folder / "x.zarr"


def a_path_below_a_file(folder):
    (folder / "x").write_bytes(b"")
    return folder / "x" / "y"


def a_group_of_arrays(folder):
    zarr.create_group(folder / "x.zarr").create_array("raw", shape=(4, 5), dtype="u1")
    return folder / "x.zarr"


ODD = [
    nothing, an_empty_folder, an_empty_file, a_text, a_group_without_images, a_group_of_arrays,
    metadata_that_is_not_json, an_empty_collection, a_path_below_a_file,
]  # fmt: skip


@pytest.mark.parametrize("make", ODD, ids=lambda f: f.__name__.replace("_", " "))
def test_an_odd_path_is_refused_in_one_line(tmp_path, make, cli):
    path = make(tmp_path)
    before = files_of(tmp_path)
    assert cli("info", path) == 3
    assert cli.err.startswith(f"error: {path}")
    assert len(cli.err.splitlines()) <= 2
    assert cli.out == ""
    assert files_of(tmp_path) == before


# ------------------------------------------------------------------------------------------- printed


@pytest.mark.parametrize("what", ["instances", "weight_maps", "trained", "folders"])
def test_json_and_the_printed_rows_say_the_same_and_nothing_is_changed(request, cli, what):
    path = request.getfixturevalue(what)
    path = path / "images" / "img_00.png" if what == "folders" else path
    before = files_of(path.parent)
    assert cli("info", path, "--json") == 0
    found = cli.json
    assert found == info.run(path)
    assert cli("info", path) == 0
    printed = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in cli.out.splitlines())
    assert (found.pop("notes"), found.pop("faults")) == ([], [])
    shown = {key: value[0] if isinstance(value, list) else str(value) for key, value in found.items()}
    assert printed == {key.replace("_", " "): value for key, value in shown.items()}
    assert files_of(path.parent) == before


def test_a_report_is_described_too(folders, tmp_path):
    evaluate.run(folders / "masks", folders / "masks", tmp_path / "r", EvaluateConfig(metrics="iou"))
    assert "report" in info.run(tmp_path / "r")["kind"]
