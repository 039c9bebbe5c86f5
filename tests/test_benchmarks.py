"""The benchmarks run, and time nothing that differs from an obvious oracle; on tiny images."""

import warnings

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from benchmarks import __main__ as parts
from benchmarks import (
    elastic,
    gigapixel,
    instances,
    machine,
    metrics,
    prediction,
    sample,
    segmentation,
    slide,
    training,
    weights,
)
from benchmarks.cells import Cells
from benchmarks.deformers import PEERS, NotOfferedError
from benchmarks.machine import Timing, table
from tests.conftest import cells
from unetcli.image.tiling import TileGrid
from unetcli.metrics.tables import contingency_table

IMAGES = {
    "cells": Cells.random((1, 90, 110), 30).labels(),
    "nuclei": Cells.random((1, 120, 120), 12, radius=6).labels(),
    "volume": Cells.random((12, 40, 40), 9).labels(),
    "one disk": weights.one_disk((1, 60, 60)),
    "background": np.zeros((1, 40, 40), np.uint32),
}


@pytest.mark.parametrize("name", ["cells", "nuclei", "volume"])
def test_cells_have_gaps_between_them_and_ids_without_holes(name):
    labels = IMAGES[name]
    ids = np.unique(labels)
    assert 0.05 < np.mean(labels == 0) < 0.95
    assert len(ids) > 5
    for i in ids[ids > 0]:
        around = ndimage.binary_dilation(labels == i)
        assert set(np.unique(labels[around])) <= {0, i}


def test_a_box_of_cells_is_that_of_the_whole():
    cells = Cells.random((1, 200, 150), 40)
    assert (cells.labels((0, 30, 7), (1, 180, 150)) == cells.labels()[:, 30:180, 7:]).all()
    assert (cells.labels((0, 150, 100), (1, 214, 164))[:, :50, :50] == cells.labels()[:, 150:, 100:]).all()


@pytest.mark.parametrize("spacing", [weights.PIXELS, (2.5, 1.0, 1.0)], ids=["pixels", "anisotropic"])
@pytest.mark.parametrize("labels", IMAGES.values(), ids=IMAGES)
def test_all_ways_to_weigh_agree(labels, spacing):
    weights.check(labels, spacing, tile=48)
    flat = weights.without_flat_axis(labels, spacing)
    np.testing.assert_allclose(weights.boxes_loop(*flat), weights.usual_loop(*flat), rtol=1e-5, atol=1e-5)


def test_a_wrong_weight_map_is_not_timed(monkeypatch):
    monkeypatch.setattr(weights, "tiled_weights", lambda labels, *_: np.ones(labels.shape, np.float32))
    with pytest.raises(AssertionError):
        weights.check(IMAGES["cells"], weights.PIXELS, tile=48)


@pytest.mark.parametrize("shape", [(1, 70, 60), (12, 30, 34)], ids=["plane", "volume"])
def test_ours_deforms_as_scipy_does(shape):
    lines = elastic.check(elastic.make_case(shape, 1, std_px=2))
    assert lines[0].startswith("ours: SciPy's gray values")


def test_a_wrong_deformation_is_not_timed(monkeypatch):
    monkeypatch.setattr(elastic, "ours", lambda case: (case.image, case.labels))
    with pytest.raises(AssertionError):
        elastic.check(elastic.make_case((1, 70, 60), 1, std_px=2))


@pytest.mark.parametrize(("shape", "border"), [((1, 70, 60), 10), ((20, 30, 34), 4)], ids=["plane", "volume"])
def test_the_field_is_that_of_elasticdeform(shape, border):
    pytest.importorskip("elasticdeform", exc_type=ImportError)
    assert elastic.field_difference(elastic.make_case(shape, 1, std_px=border / 5)) < 1e-3


@pytest.mark.parametrize("shape", [(1, 192, 160), (12, 96, 96)], ids=["plane", "volume"])
@pytest.mark.parametrize("prepare", [prepare for prepare, _ in PEERS.values()], ids=[p for _, p in PEERS.values()])
def test_each_peer_returns_an_image_and_its_labels(prepare, shape):
    case = elastic.make_case(shape, 1, std_px=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image, labels = prepare(case)()
        except ImportError as error:
            pytest.skip(f"not installed: {error}")
        except NotOfferedError:
            pytest.skip("planes only")
    assert image.shape == labels.shape == case.image.shape
    assert abs(image.mean() - case.image.mean()) < 0.2
    assert set(np.unique(labels)) <= {0, *np.unique(case.labels)}


def test_both_ways_to_a_training_sample_give_the_same_parts():
    example = sample.make_example(128)
    ours = sample.our_sample(example, 0, 64)
    assert [np.squeeze(part).shape for part in ours] == [(64, 64)] * 3
    pytest.importorskip("elasticdeform", exc_type=ImportError)
    theirs = sample.their_sample(example, 0, 64)
    assert [np.squeeze(part).shape for part in theirs] == [(64, 64)] * 3
    for own, other in zip(ours, theirs, strict=True):
        assert abs(own.astype(float).mean() - other.astype(float).mean()) < 0.5 * own.std() + 0.5


@pytest.mark.slow
def test_weights_of_a_slide_equal_the_oracle(tmp_path, capsys):
    slide.run([160], windows=3, window=60, folder=tmp_path)
    assert "3 of 3" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_tiles")
def test_a_part_of_a_sparse_image_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("unetcli.prediction.predictor.load_model", None)  # put back, which the benchmark does not
    found = gigapixel.measure(tmp_path, 200, 7)
    assert (found["shards"], found["of_part"], found["files"]) == (49, 7, 7)


def test_scores_are_timed_beside_peers(monkeypatch, capsys):
    monkeypatch.setattr(machine, "LEAST_SECONDS", 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers, when they are imported
        metrics.run(side=96, plane=64, n_objects=40, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("CPU: table ") and "of reading" in line]
    assert {metrics.TABLE, metrics.ALL, metrics.WARP, metrics.V_RAND} <= {line[:56].strip() for line in lines}


def test_a_wrong_table_is_not_timed(monkeypatch):
    monkeypatch.setattr(metrics, "contingency_table", lambda truth, _: contingency_table(truth, truth))
    with pytest.raises(AssertionError):
        metrics.of_labels(*metrics.pair_of(64, 20))


def test_what_is_extrapolated_is_marked(capsys):
    timings = {"ours": Timing(0.5, 0.8), "theirs": Timing(0.1, 0.1).times(1000)}
    table("title", timings, 1.0)
    *_, ours, theirs = capsys.readouterr().out.splitlines()
    assert "~" not in ours
    assert [word for word in theirs.split() if "~" in word] == ["~100,000.0", "~200.00", "~100,000.0", "~125.00"]


def test_an_unknown_part_is_named(monkeypatch):
    monkeypatch.setattr(parts.sys, "argv", ["benchmarks", "nonsense"])
    with pytest.raises(SystemExit, match="nonsense: no such benchmark"):
        parts.main()
    assert set(parts.BY_DEFAULT) <= set(parts.PARTS)


def test_truth_says_nothing_of_the_rim_but_of_its_objects(tmp_path):
    truth = np.zeros((9, 8), np.uint16)
    truth[0:4, 3], truth[5, 5] = 7, 9
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    found = np.load(segmentation._without_rim(tmp_path / "truth.tif", 2, tmp_path / "out"))
    inside = np.zeros(truth.shape, bool)
    inside[2:7, 2:6] = True
    np.testing.assert_array_equal(found, np.where((truth == 0) & ~inside, segmentation.IGNORED, truth))


def test_a_training_step_is_timed_beside_plain_loops(monkeypatch, capsys):
    tiny = ("fast", {"features": "2,4", "patch_size": 32, "batch_size": 1, "precision": "float32"})
    monkeypatch.setattr(training, "CASES", {"cpu": {"tiny": tiny}, "cuda": {"tiny": tiny}})
    monkeypatch.setattr(training, "STEPS", {"cpu": 2, "cuda": 2})
    monkeypatch.setattr(training, "ROUNDS", 1)
    monkeypatch.setattr(training, "_product_rate", lambda *_: 1e12)
    training.run()
    *_, ours, _, _, _, last = capsys.readouterr().out.splitlines()
    assert ours.startswith("unetcli train")
    assert last.startswith("plain loop, bfloat16, channels last")


def test_prediction_is_timed_beside_peers(monkeypatch, capsys):
    tiny = {"tiny": prediction.Case((2, 3, 4, 5, 6), 192, rounds=1)}
    monkeypatch.setattr(prediction, "CASES", {"cpu": tiny, "cuda": tiny})
    monkeypatch.setattr(prediction, "PRODUCT", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(prediction, "DENSE", 1024)
    monkeypatch.setattr(prediction, "WINDOW", 64)
    monkeypatch.setattr(machine, "LEAST_SECONDS", 1e-9)
    prediction.run()
    printed = capsys.readouterr().out
    assert "tile-predict, torch" in printed
    assert "nnU-Net's way" in printed
    assert "end to end" in printed
    assert 1 < float(printed.split(" times the arithmetic of a dense pass")[0].split()[-1]) < 10


def test_networks_are_compared_on_pictures_held_back(tmp_path, monkeypatch, capsys):
    pairs = [(tmp_path / f"image_{k}.npy", tmp_path / f"truth_{k}.npy") for k in range(3)]
    for k, paths in enumerate(pairs):
        for path, array in zip(paths, cells((48, 48), seed=k), strict=True):
            np.save(path, array)
    tiny = {"features": "2,4", "patch_size": 32, "batch_size": 1, "steps": 2, "validate_every": 2}
    cases = [segmentation.Case("one", settings=tiny), segmentation.Case("two", settings=tiny, tta="flips")]
    metrics = ("iou", "seg", "ap50")
    chosen = segmentation.Set(pairs[:2], pairs[2:], {"label_kind": "instances"}, metrics, cases)
    monkeypatch.setattr(segmentation, "SETS", {"tiny": lambda *_: chosen})
    for _ in range(2):  # the second time all is there
        segmentation.run(tmp_path, tmp_path / "out", ["tiny"], device="cpu")
        assert "| one | " in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "tiny" / "runs").iterdir())) == 1


def test_ids_are_timed_beside_libraries(capsys):
    timings = instances.measure("objects", instances.touching(96, 30), 1)
    assert instances.SPLIT in timings
    assert "pieces" in capsys.readouterr().out


def test_wrong_ids_are_not_timed(monkeypatch):
    def nothing(_, target, *__, **___):
        for tile in TileGrid(target.shape, target.shard):
            target.write(tile.core, np.zeros(tile.core.shape))

    monkeypatch.setattr(instances, "find_objects", nothing)
    with pytest.raises(AssertionError):
        instances.measure("objects", instances.touching(96, 30), 1)
