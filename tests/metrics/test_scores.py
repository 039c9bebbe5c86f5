"""The table of scores, and how slices and thresholds become one number."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.extra import numpy as hnp

from unetcli import metrics
from unetcli.errors import ConfigError, InputError
from unetcli.metrics.measuring import score_curves, score_image
from unetcli.metrics.partitions import components, rand_error, thin_borders, v_rand
from unetcli.metrics.pixels import max_pixel_fscore
from unetcli.metrics.scores import CURVES, SCORES
from unetcli.metrics.tables import contingency_table
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS
from unetcli.metrics.topology import warping_error

V_RAND = ["v_rand", "v_rand_split", "v_rand_merge"]
FOREGROUND_ONLY = [*V_RAND, "v_info", "fg_rand_fscore", "seg", "det"]
FOREGROUND_ONLY += [name for name in SCORES if name.startswith("adapted_rand_error")]
OF_OBJECTS = [*(name for name in SCORES if name.startswith("ap")), "mean_ap", "pq", "sq", "rq", "aji"]
OF_EDGES = ["hausdorff", "hd95", "assd"]


def stack(n=3, size=24, seed=0):
    """A stack of random cells, and a map that mostly agrees with them."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(rng.random((n, size // 4, size // 4)) < 0.6, 4, 1), 4, 2)
    return truth, np.clip(0.6 * truth + 0.4 * rng.random(truth.shape), 0, 1).astype(np.float32)


def thinned_v_rand(truth, probabilities, threshold):
    thinned = thin_borders(components(probabilities > np.float64(threshold)))
    return v_rand(contingency_table(components(truth), thinned))


def test_every_score_is_offered_and_explained():
    assert list(score_image(*stack())) == list(SCORES)
    for name, score in SCORES.items():
        assert score.better in ("higher", "lower")
        assert score.convention, name
        assert "\n" not in score.convention
        assert score.search in (None, *SCORES)


@settings(max_examples=25)
@given(hnp.arrays(bool, (2, 6, 7)))
def test_identical_pair_is_perfect(truth):
    assume(truth.any(axis=(1, 2)).all())
    pairs_of_pixels = [name for name in SCORES if name.startswith("v_") or name == "adapted_rand_error_scikit_image"]
    scores = score_image(truth, truth, names=[name for name in SCORES if name not in pairs_of_pixels])
    for name, value in scores.items():
        assert value == (1 if SCORES[name].better == "higher" else 0), name


def test_identical_cells_are_perfect_when_thinned():
    truth = np.ones((1, 9, 9), bool)
    truth[:, :, 4] = False
    assert set(score_image(truth, truth, names=[*V_RAND, "v_info"]).values()) == {1.0}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("warping_error", warping_error),
        ("rand_error", lambda t, p: rand_error(contingency_table(components(t), components(p > 0.5)))),
        ("pixel_error", lambda t, p: np.mean(t != (p > 0.5))),
    ],
)
def test_image_is_the_mean_of_its_slices(name, function):
    truth, prediction = stack()
    slices = [function(t, p) for t, p in zip(truth, prediction, strict=True)]
    assert score_image(truth, prediction, names=[name])[name] == pytest.approx(np.mean(slices))


def test_v_rand_is_taken_where_its_mean_is_best():
    truth, prediction = stack()
    parts = [
        [thinned_v_rand(t, p, threshold) for t, p in zip(truth, prediction, strict=True)]
        for threshold in CHALLENGE_THRESHOLDS
    ]
    means = np.mean(parts, axis=1)  # (threshold, part)
    scores = score_image(truth, prediction, names=V_RAND)
    assert [scores[name] for name in V_RAND] == pytest.approx(means[means[:, 0].argmax()])
    assert score_image(truth, prediction, names=["v_rand_merge"])["v_rand_merge"] == scores["v_rand_merge"]


def test_min_warping_error_ends_at_0_9():
    truth, prediction = stack(n=1)
    errors = [warping_error(truth[0], prediction[0], threshold=t) for t in CHALLENGE_THRESHOLDS[:-1]]
    assert score_image(truth, prediction, names=["min_warping_error"]) == {"min_warping_error": min(errors)}
    late = score_image(truth, prediction, names=["min_warping_error"], thresholds=[0.95])
    assert late == {"min_warping_error": None}


def test_max_pixel_fscore_pools_slices():
    truth, prediction = stack()
    score = score_image(truth, prediction, names=["max_pixel_fscore"])["max_pixel_fscore"]
    assert score == pytest.approx(max_pixel_fscore(truth, prediction))


def test_fg_rand_fscore_pools_slices():
    truth, prediction = stack()
    tables = [contingency_table(components(t), components(p > 0.5)) for t, p in zip(truth, prediction, strict=True)]
    score = score_image(truth, prediction, names=["fg_rand_fscore"])["fg_rand_fscore"]
    assert score == pytest.approx(v_rand(*tables).fscore)


def test_undefined_is_none_with_a_reason():
    empty = np.zeros((2, 8, 8), bool)
    scores = score_image(empty, empty)
    undefined = [name for name, value in scores.items() if value is None]
    assert sorted(undefined) == sorted([*FOREGROUND_ONLY, *OF_OBJECTS, *OF_EDGES])
    assert {SCORES[name].undefined for name in OF_OBJECTS} == {"neither side has an object"}
    assert {SCORES[name].undefined for name in OF_EDGES} == {"a side has no foreground"}
    assert {SCORES[name].undefined for name in FOREGROUND_ONLY[:-1]} == {"the truth has no foreground"}
    assert scores["iou"] == scores["dice"] == scores["boundary_f"] == 1


def test_undefined_slices_are_left_out_of_the_mean():
    truth, prediction = stack(n=2)
    truth[1] = False
    both, first = (score_image(truth[:n], prediction[:n], names=["v_rand"]) for n in (2, 1))
    assert both == first


def test_labels_are_scored_by_their_ids():
    truth = np.array([[[1, 1, 2, 2]]])
    scores = score_image(truth, np.ones_like(truth), names=["rand_error", "iou"])
    assert scores == {"rand_error": pytest.approx(4 / 6), "iou": 1.0}
    assert score_image(truth != 0, np.ones_like(truth), names=["rand_error"]) == {"rand_error": 0.0}


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_mask_types_agree(dtype):
    truth, prediction = stack()
    names = ["iou", "warping_error", "max_pixel_fscore", "min_warping_error"]
    mask = (prediction > 0.5).astype(dtype)
    assert score_image(truth, mask, names=names) == score_image(truth, mask != 0, names=names)
    assert score_image(truth, mask, names=["iou"]) == score_image(truth, prediction, names=["iou"])


def test_curves_pass_through_the_scores():
    truth, prediction = stack()
    curves, scores = score_curves(truth, prediction), score_image(truth, prediction)
    assert tuple(curves) == CURVES
    assert {len(curve) for curve in curves.values()} == {len(CHALLENGE_THRESHOLDS)}
    assert max(curves["v_rand"]) == scores["v_rand"]
    assert curves["pixel_error"][5] == scores["pixel_error"]
    assert curves["warping_error"][5] == scores["warping_error"]


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.ones((2, 2), bool), np.ones((2, 2), bool), "expected the same"),
        (np.ones((1, 2, 2), bool), np.ones((1, 2, 3), bool), "expected the same"),
        (np.ones((0, 2, 2), bool), np.ones((0, 2, 2), bool), "expected the same"),
        (np.ones((1, 2, 2)), np.ones((1, 2, 2)), "truth: type is float64"),
        (np.ones((1, 2, 2), int), -np.ones((1, 2, 2), int), "prediction: ids go down to -1"),
        (np.ones((1, 2, 2), int), np.full((1, 2, 2), 255.0), "prediction: values are 255.0"),
        (np.ones((1, 2, 2), int), np.full((1, 2, 2), np.nan), "prediction: values are nan in places"),
    ],
)
def test_what_can_not_be_scored_is_refused(truth, prediction, message):
    with pytest.raises(InputError, match=message):
        score_image(truth, prediction)


def test_a_curve_needs_probabilities():
    with pytest.raises(InputError, match="prediction: type is bool"):
        score_curves(stack()[0], stack()[0])


def test_masks_are_divided_by_the_connectivity_that_is_asked_for():
    truth = np.eye(4, dtype=bool)[None]
    split = score_image(truth, np.zeros_like(truth), names=["rand_error"])
    joined = score_image(truth, np.zeros_like(truth), names=["rand_error"], connectivity=8)
    assert split["rand_error"] > joined["rand_error"]


@pytest.mark.parametrize(("connectivity", "seg"), [(4, 1.0), (6, 0.5), (26, 1.0)])
def test_a_volume_is_scored_as_a_whole(connectivity, seg):
    truth = np.zeros((2, 3, 3), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True  # an object in each slice; in the volume two, or one by a corner
    found = score_image(truth, truth.astype(np.int64), names=["seg", "hausdorff"], connectivity=connectivity)
    assert found == {"seg": seg, "hausdorff": 0}


def test_volumes_of_any_shape_have_all_scores_but_those_of_planes():
    truth, prediction = stack()
    names = [name for name, score in SCORES.items() if not score.planes_only]
    assert None not in score_image(truth, prediction, names=names, connectivity=26).values()
    with pytest.raises(ConfigError, match="warping_error, v_rand: not defined for volumes"):
        score_image(truth, prediction, names=["warping_error", "iou", "v_rand"], connectivity=6)
    with pytest.raises(ConfigError, match="connectivity: 5; expected"):
        score_image(truth, prediction, names=["iou"], connectivity=5)


@pytest.mark.parametrize("name", [name for name, score in SCORES.items() if score.sums])
def test_what_adds_up_is_a_function_of_tables_alone(name):
    truth, prediction = (np.repeat(np.arange(12).reshape(1, 3, 4), 4, axis=k) for k in (1, 2))
    truth, prediction = truth[:, :3], prediction[:, :, :4]
    moved = [np.roll(labels[:, ::-1], 1, axis=2) for labels in (truth, prediction)]  # the same pairs elsewhere
    assert score_image(truth, prediction, names=[name]) == score_image(*moved, names=[name])


def test_names_and_thresholds_are_checked():
    with pytest.raises(ConfigError, match="metrics: iuo unknown") as caught:
        score_image(*stack(), names=["iuo"])
    assert "iou" in caught.value.fix
    with pytest.raises(ConfigError, match="thresholds"):
        score_image(*stack(), thresholds=[])


def test_objects_found_twice_or_halved_match_once():
    truth = np.array([[[1, 1, 1, 1, 0, 2, 2]]])
    prediction = np.array([[[5, 5, 9, 9, 0, 0, 0]]])  # each half has an IoU of exactly 0.5 with object 1
    found = score_image(truth, prediction, names=["ap50", "seg"])
    assert found["ap50"] == pytest.approx(1 / 3)
    assert found["seg"] == 0  # neither covers more than half
    assert score_image(truth * 0, prediction * 0, names=["ap50", "seg"]) == {"ap50": None, "seg": None}


@pytest.mark.parametrize("shape", [(3, 4), (4,), (1, 4)])
def test_a_region_of_another_size_is_refused(shape):
    truth, prediction = stack(2, 8)
    with pytest.raises(InputError, match="roi: shape is"):
        metrics.score(prediction, truth, roi=np.ones(shape), metrics=["iou"])
