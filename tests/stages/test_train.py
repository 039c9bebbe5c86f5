"""Training: what it writes, that it learns, and that a run which was killed goes on as if it had not been."""

import csv
import json
import math
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import TINY, Stopped, cells, files_of, pixels, run_and_signal, stop_after
from unetcli.config import SCHEDULES, PredictConfig, PrepConfig, TrainConfig, WeightsConfig
from unetcli.errors import ConfigError, DeviceError, GeometryError, InputError, UnetcliError, Unfinished
from unetcli.image.dataset import open_dataset
from unetcli.models.checkpoint import load_checkpoint, load_model, read_header
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.sampling import draw_sample, examples
from unetcli.stages import prep, tile_predict, train, weights
from unetcli.training import trainer
from unetcli.training.batches import BatchMaker
from unetcli.training.trainer import Trainer
from unetcli.training.validation import Validator

CONFIG = TrainConfig(**TINY)
ON_DEVICE = replace(CONFIG, augment_on="device")
OPTIONS = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
RESULTS = ("model.safetensors", "metrics.csv")


def results(run):
    return {name: (run / name).read_bytes() for name in RESULTS}


def rows_of(run, name="metrics.csv"):
    with (run / name).open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_files_of_a_run(trained):
    assert {p.name for p in trained.iterdir()} == {
        "model.safetensors", "best.safetensors", "last.ckpt", "metrics.csv", "timing.csv", "curves.png", "run.json",
        "validation", "tensorboard",
    }  # fmt: skip
    rows = rows_of(trained)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert {"loss", "learning_rate", "validation_loss", "validation_iou", "validation_pixel_error"} <= set(rows[0])
    assert all(0 <= row["validation_iou"] <= 1 for row in rows)
    content = json.loads((trained / "run.json").read_text())
    assert content["fingerprint"]["settings"]["features"] == "4,8"
    assert set(content["fingerprint"]["inputs"]) == {"data", "weights"}


def test_model_file_holds_all_that_is_needed(trained, instances):
    header = read_header(trained)
    mean, std = open_dataset(instances).normalization()
    assert (header.arch, header.classes, header.channels) == ("unet", ("background", "object"), 1)
    np.testing.assert_allclose(header.mean, mean)
    np.testing.assert_allclose(header.std, std)
    assert header.provenance["settings"]["seed"] == 0
    network, _ = load_model(trained / "model.safetensors")
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bytes(instances, weight_maps, trained, tmp_path, workers):
    train.run(instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu", workers=workers)
    assert results(tmp_path / "run") == results(trained)


@pytest.mark.parametrize(("device", "cpus", "expected"), [("cpu", 1, 1), ("cpu", 2, 1), ("cpu", 16, 4), ("cuda", 8, 8)])
def test_threads_that_prepare_patches_leave_the_processors_to_the_network(device, cpus, expected):
    assert train.patch_threads(cpus, torch.device(device)) == expected


@pytest.mark.parametrize("after", [0, 2, 3, 5])
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(instances, weight_maps, trained, tmp_path, after):
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train.run(instances, run, CONFIG, weights=weight_maps, device="cpu", progress=stop_after(after))
    assert not (run / "model.safetensors").exists()
    train.run(instances, run, CONFIG, weights=weight_maps, device="cpu")
    assert results(run) == results(trained)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "schedule": "constant"},
        {"optimizer": "sgd", "schedule": "step", "decay_every": 1, "nesterov": True, "clip_norm": 0.1},
        {"optimizer": "adam", "schedule": "cosine", "warmup": 3, "loss": "dice"},
        {"optimizer": "adamw", "schedule": "one-cycle", "ema": 0.9, "loss": "bce"},
    ],
    ids=lambda changes: f"{changes['optimizer']} {changes['schedule']}",
)
def test_a_resumed_run_follows_the_same_path(instances, tmp_path, changes):
    config = replace(CONFIG, **changes, dropout=0.3, validate_every=3, steps=5)
    train.run(instances, tmp_path / "whole", config, device="cpu")
    for after in (1, 3):
        with pytest.raises(Stopped):
            train.run(instances, tmp_path / "run", config, device="cpu", progress=stop_after(after))
    train.run(instances, tmp_path / "run", config, device="cpu")
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def asked_to_stop_at(step):
    """Return a progress that asks to stop after a step, as a signal does."""

    def progress(done, total):
        if done == step:
            raise Unfinished(f"stopped after {done}")

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": schedule, "accumulate": 2, "ema": 0.9, "dropout": 0.3, "patience": 2, "clip_norm": 1.0}
        for schedule in SCHEDULES
    ]
    + [{"optimizer": "sgd", "keep": "last", "patience": 1, "best_by": "validation_loss", "learning_rate": 0.2}],
    ids=lambda changes: changes.get("schedule", "stops early"),
)
def test_a_run_stopped_three_times_is_one_never_stopped(instances, tmp_path, changes):
    config = replace(CONFIG, **{"epochs": None, "decay_every": 1, "steps": 7, "validate_every": 2, **changes})
    train.run(instances, tmp_path / "whole", config, device="cpu")
    for step in (1, 2, 3):
        with pytest.raises(Unfinished):
            train.run(instances, tmp_path / "run", config, device="cpu", progress=asked_to_stop_at(step))
    train.run(instances, tmp_path / "run", config, device="cpu")
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_killed_while_it_validates_a_run_goes_on_with_that(instances, weight_maps, trained, tmp_path, monkeypatch):
    kept = Validator.measure
    monkeypatch.setattr(Validator, "measure", lambda *_: (_ for _ in ()).throw(Stopped))
    for _ in range(2):
        with pytest.raises(Stopped):
            train.run(instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu")
    monkeypatch.setattr(Validator, "measure", kept)
    train.run(instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu")
    assert results(tmp_path / "run") == results(trained)


def test_parts_of_a_step_add_up_to_it(instances, weight_maps, tmp_path):
    config = replace(CONFIG, norm="group", precision="float32", batch_size=6, loss="dice-cross-entropy")
    for parts in (1, 3):
        train.run(
            instances, tmp_path / str(parts), replace(config, accumulate=parts), weights=weight_maps, device="cpu"
        )  # fmt: skip
    for one, several in zip(rows_of(tmp_path / "1"), rows_of(tmp_path / "3"), strict=True):
        assert several == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(("best_by", "choose"), [("validation_iou", max), ("validation_loss", min)])
@pytest.mark.parametrize("keep", [None, "best", "last"])
def test_the_best_model_or_the_last_is_kept(instances, tmp_path, monkeypatch, best_by, choose, keep):
    scores = iter([0.5, 0.7, 0.7, 0.2, 0.6])
    row = lambda *_: {"validation_iou": (score := next(scores)), "validation_loss": score}  # noqa: E731
    monkeypatch.setattr(Validator, "row", row)
    config = replace(CONFIG, steps=5, validate_every=1, keep=keep, best_by=best_by)
    train.run(instances, tmp_path / "run", config, device="cpu")
    best, last = (
        load_model(tmp_path / "run" / "best.safetensors")[0].state_dict(),
        load_checkpoint(tmp_path / "run" / "last.ckpt"),
    )
    expected = last["network"] if keep == "last" else best
    kept = load_model(tmp_path / "run")[0].state_dict()
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    steps = {max: 2, min: 4}
    assert last["history"]["best"] == {max: 0.7, min: 0.2}[choose]
    assert last["history"]["stale"] == 4 - steps[choose]  # as saved before the last validation


def test_training_ends_early_where_nothing_gets_better(instances, tmp_path, monkeypatch):
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(Validator, "row", lambda *_: {"validation_iou": next(scores)})
    config = replace(CONFIG, steps=50, validate_every=1, patience=2)
    train.run(instances, tmp_path / "run", config, device="cpu")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "said", "fix"),
    [
        ({"ndim": 3}, "--ndim 3: .* has one plane", "--ndim 2"),
        ({"arch": "unet3d"}, "--arch unet3d: .* has one plane", "--arch unet"),
        ({"best_by": "validation_mean_iou"}, "expected with more than two classes", "--best-by validation_iou"),
        ({"warmup": 6}, "--warmup 6: expected fewer than the 6 steps", None),
    ],
    ids=["ndim", "arch", "best-by", "warmup"],
)
def test_what_no_training_could_come_of_is_refused_first(instances, tmp_path, changes, said, fix):
    config = replace(CONFIG, **changes, patch_size=16)
    with pytest.raises(ConfigError, match=said) as caught:
        train.run(instances, tmp_path / "run", config, device="cpu")
    assert (caught.value.fix or "").startswith(fix or "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("is_given", [True, False])
def test_a_weighted_loss_without_weights_is_told(instances, weight_maps, tmp_path, caplog, is_given):
    weights = weight_maps if is_given else None
    with caplog.at_level("INFO"):
        train.run(instances, tmp_path / "run", CONFIG, weights=weights, device="cpu", dry_run=True)
    assert ("all pixels count the same" in caplog.text) != is_given


def test_weights_that_are_not_there_are_said_to_be_missing(instances, tmp_path):
    with pytest.raises(InputError, match=r"none\.zarr: does not exist") as caught:
        train.run(instances, tmp_path / "run", CONFIG, weights=tmp_path / "none.zarr", device="cpu")
    assert caught.value.fix == "check the path"


def test_of_several_classes_the_best_model_is_that_of_the_best_mean_over_them(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
    np.save(tmp_path / "i.npy", image)
    np.save(tmp_path / "l.npy", image // 86)
    prepared = PrepConfig(axes="zyx", ndim=2, label_kind="classes", split="1")
    prep.run([tmp_path / "i.npy"], tmp_path / "d", prepared, labels=[tmp_path / "l.npy"])
    config = replace(CONFIG, steps=6, validate_every=1, learning_rate=0.1)
    summary = train.run(tmp_path / "d", tmp_path / "run", config, device="cpu")
    means, ious = ([row[f"validation_{name}"] for row in rows_of(tmp_path / "run")] for name in ("mean_iou", "iou"))
    assert summary["best_step"] == 1 + np.argmax(means) != 1 + np.argmax(ious)


@pytest.mark.parametrize("changes", [{"patience": 3}, {"keep": "best"}], ids=["patience", "keep"])
def test_what_needs_scores_is_refused_without_a_validation_part(classes, tmp_path, changes):
    with pytest.raises(ConfigError, match="no validation part"):
        train.run(classes, tmp_path / "run", replace(CONFIG, **changes), device="cpu")
    assert not (tmp_path / "run").exists()


NOT_FINITE = "sample 5 of img_0. .* has pixels or weights that are not finite"


@pytest.mark.parametrize(
    ("ahead", "place", "value", "error", "message"),
    [
        (1, 0, np.nan, InputError, f": {NOT_FINITE}"),
        (1, 2, np.inf, InputError, f": {NOT_FINITE}"),
        (2, 2, np.inf, InputError, f": {NOT_FINITE}"),
        (1, 0, 3e38, ConfigError, ": sample 5 of img_0. .* has a loss of (nan|inf)"),
        (2, 0, 3e38, ConfigError, ", of no single one of its samples 4 to 5"),
    ],
    ids=["a pixel", "a weight", "a weight, read later", "the loss alone", "the loss, of parameters that are gone"],
)
def test_a_loss_that_is_not_finite_names_its_patch(
    instances, tmp_path, monkeypatch, ahead, place, value, error, message
):
    monkeypatch.setitem(trainer.LOSSES_AHEAD, "cpu", ahead)
    kept = BatchMaker._patch

    def patch(self, k, sample, resolution):
        made = kept(self, k, sample, resolution)
        if k == 5:
            made[place][..., 8:24, 8:24] = value
        return made

    monkeypatch.setattr(BatchMaker, "_patch", patch)
    config = replace(CONFIG, precision="float32", norm="none", clip_norm=0.0, validate_every=99)
    with pytest.raises(error, match=rf"loss is \w+ at step 3{message}"):
        train.run(instances, tmp_path / "run", config, device="cpu")
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(("limit", "fits"), [(48, 48), (47, 46), (9, 8), (1, None)])
def test_out_of_memory_names_the_largest_patch_that_fits(instances, tmp_path, monkeypatch, limit, fits):
    kept = Trainer._loss

    def loss(self, part, divisors=None):
        if part.image.shape[-1] > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return kept(self, part, divisors)

    monkeypatch.setattr(Trainer, "_loss", loss)
    with pytest.raises(DeviceError, match="out of memory with 2 patches of 64 pixels") as caught:
        train.run(instances, tmp_path / "run", replace(CONFIG, patch_size=64), device="cpu")
    assert ("--patch-size " + (str(fits) if fits else "")).strip() in caught.value.fix
    assert not (tmp_path / "run").exists()


def test_a_network_that_is_larger_than_the_memory_is_said_so(instances, tmp_path, monkeypatch):
    def build(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 36000000000000 bytes.")

    monkeypatch.setattr("unetcli.training.trainer.build_model", build)
    config = replace(CONFIG, features="1000000,1000000")
    with pytest.raises(DeviceError, match="out of memory with the 58,000,030 million parameters") as caught:
        train.run(instances, tmp_path / "run", config, device="cpu")
    assert caught.value.fix == "smaller --features"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in itself
def test_a_compiled_network_learns_the_same_and_keeps_its_names(instances, tmp_path):
    config = replace(CONFIG, precision="float32", steps=2, validate_every=1)
    for compiled in ("off", "on"):
        train.run(instances, tmp_path / compiled, replace(config, compile=compiled), device="cpu")
    for off, on in zip(rows_of(tmp_path / "off"), rows_of(tmp_path / "on"), strict=True):
        assert on == pytest.approx(off, rel=1e-2)
    assert load_model(tmp_path / "on")[1].arch == "unet"
    assert json.loads((tmp_path / "on" / "run.json").read_text())["compiled"] is True


def test_killed_and_called_again_ends_in_the_same_bytes(instances, weight_maps, trained, tmp_path):
    command = ["train", instances, "--weights", weight_maps, "-o", tmp_path / "run", "--device", "cpu", *OPTIONS]
    assert run_and_signal(signal.SIGKILL, command, after=5).returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "last.ckpt").exists()
    train.run(instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu")
    assert results(tmp_path / "run") == results(trained)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_signals_save_the_work(instances, weight_maps, trained, tmp_path, number, code):
    command = ["train", instances, "--weights", weight_maps, "-o", tmp_path / "run", "--device", "cpu", *OPTIONS]
    stopped = run_and_signal(number, command, after=3)
    assert stopped.returncode == code, stopped.stderr
    assert "run the same command again" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    train.run(instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu")
    assert results(tmp_path / "run") == results(trained)


def test_the_time_spent_waiting_for_data_is_noted(instances, tmp_path):
    progress = stop_after(3)
    with pytest.raises(Stopped):
        train.run(instances, tmp_path / "run", CONFIG, device="cpu", progress=progress)
    summary = train.run(instances, tmp_path / "run", CONFIG, device="cpu")
    rows = rows_of(tmp_path / "run", "timing.csv")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(row["seconds"] > 0 and 0 <= row["data_wait"] <= 1 for row in rows)
    share = np.average([row["data_wait"] for row in rows], weights=[row["seconds"] for row in rows])
    assert summary["waiting_for_data_percent"] == pytest.approx(100 * share)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["augment_on"] == "host"


@pytest.fixture(scope="module")
def trained_on_device(instances, weight_maps, tmp_path_factory):
    """Return a finished run whose patches were deformed by torch."""
    out = tmp_path_factory.mktemp("on_device") / "run"
    train.run(instances, out, ON_DEVICE, weights=weight_maps, device="cpu")
    return out


def test_augmentation_on_the_device_trains_as_on_the_host(trained, trained_on_device):
    assert json.loads((trained_on_device / "run.json").read_text())["augment_on"] == "device"
    for a, b in zip(rows_of(trained), rows_of(trained_on_device), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("after", [2, 3])
def test_augmentation_on_the_device_is_the_same_for_any_workers_and_stops(
    instances, weight_maps, trained_on_device, tmp_path, workers, after
):
    run, options = tmp_path / "run", {"weights": weight_maps, "device": "cpu", "workers": workers}
    with pytest.raises(Stopped):
        train.run(instances, run, ON_DEVICE, **options, progress=stop_after(after))
    train.run(instances, run, ON_DEVICE, **options)
    assert results(run) == results(trained_on_device)


def test_a_resumed_run_keeps_the_measured_choice(instances, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for measured in ("device", "host"):
        monkeypatch.setattr(train, "choose_augmentation", lambda *_, measured=measured: measured)
        with pytest.raises(Stopped):
            train.run(instances, run, CONFIG, device="cpu", progress=stop_after(2))
        assert json.loads((run / "run.json").read_text())["augment_on"] == "device"


def test_measuring_a_step_changes_nothing(instances, trained, tmp_path, monkeypatch):
    """The network, its running means and the random numbers of dropout are as before."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda kept=torch.random.fork_rng, **_: kept(devices=[]))
    config = replace(CONFIG, dropout=0.3)

    def measure(host, _, seconds_per_step):
        assert seconds_per_step(host.place(host.make(0))) > 0
        return "host"

    train.run(instances, tmp_path / "plain", config, device="cpu")
    monkeypatch.setattr(train, "choose_augmentation", measure)
    train.run(instances, tmp_path / "measured", config, device="cpu")
    assert results(tmp_path / "measured") == results(tmp_path / "plain")


@pytest.mark.parametrize("after", [1, 3])
def test_losses_that_are_read_later_are_the_same(instances, weight_maps, trained, tmp_path, monkeypatch, after):
    monkeypatch.setitem(trainer.LOSSES_AHEAD, "cpu", 4)
    with pytest.raises(Stopped):
        train.run(
            instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu", progress=stop_after(after)
        )  # fmt: skip
    train.run(instances, tmp_path / "run", CONFIG, weights=weight_maps, device="cpu")
    assert results(tmp_path / "run") == results(trained)


def test_a_second_call_does_nothing(instances, weight_maps, trained):
    before = files_of(trained)
    assert train.run(instances, trained, CONFIG, weights=weight_maps, device="cpu")["already_done"]
    assert files_of(trained) == before


def test_other_settings_are_refused(instances, weight_maps, trained):
    before = files_of(trained)
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        train.run(instances, trained, replace(CONFIG, seed=1), weights=weight_maps, device="cpu")
    with pytest.raises(ConfigError, match="inputs weights"):
        train.run(instances, trained, CONFIG, device="cpu")
    assert files_of(trained) == before


@pytest.mark.parametrize("mistake", ["device", "weights", "patch size", "labels"])
def test_overwrite_removes_nothing_before_all_is_checked(
    instances, classes, folders, trained, copy_of, tmp_path, mistake
):
    run, data, config, options = copy_of(trained), instances, CONFIG, {"device": "cpu"}
    if mistake == "device":
        options["device"] = "cuda:7"
    elif mistake == "weights":
        options["weights"] = classes
    elif mistake == "patch size":
        config = replace(CONFIG, patch_size=33)
    else:
        data = tmp_path / "unlabelled"
        prep.run([folders / "images"], data, PrepConfig())
    with pytest.raises(UnetcliError):
        train.run(data, run, config, overwrite=True, **options)
    assert {name.partition("/")[2] for name in files_of(run)} == {name.partition("/")[2] for name in files_of(trained)}


def test_overwrite_starts_again(instances, trained, copy_of):
    run = copy_of(trained)
    train.run(instances, run, replace(CONFIG, steps=2), overwrite=True, device="cpu")
    assert [row["step"] for row in rows_of(run)] == [2]


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_run_that_failed_at_once_can_be_mended(instances, tmp_path, monkeypatch, ahead):
    monkeypatch.setitem(trainer.LOSSES_AHEAD, "cpu", ahead)
    with pytest.raises(ConfigError, match=r"loss is \w+ at step [23]"):
        train.run(
            instances,
            tmp_path / "run",
            replace(CONFIG, optimizer="sgd", learning_rate=1e30, norm="none", schedule="constant", validate_every=99),
            device="cpu",
        )
    train.run(instances, tmp_path / "run", CONFIG, device="cpu")
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["classes", "instances"])
def test_without_weights(request, tmp_path, kind):
    train.run(request.getfixturevalue(kind), tmp_path / "run", replace(CONFIG, steps=1), device="cpu")
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"padding": "valid", "patch_size": 60},
        {"skip": "add"},
        {"norm": "group"},
        {"norm": "instance"},
        {"norm": "none"},
        {"precision": "float32"},
        {"precision": "bfloat16"},
        {"features": "4,8,16"},
        {"patch_size": 128},
        {"loss": "cross-entropy"},
        {"loss": "bce"},
        {"loss": "dice"},
        {"loss": "dice-cross-entropy"},
        {"clip_norm": 1e-3},
        {"ema": 0.99},
        {"schedule": "poly", "warmup": 1, "steps": 2},
    ],
    ids=str,
)
def test_variants(instances, weight_maps, tmp_path, changes):
    config = replace(CONFIG, **{"steps": 1, **changes})
    train.run(instances, tmp_path / "run", config, weights=weight_maps, device="cpu")
    row = rows_of(tmp_path / "run")[-1]
    assert np.isfinite([row["loss"], row["validation_loss"]]).all()


def test_a_sigmoid_has_one_logit_and_two_probabilities(instances, tmp_path):
    config = replace(CONFIG, loss="bce", steps=1)
    train.run(instances, tmp_path / "run", config, device="cpu")
    network, header = load_model(tmp_path / "run" / "model.safetensors")
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)
    assert header.classes == ("background", "object")
    tile_predict.run(
        instances, tmp_path / "m", PredictConfig(), model=tmp_path / "run", probabilities=tmp_path / "p", device="cpu"
    )
    values = pixels(tmp_path / "p")
    assert values.shape[1] == 2
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-6)


def test_a_sigmoid_tells_two_classes_apart(tmp_path):
    data, maps = ignoring(tmp_path)
    with pytest.raises(ConfigError, match="--loss bce: tells two classes apart; the data set has 3") as caught:
        train.run(data, tmp_path / "run", replace(CONFIG, loss="bce"), weights=maps, device="cpu")
    assert caught.value.fix == "--loss weighted-cross-entropy"
    assert not (tmp_path / "run").exists()


def test_epochs_are_counted_in_steps(instances, tmp_path):
    """Of 2 training images of 96x112 pixels there are 21 patches of 32x32."""
    config = replace(CONFIG, epochs=2)
    described = train.run(instances, tmp_path / "run", config, dry_run=True)
    image, *_ = open_dataset(instances).images
    height, width = image.level.shape[3:]
    epoch = math.ceil(math.ceil(2 * height * width / 32**2) / CONFIG.batch_size)
    assert described["steps"] == 2 * epoch
    assert described["epoch"].startswith(f"{epoch} steps")
    train.run(instances, tmp_path / "run", replace(config, patch_size=128, validate_every=99), device="cpu")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [
        2 * math.ceil(math.ceil(2 * height * width / 128**2) / 2)
    ]


def test_the_averaged_parameters_are_saved(instances, tmp_path):
    """An average that forgets at once is the network in training."""
    for name, ema in (("plain", 0.0), ("short", 1e-9), ("long", 0.9)):
        train.run(instances, tmp_path / name, replace(CONFIG, ema=ema, steps=3), device="cpu")
    plain, short, long = (load_model(tmp_path / name)[0].state_dict() for name in ("plain", "short", "long"))
    assert all(torch.allclose(plain[name], short[name]) for name in plain)
    assert not all(torch.allclose(plain[name], long[name]) for name in plain)
    assert rows_of(tmp_path / "long")[-1]["loss"] == rows_of(tmp_path / "plain")[-1]["loss"]
    assert rows_of(tmp_path / "long")[-1]["validation_loss"] != rows_of(tmp_path / "plain")[-1]["validation_loss"]


def test_long_gradients_are_scaled(instances, tmp_path):
    """Steps of SGD are as long as the learning rate times the norm that is allowed."""
    config = replace(
        CONFIG, optimizer="sgd", momentum=0, weight_decay=0, learning_rate=1, schedule="constant", norm="none"
    )
    found = {}
    for norm in (1e-4, 2e-4):
        for steps in (1, 2):
            run = tmp_path / f"{norm} {steps}"
            train.run(instances, run, replace(config, clip_norm=norm, steps=steps, validate_every=99), device="cpu")
            found[steps] = torch.nn.utils.parameters_to_vector(load_model(run)[0].parameters()).detach().double()
        assert float((found[2] - found[1]).norm()) == pytest.approx(norm, rel=1e-2)


@pytest.mark.slow
def test_loss_falls_on_an_easy_set(instances, weight_maps, tmp_path):
    config = replace(CONFIG, steps=240, features="8,16", batch_size=4, validate_every=20, patch_size=48)
    train.run(instances, tmp_path / "run", config, weights=weight_maps, device="cpu")
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["validation_iou"] > 0.6  # against the truth; the target has touching cells cut apart


@pytest.mark.parametrize("axes", ["zyx", "tyx"])
def test_planes_of_one_stack_are_kept_for_validation(tmp_path, axes):
    for name, array in zip(("i.npy", "l.npy"), cells((5, 40, 44), 1), strict=True):
        np.save(tmp_path / name, array)
    data = tmp_path / "data.zarr"
    config = PrepConfig(split="3-4", ndim=2, axes=axes, channel_names="DAPI")
    prep.run([tmp_path / "i.npy"], data, config, labels=[tmp_path / "l.npy"])
    described = train.run(data, tmp_path / "run", CONFIG, dry_run=True)
    assert (described["training_planes"], described["validation_planes"]) == (3, 2)
    train.run(data, tmp_path / "run", replace(CONFIG, steps=1), device="cpu")
    assert "validation_iou" in rows_of(tmp_path / "run")[0]
    assert read_header(tmp_path / "run").channel_names == ("DAPI",)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda:99"}, DeviceError, "cuda:99"),
        ({"device": "abacus"}, DeviceError, "abacus"),
        ({"config": replace(CONFIG, patch_size=33)}, GeometryError, "--patch-size 33"),
        ({"config": replace(CONFIG, patch_size=2, batch_size=1)}, ConfigError, "one value is left"),
        ({"config": replace(CONFIG, features="4,8,16,32,64,128,256,512,1,1,1,1")}, UnetcliError, "fits"),
    ],
    ids=["no such GPU", "no device", "patch size", "one value", "too deep"],
)
def test_what_can_not_be_trained_leaves_nothing(instances, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        train.run(instances, tmp_path / "run", **{"config": CONFIG, "device": "cpu", **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_data_set_without_labels(folders, tmp_path, dry_run):
    prep.run([folders / "images"], tmp_path / "d", PrepConfig())
    with pytest.raises(InputError, match="no labels"):
        train.run(tmp_path / "d", tmp_path / "run", CONFIG, device="cpu", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing(instances, tmp_path):
    described = train.run(instances, tmp_path / "run", CONFIG, dry_run=True)
    assert (described["training_planes"], described["validation_planes"]) == (2, 1)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(instances, weight_maps, trained, copy_of):
    run = copy_of(trained)
    (run / "model.safetensors").unlink()
    (run / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.ckpt: is damaged"):
        train.run(instances, run, CONFIG, weights=weight_maps, device="cpu")


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_network_that_is_not_finite_after_the_last_step_is_not_saved(instances, tmp_path, norm):
    config = replace(
        CONFIG, steps=1, optimizer="sgd", learning_rate=1e30, schedule="constant", norm=norm, clip_norm=0.0
    )
    with pytest.raises(ConfigError, match="validation loss is not finite at step 1: the output of the network"):
        train.run(instances, tmp_path / "run", config, device="cpu")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_validation_image_that_is_not_finite_is_named(instances, tmp_path, monkeypatch):
    kept = Validator._truth

    def truth(self, example, core):
        found = kept(self, example, core)
        return found._replace(weights=np.full(found.weights.shape, np.inf, np.float32))

    monkeypatch.setattr(Validator, "_truth", truth)
    with pytest.raises(InputError, match="not finite at step 2: img_02 has pixels or weights that are not finite"):
        train.run(instances, tmp_path / "run", CONFIG, device="cpu")


def test_a_run_killed_while_it_began_or_was_removed_can_begin_again(
    instances, weight_maps, trained, copy_of, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".run.json.123.partial").write_text("{")
    train.run(instances, run, CONFIG, weights=weight_maps, device="cpu")
    assert results(run) == results(trained)
    assert not list(run.glob("*.partial"))

    def killed(path):
        raise Stopped

    monkeypatch.setattr(shutil, "rmtree", killed)  # the first folder is not removed any more
    run = copy_of(trained)
    with pytest.raises(Stopped):
        train.run(instances, run, CONFIG, weights=weight_maps, device="cpu", overwrite=True)
    monkeypatch.undo()
    assert (run / "run.json").exists()
    train.run(instances, run, CONFIG, weights=weight_maps, device="cpu", overwrite=True)
    assert results(run) == results(trained)


@pytest.mark.parametrize("content", ["{}", "nothing", '{"fingerprint": {"stage": "prep"}}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_file_of_something_else_lets_nothing_be_removed(instances, tmp_path, content, overwrite):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(InputError, match="not a training run"):
        train.run(instances, tmp_path / "run", CONFIG, device="cpu", overwrite=overwrite)
    assert (tmp_path / "run" / "run.json").read_text() == content


def test_a_table_that_is_missing_is_named(instances, weight_maps, trained, copy_of):
    run = copy_of(trained)
    (run / "metrics.csv").unlink()
    with pytest.raises(InputError, match=r"metrics\.csv: is missing"):
        train.run(instances, run, CONFIG, weights=weight_maps, device="cpu")


def test_going_on_with_other_arithmetic_is_said(instances, tmp_path, monkeypatch, caplog):
    run, n_cpus = tmp_path / "run", iter([1, 1, 2])
    monkeypatch.setattr(train, "allotted_cpus", lambda _: next(n_cpus))
    for after, said in ((2, False), (1, False), (1, True)):
        with pytest.raises(Stopped):
            train.run(instances, run, CONFIG, device="cpu", progress=stop_after(after))
        assert ("threads was 1, is 2" in caplog.text) == said


def test_a_folder_of_something_else_is_left_alone(instances, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not a training run"):
            train.run(instances, tmp_path / "run", CONFIG, device="cpu", overwrite=overwrite)
    assert (tmp_path / "run" / "thesis.txt").exists()


def test_the_order_of_writing_never_leaves_half_a_run(instances, weight_maps, trained, copy_of):
    """A run that was killed between its last checkpoint and its model is finished by the next call."""
    run = copy_of(trained)
    (run / "model.safetensors").unlink()
    (run / "curves.png").unlink()
    train.run(instances, run, CONFIG, weights=weight_maps, device="cpu")
    assert results(run) == results(trained)
    assert (run / "curves.png").exists()
    shutil.rmtree(run)


def ignoring(folder, *, split=None):
    """Return a data set of two images, with weights that ignore the whole of the first and a half of the other."""
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[0], labels[1, :, 32:], labels[1, 8:24, 8:24] = 2, 2, 1
    for name, array in (("image", labels), ("labels", labels)):
        np.save(folder / f"{name}.npy", array)
    config = PrepConfig(label_kind="classes", ndim=2, split=split)
    prep.run([folder / "image.npy"], folder / "d", config, labels=[folder / "labels.npy"])
    weights.run(folder / "d", folder / "w", WeightsConfig(ignore="2", sampling=0.5))
    return folder / "d", folder / "w"


def test_no_patch_is_centred_on_ignored_pixels(tmp_path):
    data, maps = ignoring(tmp_path)
    found = examples(open_dataset(data), maps)
    (example,) = found.values()
    for k in range(30):
        sample = draw_sample([(example, 0, 0), (example, 0, 1)], CONFIG, 0, k, 1, 2)
        assert sample.origin[0] == 1
        assert sample.origin[2] < 32
    train.run(data, tmp_path / "run", CONFIG, weights=maps, device="cpu")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_ignored_pixels_count_in_no_score(tmp_path):
    data, maps = ignoring(tmp_path, split="0")
    train.run(data, tmp_path / "run", CONFIG, weights=maps, device="cpu")
    rows = rows_of(tmp_path / "run")
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert not any("validation_iou" in row for row in rows)


@pytest.mark.parametrize("sampling", [0.5, None], ids=["sampling map", "no sampling map"])
def test_nothing_is_learnt_from_ignored_pixels_alone(tmp_path, sampling):
    data, maps = ignoring(tmp_path, split="1")
    weights.run(data, maps, WeightsConfig(ignore="2", sampling=sampling), overwrite=True)
    with pytest.raises(InputError, match="the weights are 0 in all training images"):
        train.run(data, tmp_path / "run", CONFIG, weights=maps, device="cpu")
    assert not (tmp_path / "run").exists()


def test_scores_of_a_plane_leave_out_pixels_of_weight_0(tmp_path, monkeypatch):
    data, maps = ignoring(tmp_path, split="1")
    dataset = open_dataset(data)
    (example,) = examples(dataset, maps).values()
    predicted = np.zeros((3, 1, 64, 64), np.float32)
    predicted[1] = 1  # everywhere the class of the object
    monkeypatch.setattr(Validator, "_predict", lambda *_: predicted)
    geometry = Geometry((AxisGeometry(1, 0, 0, 0, 1),) * 2)
    sums = Validator([(example, 0, 1)], dataset, geometry, torch.device("cpu")).measure(torch.nn.Identity())
    assert sums.table.tolist() == [[0, 64 * 32 - 256, 0], [0, 256, 0], [0, 0, 0]]
    assert np.isfinite(sums.loss).all()
