"""What the figures were measured on, and how."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numba
import numpy as np
import torch

ROUNDS = 5


def describe() -> str:
    """Return processor, number of cores and versions."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    return (
        f"{models[0].partition(': ')[2]}, {len(os.sched_getaffinity(0))} cores, {device}; Python "
        f"{platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}, torch {torch.__version__}"
    )


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Time functions in turn, after one call each that is not counted; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def table(title: str, seconds: Mapping[str, float], megapixels: float) -> None:
    """Print times, rates, and ratios to the first entry."""
    first = next(iter(seconds.values()))
    print(f"\n{title}\n{'':46} {'ms':>9} {'MPx/s':>9} {'ratio':>7}")
    for name, value in seconds.items():
        print(f"{name:46} {1e3 * value:9.1f} {megapixels / value:9.1f} {value / first:7.2f}")


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
