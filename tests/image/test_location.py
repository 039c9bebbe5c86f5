"""Stores in a bucket and on a web server are the same stores; what fails on the way is tried again, then said."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY, Stopped, cells, files_of, pixels, stop_after
from tests.servers import Quiet, WithRange, failing, files_in
from tests.stages.test_tile_predict import make_model
from unetcli.config import PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image import ledger, location
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import Ledger, forget, ledger_path
from unetcli.image.location import RemotePath, empty, local_path, parse_location, write
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.stages import info, prep

pytest.importorskip("obstore", reason="needs unetcli[remote]")
FAST = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(seconds=0.005), "max_backoff": timedelta(seconds=0.02), "base": 2},
    "retry_timeout": timedelta(seconds=10),
}


def variables(port):
    """Return what tells where the server is, and who asks."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def server():
    """Run an S3 server in a process of its own; return its port. It has a bucket named ``bucket``."""
    pytest.importorskip("moto.server", reason="needs moto[server]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        for attempt in range(300):
            try:
                urllib.request.urlopen(request, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the server stopped"
                assert attempt < 299, "the server does not answer"
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def address(monkeypatch):
    """Return a function that says where S3 is."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(location, "RETRY", FAST)

    def point_at(port):
        location._shared.cache_clear()
        for name, value in variables(port).items():
            monkeypatch.setenv(name, value)

    yield point_at
    location._shared.cache_clear()


@pytest.fixture
def bucket(server, address, request):
    """Return an empty place in the bucket."""
    address(server)
    return RemotePath("s3", "bucket", f"{request.node.name[:60]}-{os.urandom(3).hex()}")


def objects(place):
    """Return the bytes of all objects below a place."""
    return {name: (place / name).read_bytes() for name, _, _ in place.contents()}


def local_files(folder):
    return {k.partition("/")[2]: v for k, v in files_of(folder).items()}


def assert_same_store(place, folder):
    """Compare a remote store with a local one, byte by byte; digests of remote inputs are other ones."""
    found, expected = objects(place), local_files(folder)
    for files in (found, expected):
        for name in (n for n in files if n.endswith("zarr.json")):
            files[name] = json.loads(files[name])
            ours = files[name]["attributes"].get("unetcli", {})
            ours.pop("run", None)
            ours.get("fingerprint", {}).pop("inputs", None)
    assert {k for k in found | expected if found.get(k) != expected.get(k)} == set()


def pixels_at(place):
    level = open_store(place).images[0].level
    return level.read(Box.whole(level.shape))


def upload(folder, place):
    for name, content in local_files(folder).items():
        write(place / name, content)
    return place


# ------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a/b.zarr", Path("a/b.zarr")),
        ("file:///a/b%20c.zarr", Path("/a/b c.zarr")),
        ("file://localhost/a", Path("/a")),
        ("s3://b/x/y.zarr/", RemotePath("s3", "b", "x/y.zarr")),
        ("S3://b/x#1 %20.zarr", RemotePath("s3", "b", "x#1 %20.zarr")),
        ("https://h:81/x%20y//z.zarr", RemotePath("https", "h:81", "x y/z.zarr")),
        ("http://[::1]:8/x", RemotePath("http", "[::1]:8", "x")),
    ],
)
def test_text_means_a_place(text, place):
    assert parse_location(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "gs://b/x",
        "s3://b",
        "s3://b/",
        "s3:///x",
        "s3://b/../x",
        "https://u:p@h/x",
        "https://h/x?token=1",
        "file://h/x",
        "https://a b/x",
        "https:///x",
    ],
)
def test_other_addresses_are_refused(text):
    with pytest.raises(ConfigError, match="expected"):
        parse_location(text)


def test_what_is_no_store_is_local():
    assert local_path("a/b") == Path("a/b")
    with pytest.raises(ConfigError, match="s3://b/run: is remote"):
        local_path("s3://b/run")


def test_parts_of_a_place():
    place = RemotePath("s3", "b", "x/y.zarr")
    assert str(place) == "s3://b/x/y.zarr"
    assert (place.name, place.suffix, place.resolve()) == ("y.zarr", ".zarr", place)
    assert place / "" == place
    assert place / "0" / "c" == RemotePath("s3", "b", "x/y.zarr/0/c")
    assert str(ledger_path(place)) == "s3://b/x/y.zarr.unetcli"
    assert place.parents[0] == RemotePath("s3", "b", "x")


TREE = ("top", "a/zarr.json", "a/0/x", "a/0/y y#", "ab/z")


def test_a_bucket_answers_as_a_folder_does(tmp_path, bucket):
    for name in TREE:
        for root in (tmp_path, bucket):
            (root / name).parents[0].mkdir(parents=True, exist_ok=True)
            write(root / name, f"content of {name}")
    for name in (*TREE, "", "a", "a/0", "none", "a/none", "t", "a/0/x/y"):
        here, there = tmp_path / name, bucket / name
        assert [there.exists(), there.is_file(), there.is_dir()] == [here.exists(), here.is_file(), here.is_dir()]
        assert {p.name for p in there.iterdir()} == ({p.name for p in here.iterdir()} if here.is_dir() else set())
        assert {p.name for p in there.rglob("*y*")} == {p.name for p in here.rglob("*y*")}
        if here.is_file():
            assert there.read_text() == here.read_text()
            assert there.read_bytes() == here.read_bytes()
    for root in (tmp_path, bucket):
        empty(root / "a", but="zarr.json")
        (root / "top").unlink(missing_ok=True)
        (root / "top").unlink(missing_ok=True)
    assert set(objects(bucket)) == {"a/zarr.json", "ab/z"} == set(local_files(tmp_path))


def test_a_folder_of_a_web_server_is_known_by_its_metadata(tmp_path):
    for name in ("a.zarr", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
    with files_in(tmp_path) as web:
        root = parse_location(f"http://127.0.0.1:{web.port}/a.zarr")
        assert [root.is_dir(), (root / "zarr.json").is_file(), (root / "0").exists()] == [True, True, False]
        with pytest.raises(InputError, match="does not tell what lies in a folder"):
            list(root.iterdir())


def test_the_record_of_finished_tiles_is_kept_there_too(bucket, monkeypatch):
    monkeypatch.setattr(ledger, "LINES", 7)
    plan = {"stage": "test"}
    first = Ledger(bucket, plan)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: first.record(f"a/{i}"), range(40)))
    again = Ledger(bucket, plan)
    assert all(f"a/{i}" in again for i in range(40))
    assert "a/40" not in again
    assert len([p for p in ledger_path(bucket).iterdir() if p.name.endswith(".done")]) > 1
    forget(bucket)
    assert objects(ledger_path(bucket)) == {}


# ------------------------------------------------------------------------------------------- stores


@pytest.fixture
def array(tmp_path, small_tiles):
    """Return a picture that takes nine shards."""
    np.save(tmp_path / "image.npy", cells((90, 70), 0)[0])
    return tmp_path / "image.npy"


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_store_in_a_bucket_has_the_bytes_of_a_local_one(tmp_path, folders, bucket, small_tiles, ngff):
    for out in (tmp_path / "a.zarr", bucket):
        prep.run([folders / "images"], out, PrepConfig(ngff=ngff), labels=[folders / "ids"])
    assert objects(bucket) == local_files(tmp_path / "a.zarr")
    assert not ledger_path(bucket).exists()
    assert prep.run([folders / "images"], bucket, PrepConfig(ngff=ngff), labels=[folders / "ids"])["already_done"]
    with pytest.raises(ConfigError, match="other inputs or settings"):
        prep.run([folders / "images"], bucket, PrepConfig(ngff=ngff))


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_stopped_and_continued_in_a_bucket(tmp_path, array, bucket, calls):
    with pytest.raises(Stopped):
        prep.run([array], bucket, PrepConfig(), workers=1, progress=stop_after(calls))
    with pytest.raises(InputError, match="is not complete"):
        open_store(bucket)
    lines = [line for file in ledger_path(bucket).rglob("*.done") for line in file.read_text().splitlines()]
    assert len(set(lines)) >= calls
    prep.run([array], bucket, PrepConfig(), workers=1)
    prep.run([array], tmp_path / "a.zarr", PrepConfig())
    assert objects(bucket) == local_files(tmp_path / "a.zarr")


def test_killed_while_a_store_in_a_bucket_is_removed(tmp_path, array, bucket, monkeypatch):
    prep.run([array], bucket, PrepConfig())

    def killed(folder, **_):
        for name in sorted(objects(folder))[::2]:
            (folder / name).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unetcli.image.new_store.empty", killed)
        with pytest.raises(KeyboardInterrupt):
            prep.run([array], bucket, PrepConfig(ndim=2), overwrite=True)
    with pytest.raises(InputError, match="is not complete"):
        open_store(bucket)
    prep.run([array], bucket, PrepConfig(ndim=3))
    prep.run([array], tmp_path / "a.zarr", PrepConfig(ndim=3))
    assert objects(bucket) == local_files(tmp_path / "a.zarr")


def test_what_is_not_ours_stays_in_the_bucket(array, bucket):
    write(bucket / "thesis.txt", "precious")
    for overwrite in (True, False):
        with pytest.raises(InputError, match="was not made by unetcli"):
            prep.run([array], bucket, PrepConfig(), overwrite=overwrite)
    assert objects(bucket) == {"thesis.txt": b"precious"}


def test_a_folder_of_stores_in_a_bucket_is_a_folder(tmp_path, array, bucket):
    for name in ("t10", "t2"):
        prep.run([array.rename(tmp_path / f"{name}.npy")], bucket / f"{name}.zarr", PrepConfig())
        array = tmp_path / f"{name}.npy"
    prep.run([bucket], tmp_path / "all.zarr", PrepConfig())
    assert [image.name for image in open_store(tmp_path / "all.zarr").images] == ["t2", "t10"]


@pytest.mark.parametrize("changed", ["img_00/0/c/0/0", "img_01/labels/truth/0/zarr.json"])
def test_the_digest_of_a_store_in_a_bucket_tells_changes(instances, bucket, changed):
    place = upload(instances, bucket / "a")
    before = fingerprint(place)
    assert fingerprint(upload(instances, bucket / "other" / "b")) == before
    write(place / changed, (place / changed).read_bytes()[::-1])
    assert fingerprint(place) != before


def test_results_beside_an_image_do_not_count_in_its_digest(instances, bucket):
    place = upload(instances, bucket / "a")
    before = fingerprint(place)
    labels = place / "img_00" / "labels"
    write(labels / "zarr.json", '{"labels": ["truth", "cells"]}')
    for file in ("cells/zarr.json", "cells/0/c/0/0", "next.unetcli/plan.json", "next/0/zarr.json"):
        write(labels / file, '{"unetcli": 1}')
    assert fingerprint(place) == before
    write(labels / "theirs" / "zarr.json", "{}")
    assert fingerprint(place) != before


def test_a_store_with_labels_on_the_web_is_described(instances):
    with files_in(instances.parent) as web:
        assert info.run(parse_location(f"http://127.0.0.1:{web.port}/{instances.name}"))["faults"] == []


@pytest.mark.parametrize("changed", ["zarr.json", "img_00/0/zarr.json", "img_01/labels/truth/0/zarr.json"])
def test_the_digest_of_a_store_on_the_web_tells_changed_metadata(instances, copy_of, changed):
    folder = copy_of(instances)
    with files_in(folder.parent) as web:
        site = parse_location(f"http://127.0.0.1:{web.port}/{folder.name}")
        before = fingerprint(site)
        assert fingerprint(site) == before
        (folder / changed).write_text((folder / changed).read_text() + " ")
        assert fingerprint(site) != before


@pytest.mark.parametrize("kind", ["bucket", "web"])
def test_a_lost_shard_is_not_taken_for_zeros(tmp_path, array, bucket, kind):
    folder = tmp_path / "a.zarr"
    np.save(array, np.zeros((64, 64), np.uint8))
    prep.run([array], folder, PrepConfig())
    with files_in(tmp_path) as web:
        site = parse_location(f"http://127.0.0.1:{web.port}/a.zarr")
        place = upload(folder, bucket) if kind == "bucket" else site
        assert not pixels_at(place).any()
        (folder / "0/c/1/0").unlink()
        (bucket / "0/c/1/0").unlink()
        with pytest.raises(InputError, match="0/c/1/0: is missing"):
            pixels_at(place)


# ------------------------------------------------------------------------------------------- failures


def every_third(n, request):
    return {0: 503, 3: "close", 6: 500, 9: "cut" if request.startswith("GET") else 503}.get(n % 12)


def test_what_fails_on_the_way_is_tried_again(tmp_path, array, bucket, server, address):
    prep.run([array], tmp_path / "a.zarr", PrepConfig())
    with failing(server, every_third) as proxy:
        address(proxy.port)
        prep.run([array], bucket, PrepConfig())
        assert objects(bucket) == local_files(tmp_path / "a.zarr")
        prep.run([bucket], tmp_path / "back.zarr", PrepConfig())
        assert next(proxy.count) > 60
    np.testing.assert_array_equal(pixels(tmp_path / "back.zarr"), pixels(tmp_path / "a.zarr"))


@pytest.mark.parametrize("fault", [503, "close"])
@pytest.mark.parametrize("survived", [0, 20, 35, 50])
def test_a_server_that_dies_in_the_middle(cli, tmp_path, array, bucket, server, address, survived, fault):
    arguments = ["prep", array, "-o", bucket, "--workers", "2"]
    dead = True
    with failing(server, lambda n, _: fault if dead and n >= survived else None) as proxy:
        address(proxy.port)
        assert cli(*arguments) == 3
        assert f"error: {bucket}" in cli.err
        assert "can not be reached" in cli.err
        assert "the same command continues" in cli.err
        dead = False
        assert cli(*arguments) == 0
    address(server)
    prep.run([array], tmp_path / "a.zarr", PrepConfig())
    assert objects(bucket) == local_files(tmp_path / "a.zarr")


DEAD = "http://127.0.0.1:9"
REFUSED = {
    "no bucket": (["info", "s3://none/a.zarr"], 3, "s3://none/a.zarr: nothing readable is there", "check bucket"),
    "no key": (["info", "s3://bucket/none.zarr"], 3, "nothing readable is there", "check bucket, key and credentials"),
    "no input": (["weights", "s3://bucket/none", "-o", "w.zarr"], 3, "nothing readable is there", "check bucket"),
    "no image": (["prep", "s3://bucket/none", "-o", "d.zarr"], 3, "nothing readable is there", "check bucket"),
    "no bucket to write to": (["prep", "{image}", "-o", "s3://none/d.zarr"], 3, "no such bucket", "AWS_"),
    "a file": (["prep", "s3://bucket/a.tif", "-o", "d.zarr"], 3, "is not an OME-Zarr store", "copy it to this machine"),
    "info of a file": (["info", "s3://bucket/a.tif"], 3, "is not an OME-Zarr store", "copy it to this machine first"),
    "no site": (["info", f"{DEAD}/a.zarr"], 3, "can not be reached (Connection refused)", "network"),
    "web output": (["prep", "{image}", "-o", f"{DEAD}/a.zarr"], 4, "web servers are only read from", "s3://bucket"),
    "remote run": (["train", "d.zarr", "-o", "s3://bucket/run"], 4, "s3://bucket/run: is remote", "a local path"),
    "remote report": (["evaluate", "a", "b", "-o", "s3://bucket/r"], 4, "s3://bucket/r: is remote", "a local path"),
    "remote model": (
        ["tile-predict", "a.zarr", "-o", "m.zarr", "--model", "s3://bucket/m"], 4, "s3://bucket/m: is remote", "copy"
    ),
    "another kind": (["info", "gs://bucket/a.zarr"], 4, "gs://bucket/a.zarr: expected s3://bucket/key", "a local path"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "code", "said", "fix"), REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("in_tmp")
def test_what_can_not_be_is_said_in_one_line(cli, array, server, address, line, code, said, fix):
    address(server)
    write(parse_location("s3://bucket/a.tif"), b"II*")
    assert cli(*(str(array) if word == "{image}" else word for word in line)) == code
    message, remedy = cli.err.splitlines()
    assert message.startswith("error: ")
    assert said in message
    assert fix in remedy


def test_without_credentials_the_way_to_give_them_is_said(cli, server, address, monkeypatch):
    address(server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert cli("info", "s3://bucket/a.zarr") == 3
    assert "no credentials are given" in cli.err
    assert "AWS_SKIP_SIGNATURE=true" in cli.err


def test_an_address_without_its_kind_is_refused(cli, server, address, monkeypatch):
    address(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"127.0.0.1:{server}")
    assert cli("info", "s3://bucket/a.zarr") == 4
    assert f"AWS_ENDPOINT_URL=127.0.0.1:{server}: expected an address" in cli.err


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials(cli, array, server, address, status):
    with failing(server, lambda *_: status) as proxy:
        address(proxy.port)
        assert cli("info", "s3://bucket/a.zarr") == 3
        assert "nothing readable is there" in cli.err
        assert "check bucket, key and credentials" in cli.err
        assert cli("prep", array, "-o", "s3://bucket/denied.zarr") == 3
        assert "can not be written; there is no such bucket, or no right to" in cli.err
        assert "AWS_ACCESS_KEY_ID" in cli.err


def test_a_bucket_that_can_not_be_listed_is_read(instances, bucket, server, address):
    upload(instances, bucket)
    with failing(server, lambda _, request: 403 if "list-type" in request or "unetcli/" in request else None) as proxy:
        address(proxy.port)
        np.testing.assert_array_equal(pixels_at(bucket), pixels(instances))
        assert fingerprint(bucket) == fingerprint(bucket)
        with pytest.raises(InputError, match="access is denied"):
            list(bucket.iterdir())


def test_without_the_library_the_way_to_get_it_is_said(cli, server, address, monkeypatch):
    address(server)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert cli("info", "s3://bucket/a.zarr") == 3
    assert "pip install 'unetcli[remote]'" in cli.err


def test_a_server_that_sends_no_parts_of_files(tmp_path, array):
    prep.run([array], tmp_path / "a.zarr", PrepConfig())
    part = Box((0, 0, 0, 20, 10), (1, 1, 1, 50, 30))
    for kind, able in ((WithRange, True), (Quiet, False)):
        with files_in(tmp_path, kind) as web:
            level = open_store(parse_location(f"http://127.0.0.1:{web.port}/a.zarr")).images[0].level
            if able:
                np.testing.assert_array_equal(level.read(part), pixels(tmp_path / "a.zarr")[part.slices])
            else:
                with pytest.raises(InputError, match=r"does not send parts of a file \(HTTP Range\)"):
                    level.read(part)


def test_a_folder_on_the_web_can_not_be_listed(cli, instances, tmp_path):
    with files_in(instances.parent.parent) as web:
        url = f"http://127.0.0.1:{web.port}/{instances.parent.name}"
        assert cli("prep", url, "-o", tmp_path / "d.zarr") == 3
    assert len(cli.err.splitlines()) == 2


# ------------------------------------------------------------------------------------------- all commands


@pytest.mark.slow
def test_every_command_takes_stores_from_a_bucket_and_from_the_web(cli, tmp_path, folders, bucket):
    """The same files come out as on this machine."""
    model = make_model(tmp_path / "model.safetensors")

    def run_all(at, report):
        images, ids = folders / "images", folders / "ids"
        small = [f"--{k.replace('_', '-')}={v}" for k, v in {**TINY, "steps": 2, "validate_every": 1}.items()]
        assert cli("prep", images, "--labels", ids, "-o", f"{at}/data.zarr", "--split", "img_02") == 0, cli.err
        assert cli("weights", f"{at}/data.zarr", "-o", f"{at}/weights.zarr") == 0, cli.err
        both = [f"{at}/data.zarr", "--weights", f"{at}/weights.zarr"]
        assert cli("augment", *both, "-o", f"{at}/more.zarr", "-n", "2", "--elastic", "2") == 0, cli.err
        assert cli("train", *both, "-o", report.with_name(f"run_{report.name}"), "--device", "cpu", *small) == 0
        outputs = ["-o", f"{at}/mask.zarr", "--probabilities", f"{at}/p.zarr"]
        assert cli("tile-predict", f"{at}/data.zarr", "--model", model, *outputs, "--device", "cpu") == 0, cli.err
        scores = [f"{at}/mask.zarr", f"{at}/data.zarr", "-o", report, "--metrics", "iou,dice"]
        assert cli("evaluate", *scores, "--images", f"{at}/data.zarr") == 0, cli.err
        assert cli("info", f"{at}/weights.zarr", "--json") == 0
        return json.loads((report / "metrics.json").read_text())["images"]

    (tmp_path / "local").mkdir()
    assert run_all(bucket, tmp_path / "there") == run_all(tmp_path / "local", tmp_path / "here")
    for name in ("data.zarr", "weights.zarr", "more.zarr", "mask.zarr", "p.zarr"):
        assert_same_store(bucket / name, tmp_path / "local" / name)
    assert {p.name for p in bucket.iterdir()} == {p.name for p in (tmp_path / "local").iterdir()}
    rows = [(tmp_path / f"run_{name}" / "metrics.csv").read_text() for name in ("there", "here")]
    assert len(set(rows)) == 1
    with files_in(tmp_path / "local") as web:
        url = f"http://127.0.0.1:{web.port}"
        assert cli("weights", f"{url}/data.zarr", "-o", tmp_path / "web.zarr") == 0, cli.err
        assert cli("prep", f"{url}/data.zarr", "-o", tmp_path / "again.zarr") == 0, cli.err
    np.testing.assert_array_equal(
        pixels(tmp_path / "web.zarr", "img_01"), pixels(tmp_path / "local/weights.zarr", "img_01")
    )
    np.testing.assert_array_equal(
        pixels(tmp_path / "again.zarr", "img_01", "truth"), pixels(tmp_path / "local/data.zarr", "img_01", "truth")
    )
