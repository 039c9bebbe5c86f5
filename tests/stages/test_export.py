"""Models for other programs: what runs them gives what torch gives, for any legal size."""

import gc
import json
import socket
import sys
import warnings
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import bioimageio.core
import bioimageio.spec
import numpy as np
import onnx
import pytest
import torch

from tests.conftest import cells, pixels
from tests.stages.test_tile_predict import make_model, predict, prepared
from unetcli.architectures import ARCHITECTURES
from unetcli.config import ExportConfig, PredictConfig
from unetcli.errors import ConfigError, DeviceError, InputError
from unetcli.image.axes import MICROMETERS
from unetcli.models.checkpoint import load_model, read_header
from unetcli.models.geometry import AxisGeometry, geometry_of
from unetcli.models.onnx import OnnxNetwork
from unetcli.models.portable import Portable
from unetcli.prediction.predictor import Predictor
from unetcli.stages import export, info

KINDS = {
    "same": {},
    "valid": {"padding": "valid"},
    "batch": {"norm": "batch", "classes": 4},
    "instance": {"norm": "instance"},
    "group": {"norm": "group", "padding": "valid"},
    "colours": {"channels": 3, "channel_names": ("red", "green", "blue")},
    "volumes": {"ndim": 3, "features": (2, 3), "pixel_size": {"z": 2.0, "y": 0.65, "x": 0.65, "unit": "micrometer"}},
    "valid volumes": {"ndim": 3, "features": (2, 3), "padding": "valid", "channels": 2, "classes": 3},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: make_model(folder / f"{kind}.safetensors", **fields) for kind, fields in KINDS.items()}


@pytest.fixture
def left_open():
    """Close the files that the Zoo's library leaves open, without a word."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def offline(monkeypatch):
    """Let nothing reach a network."""

    def refused(*_, **__):
        pytest.fail("something was asked for from a network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def gray_values(header, steps, n=1):
    """Return images of a legal size, larger than what an export tried."""
    sizes = [axis.smallest + k * axis.stride for axis, k in zip(header.geometry.axes, steps, strict=False)]
    rng = np.random.default_rng(0)
    return rng.normal(100, 50, (n, header.channels, *sizes)).astype(np.float32)


def probabilities(model, images):
    network, header = load_model(model)
    with torch.inference_mode():
        return Portable(network, header.mean, header.std).eval()(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_gives_what_torch_gives(tmp_path, models, kind):
    result = export.run(models[kind], tmp_path / "model.onnx", ExportConfig())
    assert result["greatest_difference_to_torch"] < 1e-5
    header = read_header(tmp_path / "model.onnx")
    assert header == read_header(models[kind])
    network = OnnxNetwork((tmp_path / "model.onnx").read_bytes(), "model.onnx")
    for n, steps in ((1, (1, 6, 2)), (3, (7, 1, 3))):
        images = gray_values(header, steps, n)
        found = network.session.run(None, {"image": images})[0]
        np.testing.assert_allclose(found, probabilities(models[kind], images), atol=1e-5)
        np.testing.assert_allclose(network(torch.from_numpy(images)).softmax(dim=1).numpy(), found, atol=1e-6)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_architecture(tmp_path, arch, padding):
    made = ARCHITECTURES[arch]
    values = {"skip": made.skips[0] if made.skips else None, "ndim": made.ndim, "features": [2, 3, 4]}
    parameters = {"pyramid": 1, "downsample": 2} if padding == "same" else {}
    parameters |= {"flat_levels": 1} if made.ndim == 3 else {}
    parameters |= {"deep_supervision": True} if made.deep_supervision else {}
    model = make_model(tmp_path / "m.safetensors", arch=arch, padding=padding, parameters=parameters, **values)
    assert export.run(model, tmp_path / "m.onnx", ExportConfig())["greatest_difference_to_torch"] < 1e-5


def test_a_single_logit_becomes_two_classes(tmp_path):
    logits = torch.tensor([[[[-200.0, 0.0, 3.0, 200.0]]]])
    found = Portable(torch.nn.Identity(), [0.0], [1.0])(logits)
    expected = 1 / (1 + np.exp([200.0, 0.0, -3.0, -200.0]))
    np.testing.assert_allclose(found[0, :, 0].numpy(), [1 - expected, expected], atol=1e-7)


def test_the_file_speaks_for_itself(tmp_path, models):
    export.run(models["valid"], tmp_path / "model.onnx", ExportConfig())
    model = onnx.load(tmp_path / "model.onnx")
    (image,), (result,) = model.graph.input, model.graph.output
    names = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, result)]
    assert (image.name, result.name) == ("image", "probabilities")
    assert names == [["n", 1, "y", "x"], ["n", 2, "y - 40", "x - 40"]]
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["classes"] == ["class_0", "class_1"]
    assert info.run(tmp_path / "model.onnx") == info.run(models["valid"])


def test_the_same_model_gives_the_same_bytes(tmp_path, models):
    for name in ("a.onnx", "b.onnx"):
        export.run(models["same"], tmp_path / name, ExportConfig())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_difference_to_torch_leaves_nothing(tmp_path, models, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="as ONNX it differs from torch by"):
        export.run(models["same"], tmp_path / "model.onnx", ExportConfig())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "config", "said"),
    [
        ("model.pt", {}, r"expected model\.onnx, or model\.zip"),
        ("there.onnx", {}, "exists already"),
        ("model.zip", {"name": "a/b"}, "--name: "),
        ("model.zip", {"license": "mine"}, "--license: "),
        ("model.zip", {"cite": "nonsense"}, "--cite: "),
        ("model.zip", {"author": "A/B"}, "--author: "),
    ],
)
def test_what_can_not_be_leaves_nothing(tmp_path, models, out, config, said):
    (tmp_path / "there.onnx").write_bytes(b"kept")
    with pytest.raises(ConfigError, match=said):
        export.run(models["same"], tmp_path / out, ExportConfig(**config))
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [b"kept"]


def test_onnx_is_not_exported_again(tmp_path, models):
    export.run(models["same"], tmp_path / "model.onnx", ExportConfig())
    with pytest.raises(ConfigError, match="is ONNX already"):
        export.run(tmp_path / "model.onnx", tmp_path / "model.zip", ExportConfig())


def test_a_package_is_no_model(tmp_path, models):
    export.run(models["same"], tmp_path / "model.zip", ExportConfig())
    with pytest.raises(InputError, match="is a package for other programs") as caught:
        load_model(tmp_path / "model.zip")
    assert "the model.onnx in it" in caught.value.fix


@pytest.mark.parametrize(
    ("library", "out"), [("onnx", "m.onnx"), ("onnxruntime", "m.onnx"), ("bioimageio.spec", "m.zip")]
)
def test_a_missing_extra_is_named(tmp_path, models, monkeypatch, library, out):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError) as caught:
        export.run(models["same"], tmp_path / out, ExportConfig())
    assert caught.value.fix == "pip install 'unetcli[export]'"
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, models, cli):
    out = tmp_path / "model.zip"
    assert cli("export", models["same"], "-o", out, "--dry-run", "--json") == 0
    assert cli.json["inputs"] == "y: 4*k + 0, from 4 on; x: 4*k + 0, from 4 on"
    assert not out.exists()
    assert cli("export", models["same"], "-o", out, "--name", "Cells of mine") == 0
    assert cli("export", models["same"], "-o", out) == 4
    assert "--overwrite" in cli.err
    assert cli("export", models["same"], "-o", out, "--overwrite") == 0
    assert cli("export", tmp_path / "nothing", "-o", out) == 3


# ------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize("kind", ["valid", "batch", "volumes"])
def test_tile_predict_takes_onnx(tmp_path, models, small_tiles, kind):
    data = prepared(tmp_path, cells((5, 41, 37), 0)[0], axes="zyx")
    export.run(models[kind], tmp_path / "model.onnx", ExportConfig())
    for name, model in (("torch", models[kind]), ("onnx", tmp_path / "model.onnx")):
        predict(data, tmp_path / name, model, probabilities=tmp_path / f"{name}_p")
    np.testing.assert_allclose(pixels(tmp_path / "onnx_p"), pixels(tmp_path / "torch_p"), atol=1e-5)


def test_another_onnx_file_is_another_model(tmp_path, models):
    data = prepared(tmp_path, cells((20, 30), 0)[0])
    export.run(models["same"], tmp_path / "model.onnx", ExportConfig())
    predict(data, tmp_path / "m", tmp_path / "model.onnx")
    export.run(models["group"], tmp_path / "model.onnx", ExportConfig(), overwrite=True)
    with pytest.raises(ConfigError, match="inputs model was"):
        predict(data, tmp_path / "m", tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is not a model"), (b"text" * 99, "is not a model"), (None, "not written by unetcli")]
)
def test_what_is_no_model_of_ours(tmp_path, models, content, said):
    file = tmp_path / "model.onnx"
    export.run(models["same"], file, ExportConfig())
    model = onnx.load(file)
    del model.metadata_props[:]
    file.write_bytes(model.SerializeToString() if content is None else content)
    with pytest.raises(InputError, match=said) as caught:
        load_model(file)
    assert str(file) in str(caught.value)


def test_a_device_that_the_runtime_can_not_use(tmp_path, models, monkeypatch):
    export.run(models["same"], tmp_path / "model.onnx", ExportConfig())
    network, _ = load_model(tmp_path / "model.onnx")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="--device cuda:1") as caught:
        network.to(device=torch.device("cuda:1"))
    assert "onnxruntime-gpu" in caught.value.fix
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = PredictConfig()
    assert Predictor.load(tmp_path / "model.onnx", config, "auto").device.type == "cpu"


def test_a_tile_that_does_not_fit_into_memory(tmp_path, models, monkeypatch):
    data = prepared(tmp_path, cells((20, 30), 0)[0])
    export.run(models["same"], tmp_path / "model.onnx", ExportConfig())

    class Full:
        def get_inputs(self):
            return [SimpleNamespace(name="image")]

        def run(self, *_):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr(OnnxNetwork, "to", lambda self, **_: setattr(self, "session", Full()) or self)
    with pytest.raises(DeviceError, match="out of memory"):
        predict(data, tmp_path / "m", tmp_path / "model.onnx")


# ------------------------------------------------------------------------------------------- the package


def zoo(model, images, **options):
    """Return what the Zoo's own program predicts."""
    sample = bioimageio.core.predict(model=model, inputs=images, **options)
    return sample.members["probabilities"].data.to_numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("left_open")
@pytest.mark.parametrize(
    "kind",
    ["valid", *(pytest.param(k, marks=pytest.mark.slow) for k in ("same", "colours", "volumes", "valid volumes"))],
)
def test_the_zoo_runs_the_package(tmp_path, models, offline, kind):
    out = tmp_path / "model.zip"
    export.run(models[kind], out, ExportConfig(author="A. Person; B. Person", license="MIT", cite="10.1000/182"))
    summary = bioimageio.core.test_model(out)
    assert summary.status == "passed", summary.display()
    described = bioimageio.spec.load_description(out)
    assert [author.name for author in described.authors] == ["A. Person", "B. Person"]
    assert described.covers
    header = read_header(models[kind])
    images = gray_values(header, (15, 17, 16))
    axes, halo = header.geometry.axes, [getattr(axis, "halo", 0) for axis in described.outputs[0].axes[2:]]
    mirrored = np.pad(images, [(0, 0), (0, 0), *((h, h) for h in halo)], mode="reflect")
    inside = (slice(None), slice(None), *(slice(h, -h or None) for h in halo))
    expected = probabilities(models[kind], mirrored)[inside]
    assert [n - 2 * a.margin for n, a in zip(images.shape[2:], axes, strict=True)] == list(expected.shape[2:])
    np.testing.assert_allclose(zoo(described, images), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("left_open")
@pytest.mark.parametrize("kind", ["same", "volumes"])
def test_blocks_of_the_zoo_are_our_tiles(tmp_path, models, offline, kind):
    """The Zoo's program mirrors at the edge as we do, so its blocks are equal to our tiles everywhere."""
    export.run(models[kind], tmp_path / "model.zip", ExportConfig())
    header = read_header(models[kind])
    image = cells([axis.stride * (20 + k) for k, axis in enumerate(header.geometry.axes)], 0)[0]
    data = prepared(tmp_path, image, axes="zyx"[-image.ndim :])
    predict(data, tmp_path / "m", models[kind], probabilities=tmp_path / "p")
    ours = pixels(tmp_path / "p")[0]
    found = zoo(tmp_path / "model.zip", image[None, None].astype(np.float32), blocksize_parameter=1)[0]
    np.testing.assert_allclose(found.reshape(ours.shape), ours, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("left_open")
def test_the_package_says_the_geometry(tmp_path, models):
    export.run(models["volumes"], tmp_path / "model.zip", ExportConfig(name="Cells of mine", description="For cells."))
    described = bioimageio.spec.load_description(tmp_path / "model.zip", perform_io_checks=False)
    assert (described.name, described.description, described.license) == ("Cells of mine", "For cells.", None)
    axis = read_header(models["volumes"]).geometry.axes[0]
    for given, result in zip(described.inputs[0].axes[2:], described.outputs[0].axes[2:], strict=True):
        assert (given.size.min, given.size.step) == (2 * axis.halo + axis.stride, axis.stride)
        assert (given.scale, given.unit) == ((2.0, "micrometer") if given.id == "z" else (650.0, "nanometer"))
        assert (result.size.offset, result.halo, result.scale, result.unit) == (0, axis.halo, given.scale, given.unit)
    with zipfile.ZipFile(tmp_path / "model.zip") as package:
        assert "do not normalize them before" in package.read("README.md").decode()


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [
        (0.65, "micrometer", (650.0, "nanometer")),
        (0.5, "micrometer", (0.5, "micrometer")),
        (1 / 3, "micrometer", (333333.0, "picometer")),
        (6.45, "nanometer", None),
        (1.0, None, (None, None)),
        (0.3, "parsec", (None, None)),
    ],
)
def test_pixel_sizes_that_can_be_counted_in(models, size, unit, expected):
    header = replace(read_header(models["same"]), pixel_size={"x": size, "unit": unit})
    found, as_unit = export._exact_size("x", header)
    if expected:
        assert (found, as_unit) == expected
    if found:
        assert found * MICROMETERS.get(as_unit, 1e-6) == pytest.approx(size * MICROMETERS[unit], rel=1e-3)
        assert all(int(n * found / found) == n for n in range(5000))


PAPER = {
    "ndim": 2, "features": [2] * 5, "channels": 1, "classes": 2, "norm": "none", "skip": "concat", "dropout": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(("padding", "expected"), [("valid", 10), ("same", 96)])
def test_the_halo_at_both_sides(padding, expected):
    axis = geometry_of("unet", {**PAPER, "padding": padding}).axes[0]
    halo = export.symmetric_halo(axis)
    assert halo == expected
    for size in (axis.smallest + k * axis.stride for k in range(20, 24)):
        assert (size - 2 * axis.margin - 2 * halo) % axis.stride == 0


def test_a_halo_where_no_size_fits_the_stride():
    assert export.symmetric_halo(AxisGeometry(stride=2, margin=1, halo=1, reach=2, smallest=5)) == 1
