"""What a step takes, before training: memory as it is counted and measured, time, and what a dry run says of it."""

from dataclasses import replace

import pytest
import torch

from tests.conftest import TINY
from unetcli.config import TrainConfig
from unetcli.memory import available_memory, peak_memory
from unetcli.models import build_model
from unetcli.models.checkpoint import read_header
from unetcli.stages import train
from unetcli.training import estimate
from unetcli.training.estimate import count_memory

CONFIG = TrainConfig(**TINY)


def counted_by_hand(header, patches, shape):
    """Count the storages that a real pass keeps, told apart by their addresses."""
    network = build_model(header.arch, header.parameters).train()
    image = torch.rand(patches, header.channels, *shape)
    kept = {image.data_ptr(): image}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        output = network(image)
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    saved = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    return saved + output.nbytes + 4 * sum(p.nbytes for p in network.parameters())


@pytest.mark.parametrize(("patches", "shape"), [(1, (32, 32)), (3, (64, 32))])
def test_memory_is_counted_as_a_real_pass_takes_it(trained, patches, shape):
    header = read_header(trained)
    assert count_memory(header, patches, shape) == counted_by_hand(header, patches, shape)


def test_a_dry_run_says_what_a_run_takes_and_writes_nothing(instances, tmp_path):
    said = train.run(instances, tmp_path / "run", CONFIG, device="cpu", dry_run=True)
    assert not list(tmp_path.iterdir())
    assert said["patch"] == "32 pixels in, 32 out, 2 in a step"
    whole = train.run(instances, tmp_path / "run", replace(CONFIG, features=None), device="cpu", dry_run=True)
    assert "32,64,128,256,512 channels" in whole["network"]
    assert (said["steps"], said["validations"], said["device"]) == (6, 3, "cpu")
    assert said["epochs"] == pytest.approx(6 / 7)  # 2 images of 80 x 80 pixels are 13 patches
    assert 0 < said["step_memory_gb"] < 2
    minutes = (6 * said["step_seconds"] + 3 * said["validation_seconds"]) / 60
    assert said["minutes"] == pytest.approx(minutes)
    assert {line.split(":")[0].rstrip("/") for line in said["files"]} == {
        "model.safetensors", "best.safetensors", "last.ckpt", "metrics.csv", "timing.csv", "curves.png", "validation",
        "tensorboard", "run.json",
    }  # fmt: skip


def test_a_step_that_does_not_fit_is_not_tried(instances, tmp_path, monkeypatch):
    monkeypatch.setattr("unetcli.stages.train.available_memory", lambda _: 1000)
    said = train.run(instances, tmp_path / "run", CONFIG, device="cpu", dry_run=True)
    assert "does not fit" in said["notes"][0]
    assert "step_seconds" not in said
    smaller = train.run(instances, tmp_path / "run", replace(CONFIG, accumulate=2), device="cpu", dry_run=True)
    assert smaller["step_memory_gb"] < said["step_memory_gb"]


def test_memory_used_up_on_the_way_is_said(instances, tmp_path, monkeypatch):
    def fill(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(estimate.Trainer, "try_patch", fill)
    assert "notes" in train.run(instances, tmp_path / "run", CONFIG, device="cpu", dry_run=True)


def test_the_memory_of_this_machine_is_known():
    assert available_memory() > 0
    assert peak_memory() > 10_000_000
