"""Tiled prediction: the same result for any tiling, number of workers and restart."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.conftest import Stopped, assert_same_files, cells, count_calls, files_of, pixels, run_and_signal, stop_after
from unetcli.config import PredictConfig, PrepConfig
from unetcli.errors import ConfigError, GeometryError, InputError, UnetcliError
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader, load_model, save_model
from unetcli.models.geometry import AxisGeometry, Geometry, geometry_of
from unetcli.stages import prep, tile_predict


def make_model(path, *, arch="unet", channels=1, classes=2, parameters=(), **fields):
    """Write a model of random parameters whose output depends on everything that it sees."""
    values = {
        "ndim": 2, "channels": channels, "classes": classes, "features": [3, 4, 5], "padding": "same", "norm": "none",
        "skip": "concat", "dropout": 0.0,
    }  # fmt: skip
    values |= {name: fields.pop(name) for name in values if name in fields} | dict(parameters)
    values = {name: value for name, value in values.items() if value is not None}
    torch.manual_seed(0)
    network = build_model(arch, values)
    described = {"pixel_size": {"unit": None}, "provenance": {"version": "test"}, **fields}
    header = ModelHeader(
        arch, values, geometry_of(arch, values), tuple(f"class_{i}" for i in range(classes)), channels,
        (100.0,) * channels, (50.0,) * channels, **described,
    )  # fmt: skip
    save_model(path, network.state_dict(), header)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "same": make_model(folder / "same.safetensors"),
        "valid": make_model(folder / "valid.safetensors", padding="valid"),
        "batch": make_model(folder / "batch.safetensors", norm="batch"),
        "rgb": make_model(folder / "rgb.safetensors", channels=3),
        "three classes": make_model(folder / "three.safetensors", classes=3),
    }


def prepared(folder, array, **config):
    np.save(folder / "image.npy", array)
    prep.run([folder / "image.npy"], folder / "image.zarr", PrepConfig(**config))
    return folder / "image.zarr"


def whole_image(model, image):
    """Return the probabilities of one pass over the whole mirrored image (c, y, x)."""
    network, header = load_model(model)
    geometry = header.geometry.axes[-1]
    *_, height, width = image.shape
    extent = [geometry.next_legal(geometry.halo + n + geometry.reach) for n in (height, width)]
    after = [e - geometry.halo - n for e, n in zip(extent, (height, width), strict=True)]
    normal = (image.astype(np.float32) - 100) / 50
    padded = np.pad(normal, [(0, 0), *((geometry.halo, a) for a in after)], mode="reflect")
    with torch.inference_mode():
        result = network(torch.from_numpy(padded)[None]).softmax(dim=1)[0].numpy()
    first = geometry.halo - geometry.margin
    return result[:, first : first + height, first : first + width]


def predict(image, out, model, *, probabilities=None, tile_size=None, **options):
    config = PredictConfig(tile_size=tile_size)
    return tile_predict.run(image, out, config, model=model, probabilities=probabilities, device="cpu", **options)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (61, 47), (64, 64), (130, 97)], ids=str)
@pytest.mark.parametrize("kind", ["same", "valid", "batch", "three classes"])
def test_equals_the_whole_image_at_once(tmp_path, models, small_tiles, kind, shape):
    image = cells(shape, 0)[0]
    data = prepared(tmp_path, image)
    predict(data, tmp_path / "m", models[kind], probabilities=tmp_path / "p")
    expected = whole_image(models[kind], image[None])
    np.testing.assert_allclose(pixels(tmp_path / "p")[0, :, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(pixels(tmp_path / "m")[0, 0, 0], pixels(tmp_path / "p")[0, :, 0].argmax(axis=0))


@pytest.mark.parametrize("kind", ["same", "valid"])
def test_tile_sizes_agree(tmp_path, models, kind):
    data = prepared(tmp_path, cells((150, 131), 1)[0])
    geometry = load_model(models[kind])[1].geometry.axes[-1]
    found = []
    for step in (1, 3, 100):
        size = geometry.read_size(step * geometry.stride)
        out = tmp_path / f"p{step}"
        predict(data, tmp_path / f"m{step}", models[kind], probabilities=out, tile_size=size)
        found.append(pixels(out))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 3))
def test_odd_sizes(models, tmp_path_factory, height, width, extra):
    folder = tmp_path_factory.mktemp("odd")
    image = cells((height, width), 2)[0]
    geometry = load_model(models["same"])[1].geometry.axes[-1]
    size = geometry.read_size((1 + extra) * geometry.stride)
    predict(prepared(folder, image), folder / "m", models["same"], probabilities=folder / "p", tile_size=size)
    np.testing.assert_allclose(pixels(folder / "p")[0, :, 0], whole_image(models["same"], image[None]), atol=1e-5)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, models, small_tiles):
    data = prepared(tmp_path, cells((90, 100), 3)[0])
    for workers in (1, 4):
        predict(data, tmp_path / f"m{workers}", models["same"], probabilities=tmp_path / f"p{workers}", workers=workers)
    assert_same_files(tmp_path / "m1", tmp_path / "m4")
    assert_same_files(tmp_path / "p1", tmp_path / "p4")


@pytest.mark.parametrize("with_probabilities", [False, True], ids=["mask", "both"])
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(tmp_path, models, small_tiles, with_probabilities):
    data = prepared(tmp_path, cells((60, 70), 3)[0])

    def go(name, **options):
        both = {"probabilities": tmp_path / f"{name}_p"} if with_probabilities else {}
        predict(data, tmp_path / name, models["same"], **both, **options)

    calls = count_calls(lambda p: go("whole", progress=p))
    for after in range(0, calls, max(1, calls // 4)):
        name = f"stopped_{after}"
        with pytest.raises(Stopped):
            go(name, progress=stop_after(after))
        go(name)
        assert_same_files(tmp_path / name, tmp_path / "whole")
        if with_probabilities:
            assert_same_files(tmp_path / f"{name}_p", tmp_path / "whole_p")


def test_killed_and_called_again_ends_in_the_same_bytes(tmp_path, models, small_tiles):
    data, model = prepared(tmp_path, cells((90, 100), 3)[0]), models["same"]
    predict(data, tmp_path / "whole", model, probabilities=tmp_path / "whole_p")
    outputs = ["-o", tmp_path / "m", "--probabilities", tmp_path / "m_p"]
    command = ["tile-predict", data, "--model", model, *outputs, "--device", "cpu"]
    killed = run_and_signal(signal.SIGKILL, command, after=5, shard=32, chunk=16)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    predict(data, tmp_path / "m", model, probabilities=tmp_path / "m_p")
    assert_same_files(tmp_path / "m", tmp_path / "whole")
    assert_same_files(tmp_path / "m_p", tmp_path / "whole_p")


@pytest.mark.parametrize("lost", [["m"], ["p", "p.unetcli"], ["p"], ["m", "m.unetcli"]], ids="+".join)
def test_an_unfinished_output_that_was_removed_is_made_whole(tmp_path, models, small_tiles, lost):
    data, model = prepared(tmp_path, cells((60, 70), 3)[0]), models["same"]
    predict(data, tmp_path / "whole", model, probabilities=tmp_path / "whole_p")
    with pytest.raises(Stopped):
        predict(data, tmp_path / "m", model, probabilities=tmp_path / "p", progress=stop_after(6))
    for name in lost:
        shutil.rmtree(tmp_path / name)
    try:
        predict(data, tmp_path / "m", model, probabilities=tmp_path / "p")
    except UnetcliError:
        return  # to refuse is fine; to leave tiles out is not
    assert_same_files(tmp_path / "m", tmp_path / "whole")
    assert_same_files(tmp_path / "p", tmp_path / "whole_p")


def test_a_collection_of_different_sizes(tmp_path, models, small_tiles):
    (tmp_path / "images").mkdir()
    for i, shape in enumerate([(40, 50), (33, 71), (5, 6)]):
        np.save(tmp_path / "images" / f"i_{i}.npy", cells(shape, i)[0])
    prep.run([tmp_path / "images"], tmp_path / "d", PrepConfig())
    predict(tmp_path / "d", tmp_path / "m", models["same"], probabilities=tmp_path / "p")
    for i, image in enumerate(open_store(tmp_path / "m").images):
        assert image.name == f"i_{i}"
        expected = whole_image(models["same"], np.load(tmp_path / "images" / f"i_{i}.npy")[None])
        np.testing.assert_allclose(pixels(tmp_path / "p", image.name)[0, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["zyx", "tyx"])
def test_stacks(tmp_path, models, axes, ngff):
    stack = cells((4, 40, 30), 0)[0]
    data = prepared(tmp_path, stack, axes=axes, ngff=ngff)
    predict(data, tmp_path / "m", models["same"], probabilities=tmp_path / "p")
    assert open_store(tmp_path / "m").images[0].axes.names == axes
    found = pixels(tmp_path / "p")
    for i in range(4):
        plane = found[0, :, i] if axes == "zyx" else found[i, :, 0]
        np.testing.assert_allclose(plane, whole_image(models["same"], stack[None, i]), atol=1e-5)


def test_colours(tmp_path, models):
    image = np.random.default_rng(0).integers(0, 255, (3, 40, 30), np.uint8)
    predict(prepared(tmp_path, image, axes="cyx"), tmp_path / "m", models["rgb"], probabilities=tmp_path / "p")
    np.testing.assert_allclose(pixels(tmp_path / "p")[0, :, 0], whole_image(models["rgb"], image), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("uint8", 0.51 / 255)])
def test_types_of_probabilities(tmp_path, models, dtype, tolerance):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    config = PredictConfig(probability_dtype=dtype)
    tile_predict.run(data, tmp_path / "m", config, model=models["same"], probabilities=tmp_path / "p", device="cpu")
    found = pixels(tmp_path / "p")
    assert found.dtype == dtype
    scaled = found.astype(np.float64) / (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose(
        scaled[0, :, 0], whole_image(models["same"], np.load(tmp_path / "image.npy")[None]), atol=tolerance + 1e-5
    )


def test_verify_seams(tmp_path, models, small_tiles):
    data = prepared(tmp_path, cells((130, 97), 0)[0])
    result = predict(data, tmp_path / "m", models["same"], verify_seams=True)
    assert 0 <= result["greatest_difference_at_seams"] < 1e-5


def test_verify_seams_finds_a_halo_that_is_too_small(tmp_path, models):
    network, header = load_model(models["same"])
    blind = AxisGeometry(stride=4, margin=0, halo=0, reach=0, smallest=4)
    fields = {**header.__dict__, "geometry": Geometry((blind, blind))}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    save_model(tmp_path / "bad.safetensors", network.state_dict(), ModelHeader(**fields))
    data = prepared(tmp_path, cells((130, 97), 0)[0])
    with pytest.raises(GeometryError, match="differ from the whole"):
        predict(data, tmp_path / "m", tmp_path / "bad.safetensors", verify_seams=True, tile_size=16)


@pytest.mark.parametrize("size", [1, 17, 30, 4])
def test_illegal_tile_sizes_name_legal_ones(tmp_path, models, size):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    with pytest.raises(GeometryError, match=f"--tile-size {size}") as error:
        predict(data, tmp_path / "m", models["same"], tile_size=size)
    assert not (tmp_path / "m").exists()
    advised = int(error.value.fix.split()[-1])
    predict(data, tmp_path / "m", models["same"], tile_size=advised)


def test_wrong_channels(tmp_path, models):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    with pytest.raises(InputError, match=r"has 1 channels; the model was trained with 3"):
        predict(data, tmp_path / "m", models["rgb"])
    assert not (tmp_path / "m").exists()


def test_too_many_channels_can_be_left_out(tmp_path, models):
    data = prepared(tmp_path, np.zeros((3, 20, 30), np.uint8), axes="cyx", channel_names="DAPI,GFP,RFP")
    with pytest.raises(InputError, match=r"has 3 channels \(DAPI, GFP, RFP\); .* trained with 1$") as error:
        predict(data, tmp_path / "m", models["same"])
    assert "unetcli prep IMAGE --channels 0 -o" in error.value.fix


@pytest.mark.parametrize("content", [None, b"", b"text", b'{"a": 1}' * 20], ids=["missing", "empty", "text", "JSON"])
def test_what_is_no_model(tmp_path, content):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    if content is not None:
        (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.safetensors"):
        predict(data, tmp_path / "m", tmp_path / "m.safetensors")
    assert not (tmp_path / "m").exists()


def test_an_unfinished_run_is_no_model(tmp_path, trained, copy_of, instances):
    run = copy_of(trained)
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError) as error:
        predict(instances, tmp_path / "m", run)
    assert "same train command" in error.value.fix


def test_a_second_call_does_nothing_and_changes_are_refused(tmp_path, models):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    predict(data, tmp_path / "m", models["same"], probabilities=tmp_path / "p")
    before = files_of(tmp_path / "m", tmp_path / "p")
    assert predict(data, tmp_path / "m", models["same"], probabilities=tmp_path / "p")["already_done"]
    with pytest.raises(ConfigError, match="inputs model was"):
        predict(data, tmp_path / "m", models["batch"], probabilities=tmp_path / "p")
    with pytest.raises(ConfigError, match='outputs was "mask, probabilities", is "mask"'):
        predict(data, tmp_path / "m", models["same"])
    assert files_of(tmp_path / "m", tmp_path / "p") == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_outputs_are_apart_from_each_other_and_from_the_input(tmp_path, models, overwrite):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    before = files_of(data)
    for out, probabilities in ((data, None), (tmp_path / "m", data), (tmp_path / "n", tmp_path / "n")):
        with pytest.raises(UnetcliError):
            predict(data, out, models["same"], probabilities=probabilities, overwrite=overwrite)
    assert files_of(data) == before
    assert not (tmp_path / "m").exists()


def test_a_shard_that_was_lost_from_the_input_is_noticed(tmp_path, models, small_tiles):
    data = prepared(tmp_path, cells((60, 70), 0)[0])
    next(p for p in (data / "0" / "c").rglob("*") if p.is_file()).unlink()
    with pytest.raises(InputError, match=r"image\.zarr"):
        predict(data, tmp_path / "m", models["same"])


def test_dry_run_writes_nothing(tmp_path, models):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    described = predict(data, tmp_path / "m", models["same"], dry_run=True)
    assert described["tiles"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.npy", "image.zarr"]


def test_the_mask_names_its_classes_and_its_making(tmp_path, instances, trained):
    predict(instances, tmp_path / "m", trained)
    store = open_store(tmp_path / "m")
    assert store.attributes["prediction"] == {"kind": "mask", "classes": ["background", "object"]}
    assert set(store.attributes["fingerprint"]["inputs"]) == {"image", "model"}
    assert json.loads(json.dumps(store.attributes["fingerprint"])) == store.attributes["fingerprint"]


def test_results_are_no_images(tmp_path, instances, weight_maps, trained):
    predict(instances, tmp_path / "m", trained)
    for store, stage in ((weight_maps, "weights"), (tmp_path / "m", "tile-predict")):
        with pytest.raises(InputError, match=f"was written by {stage}; expected images"):
            predict(store, tmp_path / "x", trained)
    assert not (tmp_path / "x").exists()


# ------------------------------------------------------------------------------------------- levels


@pytest.fixture
def deep(monkeypatch, small_tiles):
    """Make pyramids of tiny images deep."""
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 4)


def brought_back(array, shape, factors, upsample):
    """Return the values of a level (classes, y, x) at the centres of the pixels of the full size."""
    at = [(np.arange(n) + 0.5) / f - 0.5 for n, f in zip(shape, factors, strict=True)]
    if upsample == "nearest":
        y, x = (np.floor(a + 0.5).astype(int).clip(max=n - 1) for a, n in zip(at, array.shape[1:], strict=True))
        return array[:, y[:, None], x]
    grid = np.meshgrid(*at, indexing="ij")
    return np.stack([ndimage.map_coordinates(a, grid, order=1, mode="nearest") for a in array])


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("shape", "level", "kind"),
    [((97, 71), 1, "same"), ((97, 71), 2, "valid"), ((130, 67), 3, "three classes"), ((5, 9), 1, "same")],
    ids=str,
)
def test_a_level_equals_the_whole_level_brought_to_full_size(tmp_path, models, deep, shape, level, kind, upsample):
    data = prepared(tmp_path, cells(shape, 0)[0])
    config = PredictConfig(level=level, upsample=upsample)
    tile_predict.run(data, tmp_path / "m", config, model=models[kind], probabilities=tmp_path / "p", device="cpu")
    coarse = open_store(data).images[0].at(level)
    expected = whole_image(models[kind], coarse.read(Box.whole(coarse.shape))[0, :, 0])
    expected = brought_back(expected, shape, (2**level, 2**level), upsample)
    found = pixels(tmp_path / "p")[0, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(pixels(tmp_path / "m")[0, 0, 0], found.argmax(axis=0))
    assert open_store(tmp_path / "m").images[0].axes == open_store(data).images[0].axes


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 90), st.integers(2, 90), st.integers(0, 3), st.sampled_from(["bilinear", "nearest"]))
def test_tiles_of_a_level_agree(models, deep, tmp_path_factory, height, width, extra, upsample):
    folder = tmp_path_factory.mktemp("levels")
    data = prepared(folder, cells((height, width), 2)[0])
    geometry = load_model(models["same"])[1].geometry.axes[-1]
    level = len(open_store(data).images[0].levels) - 1
    found = []
    for shard, step in ((32, 1 + extra), (4096, 100)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unetcli.image.new_store.SHARD", shard)
            size = geometry.read_size(step * geometry.stride)
            config = PredictConfig(level=level, upsample=upsample, tile_size=size)
            outputs = folder / f"m{shard}", folder / f"p{shard}"
            tile_predict.run(data, outputs[0], config, model=models["same"], probabilities=outputs[1], device="cpu")
        found.append(pixels(outputs[1]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_a_result_may_stay_at_its_level(tmp_path, models, deep, ngff):
    data = prepared(tmp_path, cells((97, 71), 0)[0], pixel_size="0.5um", ngff=ngff)
    config = PredictConfig(level=2, upsample="none")
    tile_predict.run(data, tmp_path / "m", config, model=models["same"], probabilities=tmp_path / "p", device="cpu")
    level = open_store(data).images[0].at(2)
    expected = whole_image(models["same"], level.read(Box.whole(level.shape))[0, :, 0])
    np.testing.assert_allclose(pixels(tmp_path / "p")[0, :, 0], expected, atol=1e-5)
    assert open_store(tmp_path / "m").images[0].axes == level.axes
    for store in ("m", "p"):
        ome = json.loads((tmp_path / store / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
        scale, translation = ome["datasets"][0]["coordinateTransformations"]
        assert scale["scale"][-2:] == [2.0, 2.0]
        assert translation["translation"][-2:] == [0.75, 0.75]  # four pixels of 0.5: their middle


def test_seams_and_tiles_of_a_level(tmp_path, models, deep):
    data = prepared(tmp_path, cells((130, 97), 0)[0])
    config = PredictConfig(level=1)
    options = {"model": models["same"], "device": "cpu"}
    dry = tile_predict.run(data, tmp_path / "m", config, dry_run=True, **options)
    done = tile_predict.run(data, tmp_path / "m", config, verify_seams=True, **options)
    assert 0 <= done["greatest_difference_at_seams"] < 1e-5
    assert dry["tiles"] == done["tiles"]
    assert dry["megapixels"] == 65 * 48 / 1e6


def test_a_level_that_is_not_there(tmp_path, models):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    with pytest.raises(InputError, match=r"image\.zarr: has .*level") as error:
        tile_predict.run(data, tmp_path / "m", PredictConfig(level=3), model=models["same"], device="cpu")
    assert "--level 0" in error.value.fix


@pytest.mark.parametrize(
    ("trained", "level", "said"),
    [
        ({"y": 0.5, "x": 0.5, "unit": "micrometer"}, 0, None),
        ({"y": 520.0, "x": 520.0, "unit": "nanometer"}, 0, None),
        ({"y": 0.5, "x": 0.5, "unit": None}, 0, None),
        (
            {"y": 1.0, "x": 1.0, "unit": "micrometer"},
            0,
            r"0\.5 µm, .* 1 µm: .* 2 times as large .*\(--level 1 fits",
        ),
        ({"y": 1.0, "x": 1.0, "unit": "micrometer"}, 1, None),
        ({"y": 0.7, "x": 0.7, "unit": "micrometer"}, 0, r"--target-pixel-size 0\.7um"),
    ],
    ids=["same", "nearly, other unit", "not known", "level fits", "is fitting level", "none fits"],
)
def test_pixels_of_another_size_than_in_training_are_noted(tmp_path, deep, trained, level, said):
    model = make_model(tmp_path / "m.safetensors", pixel_size=trained)
    data = prepared(tmp_path, cells((40, 30), 0)[0], pixel_size="0.5um")
    result = tile_predict.run(data, tmp_path / "m", PredictConfig(level=level), model=model, device="cpu", dry_run=True)
    notes = result.get("notes", [])
    assert len(notes) == (said is not None)
    if said:
        assert re.search(said, notes[0])


@pytest.mark.parametrize(
    ("trained", "names", "message"),
    [
        (("DAPI", "GFP"), "DAPI,GFP", None),
        (("dapi", "gfp"), "DAPI,GFP", None),
        ((), "DAPI,GFP", None),
        (("channel_0", "channel_1"), "DAPI,GFP", None),
        (("DAPI", "GFP"), None, None),
        (("DAPI", "GFP"), "GFP,DAPI", r"has the channels GFP, DAPI; the model was trained on DAPI, GFP"),
        (("DAPI", "GFP"), "DAPI,RFP", r"has the channels DAPI, RFP; the model was trained on DAPI, GFP"),
    ],
    ids=["same", "same but for case", "unknown model", "generic", "unknown image", "order", "others"],
)
def test_channels_are_those_of_training(tmp_path, trained, names, message):
    model = make_model(tmp_path / "m.safetensors", channels=2, channel_names=trained)
    array = np.random.default_rng(0).integers(0, 255, (2, 20, 30), np.uint8)
    data = prepared(tmp_path, array, axes="cyx", channel_names=names)
    if message is None:
        predict(data, tmp_path / "m", model, dry_run=True)
        return
    with pytest.raises(InputError, match=message) as error:
        predict(data, tmp_path / "m", model)
    assert "--channels DAPI,GFP" in error.value.fix
    assert not (tmp_path / "m").exists()
