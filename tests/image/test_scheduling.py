"""Workers of dask.distributed end in the bytes of one run, also when some of them are lost."""

import os
import signal
from functools import partial

import numpy as np
import pytest

from tests.conftest import assert_same_files, cells, files_of
from tests.stages.test_tile_predict import make_model
from unetcli.config import PredictConfig, PrepConfig
from unetcli.errors import InputError
from unetcli.image.scheduling import run_scheduled
from unetcli.image.streaming import silent
from unetcli.stages import prep, tile_predict

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("distributed", reason="needs distributed (pip install 'unetcli[dask]')")


def predict(image, out, model, lost=None, **options):
    """Predict with shards so small that a tiny image has many; be killed once, at a part whose number is in a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetcli.image.new_store.SHARD", 32)
        patch.setattr("unetcli.image.new_store.CHUNK", 16)
        if lost is not None and "part" in options and lost.exists():
            lost.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return tile_predict.run(image, out, PredictConfig(), model=model, device="cpu", **options)


@pytest.fixture
def image(tmp_path, small_tiles):
    np.save(tmp_path / "image.npy", cells((90, 100), 3)[0])
    prep.run([tmp_path / "image.npy"], tmp_path / "image.zarr", PrepConfig())
    return tmp_path / "image.zarr"


@pytest.mark.parametrize("is_lost", [False, True], ids=["all stay", "one is lost"])
def test_workers_end_in_the_same_bytes(tmp_path, image, is_lost):
    model, lost = make_model(tmp_path / "m.safetensors"), tmp_path / "lost"
    predict(image, tmp_path / "whole", model)
    if is_lost:
        lost.touch()
    shown = []
    call = partial(predict, image, tmp_path / "m", model, lost)
    options = {"overwrite": False, "workers": 2, "progress": lambda *call: shown.append(call)}
    assert run_scheduled(call, "local", **options)["shards"] == 12
    assert not lost.exists()
    assert_same_files(tmp_path / "m", tmp_path / "whole")
    assert [call for call in shown if call[1] == 12][-1] == (12, 12)
    before = files_of(tmp_path / "m")
    assert run_scheduled(call, "local", **options)["already_done"]
    assert files_of(tmp_path / "m") == before


def test_what_a_worker_finds_wrong_is_told(tmp_path, image, cli):
    model = make_model(tmp_path / "m.safetensors")
    (image / "0" / "c" / "2" / "1").unlink()
    command = ["tile-predict", image, "--model", model, "-o", tmp_path / "m", "--scheduler", "local", "--workers", "1"]
    assert cli(*command) == 3
    assert "image.zarr/0/c/2/1: is missing" in cli.err


def test_no_scheduler_answers(tmp_path, image, monkeypatch):
    model = make_model(tmp_path / "m.safetensors")
    call = partial(predict, image, tmp_path / "m", model)
    with pytest.raises(InputError, match=r"--scheduler tcp://127\.0\.0\.1:1: no scheduler"):
        run_scheduled(call, "tcp://127.0.0.1:1", overwrite=False, workers=None, progress=silent)
