"""The parts of a stage computed by workers of dask.distributed, any of which may be lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetcli.errors import ConfigError, DeviceError, InputError
from unetcli.image.parts import MAX_PARTS, Part
from unetcli.image.streaming import Progress, available_cpus

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster
    from distributed import Client, LocalCluster

PARTS_PER_WORKER = 4
"""So many, that workers of different speed end at about the same time."""
LOCAL, SLURM = "local", "slurm"
JOBS = 4
"""So many jobs are given to SLURM, if nobody says."""
JOB = {"job-cpu": 8, "memory": "16GB", "walltime": "02:00:00"}
"""What a job asks SLURM for, where the settings of dask (``jobqueue.slurm``) do not say."""


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
        Address of a scheduler, as ``tcp://host:8786``; the file that one wrote (``--scheduler-file``); ``local``:
        processes on this machine; or ``slurm``: jobs of their own.
    workers
        With ``local`` and ``slurm`` the number of processes or jobs, else of threads of each worker.
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
    if not begun["already_done"]:
        with _connected(scheduler, workers) as (client, slots):
            threads = {LOCAL: 1, SLURM: None}.get(scheduler, workers)
            _run_parts(client, call, begun["shards"], min(PARTS_PER_WORKER * slots, MAX_PARTS), threads, progress)
    return call(finish=True, workers=workers, progress=progress)


def _run_parts(
    client: Client, call: Callable[..., dict[str, Any]], total: int, n: int, workers: int | None, progress: Progress
) -> None:
    from distributed import KilledWorker, as_completed

    n = max(1, min(n, total))
    parts = [Part(k, n) for k in range(n)]
    with_threads = partial(call, workers=workers)  # of that name, `submit` takes the addresses that may compute it
    futures = {client.submit(with_threads, part=str(part), pure=False): part for part in parts}
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
def _connected(scheduler: str, workers: int | None) -> Iterator[tuple[Client, int]]:
    """Connect to a scheduler that has workers, or start some; say how many parts they take at a time."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("--scheduler needs dask.distributed", fix="pip install 'unetcli[dask]'") from error
    if scheduler in (LOCAL, SLURM):
        n = workers or (available_cpus() if scheduler == LOCAL else JOBS)
        with _on_this_machine(n) if scheduler == LOCAL else _in_jobs(n) as cluster, Client(cluster) as client:
            if scheduler == LOCAL:
                for k, worker in enumerate(client.nthreads()):
                    client.run(_take_processors, k, n, workers=[worker])
            yield client, n
        return
    given = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**given, timeout=20)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no scheduler of dask answers there",
            fix="start one (dask scheduler), or --scheduler local",
        ) from error
    with client:
        if not client.nthreads():
            raise InputError(f"--scheduler {scheduler}: has no workers", fix=f"start some: dask worker {scheduler}")
        yield client, sum(client.nthreads().values())


def _on_this_machine(n: int) -> LocalCluster:
    from distributed import LocalCluster

    return LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None)


def _in_jobs(n: int) -> SLURMCluster:
    """Give jobs to SLURM, each with one worker that does one part at a time, with all processors of the job."""
    try:
        from dask import config
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError("--scheduler slurm needs dask-jobqueue", fix="pip install 'unetcli[dask]'") from error
    asked = {name: config.get(f"jobqueue.slurm.{name}", None) or value for name, value in JOB.items()}
    job_cpu, memory, walltime = asked.values()
    options = {"scheduler_options": {"dashboard_address": None}, "worker_extra_args": ["--no-dashboard"]}
    try:
        cluster = SLURMCluster(
            cores=1, processes=1, job_cpu=job_cpu, memory=memory, walltime=walltime, python=sys.executable, **options
        )
        cluster.scale(jobs=n)
    except (OSError, RuntimeError) as error:
        raise InputError(f"--scheduler slurm: no job can be started ({error})", fix="is sbatch there?") from error
    return cluster


def _take_processors(k: int, n: int) -> None:
    """Leave the processors of other processes to them: else each has as many threads as all together should."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[k % len(processors) :: n])
