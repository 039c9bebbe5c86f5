"""Whatever fails in the middle of a prediction: one clear line, nothing lost, and the same command continues."""

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.conftest import assert_same_files, cells, files_of
from tests.image.test_location import address, bucket, objects, server  # noqa: F401 - fixtures
from tests.servers import failing
from tests.stages.test_tile_predict import make_model
from tests.stages.test_tile_predict_jobs import small  # noqa: F401 - a fixture
from unetcli.config import PredictConfig, PrepConfig
from unetcli.image.location import write
from unetcli.prediction.predictor import Predictor
from unetcli.stages import prep, tile_predict

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "m.safetensors")


@pytest.fixture
def image(tmp_path, small_tiles):
    """Return an image of 12 shards, which are those of the output too."""
    np.save(tmp_path / "image.npy", cells((90, 100), 3)[0])
    prep.run([tmp_path / "image.npy"], tmp_path / "image.zarr", PrepConfig())
    return tmp_path / "image.zarr"


@pytest.fixture
def whole(tmp_path, image, model):
    out = tmp_path / "whole"
    tile_predict.run(image, out, PredictConfig(), model=model, probabilities=tmp_path / "whole_p", device="cpu")
    return out


@pytest.fixture
def disk(tmp_path):
    """Return a disk of its own that has room for the beginning, and can be mounted again in another way."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", place]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a disk")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    place_of = (place, remount)
    yield place_of
    subprocess.run(["umount", place], check=True)


def command(image, model, folder, *more):
    outputs = ["-o", folder / "m", "--probabilities", folder / "p"]
    return ["tile-predict", image, "--model", model, *outputs, "--device", "cpu", *more]


def one_line(cli, said):
    """Check that an error was told in one line, with a remedy in another."""
    lines = [line for line in cli.err.splitlines() if line.startswith(("error:", "  fix:", "Traceback"))]
    assert lines[0].startswith("error: "), cli.err
    assert len(lines) <= 2
    assert said in lines[0], cli.err


def test_a_full_disk(cli, image, model, whole, disk):
    folder, remount = disk
    assert cli(*command(image, model, folder)) == 5
    one_line(cli, "no space left on the disk")
    remount("size=10m")
    assert cli(*command(image, model, folder)) == 0
    assert_same_files(folder / "m", whole)


@pytest.mark.parametrize("moment", ["before", "in the middle"])
def test_a_disk_that_can_only_be_read(cli, image, model, whole, disk, moment):
    folder, remount = disk
    remount("size=10m")
    if moment == "in the middle":
        assert cli(*command(image, model, folder, "--part", "0/2")) == 0
    remount("ro")
    assert cli(*command(image, model, folder)) == 3
    one_line(cli, "can not be written" if moment == "before" else "Read-only file system")
    remount("rw")
    assert cli(*command(image, model, folder)) == 0
    assert_same_files(folder / "m", whole)


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped"])
def test_a_chunk_of_the_input(cli, tmp_path, image, model, whole, fault):
    """The image is the same one as before to the fingerprint: it is damaged while the command runs."""
    file = image / "0" / "c" / "2" / "1"
    content, compute = file.read_bytes(), Predictor._begin
    broken = bytearray(content)
    broken[len(content) // 3] ^= 0xFF

    damaged = {"missing": None, "cut": content[: len(content) // 2], "flipped": bytes(broken)}[fault]

    def damage(self, *args):
        file.unlink(missing_ok=True) if damaged is None else write(file, damaged)
        return compute(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "_begin", damage)
        assert cli(*command(image, model, tmp_path, "--workers", "1")) == 3
    one_line(cli, "image.zarr/0")
    write(file, content)
    assert cli(*command(image, model, tmp_path)) == 0
    assert_same_files(tmp_path / "m", whole)
    assert_same_files(tmp_path / "p", tmp_path / "whole_p")


def test_a_signal_is_answered_within_a_shard_that_takes_long(cli, tmp_path, image, model, whole, monkeypatch):
    compute, passed = Predictor._begin, []

    def slow(self, *args):
        passed.append(None)
        if len(passed) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return compute(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr("unetcli.cli.GRACE_S", 0.5)
        patch.setattr(Predictor, "_begin", slow)
        start = time.monotonic()
        assert cli(*command(image, model, tmp_path)) == 75
    assert time.monotonic() - start < 30
    assert "stopped: stopped by SIGTERM" in cli.err
    assert cli(*command(image, model, tmp_path)) == 0
    assert_same_files(tmp_path / "m", whole)


def test_a_deadline_stops_a_part(cli, tmp_path, image, model, whole, monkeypatch):
    compute = Predictor._begin

    def slow(self, *args):
        time.sleep(0.3)
        return compute(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "_begin", slow)
        assert cli(*command(image, model, tmp_path, "--part", "0/2", "--stop-after", "0.02")) == 75
    assert "stopped by --stop-after" in cli.err
    assert cli(*command(image, model, tmp_path, "--part", "0/2")) == 0
    assert cli(*command(image, model, tmp_path)) == 0
    assert_same_files(tmp_path / "m", whole)


@pytest.mark.slow
@pytest.mark.parametrize("survived", [5, 40, 80])
def test_a_server_that_dies(cli, image, model, whole, bucket, server, address, survived):  # noqa: F811 - fixtures
    dead = True
    with failing(server, lambda n, _: 503 if dead and n >= survived else None) as proxy:
        address(proxy.port)
        arguments = command(image, model, bucket, "--workers", "2")
        assert cli(*arguments) == 3
        one_line(cli, "can not be reached")
        dead = False
        for phase in (["--create"], ["--part", "0/2"], ["--part", "1/2"], ["--finish"]):
            assert cli(*arguments, *phase) == 0
    address(server)
    found = {name: content for name, content in objects(bucket / "m").items() if "/c/" in name}
    assert found == {name.partition("/")[2]: content for name, content in files_of(whole).items() if "/c/" in name}
    assert set(objects(bucket)) == {f"m/{n}" for n in objects(bucket / "m")} | {f"p/{n}" for n in objects(bucket / "p")}
