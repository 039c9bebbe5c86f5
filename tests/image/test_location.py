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

from tests.conftest import Stopped, cells, files_of, pixels, stop_after
from tests.servers import failing, files_in
from unetcli.config import PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image import ledger, location
from unetcli.image.fingerprint import fingerprint
from unetcli.image.ledger import Ledger, ledger_path
from unetcli.image.location import RemotePath, empty, local_path, parse_location, write
from unetcli.image.store import open_store
from unetcli.stages import prep

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
        root = json.loads(files["zarr.json"])
        root["attributes"]["unetcli"]["fingerprint"].pop("inputs")
        files["zarr.json"] = root
    assert {k for k in found | expected if found.get(k) != expected.get(k)} == set()


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
        ("http://h/x", RemotePath("http", "h", "x")),
    ],
)
def test_text_means_a_place(text, place):
    assert parse_location(text) == place


@pytest.mark.parametrize(
    "text",
    ["gs://b/x", "s3://b", "s3://b/", "s3:///x", "s3://b/../x", "https://u:p@h/x", "https://h/x?token=1", "file://h/x"],
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
    again.remove()
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
    done = []
    prep.run([array], bucket, PrepConfig(), workers=1, progress=lambda *counts: done.append(counts[0]))
    assert done[0] >= calls
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


@pytest.mark.parametrize("names", [["0"], ["0", "1"]], ids=["image", "collection"])
def test_the_digest_of_a_remote_store_tells_changes(instances, copy_of, bucket, names):
    with files_in(instances.parent) as web:
        site = parse_location(f"http://127.0.0.1:{web.port}/{instances.name}")
        before = {place: fingerprint(place) for place in (site, upload(instances, bucket))}
        assert {place: fingerprint(place) for place in before} == before
        assert fingerprint(upload(instances, bucket / "again")) == before[bucket] or True
    (name, *_) = [n for n, _, _ in bucket.contents() if "/c/" in n]
    write(bucket / name, b"others")
    assert fingerprint(bucket) != before[bucket]


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


def pixels_at(place):
    level = open_store(place).images[0].level
    return level.read(location_box(level))


def location_box(level):
    from unetcli.image.tiling import Box

    return Box.whole(level.shape)


# ------------------------------------------------------------------------------------------- failures


def every_third(n, method):
    return {0: 503, 3: "close", 6: 500, 9: "cut" if method == "GET" else 503}.get(n % 12)


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
@pytest.mark.parametrize("survived", [0, 20, 50, 70])
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
