"""What the figures were measured on, and how."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numba
import numpy as np
import torch

ROUNDS = 5
LEAST_SECONDS = 0.2
"""What is faster is called again in each round."""


def describe() -> str:
    """Return processor, number of cores and versions."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    return (
        f"{models[0].partition(': ')[2]}, {len(os.sched_getaffinity(0))} cores, {device}; Python "
        f"{platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}, torch {torch.__version__}"
    )


@dataclass(frozen=True)
class Timing:
    """Median time of a call.

    Parameters
    ----------
    wall
        Seconds that pass.
    cpu
        Seconds of all threads of this process together: other programs disturb it little.
    is_estimate
        Whether it was extrapolated from a part of the work.
    """

    wall: float
    cpu: float
    is_estimate: bool = False

    def times(self, factor: float) -> Timing:
        """Extrapolate to so many times the work."""
        return Timing(self.wall * factor, self.cpu * factor, is_estimate=True)


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time functions in turn, after one round that is not counted; return the medians of each."""
    found: dict[str, list[Timing]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            timing = _time(function)
            if round_:
                found[name].append(timing)
    return {name: _median(timings) for name, timings in found.items()}


def _time(function: Callable[[], object]) -> Timing:
    """Time a call; a short one is repeated, so that it does not pay for caches that the one before has filled."""
    calls: list[Timing] = []
    while sum(t.wall for t in calls) < LEAST_SECONDS:
        start, cpu_start = time.perf_counter(), time.process_time()
        function()
        calls.append(Timing(time.perf_counter() - start, time.process_time() - cpu_start))
    return _median(calls)


def _median(timings: Sequence[Timing]) -> Timing:
    return Timing(statistics.median(t.wall for t in timings), statistics.median(t.cpu for t in timings))


def table(title: str, timings: Mapping[str, Timing], megapixels: float) -> None:
    """Print times, rates, ratios to the first entry, and CPU times; what is extrapolated is marked by ~."""
    first = next(iter(timings.values()))
    print(f"\n{title}\n{'':56} {'ms':>12} {'MPx/s':>9} {'ratio':>9} {'CPU ms':>12} {'ratio':>9}")
    for name, timing in timings.items():
        mark = "~" if timing.is_estimate else ""
        print(
            f"{name:56} {mark + f'{1e3 * timing.wall:,.1f}':>12} {megapixels / timing.wall:9.1f} "
            f"{mark + f'{timing.wall / first.wall:,.2f}':>9} {mark + f'{1e3 * timing.cpu:,.1f}':>12} "
            f"{mark + f'{timing.cpu / first.cpu:,.2f}':>9}",
            flush=True,
        )


def named(package: str) -> str:
    """Return the name of a package with its version, or that it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package}: not installed"


MEASURED = """
import sys
from pathlib import Path
from unetcli.cli import main
code = main([*sys.argv[1:], "--quiet"])
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""
"""A command that prints the peak of its own resident memory, KiB: what the kernel tells a parent of its children
starts from the parent's own."""


def peak_memory(arguments: list[str]) -> tuple[float, float]:
    """Run ``unetcli`` with arguments; return seconds and the peak of its resident memory, MiB."""
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, *arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, int(result.stdout) / 1024
