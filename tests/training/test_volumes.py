"""Training on volumes: what is learnt in three dimensions, and that tiles of validation add up to the whole."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from tests.conftest import Stopped, cells, stop_after
from unetcli.config import PrepConfig, TrainConfig, WeightsConfig
from unetcli.image.dataset import open_dataset
from unetcli.models.checkpoint import load_model
from unetcli.stages import prep, train, weights
from unetcli.training import validation
from unetcli.training.places import open_planes
from unetcli.training.validation import Validator

TINY = TrainConfig(
    ndim=3, features="4,8", patch_size="8,16,16", batch_size=2, steps=4, validate_every=2, elastic=2.0,
    precision="float32", keep="last",
)  # fmt: skip
REAL = Path(__file__).parents[3] / "shared" / "data" / "stardist_pairs"


def make_data(folder, split, image, labels):
    """Prepare a volume and its weights."""
    np.save(folder / "i.npy", image)
    np.save(folder / "l.npy", labels)
    prep.run([folder / "i.npy"], folder / "d", PrepConfig(axes="zyx", split=split, ndim=3), labels=[folder / "l.npy"])
    weights.run(folder / "d", folder / "w", WeightsConfig())
    return folder / "d", folder / "w"


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Return a volume, with its last planes for validation, and its weights."""
    return make_data(tmp_path_factory.mktemp("volume"), "16-23", *cells((24, 48, 52), 3))


def rows_of(run):
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_a_dry_run_says_that_volumes_are_smaller_than_a_patch(volume, tmp_path):
    data, maps = volume
    for patch, said in (("32,16,16", ["smaller than a patch of 32x16x16"]), ("8,16,16", [])):
        config = replace(TINY, patch_size=patch)
        notes = train.run(data, tmp_path / "run", config, weights=maps, device="cpu", dry_run=True).get("notes", [])
        assert [text for text, note in zip(said, notes, strict=True) if text in note] == said


def test_a_run_on_volumes_goes_on_where_it_was_stopped(volume, tmp_path):
    data, maps = volume
    for name in ("whole", "stopped"):
        if name == "stopped":
            with pytest.raises(Stopped):
                train.run(data, tmp_path / name, TINY, weights=maps, device="cpu", progress=stop_after(2))
        summary = train.run(data, tmp_path / name, TINY, weights=maps, device="cpu", workers=2)
        assert 0 <= summary["validation_iou"] <= 1
        assert "notes" not in summary
    for name in ("model.safetensors", "metrics.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    network, header = load_model(tmp_path / "whole")
    assert len(header.geometry.axes) == 3
    assert network(torch.zeros(1, 1, 8, 16, 16)).shape == (1, 2, 8, 16, 16)


def test_validation_of_volumes_is_the_same_in_any_tiles(volume, tmp_path, monkeypatch):
    data, maps = volume
    train.run(data, tmp_path / "run", TINY, weights=maps, device="cpu")
    network, header = load_model(tmp_path / "run")
    dataset = open_dataset(data)
    planes = open_planes(dataset, maps, 3, validation=True)
    found = []
    for tile in ((4, 16, 12), (64, 64, 64)):
        monkeypatch.setitem(validation.VALIDATION_TILE, 3, tile)
        validator = Validator(planes, dataset, header.geometry, torch.device("cpu"))
        found.append(validator.row(validator.measure(network)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["validation_iou"] == pytest.approx(rows_of(tmp_path / "run")[-1]["validation_iou"], rel=1e-3)


def test_a_thin_volume_is_mirrored_and_said(tmp_path):
    data, _ = make_data(tmp_path, None, *cells((5, 48, 52), 3))
    (note,) = train.run(data, tmp_path / "run", TINY, device="cpu")["notes"]
    assert "smaller than a patch of 8x16x16 pixels" in note


@pytest.mark.slow
@pytest.mark.parametrize(("made", "least"), [("drawn", 0.9), ("real", 0.5)])
def test_volumes_are_learnt(tmp_path, made, least):
    split, image, labels = "24-31", *cells((32, 48, 52), 3)
    if made == "real":
        if not REAL.exists():
            pytest.skip(f"{REAL} is missing")
        split, image, labels = "24-30", *(tifffile.imread(REAL / name) for name in ("img3d.tif", "mask3d.tif"))
    data, _ = make_data(tmp_path, split, image, labels)
    config = TrainConfig(
        ndim=3, features="8,16", patch_size="16,32,32", batch_size=2, steps=150, validate_every=50, learning_rate=0.01,
        elastic=2.0,
    )  # fmt: skip
    train.run(data, tmp_path / "run", config, device="cpu")
    assert rows_of(tmp_path / "run")[-1]["validation_iou"] > least
