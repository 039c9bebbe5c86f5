"""A network on a device: what goes there, tiles in batches, memory that is used up, several devices."""

import logging

import numpy as np
import pytest
import torch

from tests.conftest import Stopped, assert_same_files, pixels, stop_after
from unetcli.config import PredictConfig
from unetcli.errors import ConfigError, DeviceError, UnetcliError
from unetcli.models.checkpoint import load_model
from unetcli.models.overlap_tile import context
from unetcli.prediction import engine as module
from unetcli.prediction.engine import Engine, transferable
from unetcli.prediction.predictor import Predictor
from unetcli.stages import tile_predict


def make_engine(model, step=16, **options):
    network, header = load_model(model)
    return Engine(network, header, torch.device("cpu"), (step,) * header.ndim, **options)


def block_for(engine, core, times=1, planes=1, dtype=np.uint8):
    header = engine.header
    around = context(header.geometry, core, core)
    extents = [-(-n // a.stride) * a.stride + 2 * m for n, a, m in zip(core, header.geometry.axes, around, strict=True)]
    zyx = extents if header.ndim == 3 else [planes, *extents]
    return np.random.default_rng(0).integers(0, 255, (times, header.channels, *zyx)).astype(dtype)


def run(engine, block, core, step=None):
    spans = [(0, n) for n in core]
    (found,) = engine.submit(block, lambda pixels: [engine.probabilities(pixels, spans, step)])()
    return found


def predict(image, out, model, *, device="cpu", probabilities=None, workers=None, progress=lambda *_: None, **settings):
    given = {"device": device, "probabilities": probabilities, "workers": workers, "progress": progress}
    return tile_predict.run(image, out, PredictConfig(**settings), model=model, **given)


@pytest.mark.parametrize(
    ("dtype", "sent"),
    [("uint8", "uint8"), ("uint16", "uint16"), ("int16", "int16"), ("float16", "float16"), ("bool", "bool")]
    + [(t, "float32") for t in ("int32", "uint32", "float32", "float64", ">u2", "uint64")],
)
def test_pixels_go_to_the_device_as_they_are_stored(models, dtype, sent):
    engine, core = make_engine(models["same"]), (8, 8)
    block = block_for(engine, core)
    changed = block.astype(dtype)
    assert str(transferable(changed).dtype) == f"torch.{sent}"
    np.testing.assert_array_equal(run(engine, changed, core), run(engine, changed.astype(np.float32), core))


@pytest.mark.parametrize("kind", ["same", "valid", "three", "rgb"])
def test_stacks_are_their_planes_one_by_one(models, kind, monkeypatch):
    monkeypatch.setitem(module.BATCH_PIXELS, "cpu", 30_000)
    engine, core = make_engine(models[kind]), (20, 33)
    assert engine.batch > 3
    block = block_for(engine, core, times=2, planes=5, dtype=np.uint16)
    found = run(engine, block, core)
    assert found.shape == (2, len(engine.header.classes), 5, *core)
    assert found.dtype == np.float32
    for t, z in np.ndindex(2, 5):
        alone = run(engine, block[t : t + 1, :, z : z + 1], core, (32, 48))
        np.testing.assert_allclose(found[t, :, z], alone[0, :, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["same", "volumes"])
@pytest.mark.parametrize("batch", [1, 3])
def test_memory_that_is_used_up_makes_tiles_smaller(models, kind, batch, caplog):
    engine = make_engine(models[kind])
    core = (32,) * engine.header.ndim
    block = block_for(engine, core)
    engine.batch = batch
    expected = run(engine, block, core)
    most = int(np.prod([axis.read_size(8) for axis in engine.header.geometry.axes]))

    def refuse(_, inputs):
        if inputs[0].shape[0] * inputs[0][0, 0].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine.network.register_forward_pre_hook(refuse)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(run(engine, block, core), expected, atol=1e-5)
    assert engine.step == (8,) * len(core)
    assert "from now on" in caplog.text


@pytest.mark.parametrize(("kind", "most", "remedy"), [("instance", 500, "--tile-size"), ("same", 0, "--device cpu")])
def test_no_tile_that_gives_the_same_is_an_error(models, kind, most, remedy):
    engine = make_engine(models[kind])
    engine.batch = 1

    def refuse(_, inputs):
        if inputs[0].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine.network.register_forward_pre_hook(refuse)
    with pytest.raises(DeviceError, match="out of memory on cpu with tiles of") as error:
        run(engine, block_for(engine, (32, 32)), (32, 32))
    assert remedy in error.value.fix


def test_other_errors_of_the_network_stay_what_they_are(models):
    engine = make_engine(models["same"])
    with pytest.raises(RuntimeError, match="channels"):
        run(engine, np.zeros((1, 2, 1, 40, 40), np.uint8), (8, 8))


def test_bfloat16_is_near_and_returns_float32(models):
    exact, rough = (make_engine(models["batch"], precision=p) for p in ("float32", "bfloat16"))
    block = block_for(exact, (32, 32))
    a, b = (run(engine, block, (32, 32)) for engine in (exact, rough))
    assert b.dtype == np.float32
    assert 1e-6 < np.abs(a - b).max() < 0.02


@pytest.mark.parametrize("device", ["cpu,cpu", "cpu,cpu,cpu"])
def test_several_devices_give_the_same_bytes(tmp_path, models, small_tiles, picture, device):
    for name, on in (("one", "cpu"), ("several", device)):
        predict(picture, tmp_path / name, models["same"], device=on, probabilities=tmp_path / f"{name}_p")
    assert_same_files(tmp_path / "one", tmp_path / "several")
    assert_same_files(tmp_path / "one_p", tmp_path / "several_p")


def test_an_error_on_one_of_several_devices_is_said(tmp_path, models, small_tiles, picture, monkeypatch):
    def fail(*_):
        raise DeviceError("this one is broken")

    monkeypatch.setattr(Engine, "probabilities", fail)
    with pytest.raises(DeviceError, match="broken"):
        predict(picture, tmp_path / "m", models["same"], device="cpu,cpu")


@pytest.mark.parametrize("stopped", [True, False], ids=["begun", "complete"])
def test_a_restart_keeps_the_tile_that_was_begun(tmp_path, models, small_tiles, picture, stopped, monkeypatch):
    def choose(size):
        return lambda engine, *_: engine.use((size, size))

    monkeypatch.setattr("unetcli.prediction.predictor.choose_step", choose(8))
    predict(picture, tmp_path / "whole", models["same"])
    if stopped:
        with pytest.raises(Stopped):
            predict(picture, tmp_path / "m", models["same"], progress=stop_after(3))
    else:
        predict(picture, tmp_path / "m", models["same"])
    monkeypatch.setattr("unetcli.prediction.predictor.choose_step", choose(32))
    assert predict(picture, tmp_path / "m", models["same"])["already_done"] != stopped
    assert_same_files(tmp_path / "m", tmp_path / "whole")
    with pytest.raises(ConfigError, match="precision was"):
        predict(picture, tmp_path / "m", models["same"], precision="bfloat16")
    with pytest.raises(UnetcliError, match="model was"):  # that this has another geometry is no reason to fail before
        predict(picture, tmp_path / "m", models["valid"])


def test_labels_and_files_keep_their_tile_too(tmp_path, models, picture, copy_of, monkeypatch):
    image = copy_of(picture)
    for size in (8, 32):
        monkeypatch.setattr(
            "unetcli.prediction.predictor.choose_step", lambda engine, *_, size=size: engine.use((size, size))
        )
        tile_predict.run(image, None, PredictConfig(), model=models["same"], as_label="cells", device="cpu")
        predict(image, tmp_path / "m.ome.tif", models["same"])


def test_what_is_written_says_what_was_chosen(tmp_path, models, picture):
    dry = tile_predict.run(picture, tmp_path / "m", PredictConfig(), model=models["same"], device="cpu", dry_run=True)
    assert (dry["precision"], dry["engine"]) == ("float32", "torch")
    predictor = Predictor.load(models["same"], PredictConfig(), "cpu", {"precision": "bfloat16", "step": [24, 24]})
    assert predictor.choices == {"step": [24, 24], "precision": "bfloat16", "engine": "torch", "device": "cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:all"])
def test_cuda_gives_what_the_cpu_gives(tmp_path, models, small_tiles, picture, device):
    for name, on in (("cpu", "cpu"), ("cuda", device)):
        settings = {"precision": "float32", "tile_size": 40}
        predict(picture, tmp_path / name, models["batch"], device=on, probabilities=tmp_path / f"{name}_p", **settings)
    np.testing.assert_allclose(pixels(tmp_path / "cuda_p"), pixels(tmp_path / "cpu_p"), atol=1e-5)
    predict(picture, tmp_path / "again", models["batch"], device=device, **settings)
    assert_same_files(tmp_path / "again", tmp_path / "cuda")
