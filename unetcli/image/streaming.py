"""The only chunked drivers: tile to tile, tile to table, tiles read ahead for a network.

A `Work` is one tile of one image with where it is read from and written to, so that a driver runs over
the tiles of a whole collection at once. Kernels are serial and know nothing of tiles in flight; memory is
bounded by these, not by the image.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from unetcli.errors import DeviceError, InputError, UnetcliError, is_disk_full
from unetcli.image.ledger import JointLedger, Ledger
from unetcli.image.location import Location
from unetcli.image.source import Source, read_mirrored
from unetcli.image.tiling import Box, Shape, Tile

Block = NDArray[Any]
Blocks = Block | tuple[Block, ...]
"""What is written of a tile: a block for each target."""
Reader = Callable[[Source, Box], Any]
"""Reads what a tile needs of a source: as a rule a block."""
Progress = Callable[[int, int], None]
"""Called with the number of tiles done and their total after each; may raise to stop in time."""
S = TypeVar("S")
T = TypeVar("T")


def silent(done: int, total: int) -> None:
    """Show no progress."""


def available_cpus() -> int:
    """Return the number of processors that this process may use: of its affinity and of its SLURM request."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits += [int(n) for n in [os.environ.get("SLURM_CPUS_PER_TASK", "")] if n.isdigit()]
    return max(1, min(limits))


class Target(Protocol):
    """What tiles are written to."""

    @property
    def path(self) -> Location:
        """Where it is, for messages."""
        ...

    @property
    def shape(self) -> Shape:
        """Shape as (t, c, z, y, x)."""
        ...

    def read(self, box: Box) -> Block:
        """Return what was written to a box."""
        ...

    def write(self, box: Box, block: Block) -> None:
        """Write a box of whole shards."""
        ...


@dataclass(frozen=True)
class Work:
    """One tile of one image.

    Parameters
    ----------
    name
        Names the tile in the ledger: unique within a store, and the same in each run.
    tile
        What is written and what is read.
    sources
        Arrays that its read box is read from.
    targets
        Arrays that its core is written to, each a whole shard.
    """

    name: str
    tile: Tile
    sources: tuple[Source, ...]
    targets: tuple[Target, ...] = ()


def work_name(name: str, number: int) -> str:
    """Return what ledgers call a tile of an image."""
    return f"{name}/{number}"


def work_on(
    name: str, tiles: Iterable[Tile], sources: Sequence[Source], targets: Sequence[Target] = ()
) -> Iterator[Work]:
    """Yield the work of each tile, as those of a grid."""
    return (Work(work_name(name, tile.index), tile, tuple(sources), tuple(targets)) for tile in tiles)


@dataclass(frozen=True)
class LazyWorks:
    """Tiles too many to be listed: each is made when its turn comes.

    Parameters
    ----------
    todo
        Those that are not on record yet.
    n_todo
        How many these are.
    total
        How many there are in all.
    """

    todo: Iterable[Work]
    n_todo: int
    total: int


def map_tiles(
    function: Callable[..., Block | tuple[Block, ...]],
    works: Iterable[Work] | LazyWorks,
    ledger: Ledger | JointLedger,
    *,
    read: Reader = read_mirrored,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Compute each tile in a thread: read, ``function(tile, *blocks)``, write, record.

    Parameters
    ----------
    function
        Takes a `Tile` and a block of each source that covers its read box, (t, c, z, y, x); returns a block
        that covers its core for each target. An `InputError` of it is said of the first source.
    works
        The tiles; those in the ledger are left out.
    ledger
        Where finished tiles are written down.
    read
        What is done where a read box reaches past the image.
    workers
        Number of threads; by default as many as there are processors.
    progress
        Called after each tile.

    Raises
    ------
    UnetcliError
        The first tile that fails stops the rest; the message names its read box.
    """
    if not isinstance(works, LazyWorks):
        todo, total = _todo(works, ledger)
        works = LazyWorks(todo, len(todo), total)
    n_done, total = works.total - works.n_todo, works.total
    progress(n_done, total)

    def compute(work: Work) -> None:
        with _naming(work):
            _write(work, _call(function, work, [read(source, work.tile.read) for source in work.sources]), ledger)

    for done, _ in enumerate(in_order(compute, works.todo, workers), start=n_done + 1):
        progress(done, total)


def map_and_reduce_tiles(
    function: Callable[..., Block],
    measure: Callable[[Tile, Block], T],
    works: Iterable[Work],
    ledger: Ledger | JointLedger,
    *,
    read: Reader = read_mirrored,
    workers: int | None = None,
    progress: Progress = silent,
) -> Iterator[T]:
    """Do what `map_tiles` does for a single target, and yield ``measure(tile, block)`` of what each tile holds.

    Tiles that an earlier run finished are measured as they were stored, so the tables, in the order of the
    tiles, do not depend on how often the run was stopped.
    """
    everything = list(works)

    def compute(work: Work) -> T:
        with _naming(work):
            if work.name in ledger:
                return _call(measure, work, [work.targets[0].read(work.tile.core)])
            block = _call(function, work, [read(source, work.tile.read) for source in work.sources])
            _write(work, block, ledger)
            return _call(measure, work, [block])

    for done, table in enumerate(in_order(compute, everything, workers), start=1):
        yield table
        progress(done, len(everything))


def reduce_tiles(
    function: Callable[..., T],
    works: Iterable[Work],
    *,
    read: Reader = read_mirrored,
    workers: int | None = None,
    progress: Progress = silent,
) -> Iterator[T]:
    """Compute ``function(tile, *blocks)`` of each tile in threads; yield the tables in the order of the tiles."""
    todo = list(works)

    def compute(work: Work) -> T:
        with _naming(work):
            return _call(function, work, [read(source, work.tile.read) for source in work.sources])

    for done, table in enumerate(in_order(compute, todo, workers), start=1):
        yield table
        progress(done, len(todo))


def stream_tiles(
    function: Callable[..., Blocks | Callable[[], Blocks]],
    works: Iterable[Work],
    ledger: Ledger | JointLedger,
    *,
    read: Reader = read_mirrored,
    workers: int | None = None,
    devices: int = 1,
    writers: int = 1,
    progress: Progress = silent,
) -> None:
    """Do what `map_tiles` does for a function that owns a device: called in this thread, tile by tile.

    Threads read the next tiles while it runs, and others write those before.

    Parameters
    ----------
    function
        As in `map_tiles`. It may also begin the work only, and return what waits for the blocks.
    works, ledger, read, workers, progress
        As in `map_tiles`.
    devices
        If there are several, the function is called by so many threads at once.
    writers
        Threads that wait for blocks and write them.
    """
    todo, total = _todo(works, ledger)
    n_done = total - len(todo)
    progress(n_done, total)

    def fetch(work: Work) -> tuple[Work, list[Block]]:
        with _naming(work):
            return work, [read(source, work.tile.read) for source in work.sources]

    def compute(fetched: tuple[Work, list[Block]]) -> tuple[Work, Blocks | Callable[[], Blocks]]:
        with _naming(fetched[0]):
            return fetched[0], _call(function, *fetched)

    def store(work: Work, result: Blocks | Callable[[], Blocks]) -> None:
        with _naming(work):
            _write(work, result() if callable(result) else result, ledger)

    fetched = in_order(fetch, todo, workers)
    computed = map(compute, fetched) if devices == 1 else in_order(compute, fetched, devices)
    with ThreadPoolExecutor(writers) as pool:
        pending: deque[Future[None]] = deque()
        for work, result in computed:
            pending.append(pool.submit(store, work, result))
            while pending and (len(pending) > writers or pending[0].done()):
                pending.popleft().result()
                n_done += 1
                progress(n_done, total)
        for k, future in enumerate(pending, start=n_done + 1):
            future.result()
            progress(k, total)


def _call(function: Callable[..., T], work: Work, blocks: Sequence[Block]) -> T:
    """Call a function of blocks; what it finds wrong with their pixels is wrong with the first source."""
    try:
        return function(work.tile, *blocks)
    except InputError as error:
        raise InputError(f"{work.sources[0].name}: {error}", fix=error.fix) from error


def _todo(works: Iterable[Work], ledger: Ledger | JointLedger) -> tuple[list[Work], int]:
    everything = list(works)
    return [work for work in everything if work.name not in ledger], len(everything)


def _write(work: Work, result: Block | tuple[Block, ...], ledger: Ledger | JointLedger) -> None:
    blocks = result if isinstance(result, tuple) else (result,)
    for target, block in zip(work.targets, blocks, strict=True):
        target.write(work.tile.core.clip(target.shape), block)  # a mask has fewer channels than probabilities
    ledger.record(work.name)


def in_order(function: Callable[[S], T], works: Iterable[S], workers: int | None) -> Iterator[T]:
    """Run a function over works in threads, few at a time; yield its results in order."""
    workers = workers or available_cpus()
    waiting = iter(works)
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[T]] = deque()
        try:
            while True:
                while len(running) <= workers and (work := next(waiting, None)) is not None:
                    running.append(pool.submit(function, work))
                if not running:
                    return
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class _naming:  # noqa: N801 - reads as a statement: with _naming(work)
    """Name the tile in which an exception happened."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        where = f"{self.work.name.rpartition('/')[0]}, tile {self.work.tile.index} ({self.work.tile.read})"
        if is_disk_full(error):
            target = self.work.targets[0].path if self.work.targets else ""
            raise DeviceError(
                f"{target}: no space left on the disk, at {where}; tiles finished before are kept",
                fix="free some space, then run the same command again: it continues",
            ) from error
        if isinstance(error, MemoryError):
            raise DeviceError(f"out of memory, at {where}", fix="fewer --workers") from error
        if isinstance(error, UnetcliError) or not isinstance(error, Exception):
            return
        error.add_note(f"in {where}")
