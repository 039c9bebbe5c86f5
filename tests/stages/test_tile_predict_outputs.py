"""What tile-predict writes, and of which views: the same for any tiling."""

import numpy as np
import pytest

from tests.conftest import cells, pixels
from tests.stages.test_tile_predict import make_model, prepared, whole_image
from unetcli.config import PredictConfig
from unetcli.image.source import mirror_index
from unetcli.models.checkpoint import load_model
from unetcli.stages import tile_predict


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "same": make_model(folder / "same.safetensors"),
        "valid": make_model(folder / "valid.safetensors", padding="valid"),
        "three classes": make_model(folder / "three.safetensors", classes=3),
        "volumes": make_model(folder / "volumes.safetensors", ndim=3, features=(2, 3)),
    }


def predict(data, folder, model, *, shard=4096, tile=None, outputs=("probabilities",), options=None, **config):
    """Write a mask and other outputs with shards and tiles of some size; return the pixels by output."""
    folder.mkdir()
    if tile is not None:
        axes = load_model(model)[1].geometry.axes
        config["tile_size"] = ",".join(str(axis.read_size(tile * axis.stride)) for axis in axes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetcli.image.new_store.SHARD", shard)
        patch.setattr("unetcli.image.new_store.CHUNK", min(shard, 16))
        patch.setattr("unetcli.image.new_store.DEEP_CHUNK", min(shard, 8))
        patch.setattr("unetcli.image.new_store.DEPTH", min(shard, 4))
        places = {name: folder / name for name in outputs}
        tile_predict.run(
            data, folder / "mask", PredictConfig(**config), model=model, device="cpu", **places, **(options or {})
        )
    return {name: pixels(folder / name) for name in ("mask", *outputs)}


# ------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("tta", ["flips", "d4", "rotations"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("same", (70, 51)), ("valid", (33, 90)), ("same", (3, 5)), ("volumes", (5, 12, 18))], ids=str
)
def test_views_have_no_seams(tmp_path, models, tta, kind, shape):
    data = prepared(tmp_path, cells(shape, 0)[0], **({"axes": "zyx"} if len(shape) == 3 else {}))
    whole = predict(data, tmp_path / "whole", models[kind], tta=tta)
    tiled = predict(data, tmp_path / "tiled", models[kind], tta=tta, shard=32, tile=2)
    np.testing.assert_allclose(tiled["probabilities"], whole["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(tiled["mask"][:, 0], tiled["probabilities"].argmax(1))


def test_rotations_see_the_image_mirrored_at_its_edges(tmp_path, models):
    """An image that ends farther away, as its mirror image goes on, is the same to what lies near the first pixel."""
    image = cells((40, 30), 0)[0]
    rows, columns = (mirror_index(0, n + 400, n) for n in image.shape)
    (tmp_path / "large").mkdir()
    large = prepared(tmp_path / "large", image[np.ix_(rows, columns)])
    expected = predict(large, tmp_path / "e", models["same"], tta="rotations")["probabilities"]
    found = predict(prepared(tmp_path, image), tmp_path / "m", models["same"], tta="rotations")["probabilities"]
    np.testing.assert_allclose(found, expected[..., :40, :30], atol=1e-5)


def test_rotations_differ_from_the_image_alone_but_not_much(tmp_path, models):
    image = cells((80, 70), 0)[0]
    data = prepared(tmp_path, image)
    found = predict(data, tmp_path / "m", models["same"], tta="rotations")["probabilities"][0, :, 0]
    plain = whole_image(models["same"], image[None])
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert 1e-3 < np.abs(found - plain).mean() < 0.2
