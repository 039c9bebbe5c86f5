"""Several processes: which one this is, that they train as one does, and that they stop and fail together."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import TINY
from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, DeviceError
from unetcli.launch import Launch, read_launch
from unetcli.stages import train
from unetcli.training import processes
from unetcli.training.processes import allotted_cpus, check_batch, device_name

SETTINGS = {**TINY, "batch_size": 4, "norm": "none", "precision": "float32", "augment_on": "host"}
BATCH_SHELL = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
TASK = {
    **BATCH_SHELL, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
}  # fmt: skip
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        (BATCH_SHELL, Launch()),
        ({**BATCH_SHELL, "SLURM_STEP_NUM_TASKS": "1"}, Launch()),
        (TASK, Launch(3, 4, 0, 1, "srun")),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}, Launch(3, 4, 1, 2, "srun")),
        (TORCHRUN, Launch(5, 8, 1, 4, "torchrun")),
        ({**TASK, **TORCHRUN}, Launch(5, 8, 1, 4, "torchrun")),
    ],
    ids=["alone", "batch shell", "one task", "srun", "srun, same on each node", "torchrun", "torchrun in srun"],
)
def test_the_place_among_processes(environment, expected):
    assert read_launch(environment) == expected


@pytest.mark.parametrize(
    ("name", "launch", "seen", "expected"),
    [
        ("auto", Launch(), 4, "auto"),
        ("cuda:1", Launch(), 4, "cuda:1"),
        ("auto", Launch(3, 4, 1, 2), 2, "cuda:1"),
        ("cuda", Launch(3, 4, 1, 2), 1, "cuda:0"),
        ("cpu", Launch(3, 4, 1, 2), 2, "cpu"),
        ("auto", Launch(3, 4, 1, 2), 0, "auto"),
        ("cuda:1", Launch(3, 4, 1, 2), 2, ConfigError),
        ("auto", Launch(3, 4, 3, 4), 2, DeviceError),
    ],
)
def test_each_process_has_a_device_of_its_own(monkeypatch, name, launch, seen, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    if isinstance(expected, str):
        assert device_name(launch, name) == expected
    else:
        with pytest.raises(expected):
            device_name(launch, name)


@pytest.mark.parametrize(
    ("launch", "by_task", "expected"),
    [(Launch(), "", 8), (Launch(0, 4, 0, 2, "torchrun"), "8", 4), (Launch(0, 4, 0, 2, "srun"), "8", 8)],
)
def test_processes_share_the_processors_of_a_node(monkeypatch, launch, by_task, expected):
    monkeypatch.setattr(processes, "available_cpus", lambda: 8)
    if by_task:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", by_task)
    assert allotted_cpus(launch) == expected


def test_a_batch_must_part_evenly():
    check_batch(8, 2, 4)
    with pytest.raises(ConfigError, match="2 processes x --accumulate 3") as caught:
        check_batch(8, 3, 2)
    assert caught.value.fix == "--batch-size 12"


def torchrun(data, out, *options, **settings):
    """Start two processes that train."""
    environment = {k: v for k, v in os.environ.items() if k not in TORCHRUN}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "unetcli"]
    given = [f"--{k.replace('_', '-')}={v}" for k, v in {**SETTINGS, **settings}.items()]
    return subprocess.Popen(
        [*command, "train", str(data), "-o", str(out), "--device", "cpu", "--workers", "1", *given, *map(str, options)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows_of(run):
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_summed_batch(instances, weight_maps, tmp_path):
    changes = {"loss": "dice-cross-entropy", "ema": 0.5}
    started = torchrun(instances, tmp_path / "two", "--weights", weight_maps, "--json", accumulate=2, **changes)
    train.run(
        instances, tmp_path / "one", TrainConfig(**SETTINGS, **changes), weights=weight_maps, device="cpu"
    )  # fmt: skip
    out, err = started.communicate(timeout=600)
    assert started.returncode == 0, err
    assert json.loads(out)["last_step"] == SETTINGS["steps"]  # one result, of one process
    for two, one in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_torchrun_passes_a_signal_on_and_the_run_goes_on_later(instances, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = {"steps": 150, "validate_every": 50}
    started = torchrun(instances, run, **settings)
    while not (run / "metrics.csv").exists() and started.poll() is None:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=600)
    assert started.returncode == 1  # torchrun's own; that of the processes is 75
    assert err.count("stopped:") == 1, err
    assert not (run / "model.safetensors").exists()
    config = TrainConfig(**{**SETTINGS, **settings})
    train.run(instances, run, config, device="cpu")  # one process goes on
    train.run(instances, whole, config, device="cpu")
    for a, b in zip(rows_of(run), rows_of(whole), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.slow
def test_one_message_of_an_error_of_all(instances, tmp_path):
    started = torchrun(instances, tmp_path / "run", batch_size=3)
    _, err = started.communicate(timeout=600)
    assert err.count("error: --batch-size 3: does not part evenly") == 1, err
    assert not (tmp_path / "run").exists()


FAILING = """
import os, sys
from unetcli.errors import InputError
from unetcli.training.trainer import Trainer
def train_on(self, batch, kept=Trainer.train_on):
    if self.processes.rank == 1 and self.history.step == 1:
        raise InputError("a patch of process 1 can not be read")
    kept(self, batch)
Trainer.train_on = train_on
from unetcli.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_with_its_message(instances, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = [f"--{k.replace('_', '-')}={v}" for k, v in SETTINGS.items()]
    ended = subprocess.run(
        [*command, tmp_path / "failing.py", "train", instances, "-o", tmp_path / "run", "--device", "cpu", *given],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == 1, ended.stderr
    assert "error: a patch of process 1 can not be read" in ended.stderr
