"""Tiles are computed once each, in any number of threads, and a run that stops goes on where it stood."""

import errno
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.conftest import Pixels
from unetcli.errors import DeviceError, InputError, Unfinished
from unetcli.image import new_store
from unetcli.image.axes import Axes
from unetcli.image.ledger import Ledger
from unetcli.image.new_store import create_level
from unetcli.image.streaming import (
    Work,
    available_cpus,
    map_and_reduce_tiles,
    map_tiles,
    reduce_tiles,
    stream_tiles,
    work_on,
)
from unetcli.image.tiling import Box, TileGrid

SHAPE = (2, 1, 3, 21, 37)
DRIVERS = pytest.mark.parametrize("drive", [map_tiles, stream_tiles])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(new_store, "CHUNK", 4)
    monkeypatch.setattr(new_store, "SHARD", 8)


@dataclass
class Counted(Pixels):
    """A source that counts how often it is read."""

    n_read: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, box):
        with self.lock:
            self.n_read += 1
        return super().read(box)


def image():
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int32)


def target(path, shape=SHAPE, dtype="int32"):
    return create_level(path, Axes.of("tczyx"), shape, dtype)


def whole(level):
    return level.read(Box.whole(level.shape))


def blur(_, block):
    """Sum over a window of 5 x 3 pixels: needs a halo of (2, 1)."""
    rows = sum(block[..., i : block.shape[3] - 4 + i, :] for i in range(5))
    return sum(rows[..., i : block.shape[4] - 2 + i] for i in range(3))


@DRIVERS
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_threads_equals_the_whole_image(tmp_path, drive, workers):
    out = target(tmp_path / "out")
    grid = TileGrid(SHAPE, out.shard, (0, 0, 0, 2, 1))
    assert len(grid) > 10
    drive(
        blur,
        work_on("a", grid, [Counted(image())], [out]),
        Ledger(tmp_path / "o", {}),
        workers=workers,
    )
    padded = np.pad(image(), ((0, 0), (0, 0), (0, 0), (2, 2), (1, 1)), mode="reflect")
    np.testing.assert_array_equal(whole(out), blur(None, padded))


@DRIVERS
def test_several_sources_and_targets(tmp_path, drive):
    a, b = Counted(image()), Counted(image()[::-1].copy())
    outs = [target(tmp_path / "sum"), target(tmp_path / "difference", dtype="int64")]
    works = work_on("a", TileGrid(SHAPE, outs[0].shard), [a, b], outs)
    drive(lambda _, x, y: (x + y, x - y), works, Ledger(tmp_path / "o", {}))
    np.testing.assert_array_equal(whole(outs[0]), a.pixels + b.pixels)
    np.testing.assert_array_equal(whole(outs[1]), a.pixels - b.pixels)


@DRIVERS
def test_a_target_with_fewer_channels_gets_its_own(tmp_path, drive):
    shape = (1, 3, 1, 9, 9)
    outs = [target(tmp_path / "mask", (1, 1, 1, 9, 9)), target(tmp_path / "all", shape)]
    grid = TileGrid(shape, (1, 3, *outs[1].shard[2:]))
    pixels = np.arange(243, dtype=np.int32).reshape(shape)
    drive(lambda _, x: (x[:, :1], x), work_on("a", grid, [Counted(pixels)], outs), Ledger(tmp_path / "o", {}))
    np.testing.assert_array_equal(whole(outs[0]), pixels[:, :1])
    np.testing.assert_array_equal(whole(outs[1]), pixels)


@pytest.mark.parametrize("workers", [1, 3])
def test_tables_come_in_the_order_of_the_tiles(workers):
    def late_first(tile, block):
        time.sleep(0.004 * (5 - tile.index % 5))
        return tile.index, int(block.sum())

    grid = TileGrid(SHAPE, (1, 1, 1, 8, 8))
    tables = list(reduce_tiles(late_first, work_on("a", grid, [Counted(image())]), workers=workers))
    assert [index for index, _ in tables] == list(range(len(grid)))
    assert sum(total for _, total in tables) == image().sum()


def test_the_device_is_used_by_one_thread_in_order(tmp_path):
    out, seen = target(tmp_path / "out"), []

    def network(tile, block):
        seen.append((tile.index, threading.current_thread()))
        return block

    works = work_on("a", TileGrid(SHAPE, out.shard), [Counted(image())], [out])
    stream_tiles(network, works, Ledger(tmp_path / "o", {}), workers=3)
    assert [index for index, _ in seen] == list(range(len(seen)))
    assert {thread for _, thread in seen} == {threading.current_thread()}


@DRIVERS
def test_progress_counts_to_the_total(tmp_path, drive):
    out, seen = target(tmp_path / "out"), []
    grid = TileGrid(SHAPE, out.shard)
    works = list(work_on("a", grid, [Counted(image())], [out]))
    ledger = Ledger(tmp_path / "o", {})
    ledger.record("a/0")
    drive(lambda _, block: block, works, ledger, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(done, len(grid)) for done in range(1, len(grid) + 1)]
    seen.clear()
    drive(lambda _, block: block, works, ledger, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(len(grid), len(grid))]


@DRIVERS
def test_what_is_in_the_ledger_is_not_done_again(tmp_path, drive):
    out, pixels, seen = target(tmp_path / "out"), Counted(image()), []
    works = list(work_on("a", TileGrid(SHAPE, out.shard), [pixels], [out]))
    for name in ("a/0", "a/5"):
        Ledger(tmp_path / "o", {}).record(name)
    drive(lambda tile, block: seen.append(tile.index) or block, works, Ledger(tmp_path / "o", {}))
    assert sorted(seen) == [i for i in range(len(works)) if i not in (0, 5)]
    assert pixels.n_read == len(works) - 2
    assert sum(p.is_file() for p in (tmp_path / "out" / "c").rglob("*")) == len(works) - 2
    assert all(work.name in Ledger(tmp_path / "o", {}) for work in works)


@DRIVERS
def test_stops_when_progress_raises_keeps_what_is_finished_and_goes_on(tmp_path, drive):
    out, pixels, seen = target(tmp_path / "out"), Counted(image()), []
    works = list(work_on("a", TileGrid(SHAPE, out.shard), [pixels], [out]))

    def stop(done, total):
        if done == 4:
            raise Unfinished(f"{done} of {total}")

    def copy(tile, block):
        seen.append(tile.index)
        return block

    with pytest.raises(Unfinished):
        drive(copy, works, Ledger(tmp_path / "o", {}), workers=2, progress=stop)
    n_seen, first = len(seen), Ledger(tmp_path / "o", {})
    finished = [work.name in first for work in works]
    assert 4 <= sum(finished) <= n_seen <= 4 + 2 + 2
    time.sleep(0.05)
    assert len(seen) == n_seen, "threads work on after the driver has returned"
    drive(copy, works, first, workers=2)
    assert len(seen) == n_seen + finished.count(False)
    np.testing.assert_array_equal(whole(out), pixels.pixels)


@DRIVERS
def test_a_tile_that_fails_is_named_is_not_recorded_and_stops_the_rest(tmp_path, drive):
    out, seen = target(tmp_path / "out"), []
    works = list(work_on("cells/0", TileGrid(SHAPE, out.shard, (0, 0, 0, 2, 1)), [Counted(image())], [out]))

    def fail(tile, block):
        seen.append(tile.index)
        if tile.index == 3:
            raise ValueError("no good")
        return tile.crop_core(block)

    with pytest.raises(ValueError, match="no good") as caught:
        drive(fail, works, Ledger(tmp_path / "o", {}), workers=2)
    assert caught.value.__notes__ == [f"in cells/0, tile 3 ({works[3].tile.read})"]
    assert len(seen) < len(works)
    ledger = Ledger(tmp_path / "o", {})
    assert all(f"cells/0/{i}" in ledger for i in range(3))
    assert "cells/0/3" not in ledger


def test_a_table_that_fails_is_named():
    works = list(work_on("a", TileGrid(SHAPE, (1, 1, 1, 8, 8)), [Counted(image())]))
    with pytest.raises(ZeroDivisionError) as caught:
        list(reduce_tiles(lambda tile, _: 1 // (tile.index - 2), works))
    assert caught.value.__notes__ == [f"in a, tile 2 ({works[2].tile.read})"]


def test_our_own_errors_stay_what_they_are():
    def refuse(*_):
        raise InputError("labels hold 7", fix="--classes")

    with pytest.raises(InputError, match="labels hold 7") as caught:
        list(reduce_tiles(refuse, work_on("a", TileGrid(SHAPE, SHAPE), [Counted(image())])))
    assert caught.value.fix == "--classes"


class Full:
    """A target on a disk that is full after some tiles."""

    def __init__(self, level, room, error):
        self.level, self.room, self.error = level, room, error
        self.path, self.shape = level.path, level.shape

    def write(self, box, block):
        self.room -= 1
        if self.room < 0:
            raise self.error
        self.level.write(box, block)


@DRIVERS
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "no space left"),
        (MemoryError(), "out of memory"),
    ],
    ids=["disk", "quota", "memory"],
)
def test_what_runs_out_is_said(tmp_path, drive, error, said):
    out = Full(target(tmp_path / "out"), 3, error)
    works = list(work_on("a", TileGrid(SHAPE, out.level.shard), [Counted(image())], [out]))
    with pytest.raises(DeviceError, match=said) as caught:
        drive(lambda _, block: block, works, Ledger(tmp_path / "o", {}), workers=1)
    assert str(works[3].tile.read) in str(caught.value)
    assert caught.value.__cause__ is error
    ledger = Ledger(tmp_path / "o", {})
    assert [work.name in ledger for work in works[:4]] == [True, True, True, False]


def test_other_failures_of_the_disk_are_not_called_full(tmp_path):
    out = Full(target(tmp_path / "out"), 0, PermissionError(errno.EACCES, "Permission denied"))
    works = work_on("a", TileGrid(SHAPE, out.level.shard), [Counted(image())], [out])
    with pytest.raises(PermissionError):
        map_tiles(lambda _, block: block, works, Ledger(tmp_path / "o", {}), workers=1)


def test_few_tiles_are_read_ahead():
    pixels, workers = Counted(image()), 3
    works = list(work_on("a", TileGrid(SHAPE, (1, 1, 1, 4, 4)), [pixels]))
    assert len(works) > 100
    most = 0
    for taken, _ in enumerate(reduce_tiles(lambda _, block: block, works, workers=workers), start=1):
        if taken < 15:
            time.sleep(0.01)  # a slow consumer
        most = max(most, pixels.n_read - taken)
    assert most <= workers + 1


def test_few_tiles_wait_for_the_device_and_the_disk(tmp_path):
    class Slow(Full):
        def write(self, box, block):
            time.sleep(0.01)
            self.level.write(box, block)
            self.room += 1  # counts what is written

    pixels, workers, held = Counted(image()), 2, []
    out = Slow(target(tmp_path / "out"), 0, None)
    works = list(work_on("a", TileGrid(SHAPE, out.level.shard), [pixels], [out]))
    stream_tiles(
        lambda _, block: held.append(pixels.n_read - out.room) or block,
        works,
        Ledger(tmp_path / "o", {}),
        workers=workers,
    )
    assert max(held) <= workers + 1 + 3  # read ahead; at the device, at the writer, and waiting for it


def test_no_more_threads_than_asked_for(tmp_path):
    out, lock, running, most = target(tmp_path / "out"), threading.Lock(), 0, 0

    def busy(_, block):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return block

    works = work_on("a", TileGrid(SHAPE, out.shard), [Counted(image())], [out])
    map_tiles(busy, works, Ledger(tmp_path / "o", {}), workers=3)
    assert 1 < most <= 3


@DRIVERS
def test_nothing_to_do(tmp_path, drive):
    drive(lambda _: None, [], Ledger(tmp_path / "o", {}))
    assert list(reduce_tiles(lambda _: None, [])) == []


def test_names_tell_tiles_of_one_store_apart():
    grid = TileGrid(SHAPE, (1, 1, 1, 8, 8))
    works = [*work_on("a/0", grid, []), *work_on("b/0", grid, [])]
    assert len({work.name for work in works}) == 2 * len(grid)
    assert [w.name for w in work_on("a/0", grid, [])] == [w.name for w in works[: len(grid)]]
    assert isinstance(works[0], Work)


@pytest.mark.parametrize(("allotted", "expected"), [("1", 1), ("", None), ("2(x3)", None), ("0", 1)])
def test_processors_allotted_by_slurm_count(monkeypatch, allotted, expected):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    without = available_cpus()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", allotted)
    assert available_cpus() == (expected or without)


def test_tables_of_a_run_that_was_stopped_are_those_of_one_that_was_not(tmp_path):
    pixels, tables = Counted(image()), {}

    def copy(_, block):
        return block

    def total(tile, block):
        return tile.index, int(block.sum())

    def stop(done, total):
        if done == 4:
            raise Unfinished(f"{done} of {total}")

    for name in ("once", "stopped"):
        out = target(tmp_path / name)
        works = list(work_on("a", TileGrid(SHAPE, out.shard), [pixels], [out]))
        if name == "stopped":
            with pytest.raises(Unfinished):
                list(
                    map_and_reduce_tiles(
                        lambda _, block: block, total, works, Ledger(tmp_path / "o", {}), progress=stop
                    )
                )
        n_read, ledger = pixels.n_read, Ledger(tmp_path / ("o" if name == "stopped" else "p"), {})
        finished = sum(work.name in ledger for work in works)
        tables[name] = list(map_and_reduce_tiles(copy, total, works, ledger, workers=2))
        assert pixels.n_read - n_read == len(works) - finished
    assert tables["once"] == tables["stopped"]
    assert [index for index, _ in tables["once"]] == list(range(len(works)))
