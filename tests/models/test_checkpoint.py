"""A model file is all that is needed to use a model, and what is none is told from one without running it."""

import json
import pickle
import struct
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from unetcli.errors import InputError, UnetcliError
from unetcli.models import build_model
from unetcli.models.checkpoint import (
    ModelHeader,
    load_checkpoint,
    load_model,
    read_header,
    save_checkpoint,
    save_model,
)
from unetcli.models.geometry import AxisGeometry, Geometry, geometry_of

PARAMETERS = {
    "ndim": 2,
    "channels": 2,
    "classes": 3,
    "features": [2, 3, 4],
    "padding": "valid",
    "norm": "batch",
    "skip": "concat",
    "dropout": 0.5,
}


@pytest.fixture(scope="module")
def header():
    return ModelHeader(
        arch="unet",
        parameters=PARAMETERS,
        geometry=geometry_of("unet", PARAMETERS),
        classes=("background", "cell", "border"),
        channels=2,
        mean=(101.25, 3e-7),
        std=(12.5, 1.0),
        pixel_size={"z": 1.0, "y": 0.65, "x": 0.65, "unit": "micrometer"},
        provenance={"stage": "train", "seed": 0, "inputs": {"data": ["ab12"]}},
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = build_model("unet", PARAMETERS)
    network(torch.randn(4, 2, 52, 52))  # moves the running statistics of the normalization
    return network.eval()


@pytest.fixture
def saved(tmp_path, network, header):
    save_model(tmp_path / "model.safetensors", network.state_dict(), header)
    return tmp_path / "model.safetensors"


def test_what_is_saved_is_loaded(saved, network, header):
    loaded, found = load_model(saved)
    assert found == header
    assert not loaded.training
    image = torch.randn(1, 2, 60, 60)
    assert torch.equal(loaded(image), network(image))
    assert read_header(saved) == header
    assert [p.name for p in saved.parent.iterdir()] == ["model.safetensors"]


def test_a_folder_of_a_run_is_its_model(saved, header):
    assert load_model(saved.parent)[1] == header


def test_the_header_is_plain_json(saved):
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    described = json.loads(metadata["unetcli"])
    assert described["arch"] == "unet"
    assert described["classes"] == ["background", "cell", "border"]
    assert [axis["stride"] for axis in described["geometry"]["axes"]] == [4, 4]


def test_the_same_model_is_the_same_bytes(tmp_path, saved, network, header):
    save_model(tmp_path / "again", network.state_dict(), header)
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_tensors_that_are_not_contiguous_or_need_gradients_are_saved(tmp_path, network, header):
    turned = {n: p.transpose(0, -1).contiguous().transpose(0, -1) for n, p in network.state_dict().items() if p.ndim}
    save_model(tmp_path / "a", {**network.state_dict(), **turned}, header)
    loaded, _ = load_model(tmp_path / "a")
    assert all(torch.equal(p, network.state_dict()[n]) for n, p in loaded.state_dict().items())


@pytest.mark.parametrize("end", [0, 1, 7, 8, 100, -1])
def test_a_file_that_was_cut_off_is_refused(saved, end):
    saved.write_bytes(saved.read_bytes()[:end])
    with pytest.raises(InputError, match="is not a model") as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"PK\x03\x04" + bytes(99),
    ],
    ids=["lfs", "png", "zip"],
)
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(InputError, match="is not a model"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "was not written by unetcli"),
        ({"format": "pt"}, "was not written by unetcli"),
        ({"unetcli": '{"format": 2}'}, "newer format"),
        ({"unetcli": ""}, "model"),
        ({"unetcli": "not JSON"}, "model"),
        ({"unetcli": "[]"}, "model"),
        ({"unetcli": "{}"}, "model"),
        ({"unetcli": '{"format": 1}'}, "model"),
    ],
)
def test_a_header_of_others_is_refused(tmp_path, metadata, said):
    path = tmp_path / "model"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata)
    with pytest.raises(InputError, match=said) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def without(header, name):
    """Describe a model, but for one thing."""
    fields = {"format": 1, **asdict(header)}
    return {k: v for k, v in fields.items() if k != name}


@pytest.mark.parametrize("name", ["arch", "parameters", "geometry", "classes", "mean", "provenance"])
def test_a_header_that_lacks_something_is_refused(tmp_path, header, name):
    path = tmp_path / "model"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {"unetcli": json.dumps(without(header, name))})
    with pytest.raises(InputError, match="model"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "perceptron"}, "has the architecture perceptron; expected one of unet, "),
        ({"parameters": {**PARAMETERS, "norm": "layer"}}, "can not be understood"),
        ({"parameters": {**PARAMETERS, "features": [2, -3]}}, "can not be understood"),
        ({"parameters": {**PARAMETERS, "features": 7}}, "can not be understood"),
        ({"parameters": {**PARAMETERS, "colour": "red"}}, "can not be understood"),
        ({"parameters": {}}, "can not be understood"),
        ({"classes": ("background", "cell")}, "has 2 classes; the network, 3"),
        ({"classes": ("background", "cell", 2)}, "expected names"),
        ({"mean": (1.0,)}, "a mean and a std for each of 2 channels"),
        ({"std": (1.0, float("nan"))}, "expected names .* and numbers"),
        ({"pixel_size": []}, "expected names .* and numbers"),
        ({"geometry": Geometry((AxisGeometry(0, 20, 20, 20, 44),) * 2)}, "strides from 1 on"),
        ({"geometry": Geometry((AxisGeometry(4, 20, 20, 20, 44),) * 3)}, "each of 2 axes"),
    ],
    ids=str,
)
def test_a_network_that_there_is_not_is_refused(tmp_path, network, header, changes, said):
    save_model(tmp_path / "model", network.state_dict(), replace(header, **changes))
    for read in (read_header, load_model):
        with pytest.raises(InputError, match=said):
            read(tmp_path / "model")


def test_a_geometry_of_an_earlier_version_is_that_of_all_axes(tmp_path, network, header):
    fields = {"format": 1, **asdict(header), "geometry": asdict(header.geometry.axes[0])}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path, {"unetcli": json.dumps(fields)})
    assert load_model(path)[1] == header


def test_parameters_of_another_network_are_refused(tmp_path, network, header):
    save_model(tmp_path / "model", network.state_dict(), replace(header, parameters={**PARAMETERS, "norm": "none"}))
    with pytest.raises(InputError, match="parameters do not fit its header"):
        load_model(tmp_path / "model")


def test_no_memory_is_taken_for_what_only_a_header_claims(tmp_path, network, header):
    save_model(
        tmp_path / "model", network.state_dict(), replace(header, parameters={**PARAMETERS, "features": [10**7] * 3})
    )
    with pytest.raises(InputError, match="parameters do not fit its header"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("begun", "fix"), [(True, "run the same train command again"), (False, "unetcli train makes one")]
)
def test_a_run_without_a_model_is_refused(tmp_path, begun, fix):
    if begun:
        (tmp_path / "last.ckpt").touch()
    with pytest.raises(InputError, match=r"has no model\.safetensors") as caught:
        load_model(tmp_path)
    assert fix in caught.value.fix


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        load_model(tmp_path / "nothing")


def test_a_file_is_there_whole_or_not_at_all(monkeypatch, saved, network, header):
    before = saved.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, network.state_dict(), replace(header, mean=(0.0, 0.0)))
    assert saved.read_bytes() == before


# ------------------------------------------------------------------------------------------- checkpoints


def test_what_training_needs_is_kept(tmp_path):
    torch.manual_seed(3)
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "step": 7,
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "history": [{"step": 1, "loss": 0.5}],
    }
    save_checkpoint(tmp_path / "last.ckpt", state)
    found = load_checkpoint(tmp_path / "last.ckpt")
    assert found["step"] == 7
    assert found["history"] == state["history"]
    assert torch.equal(found["random"], state["random"])
    torch.testing.assert_close(found["model"], state["model"])
    torch.testing.assert_close(found["optimizer"], state["optimizer"])


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("evil-was-run"),)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_no_code_in_a_checkpoint_is_run(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    if write == "torch":
        torch.save({"step": Evil()}, "last.ckpt")
    else:
        Path("last.ckpt").write_bytes(pickle.dumps({"step": Evil()}))
    with pytest.raises(InputError, match="is damaged"):
        load_checkpoint(Path("last.ckpt"))
    assert not Path("evil-was-run").exists()


@pytest.mark.parametrize("end", [0, 1, 200, -10])
def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path, end):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UnetcliError, match="is damaged") as caught:
        load_checkpoint(path)
    assert "--overwrite" in caught.value.fix
