"""What all tests of prediction share."""

import numpy as np
import pytest
import torch

from tests.conftest import cells
from tests.stages.test_tile_predict import make_model
from unetcli.config import PrepConfig
from unetcli.stages import prep


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return the paths of models with random parameters, by what is special about them."""
    folder = tmp_path_factory.mktemp("models")
    fields = {
        "same": {}, "valid": {"padding": "valid"}, "batch": {"norm": "batch"}, "three": {"classes": 3},
        "instance": {"norm": "instance"}, "rgb": {"channels": 3}, "volumes": {"ndim": 3, "features": [3, 4]},
    }  # fmt: skip
    return {name: make_model(folder / f"{name}.safetensors", **given) for name, given in fields.items()}


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """Return a store of one image, 150 x 131."""
    folder = tmp_path_factory.mktemp("picture")
    np.save(folder / "image.npy", cells((150, 131), 1)[0])
    prep.run([folder / "image.npy"], folder / "image.zarr", PrepConfig())
    return folder / "image.zarr"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors are faster without threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """Remember nothing from test to test."""
    monkeypatch.setattr("unetcli.prediction.tile_choice.node_cache", lambda: tmp_path / "node")
