"""Whatever is read at once, scores are those of the whole image; and only the pixels count that are meant to."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tifffile

from tests.conftest import cells
from unetcli.config import EvaluateConfig, PrepConfig
from unetcli.errors import BelowBoundError, ConfigError, InputError
from unetcli.evaluation import plan
from unetcli.evaluation.pairs import Others, open_pairs
from unetcli.image.label_sources import ShownLabels
from unetcli.metrics import score, summarize
from unetcli.metrics.topology import warping_error
from unetcli.stages import evaluate, prep

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "metrics.schema.json").read_text())
STREAMED = ["iou", "dice", "pixel_error", "rand_error", "fg_rand_fscore", "vi_split", "vi_merge", "ap50", "seg"]
OF_PIXELS = ["iou", "dice", "pixel_error", "max_pixel_fscore"]
RNG = np.random.default_rng(5)
TRUTH = cells((45, 70), 1)[1].astype(np.int64)
PREDICTION = np.where(RNG.random(TRUTH.shape) < 0.1, 0, np.roll(TRUTH, 2, axis=1))
STACK = cells((4, 30, 40), 2)[1].astype(np.int64), np.roll(cells((4, 30, 40), 2)[1], 1, axis=2).astype(np.int64)
PROBABILITIES = np.clip((PREDICTION > 0) * 0.6 + RNG.random(TRUTH.shape) * 0.4, 0, 1).astype(np.float32)
ROI = np.zeros(TRUTH.shape, np.uint8)
ROI[5:40, 10:55] = 1


def save(folder, **arrays):
    """Write arrays as NumPy files; return their places."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return [folder / f"{name}.npy" for name in arrays]


def run(folder, prediction, truth, *, roi=None, compare=None, metrics=None, **config):
    """Score arrays through files; what is written fits the schema."""
    others = {name: array for name, array in (("roi", roi), ("compare", compare)) if array is not None}
    places = dict(zip(["a", "b", *others], save(folder, a=prediction, b=truth, **others), strict=True))
    config = EvaluateConfig(metrics=metrics and ",".join(metrics), **config)
    found = evaluate.run(places.pop("a"), places.pop("b"), folder / "report", config, **places, overwrite=True)
    written = json.loads((folder / "report" / "metrics.json").read_text())
    jsonschema.validate(written, SCHEMA)
    assert written == found
    return found


# ------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("prediction", "truth", "names"),
    [
        (PREDICTION, TRUTH, STREAMED),
        (PREDICTION > 0, TRUTH > 0, OF_PIXELS),
        (PROBABILITIES, TRUTH, OF_PIXELS),
        (*STACK, STREAMED),
    ],
    ids=["ids", "masks", "probabilities", "a stack"],
)
@pytest.mark.parametrize("roi", [None, ROI], ids=["all", "roi"])
def test_any_tiles_give_the_scores_of_the_whole_image(tmp_path, monkeypatch, prediction, truth, names, roi):
    roi = None if roi is None else roi[: truth.shape[-2], : truth.shape[-1]]
    expected = score(prediction, truth, metrics=names, roi=roi).values
    for n_pixels in (50, 1000, 10**6):
        monkeypatch.setattr(plan, "TILE_PIXELS", n_pixels)
        found = run(tmp_path, prediction, truth, metrics=names, roi=roi)
        assert found["mean"] == pytest.approx(expected, rel=1e-12)


def test_tiles_are_of_whole_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "TILE_PIXELS", 2**10)
    prep.run(save(tmp_path, x=TRUTH.astype(np.uint16)), tmp_path / "x.zarr", PrepConfig())
    ((pair,), _, _) = open_pairs(tmp_path / "x.zarr", tmp_path / "x.npy", Others(), EvaluateConfig())
    assert plan.make_plan(pair, ["iou"], EvaluateConfig()).grid.core == (1, 1, 1, *TRUTH.shape)  # one chunk
    ((pair,), _, _) = open_pairs(tmp_path / "x.npy", tmp_path / "x.npy", Others(), EvaluateConfig())
    assert plan.make_plan(pair, ["iou"], EvaluateConfig()).grid.core == (1, 1, 1, 32, 32)


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint32, 70_001), (np.int64, 2**33 + 5), (np.uint64, 2**40)], ids=str)
def test_large_ids_with_gaps_are_ids_like_others(tmp_path, dtype, factor):
    small = run(tmp_path / "small", PREDICTION, TRUTH, metrics=STREAMED)
    large = run(tmp_path / "large", PREDICTION.astype(dtype) * dtype(factor), TRUTH.astype(dtype) * dtype(factor))
    assert {name: large["mean"][name] for name in STREAMED} == pytest.approx(small["mean"])


def test_windows_are_scored_like_images_and_said(tmp_path):
    found = run(tmp_path, PREDICTION, TRUTH, metrics=["warping_error", "iou"], window="20x35")
    windows = [np.s_[y : y + 20, x : x + 35] for y in (0, 20, 40) for x in (0, 35)]
    errors = [warping_error(TRUTH[w] > 0, PREDICTION[w] > 0) for w in windows]
    assert found["mean"]["warping_error"] == pytest.approx(np.mean(errors))
    assert found["mean"]["iou"] == score(PREDICTION, TRUTH, metrics=["iou"]).values["iou"]
    assert "mean over windows of 20x35 pixels" in found["conventions"]["warping_error"]
    assert "windows" not in found["conventions"]["iou"]


def test_each_score_of_windows_says_so(tmp_path):
    found = run(tmp_path, PREDICTION > 0, TRUTH > 0, window="20x35")
    of_pixels = {name for name, text in found["conventions"].items() if "windows of 20x35 pixels" not in text}
    assert of_pixels == set(OF_PIXELS)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda: 2**18)
    places = save(tmp_path, a=PREDICTION, b=TRUTH)
    with pytest.raises(InputError, match=r"a: v_rand need planes of 45 x 70 pixels whole, about .* GiB") as caught:
        evaluate.run(*places, tmp_path / "r", EvaluateConfig(metrics="iou,v_rand"))
    assert "--window" in caught.value.fix
    assert "--metrics iou," in caught.value.fix
    assert not (tmp_path / "r").exists()
    assert "v_rand" in run(tmp_path, PREDICTION, TRUTH, metrics=["iou", "v_rand"], window="16")["mean"]


def test_by_default_it_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda: 2**18)
    found = run(tmp_path, PREDICTION, TRUTH)
    assert set(STREAMED) <= set(found["mean"])
    assert "v_rand" not in found["mean"]
    assert any("left out; they are measured in smaller parts with --window 32x32" in note for note in found["notes"])


def test_the_remedy_for_too_little_memory_is_one_that_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda: 2**18)
    places = save(tmp_path, a=STACK[0] > 0, b=STACK[1] > 0)
    with pytest.raises(InputError, match=r"rand_error need windows of 30 x 40 pixels whole") as caught:
        evaluate.run(*places, tmp_path / "r", EvaluateConfig(metrics="rand_error", window="64"))
    assert caught.value.fix.startswith("with --window 32x32, or --metrics iou")
    run(tmp_path, *(side > 0 for side in STACK), metrics=["rand_error"], window="32x32")
    with pytest.raises(InputError, match=r"rand_error need volumes of 4 x 30 x 40 pixels whole") as caught:
        evaluate.run(*places, tmp_path / "r", EvaluateConfig(metrics="rand_error", as_volume=True))
    assert caught.value.fix.startswith("without --as-volume, or")


def test_what_was_assumed_when_files_were_opened_is_said(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(2):
            with tifffile.TiffWriter(tmp_path / name / f"x{k}.tif") as file:
                file.write(TRUTH.astype(np.uint16))
                file.write(np.zeros((5, 5), np.uint16))
    found = evaluate.run(tmp_path / "a", tmp_path / "b", tmp_path / "r", EvaluateConfig(metrics="iou"))
    said = "x0.tif, x1.tif: holds 2 images: the first is taken"
    assert found["notes"] == [f"prediction {said}", f"truth {said}"]


def test_pages_without_a_name_are_planes_and_need_no_word(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", STACK[0].astype(np.uint16), photometric="minisblack")
    assert evaluate.run(tmp_path / "x.tif", tmp_path / "x.tif", tmp_path / "r", EvaluateConfig())["notes"] == []


# ------------------------------------------------------------------------------------------- what counts


def test_a_region_of_interest_leaves_its_rectangle(tmp_path):
    inside = np.s_[5:40, 10:55]
    found = run(tmp_path, PREDICTION, TRUTH, roi=ROI, metrics=[*STREAMED, "v_rand"])
    assert found["mean"] == pytest.approx(
        {
            **score(PREDICTION[inside], TRUTH[inside], metrics=STREAMED).values,
            "v_rand": score(PREDICTION * ROI, TRUTH * ROI, metrics=["v_rand"]).values["v_rand"],
        }
    )


def test_the_warping_error_flips_in_the_region_only(tmp_path):
    found = run(tmp_path, PREDICTION > 0, TRUTH > 0, roi=ROI, metrics=["warping_error"])
    assert found["mean"]["warping_error"] == warping_error(TRUTH > 0, (PREDICTION > 0).astype(np.float32), mask=ROI)


@pytest.mark.parametrize("kind", ["ids", "mask"])
def test_an_ignored_value_does_not_count(tmp_path, kind):
    truth, prediction = (TRUTH, PREDICTION) if kind == "ids" else ((TRUTH > 0) * 1, (PREDICTION > 0) * 1)
    marked = np.where(ROI == 1, truth, 255)
    names = [*STREAMED, "v_rand", "warping_error"]
    found = run(tmp_path, prediction, marked, ignore_label=255, metrics=names)
    expected = score(prediction, np.where(ROI == 1, truth, 0), roi=ROI, metrics=names)
    assert found["mean"] == pytest.approx(expected.values)
    assert score(prediction, marked, ignore_label=255, metrics=names) == expected


def test_an_ignored_value_and_a_region_go_together_with_classes(tmp_path):
    truth = np.array([[0, 1, 9, 1]] * 4, np.uint8)
    found = run(tmp_path, np.ones((4, 4), np.uint8), truth, ignore_label=9, classes="0=a,1=b", metrics=["pixel_error"])
    assert found["mean"]["pixel_error"] == pytest.approx(1 / 3)


def test_an_ignored_value_is_no_class(tmp_path):
    truth = np.array([[1, 1, 2, 3, 255, 255]] * 4, np.uint8)
    prediction = np.array([[1, 2, 2, 3, 1, 1]] * 4, np.uint8)
    found = run(tmp_path, prediction, truth, ignore_label=255, prediction_kind="classes", metrics=["iou"])
    assert found["confusion"] == {
        "classes": ["class_1", "class_2", "class_3"],
        "pixels": [[4, 4, 0], [0, 4, 0], [0, 0, 4]],
    }
    assert found["mean"]["iou"] == pytest.approx(2 / 3)  # class 1 is the background, as without --ignore-label


def test_where_nothing_counts_pixel_error_is_undefined(tmp_path):
    found = run(tmp_path, PREDICTION, TRUTH, roi=0 * ROI, metrics=["pixel_error"])
    assert found["mean"] == {"pixel_error": None}
    assert found["undefined"] == {"pixel_error": "no pixel counts"}


def test_a_region_of_another_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="the region of interest is yx 9 x 9; expected yx 45 x 70"):
        run(tmp_path, PREDICTION, TRUTH, roi=ROI[:9, :9])


# ------------------------------------------------------------------------------------------- settings


def test_a_threshold_is_compared_in_double(tmp_path):
    p = np.full((3, 3), 0.2, np.float32)  # 0.200000003
    for threshold, iou in ((0.2, 1), (0.21, 0)):
        found = run(tmp_path, p, np.ones((3, 3), np.uint8), threshold=threshold, metrics=["iou"])
        assert found["mean"]["iou"] == iou
        assert f"foreground > {threshold:g}" in found["conventions"]["iou"]


def test_thresholds_are_those_searched_and_plotted(tmp_path):
    p = np.array([[0.25, 0.35, 0.75, 0.85]], np.float32)
    found = run(tmp_path, p, np.array([[0, 0, 1, 1]]), thresholds="0.8,0.3", metrics=["max_pixel_fscore"])
    assert found["mean"]["max_pixel_fscore"] == pytest.approx(4 / 5)
    assert found["settings"]["thresholds"] == "0.8,0.3"
    assert "best 0.8000 at threshold 0.3" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(("connectivity", "ap50"), [(4, 0.5), (8, 1)])
def test_connectivity_joins_corners(tmp_path, connectivity, ap50):
    mask = np.kron(np.eye(2), np.ones((4, 4))).astype(np.uint8)
    truth = np.pad(mask, ((0, 0), (0, 20)))
    truth[:, 15:20] = 9  # ids, not a mask
    prediction = truth > 0
    found = run(tmp_path, prediction, truth, connectivity=connectivity, metrics=["ap50"])
    assert found["mean"]["ap50"] == pytest.approx(ap50 if connectivity == 8 else 2 / 3)
    assert f"> 0.5, {connectivity}-connected," in found["conventions"]["ap50"]


def test_a_volume_has_components_in_3d(tmp_path):
    truth, prediction = np.zeros((2, 3, 8, 8), np.uint8)
    truth[:, 2:6, 2:6] = prediction[:, 2:6, 2:6] = 1
    prediction[1] = 0
    planes = run(tmp_path, prediction, truth, metrics=["ap50", "iou"])["mean"]
    volume = run(tmp_path, prediction, truth, metrics=["ap50", "iou"], as_volume=True)["mean"]
    assert planes == pytest.approx({"ap50": 2 / 3, "iou": 2 / 3})
    assert volume == pytest.approx({"ap50": 0, "iou": 2 / 3})  # two parts, each with an IoU of 1/3
    assert volume == score(prediction, truth, metrics=["ap50", "iou"], as_volume=True).values


def test_a_volume_is_summed_over_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "TILE_PIXELS", 100)
    found = run(tmp_path, *STACK, metrics=STREAMED, as_volume=True)["mean"]
    assert found == pytest.approx(score(*STACK, metrics=STREAMED, as_volume=True).values)


def test_what_is_measured_in_planes_is_none_of_volumes(tmp_path):
    with pytest.raises(InputError, match="--as-volume: v_rand is measured in planes"):
        run(tmp_path, *STACK, metrics=["iou", "v_rand"], as_volume=True)
    assert "v_rand" not in run(tmp_path, *STACK, as_volume=True)["mean"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"thresholds": "0.1,2"}, "--thresholds 2: expected 0 to 1"),
        ({"thresholds": "a"}, "--thresholds a: expected numbers"),
        ({"connectivity": 6}, "--connectivity 6: expected 4 or 8 for planes"),
        ({"connectivity": 8, "as_volume": True}, "expected 6 or 18 or 26 for volumes"),
        ({"window": "2x3x4"}, "--window 2x3x4: expected pixels"),
        ({"window": "0"}, "--window 0: expected pixels"),
        ({"window": "9", "as_volume": True}, "--window: does not go with --as-volume"),
        ({"threshold": 1.5}, "--threshold 1.5: expected 0 to 1"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        EvaluateConfig(**settings)


# ------------------------------------------------------------------------------------------- classes


CLASSES = np.array([[0, 0, 1, 1, 2, 2, 2, 2]] * 4, np.uint8)
PREDICTED = np.array([[0, 1, 1, 1, 2, 2, 2, 0]] * 4, np.uint8)
CONFUSION = [[4, 4, 0], [0, 8, 0], [4, 0, 12]]


@pytest.mark.parametrize("form", ["files", "probabilities", "values of their own", "a data set"])
def test_classes_are_scored_each(tmp_path, form):
    prediction, truth, names = PREDICTED, CLASSES, ["class_0", "class_1", "class_2"]
    config = {"prediction_kind": "classes", "metrics": ["iou"]}
    if form == "probabilities":
        tifffile.imwrite(tmp_path / "p.tif", np.stack([prediction == c for c in range(3)]).astype(np.float32),
                         photometric="minisblack", metadata={"axes": "CYX"})  # fmt: skip
    if form == "values of their own":
        prediction, truth, names = prediction * 100, truth * 100, ["sky", "tree", "house"]
        config |= {"classes": "0=sky,100=tree,200=house"}
    (b,) = save(tmp_path / "t", b=truth)
    if form == "a data set":
        prep.run(save(tmp_path, b=truth), tmp_path / "b.zarr", PrepConfig(label_kind="classes"), labels=[b])
        b = tmp_path / "b.zarr"
    (a,) = [tmp_path / "p.tif"] if form == "probabilities" else save(tmp_path / "p", a=prediction)
    found = evaluate.run(a, b, tmp_path / "r", EvaluateConfig(**{**config, "metrics": "iou"}))
    jsonschema.validate(found, SCHEMA)
    assert found["confusion"] == {"classes": names, "pixels": CONFUSION}
    ious = [4 / 12, 8 / 12, 12 / 16]
    assert [found["mean"][f"iou_{name}"] for name in names] == pytest.approx(ious)
    assert found["mean"][f"dice_{names[0]}"] == pytest.approx(1 / 2)
    assert found["mean"]["mean_iou"] == pytest.approx(np.mean(ious))
    assert found["mean"]["iou"] == pytest.approx(20 / 28)


def test_the_report_shows_classes_not_objects(tmp_path):
    run(tmp_path, PREDICTED, CLASSES, prediction_kind="classes", metrics=["iou"])
    text = (tmp_path / "report" / "report.html").read_text()
    assert "Mean IoU is <b>" in text
    assert "Objects:" not in text
    assert "<b>another class</b>" in text


def test_a_bound_may_be_that_of_a_class(tmp_path):
    with pytest.raises(BelowBoundError, match=r"iou_class_1 is 0\.6667, asked for 0\.9"):
        run(tmp_path, PREDICTED, CLASSES, prediction_kind="classes", fail_under="iou_class_1=0.9,iou=0.1")


def test_a_value_that_is_no_class_of_the_truth_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds the value 5; expected those of the classes of the truth: 0, 1, 2"):
        run(tmp_path, PREDICTED + 5, CLASSES, prediction_kind="classes")


# ------------------------------------------------------------------------------------------- more than scores


def test_types_of_what_is_left_after_warping_are_counted(tmp_path):
    truth = np.zeros((2, 20, 30), np.uint8)
    truth[:, 4:16, 2:14], truth[:, 4:16, 16:28] = 1, 1
    prediction = truth.copy()
    prediction[:, 9, 14:16] = 1  # a bridge, on both planes
    found = run(tmp_path, prediction, truth, metrics=["warping_error"])
    assert found["counts"] == [{"name": "a", "warping_types": {"merge": {"pixels": 2, "clusters": 2}}}]


def test_probabilities_are_held_against_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "TILE_PIXELS", 16)
    truth = np.array([[0, 0, 0, 1] * 8] * 8, np.uint8)
    found = run(tmp_path, np.full(truth.shape, 0.25, np.float32), truth, metrics=["iou"])
    (bin_,) = found["calibration"]
    assert bin_ == pytest.approx({"low": 0.2, "high": 0.3, "n_pixels": 256, "confidence": 0.25, "frequency": 0.25})
    assert found["calibration_error"] == pytest.approx(0)


# ------------------------------------------------------------------------------------------- all images together


def test_frames_of_a_sequence_are_one_sequence(tmp_path):
    """The Cell Tracking Challenge takes the mean over the objects of all frames, and all the work together."""
    truth = np.array([[1, 1, 0, 2, 2, 0, 3, 3], [4, 4, 4, 4, 0, 0, 0, 0]])
    prediction = np.array([[1, 1, 0, 2, 2, 0, 3, 3], [4, 4, 4, 0, 0, 0, 9, 9]])
    for k in range(2):
        save(tmp_path / "p", **{f"t_{k}": prediction[k : k + 1]})
        save(tmp_path / "t", **{f"t_{k}": truth[k : k + 1]})
    config = EvaluateConfig(metrics="seg,det,ap75,pq,iou,rand_error")
    found = evaluate.run(tmp_path / "p", tmp_path / "t", tmp_path / "r", config)
    jsonschema.validate(found, SCHEMA)
    assert found["mean"]["seg"] == pytest.approx((1 + 3 / 4) / 2)
    by_hand = {"seg": (3 + 3 / 4) / 4, "det": 1 - 1 / 40, "ap75": 4 / 5, "pq": 3.75 / 4.5, "iou": 9 / 12}
    assert found["pooled"] == pytest.approx(by_hand)
    images = [
        score(p, t, metrics=list(found["mean"]), are_ids=True)
        for p, t in zip(prediction[:, None], truth[:, None], strict=True)
    ]
    pooled = {name: mean.pooled for name, mean in summarize(images).items()}
    assert pooled == pytest.approx(by_hand | {"rand_error": None})


def test_one_threshold_is_searched_for_all_images(tmp_path):
    maps = np.array([[0.2, 0.4, 0.4, 0.2], [0.9, 0.2, 0.9, 0.6]], np.float32)
    truth = np.array([[0, 1, 1, 0], [1, 0, 1, 0]], bool)  # the best thresholds: 0.3 and 0.7
    for k in range(2):
        save(tmp_path / "p", **{f"x_{k}": maps[k : k + 1]})
        save(tmp_path / "t", **{f"x_{k}": truth[k : k + 1]})
    found = evaluate.run(
        tmp_path / "p", tmp_path / "t", tmp_path / "r", EvaluateConfig(metrics="max_pixel_fscore,v_rand,warping_error")
    )
    assert found["mean"]["max_pixel_fscore"] == 1
    stack = score(maps[:, None], truth[:, None], metrics=["max_pixel_fscore", "v_rand"]).values
    assert found["pooled"] == pytest.approx(stack)
    assert found["pooled"]["max_pixel_fscore"] == pytest.approx(8 / 9)


# ------------------------------------------------------------------------------------------- two predictions


def test_two_predictions_are_put_side_by_side(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for k in range(3):
        truth = cells((30, 40), k)[1]
        wrong, worse = (np.where(np.random.default_rng(k).random(truth.shape) < p, 0, truth) for p in (0.1, 0.3))
        for side, array in (("a", wrong), ("b", worse), ("truth", truth)):
            save(tmp_path / side, **{f"x_{k}": array})
    sides = [tmp_path / side for side in ("a", "truth")]
    arguments = ["--compare", tmp_path / "b", "--metrics", "iou,vi_split"]
    assert cli("evaluate", *sides, *arguments, "-o", tmp_path / "r") == 0
    found = json.loads((tmp_path / "r" / "metrics.json").read_text())
    jsonschema.validate(found, SCHEMA)
    alone = evaluate.run(tmp_path / "b", sides[1], tmp_path / "alone", EvaluateConfig(metrics="iou,vi_split"))
    assert found["comparison"]["mean"] == alone["mean"]
    assert found["comparison"]["images"] == alone["images"]
    assert found["comparison"]["pooled"] == alone["pooled"] != found["pooled"]
    assert (found["comparison"]["a"], found["comparison"]["b"]) == ("a", "b")
    difference = found["comparison"]["scores"]["iou"]
    assert difference["difference"] == pytest.approx(alone["mean"]["iou"] - found["mean"]["iou"])
    assert difference["low"] <= difference["difference"] <= difference["high"] < 0
    assert difference["better"] == "a"
    header = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0]
    assert header == "name,iou,iou_b,iou_difference,vi_split,vi_split_b,vi_split_difference"
    assert "A is a, B is b" in cli.out
    assert max(map(len, cli.out.splitlines())) <= 80


def test_the_second_prediction_has_a_partner_for_each_image(tmp_path):
    save(tmp_path / "a", x_0=TRUTH, x_1=TRUTH)
    save(tmp_path / "b", x_0=TRUTH)
    with pytest.raises(InputError, match="x_1"):
        evaluate.run(
            tmp_path / "a", tmp_path / "a", tmp_path / "r", EvaluateConfig(metrics="iou"), compare=tmp_path / "b"
        )


def test_a_single_image_has_no_interval(tmp_path):
    found = run(tmp_path, PREDICTION, TRUTH, compare=TRUTH, metrics=["iou"])
    assert found["intervals"] == {"iou": None}
    assert found["comparison"]["scores"]["iou"]["better"] is None


def test_of_a_large_plane_the_worst_part_is_shown(tmp_path, monkeypatch):
    from unetcli.evaluation import measuring

    monkeypatch.setattr(measuring, "SHOWN", 16)
    read = []
    shown = ShownLabels.read
    monkeypatch.setattr(ShownLabels, "read", lambda self, box: read.append(box) or shown(self, box))
    prediction = TRUTH.copy()
    prediction[20:30, 36:46] = 0
    run(tmp_path, prediction, TRUTH, metrics=["iou"])
    assert read[-1].start[3:] == (16, 32)


@pytest.mark.parametrize(
    ("prediction", "truth", "opens_with"),
    [(PREDICTION, TRUTH, "Mean AP"), (PREDICTION > 0, TRUTH, "VRand"), (PROBABILITIES, TRUTH > 0, "VRand")],
    ids=["ids", "a mask and ids", "probabilities"],
)
def test_the_report_opens_with_what_people_ask_of_such_images(tmp_path, prediction, truth, opens_with):
    run(tmp_path, prediction, truth, metrics=["iou", "v_rand", "mean_ap"])
    page = (tmp_path / "report" / "report.html").read_text()
    verdict = page[page.index('<p class="verdict">') :].split("</p>")[0]
    assert opens_with in re.sub("<.*?>", "", verdict)


@pytest.mark.parametrize("memory", [2**40, 1], ids=["enough", "scarce"])
def test_small_images_measured_at_once_have_the_scores_of_one_after_the_other(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(plan, "available_memory", lambda: memory)
    for k in range(5):
        prediction, truth = (cells((30, 40), seed)[1] for seed in (k, k + 1))
        save(tmp_path / "a", **{f"i{k}": prediction})
        save(tmp_path / "b", **{f"i{k}": truth})
    places, seen = (tmp_path / "a", tmp_path / "b"), []
    config = EvaluateConfig(metrics="iou,vi_split,ap50")
    found = [
        evaluate.run(*places, tmp_path / f"r{n}", config, workers=n, progress=lambda *done: seen.append(done))
        for n in (1, 3)
    ]
    assert found[0] == found[1]
    assert seen[-1] == (5, 5)


def test_of_images_measured_at_once_the_one_that_is_wrong_is_named(tmp_path):
    for k in range(5):
        save(tmp_path / "b", **{f"i{k}": cells((30, 40), k)[1]})
        save(tmp_path / "a", **{f"i{k}": np.full((30, 40), 0.5 if k != 3 else 1.5)})
    with pytest.raises(InputError, match="i3"):
        evaluate.run(tmp_path / "a", tmp_path / "b", tmp_path / "r", EvaluateConfig(metrics="iou"), workers=3)


def test_what_is_left_after_warping_comes_with_the_warping_error_by_either_name(tmp_path):
    prediction, truth = PROBABILITIES, TRUTH > 0
    found = run(tmp_path, prediction, truth, metrics=["warping_types"])
    assert list(found["mean"]) == ["warping_error"]
    (counts,) = found["counts"]
    left = sum(kind["pixels"] for kind in counts["warping_types"].values())
    assert left == round(found["mean"]["warping_error"] * truth.size) > 0
    for name in ("warping_types", "warping_error"):
        scores = score(prediction, truth, metrics=[name])
        assert {"name": counts["name"], **scores.counts} == counts
        assert list(scores.values) == ["warping_error"]
    assert score(prediction, truth, metrics=["iou"]).counts == {}
