"""Predictions are scored against the truth the same way whatever they are kept in, and every file says the same."""

import csv
import errno
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conftest import N_IMAGES, SIZE, Stopped, cells, count_calls, files_of, stop_after
from tests.pages import parse_page, text_of
from unetcli.config import EvaluateConfig, PredictConfig, PrepConfig
from unetcli.errors import BelowBoundError, ConfigError, InputError, UnetcliError
from unetcli.metrics.scores import SCORES
from unetcli.report.html import format_number
from unetcli.stages import evaluate, prep, tile_predict

FILES = {"metrics.json", "metrics.csv", "report.html"}
PERFECT = {name: float(score.better == "higher") for name, score in SCORES.items()}
FAST = "iou,dice,pixel_error"
SQUARE = np.array([[1] * 8 + [0] * 8] * 16, np.uint8)


def score(prediction, truth, out, *, images=None, overwrite=False, dry_run=False, **config):
    return evaluate.run(
        prediction, truth, out, EvaluateConfig(**config), images=images, overwrite=overwrite, dry_run=dry_run
    )


def saved(path, *arrays, name="x"):
    """Write arrays as a folder of NumPy files."""
    path.mkdir()
    for i, array in enumerate(arrays):
        np.save(path / f"{name}_{i:02d}.npy", array)
    return path


def pair_of(folder, prediction, truth):
    return saved(folder / "predictions", prediction), saved(folder / "truth", truth)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def worse(folders, tmp_path):
    """Return a folder of masks with a stripe of errors that grows from image to image."""
    (tmp_path / "worse").mkdir()
    for i, file in enumerate(sorted((folders / "masks").iterdir())):
        mask = np.array(Image.open(file))
        mask[: 8 * i] = 255 - mask[: 8 * i]
        Image.fromarray(mask).save(tmp_path / "worse" / f"img_{i:02d}.png")
    return tmp_path / "worse"


class Table(HTMLParser):
    """Reads the table of images of a report: rows of texts, with the numbers behind them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.inside = "images" in dict(attrs).get("class", "")
        elif self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "table"

    def handle_data(self, text):
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += text.strip()


# ------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("kind", ["masks", "ids"])
def test_a_perfect_prediction_has_perfect_scores(folders, tmp_path, kind):
    metrics = score(folders / kind, folders / kind, tmp_path / "r")
    assert metrics["mean"] == pytest.approx(PERFECT, abs=1e-12)
    assert len(metrics["images"]) == N_IMAGES
    assert metrics["undefined"] == {}


def test_perfect_probabilities_have_perfect_scores(folders, tmp_path):
    masks = [np.array(Image.open(f)) for f in sorted((folders / "masks").iterdir())]
    predictions = saved(tmp_path / "p", *(np.float32(m > 0) for m in masks))
    assert score(predictions, folders / "masks", tmp_path / "r")["mean"] == pytest.approx(PERFECT, abs=1e-12)


def test_scores_that_can_be_worked_out_by_hand(tmp_path):
    found = score(*pair_of(tmp_path, np.roll(SQUARE, 4, axis=1), SQUARE), tmp_path / "r", metrics=FAST)["mean"]
    assert found == pytest.approx({"iou": 1 / 3, "dice": 1 / 2, "pixel_error": 1 / 2})


def test_the_truth_is_the_second_path(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[4:16, 2:15], labels[4:16, 16:28] = 1, 2
    merged = (labels > 0).astype(np.uint8)
    merged[4:16, 15] = 1
    a, b = pair_of(tmp_path, merged, labels)
    names = {"metrics": "v_rand_split,v_rand_merge,vi_split,vi_merge"}
    merge, split = score(a, b, tmp_path / "r1", **names)["mean"], score(b, a, tmp_path / "r2", **names)["mean"]
    assert merge["v_rand_split"] == split["v_rand_merge"] == 1
    assert merge["v_rand_merge"] < 0.6 > split["v_rand_split"]
    assert merge["vi_split"] == pytest.approx(split["vi_merge"])
    assert merge["vi_merge"] == pytest.approx(split["vi_split"])
    assert merge["vi_merge"] > merge["vi_split"]


def test_the_mean_is_that_of_the_images(folders, worse, tmp_path):
    metrics = score(worse, folders / "masks", tmp_path / "r")
    for name in SCORES:
        assert metrics["mean"][name] == pytest.approx(np.mean([i[name] for i in metrics["images"]]))
    assert [i["pixel_error"] for i in metrics["images"]] == pytest.approx([8 * i / SIZE for i in range(N_IMAGES)])


def test_a_stack_scores_the_mean_of_its_planes(folders, worse, tmp_path):
    a, b = (np.stack([np.array(Image.open(f)) for f in sorted(p.iterdir())]) for p in (worse, folders / "masks"))
    for name, stack in (("a", a), ("b", b)):
        tifffile.imwrite(tmp_path / f"{name}.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    names = {"metrics": "iou,dice,pixel_error,warping_error,rand_error,v_rand,vi_split"}
    stack = score(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "r1", **names)
    planes = score(worse, folders / "masks", tmp_path / "r2", **names)
    assert stack["mean"] == pytest.approx(planes["mean"])
    assert len(stack["images"]) == 1


CONTAINERS = {
    "TIFF": {},
    "store": {"ngff": "0.5"},
    "store of many tiles": {"ngff": "0.5"},
    "store 0.4": {"ngff": "0.4"},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_container_does_not_matter(folders, worse, tmp_path, request, container):
    expected = score(worse, folders / "masks", tmp_path / "r1")
    made = []
    if "tiles" in container:
        request.getfixturevalue("small_tiles")
    for side, folder in (("a", worse), ("b", folders / "masks")):
        made.append(tmp_path / side)
        if container == "TIFF":
            made[-1].mkdir()
            for file in folder.iterdir():
                tifffile.imwrite(made[-1] / f"{file.stem}.ome.tif", np.array(Image.open(file)))
        else:
            prep.run([folder], made[-1], PrepConfig(**CONTAINERS[container]))
    found = score(*made, tmp_path / "r2")
    assert found["mean"] == expected["mean"]
    assert [{**i, "name": ""} for i in found["images"]] == [{**i, "name": ""} for i in expected["images"]]


@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_the_truth_of_a_data_set_is_its_labels(folders, worse, request, tmp_path, kind):
    files = folders / ("ids" if kind == "instances" else "masks")
    expected = score(worse, files, tmp_path / "r1")
    found = score(worse, request.getfixturevalue(kind), tmp_path / "r2")
    assert found["images"] == expected["images"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_integer_probabilities_are_shares_of_the_largest_value(tmp_path, dtype):
    p = np.array([[0.0, 0.4, 0.6, 1.0]] * 4)
    stored = np.round(p * 255).astype(np.uint8) if dtype == "uint8" else p.astype(dtype)
    truth = np.array([[0, 0, 1, 1]] * 4, np.uint8)
    found = score(*pair_of(tmp_path, stored, truth), tmp_path / "r", metrics=FAST, prediction_kind="probabilities")
    assert found["mean"] == {"iou": 1, "dice": 1, "pixel_error": 0}


def test_the_foreground_of_several_classes_is_all_but_the_first(tmp_path):
    truth = np.array([[0, 0, 1, 2] * 4] * 16, np.uint8)
    p = np.stack([truth == c for c in range(3)]).astype(np.float32)
    tifffile.imwrite(tmp_path / "p.tif", p, photometric="minisblack", metadata={"axes": "CYX"})
    found = score(tmp_path / "p.tif", saved(tmp_path / "truth", truth), tmp_path / "r", metrics=FAST)
    assert found["mean"] == {"iou": 1, "dice": 1, "pixel_error": 0}


def test_ids_taken_as_a_mask_join_the_cells_that_touch(folders, tmp_path):
    names = {"metrics": "iou,v_rand"}
    ids = score(folders / "ids", folders / "ids", tmp_path / "r1", **names)["mean"]
    mask = score(folders / "ids", folders / "ids", tmp_path / "r2", prediction_kind="mask", **names)["mean"]
    assert ids == pytest.approx({"iou": 1, "v_rand": 1})
    assert mask["iou"] == 1
    assert mask["v_rand"] < 0.9


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_mask_and_probabilities_of_a_model_agree(folders, instances, trained, tmp_path, small_tiles, dtype):
    mask, p = tmp_path / "mask.zarr", tmp_path / "p.zarr"
    config = PredictConfig(probability_dtype=dtype)
    tile_predict.run(instances, mask, config, model=trained, probabilities=p, device="cpu")
    for i, store in enumerate((mask, p)):
        score(store, folders / "ids", tmp_path / f"r{i}", metrics=FAST)
    a, b = (json.loads((tmp_path / f"r{i}" / "metrics.json").read_text())["mean"] for i in range(2))
    assert a == pytest.approx(b, abs=0 if dtype == "float32" else 0.01)


def test_only_the_metrics_asked_for_are_measured_in_that_order(folders, tmp_path):
    metrics = score(folders / "masks", folders / "masks", tmp_path / "r", metrics="dice, iou")
    assert list(metrics["mean"]) == ["dice", "iou"]
    assert (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0] == "name,dice,iou"


# ------------------------------------------------------------------------------------------- empty images


@pytest.mark.parametrize("shape", [(12, 12), (1, 1), (3, 8, 8)], ids=str)
def test_nothing_found_where_nothing_is(tmp_path, shape):
    empty = np.zeros(shape, np.uint8)
    metrics = score(*pair_of(tmp_path, empty, empty), tmp_path / "r")
    mean = metrics["mean"]
    assert (mean["iou"], mean["dice"], mean["pixel_error"], mean["warping_error"]) == (1, 1, 0, 0)
    assert mean["v_rand"] is None
    assert "no foreground" in metrics["undefined"]["v_rand"]
    assert {p.name for p in (tmp_path / "r").iterdir()} == FILES


@pytest.mark.parametrize("empty", ["prediction", "truth"])
def test_one_side_empty(tmp_path, empty):
    sides = [np.zeros_like(SQUARE), SQUARE]
    mean = score(*pair_of(tmp_path, *(sides if empty == "prediction" else sides[::-1])), tmp_path / "r")["mean"]
    assert (mean["iou"], mean["pixel_error"]) == (0, 0.5)
    assert (mean["v_rand"] is None) == (empty == "truth")


def test_an_undefined_score_is_left_out_of_the_mean_and_empty_in_the_files(tmp_path, cli):
    for side in ("a", "b"):
        saved(tmp_path / side, np.zeros_like(SQUARE), SQUARE)
    assert cli("evaluate", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "r", "--metrics", "v_rand,iou") == 0
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert [i["v_rand"] for i in metrics["images"]] == [None, 1]
    assert metrics["mean"] == {"v_rand": 1, "iou": 1}
    assert rows_of(tmp_path / "r" / "metrics.csv") == [
        {"name": "x_00", "v_rand": "", "iou": "1.0"},
        {"name": "x_01", "v_rand": "1.0", "iou": "1.0"},
    ]
    assert Table((tmp_path / "r" / "report.html").read_text()).rows[1][1] == "undefined"


def test_a_mean_that_is_undefined_is_said_so(tmp_path, cli):
    a, b = pair_of(tmp_path, np.zeros_like(SQUARE), np.zeros_like(SQUARE))
    assert cli("evaluate", a, b, "-o", tmp_path / "r", "--metrics", "v_rand") == 0
    assert re.search(r"v_rand +undefined +higher\s+the truth has no foreground", cli.out)


# ------------------------------------------------------------------------------------------- files


def test_files_and_printed_table_agree(folders, worse, tmp_path, cli):
    out = tmp_path / "r"
    assert cli("evaluate", worse, folders / "masks", "-o", out) == 0
    assert {p.name for p in out.iterdir()} == FILES
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert {"mean", "pooled", "images", "settings", "versions"} < set(metrics)
    assert list(metrics["mean"]) == list(SCORES)
    assert [i["name"] for i in metrics["images"]] == [f"img_{i:02d}" for i in range(N_IMAGES)]

    rows = rows_of(out / "metrics.csv")
    assert [{k: v if k == "name" else float(v) for k, v in row.items()} for row in rows] == metrics["images"]

    _, *body, mean = Table((out / "report.html").read_text()).rows
    expected = [[i["name"], *(format_number(i[n]) for n in SCORES)] for i in metrics["images"]]
    assert body == expected
    assert mean == ["mean", *(format_number(v) for v in metrics["mean"].values())]

    title, _, *lines = cli.out.splitlines()
    assert title == f"{N_IMAGES} images, mean and its 95 % interval; pooled: all together"
    scored = [words for words in map(str.split, lines) if len(words) > 5 and words[0] in SCORES]
    printed = {words[0]: words[1 : 7 if words[0] in metrics["pooled"] else 6] for words in scored}
    assert printed == {
        n: [
            f"{v:.4g}",
            f"{metrics['intervals'][n][0]:.3g}",
            "to",
            f"{metrics['intervals'][n][1]:.3g}",
            *([f"{metrics['pooled'][n]:.4g}"] if n in metrics["pooled"] else []),
            SCORES[n].better,
        ]
        for n, v in metrics["mean"].items()
    }


@pytest.mark.parametrize("width", [80, 300])
def test_nothing_printed_is_cut_off(folders, worse, tmp_path, cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli("evaluate", worse, folders / "masks", "-o", tmp_path / "r", "--compare", folders / "masks") == 0
    assert "…" not in cli.out
    assert max(map(len, cli.out.splitlines())) <= width
    said = " ".join(cli.out.split())
    found = json.loads((tmp_path / "r" / "metrics.json").read_text())
    for name, value in found["mean"].items():
        assert all(part in said for part in found["conventions"][name].split("; "))
        assert f"{name} {value:.4g} {found['comparison']['mean'][name]:.4g} " in said


def test_what_conventions_have_in_common_is_printed_once_and_marked(folders, worse, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli("evaluate", worse, folders / "masks", "-o", tmp_path / "r", "--metrics", "iou,dice,pixel_error,pq") == 0
    *_, iou, dice, error, pq, note = (line.replace("\N{NO-BREAK SPACE}", " ") for line in cli.out.splitlines())
    assert iou.endswith("TP/(TP+FP+FN), 1 if both are empty ¹")
    assert dice.endswith("2TP/(2TP+FP+FN), 1 if both are empty ¹")
    assert error.endswith("share of differing pixels ¹")
    assert pq.endswith("IoU > 0.5; ids of labels, else components of foreground > 0.5, 4-connected, mean over slices")
    assert note == "¹ foreground > 0.5, mean over slices"


def test_what_is_returned_is_what_is_written_and_printed_as_json(folders, worse, tmp_path, cli):
    returned = score(worse, folders / "masks", tmp_path / "r1")
    assert returned == json.loads((tmp_path / "r1" / "metrics.json").read_text())
    assert cli("evaluate", worse, folders / "masks", "-o", tmp_path / "r2", "--json") == 0
    assert cli.json == returned


def test_numbers_are_finite_and_plain(folders, worse, tmp_path):
    score(worse, folders / "masks", tmp_path / "r")

    def refuse(constant):
        raise AssertionError(constant)

    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text(), parse_constant=refuse)
    assert all(type(v) is float and math.isfinite(v) for v in metrics["mean"].values())


def test_the_report_needs_nothing_else_and_shows_worst_and_best(folders, worse, tmp_path):
    score(worse, folders / "masks", tmp_path / "r", images=folders / "images")
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<link" not in text
    assert set(re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)) == set()
    assert "Worst by" in text
    assert "Best by" in text
    for caption in ("image", "truth", "prediction", "errors"):
        assert text.count(f"<figcaption>{caption}</figcaption>") == N_IMAGES


def test_without_the_pictures_the_report_shows_the_rest(folders, worse, tmp_path):
    score(worse, folders / "masks", tmp_path / "r")
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<figcaption>image</figcaption>" not in text
    assert text.count("<figcaption>errors</figcaption>") == N_IMAGES


def test_names_are_escaped_in_the_report(tmp_path):
    a, b = (saved(tmp_path / side, SQUARE, SQUARE, name="<b>&x") for side in "ab")
    score(a, b, tmp_path / "r", metrics=FAST)
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<b>&x" not in text
    assert "&lt;b&gt;&amp;x_00" in text


def test_the_report_tells_the_command(folders, tmp_path):
    score(folders / "masks", folders / "ids", tmp_path / "my report", metrics="iou")
    command = f"unetcli evaluate {folders / 'masks'} {folders / 'ids'} -o '{tmp_path / 'my report'}' --metrics iou"
    (code,) = parse_page((tmp_path / "my report" / "report.html").read_text()).iter("code")
    assert text_of(code) == command


def test_the_settings_tell_how_it_was_made(folders, tmp_path):
    settings = score(folders / "masks", folders / "ids", tmp_path / "r", metrics="iou")["settings"]
    assert settings["metrics"] == ["iou"]
    assert set(settings["inputs"]) >= {"prediction", "truth"}


# ------------------------------------------------------------------------------------------- pairs


def test_truth_without_a_prediction_is_left_out_and_said(folders, tmp_path, cli):
    (tmp_path / "some").mkdir()
    for name in ("img_00.png", "img_02.png"):
        shutil.copy(folders / "masks" / name.replace("img", "mask"), tmp_path / "some" / name)
    assert cli("evaluate", tmp_path / "some", folders / "masks", "-o", tmp_path / "r", "--metrics", FAST) == 0
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert [(i["name"], i["iou"]) for i in metrics["images"]] == [("img_00", 1), ("img_02", 1)]
    assert "mask_01" in (tmp_path / "r" / "report.html").read_text()
    assert "mask_01" in cli.out + cli.err


def a_missing_prediction(folder):
    return folder / "nowhere", saved(folder / "truth", SQUARE), "nowhere"


def a_missing_truth(folder):
    return saved(folder / "predictions", SQUARE), folder / "nowhere", "nowhere"


def an_empty_folder(folder):
    (folder / "nothing").mkdir()
    return saved(folder / "predictions", SQUARE), folder / "nothing", "nothing.*holds no images; expected"


def a_prediction_without_truth(folder):
    truth = saved(folder / "truth", SQUARE, SQUARE)
    return saved(folder / "predictions", SQUARE, SQUARE, SQUARE), truth, r"1 predictions \(x_02\).*expected"


def other_names(folder):
    truth = saved(folder / "truth", SQUARE, SQUARE, name="7_y")
    return saved(folder / "predictions", SQUARE, SQUARE), truth, "x_00, x_01.*7_y_00, 7_y_01.*expected"


def another_size(folder):
    return *pair_of(folder, SQUARE, SQUARE[:, :9]), r"x_00.*truth is yx 16 x 9; expected yx 16 x 16"


def another_number_of_planes(folder):
    stacks = pair_of(folder, np.stack([SQUARE] * 7), np.stack([SQUARE] * 6))
    return *stacks, "x_00.*truth is zyx 6 x 16 x 16; expected zyx 7 x 16 x 16"


def truth_of_floats(folder):
    return *pair_of(folder, SQUARE, SQUARE.astype(np.float32)), "x_00.*labels are float32; expected integers"


def masks_of_channels(folder):
    rgb = np.stack([SQUARE, SQUARE + 1, SQUARE + 2], axis=-1)
    return *pair_of(folder, rgb, SQUARE), "x_00.*has 3 channels of uint8; expected one"


def values_above_one(folder):
    return *pair_of(folder, SQUARE * np.float32(2.5), SQUARE), "x_00.*2.5.*expected probabilities"


def values_that_are_no_numbers(folder):
    return *pair_of(folder, np.where(SQUARE, np.nan, 0).astype(np.float32), SQUARE), "x_00.*nan in places; expected"


def negative_ids(folder):
    return *pair_of(folder, SQUARE, SQUARE.cumsum(axis=1, dtype=np.int32) - 5), "x_00.*-4.*expected"


def a_damaged_file(folder):
    a, b = pair_of(folder, SQUARE, SQUARE)
    (b / "x_00.npy").write_bytes((b / "x_00.npy").read_bytes()[:-5])
    return a, b, "x_00.npy"


def a_text_file(folder):
    (folder / "scores.txt").write_text("iou 0.9")
    return saved(folder / "predictions", SQUARE), folder / "scores.txt", "scores.txt.*expected TIFF"


BAD = [
    a_missing_prediction, a_missing_truth, an_empty_folder, a_prediction_without_truth, other_names, another_size,
    another_number_of_planes, truth_of_floats, masks_of_channels, values_above_one, values_that_are_no_numbers,
    negative_ids, a_damaged_file, a_text_file,
]  # fmt: skip
MENDABLE = [
    an_empty_folder, a_prediction_without_truth, other_names, another_size, masks_of_channels, values_above_one,
]  # fmt: skip


def named(function):
    return function.__name__.replace("_", " ")


@pytest.mark.parametrize("make", BAD, ids=named)
def test_bad_input_is_refused_by_its_name_and_nothing_is_written(tmp_path, make, cli):
    prediction, truth, said = make(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        score(prediction, truth, tmp_path / "r")
    assert cli("evaluate", prediction, truth, "-o", tmp_path / "r") == 3
    assert cli.out == ""
    assert cli.err.startswith(f"error: {caught.value}")
    assert len(cli.err.splitlines()) == 1 + bool(caught.value.fix)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("make", MENDABLE, ids=named)
def test_where_there_is_a_remedy_it_is_named(tmp_path, make):
    prediction, truth, _ = make(tmp_path)
    with pytest.raises(InputError) as caught:
        score(prediction, truth, tmp_path / "r")
    assert caught.value.fix


@pytest.mark.parametrize("what", ["image", "collection"])
def test_an_unfinished_prediction_is_refused_as_such(folders, trained, tmp_path, small_tiles, what):
    images = folders / "images"
    prep.run([images / "img_00.png" if what == "image" else images], tmp_path / "d", PrepConfig())

    def predict(name, progress):
        tile_predict.run(
            tmp_path / "d", tmp_path / name, PredictConfig(), model=trained, device="cpu", progress=progress
        )

    calls = count_calls(lambda p: predict("whole", p))
    for after in range(0, calls, max(1, calls // 4)):
        with pytest.raises(Stopped):
            predict(f"stopped_{after}", stop_after(after))
        with pytest.raises(InputError, match="is not complete"):
            score(tmp_path / f"stopped_{after}", folders / "masks", tmp_path / "r")


@pytest.mark.parametrize("shape", [(5, 5), (40, 40), (3, 16, 16)], ids=str)
def test_pictures_of_another_size_are_refused(tmp_path, shape):
    a, b = pair_of(tmp_path, SQUARE, SQUARE)
    picture = saved(tmp_path / "pictures", np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=r"x_00.*expected"):
        score(a, b, tmp_path / "r", images=picture)
    assert not (tmp_path / "r").exists()


def test_pictures_without_their_prediction_are_refused(tmp_path):
    a, b = (saved(tmp_path / side, SQUARE, SQUARE) for side in "ab")
    with pytest.raises(InputError, match=r"x_00, x_01.*7_y_00, 7_y_01"):
        score(a, b, tmp_path / "r", images=saved(tmp_path / "pictures", SQUARE, SQUARE, name="7_y"))


# ------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ("iou=0.9", ["iou is 0.8"]),
        ("pixel_error=0.05", ["pixel_error is 0.1,"]),
        ("dice=0.99, iou=0.9,pixel_error=0.5", ["dice is 0.9", "iou is 0.8"]),
    ],
    ids=["higher is better", "lower is better", "two of three"],
)
def test_below_a_bound_the_report_is_written_and_printed_and_the_exit_code_is_7(
    folders, worse, tmp_path, cli, bounds, said
):
    out = tmp_path / "r"
    with pytest.raises(BelowBoundError):
        score(worse, folders / "masks", out, metrics=FAST, fail_under=bounds)
    assert {p.name for p in out.iterdir()} == FILES
    assert len(json.loads((out / "metrics.json").read_text())["images"]) == N_IMAGES
    arguments = ["evaluate", worse, folders / "masks", "-o", out, "--metrics", FAST, "--fail-under", bounds]
    assert cli(*arguments) == 7
    report, error = cli.err.splitlines()
    assert report == f"report: {out / 'report.html'}"
    assert error.startswith("error: ")
    assert [part.split(" is ")[0].removeprefix("error: ") for part in error.split("; ")] == [
        text.split(" is ")[0] for text in said
    ]
    for text in said:
        assert text in error
    assert re.search(r"^pixel_error +0\.1 ", cli.out, flags=re.MULTILINE)  # the table of all scores


@pytest.mark.parametrize("bounds", ["iou=1", "pixel_error=0", "iou=1,pixel_error=0,dice=0.5", "iou=0.5,"])
def test_a_bound_that_is_just_met_is_met(folders, tmp_path, bounds):
    score(folders / "masks", folders / "masks", tmp_path / "r", metrics=FAST, fail_under=bounds)


def test_an_undefined_mean_meets_no_bound(tmp_path):
    a, b = pair_of(tmp_path, SQUARE, np.zeros_like(SQUARE))
    with pytest.raises(BelowBoundError, match=r"v_rand is undefined, asked for 0\.1"):
        score(a, b, tmp_path / "r", fail_under="v_rand=0.1")


def test_a_bound_is_not_passed_by_what_was_never_predicted(folders, tmp_path):
    some = tmp_path / "some"
    some.mkdir()
    first = sorted((folders / "masks").iterdir())[0]
    shutil.copy(first, some / first.name)
    score(some, folders / "masks", tmp_path / "r", metrics=FAST)
    with pytest.raises(InputError, match="can not be paired"):
        score(some, folders / "masks", tmp_path / "r2", metrics=FAST, fail_under="iou=0.1")


@pytest.mark.parametrize(
    "bounds", ["iou", "iou=", "iou=good", "iou=0.9=1", "=1", "v_rand=0.5", "iou=nan", "0.9", "iou=0.9,iou=0.1"]
)
def test_a_bound_that_makes_no_sense_is_refused_before_anything_is_written(folders, tmp_path, bounds):
    with pytest.raises(ConfigError, match="--fail-under"):
        score(folders / "masks", folders / "masks", tmp_path / "r", metrics=FAST, fail_under=bounds)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", ["", ",", "iou,f2", "IoU"])
def test_unknown_metrics_are_refused_with_those_there_are(folders, tmp_path, names):
    with pytest.raises(ConfigError, match=r"--metrics.*expected some of iou, dice") as caught:
        score(folders / "masks", folders / "masks", tmp_path / "r", metrics=names)
    assert not list(tmp_path.iterdir())
    assert "f2" in str(caught.value) or "f2" not in names


def test_a_misspelt_metric_is_spelled(folders, tmp_path):
    with pytest.raises(ConfigError, match="does not know iuo, V_Rand; expected") as caught:
        score(folders / "masks", folders / "masks", tmp_path / "r", metrics="iuo,dice,V_Rand")
    assert caught.value.fix == "--metrics iou,dice,v_rand"


# ------------------------------------------------------------------------------------------- once more


def test_once_more_gives_the_same_bytes(folders, worse, tmp_path):
    score(worse, folders / "masks", tmp_path / "r")
    before = files_of(tmp_path / "r")
    score(worse, folders / "masks", tmp_path / "r")
    assert files_of(tmp_path / "r") == before


def test_other_settings_are_refused_by_name_and_overwrite_replaces(folders, worse, tmp_path):
    score(worse, folders / "masks", tmp_path / "r", metrics="iou")
    before = files_of(tmp_path / "r")
    with pytest.raises(ConfigError, match=r'r: .*settings: metrics was "iou", is "iou,dice"$') as caught:
        score(worse, folders / "masks", tmp_path / "r", metrics="iou,dice")
    assert "--overwrite" in caught.value.fix
    assert files_of(tmp_path / "r") == before
    score(worse, folders / "masks", tmp_path / "r", metrics="dice", overwrite=True)
    assert list(json.loads((tmp_path / "r" / "metrics.json").read_text())["mean"]) == ["dice"]


@pytest.mark.parametrize("changed", ["prediction", "truth"])
def test_another_input_is_refused_by_name(folders, worse, copy_of, tmp_path, changed):
    sides = {"prediction": worse, "truth": copy_of(folders / "masks", "truth")}
    score(*sides.values(), tmp_path / "r", metrics=FAST)
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(next(sides[changed].iterdir()))
    with pytest.raises(ConfigError, match=rf"r: .*{changed}"):
        score(*sides.values(), tmp_path / "r", metrics=FAST)
    score(*sides.values(), tmp_path / "r", metrics=FAST, overwrite=True)


def test_stopped_anywhere_nothing_is_written_and_once_more_completes(folders, worse, tmp_path):
    config = EvaluateConfig(metrics=FAST)
    for after in range(N_IMAGES):
        with pytest.raises(Stopped):
            evaluate.run(worse, folders / "masks", tmp_path / "r", config, progress=stop_after(after))
        assert not (tmp_path / "r").exists()
    score(worse, folders / "masks", tmp_path / "r", metrics=FAST)


@pytest.mark.parametrize("last", ["report.html", "metrics.csv"])
def test_killed_between_two_files_once_more_completes(folders, worse, tmp_path, last):
    score(worse, folders / "masks", tmp_path / "whole", metrics=FAST)
    order = sorted(FILES, key=lambda name: (tmp_path / "whole" / name).stat().st_mtime_ns)
    (tmp_path / "killed").mkdir()
    for name in order[: order.index(last) + 1]:
        shutil.copy(tmp_path / "whole" / name, tmp_path / "killed")
    score(worse, folders / "masks", tmp_path / "killed", metrics=FAST)
    assert {p.name for p in (tmp_path / "killed").iterdir()} == FILES


def test_killed_while_a_file_was_written_once_more_completes(folders, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".metrics.json.1234.partial").write_text('{"schema"')
    score(folders / "masks", folders / "masks", tmp_path / "r", metrics=FAST)
    assert {p.name for p in (tmp_path / "r").iterdir()} >= FILES


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("name", sorted(FILES))
def test_what_can_not_be_written_is_said_and_no_files_of_different_settings_stay_together(
    folders, tmp_path, cli, monkeypatch, name, number
):
    arguments = ["evaluate", folders / "masks", folders / "masks", "-o", tmp_path / "r", "--overwrite", "--metrics"]
    assert cli(*arguments, "iou") == 0
    replace = Path.replace

    def fail(path, target):
        if Path(target).name == name:
            raise OSError(number, os.strerror(number))
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert cli(*arguments, "dice") == 3
    assert cli.err == f"error: {tmp_path / 'r'}: can not be written ({os.strerror(number)})\n"
    left = files_of(tmp_path / "r")
    assert list(left) in (["r/metrics.json"], ["r/metrics.json", "r/metrics.csv"], ["r/metrics.csv", "r/metrics.json"])
    assert len({b"iou" in content for content in left.values()}) == 1
    assert cli(*arguments, "dice") == 0
    assert {path.name for path in (tmp_path / "r").iterdir()} == FILES


@pytest.mark.parametrize("place", ["r", "r/s/t", "there"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_place_that_can_not_be_written_is_refused_before_anything_is_measured(
    folders, tmp_path, monkeypatch, place, dry_run
):
    (tmp_path / "there").mkdir()

    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(evaluate.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(evaluate, "make_plan", None)
    with pytest.raises(InputError, match=rf"{place}: can not be written \(Permission denied\)"):
        score(folders / "masks", folders / "masks", tmp_path / place, metrics=FAST, dry_run=dry_run)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"metrics.csv": "mine"}], ids=["notes", "a table"])
def test_a_folder_of_something_else_is_left_alone(folders, tmp_path, content, overwrite):
    (tmp_path / "r").mkdir()
    for name, text in content.items():
        (tmp_path / "r" / name).write_text(text)
    with pytest.raises(InputError, match=r"r: exists and is not a report") as caught:
        score(folders / "masks", folders / "masks", tmp_path / "r", metrics=FAST, overwrite=overwrite)
    assert caught.value.fix
    assert {p.name: p.read_text() for p in (tmp_path / "r").iterdir()} == content


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 3}', '{"accuracy": 0.9}'])
def test_metrics_of_another_program_are_refused_in_one_line(folders, tmp_path, cli, text):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "metrics.json").write_text(text)
    assert cli("evaluate", folders / "masks", folders / "masks", "-o", tmp_path / "r", "--metrics", FAST) in (3, 4)
    assert cli.err.startswith(f"error: {tmp_path / 'r'}")
    assert (tmp_path / "r" / "metrics.json").read_text() == text


def test_an_empty_folder_is_a_place_for_the_report(folders, tmp_path):
    (tmp_path / "r").mkdir()
    score(folders / "masks", folders / "masks", tmp_path / "r", metrics=FAST)
    assert {p.name for p in (tmp_path / "r").iterdir()} == FILES


@pytest.mark.parametrize("place", ["file", "file/r"])
def test_a_file_is_no_place_for_the_report(folders, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / place))):
        score(folders / "masks", folders / "masks", tmp_path / place, metrics=FAST)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["", "truth", "predictions", "truth/r.zarr"])
def test_the_inputs_are_never_touched(tmp_path, place, overwrite):
    a, b = pair_of(tmp_path, SQUARE, SQUARE)
    prep.run([b], b / "r.zarr", PrepConfig())
    before = files_of(a, b)
    with pytest.raises(UnetcliError):
        score(a, b / "r.zarr" if "zarr" in place else b, tmp_path / place, metrics=FAST, overwrite=overwrite)
    assert files_of(a, b) == before


def test_dry_run_writes_nothing_and_says_the_pairs(folders, tmp_path):
    planned = score(folders / "masks", folders / "ids", tmp_path / "r", dry_run=True)
    assert not list(tmp_path.iterdir())
    assert len(planned["pairs"]) == N_IMAGES
    assert "mask_00" in planned["pairs"][0]
    assert "ids_00" in planned["pairs"][0]


def test_dry_run_finds_the_mistakes_too(tmp_path):
    a, b, _ = another_size(tmp_path)
    with pytest.raises(InputError):
        score(a, b, tmp_path / "r", dry_run=True)


def test_progress_counts_the_images(folders, tmp_path):
    calls = []
    config = EvaluateConfig(metrics=FAST)
    evaluate.run(
        folders / "masks", folders / "masks", tmp_path / "r", config, progress=lambda *call: calls.append(call)
    )
    assert calls[-1] == (N_IMAGES, N_IMAGES)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_paths_may_be_relative(in_tmp):
    labels = cells((30, 40), 3)[1]
    np.save("p.npy", labels)
    np.save("t.npy", labels)
    assert score(Path("p.npy"), Path("t.npy"), Path("r"), metrics=FAST)["mean"]["iou"] == 1


def test_of_several_classes_the_likeliest_counts_as_in_a_mask(tmp_path):
    p = np.array([0.4, 0.3, 0.3], np.float32)[:, None, None] * np.ones((3, 8, 8), np.float32)
    np.save(tmp_path / "p.npy", p)
    prep.run([tmp_path / "p.npy"], tmp_path / "p.zarr", PrepConfig(axes="cyx"))
    truth = saved(tmp_path / "truth", np.eye(8, dtype=np.uint8))
    found = score(tmp_path / "p.zarr", truth, tmp_path / "r", metrics="iou", prediction_kind="probabilities")
    assert found["mean"]["iou"] == 0  # class 0 is the likeliest everywhere
    assert any("data set of unetcli prep" in note for note in found["notes"])
