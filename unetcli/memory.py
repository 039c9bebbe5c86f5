"""Memory of the host: how much can be had, and how much this process takes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

A_GREAT_MANY = 2**62
MEMORY, PROCESS = Path("/proc/meminfo"), Path("/proc/self")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Groups(NamedTuple):
    """A version of control groups.

    Parameters
    ----------
    mark
        What the line of a process holds before its group.
    root
        Where the groups are.
    limit, taken
        Files of a group: bytes that it may take, and that it holds.
    files
        In its ``memory.stat``: those of files, which are given up when memory is short.
    """

    mark: str
    root: Path
    limit: str
    taken: str
    files: str


VERSIONS = (
    Groups("0::", CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"),
    Groups(
        ":memory:",
        CONTROL_GROUPS / "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def available_memory() -> int:
    """Return the bytes that this process can still take; where the system does not tell, a great many.

    Notes
    -----
    The least of what the computer has free, with what it holds of files only to read them faster, and of what the
    limits of a container or of a job on a cluster leave.
    """
    return min([_available_to_all(), *(_left_to(group, version) for group, version in _groups())])


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
    before = _read(PROCESS / "status").get("VmRSS:", 0) * 1024 if _forget_peak() else peak_memory()
    function()
    return max(0, (_read(PROCESS / "status").get("VmHWM:", 0) * 1024 or peak_memory()) - before)


def _forget_peak() -> bool:
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _available_to_all() -> int:
    if available := _read(MEMORY).get("MemAvailable:"):
        return available * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return A_GREAT_MANY


def _groups() -> list[tuple[Path, Groups]]:
    """List the control groups of this process, from its own up."""
    try:
        lines = (PROCESS / "cgroup").read_text().splitlines()
    except OSError:
        return []
    owns = [(v.root / line.partition(v.mark)[2].lstrip("/"), v) for v in VERSIONS for line in lines if v.mark in line]
    return [(group, v) for own, v in owns for group in (own, *own.parents) if group.is_relative_to(v.root)]


def _left_to(group: Path, version: Groups) -> int:
    try:
        most, held = (int((group / name).read_text()) for name in (version.limit, version.taken))
    except (OSError, ValueError):  # no such file; "max" is no number: no limit
        return A_GREAT_MANY
    return max(0, most - held + _read(group / "memory.stat").get(version.files, 0))


def _read(path: Path) -> dict[str, int]:
    """Read lines of a name and a number; none where there is no such file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
