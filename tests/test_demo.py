"""The synthetic microscope gives exact truth, the same for the same seed; the demonstration runs all six commands."""

import json
import re

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tests.conftest import files_of
from unetcli import demo
from unetcli.demo import touching_cells, write_pictures

EXPECTED = {
    "train.zarr", "weights.zarr", "augmented.zarr", "augmented.png", "run", "new.zarr", "mask.zarr", "p.zarr", "report",
    "weights.png", "train_images", "train_labels", "new_images", "new_labels",
}  # fmt: skip


@pytest.fixture(scope="module")
def scene():
    return touching_cells(200, seed=3)


def tiny(monkeypatch):
    """Make the demonstration so small that it runs in seconds."""
    chosen = demo.with_preset
    monkeypatch.setattr(demo, "SIZE", 64)
    monkeypatch.setattr(demo, "STEPS", 4)

    def smaller(name, **given):
        return chosen(name, **{**given, "features": "4,8", "patch_size": 32, "batch_size": 2, "validate_every": 2})

    monkeypatch.setattr(demo, "with_preset", smaller)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a finished, tiny demonstration, and the lines that it said."""
    out, said = tmp_path_factory.mktemp("demo") / "demo", []
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny(monkeypatch)
        demo.run(out, say=said.append)
    return out, "\n".join(said)


# ------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("size", [16, 65])
def test_types_and_shapes(size):
    for array in touching_cells(size, seed=0):
        assert array.dtype == np.uint16
        assert array.shape == (size, size)


def test_a_picture_is_a_function_of_its_seed_alone(scene):
    np.random.seed(1)  # noqa: NPY002 - must not matter
    for a, b in zip(touching_cells(200, seed=3), scene, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(touching_cells(200, seed=4), scene, strict=True):
        assert (a != b).any()


def test_label_ids_are_consecutive(scene):
    ids = np.unique(scene[1])
    np.testing.assert_array_equal(ids, np.arange(len(ids)))


def test_there_are_many_cells_gaps_and_cells_that_touch(scene):
    labels = scene[1].astype(int)
    assert len(np.unique(labels)) > 15
    assert 0.1 < (labels == 0).mean() < 0.6
    down = np.stack([labels[:-1].ravel(), labels[1:].ravel()])
    across = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()])
    a, b = np.concatenate([down, across], axis=1)
    touching = {tuple(sorted(p)) for p in zip(a, b, strict=True) if p[0] and p[1] and p[0] != p[1]}
    assert len(touching) > 5


def test_cells_are_whole(scene):
    labels = scene[1]
    for i in np.unique(labels[labels > 0]):
        sizes = np.bincount(ndimage.label(labels == i)[0].ravel())[1:]
        assert sizes.max() > 0.9 * sizes.sum()


def test_cells_are_brighter_than_the_background_and_their_borders_are_dark(scene):
    image, labels = scene[0].astype(float), scene[1]
    inner = (labels > 0) & (ndimage.minimum_filter(labels, 9) == ndimage.maximum_filter(labels, 9))
    border = (labels > 0) & (ndimage.minimum_filter(labels, 3) > 0)
    border &= ndimage.minimum_filter(labels, 3) != ndimage.maximum_filter(labels, 3)
    background = ndimage.maximum_filter(labels, 9) == 0
    assert image[inner].mean() > 1.2 * image[border].mean()
    assert image[border].mean() > image[background].mean()
    assert image.min() > 0
    assert image.max() < 65535


def test_pictures_are_written_as_pairs_with_their_pixel_size_and_stay(tmp_path):
    write_pictures(tmp_path, "new", 100, 2)
    names = ["cells_00.tif", "cells_01.tif"]
    for kind in ("images", "labels"):
        assert sorted(p.name for p in (tmp_path / f"new_{kind}").iterdir()) == names
    image, labels = touching_cells(demo.SIZE, seed=101)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "new_images" / names[1]), image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "new_labels" / names[1]), labels)
    with tifffile.TiffFile(tmp_path / "new_images" / names[0]) as file:
        assert file.pages[0].get_resolution("MICROMETER") == pytest.approx([1 / demo.PIXEL_UM] * 2, rel=1e-4)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")}
    write_pictures(tmp_path, "new", 100, 2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")} == times


@pytest.mark.parametrize("gone", ["images", "labels"])
def test_half_a_pair_is_written_again(tmp_path, gone):
    write_pictures(tmp_path, "new", 100, 1)
    before = files_of(tmp_path)
    (tmp_path / f"new_{gone}" / "cells_00.tif").unlink()
    write_pictures(tmp_path, "new", 100, 1)
    assert files_of(tmp_path) == before


# ------------------------------------------------------------------------------------------- the whole


def test_the_demonstration_runs_all_six_commands(finished):
    out, said = finished
    assert {p.name for p in out.iterdir()} >= EXPECTED
    for number in range(1, 7):
        assert f"[{number}/6]" in said
    for command in ("prep", "weights", "augment", "train", "tile-predict", "evaluate"):
        assert f"$ unetcli {command} " in said
    metrics = json.loads((out / "report" / "metrics.json").read_text())
    assert len(metrics["images"]) == demo.N_NEW
    assert all(m is not None for m in metrics["mean"].values())


def test_the_demonstration_once_more_changes_nothing_and_prints_the_scores(finished, monkeypatch, cli):
    tiny(monkeypatch)
    out, _ = finished
    before = files_of(out)
    mean = json.loads((out / "report" / "metrics.json").read_text())["mean"]
    assert cli("demo", "-o", out) == 0
    assert re.search(rf"^iou +{mean['iou']:.4g}\b", cli.out, flags=re.MULTILINE)
    assert str(out / "report" / "report.html") in cli.out
    assert "$ unetcli evaluate" in cli.err
    assert cli("demo", "-o", out, "--json") == 0
    assert cli.json["mean"] == mean
    assert {json.loads(line)["event"] for line in cli.err.splitlines()} <= {"log", "progress"}
    assert files_of(out) == before


def test_dry_run_writes_nothing(monkeypatch, tmp_path, cli):
    tiny(monkeypatch)
    monkeypatch.setattr(demo.train, "run", lambda *_, **__: pytest.fail("trains"))
    assert cli("demo", "-o", tmp_path / "demo", "--dry-run") == 0
    assert not list(tmp_path.iterdir())


def shown(said, command):
    return next(line for line in said.splitlines() if f"$ unetcli {command} " in line)


def settings_of(store):
    return json.loads((store / "zarr.json").read_text())["attributes"]["unetcli"]["fingerprint"]["settings"]


def test_the_commands_that_are_shown_make_what_was_made(finished):
    out, said = finished
    assert settings_of(out / "train.zarr")["split"] in (None, *shown(said, "prep").split())
    assert settings_of(out / "weights.zarr")["balance"] == "inverse" or "--balance" in shown(said, "weights")
    assert "--features" in shown(said, "train")
    assert "--patch-size" in shown(said, "train")
    assert f"--probabilities {out}/p.zarr" in shown(said, "tile-predict")  # evaluated in the next step
    assert "prep" in said
    assert str(out / "new.zarr") in "".join(line for line in said.splitlines() if "$ unetcli prep" in line)


@pytest.mark.slow
def test_the_demonstration_learns_to_segment(tmp_path):
    found = demo.run(tmp_path / "demo", say=lambda _: None)
    assert found["mean"]["iou"] > 0.8
    assert found["mean"]["v_rand"] > 0.7
