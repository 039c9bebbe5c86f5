"""Masks that are attached to the image they are of: listed when complete, and nothing else is touched."""

import json
import os
import signal
import warnings

import numpy as np
import pytest
import zarr

from tests.conftest import Stopped, files_of, pixels, run_and_signal, stop_after
from tests.stages.test_tile_predict import make_model
from unetcli.config import EvaluateConfig, PredictConfig, PrepConfig
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.image import pyramid
from unetcli.image.fingerprint import fingerprint
from unetcli.image.inputs import open_inputs
from unetcli.image.new_label import NewLabel
from unetcli.image.store import open_store
from unetcli.stages import evaluate, info, prep, tile_predict

NGFF = pytest.mark.parametrize("ngff", ["0.4", "0.5"])
LISTS = {"labels/zarr.json", "labels/.zattrs", "labels/.zgroup"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m.safetensors")


def attach(data, model, name="cells", **options):
    return tile_predict.run(data, None, PredictConfig(), model=model, as_label=name, device="cpu", **options)


def prepared(tmp_path, folders, *, ngff="0.5", n=1, labels=True, name="d.zarr"):
    images = sorted((folders / "images").iterdir())[:n]
    truth = sorted((folders / "masks").iterdir())[:n] if labels else []
    prep.run(images, tmp_path / name, PrepConfig(ngff=ngff, pixel_size="0.5um"), labels=truth)
    return tmp_path / name


def apart_from(files, name):
    """Leave out the label image, and the lists that name it."""
    return {k: v for k, v in files.items() if f"labels/{name}/" not in k and not any(k.endswith(e) for e in LISTS)}


@NGFF
@pytest.mark.parametrize("n", [1, 3], ids=["image", "collection"])
@pytest.mark.parametrize("labels", [True, False], ids=["truth", "no truth"])
def test_the_mask_is_that_of_a_new_store(tmp_path, folders, model, ngff, n, labels):
    data = prepared(tmp_path, folders, ngff=ngff, n=n, labels=labels)
    before, digest = files_of(data), fingerprint(data)
    tile_predict.run(data, tmp_path / "m.zarr", PredictConfig(), model=model, device="cpu")
    attach(data, model)
    after = files_of(data)
    assert apart_from(after, "cells") == apart_from(before, "cells")
    assert fingerprint(data) == digest
    for image in open_store(data).images:
        assert image.label_names == (("truth", "cells") if labels else ("cells",))
        np.testing.assert_array_equal(pixels(data, image.name, "cells"), pixels(tmp_path / "m.zarr", image.name))
        label = open_store(image.path / "labels" / "cells")
        assert label.images[0].axes == image.axes
        assert label.attributes["prediction"] == {"kind": "mask", "classes": ["class_0", "class_1"]}
    assert any(line.startswith("cells:") for line in info.run(data)["labels"])
    assert attach(data, model)["already_done"]
    assert files_of(data) == after


@NGFF
def test_metadata(tmp_path, folders, model, ngff):
    data = prepared(tmp_path, folders, ngff=ngff)
    attach(data, model)
    listed = dict(zarr.open_group(data / "labels", mode="r").attrs)
    assert listed["labels"] == ["truth", "cells"]
    assert ngff == "0.4" or listed["ome"] == {"version": "0.5", "labels": ["truth", "cells"]}
    group = zarr.open_group(data / "labels" / "cells", mode="r")
    assert group.metadata.zarr_format == (2 if ngff == "0.4" else 3)
    described = dict(group.attrs).get("ome", dict(group.attrs))["image-label"]
    assert described["source"] == {"image": "../../"}
    assert [p["class"] for p in described["properties"]] == ["class_1"]
    assert [c["label-value"] for c in described["colors"]] == [1]


@NGFF
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(tmp_path, folders, model, small_tiles, ngff):
    data, whole = (prepared(tmp_path, folders, ngff=ngff, n=2, name=name) for name in ("d.zarr", "w.zarr"))
    probabilities = tmp_path / "p.zarr"
    attach(whole, model, probabilities=tmp_path / "q.zarr")
    for after in (0, 3, 7):
        with pytest.raises(Stopped):
            attach(data, model, probabilities=probabilities, progress=stop_after(after))
        for image in open_store(data).images:  # which can be read all the while
            assert image.label_names == ("truth",)
            np.testing.assert_array_equal(pixels(data, image.name), pixels(whole, image.name))
    attach(data, model, probabilities=probabilities)
    (a, b), (c, d) = map(sorted_bytes, (data, whole)), map(sorted_bytes, (probabilities, tmp_path / "q.zarr"))
    assert a == b
    assert c == d


def sorted_bytes(path):
    return {name.partition("/")[2]: content for name, content in files_of(path).items()}


@pytest.mark.slow
def test_killed_and_called_again_ends_in_the_same_bytes(tmp_path, folders, model, small_tiles):
    data, whole = (prepared(tmp_path, folders, name=name) for name in ("d.zarr", "w.zarr"))
    attach(whole, model)
    command = ["tile-predict", data, "--model", model, "--as-label", "cells", "--device", "cpu"]
    killed = run_and_signal(signal.SIGKILL, command, after=6, shard=32, chunk=16)
    assert killed.returncode == -signal.SIGKILL
    assert (data / "labels" / "cells.unetcli").exists()
    attach(data, model)
    assert sorted_bytes(data) == sorted_bytes(whole)


def test_killed_before_it_was_listed(tmp_path, folders, model):
    data = prepared(tmp_path, folders)
    before = (data / "labels" / "zarr.json").read_bytes()
    attach(data, model)
    listed = (data / "labels" / "zarr.json").read_bytes()
    (data / "labels" / "zarr.json").write_bytes(before)
    attach(data, model)
    assert json.loads((data / "labels" / "zarr.json").read_bytes()) == json.loads(listed)


def test_another_model_is_refused_unless_it_is_to_be_overwritten(tmp_path, folders, model):
    data = prepared(tmp_path, folders)
    attach(data, model)
    other = make_model(tmp_path / "other.safetensors", features=(3, 5))
    with pytest.raises(ConfigError, match="inputs model was"):
        attach(data, other)
    with pytest.raises(Stopped):
        attach(data, other, overwrite=True, progress=stop_after(1))
    assert open_store(data).images[0].label_names == ("truth",)  # not while it is being made again
    attach(data, other)
    assert open_store(data).images[0].label_names == ("truth", "cells")


def test_changed_pixels_are_refused(tmp_path, folders, model):
    data = prepared(tmp_path, folders)
    attach(data, model)
    zarr.open_array(data / "0", mode="r+")[:5] = 7
    with pytest.raises(ConfigError, match="inputs image was"):
        attach(data, model)


def test_two_labels(tmp_path, folders, model):
    data = prepared(tmp_path, folders)
    attach(data, model, "a")
    attach(data, model, "b.2")
    assert open_store(data).images[0].label_names == ("truth", "a", "b.2")


@pytest.mark.parametrize("consolidated", ["root", "labels"])
@NGFF
def test_consolidated_metadata_shows_the_label(tmp_path, folders, model, ngff, consolidated):
    data = prepared(tmp_path, folders, ngff=ngff)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(data if consolidated == "root" else data / "labels")
    attach(data, model)
    if consolidated == "root":
        assert zarr.open_group(data, mode="r", use_consolidated=True)["labels"].attrs["labels"] == ["truth", "cells"]
        assert "cells/0" in dict(zarr.open_group(data, mode="r", use_consolidated=True)["labels"].members(1))
    else:
        assert "cells" in dict(zarr.open_group(data / "labels", mode="r").members())


def test_killed_before_consolidated_metadata_was_renewed(tmp_path, folders, model, monkeypatch):
    data = prepared(tmp_path, folders)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(data)

    def killed(_, *, listed):
        if listed:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NewLabel, "_consolidate", killed)
        with pytest.raises(KeyboardInterrupt):
            attach(data, model)
    assert attach(data, model)["already_done"]
    assert "cells" in dict(zarr.open_group(data, mode="r", use_consolidated=True)["labels"].members())


@pytest.mark.parametrize("n_levels", [1, 4], ids=["fewer", "more"])
def test_labels_have_as_many_levels_as_their_image(tmp_path, folders, model, monkeypatch, n_levels):
    with monkeypatch.context() as patch:
        patch.setattr(pyramid, "SMALLEST", 10 if n_levels == 4 else 1024)
        data = prepared(tmp_path, folders)
    monkeypatch.setattr(pyramid, "SMALLEST", 40)
    attach(data, model)
    (image,) = open_store(data).images
    assert len(image.label_image("cells").levels) == len(image.levels) == n_levels


def test_labels_of_another_size_than_their_image_are_refused(tmp_path, folders, model, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 40)
    data = prepared(tmp_path, folders)
    config = PredictConfig(level=1, upsample="none")
    with pytest.raises(ConfigError, match="size of their image"):
        tile_predict.run(data, None, config, model=model, as_label="cells", device="cpu")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "truth", "zarr.json", ".hidden", "a b", "x.unetcli"])
def test_names_that_can_not_be(tmp_path, folders, model, name):
    data = prepared(tmp_path, folders)
    before = files_of(data)
    with pytest.raises(ConfigError, match="--as-label"):
        attach(data, model, name)
    assert files_of(data) == before


@pytest.mark.parametrize("overwrite", [True, False])
def test_labels_of_others_are_never_touched(tmp_path, folders, model, overwrite):
    data = prepared(tmp_path, folders)
    (data / "labels" / "truth").rename(data / "labels" / "hand")
    zarr.open_group(data / "labels", mode="r+").attrs.update({"ome": {"version": "0.5", "labels": ["hand"]}})
    before = files_of(data)
    with pytest.raises(InputError, match=r"'hand' that were not made by unetcli"):
        attach(data, model, "hand", overwrite=overwrite)
    zarr.open_group(data / "labels", mode="r+").attrs.update({"ome": {"version": "0.5", "labels": []}})
    with pytest.raises(InputError, match="was not made by unetcli"):
        attach(data, model, "hand", overwrite=overwrite)
    assert files_of(data).keys() == before.keys()


def test_an_old_store_is_refused(tmp_path, folders, model):
    data = prepared(tmp_path, folders, ngff="0.4")
    attributes = json.loads((data / ".zattrs").read_text())
    attributes["multiscales"][0]["version"] = "0.3"
    (data / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(InputError, match=r"version 0\.3; labels can be attached to 0\.4 and 0\.5") as caught:
        attach(data, model)
    assert "unetcli prep" in caught.value.fix


@pytest.mark.parametrize("options", [[], ["-o", "m.zarr", "--as-label", "cells"]], ids=["neither", "both"])
def test_exactly_one_output(tmp_path, folders, model, options, cli):
    data = prepared(tmp_path, folders)
    before = files_of(data)
    assert cli("tile-predict", data, "--model", model, *options) == 4
    assert "-o and --as-label given; expected one of them" in cli.err
    assert files_of(data) == before


def test_a_store_that_can_not_be_written(tmp_path, folders, model, monkeypatch):
    data = prepared(tmp_path, folders)

    def refuse(self, *_, **__):
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(InputError, match=r"labels/cells: can not be written \(Permission denied\)"):
        attach(data, model)


def test_the_command(tmp_path, folders, model, cli):
    data = prepared(tmp_path, folders)
    command = ["tile-predict", data, "--model", model, "--device", "cpu", "--as-label", "cells"]
    assert cli(*command, "--dry-run") == 0
    assert open_store(data).images[0].label_names == ("truth",)
    assert cli(*command) == 0
    assert "labels cells" in cli.out
    assert cli(*command) == 0
    assert "nothing to do" in cli.out


def test_a_label_is_scored(tmp_path, folders, model):
    data = prepared(tmp_path, folders)
    attach(data, model)
    tile_predict.run(data, tmp_path / "m.zarr", PredictConfig(), model=model, device="cpu")
    config = EvaluateConfig(metrics="iou,pixel_error")
    scores = [
        evaluate.run(prediction, data, tmp_path / f"r{i}", config)["mean"]
        for i, prediction in enumerate([data / "labels" / "cells", tmp_path / "m.zarr"])
    ]
    assert scores[0] == scores[1]


def test_a_result_is_not_taken_for_the_truth(tmp_path, folders, model):
    data = prepared(tmp_path, folders, labels=False)
    attach(data, model)
    assert open_inputs([data])[0].labels is None
    with pytest.raises(UnetcliError, match="expected images"):
        attach(data / "labels" / "cells", model)
