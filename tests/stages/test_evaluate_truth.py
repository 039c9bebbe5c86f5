"""Evaluate takes the truth in the forms that prep takes, and scores a perfect prediction as perfect."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conftest import cells
from unetcli.config import EvaluateConfig
from unetcli.errors import InputError
from unetcli.metrics import score
from unetcli.stages import evaluate

DATA = Path(__file__).parents[2].parent / "shared" / "data"
IDS = cells((40, 50), 3)[1]
ODD = (IDS % 2).astype(np.uint8)
MASK = np.where(IDS > 0, 255, 0).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def iou(tmp_path, prediction, truth, **config):
    metrics = evaluate.run(prediction, truth, tmp_path / "report", EvaluateConfig(metrics="iou", **config))
    return metrics["mean"]["iou"], " | ".join(metrics["notes"]), metrics


def enlarged(mask):
    return np.asarray(Image.fromarray(mask).resize([2 * n for n in mask.shape[::-1]], Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("truth", "config"),
    [
        (np.dstack([MASK] * 3), {}),
        (np.dstack([MASK, 0 * MASK, 0 * MASK]), {}),
        (np.dstack([255 - MASK, 255 - MASK, 255 + 0 * MASK]), {"classes": "#0000ff=cell,#ffffff=back"}),
        (np.dstack([MASK * ODD, 0 * MASK, MASK * (1 - ODD)]), {}),
        (MASK, {"label_kind": "boundaries", "boundary_value": 0}),
        (255 - MASK, {"label_kind": "boundaries", "boundary_value": 255}),
        (255 - MASK, {"classes": "255=back,0=cell"}),
        (MASK // 255 + 3 * ODD, {"classes": "0=back,3=back,1=cell,4=cell"}),
    ],
    ids=[
        "grey in colour",
        "two colours",
        "named colours",
        "three colours",
        "boundaries",
        "boundaries of 255",
        "named values",
        "values of one name",
    ],
)
def test_truth_of_many_forms(tmp_path, truth, config):
    wanted = np.where((truth.sum(axis=2) if truth.ndim == 3 else truth) > 0, 255, 0).astype(np.uint8)
    wanted = 255 - MASK if config.get("classes", "").startswith("#") else MASK if config else wanted
    save(tmp_path / "p" / "a.png", wanted)
    score, _, metrics = iou(tmp_path, tmp_path / "p", save(tmp_path / "t" / "a.png", truth), **config)
    assert score == 1
    assert all(metrics["settings"][name] == value for name, value in config.items())


def test_smooth_truth_is_refused_without_a_threshold(tmp_path):
    truth = save(tmp_path / "t" / "a.png", enlarged(MASK))
    prediction = save(tmp_path / "p" / "a.png", np.where(enlarged(MASK) > 127, 1, 0).astype(np.uint8))
    with pytest.raises(InputError, match=r"a\.png: labels are made of 0, 255") as error:
        iou(tmp_path, prediction, truth)
    assert "--label-threshold 128" in error.value.fix
    assert iou(tmp_path, prediction, truth, label_threshold=128)[0] == 1


def test_a_file_for_each_object(tmp_path):
    for i in range(1, IDS.max() + 1):
        save(tmp_path / "train" / "a" / "masks" / f"{i:03d}.png", np.where(i == IDS, 255, 0).astype(np.uint8))
    save(tmp_path / "train" / "a" / "images" / "a.png", MASK)
    prediction = save(tmp_path / "p" / "a.tif", IDS)
    for truth in (tmp_path / "train", tmp_path / "train" / "a" / "masks"):
        metrics = evaluate.run(
            prediction, truth, tmp_path / f"r_{truth.name}", EvaluateConfig(metrics="adapted_rand_error")
        )
        assert metrics["mean"]["adapted_rand_error"] == 0


def test_sparse_truth_is_scored_where_there_is_some(tmp_path):
    for i in range(4):
        save(tmp_path / "p" / f"t{i:03d}.tif", IDS)
        save(tmp_path / "01" / f"t{i:03d}.tif", MASK)
    for i in (1, 3):
        save(tmp_path / "01_GT" / "SEG" / f"man_seg{i:03d}.tif", IDS)
    score, notes, metrics = iou(tmp_path, tmp_path / "p", tmp_path / "01_GT")
    assert (score, [i["name"] for i in metrics["images"]]) == (1, ["t001", "t003"])
    assert "2 predictions without truth left out: t000, t002" in notes
    evaluate.run(
        tmp_path / "p", tmp_path / "01_GT", tmp_path / "r", EvaluateConfig(metrics="iou"), images=tmp_path / "01"
    )
    assert (tmp_path / "r" / "report.html").read_text().count("data:image/png") > 0
    with pytest.raises(InputError, match="can not be paired"):
        evaluate.run(tmp_path / "p" / "t000.tif", tmp_path / "01_GT", tmp_path / "s", EvaluateConfig())


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_silver_truth_against_truth_by_hand(tmp_path):
    folder = DATA / "ctc_phc_c2dh_u373"
    score, notes, metrics = iou(tmp_path, folder / "02_ST" / "SEG", folder / "02_GT")
    assert len(metrics["images"]) == 13
    assert "7 predictions without truth left out: man_seg000" in notes
    assert 0.8 < score < 1


@pytest.mark.parametrize("two", ["a", "b"])
def test_the_meaning_is_that_of_all_images_together(tmp_path, two):
    parts = np.array([[5, 5, 0, 0, 5, 5]], np.uint16)  # one object in two pieces, beside an image of two objects
    split = np.array([[5, 5, 0, 0, 6, 6]], np.uint16)
    for side, of_x in (("a", parts), ("b", split)):
        save(tmp_path / side / "x.tif", of_x)
        save(tmp_path / side / "y.tif", np.array([[1, 1, 0, 2, 2, 2]], np.uint16))
    places = [tmp_path / side for side in ("ab" if two == "a" else "ba")]
    metrics = evaluate.run(*places, tmp_path / "r", EvaluateConfig(metrics="det,rand_error"))
    assert metrics["images"][0]["rand_error"] > 0
    assert metrics["images"][1] == {"name": "y", "det": 1, "rand_error": 0}


def test_two_objects_without_background_are_two(tmp_path):
    prediction, truth = np.array([[[1, 2, 2, 2]], [[1, 1, 2, 2]]], np.uint8)
    a, b = save(tmp_path / "a" / "x.tif", prediction), save(tmp_path / "b" / "x.tif", truth)
    metrics = evaluate.run(a, b, tmp_path / "r", EvaluateConfig(metrics="iou,rand_error"))
    assert metrics["mean"] == {"iou": 1, "rand_error": 0.5}
    assert score(prediction, truth, metrics=["iou", "rand_error"]).values == metrics["mean"]


@pytest.mark.parametrize("ids", [[0, 0, 0, 0], [0, 2**40, 2**63 + 1, 2**63 + 1]], ids=["empty", "large"])
def test_instances_may_be_none_and_ids_of_any_size(tmp_path, ids):
    truth = save(tmp_path / "b" / "x.tif", np.array([ids], np.uint64))
    config = EvaluateConfig(metrics="iou,v_rand", label_kind="instances", prediction_kind="labels")
    metrics = evaluate.run(truth, truth, tmp_path / "r", config)
    assert metrics["mean"] == {"iou": 1, "v_rand": 1 if any(ids) else None}


def test_a_single_object_in_two_pieces_is_told_from_a_mask():
    truth, prediction = np.array([[4, 4, 0, 4, 4]]), np.array([[4, 4, 0, 7, 7]])
    assert score(prediction, truth, metrics=["ap50"]).values == {"ap50": 1}
    assert score(prediction, truth, metrics=["ap50"], are_ids=True).values == {"ap50": pytest.approx(1 / 2)}
    assert score(truth > 0, prediction, metrics=["ap50"], are_ids=False).values == {"ap50": 1}


def test_gray_values_that_are_scored_in_place_of_labels_are_told(tmp_path):
    store = DATA / "ome_zarr_real_images" / "nuclei2d_ome-zarr-py_v05_with_labels.ome.zarr"
    if not store.exists():
        pytest.skip(f"{store} is not there")
    value, notes, _ = iou(tmp_path, store, store)
    assert value < 0.5
    assert "its gray values are scored, not those of" in notes
    assert "labels/nuclei" in notes


def test_a_map_of_8_bits_that_is_taken_as_ids_is_told(tmp_path):
    truth = save(tmp_path / "t.png", MASK)
    prediction = save(tmp_path / "p.png", np.where(MASK > 0, 200 + ODD, 10 * ODD).astype(np.uint8))
    assert "several values beside 0 are taken as object ids" in iou(tmp_path / "a", prediction, truth)[1]
    value, notes, _ = iou(tmp_path / "b", prediction, truth, prediction_kind="probabilities")
    assert (value, notes) == (1, "")
    assert iou(tmp_path / "c", truth, truth)[1] == ""
