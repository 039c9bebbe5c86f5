"""Memory of a device or of the host: how much can be had, how much was taken, and how it is told that it is used up."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

CONTROL_GROUPS, PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self")
A_GREAT_MANY = 2**62


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory of the device, or of the host, is used up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error)
        for words in ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
    )


def peak_memory() -> int:
    """Return the most memory that this process has held, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rise_of_memory(function: Callable[[], object]) -> int:
    """Return by how many bytes the memory of this process rises, at most, while a function runs.

    Notes
    -----
    Linux keeps the peak, and forgets it when asked to. Elsewhere what was in use and given back before is missed.
    """
    before = _held("VmRSS") if _forget_peak() else peak_memory()
    function()
    return max(0, (_held("VmHWM") or peak_memory()) - before)


def _forget_peak() -> bool:
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _held(name: str) -> int:
    """Return what Linux says of the memory of this process, bytes; 0 elsewhere."""
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return 0
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def available_memory(device: torch.device) -> int:
    """Return the bytes of a device that are free; where the system does not tell, a great many."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        free = A_GREAT_MANY
    return min(free, _left_to_group())


def _left_to_group() -> int:
    """Return the bytes that the limits of a container or of a job on a cluster leave (cgroup v2)."""
    try:
        lines = (PROCESS / "cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        return A_GREAT_MANY
    within = [CONTROL_GROUPS / own, *(CONTROL_GROUPS / own).parents]
    return min(map(_left_to, within[: within.index(CONTROL_GROUPS) + 1]))


def _left_to(group: Path) -> int:
    try:
        limit, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such file; "max" is no number: no limit
        return A_GREAT_MANY
    return max(0, limit - taken)
