"""Small synthetic cells, data sets made of them, and how stores are compared."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import settings
from PIL import Image

from unetcli.cli import main
from unetcli.config import PrepConfig, TrainConfig, WeightsConfig
from unetcli.image.axes import Axes, Channel
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.stages import prep, train, weights

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each worker has processors of its own: threads of torch that wait for one another do so without rest.
    worker, workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[worker % len(processors) :: workers])

settings.register_profile("unetcli", deadline=None)  # kernels are compiled when they are first called
settings.load_profile("unetcli")

SIZE = 80
N_IMAGES = 3
TINY = {
    "features": "4,8",
    "patch_size": 32,
    "batch_size": 2,
    "steps": 6,
    "validate_every": 2,
    "learning_rate": 0.01,
    "elastic": 2.0,
}


def cells(shape, seed, *, pitch=16):
    """Return a picture (uint8) of touching cells and their ids (uint16), 2D or 3D: a function of the seed.

    Cells are the Voronoi regions of random centres, cut to a distance from them.
    """
    rng = np.random.default_rng(seed)
    n = max(3, int(np.prod([max(1, s // pitch) for s in shape])))
    centres = rng.uniform(0, shape, (n, len(shape)))
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid[..., None, :] - centres, axis=-1)
    labels = np.where(distance.min(axis=-1) < 0.55 * pitch, distance.argmin(axis=-1) + 1, 0)
    bright = np.concatenate([[40], rng.uniform(120, 200, n)])[labels]
    return (bright + rng.normal(0, 10, shape)).clip(0, 255).astype(np.uint8), labels.astype(np.uint16)


def pixels(path, name=None, label=None):
    """Return all pixels (t, c, z, y, x) of an image of a store, or of a label image of it."""
    store = open_store(Path(path))
    image = store.images[0] if name is None else store.image(name)
    level = image.level if label is None else image.labels(label)
    return level.read(Box.whole(level.shape))


def files_of(*paths):
    """Return the bytes of all files under some folders, by their place."""
    found = {}
    for path in map(Path, paths):
        found |= {f"{path.name}/{f.relative_to(path)}": f.read_bytes() for f in path.rglob("*") if f.is_file()}
    return found


def assert_same_files(actual, expected, *, but=()):
    """Compare two folders byte by byte."""
    a, b = ({k.partition("/")[2]: v for k, v in files_of(p).items()} for p in (actual, expected))
    assert {k for k in a | b if k.rpartition("/")[2] not in but and a.get(k) != b.get(k)} == set()


class Stopped(Exception):
    """Raised to stop a stage in the middle."""


def stop_after(calls):
    """Return a progress that lets so many calls pass and then stops the stage."""
    passed = []

    def progress(done, total):
        passed.append((done, total))
        if len(passed) > calls:
            raise Stopped

    return progress


def read_png(path):
    """Return size, metadata and pixels of a picture."""
    with Image.open(path) as picture:
        return picture.size, picture.info, np.asarray(picture.convert("RGB"))


def count_calls(function):
    """Return how often a stage calls its progress."""
    calls = []
    function(lambda *call: calls.append(call))
    return len(calls)


RUNNER = """
import os, signal, sys
import unetcli.image.new_store as store
from unetcli import progress
shard, chunk, number, after, *arguments = sys.argv[1:]
store.SHARD, store.CHUNK = int(shard), int(chunk)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to Ctrl-C
shown, calls = progress.Progress.__call__, []
def show(self, done, total):
    calls.append(done)
    if len(calls) == int(after):
        os.kill(os.getpid(), int(number))
    shown(self, done, total)
progress.Progress.__call__ = show
from unetcli.cli import main
sys.exit(main(arguments))
"""


def run_and_signal(number, arguments, *, after, shard=2048, chunk=512):
    """Run a command in a process of its own that gets a signal at a certain call of its progress."""
    command = [sys.executable, "-c", RUNNER, str(shard), str(chunk), str(int(number)), str(after)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def write_folders(folder, *, seeds=range(N_IMAGES), size=SIZE):
    """Write pictures as PNG, and their labels: ids (TIFF) and 0/255 masks (PNG)."""
    for name in ("images", "ids", "masks"):
        (folder / name).mkdir(parents=True)
    for i, seed in enumerate(seeds):
        image, labels = cells((size, size), seed)
        Image.fromarray(image).save(folder / "images" / f"img_{i:02d}.png")
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(folder / "masks" / f"mask_{i:02d}.png")
        tifffile.imwrite(folder / "ids" / f"ids_{i:02d}.tif", labels)
    return folder


@dataclass
class Pixels:
    """A source in memory."""

    pixels: np.ndarray
    name: str = "pixels"
    axes: Axes = Axes.of("tczyx")
    notes: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()

    @property
    def shape(self):
        return self.pixels.shape

    @property
    def dtype(self):
        return self.pixels.dtype

    def read(self, box):
        assert box.clip(self.shape) == box
        return self.pixels[box.slices]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return a folder with ``images``, ``ids`` and ``masks``."""
    return write_folders(tmp_path_factory.mktemp("folders") / "cells")


@pytest.fixture(scope="session")
def instances(folders, tmp_path_factory):
    """Return a data set of three images with object ids, the last one for validation."""
    out = tmp_path_factory.mktemp("instances") / "data.zarr"
    prep.run([folders / "images"], out, PrepConfig(split="img_02"), labels=[folders / "ids"])
    return out


@pytest.fixture(scope="session")
def classes(folders, tmp_path_factory):
    """Return a data set of three images with classes."""
    out = tmp_path_factory.mktemp("classes") / "data.zarr"
    prep.run([folders / "images"], out, PrepConfig(), labels=[folders / "masks"])
    return out


@pytest.fixture(scope="session")
def weight_maps(instances, tmp_path_factory):
    """Return the weight maps of `instances`."""
    out = tmp_path_factory.mktemp("weights") / "weights.zarr"
    weights.run(instances, out, WeightsConfig())
    return out


@pytest.fixture(scope="session")
def trained(instances, weight_maps, tmp_path_factory):
    """Return the folder of a finished, very short training run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train.run(instances, out, TrainConfig(**TINY), weights=weight_maps, device="cpu")
    return out


@pytest.fixture
def copy_of(tmp_path):
    """Return a function that copies a folder or file, so that a test may damage it."""

    def copy(path, name=None):
        target = tmp_path / (name or f"copy_{path.name}")
        return Path(shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target))

    return copy


@pytest.fixture
def small_tiles(monkeypatch):
    """Make shards so small that tiny images have many tiles."""
    monkeypatch.setattr("unetcli.image.new_store.SHARD", 32)
    monkeypatch.setattr("unetcli.image.new_store.CHUNK", 16)
    monkeypatch.setattr("unetcli.image.new_store.DEEP_CHUNK", 8)
    monkeypatch.setattr("unetcli.image.new_store.DEPTH", 4)


@pytest.fixture
def restored_signals():
    """Undo what a command does to the handlers of signals."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(n) for n in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Cli:
    """Runs commands in this process; remembers what they printed."""

    def __init__(self, capsys):
        self.capsys, self.out, self.err = capsys, "", ""

    def __call__(self, *arguments):
        self.capsys.readouterr()
        code = main([str(a) for a in arguments])
        self.out, self.err = self.capsys.readouterr()
        return code

    @property
    def json(self):
        """What was printed, as the one JSON object that it has to be."""
        assert len(self.out.splitlines()) == 1
        return json.loads(self.out)


@pytest.fixture
def cli(capsys, restored_signals, monkeypatch):
    """Return a function that runs a command line and returns its exit code."""
    monkeypatch.setenv("COLUMNS", "200")
    return Cli(capsys)


@pytest.fixture
def in_tmp(tmp_path):
    """Work in an empty folder."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
