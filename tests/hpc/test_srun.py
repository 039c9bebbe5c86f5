"""Training under a real SLURM: tasks of `srun` train together, stop together, and before the job's time is over."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.training.test_processes import rows_of
from unetcli.config import TrainConfig
from unetcli.stages import train

pytestmark = pytest.mark.slow
UP = Path(__file__).parents[3] / "shared" / "hpc" / "slurm-up"
SETTINGS = {**TINY, "batch_size": 4, "norm": "none", "precision": "float32", "augment_on": "host"}
OPTIONS = [f"--{k.replace('_', '-')}={v}" for k, v in SETTINGS.items()]


@pytest.fixture(scope="module")
def slurm():
    """Return the environment of a cluster of its own on this machine."""
    up = shutil.which("slurm-up") or (UP if UP.exists() else None)
    if up is None:
        pytest.skip("needs slurm-up, which starts a SLURM on this machine")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # its daemons are of several users
    started = subprocess.run([up, "--dir", folder / "state"], capture_output=True, text=True, timeout=300, check=False)
    if started.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"slurm-up: {started.stderr.strip().splitlines()[-1]}")
    told = dict(line.removeprefix("export ").split("=", 1) for line in started.stdout.splitlines() if "=" in line)
    yield {**os.environ, **{k: v.strip("'\"") for k, v in told.items()}, "OMP_NUM_THREADS": "1"}
    down = Path(up).with_name("slurm-down")
    subprocess.run([down, "--dir", folder / "state"], capture_output=True, timeout=60, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def unetcli(data, out, *options):
    return [sys.executable, "-m", "unetcli", "train", data, "-o", out, "--device", "cpu", *OPTIONS, *options]


def run(command, slurm):
    return subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=600, check=False)


def test_two_tasks_train_as_one_process(slurm, instances, tmp_path):
    ended = run(["srun", "-n2", *unetcli(instances, tmp_path / "two")], slurm)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("parameters") == 1
    train.run(instances, tmp_path / "one", TrainConfig(**SETTINGS), device="cpu")
    for two, one in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_a_batch_script_is_one_process(slurm, instances, tmp_path):
    """The shell of a job of two tasks has SLURM_PROCID too."""
    command = " ".join(map(str, unetcli(instances, tmp_path / "run")))
    script = f"#!/bin/bash\n#SBATCH -n2 --output={tmp_path}/log\nexec {command}\n"
    (tmp_path / "job").write_text(script)
    ended = run(["sbatch", "--wait", tmp_path / "job"], slurm)
    assert ended.returncode == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("stop", ["a deadline", "the end of the job"])
def test_tasks_stop_in_time_and_go_on(slurm, instances, tmp_path, stop):
    long = ("--steps=100000", "--validate-every=50000", "--stop-after")
    limit = ["auto"] if stop == "the end of the job" else ["0.3"]
    ended = run(["srun", "-n2", "-t", "2", *unetcli(instances, tmp_path / "run", *long, *limit)], slurm)
    assert ended.returncode == 75, ended.stderr
    assert ended.stderr.count("stopped by --stop-after") == 1, ended.stderr
    again = run(["srun", "-n2", *unetcli(instances, tmp_path / "run", *long, "0.3")], slurm)
    assert again.returncode == 75, again.stderr


def test_scancel_stops_tasks_in_order(slurm, instances, tmp_path):
    """Of a signal to all tasks one message comes, and the exit code 75."""
    out = tmp_path / "run"
    command = unetcli(instances, out, "--steps=100000", "--validate-every=50000")
    with subprocess.Popen(
        ["srun", "-n2", "--job-name=stopped", *map(str, command)], env=slurm, stderr=subprocess.PIPE, text=True
    ) as started:
        script = f"until [ -e {out}/run.json ]; do sleep 0.2; done; sleep 1; scancel --name=stopped --signal=USR1"
        subprocess.run(["timeout", "300", "bash", "-c", script], env=slurm, timeout=310, check=False)
        _, err = started.communicate(timeout=300)
    assert started.returncode == 75, err
    assert err.count("stopped:") == 1, err
    assert (out / "last.ckpt").exists()
