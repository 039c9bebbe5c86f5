"""Prediction in the jobs of a real SLURM: the shipped scripts end in the bytes of one run, whatever is cancelled."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import assert_same_files, cells
from tests.hpc.test_srun import slurm  # noqa: F401 - a fixture
from tests.stages.test_tile_predict import make_model
from unetcli.config import PredictConfig, PrepConfig
from unetcli.stages import prep, tile_predict

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONS = ["--mem=0", "--cpus-per-task=1", "--time=10"]
SMALL = """#!{python}
import os, sys, time
import unetcli.image.new_store as store
from unetcli.prediction.predictor import Predictor
store.SHARD, store.CHUNK = 32, 16
compute = Predictor._begin
def slow(self, *args):
    time.sleep(float(os.environ.get("SLOW", 0)))
    return compute(self, *args)
Predictor._begin = slow
from unetcli.cli import main
sys.exit(main())
"""


@pytest.fixture
def cluster(slurm, tmp_path):  # noqa: F811 - a fixture
    """Return the environment of a cluster where `unetcli` writes small shards, and takes its time if asked to."""
    program = tmp_path / "bin" / "unetcli"
    program.parent.mkdir()
    program.write_text(SMALL.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "logs").mkdir()
    here = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(EXAMPLES.parent)}
    return {**slurm, **here, "SBATCH_OPTIONS": " ".join(OPTIONS)}


@pytest.fixture
def image(tmp_path, small_tiles):
    np.save(tmp_path / "image.npy", cells((90, 100), 3)[0])
    prep.run([tmp_path / "image.npy"], tmp_path / "image.zarr", PrepConfig())
    return tmp_path / "image.zarr"


@pytest.fixture
def command(tmp_path, image):
    model = make_model(tmp_path / "m.safetensors")
    tile_predict.run(image, tmp_path / "whole", PredictConfig(), model=model, device="cpu")
    return ["tile-predict", image, "--model", model, "-o", tmp_path / "mask", "--device", "cpu"]


def run(arguments, environment, folder):
    arguments = [str(a) for a in arguments]
    return subprocess.run(
        arguments, env=environment, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


def wait_for_all(environment, folder):
    for _ in range(600):
        if not run(["squeue", "-h"], environment, folder).stdout.strip():
            return
        time.sleep(1)
    raise AssertionError(run(["squeue"], environment, folder).stdout)


def logs(folder):
    return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted((folder / "logs").iterdir()))


def test_the_pipeline_ends_in_the_bytes_of_one_run(cluster, tmp_path, command):
    ended = run([EXAMPLES / "slurm" / "pipeline.sh", 4, *command], cluster, tmp_path)
    assert ended.returncode == 0, ended.stderr
    wait_for_all(cluster, tmp_path)
    assert (tmp_path / "mask" / "zarr.json").exists(), logs(tmp_path)
    assert_same_files(tmp_path / "mask", tmp_path / "whole")


def test_finishing_without_some_parts_says_which_array_to_run(cluster, tmp_path, command):
    array = ["sbatch", "--wait", *OPTIONS]
    assert (
        run([*array, "--array=0,3", EXAMPLES / "slurm" / "array.sbatch", 6, *command], cluster, tmp_path).returncode
        == 0
    )
    finish = ["srun", "unetcli", *command, "--finish", "--json"]
    ended = run(finish, cluster, tmp_path)
    assert ended.returncode == 6, ended.stderr
    assert "--array=1-2,4-5" in ended.stderr
    again = run([*array, "--array=1-2,4-5", EXAMPLES / "slurm" / "array.sbatch", 6, *command], cluster, tmp_path)
    assert again.returncode == 0, logs(tmp_path)
    assert run(finish, cluster, tmp_path).returncode == 0
    assert_same_files(tmp_path / "mask", tmp_path / "whole")


def begun(n, command, cluster, folder):
    """Give a prediction to an array of jobs; return its number when the first shards are done."""
    array = [EXAMPLES / "slurm" / "array.sbatch", n, *command]
    given = run(["sbatch", "--parsable", *OPTIONS, f"--array=0-{n - 1}", *array], cluster, folder)
    assert given.returncode == 0, given.stderr
    for _ in range(300):
        if list(folder.glob("mask.unetcli/*.done")):
            break
        time.sleep(0.5)
    return given.stdout.strip()


def test_jobs_that_are_cancelled_in_the_middle_go_on(cluster, tmp_path, command):
    slow = {**cluster, "SLOW": "4"}
    job = begun(2, command, slow, tmp_path)
    run(["scancel", job], slow, tmp_path)
    wait_for_all(slow, tmp_path)
    done = [line for file in tmp_path.glob("mask.unetcli/*.done") for line in file.read_text().splitlines()]
    assert 0 < len(done) < 12, logs(tmp_path)
    ended = run([EXAMPLES / "slurm" / "pipeline.sh", 2, *command], cluster, tmp_path)
    assert ended.returncode == 0, ended.stderr
    wait_for_all(cluster, tmp_path)
    assert_same_files(tmp_path / "mask", tmp_path / "whole")


def test_a_job_that_is_stopped_in_time_is_put_back_into_the_queue(cluster, tmp_path, command):
    slow = {**cluster, "SLOW": "3"}
    job = begun(1, command, slow, tmp_path)
    run(["scancel", "--batch", "--signal=USR1", f"{job}_0"], slow, tmp_path)
    wait_for_all(slow, tmp_path)
    assert "stopped by SIGUSR1" in logs(tmp_path)
    assert run(["srun", "unetcli", *command, "--finish"], cluster, tmp_path).returncode == 0, logs(tmp_path)
    assert_same_files(tmp_path / "mask", tmp_path / "whole")


def test_workers_of_dask_are_jobs_of_their_own(slurm, tmp_path):  # noqa: F811 - a fixture
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue (pip install 'unetcli[dask]')")
    np.save(tmp_path / "image.npy", np.tile(cells((103, 100), 3)[0], (20, 41)))
    image, model = tmp_path / "image.zarr", make_model(tmp_path / "m.safetensors")
    prep.run([tmp_path / "image.npy"], image, PrepConfig())
    tile_predict.run(image, tmp_path / "whole", PredictConfig(), model=model, device="cpu")
    job = {"JOB_CPU": "1", "MEMORY": "1GB", "WALLTIME": "00:10:00"}
    here = {**slurm, "HOME": str(tmp_path), **{f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in job.items()}}
    command = [sys.executable, "-m", "unetcli", "tile-predict", image, "--model", model, "-o", tmp_path / "mask"]
    ended = run([*command, "--device", "cpu", "--scheduler", "slurm", "--workers", "2"], here, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert_same_files(tmp_path / "mask", tmp_path / "whole")


def test_the_workflow_is_one_of_snakemake(tmp_path):
    if shutil.which("snakemake") is None:
        pytest.skip("needs snakemake")
    (tmp_path / "data").mkdir()
    config = ["--config", "images=[a,b]", "model=run", "parts=3"]
    ended = run(["snakemake", "-n", "-s", EXAMPLES / "snakemake" / "Snakefile", *config], dict(os.environ), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("--part") == 0
