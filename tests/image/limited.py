"""`unetcli prep` on many files in one process of its own, watched: exit codes, time, memory, crashes."""

import json
import subprocess
import sys
from dataclasses import dataclass

SECONDS = 10
GIB = 2**30

CHILD = """
import faulthandler, json, resource, sys, time
from pathlib import Path
from unetcli.cli import main

seconds, address_space, out, *paths = sys.argv[1:]
if int(address_space):
    resource.setrlimit(resource.RLIMIT_AS, (int(address_space), int(address_space)))
for path in paths:
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    start = time.monotonic()
    code = main(["prep", path, "-o", out, "--overwrite", "--quiet", "--workers", "1"])
    print(json.dumps([path, code, time.monotonic() - start]), flush=True)
faulthandler.cancel_dump_traceback_later()
status = Path("/proc/self/status").read_text()  # what the kernel tells a parent of a child counts the parent too
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@dataclass
class Outcome:
    """What became of some files: the exit code of each, seconds, the peak of memory, and all that was said."""

    codes: dict
    seconds: dict
    peak: float
    stderr: str


def prep_each(paths, out, *, address_space=0):
    """Convert files one after another; fail with the name of the file at which the process hangs or crashes."""
    paths = [str(p) for p in paths]
    command = [sys.executable, "-c", CHILD, str(SECONDS), str(address_space), str(out), *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS * len(paths) + 60)
    *lines, last = result.stdout.splitlines() or [""]
    done = [json.loads(line) for line in lines] if result.returncode == 0 else []
    assert result.returncode == 0, f"at {paths[result.stdout.count(chr(10))]}: {result.stderr[-3000:]}"
    return Outcome({p: c for p, c, _ in done}, {p: s for p, _, s in done}, int(last) * 1024, result.stderr)
