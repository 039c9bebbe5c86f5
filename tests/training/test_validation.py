"""Validation: the scores that tile-predict and evaluate give, sums that add up, and what a sheet shows."""

import functools
import operator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import TINY, cells
from unetcli.config import EvaluateConfig, PredictConfig, PrepConfig, TrainConfig, WeightsConfig
from unetcli.errors import ConfigError
from unetcli.image.dataset import open_dataset
from unetcli.models.checkpoint import load_model
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.models.losses import DICE, LOSSES, WEIGHTED
from unetcli.stages import evaluate, prep, tile_predict, train, weights
from unetcli.training import validation
from unetcli.training.places import open_planes
from unetcli.training.record import read_rows
from unetcli.training.validation import Validator, validation_term

METRICS = ("v_rand", "v_info", "warping_error", "rand_error", "max_pixel_fscore", "fg_rand_fscore")
CPU = torch.device("cpu")
PIXELWISE = Geometry((AxisGeometry(1, 0, 0, 0, 1),) * 2)


def validator(data, run, weight_maps=None, **changes):
    """Return the validator of a run, and its network."""
    dataset = open_dataset(data)
    network, header = load_model(run / "model.safetensors")
    planes = open_planes(dataset, weight_maps, 2, validation=True)
    return Validator(planes, dataset, header.geometry, CPU, **changes), network


@pytest.fixture(scope="module", params=["instances", "classes", "stack"])
def judged(request, tmp_path_factory):
    """Return a folder with pictures to validate on, their labels, and how they are prepared."""
    folder = tmp_path_factory.mktemp(request.param)
    pairs = [cells((70, 60), seed) for seed in range(5)]
    if request.param == "stack":
        arrays = {"img": np.stack([image for image, _ in pairs]), "lab": np.stack([labels > 0 for _, labels in pairs])}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array.astype(np.uint8))
            (folder / "held").mkdir(exist_ok=True)
            np.save(folder / "held" / f"{name}.npy", array[3:].astype(np.uint8))
        config = PrepConfig(split="3-4", label_kind="classes", ndim=2)
        inputs = [folder / "img.npy"], [folder / "lab.npy"], folder / "held" / "img.npy", folder / "held" / "lab.npy"
    else:
        for name in ("img", "lab", "held_img", "held_lab"):
            (folder / name).mkdir()
        for k, (image, labels) in enumerate(pairs):
            shown = labels if request.param == "instances" else (labels > 0).astype(np.uint8)
            for kind, array in (("img", image), ("lab", shown)):
                np.save(folder / kind / f"cells_{k}.npy", array)
                if k > 2:
                    np.save(folder / f"held_{kind}" / f"cells_{k}.npy", array)
        config = PrepConfig(split="cells_3,cells_4", label_kind=request.param)
        inputs = [folder / "img"], [folder / "lab"], folder / "held_img", folder / "held_lab"
    images, labels, held, truth = inputs
    prep.run(images, folder / "d.zarr", config, labels=labels)
    prep.run([held], folder / "held.zarr", PrepConfig())
    return folder, truth


def test_scores_are_those_of_tile_predict_and_evaluate(judged):
    folder, truth = judged
    config = TrainConfig(
        **{**TINY, "validate_every": 6}, precision="float32", keep="last", validate_metrics=",".join(METRICS)
    )
    train.run(folder / "d.zarr", folder / "run", config, device="cpu", tensorboard=False)
    tile_predict.run(
        folder / "held.zarr", folder / "mask.zarr", PredictConfig(), model=folder / "run", device="cpu",
        probabilities=folder / "p.zarr",
    )  # fmt: skip
    expected = evaluate.run(folder / "p.zarr", truth, folder / "report", EvaluateConfig())["mean"]
    (row,) = read_rows(folder / "run" / "metrics.csv")
    assert expected["v_rand"] is not None
    for name in ("pixel_error", "iou", "dice", *METRICS):
        assert row[f"validation_{name}"] == pytest.approx(expected[name], rel=1e-6), name


def test_the_sums_of_parts_add_up_to_those_of_all(instances, trained, weight_maps):
    dataset = open_dataset(instances)
    whole, network = validator(instances, trained, weight_maps, metrics=("v_rand",))
    planes = open_planes(dataset, weight_maps, 2, validation=False) + list(whole.planes)
    whole = replace(whole, planes=planes)
    parts = [replace(whole, planes=planes[rank::2]).measure(network) for rank in range(2)]
    assert whole.row(functools.reduce(operator.add, parts)) == pytest.approx(whole.score(network), rel=1e-12)


def test_any_tiles_give_the_same_scores(instances, trained, monkeypatch):
    scorer, network = validator(instances, trained, metrics=("v_rand", "warping_error"))
    expected = scorer.score(network)
    monkeypatch.setitem(validation.VALIDATION_TILE, 2, (32, 32))
    assert scorer.score(network) == pytest.approx(expected, rel=1e-5)


def test_a_validation_leaves_the_network_as_it_was(instances, trained):
    scorer, network = validator(instances, trained)
    for training in (True, False):
        network.train(training)
        scorer.pictures(network, scorer.measure(network))
        assert network.training is training


@pytest.mark.parametrize("name", LOSSES)
def test_the_validation_loss_adds_up_over_tiles(name):
    term = validation_term(name)
    assert term is not DICE
    assert term is (LOSSES[name][0] if name == "cross-entropy" else WEIGHTED)


def five_classes(folder):
    """Write a data set of five classes, the last plane for validation, of which one class is ignored by its weights."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (2, 8, 8)).repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    np.save(folder / "image.npy", (40 * labels + rng.integers(0, 9, labels.shape)).astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    names = "0=background,1=axon,2=glia,3=vesicle,4=other"
    prep.run(
        [folder / "image.npy"], folder / "d", PrepConfig(label_kind="classes", classes=names, ndim=2, split="1"),
        labels=[folder / "labels.npy"],
    )  # fmt: skip
    weights.run(folder / "d", folder / "w", WeightsConfig(ignore="4"))
    return folder / "d", folder / "w", labels[1]


def test_several_classes_have_an_iou_each(tmp_path, monkeypatch):
    data, maps, truth = five_classes(tmp_path)
    dataset = open_dataset(data)
    scorer = Validator(open_planes(dataset, maps, 2, validation=True), dataset, PIXELWISE, CPU, metrics=("v_rand",))
    predicted = np.where(truth == 1, 2, truth)  # all axons are taken for glia
    probabilities = (np.arange(5)[:, None, None, None] == predicted).astype(np.float32)
    monkeypatch.setattr(Validator, "_predict", lambda *_: probabilities)
    network = torch.nn.Identity()
    row = scorer.score(network)
    counted = truth != 4
    expected = {
        k: ((truth == k) & (predicted == k) & counted).sum() / (((truth == k) | (predicted == k)) & counted).sum()
        for k in range(4)
    }
    for k, name in enumerate(("background", "axon", "glia", "vesicle")):
        assert row[f"validation_iou_{name}"] == pytest.approx(expected[k])
    assert row["validation_mean_iou"] == pytest.approx(np.mean(list(expected.values())))
    assert row["validation_iou"] == 1.0  # foreground is foreground
    assert row["validation_v_rand"] == 1.0
    (shown,) = scorer.pictures(network, scorer.measure(network))
    assert (shown.truth == np.where(counted, truth.astype(int), -1)).all()
    assert (shown.prediction == predicted).all()
    assert shown.name == "image, z 1"


def test_a_sheet_shows_the_worst_and_the_best_slice_and_of_large_ones_the_worst_tile(instances, trained, monkeypatch):
    scorer, network = validator(instances, trained)
    planes = open_planes(open_dataset(instances), None, 2, validation=False) + list(scorer.planes)
    scorer = replace(scorer, planes=planes)
    monkeypatch.setitem(validation.VALIDATION_TILE, 2, (32, 32))
    sums = scorer.measure(network)
    shown = {prediction.rank: prediction for prediction in scorer.pictures(network, sums)}
    of_slices = {name[0]: scores.iou for name, scores in sums.slices.items()}
    assert shown["worst"].name == min(of_slices, key=of_slices.get)
    assert shown["best"].name == max(of_slices, key=of_slices.get)
    assert len({prediction.name for prediction in shown.values()}) == len(shown) == 3
    for prediction in shown.values():
        assert prediction.image.shape[1:] == prediction.truth.shape == prediction.prediction.shape
        assert max(prediction.truth.shape) <= 32


def test_without_validation_planes_there_is_no_score(classes, trained):
    scorer, network = validator(classes, trained)
    sums = scorer.measure(network)
    assert scorer.row(sums) == {}
    assert scorer.pictures(network, sums) == []


@pytest.mark.parametrize(
    ("data", "metrics", "said"),
    [
        ("instances", "v_rnd", "does not know v_rnd; expected some of iou, dice"),
        ("classes", "v_rand", "no validation part"),
    ],
)
def test_metrics_that_can_not_be_measured_are_refused(request, tmp_path, data, metrics, said):
    config = TrainConfig(**TINY, validate_metrics=metrics)
    with pytest.raises(ConfigError, match=said) as refused:
        train.run(request.getfixturevalue(data), tmp_path / "run", config, device="cpu")
    assert "--validate-metrics" in str(refused.value)
    assert not (tmp_path / "run").exists()
