"""Values that published software gave on the same pairs: every target in scope, within its tolerance."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from unetcli.metrics.distances import assd, boundary_f, edge_distances, hausdorff, hd95
from unetcli.metrics.measuring import score_curves, score_image
from unetcli.metrics.objects import (
    aji,
    average_precision,
    count_matches,
    det,
    mean_average_precision,
    panoptic_quality,
    seg,
)
from unetcli.metrics.partitions import (
    ADAPTED_RAND_VARIANTS,
    adapted_rand,
    adapted_rand_error,
    components,
    fg_rand_fscore,
    fg_vi_nats,
    foreground_pair_sums,
    pair_sums,
    rand_error,
    thin_borders,
    v_info,
    v_rand,
    vi,
)
from unetcli.metrics.pixels import dice, iou, max_pixel_fscore, pixel_error, pixel_fscore
from unetcli.metrics.tables import confusion_table, contingency_table
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, HALF, foreground, to_probabilities
from unetcli.metrics.topology import classify_leftover, count_classes, warp, warping_types

FOLDER = Path(__file__).parents[3] / "shared" / "metrics"
CASES = json.loads((FOLDER / "cases.json").read_text())["cases"] if (FOLDER / "cases.json").exists() else []

pytestmark = pytest.mark.skipif(not CASES, reason="no reference values beside the repository: shared/metrics")


def read(entry, gt=None):
    """Read an array of a case, by the rule that the case states."""
    if "file" in entry:
        return imread(FOLDER / entry["file"]) > 0
    with np.load(FOLDER / "cases.npz") as arrays:
        array = arrays[entry["npz"]]
    rule = entry.get("rule", "")
    if rule.startswith("pred = "):
        factor = int(rule.removeprefix("pred = (").split(" ")[0])
        return ((factor * gt.astype(np.int64) + array) % 256).astype(np.uint8)
    return (gt == 0) ^ (array != 0) if rule else array


class Case:
    """Slices of one pair, and what the metrics below share. Of labels, ids are the segments."""

    def __init__(self, case):
        gt = read(case["gt"])
        prediction = read(case["pred"], gt)
        self.mask = read(case["mask"], gt) if "mask" in case else None
        shape = (-1, *gt.shape[-2:])
        if case["kind"] == "labels":
            self.truth, self.prediction = gt.reshape(shape), prediction.reshape(shape)
            self.tables = [contingency_table(gt, prediction)]
            return
        self.truth = (gt != 0).reshape(shape)
        self.prediction = prediction.reshape(shape) != 0  # a mask ...
        self.probabilities = self.prediction.astype(np.float32)
        if case["kind"] == "prob":
            self.prediction = self.probabilities = to_probabilities(prediction).reshape(shape)  # ... or a map
        self.masks = masks = [foreground(p, HALF) for p in self.probabilities]
        self.distances = edge_distances(self.truth[0], masks[0])
        self.segments = [(components(t), components(m)) for t, m in zip(self.truth, masks, strict=True)]
        self.tables = [contingency_table(*pair) for pair in self.segments]
        self.thinned = [contingency_table(t, thin_borders(p)) for t, p in self.segments]
        self.confusions = [confusion_table(t, m) for t, m in zip(self.truth, masks, strict=True)]
        self.warpings = [self.warp(i, HALF) for i in range(len(self.truth))]
        self.types = [warping_types(warping) for warping in self.warpings]

    def warp(self, i, threshold):
        return warp(self.truth[i], self.probabilities[i], threshold=threshold, mask=self.mask)

    def split_and_merge(self):
        classes = [classify_leftover(self.warp(0, t)) for t in CHALLENGE_THRESHOLDS[:-1]]
        return [[count_classes(c)["split"], count_classes(c)["merge"]] for c in classes]

    def score(self, name):
        return score_image(self.truth, self.prediction, names=[name])[name]

    def curve(self, name):
        return score_curves(self.truth, self.prediction, names=[name])[name]


def rand_fscore(case):
    both, truth, prediction = np.sum([pair_sums(table) for table in case.tables], axis=0)
    n = sum(table.n_pixels for table in case.tables)
    return 2 * (both - n) / (truth + prediction - 2 * n)


def fg_rand_index(case):
    def index(table):
        both, truth, prediction = foreground_pair_sums(table)
        return 1 - (truth + prediction - 2 * both) / table.counts[table.truth_ids != 0].sum() ** 2

    return np.mean([index(table) for table in case.tables])


def adjusted_rand_index(case):
    """Pairs are n (n - 1)."""
    n = case.tables[0].n_pixels
    both, truth, prediction = (total - n for total in pair_sums(case.tables[0]))
    expected = truth * prediction / (n * (n - 1))
    return (both - expected) / ((truth + prediction) / 2 - expected) if truth + prediction != 2 * expected else 1.0


def boundary_of(case, row):
    """With a tolerance of so many pixels, or of a share of the diagonal."""
    tolerance = row["params"].get("tolerance_px", np.ceil(0.008 * np.hypot(*case.masks[0].shape)))
    return boundary_f(case.truth[0], case.masks[0], tolerance)


def surface_dice(case, row):
    distances = np.concatenate(case.distances)
    return np.mean(distances <= row["params"]["tolerance_px"]) if case.distances.is_defined else 0


def found_and_iou(case, row):
    """True positives at a threshold, and the sum of their IoU, which is one where no object has two partners."""
    objects, k = case.tables[0].objects, round(20 * row["params"]["iou"])
    ious = (objects.shared / objects.union)[20 * objects.shared >= k * objects.union]
    n = count_matches(objects, k)
    return objects, n, ious[:n].sum()  # of ties at 0.5 all are the same


def matching(case, row):
    objects, n, _ = found_and_iou(case, row)
    return [n, objects.n_prediction - n, objects.n_truth - n]


def precision_recall_f1(case, row):
    objects, n, _ = found_and_iou(case, row)
    if not n:
        return [0, 0, 0]
    return [n / objects.n_prediction, n / objects.n_truth, 2 * n / (objects.n_truth + objects.n_prediction)]


def mean_matched_iou(case, row):
    _, n, total = found_and_iou(case, row)
    return total / n if n else 0


def mean_true_iou(case, row):
    objects, _, total = found_and_iou(case, row)
    return total / objects.n_truth


def max_fg_rand_fscore(case):
    def table(t):
        return contingency_table(components(case.truth[0]), components(case.probabilities[0] > np.float64(t)))

    return max(fg_rand_fscore(table(t)) for t in CHALLENGE_THRESHOLDS)


METRICS = {
    "iou": lambda case: np.mean([iou(table) for table in case.confusions]),
    "dice": lambda case: np.mean([dice(table) for table in case.confusions]),
    "pixel_error": lambda case: np.mean([pixel_error(table) for table in case.confusions]),
    "pixel_fscore": lambda case: pixel_fscore(np.sum(case.confusions, axis=0)),
    "max_pixel_fscore": lambda case: max_pixel_fscore(case.truth, case.probabilities),
    "min_pixel_error": lambda case: min(case.curve("pixel_error")),
    "warping_error": lambda case: np.mean([warping.error for warping in case.warpings]),
    "warping_mismatches": lambda case: sum(warping.n_leftover for warping in case.warpings),
    "warping_mismatches_per_threshold": lambda case: [case.warp(0, t).n_leftover for t in CHALLENGE_THRESHOLDS[:-1]],
    "min_warping_error": lambda case: case.score("min_warping_error"),
    "splits_and_mergers_per_threshold": Case.split_and_merge,
    "min_splits_mergers_error": lambda case: min(map(sum, case.split_and_merge())) / case.truth.size,
    "n_components": lambda case: [ids.max() for ids in case.segments[0]],
    "rand_error": lambda case: np.mean([rand_error(table) for table in case.tables]),
    "rand_fscore": rand_fscore,
    "fg_rand_index": fg_rand_index,
    "fg_rand_fscore": lambda case: fg_rand_fscore(*case.tables),
    "fg_rand_precision": lambda case: v_rand(*case.tables).merge,
    "fg_rand_recall": lambda case: v_rand(*case.tables).split,
    "max_fg_rand_fscore": max_fg_rand_fscore,
    "fg_v_info": lambda case: np.mean([v_info(table) for table in case.tables]),
    "fg_vi_nats": lambda case: np.mean([fg_vi_nats(table) for table in case.tables]),
    "v_rand_thinned": lambda case: np.mean([v_rand(table).fscore for table in case.thinned]),
    "v_rand_thinned_split(recall)": lambda case: np.mean([v_rand(table).split for table in case.thinned]),
    "v_rand_thinned_merge(precision)": lambda case: np.mean([v_rand(table).merge for table in case.thinned]),
    "v_rand_thinned_pooled": lambda case: v_rand(*case.thinned).fscore,
    "v_rand_thinned_per_threshold": lambda case: case.curve("v_rand"),
    "max_v_rand_thinned": lambda case: case.score("v_rand"),
    "v_info_thinned": lambda case: np.mean([v_info(table) for table in case.thinned]),
    "v_info_thinned_per_threshold": lambda case: case.curve("v_info"),
    "max_v_info_thinned": lambda case: case.score("v_info"),
    "vi_split_merge_bits": lambda case: vi(case.tables[0]),
    "vi_split_merge_bits_ignore_gt0": lambda case: vi(case.tables[0], ignore_truth_background=True),
    "adapted_rand_error": lambda case: adapted_rand_error(case.tables[0]),
    "adapted_rand_precision": lambda case: adapted_rand(case.tables[0]).merge,
    "adapted_rand_recall": lambda case: adapted_rand(case.tables[0]).split,
    "adjusted_rand_index": adjusted_rand_index,
    "seg": lambda case: seg(case.tables[0]),
    "det": lambda case: det(case.tables[0]),
    "mean_average_precision": lambda case: mean_average_precision(case.tables[0]),
    "panoptic_quality": lambda case: panoptic_quality(case.tables[0]).pq,
    "segmentation_quality": lambda case: panoptic_quality(case.tables[0]).sq,
    "recognition_quality": lambda case: panoptic_quality(case.tables[0]).rq,
    "hausdorff": lambda case: hausdorff(case.distances),
    "hd95": lambda case: hd95(case.distances),
    "assd": lambda case: assd(case.distances),
}

WITH_PARAMETERS = {
    "boundary_f": boundary_of,
    "surface_dice": surface_dice,
    "matching": matching,
    "precision_recall_f1": precision_recall_f1,
    "mean_matched_iou": mean_matched_iou,
    "mean_true_iou": mean_true_iou,
}

CLASS_COUNTS = {"warping_types": "pixels", "warping_clusters": "clusters"}

SCORED = {  # where `score_image` gives the same value
    "seg": "seg",
    "det": "det",
    "mean_average_precision": "mean_ap",
    "panoptic_quality": "pq",
    "segmentation_quality": "sq",
    "recognition_quality": "rq",
    "hausdorff": "hausdorff",
    "hd95": "hd95",
    "assd": "assd",
    "iou": "iou",
    "dice": "dice",
    "pixel_error": "pixel_error",
    "max_pixel_fscore": "max_pixel_fscore",
    "min_warping_error": "min_warping_error",
    "rand_error": "rand_error",
    "fg_rand_fscore": "fg_rand_fscore",
    "adapted_rand_error": "adapted_rand_error",
    "max_v_rand_thinned": "v_rand",
    "max_v_info_thinned": "v_info",
}


def rows(metrics, status, where=lambda _case, _row: True):
    """Every row of these metrics, as test parameters."""
    return [
        pytest.param(case["id"], row, id=f"{case['id']}-{row['metric']}-{row['tool']}")
        for case in CASES
        for row in case["reference"]
        if row["metric"] in metrics and row["status"] == status and where(case, row)
    ]


@cache
def load(case_id):
    return Case(next(case for case in CASES if case["id"] == case_id))


@pytest.mark.parametrize(("case_id", "row"), rows(METRICS, "target"))
def test_target(case_id, row):
    found = np.asarray(METRICS[row["metric"]](load(case_id)))
    np.testing.assert_allclose(found, row["value"], rtol=0, atol=row["tol"])


@pytest.mark.parametrize(("case_id", "row"), rows(CLASS_COUNTS, "target"))
def test_classes_and_clusters_are_equal(case_id, row):
    kind = CLASS_COUNTS[row["metric"]]
    found = [{name: getattr(left, kind) for name, left in types.items()} for types in load(case_id).types]
    assert found == row["value"]


@pytest.mark.parametrize(("case_id", "row"), rows(WITH_PARAMETERS, "target"))
def test_target_with_parameters(case_id, row):
    found, value = WITH_PARAMETERS[row["metric"]](load(case_id), row), row["value"]
    expected = list(value.values()) if isinstance(value, dict) else value
    np.testing.assert_allclose(found, expected, rtol=0, atol=row.get("tol", 0))


@pytest.mark.parametrize(("case_id", "row"), rows(["aggregated_jaccard_index"], "variant"))
def test_one_to_one_aji(case_id, row):
    assert aji(load(case_id).tables[0]) == pytest.approx(row["value"], rel=0, abs=row["tol"])


def test_every_target_is_looked_at():
    known = {*METRICS, *WITH_PARAMETERS, *CLASS_COUNTS, "average_precision"}
    named = {row["metric"] for case in CASES for row in case["reference"] if row["status"] == "target"}
    assert named <= known


@pytest.mark.parametrize(("case_id", "row"), rows(["average_precision"], "target"))
def test_average_precision(case_id, row):
    thresholds = np.atleast_1d(row["params"]["iou"])
    found = [average_precision(load(case_id).tables[0], round(20 * u)) for u in thresholds]
    np.testing.assert_allclose(found, np.atleast_1d(row["value"]), rtol=0, atol=row["tol"])


@pytest.mark.parametrize(("case_id", "row"), rows(["warping_mismatches_per_threshold"], "variant"))
def test_warping_at_each_threshold(case_id, row):
    assert METRICS[row["metric"]](load(case_id)) == row["value"]


@pytest.mark.parametrize(
    ("case_id", "row"),
    rows(["adapted_rand_error"], "variant", lambda _, row: "ignore_labels" not in row.get("params", {})),
)
def test_adapted_rand_of_scikit_image(case_id, row):
    found = ADAPTED_RAND_VARIANTS["scikit-image"](load(case_id).tables[0])
    assert found == pytest.approx(row["value"], rel=0, abs=row["tol"])


@pytest.mark.parametrize(
    ("case_id", "row"), rows([*SCORED, "warping_error"], "target", lambda case, _: "mask" not in case)
)
def test_score_image_gives_the_same(case_id, row):
    found = load(case_id).score(SCORED.get(row["metric"], row["metric"]))
    assert found == pytest.approx(row["value"], rel=0, abs=row["tol"])


@pytest.mark.parametrize(
    ("case_id", "row"),
    rows(METRICS.keys() - {"iou", "dice", "seg", "det"}, "undefined"),  # those are 1, 1, 0 and 0 by choice
)
def test_undefined_is_nan(case_id, row):
    assert np.all(np.isnan(METRICS[row["metric"]](load(case_id))))
