"""The parts of a stage computed by workers of dask.distributed, any of which may be lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unetcli.errors import ConfigError, DeviceError, InputError
from unetcli.image.parts import MAX_PARTS, Part
from unetcli.image.streaming import Progress, available_cpus

if TYPE_CHECKING:
    from distributed import Client

PARTS_PER_WORKER = 4
"""So many, that workers of different speed end at about the same time."""
LOCAL = "local"


def run_scheduled(
    call: Callable[..., dict[str, Any]],
    scheduler: str,
    *,
    overwrite: bool,
    workers: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Create a store, have its parts computed by workers, and finish it.

    A part whose worker is lost is given to another one, which goes on after the last shard on record.

    Parameters
    ----------
    call
        The stage with all its arguments, but for ``create``, ``part``, ``finish``, ``overwrite``, ``workers`` and
        ``progress``. It is sent to the workers, which open models and stores by themselves.
    scheduler
        Address of a scheduler, as ``tcp://host:8786``, or ``local``: processes on this machine.
    workers
        With ``local`` the number of processes, else of threads of each worker.
    progress
        Called with the number of shards of finished parts.

    Returns
    -------
    dict
        What finishing returned.

    Raises
    ------
    DeviceError
        If several workers are lost at one part.
    """
    begun = call(create=True, overwrite=overwrite)
    if begun["already_done"]:
        return begun
    with _connected(scheduler, workers) as client:
        _run_parts(client, call, begun["shards"], 1 if scheduler == LOCAL else workers, progress)
    return call(finish=True, workers=workers, progress=progress)


def _run_parts(
    client: Client, call: Callable[..., dict[str, Any]], total: int, workers: int | None, progress: Progress
) -> None:
    from distributed import KilledWorker, as_completed

    n = max(1, min(PARTS_PER_WORKER * sum(client.nthreads().values()), total, MAX_PARTS))
    parts = [Part(k, n) for k in range(n)]
    futures = {client.submit(call, part=str(part), workers=workers, pure=False): part for part in parts}
    done = 0
    progress(done, total)
    for future in as_completed(futures):
        try:
            future.result()
        except KilledWorker as error:
            raise DeviceError(
                f"part {futures[future]}: {error.allowed_failures + 1} workers were lost at it; out of memory?",
                fix="workers with more memory; then the same command continues",
            ) from error
        done += len(futures[future].span(total))
        progress(done, total)


@contextmanager
def _connected(scheduler: str, workers: int | None) -> Iterator[Client]:
    """Connect to a scheduler that has workers, or start processes on this machine."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigError("--scheduler needs dask.distributed", fix="pip install 'unetcli[dask]'") from error
    if scheduler == LOCAL:
        n = workers or available_cpus()
        with (
            LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            for k, worker in enumerate(client.nthreads()):
                client.run(_take_processors, k, n, workers=[worker])
            yield client
        return
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no scheduler of dask answers there",
            fix="start one (dask scheduler), or --scheduler local",
        ) from error
    with client:
        if not client.nthreads():
            raise InputError(f"--scheduler {scheduler}: has no workers", fix=f"start some: dask worker {scheduler}")
        yield client


def _take_processors(k: int, n: int) -> None:
    """Leave the processors of other processes to them: else each has as many threads as all together should."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[k % len(processors) :: n])
