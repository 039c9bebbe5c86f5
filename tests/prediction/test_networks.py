"""What runs a network: each gives what torch gives, to 1e-5."""

import importlib

import numpy as np
import pytest

from tests.conftest import pixels
from tests.prediction.test_engine import block_for, make_engine, predict, run
from unetcli.config import ExportConfig
from unetcli.errors import ConfigError, DeviceError
from unetcli.models.checkpoint import load_model
from unetcli.prediction.engine import Engine
from unetcli.prediction.networks import network_for
from unetcli.stages import export

ONNX = [
    pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"no {name}"))
    for name in ("onnxruntime", "openvino")
]


def engine_of(name, model, step=16):
    network, header = load_model(model)
    torch_engine = make_engine(model, step)
    return Engine(*network_for(name, network, header), torch_engine.device, torch_engine.step), torch_engine


@pytest.mark.parametrize("name", ONNX)
@pytest.mark.parametrize("kind", ["same", "valid", "batch", "three", "rgb", "volumes"])
def test_each_gives_what_torch_gives(models, name, kind, monkeypatch):
    monkeypatch.setitem(importlib.import_module("unetcli.prediction.engine").BATCH_PIXELS, "cpu", 10_000)
    other, ours = engine_of(name, models[kind])
    core = (20, 35, 18)[-ours.header.ndim :]
    block = block_for(ours, core, planes=1 if ours.header.ndim == 3 else 3)
    found = run(other, block, core)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, run(ours, block, core), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler's own
def test_compiled_gives_what_torch_gives(models):
    other, ours = engine_of("compiled", models["valid"])
    for core in ((32, 32), (20, 35)):
        block = block_for(ours, core)
        np.testing.assert_allclose(run(other, block, core), run(ours, block, core), atol=1e-5)


@pytest.mark.parametrize("name", ONNX)
def test_a_whole_run(tmp_path, models, small_tiles, picture, name):
    for engine in ("torch", name):
        predict(picture, tmp_path / engine, models["valid"], engine=engine, probabilities=tmp_path / f"{engine}_p")
    np.testing.assert_allclose(pixels(tmp_path / f"{name}_p"), pixels(tmp_path / "torch_p"), atol=1e-5)
    with pytest.raises(ConfigError, match="engine was"):
        predict(picture, tmp_path / "torch", models["valid"], engine=name, probabilities=tmp_path / "torch_p")


@pytest.mark.parametrize("name", ["auto", *ONNX])
def test_a_model_that_is_onnx(tmp_path, models, picture, name):
    pytest.importorskip("onnxruntime")
    export.run(models["same"], tmp_path / "model.onnx", ExportConfig())
    predict(picture, tmp_path / "m", models["same"], probabilities=tmp_path / "p")
    predict(picture, tmp_path / "n", tmp_path / "model.onnx", engine=name, probabilities=tmp_path / "q")
    np.testing.assert_allclose(pixels(tmp_path / "p"), pixels(tmp_path / "q"), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "torch"}, "--engine torch: the model is ONNX"),
        ({"engine": "compiled"}, "--engine compiled: the model is ONNX"),
        ({"precision": "bfloat16"}, "onnxruntime computes in float32"),
    ],
    ids=str,
)
def test_what_a_model_that_is_onnx_can_not_do(tmp_path, models, picture, settings, message):
    pytest.importorskip("onnxruntime")
    export.run(models["same"], tmp_path / "model.onnx", ExportConfig())
    with pytest.raises(ConfigError, match=message):
        predict(picture, tmp_path / "m", tmp_path / "model.onnx", **settings)


def test_without_a_compiler_nothing_is_compiled(tmp_path, models, picture, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler$") as error:
        predict(picture, tmp_path / "m", models["same"], engine="compiled")
    assert error.value.fix == "--engine torch"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_of_cpus_are_not_for_cuda(tmp_path, models, picture, monkeypatch, name):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match=f"--engine {name}: is for CPUs"):
        predict(picture, tmp_path / "m", models["same"], engine=name, device="cuda")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_that_is_not_installed_says_how_to_get_it(tmp_path, models, picture, monkeypatch, name):
    monkeypatch.setitem(importlib.sys.modules, name, None)
    with pytest.raises((ConfigError, DeviceError)) as error:
        predict(picture, tmp_path / "m", models["same"], engine=name)
    assert "pip install" in error.value.fix
    assert not (tmp_path / "m").exists()
