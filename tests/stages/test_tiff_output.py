"""OME-TIFF as an output: the same pixels as in a store, whatever stops the command in between."""

import signal

import numpy as np
import pytest
import tifffile

from tests.conftest import cells, files_of, pixels, run_and_signal
from tests.stages.test_tile_predict import make_model
from unetcli.config import EvaluateConfig, PredictConfig, PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.files import open_file
from unetcli.image.inputs import open_inputs
from unetcli.image.ledger import ledger_path
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.stages import evaluate, info, prep, tile_predict


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture
def image(tmp_path):
    np.save(tmp_path / "image.npy", cells((90, 100), 0)[0])
    return tmp_path / "image.npy"


def of_file(path):
    source = open_file(path)
    return source.read(Box.whole(source.shape))


def convert(image, out, **options):
    return prep.run([image], out, PrepConfig(pixel_size="0.5um"), **options)


def predict(data, out, model, **options):
    return tile_predict.run(data, out, PredictConfig(), model=model, device="cpu", **options)


# ------------------------------------------------------------------------------------------- prep


def test_prep_to_tiff_and_back(image, tmp_path):
    convert(image, tmp_path / "x.zarr")
    convert(image, tmp_path / "x.ome.tif")
    prep.run([tmp_path / "x.ome.tif"], tmp_path / "y.zarr", PrepConfig())
    np.testing.assert_array_equal(pixels(tmp_path / "y.zarr"), pixels(tmp_path / "x.zarr"))
    first, again = (open_store(tmp_path / name).images[0] for name in ("x.zarr", "y.zarr"))
    assert (again.axes, again.name) == (first.axes, "x")
    assert info.run(tmp_path / "x.ome.tif")["kind"] == "image file, written by unetcli prep"
    (opened,) = open_inputs([tmp_path / "x.ome.tif"])
    assert opened.attributes["data"] == open_store(tmp_path / "x.zarr").attributes["data"]


def test_levels_equal_those_of_the_store(image, tmp_path, small_tiles, monkeypatch):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 20)
    convert(image, tmp_path / "x.zarr")
    convert(image, tmp_path / "x.ome.tif")
    store = open_store(tmp_path / "x.zarr").images[0]
    with tifffile.TiffFile(tmp_path / "x.ome.tif") as tiff:
        levels = tiff.series[0].levels
        assert len(levels) == len(store.levels) == 4
        for level, stored in zip(levels, store.levels, strict=True):
            np.testing.assert_array_equal(level.asarray(), stored.read(Box.whole(stored.shape))[0, 0, 0])


def test_a_second_call_does_nothing(image, tmp_path, cli):
    arguments = ["prep", image, "-o", tmp_path / "x.ome.tif"]
    assert cli(*arguments) == 0
    before = (tmp_path / "x.ome.tif").stat().st_mtime_ns
    assert cli(*arguments) == 0
    assert "was complete already; nothing to do" in cli.out
    assert (tmp_path / "x.ome.tif").stat().st_mtime_ns == before
    assert cli(*arguments, "--pixel-size", "2um") == 4
    assert "settings pixel_size was" in cli.err
    assert cli(*arguments, "--pixel-size", "2um", "--overwrite") == 0
    assert open_file(tmp_path / "x.ome.tif").axes.scale == (2, 2)


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_one_tiff_can_not_hold(folders, tmp_path, dry_run):
    one = folders / "images" / "img_00.png"
    for images, labels, config in [
        ([folders / "images"], [], {}),
        ([one], [folders / "masks" / "mask_00.png"], {}),
        ([one], [], {"ngff": "0.4"}),
    ]:
        with pytest.raises(ConfigError, match="can not hold") as caught:
            prep.run(images, tmp_path / "x.ome.tif", PrepConfig(**config), labels=labels, dry_run=dry_run)
        assert caught.value.fix == "-o x.zarr"
    assert not list(tmp_path.iterdir())


def test_the_labels_of_a_store_are_left_out_and_it_says_so(folders, tmp_path):
    labels = [folders / "masks" / "mask_00.png"]
    prep.run([folders / "images" / "img_00.png"], tmp_path / "d.zarr", PrepConfig(), labels=labels)
    result = prep.run([tmp_path / "d.zarr"], tmp_path / "x.ome.tif", PrepConfig())
    assert any("labels beside the image are left out" in note for note in result["notes"])
    np.testing.assert_array_equal(of_file(tmp_path / "x.ome.tif"), pixels(tmp_path / "d.zarr"))


def calls_of(run):
    calls = []
    run(lambda done, total: calls.append((done, total)))
    return len(calls)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("from_the_end", [1, 3, 20], ids=["second level", "first level", "not exporting yet"])
def test_stopped_and_called_again_ends_in_the_same_bytes(tmp_path, small_tiles, number, from_the_end):
    image, whole, out = tmp_path / "image.npy", tmp_path / "whole.ome.tif", tmp_path / "x.ome.tif"
    np.save(image, cells((1100, 40), 0)[0])  # three rows of tiles, and two of the next level
    n_calls = calls_of(lambda p: convert(image, whole, workers=1, progress=p))
    command = ["prep", image, "--pixel-size", "0.5um", "--workers", 1, "-o", out]
    stopped = run_and_signal(number, command, after=n_calls - from_the_end, shard=32, chunk=16)
    assert stopped.returncode == (75 if number == signal.SIGTERM else -number), stopped.stderr
    assert not out.exists()
    is_left = number == signal.SIGKILL and from_the_end < 20
    assert any(ledger_path(out).glob("export-*.tif")) == is_left
    for command in (info.run, lambda path: open_inputs([path])):
        with pytest.raises(InputError, match="is not complete"):
            command(out)
    convert(image, out)
    assert out.read_bytes() == whole.read_bytes()
    assert not ledger_path(out).exists()


# ------------------------------------------------------------------------------------------- tile-predict


def test_masks_and_probabilities(image, model, tmp_path, small_tiles):
    convert(image, tmp_path / "d.zarr")
    predict(tmp_path / "d.zarr", tmp_path / "m.zarr", model, probabilities=tmp_path / "p.zarr")
    out, maps = tmp_path / "m.ome.tif", tmp_path / "p.ome.tif"
    predict(tmp_path / "d.zarr", out, model, probabilities=maps)
    np.testing.assert_array_equal(of_file(out), pixels(tmp_path / "m.zarr"))
    np.testing.assert_array_equal(of_file(maps), pixels(tmp_path / "p.zarr"))
    assert predict(tmp_path / "d.zarr", out, model, probabilities=maps)["already_done"]
    with tifffile.TiffFile(maps) as tiff:
        assert 'Name="class_1"' in tiff.ome_metadata


def test_one_of_two_outputs_is_a_tiff(image, model, tmp_path, small_tiles):
    convert(image, tmp_path / "d.zarr")
    n_calls = calls_of(
        lambda p: predict(
            tmp_path / "d.zarr", tmp_path / "m.zarr", model, probabilities=tmp_path / "p.ome.tif", progress=p
        )
    )
    command = ["tile-predict", tmp_path / "d.zarr", "--model", model, "--device", "cpu", "-o", tmp_path / "n.zarr"]
    command += ["--probabilities", tmp_path / "q.ome.tif"]
    killed = run_and_signal(signal.SIGKILL, command, after=n_calls - 1, shard=32, chunk=16)
    assert killed.returncode == -signal.SIGKILL
    predict(tmp_path / "d.zarr", tmp_path / "n.zarr", model, probabilities=tmp_path / "q.ome.tif")
    assert (tmp_path / "q.ome.tif").read_bytes() == (tmp_path / "p.ome.tif").read_bytes()
    same = [dict(zip(range(999), files_of(tmp_path / name).values(), strict=False)) for name in ("m.zarr", "n.zarr")]
    assert same[0] == same[1]


def test_a_mask_in_a_tiff_is_scored_as_one(image, model, tmp_path):
    convert(image, tmp_path / "d.zarr")
    scores = []
    np.save(tmp_path / "truth.npy", (cells((90, 100), 0)[1] > 0).astype(np.uint8))
    for name in ("m.zarr", "m.ome.tif"):
        predict(tmp_path / "d.zarr", tmp_path / name, model)
        config = EvaluateConfig(metrics="iou,pixel_error")
        report = evaluate.run(tmp_path / name, tmp_path / "truth.npy", tmp_path / f"report {name}", config)
        scores.append(report["mean"])
    assert scores[0] == scores[1]
    assert open_inputs([tmp_path / "m.ome.tif"])[0].attributes["prediction"]["kind"] == "mask"


def test_collections_and_half_floats_are_refused(folders, image, model, tmp_path):
    prep.run([folders / "images"], tmp_path / "many.zarr", PrepConfig())
    convert(image, tmp_path / "d.zarr")
    with pytest.raises(ConfigError, match="can not hold 3 images"):
        predict(tmp_path / "many.zarr", tmp_path / "m.ome.tif", model)
    half = PredictConfig(probability_dtype="float16")
    with pytest.raises(ConfigError, match="can not hold pixels of float16"):
        tile_predict.run(
            tmp_path / "d.zarr", tmp_path / "m.zarr", half, model=model, probabilities=tmp_path / "p.tif", device="cpu"
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.zarr", "image.npy", "many.zarr"]
